//! Frames that wait for other extractors' answers before they are offered to a dependent one.
//!
//! A dependent is offered a frame only after every extractor it `depends` on observed it. If one
//! skipped the frame the dependent skips it, if one failed on it (or it was dropped there, or timed
//! out) the dependent drops it. On a file a `gate` waits likewise for the extractors it reads, so
//! that what it decides does not depend on who was faster, but takes whatever they said; live it
//! does not wait.
//!
//! Frames are decided in their order, whatever order the answers come in: a rate limit or a tracker
//! must not see time run backwards. A frame that will be offered never waits for an earlier one
//! (every extractor answers in order, so whoever observed this one is done with those before), and
//! the others give their lease back as soon as that is known. So waiting for `depends` costs no
//! slot: whoever still owes an outcome holds the frame anyway.
//!
//! Pure. Generic over the frame, so that the property tests need no pixels.

use std::collections::VecDeque;
use std::sync::Arc;

use visualpath_core::Held;

/// Most extractors one extractor may depend on.
pub const MAX_DEPENDS: usize = 8;

/// The answers a dependent gets, in the order of its `depends`.
pub type Deps = heapless::Vec<Arc<Held>, MAX_DEPENDS>;

/// How another extractor was done with a frame.
#[derive(Debug, Clone, Copy)]
pub enum Resolved<'a> {
    /// It was never admitted there.
    Skipped,
    /// It observed the frame.
    Observed(&'a Arc<Held>),
    /// Failed, timed out or dropped.
    Lost,
}

/// What follows for the dependent.
#[derive(Debug, PartialEq)]
pub enum Verdict<F> {
    /// Offer it the frame, with these.
    Offer(F, Deps),
    /// It skips the frame.
    Skip,
    /// It drops the frame.
    Drop,
}

/// A frame everybody has been asked about.
#[derive(Debug, PartialEq)]
pub struct Decided<F> {
    /// The frame.
    pub frame_id: u64,
    /// Its source time.
    pub t_ns: i64,
    /// What follows.
    pub verdict: Verdict<F>,
}

#[derive(Debug)]
struct Waiting<F> {
    /// `None` once it is known that it will not be offered.
    frame: Option<F>,
    frame_id: u64,
    t_ns: i64,
    missing: u64,
    skipped: bool,
    deps: heapless::Vec<Option<Arc<Held>>, MAX_DEPENDS>,
}

/// Frames that wait on behalf of one dependent.
#[derive(Debug)]
pub struct Dependencies<F> {
    /// In the order of `depends`.
    depends: heapless::Vec<usize, MAX_DEPENDS>,
    /// Everybody waited for, as bits: `depends` and the readings of the gate.
    needs: u64,
    waiting: VecDeque<Waiting<F>>,
}

impl<F> Dependencies<F> {
    /// For a lane that depends on the lanes `depends`, at most [`MAX_DEPENDS`] (more are ignored:
    /// the config check refuses them), and whose gate reads `gate`.
    pub fn new(depends: &[usize], gate: &[usize]) -> Self {
        let depends: heapless::Vec<usize, MAX_DEPENDS> =
            depends.iter().copied().take(MAX_DEPENDS).collect();
        let needs = depends.iter().chain(gate).fold(0, |m, i| m | 1_u64 << i);
        Self {
            depends,
            needs,
            waiting: VecDeque::new(),
        }
    }

    /// Whom it waits for, as bits.
    pub fn needs(&self) -> u64 {
        self.needs
    }

    /// Frames not decided yet.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A new frame, before anybody else is offered it.
    pub fn push(&mut self, frame_id: u64, t_ns: i64, frame: F) {
        let mut deps = heapless::Vec::new();
        deps.resize_default(self.depends.len())
            .unwrap_or_else(|_| debug_assert!(false, "depends fits by its type"));
        self.waiting.push_back(Waiting {
            frame: Some(frame),
            frame_id,
            t_ns,
            missing: self.needs,
            skipped: false,
            deps,
        });
    }

    /// Gives up every frame that waits: the dependent goes away.
    pub fn take_all(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.drain(..).map(|w| w.frame_id)
    }

    /// Lane `by` is done with the frame. Then ask [`Dependencies::decided`] until it has none.
    pub fn resolve(&mut self, frame_id: u64, by: usize, how: Resolved<'_>) {
        let at = self.waiting.partition_point(|w| w.frame_id < frame_id);
        let Some(entry) = self.waiting.get_mut(at).filter(|w| w.frame_id == frame_id) else {
            return;
        };
        entry.missing &= !(1_u64 << by);
        let Some(nth) = self.depends.iter().position(|d| *d == by) else {
            return;
        };
        match how {
            Resolved::Observed(held) => entry.deps[nth] = Some(Arc::clone(held)),
            Resolved::Skipped => {
                entry.skipped = true;
                entry.frame = None;
            }
            Resolved::Lost => entry.frame = None,
        }
    }

    /// The oldest waiting frame, if everybody has been asked about it.
    pub fn decided(&mut self) -> Option<Decided<F>> {
        if self.waiting.front()?.missing != 0 {
            return None;
        }
        let entry = self.waiting.pop_front()?;
        let verdict = match entry.frame {
            _ if entry.skipped => Verdict::Skip,
            None => Verdict::Drop,
            Some(frame) => Verdict::Offer(frame, entry.deps.into_iter().flatten().collect()),
        };
        Some(Decided {
            frame_id: entry.frame_id,
            t_ns: entry.t_ns,
            verdict,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use visualpath_core::Signals;

    use super::*;

    fn held(frame_id: u64, by: usize) -> Arc<Held> {
        Arc::new(Held {
            frame_id,
            t_ns: by as i64,
            observations: vec![],
            signals: Signals::new(),
            timing_ns: 0,
        })
    }

    proptest! {
        /// Whatever order the answers come in: one verdict per frame, in frame order, with the
        /// answers of that very frame in the order of `depends`, and none before the last came.
        #[test]
        fn one_verdict_per_frame_in_order_when_the_last_answer_came(
            frames in 1_u64..6,
            depends in proptest::sample::subsequence(vec![5_usize, 1, 3], 1..=3),
            gate in proptest::sample::subsequence(vec![2_usize, 3, 7], 0..=3),
            hows in proptest::collection::vec(0_u8..4, 64),
            order in any::<u64>(),
        ) {
            let mut table = Dependencies::new(&depends, &gate);
            let mut all: Vec<(u64, usize)> = Vec::new();
            for frame in 0..frames {
                table.push(frame, frame as i64, frame);
                let mut lanes: Vec<usize> = depends.iter().chain(&gate).copied().collect();
                lanes.sort_unstable();
                lanes.dedup();
                all.extend(lanes.into_iter().map(|l| (frame, l)));
            }
            let how = |frame: u64, lane: usize| hows[(frame as usize * 8 + lane) % 64];
            let (mut seed, mut next) = (order, 0);
            while !all.is_empty() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (frame, lane) = all.swap_remove((seed >> 33) as usize % all.len());
                let mine = held(frame, lane);
                let resolved = match how(frame, lane) {
                    0 => Resolved::Skipped,
                    1 => Resolved::Lost,
                    _ => Resolved::Observed(&mine),
                };
                table.resolve(frame, lane, resolved);
                // Said twice is no harm.
                table.resolve(frame, lane, resolved);
                while let Some(decided) = table.decided() {
                    prop_assert_eq!(decided.frame_id, next);
                    prop_assert!(!all.iter().any(|(f, _)| *f <= next), "all have answered");
                    let want = if depends.iter().any(|d| how(next, *d) == 0) {
                        Verdict::Skip
                    } else if depends.iter().any(|d| how(next, *d) == 1) {
                        Verdict::Drop
                    } else {
                        Verdict::Offer(next, depends.iter().map(|d| held(next, *d)).collect())
                    };
                    prop_assert_eq!(decided.verdict, want);
                    next += 1;
                }
            }
            prop_assert_eq!(next, frames);
        }
    }
}
