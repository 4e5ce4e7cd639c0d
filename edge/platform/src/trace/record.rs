//! The records of a trace: one JSON document per line, `record_type` and `timestamp_ns` first.
//!
//! `timestamp_ns` is monotonic time since the hub was made; the wall time of a record is its
//! session's `unix_ns + (timestamp_ns − session's timestamp_ns)`. Every other `…t_ns` is source
//! time. Fields are only ever added: a reader passes over those it does not know, and over records
//! of a type it does not know.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::value::StrDeserializer;
use serde::de::{self, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use visualpath_core::{DropReason, ExtractorSignals, Held, Name, Phase, Signals, Trigger};

/// The form of these records, as `session_start` names it.
pub const SCHEMA: &str = "visualpath.trace/1";

/// How much is traced.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[repr(u8)]
pub enum Level {
    /// Nothing.
    #[default]
    Off,
    /// Sessions, triggers, clips.
    Minimal,
    /// And one record per frame.
    Normal,
    /// And every observation and decision.
    Verbose,
}

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record_type", rename_all = "snake_case")]
pub enum Record {
    /// A run began, or a new file of it.
    SessionStart(SessionStart),
    /// The run ended by itself.
    SessionEnd(SessionEnd),
    /// A trigger fired.
    TriggerFire(TriggerFire),
    /// A clip is ready or has failed.
    Clip(ClipRecord),
    /// A frame has settled for a path and its fusion has answered.
    Frame(FrameRecord),
    /// What one stage took for one frame.
    Timing(Timing),
    /// An admitted frame left no observation.
    FrameDrop(FrameDrop),
    /// A frame settled long after its window.
    SyncDelay(SyncDelay),
    /// What became of the frames of the last ten seconds of source time.
    FpsSummary(FpsSummary),
    /// A label went ON or OFF.
    StateChange(StateChange),
    /// A worker's state changed.
    Worker(WorkerRecord),
    /// What a plugin in a process of its own wanted recorded.
    Plugin(PluginRecord),
    /// What an extractor observed in a frame, before the first decision that reads it.
    Observation(ObservationRecord),
    /// One input of a fusion and its answer.
    FusionDecision(Box<FusionDecision>),
    /// Records are missing here: the sink could not take them.
    DroppedRecords(DroppedRecords),
    /// A type this build does not know. Never written.
    #[serde(other)]
    Unknown,
}

impl Record {
    /// The least level at which it is recorded.
    pub fn level(&self) -> Level {
        match self {
            Self::SessionStart(_)
            | Self::SessionEnd(_)
            | Self::TriggerFire(_)
            | Self::Clip(_)
            | Self::DroppedRecords(_) => Level::Minimal,
            Self::Frame(_)
            | Self::Timing(_)
            | Self::FrameDrop(_)
            | Self::SyncDelay(_)
            | Self::FpsSummary(_)
            | Self::StateChange(_)
            | Self::Worker(_)
            | Self::Plugin(_) => Level::Normal,
            Self::Observation(_) | Self::FusionDecision(_) | Self::Unknown => Level::Verbose,
        }
    }

    /// Its `record_type`.
    pub fn record_type(&self) -> &'static str {
        match self {
            Self::SessionStart(_) => "session_start",
            Self::SessionEnd(_) => "session_end",
            Self::TriggerFire(_) => "trigger_fire",
            Self::Clip(_) => "clip",
            Self::Frame(_) => "frame",
            Self::Timing(_) => "timing",
            Self::FrameDrop(_) => "frame_drop",
            Self::SyncDelay(_) => "sync_delay",
            Self::FpsSummary(_) => "fps_summary",
            Self::StateChange(_) => "state_change",
            Self::Worker(_) => "worker",
            Self::Plugin(_) => "plugin",
            Self::Observation(_) => "observation",
            Self::FusionDecision(_) => "fusion_decision",
            Self::DroppedRecords(_) => "dropped_records",
            Self::Unknown => "unknown",
        }
    }
}

/// `session_start`. What a replay must know of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStart {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The same moment as wall time, nanoseconds since 1970 UTC.
    pub unix_ns: i64,
    /// [`SCHEMA`].
    pub schema: String,
    /// The level asked for.
    pub level: Level,
    /// The device's id.
    pub device: String,
    /// This boot's id.
    pub boot_id: String,
    /// Version of visualpath.
    pub version: String,
    /// sha256 of the config in force, as JSON.
    pub config_sha256: String,
    /// Whether this is the head of a further file of a run that began in an earlier one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continued: bool,
    /// Every path on every source of it.
    pub paths: Vec<SessionPath>,
}

/// One path on one source, as `session_start` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionPath {
    /// The path.
    pub path: Name,
    /// The source.
    pub source: Name,
    /// The fusion's name in the config.
    pub fusion: Name,
    /// Its extractors, in the config's order.
    pub extractors: Vec<SessionExtractor>,
}

/// What a fusion was made with, per extractor of its path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionExtractor {
    /// Its name in the config.
    pub extractor: Name,
    /// The signals its plugin declares; a replay makes the fusion with the same.
    #[serde(default)]
    pub signals: Vec<String>,
    /// Zones of the source.
    #[serde(default)]
    pub zones: Vec<Name>,
}

impl From<&ExtractorSignals> for SessionExtractor {
    fn from(e: &ExtractorSignals) -> Self {
        Self {
            extractor: e.name.clone(),
            signals: e.signals.clone(),
            zones: e.zones.clone(),
        }
    }
}

impl From<&SessionExtractor> for ExtractorSignals {
    fn from(e: &SessionExtractor) -> Self {
        Self {
            name: e.extractor.clone(),
            signals: e.signals.clone(),
            zones: e.zones.clone(),
        }
    }
}

/// `session_end`. A session without one was cut off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// Wall time, nanoseconds since 1970 UTC.
    pub unix_ns: i64,
    /// Why it ended, e.g. `end` or `stopped`.
    pub reason: String,
    /// Frames captured, over all sources.
    pub frames: u64,
    /// Triggers fired; a RANGE counts once.
    pub triggers: u64,
}

/// `trigger_fire`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriggerFire {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The path.
    pub path: Name,
    /// The rule's label.
    pub label: Name,
    /// `"point"`, `"start"` or `{"end":{"reason":…}}`.
    pub phase: Phase,
    /// Counts this label's events since the fusion began.
    pub event: u64,
    /// First frame of the event.
    pub frame_id: u64,
    /// Its time.
    pub t_ns: i64,
    /// Time of the frame at which the rule fired.
    pub fired_ns: i64,
    /// 0–1.
    pub score: f64,
    /// Why, in words.
    pub reason: String,
    /// The signals the rule read.
    pub signals: Signals,
}

/// `clip`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipRecord {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The path whose trigger asked for it.
    pub path: Name,
    /// That trigger's label.
    pub label: Name,
    /// The clip's id.
    pub id: String,
    /// The trigger's id.
    pub trigger_id: String,
    /// `ready` or `failed`.
    pub state: String,
    /// The file, relative to the state directory; of a ready one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Source time of its first frame shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ns: Option<i64>,
    /// Source time of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ns: Option<i64>,
}

/// `frame`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameRecord {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The path it settled for.
    pub path: Name,
    /// The frame.
    pub frame_id: u64,
    /// Its source time.
    pub t_ns: i64,
    /// What each extractor of the path made of it.
    pub outcomes: Vec<ExtractorOutcome>,
    /// Taken over from capture → settled, milliseconds; 0 when not realtime.
    pub settle_ms: f64,
    /// Triggers fired on it.
    pub triggers: usize,
}

/// What one extractor made of one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExtractorOutcome {
    /// The extractor.
    pub extractor: Name,
    /// What became of the frame.
    pub outcome: OutcomeWord,
}

/// An outcome as a word: `observed`, `failed`, `timed_out`, `dropped:<reason>`, `skipped`, or
/// `pending` (still out when the frame settled).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeWord {
    /// It answered.
    Observed,
    /// It gave an error.
    Failed,
    /// No answer within its time-out.
    TimedOut,
    /// Never reached it.
    Dropped(DropReason),
    /// Not admitted: rate or gate.
    Skipped,
    /// Admitted, and no answer yet when the window closed.
    Pending,
}

impl fmt::Display for OutcomeWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Observed => f.write_str("observed"),
            Self::Failed => f.write_str("failed"),
            Self::TimedOut => f.write_str("timed_out"),
            Self::Dropped(reason) => write!(f, "dropped:{}", reason.as_str()),
            Self::Skipped => f.write_str("skipped"),
            Self::Pending => f.write_str("pending"),
        }
    }
}

impl Serialize for OutcomeWord {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OutcomeWord {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let word = String::deserialize(d)?;
        Ok(match word.as_str() {
            "observed" => Self::Observed,
            "failed" => Self::Failed,
            "timed_out" => Self::TimedOut,
            "skipped" => Self::Skipped,
            "pending" => Self::Pending,
            other => match other.strip_prefix("dropped:") {
                Some(reason) => {
                    let reason: StrDeserializer<'_, D::Error> = reason.into_deserializer();
                    Self::Dropped(DropReason::deserialize(reason)?)
                }
                None => {
                    return Err(de::Error::invalid_value(
                        de::Unexpected::Str(other),
                        &"an outcome",
                    ));
                }
            },
        })
    }
}

/// `timing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The frame.
    pub frame_id: u64,
    /// Which stage.
    pub stage: Stage,
    /// The extractor (`extract`), or the path (`settle`, `fuse`).
    pub component: Name,
    /// What it took, milliseconds.
    pub processing_ms: f64,
    /// Frames that waited for the extractor when it had answered; 0 for other stages.
    pub queue_depth: usize,
    /// More than twice the running mean of this stage and component.
    pub is_slow: bool,
}

/// A stage that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The extractor looked at the frame.
    Extract,
    /// The frame waited for its outcomes.
    Settle,
    /// The fusion answered.
    Fuse,
}

/// `frame_drop`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameDrop {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The frame.
    pub frame_id: u64,
    /// Its source time.
    pub t_ns: i64,
    /// The extractor that did not get or answer it.
    pub extractor: Name,
    /// A drop reason (`queue_full`, …), `timed_out` or `failed`.
    pub reason: String,
    /// What the extractor said, of a failed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Arc<str>>,
}

/// `sync_delay`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SyncDelay {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The path.
    pub path: Name,
    /// The frame.
    pub frame_id: u64,
    /// Taken over from capture → settled, milliseconds.
    pub delay_ms: f64,
    /// The path's window, milliseconds.
    pub window_ms: f64,
    /// Extractors still out; if none is, the slowest that answered.
    pub waiting_for: Vec<Name>,
}

/// `fps_summary`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FpsSummary {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// Source time of the last frame counted.
    pub t_ns: i64,
    /// Source time it covers, milliseconds.
    pub period_ms: f64,
    /// Frames taken over from capture.
    pub frames: u64,
    /// The same per second of source time.
    pub fps: f64,
    /// Per extractor.
    pub extractors: Vec<ExtractorCounts>,
}

/// What an extractor did in the time of one `fps_summary`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExtractorCounts {
    /// The extractor.
    pub extractor: Name,
    /// Frames observed.
    pub observed: u64,
    /// The same per second of source time.
    pub fps: f64,
    /// Failed or timed out.
    pub failed: u64,
    /// Dropped.
    pub dropped: u64,
    /// Skipped.
    pub skipped: u64,
}

/// `state_change`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateChange {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The path.
    pub path: Name,
    /// The label.
    pub label: Name,
    /// ON.
    pub on: bool,
    /// Source time of the input that brought it.
    pub t_ns: i64,
}

/// `worker`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The extractor.
    pub extractor: Name,
    /// `running`, `restarting` or `held`.
    pub state: String,
    /// Why.
    pub why: String,
}

/// `plugin`: a record of a plugin's own, inside one of ours, so that it can't pass for another's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginRecord {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The extractor.
    pub extractor: Name,
    /// As it came.
    pub record: serde_json::Map<String, serde_json::Value>,
}

/// `observation`: all an extractor said about one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservationRecord {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The extractor.
    pub extractor: Name,
    /// `frame_id`, `t_ns`, `observations`, the merged `signals`, `timing_ns`.
    #[serde(flatten)]
    pub held: Arc<Held>,
}

/// `fusion_decision`: what a fusion was given and what it answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FusionDecision {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// The source.
    pub source: Name,
    /// The path.
    pub path: Name,
    /// Inputs this fusion was given before; a jump says that some were not recorded.
    pub seq: u64,
    /// What it was given.
    pub input: InputKind,
    /// Of a frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_id: Option<u64>,
    /// Source time, of all but a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_ns: Option<i64>,
    /// Wall time of a frame, as the fusion was told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_ns: Option<i64>,
    /// Of a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ns: Option<i64>,
    /// Of a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ns: Option<i64>,
    /// Of a frame: one per extractor of the path, in the config's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<DecisionEntry>,
    /// What fired, in full.
    pub triggers: Vec<Trigger>,
    /// Labels that went ON (true) or OFF.
    pub states: Vec<(Name, bool)>,
    /// Observations read.
    #[serde(default)]
    pub observations_used: u32,
    /// The fusion panicked instead of answering, and was reset.
    #[serde(default, skip_serializing_if = "is_false")]
    pub panicked: bool,
}

/// What a fusion was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// A settled frame.
    Frame,
    /// A gap.
    Gap,
    /// The end of the source.
    End,
    /// No input: a new fusion took the place of the old one (a reload).
    TakeOver,
}

/// One extractor at a settled frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionEntry {
    /// The extractor.
    pub extractor: Name,
    /// What became of this very frame.
    pub outcome: OutcomeWord,
    /// The frame whose observation it holds; `null` when there is none, or a stale one.
    pub held: Option<u64>,
    /// What the extractor said, of a failed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Arc<str>>,
    /// Why it was skipped, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `dropped_records`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DroppedRecords {
    /// Monotonic time since the hub was made.
    pub timestamp_ns: i64,
    /// How many are missing here.
    pub count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(b: &bool) -> bool {
    !b
}
