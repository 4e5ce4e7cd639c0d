//! What becomes of a clip, as a message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TriggerBody, ms};

/// `schema` of a [`ClipPayload`].
pub const CLIP_SCHEMA: &str = "visualpath.clip/1";

/// A clip's end, good or bad: for every `clip.id` of a trigger exactly one follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClipPayload {
    /// `visualpath.clip/1`.
    #[schemars(extend("const" = CLIP_SCHEMA))]
    pub schema: String,
    /// The clip's UUIDv7, as in the trigger's `clip.id`; consumers de-duplicate by it.
    pub id: String,
    /// First sent by an earlier connection or process.
    pub replayed: bool,
    /// The rest.
    #[serde(flatten)]
    pub clip: ClipBody,
}

/// What became of a clip. All `…_ns` are source time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClipBody {
    /// `trigger_id` of the trigger.
    pub trigger_id: String,
    /// The appliance.
    pub device: String,
    /// Ready or failed.
    pub state: ClipState,
    /// Relative to the state directory; `null` if failed.
    pub file: Option<String>,
    /// The id of the clip whose file `file` is, if that overlapped and has both (`clip.merge`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<String>,
    /// Why it failed; `null` if ready.
    pub reason: Option<String>,
    /// The camera.
    pub source: String,
    /// The path.
    pub path: String,
    /// The rule's label.
    pub label: String,
    /// What the clip shows: start.
    pub start_ns: i64,
    /// The same in milliseconds.
    pub start_ms: i64,
    /// What the clip shows: end.
    pub end_ns: i64,
    /// The same in milliseconds.
    pub end_ms: i64,
    /// In the file before `start_ns`, back to a key frame; players skip it.
    pub lead_in_ms: f64,
    /// Asked for before the event, but not there.
    pub short_pre_ms: f64,
    /// Why it is not there; `null` if nothing is missing: `source_start` (the source had not begun),
    /// `evicted` (`clip.ring_bytes` is too small), `format_change` (the picture changed in
    /// between), `merged` (it shares the file of a clip that begins later, `merged_into`).
    #[serde(default)]
    pub short_pre_reason: Option<String>,
    /// Asked for after the event, but not there.
    pub short_post_ms: f64,
    /// Why it ends where it ends.
    pub end_reason: Option<String>,
    /// The appliance was killed, or lost its power, while it was written: it ends with what was on
    /// the disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// The file that a browser plays, relative to the state directory: `file`, or an H.264 copy that
    /// follows soon after; `null` if there is none.
    #[serde(default)]
    pub playable: Option<String>,
    /// The picture of the clip that shows the event best, a JPEG, relative to the state directory. It
    /// follows soon after; `null` if none is wanted.
    #[serde(default)]
    pub still: Option<String>,
    /// Which picture that is.
    #[serde(default)]
    pub still_ns: Option<i64>,
    /// The same in milliseconds.
    #[serde(default)]
    pub still_ms: Option<i64>,
    /// Frames shown.
    pub frames: u64,
    /// Stretches without pictures.
    pub gaps: Vec<ClipGap>,
    /// E.g. `h264`, `mjpeg`.
    pub codec: Option<String>,
    /// Of the file.
    pub sha256: Option<String>,
    /// Size of the file.
    #[serde(default)]
    pub bytes: u64,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClipState {
    /// The file is complete and on disk.
    Ready,
    /// There is no file.
    Failed,
}

/// A stretch of a clip without pictures, in source time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClipGap {
    /// Last picture before.
    pub from_ns: i64,
    /// The same in milliseconds.
    pub from_ms: i64,
    /// First picture after.
    pub to_ns: i64,
    /// The same in milliseconds.
    pub to_ms: i64,
}

impl ClipGap {
    /// From one source time to another.
    pub fn new(from_ns: i64, to_ns: i64) -> Self {
        Self {
            from_ns,
            from_ms: ms(from_ns),
            to_ns,
            to_ms: ms(to_ns),
        }
    }
}

impl ClipBody {
    /// A clip that is asked for, of which nothing is known yet but that it is not there.
    pub fn asked(
        device: &str,
        trigger_id: &str,
        [source, path, label]: [&str; 3],
        (start_ns, end_ns): (i64, i64),
    ) -> Self {
        Self {
            trigger_id: trigger_id.to_owned(),
            device: device.to_owned(),
            state: ClipState::Failed,
            file: None,
            merged_into: None,
            reason: None,
            source: source.to_owned(),
            path: path.to_owned(),
            label: label.to_owned(),
            start_ns,
            start_ms: ms(start_ns),
            end_ns,
            end_ms: ms(end_ns),
            lead_in_ms: 0.0,
            short_pre_ms: 0.0,
            short_pre_reason: None,
            short_post_ms: 0.0,
            end_reason: None,
            partial: false,
            playable: None,
            still: None,
            still_ns: None,
            still_ms: None,
            frames: 0,
            gaps: Vec::new(),
            codec: None,
            sha256: None,
            bytes: 0,
        }
    }

    /// The one that a trigger asks for.
    pub fn of(trigger: &TriggerBody) -> Self {
        Self::asked(
            &trigger.device,
            &trigger.trigger_id,
            [&trigger.source, &trigger.path, &trigger.label],
            (trigger.t_start_ns, trigger.t_end_ns),
        )
    }

    /// Its still, and the time of the picture that it shows.
    #[must_use]
    pub fn with_still(self, still: Option<String>, still_ns: Option<i64>) -> Self {
        let still_ns = still_ns.filter(|_| still.is_some());
        Self {
            still,
            still_ns,
            still_ms: still_ns.map(ms),
            ..self
        }
    }

    /// It could not be made.
    #[must_use]
    pub fn failed(self, reason: impl Into<String>) -> Self {
        Self {
            state: ClipState::Failed,
            reason: Some(reason.into()),
            ..self
        }
    }

    /// It is there and shows `start_ns` to `end_ns`; the caller fills in the rest.
    #[must_use]
    pub fn ready(self, file: impl Into<String>, start_ns: i64, end_ns: i64) -> Self {
        Self {
            state: ClipState::Ready,
            file: Some(file.into()),
            reason: None,
            start_ns,
            start_ms: ms(start_ns),
            end_ns,
            end_ms: ms(end_ns),
            ..self
        }
    }
}
