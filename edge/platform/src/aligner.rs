//! The aligner: brings outcomes that arrive in any order back into frame order.
//!
//! A frame *settles* for a path when every worker of that path which admitted it has an outcome,
//! or, live, when the path's window has passed since the frame was dequeued. Settled frames reach
//! the path's fusion in frame order, each exactly once, with gaps and the end in their places. An
//! observation that comes later is counted and never fused backwards; it still becomes the newest
//! held value for frames not yet settled.
//!
//! Without a window (`realtime = false`) nothing here depends on when an outcome arrives, only on
//! what it says: the results are the same on every run by construction.
//!
//! Pure: times come in as arguments. Storage is taken once and recycled.

use std::collections::VecDeque;
use std::sync::Arc;

use visualpath_core::{Aligned, AlignedEntry, FusionInput, Held, Name, Outcome};

/// Most extractors of one source: outcomes pending are tracked in one machine word.
pub const MAX_EXTRACTORS: usize = 64;

/// One path as the aligner sees it.
#[derive(Debug, Clone)]
pub struct PathSpec {
    /// The path's name.
    pub name: Name,
    /// The source's name, handed through to the fusion.
    pub source: Name,
    /// Index, name and staleness limit (nanoseconds of source time) of each of its extractors, in
    /// the config's order.
    pub extractors: Vec<(usize, Name, i64)>,
    /// How long a frame may wait for outcomes, in nanoseconds of the monotonic clock; `None`
    /// waits for ever.
    pub window_ns: Option<i64>,
}

/// How many observations came after their frame had settled, and frames settled by overflow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlignerStats {
    /// Late outcomes per extractor index.
    pub late: Vec<u64>,
    /// Frames settled early because the table of pending frames was full.
    pub overflow: u64,
    /// Frames settled by their window, over all paths.
    pub by_window: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Frame,
    Gap { from_ns: i64, to_ns: i64 },
    End,
}

#[derive(Debug)]
struct Pending {
    kind: Kind,
    /// Of the frame; of a gap or the end, the id of the frame before it.
    frame_id: u64,
    t_ns: i64,
    unix_ns: i64,
    arrived_ns: i64,
    /// It is still being offered.
    open: bool,
    /// Extractors that may still admit it: they wait for others' answers.
    undecided: u64,
    /// Extractors that have admitted it and owe an outcome.
    owed: u64,
    outcomes: Vec<Option<Outcome>>,
}

impl PathSpec {
    fn nobody() -> Self {
        // A valid name by its form; it is never told to anybody.
        let nobody = || Name::new("nobody").unwrap_or_else(|_| unreachable!());
        Self {
            name: nobody(),
            source: nobody(),
            extractors: Vec::new(),
            window_ns: None,
        }
    }
}

/// What a path is told, in order.
#[derive(Debug)]
pub enum Settled<'a> {
    /// For its fusion; and when the frame was dequeued, 0 for gaps and the end.
    Input(FusionInput<'a>, i64),
    /// Its successor takes over, or nobody does: all frames captured before the change have
    /// settled.
    Replaced {
        /// Source time of the last frame that settled here, 0 if none did.
        t_ns: i64,
    },
}

#[derive(Debug)]
struct Successor {
    /// Sequence number of the first item that is not the old path's any more.
    from: u64,
    spec: Option<PathSpec>,
}

#[derive(Debug)]
struct PathState {
    spec: PathSpec,
    mask: u64,
    /// Sequence number of the next item to settle.
    next: u64,
    held: Vec<Option<Arc<Held>>>,
    aligned: Aligned,
    successor: Option<Successor>,
}

/// Pending frames of one source and the paths that wait for them.
#[derive(Debug)]
pub struct Aligner {
    extractors: usize,
    capacity: usize,
    pending: VecDeque<Pending>,
    /// Sequence number of `pending[0]`.
    first: u64,
    /// By the index of [`Aligner::set_path`]; a path that was taken away leaves a hole.
    paths: Vec<Option<PathState>>,
    recycled: Vec<Vec<Option<Outcome>>>,
    last: (u64, i64),
    force: u64,
    stats: AlignerStats,
}

impl Aligner {
    /// An aligner for `extractors` extractors with room for `capacity` pending frames.
    ///
    /// # Panics
    /// If there are more than [`MAX_EXTRACTORS`] extractors, or a path names one out of range:
    /// the config check refuses both.
    pub fn new(extractors: usize, capacity: usize, paths: Vec<PathSpec>) -> Self {
        assert!(
            extractors <= MAX_EXTRACTORS,
            "at most {MAX_EXTRACTORS} extractors per source"
        );
        let capacity = capacity.max(1);
        let paths = paths
            .into_iter()
            .map(|spec| Some(PathState::new(spec, extractors)))
            .collect();
        Self {
            extractors,
            capacity,
            pending: VecDeque::with_capacity(capacity + 1),
            first: 0,
            paths,
            recycled: Vec::with_capacity(capacity + 1),
            last: (0, 0),
            force: 0,
            stats: AlignerStats {
                late: vec![0; extractors],
                ..AlignerStats::default()
            },
        }
    }

    /// Whether another frame can be taken without settling one early.
    pub fn has_room(&self) -> bool {
        self.pending.len() < self.capacity
    }

    /// Whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Counters.
    pub fn stats(&self) -> &AlignerStats {
        &self.stats
    }

    /// Makes room for extractors up to index `extractors - 1`, at most [`MAX_EXTRACTORS`].
    pub fn grow(&mut self, extractors: usize) {
        assert!(
            extractors <= MAX_EXTRACTORS,
            "at most {MAX_EXTRACTORS} extractors per source"
        );
        if extractors <= self.extractors {
            return;
        }
        self.extractors = extractors;
        self.stats.late.resize(extractors, 0);
        for item in &mut self.pending {
            item.outcomes.resize(extractors, None);
        }
        for path in self.paths.iter_mut().flatten() {
            path.held.resize(extractors, None);
        }
    }

    /// Puts a path in place of number `index`, or takes it away. One that is there settles the
    /// frames pending now, then [`Settled::Replaced`] is told; the new one begins with the next
    /// frame, with the held values of the extractors both have.
    pub fn set_path(&mut self, index: usize, spec: Option<PathSpec>) {
        if self.paths.len() <= index {
            self.paths.resize_with(index + 1, || None);
        }
        let next = self.first + self.pending.len() as u64;
        let path = self.paths[index].get_or_insert_with(|| {
            // Nobody was there: an empty path that settles nothing and leaves at once.
            let mut nobody = PathState::new(PathSpec::nobody(), self.extractors);
            nobody.next = next;
            nobody
        });
        let until = path.successor.take().map_or(next, |s| s.from);
        path.successor = Some(Successor { from: until, spec });
    }

    /// The paths there are, by index.
    pub fn path(&self, index: usize) -> Option<&PathSpec> {
        Some(&self.paths.get(index)?.as_ref()?.spec)
    }

    /// A new frame, dequeued at `now_ns` of the monotonic clock (unused without a window);
    /// `unix_ns` is the wall time of `t_ns`. It can't settle before [`Aligner::offered`].
    pub fn frame(&mut self, frame_id: u64, t_ns: i64, unix_ns: i64, now_ns: i64) {
        self.last = (frame_id, t_ns);
        self.push(Kind::Frame, frame_id, t_ns, now_ns);
        if let Some(item) = self.pending.back_mut() {
            item.unix_ns = unix_ns;
        }
    }

    /// This extractor can't be offered the frame yet: it waits for others' answers.
    pub fn undecided(&mut self, frame_id: u64, extractor: usize) {
        if let Some(i) = self.find(frame_id) {
            self.pending[i].undecided |= 1 << extractor;
        }
    }

    /// The frame was admitted by this extractor, which now owes an outcome.
    pub fn admitted(&mut self, frame_id: u64, extractor: usize) {
        if let Some(i) = self.find(frame_id) {
            self.pending[i].owed |= 1 << extractor;
            self.pending[i].undecided &= !(1 << extractor);
        }
    }

    /// The frame was skipped by this extractor.
    pub fn skipped(&mut self, frame_id: u64, extractor: usize) {
        if let Some(i) = self.find(frame_id) {
            self.pending[i].undecided &= !(1 << extractor);
        }
    }

    /// The frame has been offered to all extractors; no more will admit it.
    pub fn offered(&mut self, frame_id: u64) {
        if let Some(i) = self.find(frame_id) {
            self.pending[i].open = false;
        }
    }

    /// The source lost pictures between these source times.
    pub fn gap(&mut self, from_ns: i64, to_ns: i64) {
        self.push(Kind::Gap { from_ns, to_ns }, self.last.0, to_ns, 0);
    }

    /// Nothing follows.
    pub fn end(&mut self) {
        self.push(Kind::End, self.last.0, self.last.1, 0);
    }

    /// An outcome, in whatever order. Late ones are counted.
    pub fn outcome(&mut self, frame_id: u64, extractor: usize, outcome: Outcome) {
        let bit = 1_u64 << extractor;
        let at = self.find(frame_id);
        let seq = at.map(|i| self.first + i as u64);
        let mut late = at.is_none() && matches!(outcome, Outcome::Observed(_) | Outcome::Failed(_));
        for path in self
            .paths
            .iter_mut()
            .flatten()
            .filter(|p| p.mask & bit != 0)
        {
            if seq.is_some_and(|s| s >= path.next) {
                continue;
            }
            // What was given up on is not late when it is.
            late |= matches!(outcome, Outcome::Observed(_) | Outcome::Failed(_));
            if let Outcome::Observed(new) = &outcome {
                path.hold_newest(extractor, new);
            }
        }
        self.stats.late[extractor] += u64::from(late);
        if let Some(i) = at {
            let item = &mut self.pending[i];
            item.owed &= !bit;
            // The first word stands: an admitted frame has exactly one outcome.
            item.outcomes[extractor].get_or_insert(outcome);
        }
    }

    /// An answer for a frame whose outcome is already recorded (it timed out): counted, and the
    /// newest held value for frames not yet settled, if it is the newest.
    pub fn late(&mut self, extractor: usize, outcome: &Outcome) {
        self.stats.late[extractor] += 1;
        let Outcome::Observed(new) = outcome else {
            return;
        };
        for path in self
            .paths
            .iter_mut()
            .flatten()
            .filter(|p| p.mask & 1 << extractor != 0)
        {
            path.hold_newest(extractor, new);
        }
    }

    /// Source time of a frame that waits.
    pub fn t_ns(&self, frame_id: u64) -> Option<i64> {
        self.find(frame_id).map(|i| self.pending[i].t_ns)
    }

    /// When the oldest waiting frame's window closes, on the monotonic clock.
    pub fn next_deadline_ns(&self) -> Option<i64> {
        self.paths
            .iter()
            .flatten()
            .filter_map(|p| {
                let item = self.pending.get(self.index(p.next)?)?;
                (item.kind == Kind::Frame)
                    .then_some(item.arrived_ns)?
                    .checked_add(p.spec.window_ns?)
            })
            .min()
    }

    /// Hands every frame that can settle by `now_ns` to `fuse(path index, …)`.
    pub fn settle(&mut self, now_ns: i64, mut fuse: impl FnMut(usize, Settled<'_>)) {
        for (index, slot) in self.paths.iter_mut().enumerate() {
            let Some(path) = slot else { continue };
            loop {
                if path.successor.as_ref().is_some_and(|s| path.next >= s.from) {
                    let t_ns = path.aligned.t_ns;
                    fuse(index, Settled::Replaced { t_ns });
                    match path.succeed(self.extractors) {
                        Some(new) => *path = new,
                        None => {
                            *slot = None;
                            break;
                        }
                    }
                }
                // Nothing is taken out of `pending` before all paths have been asked.
                let ahead = path.next.checked_sub(self.first);
                let ahead = ahead.and_then(|i| usize::try_from(i).ok());
                let Some(item) = ahead.and_then(|i| self.pending.get(i)) else {
                    break;
                };
                let input = match item.kind {
                    Kind::Gap { from_ns, to_ns } => FusionInput::Gap { from_ns, to_ns },
                    Kind::End => FusionInput::End { t_ns: item.t_ns },
                    Kind::Frame => {
                        let open = item.owed | item.undecided;
                        let complete = !item.open && open & path.mask == 0;
                        let expired = path
                            .spec
                            .window_ns
                            .is_some_and(|w| now_ns >= item.arrived_ns.saturating_add(w));
                        let forced = path.next < self.force;
                        if !(complete || expired || forced) {
                            break;
                        }
                        self.stats.by_window += u64::from(!complete && expired);
                        path.take(item);
                        FusionInput::Aligned(&path.aligned)
                    }
                };
                fuse(index, Settled::Input(input, item.arrived_ns));
                path.next += 1;
            }
        }
        self.recycle();
    }

    fn push(&mut self, kind: Kind, frame_id: u64, t_ns: i64, arrived_ns: i64) {
        if kind == Kind::Frame && self.pending.len() >= self.capacity {
            // The next settle() hands the oldest on as it is.
            self.stats.overflow += 1;
            self.force = self.first + (self.pending.len() + 1 - self.capacity) as u64;
        }
        let mut outcomes = self.recycled.pop().unwrap_or_default();
        outcomes.resize(self.extractors, None);
        let open = kind == Kind::Frame;
        self.pending.push_back(Pending {
            kind,
            frame_id,
            t_ns,
            unix_ns: 0,
            arrived_ns,
            open,
            undecided: 0,
            owed: 0,
            outcomes,
        });
    }

    fn index(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first)?).ok()
    }

    fn find(&self, frame_id: u64) -> Option<usize> {
        let mut i = self.pending.partition_point(|p| p.frame_id < frame_id);
        // Gaps carry the id of the frame before them, so they sort behind it.
        while let Some(p) = self.pending.get(i) {
            if p.frame_id != frame_id {
                return None;
            }
            if p.kind == Kind::Frame {
                return Some(i);
            }
            i += 1;
        }
        None
    }

    fn recycle(&mut self) {
        let done = self
            .paths
            .iter()
            .flatten()
            .map(|p| p.next)
            .min()
            .unwrap_or(self.first + self.pending.len() as u64);
        while self.first < done {
            let Some(mut item) = self.pending.pop_front() else {
                break;
            };
            item.outcomes.clear();
            if self.recycled.len() < self.recycled.capacity() {
                self.recycled.push(item.outcomes);
            }
            self.first += 1;
        }
    }
}

impl PathState {
    fn new(spec: PathSpec, extractors: usize) -> Self {
        Self {
            mask: spec.extractors.iter().fold(0, |m, (i, _, _)| {
                assert!(*i < extractors, "extractor index out of range");
                m | 1 << i
            }),
            next: 0,
            held: vec![None; extractors],
            successor: None,
            aligned: Aligned {
                source: spec.source.clone(),
                frame_id: 0,
                t_ns: 0,
                unix_ns: 0,
                entries: spec
                    .extractors
                    .iter()
                    .map(|(_, name, _)| AlignedEntry {
                        extractor: name.clone(),
                        outcome: None,
                        held: None,
                    })
                    .collect(),
            },
            spec,
        }
    }

    /// What comes after this one, with the held values of the extractors both have.
    fn succeed(&mut self, extractors: usize) -> Option<Self> {
        let Successor { from, spec } = self.successor.take()?;
        let mut new = Self::new(spec?, extractors);
        new.next = from;
        new.aligned.t_ns = self.aligned.t_ns;
        let old = &self.spec.extractors;
        for (i, name, _) in &new.spec.extractors {
            if old.iter().any(|(j, other, _)| i == j && name == other) {
                new.held[*i] = self.held[*i].take();
            }
        }
        Some(new)
    }

    fn hold_newest(&mut self, extractor: usize, new: &Arc<Held>) {
        let slot = &mut self.held[extractor];
        if slot.as_ref().is_none_or(|old| old.frame_id < new.frame_id) {
            *slot = Some(Arc::clone(new));
        }
    }

    /// Makes `aligned` say what is known at this frame.
    fn take(&mut self, item: &Pending) {
        self.aligned.frame_id = item.frame_id;
        self.aligned.t_ns = item.t_ns;
        self.aligned.unix_ns = item.unix_ns;
        for (entry, (extractor, _, stale_ns)) in
            self.aligned.entries.iter_mut().zip(&self.spec.extractors)
        {
            let outcome = item.outcomes[*extractor].clone();
            let held = &mut self.held[*extractor];
            if let Some(Outcome::Observed(new)) = &outcome {
                *held = Some(Arc::clone(new));
            }
            if held
                .as_ref()
                .is_some_and(|h| item.t_ns.saturating_sub(h.t_ns) > *stale_ns)
            {
                *held = None;
            }
            entry.held.clone_from(held);
            entry.outcome = outcome;
        }
    }
}

#[cfg(test)]
mod tests;
