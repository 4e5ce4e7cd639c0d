//! The flow limiter: the one place where analysis may drop frames.
//!
//! Every frame of a source is *offered* to every extractor's limiter. It is *skipped* (the rate
//! limit says no), or *admitted*; an admitted frame leaves exactly one outcome. At most one frame
//! is in flight per worker, `queue` more wait here, and what happens when they are full is
//! [`DropPolicy`].
//!
//! Pure: no clock, no thread. Generic over what waits, so that the property tests need no pixels.

use heapless::Deque;
use visualpath_core::RateGate;

/// The longest queue a limiter can have.
pub const MAX_QUEUE: usize = 64;

/// What happens to a new frame when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropPolicy {
    /// The oldest waiting frame is dropped: newest wins.
    Oldest,
    /// Nothing is dropped: the reader waits. Only for sources that can wait (files).
    None,
}

/// What became of an offered frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<F> {
    /// Not wanted at this rate: no outcome.
    Skipped,
    /// Admitted; give it to the worker now.
    Dispatch(F),
    /// Admitted; it waits.
    Queued,
    /// Admitted and waiting; this older one was dropped for it and needs its outcome.
    QueuedDropping(F),
    /// Not admitted: the policy forbids dropping and there is no room. The caller asks
    /// [`FlowLimiter::has_room`] before it takes a frame, so this means it did not.
    Full(F),
}

/// Rate limit and waiting frames of one extractor.
#[derive(Debug)]
pub struct FlowLimiter<F> {
    rate: Option<RateGate>,
    policy: DropPolicy,
    queue: usize,
    waiting: Deque<F, MAX_QUEUE>,
    in_flight: bool,
}

impl<F> FlowLimiter<F> {
    /// `queue` frames may wait beside the one in flight, at most [`MAX_QUEUE`].
    pub fn new(rate: Option<RateGate>, policy: DropPolicy, queue: usize) -> Self {
        Self {
            rate,
            policy,
            queue: queue.min(MAX_QUEUE),
            waiting: Deque::new(),
            in_flight: false,
        }
    }

    /// The drop policy.
    pub fn policy(&self) -> DropPolicy {
        self.policy
    }

    /// Whether a frame admitted now would not have to displace another.
    pub fn has_room(&self) -> bool {
        !self.in_flight || self.waiting.len() < self.queue
    }

    /// Whether the rate limit wants the frame at `t_ns`; for a worker on Hold, which gets none.
    pub fn wants(&mut self, t_ns: i64) -> bool {
        self.rate.as_mut().is_none_or(|rate| rate.admits(t_ns))
    }

    /// Offers the frame of time `t_ns`; `frame` is called only if it is admitted, so a skipped
    /// frame costs no lease.
    pub fn offer(&mut self, t_ns: i64, frame: impl FnOnce() -> F) -> Offer<F> {
        if !self.wants(t_ns) {
            return Offer::Skipped;
        }
        let frame = frame();
        if !self.in_flight {
            self.in_flight = true;
            return Offer::Dispatch(frame);
        }
        if self.waiting.len() < self.queue {
            return match self.waiting.push_back(frame) {
                Ok(()) => Offer::Queued,
                Err(frame) => Offer::Full(frame),
            };
        }
        match self.policy {
            DropPolicy::None => Offer::Full(frame),
            // With no queue at all the worker's frame can't be recalled: the new one goes.
            DropPolicy::Oldest => match self.waiting.pop_front() {
                None => Offer::QueuedDropping(frame),
                Some(oldest) => match self.waiting.push_back(frame) {
                    Ok(()) => Offer::QueuedDropping(oldest),
                    Err(frame) => Offer::QueuedDropping(frame),
                },
            },
        }
    }

    /// The worker is free again: the next frame for it, which is then in flight.
    pub fn completed(&mut self) -> Option<F> {
        let next = self.waiting.pop_front();
        self.in_flight = next.is_some();
        next
    }

    /// Takes back a waiting frame, oldest first: the pipeline stops or the worker is held.
    pub fn take_waiting(&mut self) -> Option<F> {
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn admitted_frames_leave_once_in_order(
            events in proptest::collection::vec(any::<bool>(), 1..300),
            queue in 0_usize..5,
            lossless in any::<bool>(),
        ) {
            let policy = if lossless { DropPolicy::None } else { DropPolicy::Oldest };
            let mut limiter = FlowLimiter::new(None, policy, queue);
            // Plain model: what is in flight, what waits.
            let (mut flying, mut waiting) = (None, std::collections::VecDeque::new());
            for (id, offer) in events.into_iter().enumerate() {
                if offer {
                    if policy == DropPolicy::None && !limiter.has_room() {
                        continue;
                    }
                    match limiter.offer(0, || id) {
                        Offer::Dispatch(f) => {
                            prop_assert_eq!((f, flying), (id, None));
                            flying = Some(f);
                        }
                        Offer::Queued => {
                            prop_assert!(flying.is_some() && waiting.len() < queue);
                            waiting.push_back(id);
                        }
                        Offer::QueuedDropping(old) => {
                            prop_assert_eq!(policy, DropPolicy::Oldest);
                            waiting.push_back(id);
                            prop_assert_eq!(waiting.pop_front(), Some(old), "newest wins");
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                } else if flying.is_some() {
                    flying = waiting.pop_front();
                    prop_assert_eq!(limiter.completed(), flying);
                }
                prop_assert!(waiting.len() <= queue);
            }
        }
    }
}
