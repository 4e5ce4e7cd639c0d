//! The flow limiter: the one place where analysis may drop frames.
//!
//! Every frame of a source is *offered* to every extractor's limiter. It is *skipped* (the rate
//! limit says no), or *admitted*; an admitted frame leaves exactly one outcome. At most one frame
//! is in flight per worker, `queue` more wait here, and what happens when they are full is
//! [`DropPolicy`].
//!
//! Pure: no clock, no thread. Generic over what waits, so that the property tests need no pixels.

use heapless::Deque;

/// The longest queue a limiter can have.
pub const MAX_QUEUE: usize = 16;

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

/// Keeps a rate on a grid of source time, so that it does not drift: 12, 20 or 25 of 30 frames
/// per second come out as 12, 20 and 25.
#[derive(Debug, Clone)]
pub struct RateGate {
    interval_ns: i64,
    /// A frame this much before its grid point still takes it: time stamps are rounded and jitter.
    tolerance_ns: i64,
    due_ns: Option<i64>,
}

impl RateGate {
    /// At most `fps` frames per second of source time. `None` if `fps` is not a positive number.
    pub fn new(fps: f64) -> Option<Self> {
        if !(fps.is_finite() && fps > 0.0) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "saturates; at least 1 ns")]
        let interval_ns = ((1e9 / fps).round() as i64).max(1);
        Some(Self { interval_ns, tolerance_ns: interval_ns / 4, due_ns: None })
    }

    /// Whether the frame at `t_ns` is wanted.
    pub fn admits(&mut self, t_ns: i64) -> bool {
        let due = match self.due_ns {
            None => t_ns,
            // Time went back (it must not): start a new grid rather than starve.
            Some(due) if t_ns < due - 2 * self.interval_ns => t_ns,
            Some(due) => due,
        };
        if t_ns < due - self.tolerance_ns {
            self.due_ns = Some(due);
            return false;
        }
        // The next grid point after this frame; after a hole in the stream the missed ones are
        // not made up for.
        let behind = (t_ns - due + self.tolerance_ns).max(0) / self.interval_ns;
        self.due_ns = Some(due + (behind + 1) * self.interval_ns);
        true
    }
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
        Self { rate, policy, queue: queue.min(MAX_QUEUE), waiting: Deque::new(), in_flight: false }
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

    fn kept(source_fps: f64, want_fps: f64, seconds: f64, round_to_ns: i64) -> usize {
        let mut gate = RateGate::new(want_fps).unwrap();
        let frames = (source_fps * seconds) as usize;
        (0..frames)
            .filter(|i| {
                let t = (*i as f64 * 1e9 / source_fps) as i64;
                gate.admits(t / round_to_ns * round_to_ns)
            })
            .count()
    }

    #[test]
    fn a_rate_limit_does_not_drift() {
        for (want, source) in [(12.0, 30.0), (20.0, 30.0), (25.0, 30.0), (10.0, 29.97), (7.5, 60.0)] {
            for round_to_ns in [1, 1_000_000] {
                let n = kept(source, want, 60.0, round_to_ns);
                let expected = (want * 60.0) as i64;
                assert!((n as i64 - expected).abs() <= 1, "{want} of {source}: {n} not {expected}");
            }
        }
    }

    #[test]
    fn a_limit_at_or_above_the_source_rate_keeps_every_frame() {
        assert_eq!(kept(30.0, 30.0, 60.0, 1_000_000), 1800, "rounded to milliseconds");
        assert_eq!(kept(29.97, 30.0, 60.0, 1), 1798);
        assert_eq!(kept(10.0, 30.0, 60.0, 1), 600);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_never_starved(
            steps in proptest::collection::vec(1_i64..200_000_000, 10..400),
            fps in 1.0_f64..60.0,
        ) {
            let mut gate = RateGate::new(fps).unwrap();
            let interval = 1e9 / fps;
            let (mut t, mut taken, mut since_last) = (0_i64, 0_usize, 0_i64);
            for step in steps {
                t += step;
                since_last += step;
                if gate.admits(t) {
                    taken += 1;
                    since_last = 0;
                }
                prop_assert!(taken as f64 <= t as f64 / interval + 2.0);
                prop_assert!((since_last as f64) < 2.0 * interval + 1.0, "starved for {since_last} ns");
            }
        }

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
