//! A bell: wakes a thread that waits for descriptors, not for a channel.
//!
//! A path thread with child processes sleeps in poll(2) on their sockets. Whoever sends it
//! something over a channel rings; the descriptor is written to only while it sleeps, so a busy
//! thread costs its senders one atomic load.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendError, SendTimeoutError, Sender, TrySendError, bounded};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// Wakes one thread; clones ring the same bell.
#[derive(Debug, Clone)]
pub struct Bell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    descriptor: OwnedFd,
    /// The thread sleeps, or is about to: whoever has something for it must ring.
    armed: AtomicBool,
}

/// There is no bell to be had.
#[derive(Debug, thiserror::Error)]
#[error("eventfd: {0}: this process has too many open files")]
pub struct NoBell(Errno);

impl Bell {
    /// A new bell.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn new() -> Result<Self, NoBell> {
        let descriptor =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(NoBell)?;
        Ok(Self(Arc::new(Inner {
            descriptor,
            armed: AtomicBool::new(false),
        })))
    }

    /// A bounded channel whose sender rings.
    pub fn channel<T>(&self, capacity: usize) -> (BellSender<T>, Receiver<T>) {
        let (tx, rx) = bounded(capacity);
        let bell = self.clone();
        (BellSender { tx, bell }, rx)
    }

    /// Wakes the thread if it sleeps.
    pub fn ring(&self) {
        // Pairs with `arm`: either the sleeper sees what was sent before this, or this sees it armed.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.0.armed.load(Ordering::Relaxed) {
            // Full means it has been rung already.
            let rung = rustix::io::write(&self.0.descriptor, &1_u64.to_ne_bytes());
            debug_assert!(matches!(rung, Ok(8) | Err(Errno::AGAIN)), "{rung:?}");
        }
    }

    /// Said before the thread looks a last time at its channels and sleeps.
    pub fn arm(&self) {
        self.0.armed.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Said when the thread is awake; forgets every ring.
    pub fn disarm(&self) {
        self.0.armed.store(false, Ordering::Relaxed);
        let mut count = [0_u8; 8];
        let read = rustix::io::read(&self.0.descriptor, &mut count);
        debug_assert!(matches!(read, Ok(8) | Err(Errno::AGAIN)), "{read:?}");
    }

    /// To be polled for reading.
    pub fn descriptor(&self) -> RawFd {
        self.0.descriptor.as_raw_fd()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.descriptor.as_fd()
    }
}

/// The sending end of a channel to a thread with a bell. Rings when something was sent and when the
/// last sender may have gone.
#[derive(Debug)]
pub struct BellSender<T> {
    tx: Sender<T>,
    bell: Bell,
}

impl<T> BellSender<T> {
    /// Sends, waiting for room.
    ///
    /// # Errors
    /// When nobody receives any more.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        // A full channel's owner may sleep only if it does not want what is in it; room is made when
        // it wakes by itself.
        let sent = self.tx.send(item);
        self.bell.ring();
        sent
    }

    /// Sends, waiting for room no longer than this.
    ///
    /// # Errors
    /// When there was none, or nobody receives any more.
    pub fn send_timeout(&self, item: T, limit: Duration) -> Result<(), SendTimeoutError<T>> {
        let sent = self.tx.send_timeout(item, limit);
        // Nothing was sent: a sleeper that does not want what waits already is left alone.
        if sent.is_ok() {
            self.bell.ring();
        }
        sent
    }

    /// Sends if there is room.
    ///
    /// # Errors
    /// When there is none, or nobody receives any more.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let sent = self.tx.try_send(item);
        if sent.is_ok() {
            self.bell.ring();
        }
        sent
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.tx.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.tx.is_empty()
    }
}

impl<T> Clone for BellSender<T> {
    fn clone(&self) -> Self {
        Self {
            tx: self.tx.clone(),
            bell: self.bell.clone(),
        }
    }
}

impl<T> Drop for BellSender<T> {
    fn drop(&mut self) {
        // The channel closes after this: make the sender go first.
        let (closed, _) = bounded(0);
        drop(std::mem::replace(&mut self.tx, closed));
        self.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn rung(bell: &Bell) -> bool {
        let mut items = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut items, Some(&rustix::time::Timespec::default())).unwrap() == 1
    }

    #[test]
    fn a_bell_rings_only_for_a_sleeper_and_once() {
        let bell = Bell::new().unwrap();
        let (tx, rx) = bell.channel(4);
        tx.send(1).unwrap();
        assert!(!rung(&bell), "nobody sleeps");
        bell.arm();
        tx.send(2).unwrap();
        tx.try_send(3).unwrap();
        assert!(rung(&bell));
        bell.disarm();
        assert!(!rung(&bell));
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_bell_rings_when_the_last_sender_goes_and_the_channel_is_closed_by_then() {
        let bell = Bell::new().unwrap();
        let (tx, rx) = bell.channel::<u8>(1);
        bell.arm();
        drop(tx);
        assert!(rung(&bell));
        assert_eq!(
            rx.try_recv(),
            Err(crossbeam_channel::TryRecvError::Disconnected)
        );
    }

    #[test]
    fn no_message_is_slept_over() {
        let bell = Bell::new().unwrap();
        let (tx, rx) = bell.channel(1);
        let count = 20_000;
        let sender = std::thread::spawn(move || {
            for n in 0..count {
                tx.send(n).unwrap();
            }
        });
        let mut next = 0;
        while next < count {
            if let Ok(n) = rx.try_recv() {
                assert_eq!(n, next);
                next += 1;
                continue;
            }
            bell.arm();
            if rx.is_empty() {
                let mut items = [PollFd::new(&bell, PollFlags::IN)];
                let limit = rustix::time::Timespec {
                    tv_sec: 20,
                    tv_nsec: 0,
                };
                assert_eq!(poll(&mut items, Some(&limit)), Ok(1), "slept over {next}");
            }
            bell.disarm();
        }
        sender.join().unwrap();
    }
}
