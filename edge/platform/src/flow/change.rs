//! Changes while the path thread runs: other lanes, other fusions, between two frames.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use visualpath_core::{DropReason, Fusion, FusionInput, FusionResult, Name, Outcome};

use super::lane::{Lane, LaneRest, Worker};
use super::{Flow, FlowChange, FlowStats, LaneSpec, LaneWorker, PathSink};
use crate::aligner::MAX_EXTRACTORS;
use crate::depends::Resolved;
use crate::worker::{SpawnError, ThreadWorker, Ticket};

impl<S: PathSink> Flow<S> {
    /// Another set of lanes and paths, from the next frame on.
    pub(super) fn change(&mut self, change: FlowChange) {
        for (index, lane) in change.lanes {
            self.change_lane(index, lane);
        }
        self.sort_lanes();
        for (index, path) in change.paths {
            if self.fusions.len() <= index {
                self.fusions.resize_with(index + 1, Fused::default);
            }
            let fused = &mut self.fusions[index];
            let spec = path.map(|(spec, fusion)| {
                self.trace.window(&spec.name, spec.window_ns);
                fused.next = Some((spec.name.clone(), fusion));
                spec
            });
            if spec.is_none() {
                fused.next = None;
            }
            self.aligner.set_path(index, spec);
        }
        drop(change.in_force);
    }

    fn change_lane(&mut self, index: usize, spec: Option<LaneSpec>) {
        if index >= MAX_EXTRACTORS {
            tracing::error!(index, "no room for another extractor on this source");
            return;
        }
        if index < self.lanes.len() {
            self.retire(index);
        }
        let Some(spec) = spec else { return };
        let name = spec.worker.name().clone();
        self.trace.worker(&name, "running", "the config changed");
        match self.lane(index, spec) {
            Err(e) => {
                tracing::error!(error = %e, "an extractor could not be started");
                self.sink.held(&name, &e.to_string());
                if index == self.lanes.len() {
                    self.lanes.push(Lane::gone(name));
                }
            }
            Ok(lane) if index < self.lanes.len() => self.lanes[index] = lane,
            Ok(lane) => self.lanes.push(lane),
        }
        self.say_if_down(index);
        self.aligner.grow(self.lanes.len());
    }

    /// The lane leaves; what it owes is dropped, what it works on it finishes for nobody.
    fn retire(&mut self, i: usize) {
        self.lanes[i].held = true;
        if let Some(f) = self.lanes[i].in_flight.take()
            && !f.timed_out
        {
            let dropped = Outcome::Dropped(DropReason::Stopping);
            self.outcome(i, f.frame_id, dropped, None);
        }
        self.give_up_waiting(i, DropReason::Stopping);
        let undecided: Vec<u64> = self.lanes[i].waiting.take_all().collect();
        for frame_id in undecided {
            self.aligner.skipped(frame_id, i);
            // Whoever waits for it, and goes or stays, is not kept waiting.
            self.resolve(i, frame_id, Resolved::Skipped);
        }
        let lane = &mut self.lanes[i];
        if let Some(leaving) = lane.leave() {
            self.retired.retain(|(_, l)| !l.is_finished());
            self.retired.push((lane.name.clone(), leaving));
        }
    }

    pub(super) fn lane(&mut self, index: usize, spec: LaneSpec) -> Result<Lane, SpawnError> {
        self.serial += 1;
        let name = spec.worker.name().clone();
        let mut down = false;
        let worker = match spec.worker {
            LaneWorker::Inline(runner) => Worker::Inline(runner),
            LaneWorker::Thread(runner) => {
                let ticket = Ticket {
                    lane: index,
                    serial: self.serial,
                };
                Worker::Thread(ThreadWorker::start(*runner, ticket, self.reply_to.clone())?)
            }
            LaneWorker::Child(child) => {
                down = !child.is_up();
                Worker::Child(child)
            }
        };
        let rest = LaneRest {
            depends: spec.depends,
            gate: spec.gate,
            stale_ns: spec.stale_ns,
            timeout_ns: spec.timeout_ns,
            hang_ns: spec.hang_ns,
        };
        let mut lane = Lane::new(name, self.serial, worker, spec.limiter, rest, self.realtime);
        lane.down = down;
        self.stats.add(&lane.name, &lane.stats);
        Ok(lane)
    }

    /// Who waits for whom, and who is asked first.
    pub(super) fn sort_lanes(&mut self) {
        let needs: Vec<u64> = self
            .lanes
            .iter()
            .map(|l| if l.is_gone() { 0 } else { l.waiting.needs() })
            .collect();
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            let waits = |(d, n): (usize, &u64)| u64::from(n & 1 << i != 0) << d;
            lane.dependents = needs.iter().enumerate().map(waits).sum();
        }
        let here: Vec<usize> = (0..self.lanes.len())
            .filter(|i| !self.lanes[*i].is_gone())
            .collect();
        let child = |i: &usize| matches!(self.lanes[*i].worker, Worker::Child(_));
        self.children = here.iter().copied().filter(child).collect();
        (self.roots, self.waiting) = here.into_iter().partition(|i| needs[*i] == 0);
        let lanes = &self.lanes;
        // A gate that does not wait reads what those before it have just said.
        self.roots.sort_by_key(|i| {
            let lane = &lanes[*i];
            (
                lane.gate.is_some(),
                !matches!(lane.worker, Worker::Thread(_) | Worker::Child(_)),
            )
        });
    }
}

/// The fusion of one path, and the one that takes its place after the frames captured so far.
#[derive(Default)]
pub(super) struct Fused {
    /// Who said the last word at a change.
    pub said_by: Option<Name>,
    pub now: Option<(Name, Box<dyn Fusion>)>,
    pub next: Option<(Name, Box<dyn Fusion>)>,
}

impl Fused {
    pub fn new(name: Name, fusion: Box<dyn Fusion>) -> Self {
        Self {
            said_by: None,
            now: Some((name, fusion)),
            next: None,
        }
    }

    /// The next one takes over; what the old has open is closed, unless the new goes on with it.
    pub fn replace(&mut self, stats: &FlowStats, t_ns: i64) -> Option<FusionResult> {
        match (self.now.take(), self.next.take()) {
            (None, next) => {
                self.now = next;
                None
            }
            (Some((name, mut old)), None) => {
                let end = FusionInput::End { t_ns };
                guarded(stats, &name, &mut old, |f| f.update(end))
            }
            // Another path in its place: nothing of the old one is its business.
            (Some((name, mut old)), Some(next)) if name != next.0 => {
                let end = FusionInput::End { t_ns };
                let result = guarded(stats, &name, &mut old, |f| f.update(end));
                self.now = Some(next);
                result
            }
            (Some((_, old)), Some((name, mut fusion))) => {
                let result = guarded(stats, &name, &mut fusion, |f| f.take_over(old, t_ns));
                self.now = Some((name, fusion));
                result
            }
        }
    }
}

/// Asks a fusion. One that panics starts again; its path goes on.
pub(super) fn guarded(
    stats: &FlowStats,
    path: &Name,
    fusion: &mut Box<dyn Fusion>,
    ask: impl FnOnce(&mut Box<dyn Fusion>) -> FusionResult,
) -> Option<FusionResult> {
    if let Ok(result) = catch_unwind(AssertUnwindSafe(|| ask(fusion))) {
        return Some(result);
    }
    stats.fusion_panics.fetch_add(1, Ordering::Relaxed);
    tracing::error!(%path, "fusion panicked; it is reset, and what it had open stays open");
    if catch_unwind(AssertUnwindSafe(|| fusion.reset())).is_err() {
        tracing::error!(%path, "fusion panicked again while it was reset");
    }
    None
}
