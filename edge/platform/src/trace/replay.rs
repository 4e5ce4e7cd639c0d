//! Feeds the recorded inputs to fresh fusions and compares what they answer with the record.
//!
//! A fusion is pure, so its answers must be the recorded ones to the bit. Where they are not, either
//! the fusion (or its config) is another one, or the trace does not hold all it was given; a
//! [`Replay`] tells the two apart: `seq`, `dropped_records` and observations that nobody recorded
//! say what is missing.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::BufRead;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use visualpath_core::{
    Aligned, AlignedEntry, ExtractorSignals, Fusion, FusionInput, FusionResult, Held, Name,
    Outcome, Trigger,
};

use super::reader::{ReadError, TraceReader};
use super::record::{
    DecisionEntry, FusionDecision, InputKind, Level, OutcomeWord, Record, SCHEMA, SessionPath,
    SessionStart,
};

/// Observations of one extractor that are kept for decisions to come. The writer remembers 1024.
const KEPT: usize = 4096;
/// Differences and missing pieces told one by one; more are only counted.
pub const TOLD: usize = 100;

/// A trigger that a fusion gave in a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replayed {
    /// The line of its decision.
    pub line: u64,
    /// The source.
    pub source: Name,
    /// The path.
    pub path: Name,
    /// What it gave.
    pub trigger: Trigger,
}

/// A decision that came out differently, or a piece of the trace that is missing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The line of the trace.
    pub line: u64,
    /// Whose decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Name>,
    /// On which source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
    /// On which frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_id: Option<u64>,
    /// What.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if let (Some(path), Some(source)) = (&self.path, &self.source) {
            write!(f, "path `{path}` on `{source}`, ")?;
        }
        if let Some(frame_id) = self.frame_id {
            write!(f, "frame {frame_id}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// What a replay came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReplayReport {
    /// Everything the fusions gave, in the order of the trace.
    pub triggers: Vec<Replayed>,
    /// Decisions that came out differently; the first [`TOLD`].
    pub differences: Vec<Difference>,
    /// How many there are.
    pub different: u64,
    /// Where the trace does not hold what a fusion was given, so that nothing can be said about
    /// what follows; the first [`TOLD`].
    pub missing: Vec<Difference>,
    /// How many there are.
    pub missing_pieces: u64,
    /// Things to know that are no fault.
    pub notes: Vec<String>,
    /// Decisions compared.
    pub decisions: u64,
    /// Records read, of any type.
    pub records: u64,
}

impl ReplayReport {
    /// Whether every decision was there and came out as recorded, and there was one.
    pub fn identical(&self) -> bool {
        self.different == 0 && self.missing_pieces == 0 && self.decisions > 0
    }
}

/// Makes the fusion of a path on a source, given its extractors; the error says why it can't.
pub trait MakeFusion:
    FnMut(&Name, &Name, &[ExtractorSignals]) -> Result<Box<dyn Fusion>, String>
{
}

impl<F> MakeFusion for F where
    F: FnMut(&Name, &Name, &[ExtractorSignals]) -> Result<Box<dyn Fusion>, String>
{
}

/// Replays a whole trace.
///
/// # Errors
/// If it can't be read; a line that is no record is a missing piece instead.
pub fn replay<R: BufRead>(
    reader: &mut TraceReader<R>,
    make_fusion: impl MakeFusion,
) -> Result<ReplayReport, ReadError> {
    let mut replay = Replay::new(make_fusion);
    for item in reader.by_ref() {
        match item {
            Ok((line, record)) => replay.step(line, record),
            Err(e @ ReadError::Io { .. }) => return Err(e),
            Err(ReadError::Line { line, error, .. }) => replay.unreadable(line, &error.to_string()),
        }
    }
    let mut report = replay.finish();
    if let Some(line) = reader.torn() {
        report
            .notes
            .push(format!("line {line} is torn: the run was cut off there"));
    }
    Ok(report)
}

type Key = (Name, Name);

/// A replay under way; [`replay()`] is the loop around it.
pub struct Replay<F> {
    make: F,
    session: Option<SessionStart>,
    /// Whether the session has come to its end.
    ended: bool,
    /// By (path, source).
    fusions: BTreeMap<Key, Fed>,
    /// By (source, extractor).
    held: BTreeMap<Key, Kept>,
    /// A line that could not be read; it may turn out to be the torn end of an earlier run.
    unreadable: Option<(u64, String)>,
    report: ReplayReport,
}

/// One path's fusion.
struct Fed {
    /// `None` if it can't be made.
    fusion: Option<Box<dyn Fusion>>,
    next_seq: u64,
}

#[derive(Default)]
struct Kept {
    by_frame: BTreeMap<u64, Arc<Held>>,
    order: VecDeque<u64>,
}

impl Kept {
    fn put(&mut self, held: Arc<Held>) {
        let id = held.frame_id;
        if self.by_frame.insert(id, held).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > KEPT
            && let Some(old) = self.order.pop_front()
        {
            self.by_frame.remove(&old);
        }
    }
}

impl<F: MakeFusion> Replay<F> {
    /// Nothing fed yet.
    pub fn new(make_fusion: F) -> Self {
        Self {
            make: make_fusion,
            session: None,
            ended: true,
            fusions: BTreeMap::new(),
            held: BTreeMap::new(),
            unreadable: None,
            report: ReplayReport::default(),
        }
    }

    /// Takes the record of one line.
    pub fn step(&mut self, line: u64, record: Record) {
        self.report.records += 1;
        if let Some((at, error)) = self.unreadable.take() {
            match &record {
                // Torn when the machine went down; the next run went on behind it.
                Record::SessionStart(s) if !s.continued => self
                    .report
                    .notes
                    .push(format!("line {at} is torn: the run was cut off there")),
                _ => self.missing(at, None, None, error),
            }
        }
        match record {
            Record::SessionStart(session) => self.session(line, session),
            Record::Observation(o) => {
                self.held
                    .entry((o.source, o.extractor))
                    .or_default()
                    .put(o.held);
            }
            Record::FusionDecision(decision) => self.decision(line, &decision),
            Record::DroppedRecords(dropped) => {
                let what = format!("{} records were dropped here", dropped.count);
                self.missing(line, None, None, what);
            }
            Record::SessionEnd(_) => self.ended = true,
            _ => {}
        }
    }

    /// A line that is no record.
    pub fn unreadable(&mut self, line: u64, error: &str) {
        if let Some((at, error)) = self.unreadable.replace((line, error.to_owned())) {
            self.missing(at, None, None, error);
        }
    }

    /// What it came to.
    pub fn finish(mut self) -> ReplayReport {
        if let Some((at, error)) = self.unreadable.take() {
            self.missing(at, None, None, error);
        }
        self.cut_off();
        if self.report.decisions == 0 {
            self.report.notes.push(
                "there is no fusion_decision record: it takes level = \"verbose\" to record them"
                    .to_owned(),
            );
        }
        self.report
    }

    /// The session the last record belongs to.
    pub fn current_session(&self) -> Option<&SessionStart> {
        self.session.as_ref()
    }

    /// The fusion of a path on a source, as it is after the last record.
    pub fn fusion(&self, path: &Name, source: &Name) -> Option<&dyn Fusion> {
        let fed = self.fusions.get(&(path.clone(), source.clone()))?;
        fed.fusion.as_deref()
    }

    /// A recorded observation of an extractor on a source.
    pub fn held(&self, source: &Name, extractor: &Name, frame_id: u64) -> Option<&Arc<Held>> {
        let kept = self.held.get(&(source.clone(), extractor.clone()))?;
        kept.by_frame.get(&frame_id)
    }

    fn cut_off(&mut self) {
        if let (false, Some(session)) = (self.ended, &self.session) {
            self.report.notes.push(format!(
                "the session of device `{}` that began at {} ns (unix) has no session_end: it was \
                 cut off",
                session.device, session.unix_ns
            ));
        }
    }

    fn session(&mut self, line: u64, new: SessionStart) {
        if new.schema != SCHEMA {
            self.report.notes.push(format!(
                "line {line}: the trace is of the form `{}`, this build knows `{SCHEMA}`",
                new.schema
            ));
        }
        if new.level != Level::Verbose {
            self.report.notes.push(format!(
                "line {line}: recorded at level {:?}; it takes verbose to replay",
                new.level
            ));
        }
        let goes_on = self.session.as_ref().is_some_and(|old| {
            new.continued && old.boot_id == new.boot_id && old.unix_ns == new.unix_ns
        });
        if goes_on {
            return;
        }
        if new.continued {
            self.missing(
                line,
                None,
                None,
                "the session began in an earlier file; put that one (….1) before this one"
                    .to_owned(),
            );
        }
        self.fusions.clear();
        self.held.clear();
        self.cut_off();
        self.ended = false;
        self.session = Some(new);
    }

    fn decision(&mut self, line: u64, decision: &FusionDecision) {
        self.report.decisions += 1;
        let key = (decision.path.clone(), decision.source.clone());
        if !self.fusions.contains_key(&key) {
            let fusion = self.make(line, decision);
            self.fusions.insert(
                key.clone(),
                Fed {
                    fusion,
                    next_seq: 0,
                },
            );
        }
        let Some(mut fed) = self.fusions.remove(&key) else {
            return;
        };
        if decision.seq != fed.next_seq {
            let what = format!(
                "its seq is {}, expected {}: inputs of this fusion are missing before it",
                decision.seq, fed.next_seq
            );
            self.missing(line, Some(decision), decision.frame_id, what);
        }
        fed.next_seq = decision.seq.saturating_add(1);
        if let Some(fusion) = fed.fusion.take() {
            fed.fusion = Some(self.feed(line, decision, fusion));
        }
        self.fusions.insert(key, fed);
    }

    fn make(&mut self, line: u64, decision: &FusionDecision) -> Option<Box<dyn Fusion>> {
        let is_it = |p: &&SessionPath| p.path == decision.path && p.source == decision.source;
        let listed = self
            .session
            .as_ref()
            .and_then(|s| s.paths.iter().find(is_it));
        let extractors: Vec<ExtractorSignals> = match listed {
            Some(path) => path.extractors.iter().map(ExtractorSignals::from).collect(),
            None => {
                self.report.notes.push(format!(
                    "line {line}: no session_start lists path `{}` on `{}`; its extractors are \
                     taken as declaring no signals",
                    decision.path, decision.source
                ));
                let bare = |e: &DecisionEntry| ExtractorSignals {
                    name: e.extractor.clone(),
                    signals: Vec::new(),
                    zones: Vec::new(),
                };
                decision.entries.iter().map(bare).collect()
            }
        };
        match (self.make)(&decision.path, &decision.source, &extractors) {
            Ok(fusion) => Some(fusion),
            Err(why) => {
                self.different(line, decision, format!("its fusion can't be made: {why}"));
                None
            }
        }
    }

    /// Gives the decision's input to the fusion and compares. Gives back the fusion to go on with.
    fn feed(
        &mut self,
        line: u64,
        decision: &FusionDecision,
        mut fusion: Box<dyn Fusion>,
    ) -> Box<dyn Fusion> {
        let t_ns = decision.t_ns.unwrap_or(0);
        let answer = match decision.input {
            InputKind::TakeOver => {
                let Some(new) = self.make(line, decision) else {
                    return fusion;
                };
                let old = std::mem::replace(&mut fusion, new);
                catch_unwind(AssertUnwindSafe(|| fusion.take_over(old, t_ns)))
            }
            InputKind::Frame => {
                let aligned = self.aligned(line, decision);
                catch_unwind(AssertUnwindSafe(|| {
                    fusion.update(FusionInput::Aligned(&aligned))
                }))
            }
            InputKind::Gap => {
                let (from_ns, to_ns) = (decision.from_ns.unwrap_or(0), decision.to_ns.unwrap_or(0));
                catch_unwind(AssertUnwindSafe(|| {
                    fusion.update(FusionInput::Gap { from_ns, to_ns })
                }))
            }
            InputKind::End => catch_unwind(AssertUnwindSafe(|| {
                fusion.update(FusionInput::End { t_ns })
            })),
        };
        match answer {
            Ok(result) => self.compare(line, decision, result),
            Err(_) => {
                if !decision.panicked {
                    self.different(line, decision, "the fusion panicked".to_owned());
                }
                // As the path thread does.
                if catch_unwind(AssertUnwindSafe(|| fusion.reset())).is_err() {
                    self.different(line, decision, "the fusion panicked in reset()".to_owned());
                }
            }
        }
        fusion
    }

    /// The settled frame as the fusion saw it.
    fn aligned(&mut self, line: u64, decision: &FusionDecision) -> Aligned {
        let frame_id = decision.frame_id.unwrap_or(0);
        let mut entries = Vec::with_capacity(decision.entries.len());
        for entry in &decision.entries {
            let mut find = |id: u64| {
                let found = self.held(&decision.source, &entry.extractor, id).cloned();
                if found.is_none() {
                    let what = format!(
                        "`{}`'s observation of frame {id} is not in the trace",
                        entry.extractor
                    );
                    self.missing(line, Some(decision), Some(frame_id), what);
                }
                found
            };
            let held = entry.held.and_then(&mut find);
            let outcome = match entry.outcome {
                OutcomeWord::Skipped | OutcomeWord::Pending => None,
                OutcomeWord::TimedOut => Some(Outcome::TimedOut),
                OutcomeWord::Dropped(reason) => Some(Outcome::Dropped(reason)),
                OutcomeWord::Failed => Some(Outcome::Failed(
                    entry.error.clone().unwrap_or_else(|| "".into()),
                )),
                OutcomeWord::Observed => match &held {
                    Some(held) if held.frame_id == frame_id => {
                        Some(Outcome::Observed(Arc::clone(held)))
                    }
                    _ => find(frame_id).map(Outcome::Observed),
                },
            };
            entries.push(AlignedEntry {
                extractor: entry.extractor.clone(),
                outcome,
                held,
            });
        }
        Aligned {
            source: decision.source.clone(),
            frame_id,
            t_ns: decision.t_ns.unwrap_or(0),
            unix_ns: decision.unix_ns.unwrap_or(0),
            entries,
        }
    }

    fn compare(&mut self, line: u64, decision: &FusionDecision, result: FusionResult) {
        if decision.panicked {
            let what = "recorded: the fusion panicked; replayed: it did not".to_owned();
            self.different(line, decision, what);
        } else {
            if result.states != decision.states {
                let what = format!(
                    "states: recorded {:?}, replayed {:?}",
                    decision.states, result.states
                );
                self.different(line, decision, what);
            }
            for what in triggers_differ(&decision.triggers, &result.triggers) {
                self.different(line, decision, what);
            }
        }
        let given = result.triggers.into_iter().map(|trigger| Replayed {
            line,
            source: decision.source.clone(),
            path: decision.path.clone(),
            trigger,
        });
        self.report.triggers.extend(given);
    }

    fn different(&mut self, line: u64, decision: &FusionDecision, what: String) {
        self.report.different += 1;
        if self.report.differences.len() < TOLD {
            self.report.differences.push(Difference {
                line,
                path: Some(decision.path.clone()),
                source: Some(decision.source.clone()),
                frame_id: decision.frame_id,
                what,
            });
        }
    }

    fn missing(
        &mut self,
        line: u64,
        of: Option<&FusionDecision>,
        frame_id: Option<u64>,
        what: String,
    ) {
        self.report.missing_pieces += 1;
        if self.report.missing.len() < TOLD {
            self.report.missing.push(Difference {
                line,
                path: of.map(|d| d.path.clone()),
                source: of.map(|d| d.source.clone()),
                frame_id,
                what,
            });
        }
    }
}

/// What differs, to the bit: as JSON, in which -0.0 is not 0.0 and every f64 is exact.
fn triggers_differ(recorded: &[Trigger], replayed: &[Trigger]) -> Vec<String> {
    let mut found = Vec::new();
    for i in 0..recorded.len().max(replayed.len()) {
        match (recorded.get(i), replayed.get(i)) {
            (Some(recorded), Some(replayed)) => {
                let (a, b) = (fields(recorded), fields(replayed));
                for (key, was) in &a {
                    let is = b.get(key);
                    if is != Some(was) {
                        let label = &recorded.label;
                        let is = is.map_or("nothing", String::as_str);
                        found.push(format!(
                            "trigger `{label}`, {key}: recorded {was}, replayed {is}"
                        ));
                    }
                }
            }
            (Some(recorded), None) => found.push(format!(
                "trigger `{}`: recorded, not replayed",
                recorded.label
            )),
            (None, Some(replayed)) => found.push(format!(
                "trigger `{}`: replayed, not recorded",
                replayed.label
            )),
            (None, None) => {}
        }
    }
    found
}

/// Every field of a trigger as its JSON text.
fn fields(trigger: &Trigger) -> BTreeMap<String, String> {
    match serde_json::to_value(trigger) {
        Ok(serde_json::Value::Object(map)) => {
            map.into_iter().map(|(k, v)| (k, v.to_string())).collect()
        }
        other => BTreeMap::from([("trigger".to_owned(), format!("{other:?}"))]),
    }
}
