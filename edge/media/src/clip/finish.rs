//! From a file with whole fragments to a clip: the tables, the sidecar, the result. The same way for
//! a clip that is being written and for one that an earlier process left behind.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use visualpath_core::{ColorSpec, Name};

use super::index::Asked;
use super::merge::{Merged, Settled};
use super::open::ClipError;
use super::part::PartFile;
use super::{CLIP_SCHEMA, ClipEnd, ClipRequest, ClipResult, ClipState, ReadyClip, ShortPre, ms};
use crate::encode::{Codec, CodecParams};
use crate::mp4::Mp4Writer;
use crate::ring::Gap;

/// Gaps listed in a clip; later ones are added to the last.
const MOST_GAPS: usize = 256;

/// What is known of a clip when its file begins. It is the file's note: with it and its fragments a
/// file says everything about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) asked: Asked,
    /// When the first picture is decoded.
    pub(super) first_dts_ns: i64,
    /// When it is shown.
    pub(super) first_ns: i64,
    /// The first picture that is to be shown.
    pub(super) start_ns: i64,
    pub(super) short_pre_reason: Option<ShortPre>,
    params: Params,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Params {
    codec: Codec,
    width: u32,
    height: u32,
    color: ColorSpec,
    vps: Vec<u8>,
    sps: Vec<u8>,
    pps: Vec<u8>,
}

impl Head {
    pub(super) fn new(
        asked: Asked,
        params: &CodecParams,
        (first_dts_ns, first_ns, start_ns): (i64, i64, i64),
        short_pre_reason: Option<ShortPre>,
    ) -> Self {
        Self {
            asked,
            first_dts_ns,
            first_ns,
            start_ns,
            short_pre_reason,
            params: Params {
                codec: params.codec,
                width: params.width,
                height: params.height,
                color: params.color,
                vps: params.vps.to_vec(),
                sps: params.sps.to_vec(),
                pps: params.pps.to_vec(),
            },
        }
    }

    pub(super) fn params(&self) -> Arc<CodecParams> {
        let p = &self.params;
        Arc::new(CodecParams {
            codec: p.codec,
            width: p.width,
            height: p.height,
            color: p.color,
            vps: Bytes::copy_from_slice(&p.vps),
            sps: Bytes::copy_from_slice(&p.sps),
            pps: Bytes::copy_from_slice(&p.pps),
        })
    }
}

/// A file whose fragments are all there.
pub(super) struct Written {
    pub(super) head: Head,
    pub(super) part: PartFile,
    pub(super) mux: Mp4Writer,
    /// When its pictures are shown, in decoding order.
    pub(super) shown: Vec<i64>,
    pub(super) gaps: Vec<Gap>,
}

impl Written {
    /// Makes it a clip that ends with the first picture at or after the latest end that was asked
    /// for, or with the newest one. It answers those of `joined` that it shows something of, and
    /// the event if it can be had: if there are pictures until `newest_ns`.
    pub(super) fn complete(
        mut self,
        end_reason: ClipEnd,
        joined: &[ClipRequest],
        newest_ns: Option<i64>,
    ) -> Result<Settled, ClipError> {
        let Head {
            asked,
            first_ns,
            start_ns,
            short_pre_reason,
            params,
            ..
        } = self.head;
        let request = &asked.request;
        // An end that was moved back is exact all the same: later pictures are not shown.
        let ends = joined.iter().map(|r| r.end_ns);
        let until_ns = ends.fold(request.end_ns, i64::max);
        let late = self.shown.iter().filter(|t| **t >= until_ns).min();
        let newest = self.shown.iter().max();
        let end_ns = late.or(newest).copied().unwrap_or(start_ns);
        if end_ns < start_ns {
            // What could be kept ends inside the lead-in.
            return Err(ClipError::NothingShown);
        }
        let finish = self.mux.finish(end_ns)?;
        self.part.append_tables(&finish.append)?;
        for patch in &finish.patches {
            self.part.patch(patch)?;
        }

        let until = |t: i64| self.shown.iter().filter(|s| **s < t).count();
        let lead_in = until(start_ns);
        let keep = until(end_ns.saturating_add(1));
        let within = |t: &i64| (start_ns..=end_ns).contains(t);
        let still_ns = nearest(self.shown.iter().copied().filter(within), request);
        let has_more = newest_ns.is_some_and(|t| t > end_ns);
        let (left, joined): (Vec<_>, Vec<_>) = joined
            .iter()
            .partition(|r| r.start_ns > end_ns || (r.event_ns > end_ns && has_more));
        let of = |r: &ClipRequest| {
            // What it asked for is there, whatever then became of the file.
            let end_reason = match r.end_ns < until_ns && has_all_until(&self.shown, r.end_ns) {
                true => ClipEnd::Complete,
                false => end_reason,
            };
            Merged::new(r, (start_ns, end_ns), (short_pre_reason, end_reason))
        };
        let (first, merged) = (of(request), joined.into_iter().map(of).collect::<Vec<_>>());
        let mut ready = ReadyClip {
            file: String::new(),
            merged_into: None,
            asked_start_ns: request.start_ns,
            asked_end_ns: request.end_ns,
            start_ns,
            end_ns,
            lead_in_ms: ms(start_ns - first_ns),
            short_pre_ms: 0.0,
            short_pre_reason,
            short_post_ms: 0.0,
            end_reason,
            partial: false,
            frames: keep.saturating_sub(lead_in) as u64,
            lead_in_frames: lead_in as u64,
            still_ns,
            gaps: gaps_within(&self.gaps, start_ns, end_ns),
            codec: params.codec,
            width: params.width,
            height: params.height,
            sha256: String::new(),
            bytes: 0,
        };
        self.part.answers(merged.iter().map(|m| &m.request.id));
        let mut result = result_of(request, &asked.source, first.ready(&ready, None));
        self.part.commit(|file| {
            ready.file.clone_from(&file.file);
            ready.sha256.clone_from(&file.sha256);
            ready.bytes = file.bytes;
            result.state = ClipState::Ready(first.ready(&ready, None));
            sidecar(request, &result, &merged)
        })?;
        let mut results = with_merged(&merged, &result);
        results.insert(0, result);
        let left = left.into_iter().cloned().collect();
        Ok(Settled { results, left })
    }
}

/// Of these pictures, the one for the still; of two as near, the earlier.
fn nearest(shown_ns: impl Iterator<Item = i64>, request: &ClipRequest) -> Option<i64> {
    shown_ns.min_by_key(|t| (t.abs_diff(request.still_at_ns()), *t))
}

/// Whether everything is there that is shown up to the first picture at or after `end_ns`: where
/// pictures are reordered, once a later one has been decoded after it.
fn has_all_until(shown: &[i64], end_ns: i64) -> bool {
    let Some(last_ns) = shown.iter().copied().filter(|t| *t >= end_ns).min() else {
        return false;
    };
    let mut from = shown.iter().skip_while(|t| **t != last_ns);
    shown.is_sorted() || from.any(|t| *t > last_ns)
}

fn result_of(request: &ClipRequest, source: &Name, ready: ReadyClip) -> ClipResult {
    ClipResult {
        id: request.id.clone(),
        trigger_id: request.trigger_id.clone(),
        source: source.clone(),
        path: request.path.clone(),
        label: request.label.clone(),
        state: ClipState::Ready(ready),
    }
}

/// The results of the requests that were joined to that of `host`.
fn with_merged(merged: &[Merged], host: &ClipResult) -> Vec<ClipResult> {
    let ClipState::Ready(file) = &host.state else {
        return Vec::new();
    };
    let of = |m: &Merged| result_of(&m.request, &host.source, m.ready(file, Some(&host.id)));
    merged.iter().map(of).collect()
}

/// The text of a clip's sidecar.
fn sidecar(request: &ClipRequest, result: &ClipResult, merged: &[Merged]) -> Vec<u8> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(request.wall_ns));
    let mut json = serde_json::json!({
        "schema": CLIP_SCHEMA,
        "event_ns": request.event_ns,
        "time": time.map(|t| t.to_string()).unwrap_or_default(),
    });
    if let Some(best_ns) = request.best_ns {
        json["best_ns"] = best_ns.into();
    }
    // A struct of plain fields can't fail to serialise; an empty object would show it.
    let fields = serde_json::to_value(result).unwrap_or_default();
    if let (Some(json), serde_json::Value::Object(fields)) = (json.as_object_mut(), fields) {
        json.extend(fields);
    }
    if !merged.is_empty() {
        json["merged"] = serde_json::to_value(merged).unwrap_or_default();
    }
    let mut text = json.to_string().into_bytes();
    text.push(b'\n');
    text
}

/// What a sidecar says, if it is one: the clip's request and result, and those that were joined to
/// it.
pub(super) fn read_sidecar(text: &[u8]) -> Option<Vec<(Asked, ClipResult)>> {
    let json: serde_json::Value = serde_json::from_slice(text).ok()?;
    let result: ClipResult = serde_json::from_value(json.clone()).ok()?;
    let ClipState::Ready(ready) = &result.state else {
        return None;
    };
    let time: jiff::Timestamp = json.get("time")?.as_str()?.parse().ok()?;
    let request = ClipRequest {
        id: result.id.clone(),
        trigger_id: result.trigger_id.clone(),
        path: result.path.clone(),
        label: result.label.clone(),
        event_ns: json.get("event_ns")?.as_i64()?,
        wall_ns: i64::try_from(time.as_nanosecond()).ok()?,
        start_ns: ready.asked_start_ns,
        end_ns: ready.asked_end_ns,
        best_ns: json.get("best_ns").and_then(serde_json::Value::as_i64),
    };
    let merged: Vec<Merged> = match json.get("merged") {
        Some(merged) => serde_json::from_value(merged.clone()).ok()?,
        None => Vec::new(),
    };
    let results = with_merged(&merged, &result);
    let host = Asked::new(&result.source, &request);
    let of = |m: Merged| Asked::new(&result.source, &m.request).into_file_of(&result.id);
    let joined: Vec<Asked> = merged.into_iter().map(of).collect();
    let mut all = vec![(host, result)];
    all.extend(joined.into_iter().zip(results));
    Some(all)
}

/// The gaps that pictures are missing in between the first and the last shown.
fn gaps_within(gaps: &[Gap], start_ns: i64, end_ns: i64) -> Vec<Gap> {
    let mut inside: Vec<Gap> = Vec::new();
    for gap in gaps
        .iter()
        .filter(|g| g.to_ns > start_ns && g.from_ns < end_ns)
    {
        let count = inside.len();
        match inside.last_mut() {
            Some(last) if count == MOST_GAPS => {
                last.to_ns = gap.to_ns;
                last.lost += gap.lost;
            }
            _ => inside.push(*gap),
        }
    }
    inside
}
