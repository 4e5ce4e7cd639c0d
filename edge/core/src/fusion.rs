//! From aligned observations to triggers.

use std::any::Any;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::extractor::PluginError;
use crate::name::Name;
use crate::observation::{Held, Object, Outcome, Signals};

/// One extractor of the path, at one settled frame.
#[derive(Debug, Clone, PartialEq)]
pub struct AlignedEntry {
    /// The extractor.
    pub extractor: Name,
    /// Its outcome for this very frame; `None` if the frame was skipped, or still out when the
    /// window closed.
    pub outcome: Option<Outcome>,
    /// The newest Observed outcome at or before this frame that is not stale: what rules read.
    pub held: Option<Arc<Held>>,
}

/// One settled frame with what the path's extractors said.
#[derive(Debug, Clone, PartialEq)]
pub struct Aligned {
    /// The source it came from.
    pub source: Name,
    /// The frame.
    pub frame_id: u64,
    /// Its source time: the fusion's clock.
    pub t_ns: i64,
    /// The wall time of `t_ns`, nanoseconds since 1970 UTC, attached by the path thread so that a
    /// fusion that knows the time of day stays pure. For conditions such as "at night" only:
    /// it steps when the machine's clock does.
    pub unix_ns: i64,
    /// One entry per extractor of the path, in the config's order.
    pub entries: Vec<AlignedEntry>,
}

impl Aligned {
    /// The entry of an extractor.
    pub fn entry(&self, extractor: &str) -> Option<&AlignedEntry> {
        self.entries.iter().find(|e| e.extractor == *extractor)
    }
}

/// What a fusion is fed with, in frame order, each settled frame exactly once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FusionInput<'a> {
    /// A settled frame.
    Aligned(&'a Aligned),
    /// The source lost pictures between these source times.
    Gap {
        /// Time of the last frame before.
        from_ns: i64,
        /// Time of the first frame after.
        to_ns: i64,
    },
    /// Nothing follows. `t_ns` is the last frame's time; open ranges close here.
    End {
        /// Source time of the last frame.
        t_ns: i64,
    },
}

/// A state machine from aligned frames to triggers. Pure: its answer depends on its state and the
/// input's event time only, so a recorded trace replays to the same triggers.
pub trait Fusion: Any + Send {
    /// Takes one input.
    fn update(&mut self, input: FusionInput<'_>) -> FusionResult;

    /// Back to the initial state.
    fn reset(&mut self);

    /// Takes the place of `old` between two frames, after the one at `t_ns` (a reload). What `old`
    /// has open is closed, unless this fusion knows it (by upcasting to `Any`) and goes on with it.
    fn take_over(&mut self, mut old: Box<dyn Fusion>, t_ns: i64) -> FusionResult {
        old.update(FusionInput::End { t_ns })
    }
}

/// One extractor of a path, as its fusion may refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractorSignals {
    /// Its name in the config.
    pub name: Name,
    /// The signals its plugin declares; empty when it declares none, then none is checked.
    pub signals: Vec<String>,
    /// Zones of the source it looks at.
    pub zones: Vec<Name>,
}

/// What a fusion is made with.
#[derive(Debug, Clone)]
pub struct FusionContext {
    /// The fusion's name in the config.
    pub name: Name,
    /// `[fusion.<name>.config]`, unchanged.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// The extractors of the path, in the config's order.
    pub extractors: Vec<ExtractorSignals>,
}

/// Makes fusions of one kind, one per (path, source). Registered under its name.
pub trait FusionPlugin: Send + Sync {
    /// The name the config refers to.
    fn name(&self) -> &str;

    /// The plugin's version.
    fn version(&self) -> &str;

    /// Whether its triggers may want clips; if not, no encoder runs for it.
    fn wants_clips(&self, _cx: &FusionContext) -> bool {
        true
    }

    /// Checks the config and makes the fusion.
    fn create(&self, cx: &FusionContext) -> Result<Box<dyn Fusion>, PluginError>;
}

/// A fusion's answer to one input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FusionResult {
    /// What fired; several rules may fire on one frame.
    pub triggers: Vec<Trigger>,
    /// The largest score of the triggers.
    pub score: f64,
    /// Why, in words.
    pub reason: String,
    /// Observations read for this answer.
    pub observations_used: u32,
    /// Anything else.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Labels that went ON or OFF at this frame (`state/<label>`).
    pub states: Vec<(Name, bool)>,
}

impl FusionResult {
    /// Whether anything fired.
    pub fn should_trigger(&self) -> bool {
        !self.triggers.is_empty()
    }
}

/// An instant or a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TriggerKind {
    /// An event.
    Point,
    /// A start and an end.
    Range,
}

/// Which message of a trigger this is. A POINT has one, a RANGE two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The only message of a POINT.
    Point,
    /// A RANGE began; its end is not known yet.
    Start,
    /// A RANGE ended.
    End {
        /// `released`, `max_s` or `interrupted`.
        reason: EndReason,
    },
}

/// Why a RANGE ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The condition was false for `release_ms`.
    Released,
    /// It reached `max_s` and was split.
    MaxS,
    /// The source ended or had a gap, or the appliance stopped.
    Interrupted,
}

/// What a fusion emits. All times are source times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// The rule's label.
    pub label: Name,
    /// POINT or RANGE.
    pub kind: TriggerKind,
    /// First, last or only message.
    pub phase: Phase,
    /// Counts this label's events since the fusion began; the same for a RANGE's start and end, so
    /// the two messages can be joined.
    pub event: u64,
    /// First frame of the event.
    pub frame_id: u64,
    /// Its time.
    pub t_ns: i64,
    /// Time of the frame at which the rule fired.
    pub fired_ns: i64,
    /// When the condition began to hold.
    pub event_start_ns: i64,
    /// Until when it held, as far as known at this message.
    pub event_end_ns: i64,
    /// Time of the event's best frame, as far as known at this message: the one a still should
    /// show. `None` if the fusion has no opinion; the event's first frame has to do then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_ns: Option<i64>,
    /// Clip asked for: start (may be negative).
    pub t_start_ns: i64,
    /// Clip asked for: end; of a RANGE's start, the latest end possible (`max_s`).
    pub t_end_ns: i64,
    /// 0–1.
    pub score: f64,
    /// Why, in words.
    pub reason: String,
    /// Observations read when it fired.
    pub observations_used: u32,
    /// The signals the rule reads, as `extractor.signal`.
    pub signals: Signals,
    /// Objects of the extractors the rule reads, at the frame it fired on.
    pub objects: Vec<Object>,
    /// Whether a clip is wanted.
    pub clip: bool,
    /// Anything else.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}
