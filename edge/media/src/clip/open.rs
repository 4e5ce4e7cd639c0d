//! One clip from its request to its file.
//!
//! ```text
//! Waiting ──ring reaches the asked start──▶ Writing ──end reached, or it can't be──▶ finished
//! ```

use std::sync::Arc;

use visualpath_core::{NS_PER_S, Name};

use super::finish::{Head, Written};
use super::index::Asked;
use super::merge::Settled;
use super::part::PartFile;
use super::store::StoreError;
use super::{ClipEnd, ClipRequest, ClipResult, ClipState, ClipStore, ShortPre};
use crate::encode::{CodecParams, Packet};
use crate::mp4::{MAX_SAMPLE_NS, Mp4Error, Mp4Writer};
use crate::ring::{Gap, Ring};

/// Longest fragment: what a crash may cost.
const FRAGMENT_NS: i64 = 2 * NS_PER_S;
/// Longest first fragment: who uploads a clip while it is written has bytes within a second of the
/// trigger.
const FIRST_FRAGMENT_NS: i64 = NS_PER_S / 2;
/// And the largest: after a crash it has to be read in one piece.
const FRAGMENT_BYTES: usize = 32 << 20;
/// How long the last picture is shown when there is no other to measure by.
const LONE_PICTURE_NS: i64 = NS_PER_S / 25;
/// Bound on the final `moov`'s reserve, in samples: an hour at 30 per second.
const MOST_RESERVED: i64 = 108_000;

/// Why a clip can't be.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClipError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mp4(#[from] Mp4Error),
    #[error("a clip's description can't be written: {0}")]
    Note(serde_json::Error),
    #[error("asked from {start_ns} ns to {end_ns} ns: the end is before the start")]
    Reversed { start_ns: i64, end_ns: i64 },
    #[error("asked until {end_ns} ns, but the oldest picture held is at {oldest_ns} ns")]
    TooOld { end_ns: i64, oldest_ns: i64 },
    #[error("it ended before the first picture that was asked for")]
    NothingShown,
    #[error("no picture was encoded{}", .error.as_deref().map(|e| format!(": {e}")).unwrap_or_default())]
    NoPicture { error: Option<String> },
}

/// A request that has no result yet.
pub(super) struct OpenClip {
    pub(super) request: ClipRequest,
    /// Others that the same file answers.
    pub(super) joined: Vec<ClipRequest>,
    source: Name,
    writing: Option<Writing>,
    /// Monotonic time of the request or of the newest packet since, in realtime mode.
    pub(super) heard_ns: i64,
}

/// The part that exists once the first picture is known.
struct Writing {
    head: Head,
    part: PartFile,
    mux: Mp4Writer,
    params: Arc<CodecParams>,
    /// Pictures taken so far, written or in `pending`: when they are shown, in decoding order.
    shown: Vec<i64>,
    /// The first picture shown at or after the asked end, as far as it is known.
    end_ns: Option<i64>,
    pending: Vec<Packet>,
    last_dts_ns: i64,
    last_step_ns: i64,
    gaps: Vec<Gap>,
    /// How many of them the file has.
    gaps_written: usize,
}

/// What a packet did to a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes on.
    Open,
    /// It has, or can get, no more.
    Done(ClipEnd),
}

impl OpenClip {
    pub(super) fn new(request: ClipRequest, source: Name, now_ns: i64) -> Self {
        Self {
            request,
            joined: Vec::new(),
            source,
            writing: None,
            heard_ns: now_ns,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.writing.is_none()
    }

    fn all(&self) -> impl Iterator<Item = &ClipRequest> {
        std::iter::once(&self.request).chain(&self.joined)
    }

    /// The latest end that was asked for.
    pub(super) fn end_ns(&self) -> i64 {
        let ends = self.joined.iter().map(|r| r.end_ns);
        ends.fold(self.request.end_ns, i64::max)
    }

    /// The earliest event.
    pub(super) fn event_ns(&self) -> i64 {
        let events = self.joined.iter().map(|r| r.event_ns);
        events.fold(self.request.event_ns, i64::min)
    }

    /// The first picture that the file is to show, once that is settled.
    pub(super) fn begins_ns(&self) -> Option<i64> {
        self.writing.as_ref().map(|w| w.head.start_ns)
    }

    /// Whether it answers this request.
    pub(super) fn is_of(&self, id: &str) -> bool {
        self.all().any(|r| r.id == id)
    }

    /// Answers another request, too. Like the beginning of a clip, what there is of it is on the
    /// disk when this returns.
    pub(super) fn join(&mut self, request: ClipRequest) -> Result<Step, ClipError> {
        self.joined.push(request);
        let end_ns = self.end_ns();
        let Some(w) = &mut self.writing else {
            return Ok(Step::Open);
        };
        w.ends_at(end_ns);
        let step = w.flush_all_but_newest()?;
        w.part.sync()?;
        Ok(step)
    }

    /// Throws away what was written; `begin` starts anew.
    pub(super) fn wait_again(&mut self) {
        self.writing = None;
    }

    /// Copies the beginning from the ring and opens the file. Call it when the ring's newest packet
    /// is decoded at or after the asked start (only then is the last picture at or before it known),
    /// or when there will be no more.
    pub(super) fn begin(
        &mut self,
        ring: &Ring,
        store: &Arc<ClipStore>,
        encoder_error: Option<&str>,
    ) -> Result<Step, ClipError> {
        let (start_ns, end_ns) = (self.request.start_ns, self.end_ns());
        if end_ns < start_ns {
            return Err(ClipError::Reversed { start_ns, end_ns });
        }
        // Where the picture's format changes before the event, the side of the event counts.
        let gops: Vec<_> = ring.gops_from(start_ns).collect();
        let mut first = 0;
        for (i, pair) in gops.windows(2).enumerate() {
            let change = pair[0].params() != pair[1].params();
            let key_ns = pair[1].packets().first().map_or(i64::MAX, |p| p.pts_ns);
            if change && key_ns <= self.event_ns() {
                first = i + 1;
            }
        }
        let mut packets: Vec<&Packet> = gops.iter().skip(first).flat_map(|g| g.packets()).collect();
        // A GOP of several keys need not be taken from its first.
        let begins = |p: &&Packet| p.is_key && p.pts_ns <= start_ns;
        packets.drain(..packets.iter().rposition(begins).unwrap_or(0));
        // Pictures that are shown before the key picture they follow may refer to what is not here,
        // and are not asked for.
        let key_ns = packets.first().map_or(i64::MIN, |p| p.pts_ns);
        packets.retain(|p| p.pts_ns >= key_ns);
        let Some(head) = packets.first() else {
            let error = encoder_error.map(str::to_owned);
            return Err(ClipError::NoPicture { error });
        };
        let oldest_ns = head.pts_ns;
        if oldest_ns > end_ns {
            return Err(ClipError::TooOld { end_ns, oldest_ns });
        }
        let params = &head.params;
        let same = packets.iter().take_while(|p| p.params == *params);
        let shown_first_ns = same
            .map(|p| p.pts_ns)
            .filter(|t| *t <= start_ns)
            .max()
            .unwrap_or(oldest_ns);
        let short_pre_reason = (shown_first_ns > start_ns).then_some(match (first, ring) {
            (1.., _) => ShortPre::FormatChange,
            (_, ring) if ring.has_evicted() => ShortPre::Evicted,
            _ => ShortPre::SourceStart,
        });

        let r = &self.request;
        let part = store.create(r.wall_ns, &r.path, &r.label, &r.id)?;
        let expected = expected_samples(&packets, end_ns);
        let asked = Asked::new(&self.source, &self.request);
        let times = (head.dts_ns, oldest_ns, shown_first_ns);
        let mut writing = Writing {
            head: Head::new(asked, params, times, short_pre_reason),
            part,
            mux: Mp4Writer::new(Arc::clone(params), head.dts_ns, shown_first_ns, expected),
            params: Arc::clone(params),
            shown: Vec::with_capacity(expected),
            end_ns: None,
            pending: Vec::new(),
            last_dts_ns: head.dts_ns,
            last_step_ns: LONE_PICTURE_NS,
            gaps: ring.gaps().copied().collect(),
            gaps_written: 0,
        };
        let mut head_bytes = Vec::new();
        let note = json(&writing.head)?;
        writing.mux.begin(&mut head_bytes, &note)?;
        writing.part.append(&head_bytes)?;
        let mut step = Step::Open;
        for p in packets {
            step = writing.push(p, end_ns)?;
            if step != Step::Open {
                break;
            }
        }
        if step == Step::Open {
            step = writing.flush_all_but_newest()?;
        }
        writing.part.sync()?;
        self.writing = Some(writing);
        Ok(step)
    }

    /// Takes the next packet.
    pub(super) fn push(&mut self, packet: &Packet) -> Result<Step, ClipError> {
        let end_ns = self.end_ns();
        match &mut self.writing {
            None => Ok(Step::Open),
            Some(w) => {
                let before = w.mux.samples();
                let step = w.push(packet, end_ns)?;
                if w.mux.samples() > before {
                    w.part.sync()?;
                }
                Ok(step)
            }
        }
    }

    /// Takes note of a gap.
    pub(super) fn push_gap(&mut self, gap: Gap) {
        if let Some(w) = &mut self.writing {
            w.gaps.push(gap);
        }
    }

    /// Moves the end of one of its requests; `Done` if the last of all has been reached already.
    pub(super) fn set_end(&mut self, id: &str, end_ns: i64, best_ns: Option<i64>) -> Step {
        let all = std::iter::once(&mut self.request).chain(&mut self.joined);
        for request in all.filter(|r| r.id == id) {
            request.ends_at(end_ns, best_ns);
        }
        let end_ns = self.end_ns();
        match &mut self.writing {
            None => Step::Open,
            Some(w) => {
                w.ends_at(end_ns);
                w.step()
            }
        }
    }

    /// Finishes the file, or says why there is none. `newest_ns` is the newest picture there is.
    pub(super) fn finish(mut self, end_reason: ClipEnd, newest_ns: Option<i64>) -> Settled {
        let Some(writing) = self.writing.take() else {
            return self.fail(&ClipError::NoPicture { error: None });
        };
        let requests = (self.request.clone(), &self.joined[..]);
        match writing.finish(requests, end_reason, newest_ns) {
            Ok(settled) => settled,
            Err(e) => self.fail(&e),
        }
    }

    /// Gives up; what was written is removed.
    pub(super) fn fail(self, error: &ClipError) -> Settled {
        Settled {
            results: vec![failed(self.request, self.source, error)],
            left: self.joined,
        }
    }
}

/// The result of a request that there is no file for.
pub(super) fn failed(request: ClipRequest, source: Name, reason: &dyn ToString) -> ClipResult {
    ClipResult {
        id: request.id,
        trigger_id: request.trigger_id,
        source,
        path: request.path,
        label: request.label,
        state: ClipState::Failed {
            reason: reason.to_string(),
        },
    }
}

/// Samples from the first packet to the asked end, at the rate so far and half as many again.
fn expected_samples(packets: &[&Packet], end_ns: i64) -> usize {
    let (Some(first), Some(last)) = (packets.first(), packets.last()) else {
        return 0;
    };
    let held = i64::try_from(packets.len()).unwrap_or(MOST_RESERVED);
    let step_ns = match held {
        1 => LONE_PICTURE_NS,
        n => ((last.dts_ns - first.dts_ns) / (n - 1)).max(1),
    };
    let wanted = end_ns.saturating_sub(first.dts_ns) / step_ns;
    let most = held.max(wanted).saturating_mul(3) / 2 + 16;
    usize::try_from(most.clamp(0, MOST_RESERVED)).unwrap_or(0)
}

impl Writing {
    /// Complete once everything shown up to the last picture is here: what is decoded later is
    /// shown later still.
    fn step(&self) -> Step {
        match self.end_ns.is_some_and(|end| self.last_dts_ns >= end) {
            true => Step::Done(ClipEnd::Complete),
            false => Step::Open,
        }
    }

    fn push(&mut self, packet: &Packet, end_ns: i64) -> Result<Step, ClipError> {
        if packet.params != self.params {
            return Ok(Step::Done(ClipEnd::FormatChange));
        }
        if packet.pts_ns < self.head.first_ns {
            return Ok(Step::Open);
        }
        let step_ns = packet.dts_ns - self.last_dts_ns;
        if step_ns > MAX_SAMPLE_NS {
            return Ok(Step::Done(ClipEnd::GapTimeout));
        }
        if let (Some(first), Some(last)) = (self.pending.first(), self.pending.last()) {
            let with_this_ns = packet.dts_ns - first.dts_ns + step_ns;
            // Where every picture is a key, one fragment each would be a sync of the disk each.
            let gop_begins = packet.is_key && !last.is_key;
            let longest_ns = match self.mux.samples() {
                0 => FIRST_FRAGMENT_NS,
                _ => FRAGMENT_NS,
            };
            let bytes: usize = self.pending.iter().map(|p| p.data.len()).sum();
            if gop_begins || with_this_ns > longest_ns || bytes > FRAGMENT_BYTES {
                let flushed = self.flush(packet.dts_ns)?;
                if flushed != Step::Open {
                    return Ok(flushed);
                }
            }
        }
        if !self.shown.is_empty() {
            self.last_step_ns = step_ns;
        }
        self.last_dts_ns = packet.dts_ns;
        self.shown.push(packet.pts_ns);
        self.pending.push(packet.clone());
        if packet.pts_ns >= end_ns {
            let end = self.end_ns.map_or(packet.pts_ns, |e| e.min(packet.pts_ns));
            self.end_ns = Some(end);
        }
        Ok(self.step())
    }

    /// The newest picture waits for the next to know how long it is shown; the rest can be read from
    /// now on.
    fn flush_all_but_newest(&mut self) -> Result<Step, ClipError> {
        let Some(newest) = self.pending.pop() else {
            return Ok(Step::Open);
        };
        let step = self.flush(newest.dts_ns)?;
        if step == Step::Open {
            self.pending.push(newest);
        }
        Ok(step)
    }

    /// Writes what is pending as one fragment. Without room for it the clip ends before it.
    fn flush(&mut self, next_dts_ns: i64) -> Result<Step, ClipError> {
        if self.pending.is_empty() {
            return Ok(Step::Open);
        }
        let mut bytes = Vec::new();
        let note = match self.gaps.get(self.gaps_written..) {
            Some(gaps @ [_, ..]) => json(&gaps)?,
            _ => Vec::new(),
        };
        self.mux
            .fragment(&mut bytes, &self.pending, next_dts_ns, &note)?;
        let error = match self.part.append(&bytes) {
            Ok(()) => {
                self.pending.clear();
                self.gaps_written = self.gaps.len();
                return Ok(Step::Open);
            }
            Err(e) => e,
        };
        match error.end() {
            // What is there already is a clip.
            Some(end) if self.mux.samples() > self.pending.len() => {
                tracing::warn!(%error, "a clip ends sooner");
                self.mux.forget_fragment();
                self.shown.truncate(self.mux.samples());
                self.pending.clear();
                Ok(Step::Done(end))
            }
            _ => Err(error.into()),
        }
    }

    /// The asked end is another.
    fn ends_at(&mut self, end_ns: i64) {
        let late = self.shown.iter().filter(|t| **t >= end_ns);
        self.end_ns = late.min().copied();
    }

    fn finish(
        mut self,
        (request, joined): (ClipRequest, &[ClipRequest]),
        mut end: ClipEnd,
        newest_ns: Option<i64>,
    ) -> Result<Settled, ClipError> {
        let next_ns = self.last_dts_ns.saturating_add(self.last_step_ns);
        if let Step::Done(sooner) = self.flush(next_ns)? {
            end = sooner;
        }
        // Its end may have been moved since the file began.
        self.head.asked.request = request;
        let written = Written {
            head: self.head,
            part: self.part,
            mux: self.mux,
            shown: self.shown,
            gaps: self.gaps,
        };
        written.complete(end, joined, newest_ns)
    }
}

/// A note of the file.
fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, ClipError> {
    serde_json::to_vec(value).map_err(ClipError::Note)
}
