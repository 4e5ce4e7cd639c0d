//! The evidence lane: from frames to clips on the disk.
//!
//! ```text
//!            offer(frame)             bounded               fragments
//! capture ──────────────▶ encoder ──────────────▶ ring ──┬──────────────▶ .part ─▶ .mp4 + .json
//!    │                    thread       packets    ▲      │                               │
//!    └── offer_packet, of what the device encoded ┘      │                               │
//! triggers ── request, set_end ──────────────────▶ clip ─┘                               ▼
//!                                                  thread                          ClipResult
//! ```
//!
//! One [`EvidenceLane`] per source owns both threads; one [`ClipStore`] per state directory is
//! shared by all lanes and keeps the byte quota. A clip is a mux of packets that the ring already
//! has or will get, never a re-encode.
//!
//! The one hard idea: **a clip is opened when it is asked for and written as packets come.** Its
//! beginning is copied from the ring at once (as soon as the ring reaches the asked start), so
//! nothing that it needs can be evicted later, and a crash loses at most the fragment being filled.
//!
//! The contract: for every request exactly one [`ClipResult`], whatever happens, and everything
//! that is missing from a clip is a field of it.

mod after;
mod books;
mod disk;
mod encoding;
mod entries;
mod feed;
mod finish;
mod index;
mod lane;
mod merge;
#[cfg(test)]
mod model;
mod open;
mod part;
mod recover;
mod room;
mod still;
mod store;
#[cfg(test)]
mod torn_tests;
mod writer;
#[cfg(test)]
mod writer_tests;

use serde::{Deserialize, Serialize};
use visualpath_core::Name;

pub use self::after::{After, Beside};
pub use self::entries::{ClipEntry, EntryState, StrayFile};
pub use self::index::IndexError;
pub use self::lane::{EvidenceLane, Finish, LaneError, LaneOptions, LaneStats, Offered};
pub use self::store::{ClipStore, StoreError};
use crate::encode::Codec;
use crate::ring::Gap;

/// The `schema` of a clip's sidecar.
pub const CLIP_SCHEMA: &str = "visualpath.clip/1";

/// What a trigger asks for. Times are source times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipRequest {
    /// The clip's id, a UUID as text; unique.
    pub id: String,
    /// The trigger's id; empty if a command asks for it.
    pub trigger_id: String,
    /// The path whose fusion fired.
    pub path: Name,
    /// The rule's label.
    pub label: Name,
    /// When the event began: the clip's name says this time.
    pub event_ns: i64,
    /// The wall time of `event_ns`, nanoseconds since 1970 UTC.
    pub wall_ns: i64,
    /// Asked start, event − pre-roll. May be before the source's first picture.
    pub start_ns: i64,
    /// Asked end, event + post-roll. Of a RANGE whose end is not known yet, the latest possible;
    /// [`EvidenceLane::set_end`] corrects it.
    pub end_ns: i64,
    /// When the event is seen best, as far as it is known: what the still beside the clip shows.
    /// `None`: when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_ns: Option<i64>,
}

impl ClipRequest {
    /// What the still is to show.
    pub(crate) fn still_at_ns(&self) -> i64 {
        self.best_ns.unwrap_or(self.event_ns)
    }

    /// The event ended, and was seen best then, if that is known.
    fn ends_at(&mut self, end_ns: i64, best_ns: Option<i64>) {
        self.end_ns = end_ns.max(self.start_ns);
        self.best_ns = best_ns.or(self.best_ns);
    }
}

/// How a clip ended up: what the clip message and the sidecar say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipResult {
    /// The clip's id.
    pub id: String,
    /// The trigger that asked for it.
    pub trigger_id: String,
    /// The camera.
    pub source: Name,
    /// The path.
    pub path: Name,
    /// The label.
    pub label: Name,
    /// `ready` with everything about the file, or `failed` with the reason.
    #[serde(flatten)]
    pub state: ClipState,
}

/// A clip of an earlier process that nobody was told of.
#[derive(Debug, Clone, PartialEq)]
pub struct Unheard {
    /// What was asked for.
    pub request: ClipRequest,
    /// What became of it.
    pub result: ClipResult,
}

/// Ready or failed; nothing else ever follows a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ClipState {
    /// The file is whole and durable.
    Ready(ReadyClip),
    /// There is no file.
    Failed {
        /// Why, for a person.
        reason: String,
    },
}

/// A finished clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadyClip {
    /// The file, relative to the state directory, with `/`.
    pub file: String,
    /// The id of the clip whose file it is, if this request was joined to another (`[clip] merge`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub merged_into: Option<String>,
    /// Asked start and end.
    pub asked_start_ns: i64,
    /// Asked end, the last that was set.
    pub asked_end_ns: i64,
    /// Time of the first picture shown: the last at or before the asked start.
    pub start_ns: i64,
    /// Time of the last picture shown: the first at or after the asked end.
    pub end_ns: i64,
    /// How much the file holds before `start_ns`, from the key picture on; decoded, not shown.
    pub lead_in_ms: f64,
    /// How much later than asked it starts; 0 = nothing is missing.
    pub short_pre_ms: f64,
    /// Why it starts late; absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub short_pre_reason: Option<ShortPre>,
    /// How much earlier than asked it ends.
    pub short_post_ms: f64,
    /// Why it ended.
    pub end_reason: ClipEnd,
    /// The appliance was killed, or lost its power, while it was written: it ends with the last
    /// fragment that was on the disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Pictures shown.
    pub frames: u64,
    /// Pictures of the lead-in.
    pub lead_in_frames: u64,
    /// Time of the picture that the still shows: of those shown, the nearest to
    /// [`ClipRequest::best_ns`]. Of a clip of an earlier version, `None`. Clips that share a file
    /// share its still: there this is the first request's, whatever the others asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still_ns: Option<i64>,
    /// Where pictures are missing inside.
    pub gaps: Vec<Gap>,
    /// How the pictures are coded.
    pub codec: Codec,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Of the whole file, lower-case hexadecimal.
    pub sha256: String,
    /// The file's size.
    pub bytes: u64,
}

/// Why a clip ended where it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipEnd {
    /// It has everything up to the asked end.
    Complete,
    /// The source ended first.
    SourceEnd,
    /// No picture came for too long.
    GapTimeout,
    /// The appliance was stopped.
    Stopped,
    /// The picture's size or coding changed: one file can't hold both.
    FormatChange,
    /// The quota has no room for more, even without any other clip.
    Quota,
    /// The file system has no room for more.
    DiskFull,
    /// The disk failed, or is read-only by now.
    DiskError,
    /// The appliance was killed, or lost its power.
    Interrupted,
}

/// Why a clip starts later than asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortPre {
    /// The source had not begun.
    SourceStart,
    /// The ring had thrown it away: `ring_bytes` is too small for the pre-roll.
    Evicted,
    /// The picture's size or coding changed between the asked start and the event.
    FormatChange,
    /// It was joined to a clip that had begun already (`[clip] merge`).
    Merged,
}

/// Nanoseconds as milliseconds, for messages.
fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}
