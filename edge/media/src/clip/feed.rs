//! What the capture thread hands over: frames to the encoder, or packets that the device made, past
//! it.
//!
//! A source gives one of the two at a time. Which, may change while it runs: a frame whose packet
//! was offered is passed over, so whoever offers both need not know; the first packet after frames
//! must be a key packet, and the first frame after packets becomes one.
//!
//! **Loss.** A picture that is missing in front of a packet makes those after it undecodable up to
//! the next key packet, whoever lost it. They are not taken: a clip never holds a picture that can't
//! be decoded. What is missing is known in three ways: the queue to the clip thread was full; the
//! source said so; or the packets' numbers have a hole. A gap that the source reports for pictures
//! whose packets are here is not one of evidence (no slot was free for the decoded picture, or it
//! could not be decoded), and is ignored.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, select};
use visualpath_frames::Frame;

use super::encoding::Job;
use super::lane::Offered;
use super::writer::{Direct, Evidence};
use crate::encode::{CodecParams, Packet};
use crate::ring::{Gap, GapCause};

/// Where pictures go, and what is remembered for the next one that is taken.
#[derive(Default)]
pub(super) struct Feed {
    jobs: Option<Sender<Job>>,
    evidence: Option<Sender<Evidence>>,
    /// Source time of the newest picture taken.
    last_ns: Option<i64>,
    /// Pictures that were offered and not taken since.
    lost: Option<Gap>,
    /// What the source said it lost since.
    gaps: Vec<Gap>,
    /// Frames given to the encoder.
    frames: u64,
    /// Number of the newest packet offered.
    packet_id: Option<u64>,
    /// The newest packet taken, if no frame was taken since.
    run: Option<Run>,
    /// Something is missing: the next packet must be a key packet.
    needs_key: bool,
}

/// Packets without a frame between them.
struct Run {
    params: Arc<CodecParams>,
    dts_ns: i64,
}

/// What there is to do without the lock.
pub(super) enum Handover {
    Done(Offered),
    /// Waits for room.
    Frame(Sender<Job>, Job),
    /// Waits for room.
    Packet(Sender<Evidence>, Direct),
}

impl Feed {
    pub(super) fn new(jobs: Sender<Job>, evidence: Sender<Evidence>) -> Self {
        Self {
            jobs: Some(jobs),
            evidence: Some(evidence),
            needs_key: true,
            ..Self::default()
        }
    }

    /// Frames given to the encoder so far.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    /// Forgets where things go: nothing is taken any more.
    pub(super) fn close(&mut self) {
        self.jobs = None;
        self.evidence = None;
    }

    /// A frame on its way to the encoder.
    pub(super) fn frame(&mut self, frame: Frame, realtime: bool) -> Handover {
        let Some(jobs) = self.jobs.clone() else {
            return Handover::Done(Offered::Stopped);
        };
        let meta = frame.meta();
        let (t_ns, frame_id) = (meta.t_ns, meta.frame_id);
        if self.packet_id.is_some_and(|id| frame_id <= id) {
            return Handover::Done(Offered::Taken);
        }
        let gaps = self.missing_until(t_ns);
        let restart = self.packet_id.is_some();
        let job = Job {
            frame,
            gaps,
            restart,
        };
        if !realtime {
            return Handover::Frame(jobs, job);
        }
        Handover::Done(match jobs.try_send(job) {
            Ok(()) => {
                self.frame_taken(t_ns);
                Offered::Taken
            }
            Err(TrySendError::Full(_)) => self.lose(t_ns, GapCause::EncoderBusy),
            Err(TrySendError::Disconnected(_)) => Offered::Stopped,
        })
    }

    /// The encoder has it.
    pub(super) fn frame_taken(&mut self, t_ns: i64) {
        self.frames += 1;
        self.packet_id = None;
        self.run = None;
        self.needs_key = true;
        self.taken(t_ns);
    }

    /// A packet on its way to the clip thread.
    pub(super) fn packet(&mut self, packet: Packet, realtime: bool) -> Handover {
        let Some(evidence) = self.evidence.clone() else {
            return Handover::Done(Offered::Stopped);
        };
        self.find_hole(&packet);
        self.packet_id = Some(packet.frame_id);
        if let Some(cause) = self.refusal(&packet) {
            self.needs_key = true;
            return Handover::Done(self.lose(packet.pts_ns, cause));
        }
        let gaps = self.missing_until(packet.pts_ns);
        let after = self.frames;
        let direct = Direct {
            packet,
            gaps,
            after,
        };
        if !realtime {
            return Handover::Packet(evidence, direct);
        }
        let (pts_ns, newest) = (direct.packet.pts_ns, direct.packet.clone());
        Handover::Done(match evidence.try_send(Evidence::Direct(direct)) {
            Ok(()) => {
                self.packet_taken(&newest);
                Offered::Taken
            }
            Err(TrySendError::Full(_)) => {
                self.needs_key = true;
                self.lose(pts_ns, GapCause::WriterBusy)
            }
            Err(TrySendError::Disconnected(_)) => Offered::Stopped,
        })
    }

    /// The clip thread has it.
    pub(super) fn packet_taken(&mut self, packet: &Packet) {
        self.run = Some(Run {
            params: Arc::clone(&packet.params),
            dts_ns: packet.dts_ns,
        });
        self.needs_key = false;
        let newest = self.last_ns.map_or(packet.pts_ns, |t| t.max(packet.pts_ns));
        self.taken(newest);
    }

    /// Records that the source lost pictures between these times, before the next one it gives.
    pub(super) fn gap(&mut self, from_ns: i64, to_ns: i64, lost: u64) {
        if self.packet_id.is_some() {
            // The newest packet lies inside, or at its end: the pictures are here.
            let inside = |t: i64| t > from_ns || t >= to_ns;
            if self.last_ns.is_some_and(inside) {
                // Nobody knows how many were lost: no number is missing, only time. A packet comes
                // before its frame, and so before the gap that ends with it.
                if lost == 0 {
                    self.note(from_ns, to_ns, 0);
                }
                return;
            }
            self.needs_key = true;
        }
        self.note(from_ns, to_ns, lost);
    }

    /// Between two pictures that were taken the source has one gap at most.
    fn note(&mut self, from_ns: i64, to_ns: i64, lost: u64) {
        match self.gaps.first_mut() {
            Some(known) => {
                known.from_ns = known.from_ns.min(from_ns);
                known.to_ns = known.to_ns.max(to_ns);
                known.lost += lost;
            }
            None => self.gaps.push(Gap {
                from_ns,
                to_ns,
                lost,
                cause: GapCause::Source,
            }),
        }
    }

    /// Pictures whose numbers are missing were lost before they came here.
    fn find_hole(&mut self, packet: &Packet) {
        let Some(last) = self.packet_id else {
            return;
        };
        let missing = packet.frame_id.saturating_sub(last.saturating_add(1));
        if missing == 0 {
            return;
        }
        self.needs_key = true;
        let told = self.gaps.first().map_or(0, |g| g.lost);
        if missing > told {
            let from_ns = self.last_ns.unwrap_or(packet.pts_ns);
            self.note(from_ns, packet.pts_ns, missing - told);
        }
    }

    /// Why the packet can't be taken.
    fn refusal(&self, packet: &Packet) -> Option<GapCause> {
        let run = self.run.as_ref();
        if packet.data.is_empty() || run.is_some_and(|r| packet.dts_ns <= r.dts_ns) {
            return Some(GapCause::Source);
        }
        let follows = run.is_some_and(|r| r.params == packet.params) && !self.needs_key;
        (!packet.is_key && !follows).then_some(GapCause::NoKey)
    }

    /// Everything missing before a picture at `t_ns`.
    fn missing_until(&self, t_ns: i64) -> Vec<Gap> {
        let lost = self.lost.map(|gap| Gap { to_ns: t_ns, ..gap });
        self.gaps.iter().copied().chain(lost).collect()
    }

    fn taken(&mut self, t_ns: i64) {
        self.lost = None;
        self.gaps.clear();
        self.last_ns = Some(t_ns);
    }

    fn lose(&mut self, t_ns: i64, cause: GapCause) -> Offered {
        let from_ns = self.last_ns.unwrap_or(t_ns);
        let lost = self.lost.get_or_insert(Gap {
            from_ns,
            to_ns: t_ns,
            lost: 0,
            cause,
        });
        lost.to_ns = t_ns;
        lost.lost += 1;
        Offered::Lost
    }

    /// Why the newest picture was lost.
    pub(super) fn lost_by(&self) -> Option<GapCause> {
        self.lost.map(|gap| gap.cause)
    }
}

/// Sends and waits for room, unless the lane stops first.
pub(super) fn wait<T>(to: &Sender<T>, item: T, stopping: &Receiver<()>) -> bool {
    select! {
        send(to, item) -> sent => sent.is_ok(),
        recv(stopping) -> _ => false,
    }
}
