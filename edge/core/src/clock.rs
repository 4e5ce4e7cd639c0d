//! Monotonic time, injected so that tests need not sleep.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

/// A monotonic clock. Its zero is arbitrary; only differences mean something.
pub trait Clock: Send + Sync {
    /// Nanoseconds since this clock's zero.
    fn now_ns(&self) -> i64;
}

/// The machine's monotonic clock, counted from the moment this value was made.
#[derive(Debug)]
pub struct MonotonicClock {
    zero: Instant,
}

impl MonotonicClock {
    /// A clock whose zero is now.
    pub fn new() -> Self {
        Self {
            zero: Instant::now(),
        }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now_ns(&self) -> i64 {
        // 2^63 ns are 292 years: saturating is unreachable, not a policy.
        i64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ns: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `now_ns`.
    pub fn at(now_ns: i64) -> Self {
        Self {
            now_ns: AtomicI64::new(now_ns),
        }
    }

    /// Moves the clock forward by `by_ns`.
    pub fn advance(&self, by_ns: i64) {
        self.now_ns.fetch_add(by_ns, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> i64 {
        self.now_ns.load(Ordering::SeqCst)
    }
}
