//! What one source's path thread records.
//!
//! Every call asks the hub's level first and then costs nothing more. The hard idea is the order:
//! an observation is recorded once, before the first decision that reads it, so that a reader that
//! goes through the trace line by line always knows what a decision refers to.

use std::collections::VecDeque;
use std::sync::Arc;

use visualpath_core::{
    Aligned, AlignedEntry, FusionInput, FusionResult, Held, NS_PER_S, Name, Outcome,
};

use super::hub::ObservabilityHub;
use super::record::{
    DecisionEntry, ExtractorCounts, ExtractorOutcome, FpsSummary, FrameDrop, FrameRecord,
    FusionDecision, InputKind, Level, ObservationRecord, OutcomeWord, PluginRecord, Record, Stage,
    StateChange, SyncDelay, Timing, TriggerFire, WorkerRecord,
};
use crate::flow::Times;

/// Source time between two `fps_summary`.
const SUMMARY_NS: i64 = 10 * NS_PER_S;
/// Frames per extractor of which is remembered that they were recorded or skipped; more than can
/// be pending in the aligner. One forgotten too early is recorded again, or called `pending`.
const REMEMBERED: usize = 1024;
/// Looks before anything is called slow.
const SETTLED_IN: u32 = 8;
/// Weight of one look in the running mean, as a divisor.
const MEAN_OVER: i64 = 16;

/// The trace of one source's flow. Cheap to make; grows only while tracing.
pub struct FlowTrace {
    hub: Arc<ObservabilityHub>,
    source: Name,
    extractors: Vec<Extractor>,
    paths: Vec<Path>,
    /// Fusion inputs that were not recorded, over all paths.
    untraced: u64,
    /// Beginning of the running summary, source time, and its frames.
    summary: Option<(i64, u64)>,
}

struct Extractor {
    name: Name,
    took: Mean,
    /// Frames whose observation is in the trace.
    recorded: VecDeque<u64>,
    skipped: VecDeque<(u64, &'static str)>,
    counts: Counts,
}

/// Since the last summary.
#[derive(Default)]
struct Counts {
    observed: u64,
    failed: u64,
    dropped: u64,
    skipped: u64,
}

struct Path {
    name: Name,
    window_ns: Option<i64>,
    /// Inputs recorded so far.
    inputs: u64,
    settle: Mean,
    fuse: Mean,
}

/// A running mean that says what is slow: more than twice itself.
#[derive(Default)]
struct Mean {
    mean_ns: i64,
    seen: u32,
}

impl Mean {
    fn is_slow(&mut self, took_ns: i64) -> bool {
        let slow = self.seen >= SETTLED_IN && took_ns > self.mean_ns.saturating_mul(2);
        self.seen = self.seen.saturating_add(1);
        // A plain mean at first, so that the very first look does not count for long.
        let over = i64::from(self.seen).min(MEAN_OVER);
        self.mean_ns += took_ns.saturating_sub(self.mean_ns) / over;
        slow
    }
}

impl FlowTrace {
    /// For `source`, recording to `hub`.
    pub fn new(hub: Arc<ObservabilityHub>, source: Name) -> Self {
        Self {
            hub,
            source,
            extractors: Vec::new(),
            paths: Vec::new(),
            untraced: 0,
            summary: None,
        }
    }

    /// Records nothing.
    pub fn off(source: Name) -> Self {
        Self::new(Arc::new(ObservabilityHub::new(Level::Off)), source)
    }

    /// A path's window, for `sync_delay`; `None` when frames wait for ever.
    pub fn window(&mut self, path: &Name, window_ns: Option<i64>) {
        let at = self.path(path);
        self.paths[at].window_ns = window_ns;
    }

    /// A frame was taken over from capture, at source time `t_ns`.
    pub fn tick(&mut self, t_ns: i64) {
        if !self.hub.enabled(Level::Normal) {
            self.summary = None;
            return;
        }
        let (since_ns, frames) = self.summary.get_or_insert((t_ns, 0));
        let period_ns = t_ns.saturating_sub(*since_ns);
        if period_ns < SUMMARY_NS {
            *frames += 1;
            return;
        }
        // This frame is the first of the next.
        let frames = *frames;
        self.summary = Some((t_ns, 1));
        let fps = |n: u64| per_second(n, period_ns);
        let extractors = self.extractors.iter_mut().map(|e| {
            let counts = std::mem::take(&mut e.counts);
            ExtractorCounts {
                extractor: e.name.clone(),
                observed: counts.observed,
                fps: fps(counts.observed),
                failed: counts.failed,
                dropped: counts.dropped,
                skipped: counts.skipped,
            }
        });
        let extractors = extractors.collect();
        self.hub.emit(Record::FpsSummary(FpsSummary {
            timestamp_ns: self.hub.now_ns(),
            source: self.source.clone(),
            t_ns,
            period_ms: ms(period_ns),
            frames,
            fps: fps(frames),
            extractors,
        }));
    }

    /// An extractor was offered a frame and did not want it: `rate`, `gate`, `dependency`. Leaves
    /// no record of its own.
    pub fn skipped(&mut self, extractor: &Name, frame_id: u64, reason: &'static str) {
        if !self.hub.enabled(Level::Normal) {
            return;
        }
        let at = self.extractor(extractor);
        let extractor = &mut self.extractors[at];
        extractor.counts.skipped += 1;
        remember(&mut extractor.skipped, (frame_id, reason));
    }

    /// An admitted frame got its outcome. `took_ns` is the extractor's time if it looked at it,
    /// `queue_depth` how many frames waited for it then.
    pub fn outcome(
        &mut self,
        extractor: &Name,
        frame_id: u64,
        t_ns: i64,
        outcome: &Outcome,
        took_ns: i64,
        queue_depth: usize,
    ) {
        if !self.hub.enabled(Level::Normal) {
            return;
        }
        let timestamp_ns = self.hub.now_ns();
        let at = self.extractor(extractor);
        let Self {
            hub,
            source,
            extractors,
            ..
        } = self;
        let state = &mut extractors[at];
        match outcome {
            Outcome::Observed(_) => state.counts.observed += 1,
            Outcome::Failed(_) | Outcome::TimedOut => state.counts.failed += 1,
            Outcome::Dropped(_) => state.counts.dropped += 1,
        }
        if let Outcome::Observed(_) | Outcome::Failed(_) = outcome {
            hub.emit(Record::Timing(Timing {
                timestamp_ns,
                source: source.clone(),
                frame_id,
                stage: Stage::Extract,
                component: state.name.clone(),
                processing_ms: ms(took_ns),
                queue_depth,
                is_slow: state.took.is_slow(took_ns),
            }));
        }
        let (reason, error) = match outcome {
            Outcome::Observed(_) => return,
            Outcome::Failed(why) => ("failed", Some(Arc::clone(why))),
            Outcome::TimedOut => ("timed_out", None),
            Outcome::Dropped(reason) => (reason.as_str(), None),
        };
        hub.emit(Record::FrameDrop(FrameDrop {
            timestamp_ns,
            source: source.clone(),
            frame_id,
            t_ns,
            extractor: state.name.clone(),
            reason: reason.to_owned(),
            error,
        }));
    }

    /// A worker's state changed: `running`, `restarting`, `held`.
    pub fn worker(&mut self, extractor: &Name, state: &str, why: &str) {
        self.hub.emit_with(Level::Normal, || {
            Record::Worker(WorkerRecord {
                timestamp_ns: self.hub.now_ns(),
                source: self.source.clone(),
                extractor: extractor.clone(),
                state: state.to_owned(),
                why: why.to_owned(),
            })
        });
    }

    /// A plugin in a process of its own wants this recorded.
    pub fn foreign(&self, extractor: &Name, record: serde_json::Map<String, serde_json::Value>) {
        self.hub.emit_with(Level::Normal, || {
            Record::Plugin(PluginRecord {
                timestamp_ns: self.hub.now_ns(),
                source: self.source.clone(),
                extractor: extractor.clone(),
                record,
            })
        });
    }

    /// A path's fusion has answered an input.
    pub fn fused(
        &mut self,
        path: &Name,
        input: &FusionInput<'_>,
        result: &FusionResult,
        times: &Times,
    ) {
        if !self.hub.enabled(Level::Minimal) {
            self.untraced += 1;
            return;
        }
        let timestamp_ns = self.hub.now_ns();
        let at = self.path(path);
        self.decision(at, input, Some(result), timestamp_ns);
        if self.hub.enabled(Level::Normal) {
            if let FusionInput::Aligned(aligned) = input {
                self.frame(at, aligned, result.triggers.len(), times, timestamp_ns);
            }
            self.states(at, input_time(input), result, timestamp_ns);
        }
        self.triggers(at, result, timestamp_ns);
    }

    /// A path's fusion panicked on an input and was reset.
    pub fn fusion_panicked(&mut self, path: &Name, input: &FusionInput<'_>) {
        if !self.hub.enabled(Level::Minimal) {
            self.untraced += 1;
            return;
        }
        let at = self.path(path);
        self.decision(at, input, None, self.hub.now_ns());
    }

    /// A path got a new fusion after the frame at source time `t_ns`; `result` is what
    /// [`take_over`](visualpath_core::Fusion::take_over) answered.
    pub fn taken_over(&mut self, path: &Name, t_ns: i64, result: &FusionResult) {
        if !self.hub.enabled(Level::Minimal) {
            self.untraced += 1;
            return;
        }
        let timestamp_ns = self.hub.now_ns();
        let at = self.path(path);
        if self.hub.enabled(Level::Verbose) {
            let mut decision = self.blank(at, InputKind::TakeOver, Some(result), timestamp_ns);
            decision.t_ns = Some(t_ns);
            self.hub.emit(Record::FusionDecision(Box::new(decision)));
        } else {
            self.untraced += 1;
        }
        if self.hub.enabled(Level::Normal) {
            self.states(at, t_ns, result, timestamp_ns);
        }
        self.triggers(at, result, timestamp_ns);
    }

    /// `fusion_decision`, after the observations it reads.
    fn decision(
        &mut self,
        at: usize,
        input: &FusionInput<'_>,
        result: Option<&FusionResult>,
        timestamp_ns: i64,
    ) {
        if !self.hub.enabled(Level::Verbose) {
            self.untraced += 1;
            return;
        }
        let kind = match input {
            FusionInput::Aligned(_) => InputKind::Frame,
            FusionInput::Gap { .. } => InputKind::Gap,
            FusionInput::End { .. } => InputKind::End,
        };
        let mut decision = self.blank(at, kind, result, timestamp_ns);
        match input {
            FusionInput::Aligned(aligned) => {
                decision.frame_id = Some(aligned.frame_id);
                decision.t_ns = Some(aligned.t_ns);
                decision.unix_ns = Some(aligned.unix_ns);
                decision.entries.reserve_exact(aligned.entries.len());
                for entry in &aligned.entries {
                    let entry = self.entry(entry, aligned.frame_id, timestamp_ns);
                    decision.entries.push(entry);
                }
            }
            FusionInput::Gap { from_ns, to_ns } => {
                decision.from_ns = Some(*from_ns);
                decision.to_ns = Some(*to_ns);
            }
            FusionInput::End { t_ns } => decision.t_ns = Some(*t_ns),
        }
        self.hub.emit(Record::FusionDecision(Box::new(decision)));
    }

    /// A decision without its input.
    fn blank(
        &mut self,
        at: usize,
        input: InputKind,
        result: Option<&FusionResult>,
        timestamp_ns: i64,
    ) -> FusionDecision {
        let path = &mut self.paths[at];
        let seq = path.inputs.saturating_add(self.untraced);
        path.inputs += 1;
        FusionDecision {
            timestamp_ns,
            source: self.source.clone(),
            path: path.name.clone(),
            seq,
            input,
            frame_id: None,
            t_ns: None,
            unix_ns: None,
            from_ns: None,
            to_ns: None,
            entries: Vec::new(),
            triggers: result.map(|r| r.triggers.clone()).unwrap_or_default(),
            states: result.map(|r| r.states.clone()).unwrap_or_default(),
            observations_used: result.map_or(0, |r| r.observations_used),
            panicked: result.is_none(),
        }
    }

    /// One entry of a decision; first records what it refers to.
    fn entry(&mut self, entry: &AlignedEntry, frame_id: u64, timestamp_ns: i64) -> DecisionEntry {
        let at = self.extractor(&entry.extractor);
        if let Some(Outcome::Observed(held)) = &entry.outcome {
            self.observation(at, held, timestamp_ns);
        }
        if let Some(held) = &entry.held {
            self.observation(at, held, timestamp_ns);
        }
        let (outcome, why) = self.word(at, entry, frame_id);
        let error = match &entry.outcome {
            Some(Outcome::Failed(error)) => Some(Arc::clone(error)),
            _ => None,
        };
        DecisionEntry {
            extractor: entry.extractor.clone(),
            outcome,
            held: entry.held.as_ref().map(|h| h.frame_id),
            error,
            why: why.map(str::to_owned),
        }
    }

    /// `observation`, once per frame.
    fn observation(&mut self, at: usize, held: &Arc<Held>, timestamp_ns: i64) {
        let extractor = &mut self.extractors[at];
        // What is asked for is nearly always what came last.
        if extractor
            .recorded
            .iter()
            .rev()
            .any(|id| *id == held.frame_id)
        {
            return;
        }
        remember(&mut extractor.recorded, held.frame_id);
        self.hub.emit(Record::Observation(ObservationRecord {
            timestamp_ns,
            source: self.source.clone(),
            extractor: extractor.name.clone(),
            held: Arc::clone(held),
        }));
    }

    fn word(
        &self,
        at: usize,
        entry: &AlignedEntry,
        frame_id: u64,
    ) -> (OutcomeWord, Option<&'static str>) {
        let word = match &entry.outcome {
            Some(Outcome::Observed(_)) => OutcomeWord::Observed,
            Some(Outcome::Failed(_)) => OutcomeWord::Failed,
            Some(Outcome::TimedOut) => OutcomeWord::TimedOut,
            Some(Outcome::Dropped(reason)) => OutcomeWord::Dropped(*reason),
            None => {
                let skipped = self.extractors[at].skipped.iter().rev();
                let mut skipped = skipped.filter(|(id, _)| *id == frame_id);
                return match skipped.next() {
                    Some((_, why)) => (OutcomeWord::Skipped, Some(why)),
                    None => (OutcomeWord::Pending, None),
                };
            }
        };
        (word, None)
    }

    /// `frame`, the timings of its stages, and `sync_delay`.
    fn frame(
        &mut self,
        at: usize,
        aligned: &Aligned,
        triggers: usize,
        times: &Times,
        timestamp_ns: i64,
    ) {
        let mut outcomes = Vec::with_capacity(aligned.entries.len());
        for entry in &aligned.entries {
            let extractor = self.extractor(&entry.extractor);
            outcomes.push(ExtractorOutcome {
                extractor: entry.extractor.clone(),
                outcome: self.word(extractor, entry, aligned.frame_id).0,
            });
        }
        let settle_ns = times.settled_ns.saturating_sub(times.dequeued_ns);
        let fuse_ns = times.fused_ns.saturating_sub(times.settled_ns);
        if let Some(window_ns) = self.paths[at].window_ns
            && settle_ns > window_ns.saturating_add(window_ns / 2)
        {
            self.hub.emit(Record::SyncDelay(SyncDelay {
                timestamp_ns,
                source: self.source.clone(),
                path: self.paths[at].name.clone(),
                frame_id: aligned.frame_id,
                delay_ms: ms(settle_ns),
                window_ms: ms(window_ns),
                waiting_for: waiting_for(aligned, &outcomes),
            }));
        }
        self.hub.emit(Record::Frame(FrameRecord {
            timestamp_ns,
            source: self.source.clone(),
            path: self.paths[at].name.clone(),
            frame_id: aligned.frame_id,
            t_ns: aligned.t_ns,
            outcomes,
            settle_ms: ms(settle_ns),
            triggers,
        }));
        if !self.hub.enabled(Level::Verbose) {
            return;
        }
        let path = &mut self.paths[at];
        let stages = [
            (Stage::Settle, settle_ns, &mut path.settle),
            (Stage::Fuse, fuse_ns, &mut path.fuse),
        ];
        for (stage, took_ns, mean) in stages {
            self.hub.emit(Record::Timing(Timing {
                timestamp_ns,
                source: self.source.clone(),
                frame_id: aligned.frame_id,
                stage,
                component: path.name.clone(),
                processing_ms: ms(took_ns),
                queue_depth: 0,
                is_slow: mean.is_slow(took_ns),
            }));
        }
    }

    fn states(&self, at: usize, t_ns: i64, result: &FusionResult, timestamp_ns: i64) {
        for (label, on) in &result.states {
            self.hub.emit(Record::StateChange(StateChange {
                timestamp_ns,
                source: self.source.clone(),
                path: self.paths[at].name.clone(),
                label: label.clone(),
                on: *on,
                t_ns,
            }));
        }
    }

    fn triggers(&self, at: usize, result: &FusionResult, timestamp_ns: i64) {
        for t in &result.triggers {
            self.hub.emit(Record::TriggerFire(TriggerFire {
                timestamp_ns,
                source: self.source.clone(),
                path: self.paths[at].name.clone(),
                label: t.label.clone(),
                phase: t.phase.clone(),
                event: t.event,
                frame_id: t.frame_id,
                t_ns: t.t_ns,
                fired_ns: t.fired_ns,
                score: t.score,
                reason: t.reason.clone(),
                signals: t.signals.clone(),
            }));
        }
    }

    fn extractor(&mut self, name: &Name) -> usize {
        let known = self.extractors.iter().position(|e| e.name == *name);
        known.unwrap_or_else(|| {
            self.extractors.push(Extractor {
                name: name.clone(),
                took: Mean::default(),
                recorded: VecDeque::new(),
                skipped: VecDeque::new(),
                counts: Counts::default(),
            });
            self.extractors.len() - 1
        })
    }

    fn path(&mut self, name: &Name) -> usize {
        let known = self.paths.iter().position(|p| p.name == *name);
        known.unwrap_or_else(|| {
            self.paths.push(Path {
                name: name.clone(),
                window_ns: None,
                inputs: 0,
                settle: Mean::default(),
                fuse: Mean::default(),
            });
            self.paths.len() - 1
        })
    }
}

/// Those still out; else the slowest that answered.
fn waiting_for(aligned: &Aligned, outcomes: &[ExtractorOutcome]) -> Vec<Name> {
    let out: Vec<Name> = outcomes
        .iter()
        .filter(|o| matches!(o.outcome, OutcomeWord::Pending | OutcomeWord::TimedOut))
        .map(|o| o.extractor.clone())
        .collect();
    if !out.is_empty() {
        return out;
    }
    let took = |e: &&AlignedEntry| match &e.outcome {
        Some(Outcome::Observed(held)) => held.timing_ns,
        _ => -1,
    };
    let slowest = aligned.entries.iter().max_by_key(took);
    slowest.map(|e| e.extractor.clone()).into_iter().collect()
}

fn input_time(input: &FusionInput<'_>) -> i64 {
    match input {
        FusionInput::Aligned(aligned) => aligned.t_ns,
        FusionInput::Gap { to_ns, .. } => *to_ns,
        FusionInput::End { t_ns } => *t_ns,
    }
}

fn remember<T>(memory: &mut VecDeque<T>, one: T) {
    if memory.len() == REMEMBERED {
        memory.pop_front();
    }
    memory.push_back(one);
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(n: u64, period_ns: i64) -> f64 {
    n as f64 * 1e9 / period_ns.max(1) as f64
}
