//! The status document: what goes on, as `GET /api/v1/status` gives it.
//!
//! Fields may be added within a schema's version, never renamed or retyped.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use visualpath_core::NS_PER_MS;
use visualpath_media::ring::{RingState, Shortfall};
use visualpath_mqtt::payload::{InfoModel, Problem, RingShort, RingStatus};

/// `schema` of a [`Status`].
pub const STATUS_SCHEMA: &str = "visualpath.status/1";

/// Its JSON Schema.
pub fn schema() -> Value {
    schemars::schema_for!(Status).into()
}

/// Everything about a running appliance. Counters begin with the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// `visualpath.status/1`.
    #[schemars(extend("const" = STATUS_SCHEMA))]
    pub schema: String,
    /// The appliance.
    pub device: String,
    /// Of this boot of the machine.
    pub boot_id: String,
    /// visualpath's version.
    pub version: String,
    /// Commit it was built from, where known.
    pub commit: Option<String>,
    /// Rust target it was built for.
    pub target: String,
    /// Wall time of this document, RFC 3339, UTC.
    pub time: String,
    /// Since the process began, milliseconds.
    pub uptime_ms: u64,
    /// In one word.
    pub state: Stage,
    /// What is wrong, as in `health`.
    pub problems: Vec<Problem>,
    /// The sources, also those that have ended.
    pub sources: Vec<SourceState>,
    /// Triggers fired.
    pub triggers: Vec<TriggerCount>,
    /// Clips.
    pub clips: ClipsState,
    /// The broker; `null` if publishing is off.
    pub mqtt: Option<MqttState>,
    /// Models in use.
    pub models: Vec<InfoModel>,
}

/// How far the appliance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Sources are being opened and models loaded.
    Starting,
    /// It works, and nothing is wrong.
    Ready,
    /// It works, and there are problems.
    Degraded,
    /// It is ending.
    Stopping,
}

/// One source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceState {
    /// Which.
    pub source: String,
    /// Frames come, or may.
    pub online: bool,
    /// What it delivers, for people; empty once it has ended.
    pub format: String,
    /// Frames captured.
    pub frames: u64,
    /// Frames a second over the last seconds; `null` before a second was seen.
    pub fps: Option<f64>,
    /// Pictures lost before any extractor, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Frames that are missing from the evidence because the encoder did not take them.
    pub evidence_lost: u64,
    /// The evidence ring; `null` if no rule wants clips.
    pub ring: Option<RingStatus>,
    /// Its extractors, in the order they were made.
    pub extractors: Vec<ExtractorState>,
}

/// One extractor of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExtractorState {
    /// Which.
    pub extractor: String,
    /// `running`, `restarting` or `held`; `null` if it is no more.
    pub status: Option<String>,
    /// How often its process was started again.
    pub restarts: u64,
    /// Frames it answered.
    pub observed: u64,
    /// Frames it failed on.
    pub failed: u64,
    /// Frames it gave no answer for in time.
    pub timed_out: u64,
    /// Answers that came too late.
    pub late: u64,
    /// Admitted frames it never saw, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Time spent in it.
    pub busy_ms: u64,
}

/// How often a rule fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TriggerCount {
    /// The path.
    pub path: String,
    /// The rule's label.
    pub label: String,
    /// A RANGE counts once.
    pub count: u64,
}

/// Clips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClipsState {
    /// Made since the process began.
    pub ready: u64,
    /// Not made.
    pub failed: u64,
    /// In the directory now.
    pub count: u64,
    /// Bytes of everything in it.
    pub bytes: u64,
    /// What it may have (`clip.quota_bytes`).
    pub quota_bytes: u64,
}

/// The broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MqttState {
    /// It is there.
    pub connected: bool,
    /// Messages it has not acknowledged yet.
    pub undelivered: u64,
}

/// A ring as documents tell of it.
pub fn ring(ring: &RingState, short: Option<&Shortfall>) -> RingStatus {
    RingStatus {
        held_ms: ring.held_ms,
        bytes: ring.bytes as u64,
        budget_bytes: ring.budget_bytes as u64,
        packets: ring.packets as u64,
        oldest_ns: ring.oldest_ns,
        oldest_ms: ring.oldest_ns.map(|ns| ns.div_euclid(NS_PER_MS)),
        bytes_per_s: ring.bytes_per_s,
        short: short.map(|s| RingShort {
            asked_ms: s.asked_ms,
            holds_ms: s.holds_ms,
            needs_bytes: s.needs_bytes,
        }),
    }
}
