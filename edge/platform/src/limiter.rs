//! The flow limiter: the one place where analysis may drop frames.
//!
//! Every frame of a source is *offered* to every extractor's limiter. It is *skipped* (gate or
//! rate say no), or *admitted*; an admitted frame leaves exactly one outcome. At most one frame is
//! in flight per worker, `queue` more wait here, and what happens when they are full is
//! [`DropPolicy`].
//!
//! Pure: no clock, no thread. Generic over what waits, so that the property tests need no pixels.

use heapless::Deque;
use visualpath_core::RateGate;

/// The longest queue a limiter can have.
pub const MAX_QUEUE: usize = 64;

/// Which frame goes when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropPolicy {
    /// The oldest waiting frame: newest wins.
    Oldest,
    /// All that wait but the first: the first and the newest stay. With a queue of one, the first
    /// stays and the new one goes.
    Intermediate,
    /// The new frame, but for every nth that comes while the queue is full: that one takes the
    /// oldest's place. Thins an overload out evenly instead of keeping its end.
    EveryNth(u32),
    /// None: the reader waits. Only for sources that can wait (files).
    None,
}

/// What became of an admitted frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Admitted<F> {
    /// Give it to the worker now.
    Dispatch(F),
    /// It waits, or it (or others in its place) went: those are in the caller's list.
    Taken,
    /// The policy forbids dropping and there is no room. The caller asks [`FlowLimiter::room`]
    /// before it takes a frame, so this means it did not.
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
    /// Frames that came to a full queue since it last had room.
    surplus: u32,
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
            surplus: 0,
        }
    }

    /// The drop policy.
    pub fn policy(&self) -> DropPolicy {
        self.policy
    }

    /// Frames that could be admitted now without displacing another.
    pub fn room(&self) -> usize {
        usize::from(!self.in_flight) + self.queue.saturating_sub(self.waiting.len())
    }

    /// Frames waiting.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the rate limit wants the frame at `t_ns`. Ask once per frame: a yes uses the turn.
    pub fn wants(&mut self, t_ns: i64) -> bool {
        self.rate.as_mut().is_none_or(|rate| rate.admits(t_ns))
    }

    /// Admits a frame. What goes for it, be it itself, is pushed on `dropped`, oldest first.
    pub fn admit(&mut self, frame: F, dropped: &mut Vec<F>) -> Admitted<F> {
        if !self.in_flight {
            self.in_flight = true;
            return Admitted::Dispatch(frame);
        }
        if self.waiting.len() < self.queue {
            self.surplus = 0;
        } else {
            match self.policy {
                DropPolicy::None => return Admitted::Full(frame),
                DropPolicy::Oldest => dropped.extend(self.waiting.pop_front()),
                DropPolicy::Intermediate if self.queue > 1 => {
                    if let Some(first) = self.waiting.pop_front() {
                        while let Some(between) = self.waiting.pop_front() {
                            dropped.push(between);
                        }
                        dropped.extend(self.waiting.push_front(first).err());
                    }
                }
                DropPolicy::Intermediate => {}
                DropPolicy::EveryNth(n) => {
                    self.surplus += 1;
                    if self.surplus >= n.max(1) {
                        self.surplus = 0;
                        dropped.extend(self.waiting.pop_front());
                    }
                }
            }
        }
        // Still no room (or no queue at all): the worker's frame can't be recalled, the new one
        // goes.
        if self.waiting.len() < self.queue {
            dropped.extend(self.waiting.push_back(frame).err());
        } else {
            dropped.push(frame);
        }
        Admitted::Taken
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

    /// The policies in plain code: `waiting` after a frame came to a full queue, and what went.
    fn model(policy: DropPolicy, waiting: &[u32], new: u32, surplus: u32) -> (Vec<u32>, Vec<u32>) {
        let mut all = waiting.to_vec();
        match policy {
            DropPolicy::Oldest if waiting.is_empty() => (all, vec![new]),
            DropPolicy::Oldest => {
                let old = all.remove(0);
                all.push(new);
                (all, vec![old])
            }
            DropPolicy::Intermediate if waiting.len() > 1 => {
                (vec![waiting[0], new], waiting[1..].to_vec())
            }
            DropPolicy::EveryNth(n) if surplus.is_multiple_of(n) && !waiting.is_empty() => {
                let old = all.remove(0);
                all.push(new);
                (all, vec![old])
            }
            _ => (all, vec![new]),
        }
    }

    proptest! {
        #[test]
        fn every_admitted_frame_leaves_once_in_order_as_its_policy_says(
            events in proptest::collection::vec(any::<bool>(), 1..300),
            queue in 0_usize..6,
            policy in prop_oneof![
                Just(DropPolicy::Oldest),
                Just(DropPolicy::Intermediate),
                (2_u32..5).prop_map(DropPolicy::EveryNth),
                Just(DropPolicy::None),
            ],
        ) {
            let mut limiter = FlowLimiter::new(None, policy, queue);
            let (mut flying, mut waiting, mut surplus) = (None::<u32>, Vec::<u32>::new(), 0);
            let mut dropped = Vec::new();
            for (id, offer) in (0_u32..).zip(events) {
                let free = usize::from(flying.is_none()) + queue - waiting.len();
                prop_assert_eq!(limiter.room(), free);
                if offer {
                    dropped.clear();
                    let admitted = limiter.admit(id, &mut dropped);
                    if flying.is_none() {
                        prop_assert_eq!(admitted, Admitted::Dispatch(id));
                        flying = Some(id);
                    } else if waiting.len() < queue {
                        prop_assert_eq!(admitted, Admitted::Taken);
                        waiting.push(id);
                        surplus = 0;
                    } else if policy == DropPolicy::None {
                        prop_assert_eq!(admitted, Admitted::Full(id));
                    } else {
                        surplus += 1;
                        let (left, gone) = model(policy, &waiting, id, surplus);
                        prop_assert_eq!(admitted, Admitted::Taken);
                        prop_assert_eq!(&dropped, &gone);
                        waiting = left;
                        continue;
                    }
                    prop_assert!(dropped.is_empty());
                } else if flying.is_some() {
                    flying = (!waiting.is_empty()).then(|| waiting.remove(0));
                    prop_assert_eq!(limiter.completed(), flying);
                }
                prop_assert_eq!(limiter.waiting(), waiting.len());
            }
        }
    }
}
