//! A lock that serves in the order of asking.
//!
//! A `std` mutex may be taken again by the thread that just let it go, for as long as it likes: a
//! source that infers back to back would starve the others. Here everybody draws a number, and
//! who holds the lowest is next, so with N users nobody waits for more than N − 1 others.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A `T` that one thread at a time may use, first come, first served.
#[derive(Debug, Default)]
pub(crate) struct TurnLock<T> {
    turns: Mutex<Turns>,
    advanced: Condvar,
    value: Mutex<T>,
}

#[derive(Debug, Default)]
struct Turns {
    /// The next number to be drawn.
    next: u64,
    /// The number that is served now.
    serving: u64,
}

impl<T> TurnLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            turns: Mutex::default(),
            advanced: Condvar::new(),
            value: Mutex::new(value),
        }
    }

    /// Waits for the caller's turn and runs `work`. A panic in `work` passes the turn on; what it
    /// left of the value is the next one's to use.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        self.draw_and_wait();
        // Dropped after the value's guard, so the next one finds the value free.
        let _pass_on = PassOn(self);
        work(&mut locked(&self.value))
    }

    fn draw_and_wait(&self) {
        let mut turns = locked(&self.turns);
        let mine = turns.next;
        turns.next = turns.next.wrapping_add(1);
        while turns.serving != mine {
            turns = self
                .advanced
                .wait(turns)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many are waiting or being served.
    #[cfg(test)]
    fn queued(&self) -> u64 {
        let turns = locked(&self.turns);
        turns.next.wrapping_sub(turns.serving)
    }
}

struct PassOn<'a, T>(&'a TurnLock<T>);

impl<T> Drop for PassOn<'_, T> {
    fn drop(&mut self) {
        let mut turns = locked(&self.0.turns);
        turns.serving = turns.serving.wrapping_add(1);
        // All are woken, because the one whose turn it is can't be picked out; they are as few as
        // there are sources.
        self.0.advanced.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    #[test]
    fn all_are_served_in_the_order_they_asked() {
        const USERS: u64 = 8;
        let lock = TurnLock::new(Vec::new());
        thread::scope(|scope| {
            lock.with(|_| {
                for user in 0..USERS {
                    let lock = &lock;
                    scope.spawn(move || lock.with(|served| served.push(user)));
                    while lock.queued() < user + 2 {
                        thread::yield_now();
                    }
                }
            });
        });
        lock.with(|served| assert_eq!(*served, (0..USERS).collect::<Vec<_>>()));
    }

    #[test]
    fn who_asks_again_at_once_comes_after_those_who_wait() {
        let lock = TurnLock::new(Vec::new());
        thread::scope(|scope| {
            lock.with(|_| {
                scope.spawn(|| lock.with(|served| served.push("patient")));
                while lock.queued() < 2 {
                    thread::yield_now();
                }
            });
            lock.with(|served| served.push("greedy"));
        });
        lock.with(|served| assert_eq!(*served, ["patient", "greedy"]));
    }

    #[test]
    fn a_panic_passes_the_turn_on() {
        let lock = TurnLock::new(0);
        for _ in 0..3 {
            let thrown = catch_unwind(AssertUnwindSafe(|| {
                lock.with(|value| {
                    *value += 1;
                    panic!("in the middle");
                })
            }));
            assert!(thrown.is_err());
        }
        assert_eq!(lock.with(|value| *value), 3);
    }

    #[test]
    fn no_two_are_served_at_once() {
        let lock = TurnLock::new(0u64);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        lock.with(|value| {
                            let before = *value;
                            thread::yield_now();
                            *value = before + 1;
                        });
                    }
                });
            }
        });
        assert_eq!(lock.with(|value| *value), 2000);
    }
}
