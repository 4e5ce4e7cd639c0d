//! Clips that share a file: `[clip] merge = true`.
//!
//! A request whose asked range overlaps that of a clip of the same source that is still open, or
//! follows or precedes it by no more than a GOP, is joined to it: the clip goes on to the later end.
//! All of them get a result of their own (id, trigger, what they asked for and what of it is
//! missing) about the one file, which has the name of the first.
//!
//! - From the first's start to the latest end it is `max_ns` at most; what would be longer begins a
//!   new clip. One that alone asks for more is not touched.
//! - The file begins where its first request does: what a later one wants before that is missing
//!   from that one (`short_pre_ms`, [`ShortPre::Merged`]). One whose event lies before it is not
//!   joined at all, nor one whose event lies before the first's as long as that is still to come:
//!   where the format changes between the two, the file would not have the event it is named after.
//! - Where the file ends before a joined request's event and there are later pictures (the format
//!   changed, the disk was full), or before its start, or is lost altogether, that request gets a
//!   clip of its own after all.
//!
//! What no trigger asks for (a command's clip has no trigger id) is not joined, and nothing to it.
//!
//! **After a crash.** That a request is joined is in its row of the index before it is; the file's
//! note knows only the first. The finished file's sidecar has them all.

use serde::{Deserialize, Serialize};

use super::open::OpenClip;
use super::store::is_uuid;
use super::{ClipEnd, ClipRequest, ClipResult, ReadyClip, ShortPre, ms};

/// Requests that one file may answer beside its first.
const MOST_JOINED: usize = 63;

/// When a request is joined to a clip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merging {
    /// How far apart two ranges may lie.
    pub(super) gap_ns: i64,
    /// From the first's start to the latest end.
    pub(super) max_ns: i64,
}

impl Merging {
    /// Which of the open clips it is joined to: the one that was asked to begin last.
    /// `newest_ns` is the newest picture there is.
    pub(super) fn host(
        &self,
        clips: &[OpenClip],
        request: &ClipRequest,
        newest_ns: Option<i64>,
    ) -> Option<usize> {
        let fits = clips.iter().enumerate();
        let fits = fits.filter(|(_, clip)| self.joins(clip, request, newest_ns));
        fits.max_by_key(|(_, c)| (c.request.start_ns, &c.request.id))
            .map(|(i, _)| i)
    }

    fn joins(&self, clip: &OpenClip, request: &ClipRequest, newest_ns: Option<i64>) -> bool {
        let (start_ns, end_ns) = (clip.request.start_ns, clip.end_ns());
        let is_range = request.start_ns <= request.end_ns && start_ns <= end_ns;
        let is_valid = is_range && is_uuid(&request.id);
        let touches = request.start_ns <= end_ns.saturating_add(self.gap_ns)
            && start_ns <= request.end_ns.saturating_add(self.gap_ns);
        let until_ns = end_ns.max(request.end_ns);
        let fits = until_ns.saturating_sub(start_ns) <= self.max_ns;
        let begins_ns = clip.begins_ns().map_or(start_ns, |t| t.max(start_ns));
        let is_shown = begins_ns <= request.event_ns;
        // Should the format change between the two events, the file has the earlier one.
        let event_ns = clip.request.event_ns;
        let is_later = request.event_ns >= event_ns || newest_ns >= Some(event_ns);
        // Who asks by a command wants to have it, and perhaps to delete it, for itself.
        let by_triggers = !request.trigger_id.is_empty() && !clip.request.trigger_id.is_empty();
        let has_room = clip.joined.len() < MOST_JOINED;
        by_triggers && is_valid && touches && fits && is_shown && is_later && has_room
    }
}

/// How a file answers one of its requests; the sidecar lists those beside the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Merged {
    /// What was asked for.
    #[serde(flatten)]
    pub(super) request: ClipRequest,
    short_pre_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    short_pre_reason: Option<ShortPre>,
    short_post_ms: f64,
    end_reason: ClipEnd,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

impl Merged {
    /// Of a file from `start_ns` to `end_ns` that ended, for this request, for `end_reason`, and,
    /// where that is known, begins where it does for `short_pre_reason`.
    pub(super) fn new(
        request: &ClipRequest,
        (start_ns, end_ns): (i64, i64),
        (short_pre_reason, end_reason): (Option<ShortPre>, ClipEnd),
    ) -> Self {
        let short_pre_ns = start_ns.saturating_sub(request.start_ns).max(0);
        let short_post_ns = request.end_ns.saturating_sub(end_ns).max(0);
        let why = short_pre_reason.unwrap_or(ShortPre::Merged);
        Self {
            request: request.clone(),
            short_pre_ms: ms(short_pre_ns),
            short_pre_reason: (short_pre_ns > 0).then_some(why),
            short_post_ms: ms(short_post_ns),
            end_reason,
            partial: end_reason == ClipEnd::Interrupted,
        }
    }

    /// The file as this request sees it.
    pub(super) fn ready(&self, file: &ReadyClip, merged_into: Option<&str>) -> ReadyClip {
        ReadyClip {
            merged_into: merged_into.map(str::to_owned),
            asked_start_ns: self.request.start_ns,
            asked_end_ns: self.request.end_ns,
            short_pre_ms: self.short_pre_ms,
            short_pre_reason: self.short_pre_reason,
            short_post_ms: self.short_post_ms,
            end_reason: self.end_reason,
            partial: self.partial,
            ..file.clone()
        }
    }
}

/// What has become of a clip and of the requests that were joined to it.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) results: Vec<ClipResult>,
    /// Joined to it in vain: they get a clip of their own.
    pub(super) left: Vec<ClipRequest>,
}
