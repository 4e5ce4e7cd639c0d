//! Every JSON document that leaves over MQTT or `run --json`, as types.
//!
//! Fields may be added within a schema's version, never renamed or retyped. Times in nanoseconds
//! come a second time in milliseconds, because a browser's numbers end at 2^53.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use visualpath_core::{
    EndReason, ModelUse, NS_PER_MS, Name, Object, Phase, Signals, Trigger, TriggerKind,
};

mod clip;
mod ring;

pub use self::clip::{CLIP_SCHEMA, ClipBody, ClipGap, ClipPayload, ClipState};
pub use self::ring::{RingShort, RingStatus, SourceHealth};
use crate::command::{CommandPayload, CommandResponse};

/// `schema` of a [`TriggerPayload`].
pub const TRIGGER_SCHEMA: &str = "visualpath.trigger/1";
/// `schema` of a [`GapPayload`].
pub const GAP_SCHEMA: &str = "visualpath.gap/1";
/// `schema` of an [`Info`].
pub const INFO_SCHEMA: &str = "visualpath.info/1";
/// `schema` of a [`Health`].
pub const HEALTH_SCHEMA: &str = "visualpath.health/1";

/// Whole milliseconds, rounded down, so that order is kept.
fn ms(ns: i64) -> i64 {
    ns.div_euclid(NS_PER_MS)
}

/// Every document's name and JSON Schema.
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("trigger", schemars::schema_for!(TriggerPayload).into()),
        ("clip", schemars::schema_for!(ClipPayload).into()),
        ("gap", schemars::schema_for!(GapPayload).into()),
        ("info", schemars::schema_for!(Info).into()),
        ("health", schemars::schema_for!(Health).into()),
        ("summary", schemars::schema_for!(Summary).into()),
        ("command", schemars::schema_for!(CommandPayload).into()),
        ("response", schemars::schema_for!(CommandResponse).into()),
    ]
}

/// One line of `run --json`: a payload and `"event"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A trigger, as published.
    Trigger(TriggerPayload),
    /// A clip, as published.
    Clip(ClipPayload),
    /// The last line.
    Summary(Summary),
}

/// A trigger on the wire: what the outbox adds, then what the path said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TriggerPayload {
    /// `visualpath.trigger/1`.
    #[schemars(extend("const" = TRIGGER_SCHEMA))]
    pub schema: String,
    /// UUIDv7 of this message; consumers de-duplicate by it.
    pub id: String,
    /// The outbox's id; changes only when the outbox is new.
    pub stream: String,
    /// Number within `stream`, from 1, without gaps (but for those a gap message names).
    #[schemars(range(min = 1))]
    pub seq: u64,
    /// First sent by an earlier connection or process.
    pub replayed: bool,
    /// The rest.
    #[serde(flatten)]
    pub trigger: TriggerBody,
}

/// What a path says about a trigger. All `…_ns` are source time (monotonic per source).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TriggerBody {
    /// Of this boot of the machine.
    pub boot_id: String,
    /// The appliance.
    pub device: String,
    /// The path whose rule fired.
    pub path: String,
    /// The camera.
    pub source: String,
    /// The rule's label.
    pub label: String,
    /// POINT or RANGE.
    pub kind: TriggerKind,
    /// Of a RANGE: which of its two messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<PhaseWord>,
    /// The same for a RANGE's two messages: the id of the first. Of a POINT: its id.
    /// Empty until the publisher fills it.
    pub trigger_id: String,
    /// Of a RANGE's end: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// First frame of the event.
    pub frame_id: u64,
    /// Its time.
    pub t_ns: i64,
    /// The same in milliseconds.
    pub t_ms: i64,
    /// Time of the frame at which the rule fired.
    pub fired_ns: i64,
    /// The same in milliseconds.
    pub fired_ms: i64,
    /// When the condition began to hold.
    pub event_start_ns: i64,
    /// The same in milliseconds.
    pub event_start_ms: i64,
    /// Until when it held, as far as known.
    pub event_end_ns: i64,
    /// The same in milliseconds.
    pub event_end_ms: i64,
    /// Time of the event's best frame, as far as known: the one its still shows.
    pub best_ns: i64,
    /// The same in milliseconds.
    pub best_ms: i64,
    /// The clip asked for; may be negative.
    pub t_start_ns: i64,
    /// The same in milliseconds.
    pub t_start_ms: i64,
    /// The clip asked for: end.
    pub t_end_ns: i64,
    /// The same in milliseconds.
    pub t_end_ms: i64,
    /// Wall time of `t_ns`, RFC 3339, UTC.
    pub time: String,
    /// How far to trust `time`.
    pub clock: ClockQuality,
    /// 0–1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub score: f64,
    /// Why, in words.
    pub reason: String,
    /// Observations read when it fired.
    pub observations_used: u32,
    /// The signals the rule reads, as `extractor.signal`. Always finite.
    #[schemars(with = "BTreeMap<String, f64>")]
    pub signals: Signals,
    /// Objects of the extractors the rule reads, at the frame it fired on.
    pub objects: Vec<Object>,
    /// The clip that will follow as `ready` or `failed`, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<ClipRef>,
    /// Models that had a part in it.
    pub models: Vec<ModelRef>,
    /// Where the time went.
    pub latency_ms: Latency,
    /// Anything else.
    pub metadata: Map<String, Value>,
    /// Fields emptied because the message would have been too large for a broker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trimmed: Vec<String>,
}

/// Which message of a RANGE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PhaseWord {
    /// It began.
    Start,
    /// It ended.
    End,
}

/// How far to trust a wall time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClockQuality {
    /// Whether the machine's clock is synchronised.
    pub synced: bool,
    /// Bound on its error, where known.
    pub err_ms: Option<f64>,
}

/// A clip by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClipRef {
    /// UUIDv7.
    pub id: String,
}

/// A model by what identifies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef {
    /// The card's name.
    pub name: String,
    /// The card's version.
    pub version: String,
    /// Of the file used.
    pub sha256: String,
    /// What really runs it.
    #[serde(default)]
    pub runtime: String,
}

impl From<&ModelUse> for ModelRef {
    fn from(m: &ModelUse) -> Self {
        Self {
            name: m.name.clone(),
            version: m.version.clone(),
            sha256: m.sha256.clone(),
            runtime: m.runtime.clone(),
        }
    }
}

/// Milliseconds from the frame at which the rule fired to the trigger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// In extractors.
    pub extract: f64,
    /// Waiting until the frame was settled.
    pub settle: f64,
    /// In fusion.
    pub fuse: f64,
    /// From the frame's arrival to the trigger.
    pub total: f64,
}

/// What the appliance knows about a trigger that its path does not.
#[derive(Debug, Clone)]
pub struct TriggerContext<'a> {
    /// The appliance.
    pub device: &'a str,
    /// Of this boot.
    pub boot_id: &'a str,
    /// The path.
    pub path: &'a Name,
    /// The camera.
    pub source: &'a Name,
    /// Wall time of the trigger's `t_ns`, RFC 3339, UTC.
    pub time: String,
    /// How far to trust it.
    pub clock: ClockQuality,
    /// The clip's id if there will be one.
    pub clip_id: Option<String>,
    /// Of a RANGE's end: `trigger_id` of its start.
    pub trigger_id: Option<String>,
    /// Models in use by the path's extractors.
    pub models: &'a [ModelUse],
    /// Where the time went.
    pub latency_ms: Latency,
}

impl TriggerBody {
    /// The message of `trigger`.
    pub fn new(trigger: &Trigger, cx: TriggerContext<'_>) -> Self {
        let (phase, end_reason) = match trigger.phase {
            Phase::Point => (None, None),
            Phase::Start => (Some(PhaseWord::Start), None),
            Phase::End { reason } => (Some(PhaseWord::End), Some(reason)),
        };
        let best_ns = trigger.best_ns.unwrap_or(trigger.t_ns);
        Self {
            boot_id: cx.boot_id.to_owned(),
            device: cx.device.to_owned(),
            path: cx.path.to_string(),
            source: cx.source.to_string(),
            label: trigger.label.to_string(),
            kind: trigger.kind,
            phase,
            trigger_id: cx.trigger_id.unwrap_or_default(),
            end_reason,
            frame_id: trigger.frame_id,
            t_ns: trigger.t_ns,
            t_ms: ms(trigger.t_ns),
            fired_ns: trigger.fired_ns,
            fired_ms: ms(trigger.fired_ns),
            event_start_ns: trigger.event_start_ns,
            event_start_ms: ms(trigger.event_start_ns),
            event_end_ns: trigger.event_end_ns,
            event_end_ms: ms(trigger.event_end_ns),
            best_ns,
            best_ms: ms(best_ns),
            t_start_ns: trigger.t_start_ns,
            t_start_ms: ms(trigger.t_start_ns),
            t_end_ns: trigger.t_end_ns,
            t_end_ms: ms(trigger.t_end_ns),
            time: cx.time,
            clock: cx.clock,
            score: trigger.score,
            reason: trigger.reason.clone(),
            observations_used: trigger.observations_used,
            signals: trigger.signals.clone(),
            objects: trigger.objects.clone(),
            clip: cx.clip_id.map(|id| ClipRef { id }),
            models: cx.models.iter().map(ModelRef::from).collect(),
            latency_ms: cx.latency_ms,
            metadata: trigger.metadata.clone(),
            trimmed: Vec::new(),
        }
    }

    /// Takes out what JSON can't say (NaN and infinities) and names what it took out. A trigger
    /// with one bad number is still a trigger.
    pub(crate) fn drop_non_finite(&mut self) -> Vec<String> {
        let mut dropped = Vec::new();
        let mut check = |name: &str, value: &mut f64| {
            if !value.is_finite() {
                *value = 0.0;
                dropped.push(name.to_owned());
            }
        };
        check("score", &mut self.score);
        let l = &mut self.latency_ms;
        check("latency_ms.extract", &mut l.extract);
        check("latency_ms.settle", &mut l.settle);
        check("latency_ms.fuse", &mut l.fuse);
        check("latency_ms.total", &mut l.total);
        if self.clock.err_ms.is_some_and(|e| !e.is_finite()) {
            self.clock.err_ms = None;
            dropped.push("clock.err_ms".to_owned());
        }
        if self.signals.iter().any(|(_, v)| !v.is_finite()) {
            dropped.extend(
                self.signals
                    .iter()
                    .filter(|(_, v)| !v.is_finite())
                    .map(|(n, _)| format!("signals.{n}")),
            );
            self.signals = self
                .signals
                .iter()
                .filter(|(_, v)| v.is_finite())
                .map(|(n, v)| (std::sync::Arc::clone(n), v))
                .collect();
        }
        let before = self.objects.len();
        self.objects.retain(|o| {
            o.score.is_finite()
                && o.area.is_finite()
                && o.bbox.iter().all(|v| v.is_finite())
                && o.keypoints.iter().flatten().all(|v| v.is_finite())
        });
        if self.objects.len() < before {
            dropped.push("objects".to_owned());
        }
        dropped
    }
}

/// Stands for the events a full outbox had to evict. It carries no `seq` of its own: it covers
/// `seq_from` to `seq_to` of `stream`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GapPayload {
    /// `visualpath.gap/1`.
    #[schemars(extend("const" = GAP_SCHEMA))]
    pub schema: String,
    /// UUIDv7; new whenever a gap that may have been sent has grown.
    pub id: String,
    /// The outbox's id.
    pub stream: String,
    /// First evicted trigger; `null` if only clip messages were evicted.
    pub seq_from: Option<u64>,
    /// Last evicted trigger.
    pub seq_to: Option<u64>,
    /// Evicted messages: `triggers` + `clips`.
    pub count: u64,
    /// Evicted triggers: exactly `seq_to - seq_from + 1`.
    pub triggers: u64,
    /// Evicted clip messages.
    pub clips: u64,
    /// How many of `count` had been sent, but not acknowledged, on an earlier connection.
    pub maybe_delivered: u64,
    /// First sent by an earlier connection or process.
    pub replayed: bool,
}

/// What is running: retained at `info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Info {
    /// `visualpath.info/1`.
    #[schemars(extend("const" = INFO_SCHEMA))]
    pub schema: String,
    /// The appliance.
    pub device: String,
    /// Of this boot.
    pub boot_id: String,
    /// visualpath's version.
    pub version: String,
    /// Commit it was built from, where known.
    pub commit: Option<String>,
    /// Rust target it was built for.
    pub target: String,
    /// What this build and machine can do.
    pub capabilities: Vec<String>,
    /// Models in use.
    pub models: Vec<InfoModel>,
    /// What the sources deliver.
    #[serde(default)]
    pub sources: Vec<InfoSource>,
    /// The machine.
    pub machine: Machine,
}

/// What a source delivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InfoSource {
    /// Which.
    pub source: String,
    /// For people: coding, size, rate, and what of it is not captured (the sound of a stream).
    /// Empty before it has been opened.
    pub format: String,
}

/// A model with its licences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InfoModel {
    /// What identifies it.
    #[serde(flatten)]
    pub model: ModelRef,
    /// Licence of the code it came with (SPDX).
    pub code_license: Option<String>,
    /// Licence of the weights.
    pub weights_license: Option<String>,
    /// Licence of the data it was trained on.
    pub data_license: Option<String>,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// E.g. `linux`.
    pub os: String,
    /// E.g. `aarch64`.
    pub arch: String,
    /// Cores usable.
    pub cores: u32,
    /// Memory.
    pub memory_bytes: u64,
}

/// How it is: retained at `health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `visualpath.health/1`.
    #[schemars(extend("const" = HEALTH_SCHEMA))]
    pub schema: String,
    /// The appliance.
    pub device: String,
    /// The worst of the problems.
    pub state: HealthState,
    /// What is wrong; empty if `ok`.
    pub problems: Vec<Problem>,
    /// The sources that run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceHealth>,
    /// Wall time of this message, RFC 3339, UTC.
    pub time: String,
}

/// How it is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// All well.
    Ok,
    /// It works, but something needs a look.
    Degraded,
    /// It does not do its job.
    Fault,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// A fixed word, e.g. `broker_unreachable`.
    pub code: String,
    /// What it is about: a source, an extractor, a file.
    pub subject: String,
    /// Wall time since when, RFC 3339, UTC.
    pub since: String,
    /// What is seen.
    pub detail: String,
    /// What to do.
    #[serde(rename = "do")]
    pub advice: String,
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Frames captured.
    pub frames: u64,
    /// Frames per second of wall time.
    pub fps: f64,
    /// Admitted frames dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Triggers fired.
    pub triggers: u64,
    /// Clips made and not made.
    pub clips: ClipCounts,
    /// Observations, by extractor.
    pub observations: BTreeMap<String, u64>,
    /// The same numbers for each source.
    #[serde(default)]
    pub sources: BTreeMap<String, SourceSummary>,
    /// Frames an extractor failed on, by extractor.
    #[serde(default)]
    pub failed: BTreeMap<String, u64>,
    /// Frames an extractor gave no answer for in time, by extractor.
    #[serde(default)]
    pub timed_out: BTreeMap<String, u64>,
    /// Answers that came after their frame had settled or timed out, by extractor.
    #[serde(default)]
    pub late: BTreeMap<String, u64>,
    /// Frames that are missing from the evidence because the encoder did not take them.
    #[serde(default)]
    pub evidence_lost: u64,
    /// Wall seconds.
    pub wall_s: f64,
    /// CPU seconds of the process and its children.
    pub cpu_s: f64,
    /// Events not acknowledged by the broker when the run ended.
    #[serde(default)]
    pub events_undelivered: u64,
}

/// What a run came to on one source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceSummary {
    /// Frames captured.
    pub frames: u64,
    /// Admitted frames dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Observations, by extractor.
    pub observations: BTreeMap<String, u64>,
    /// Frames not offered, by extractor: `rate`, `gate`, `dependency`.
    pub skipped: BTreeMap<String, BTreeMap<String, u64>>,
    /// Milliseconds spent in each extractor.
    pub busy_ms: BTreeMap<String, u64>,
}

/// Clips by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClipCounts {
    /// Complete files.
    pub ready: u64,
    /// Failed.
    pub failed: u64,
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
