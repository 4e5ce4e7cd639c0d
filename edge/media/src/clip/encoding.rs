//! The encoder thread: frames to packets.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use visualpath_frames::Frame;

use super::lane::Shared;
use super::writer::Evidence;
use crate::encode::{Encoder, Packet};
use crate::ring::{Gap, GapCause};

/// Frames that are inside an encoder come out when no other has come for so long: packets that the
/// device made wait behind them.
const QUIET: Duration = Duration::from_millis(200);

/// A frame, and what was lost before it.
pub(super) struct Job {
    pub(super) frame: Frame,
    pub(super) gaps: Vec<Gap>,
    /// Packets that the device made lie between this frame and the one before.
    pub(super) restart: bool,
}

/// What the thread owns.
pub(super) struct Encoding {
    pub(super) encoder: Box<dyn Encoder>,
    pub(super) jobs: Receiver<Job>,
    pub(super) out: Sender<Evidence>,
    pub(super) shared: Arc<Shared>,
    /// Of the newest packet.
    pub(super) last_ns: Option<i64>,
    /// Frames the encoder fails on, until it takes one again.
    pub(super) failing: Option<Gap>,
    /// Frames given to the encoder.
    pub(super) frames: u64,
}

impl Encoding {
    pub(super) fn run(mut self) {
        let mut packets = Vec::new();
        let mut named = String::new();
        while let Some(job) = self.next(&mut packets) {
            self.encode(job, &mut packets);
            let name = self.encoder.name();
            if name != named {
                let source = self.shared.source();
                tracing::info!(%source, encoder = %name, "encoding evidence");
                named = name;
            }
        }
        self.flush(&mut packets);
    }

    /// The next frame; `None` at the end.
    fn next(&mut self, packets: &mut Vec<Packet>) -> Option<Job> {
        if self.encoder.inside() > 0 {
            match self.jobs.recv_timeout(QUIET) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.flush(packets),
            }
        }
        self.jobs.recv().ok()
    }

    fn flush(&mut self, packets: &mut Vec<Packet>) {
        if let Err(e) = self.encoder.flush(packets) {
            tracing::warn!(source = %self.shared.source(), error = %e, "the encoder's last frames are lost");
        }
        let lost = self.count_lost(packets, self.last_ns);
        let none = packets.is_empty();
        self.pass_on(packets);
        if lost > 0 && none {
            // Packets that the device made may wait for the lost ones.
            self.send(Evidence::Passed {
                t_ns: self.last_ns.unwrap_or(0),
                error: "the encoder did not give back its last frames".to_owned(),
                encoded: self.frames,
            });
        }
    }

    /// Frames that the encoder took and did not give back are a gap before what it gives next, or
    /// up to the frame at `t_ns`. How many.
    fn count_lost(&mut self, packets: &[Packet], t_ns: Option<i64>) -> u64 {
        let lost = self.encoder.take_lost();
        if lost == 0 {
            return 0;
        }
        self.shared.stats(|s| s.lost_error += lost);
        let to_ns = packets.first().map(|p| p.pts_ns).or(t_ns).unwrap_or(0);
        let from_ns = self.last_ns.unwrap_or(to_ns);
        self.send(Evidence::Gap(Gap {
            from_ns,
            to_ns: to_ns.max(from_ns),
            lost,
            cause: GapCause::EncoderError,
        }));
        lost
    }

    fn encode(&mut self, job: Job, packets: &mut Vec<Packet>) {
        let Job {
            frame,
            gaps,
            restart,
        } = job;
        for gap in gaps {
            self.send(Evidence::Gap(gap));
        }
        if restart {
            self.encoder.restart();
        }
        let t_ns = frame.meta().t_ns;
        let done = self.encoder.encode(frame.meta(), frame.pixels(), packets);
        // The slot is free again before anyone waits for the disk.
        drop(frame);
        self.frames += 1;
        self.count_lost(packets, Some(t_ns));
        self.pass_on(packets);
        if let Err(e) = done {
            let error = e.to_string();
            self.shared.stats(|s| s.lost_error += 1);
            if self.failing.is_none() {
                tracing::warn!(source = %self.shared.source(), %error, "a frame was not encoded");
            }
            let from_ns = self.last_ns.unwrap_or(t_ns);
            let gap = self.failing.get_or_insert(Gap {
                from_ns,
                to_ns: t_ns,
                lost: 0,
                cause: GapCause::EncoderError,
            });
            gap.to_ns = t_ns;
            gap.lost += 1;
            let encoded = self.frames;
            self.send(Evidence::Passed {
                t_ns,
                error,
                encoded,
            });
        }
    }

    fn pass_on(&mut self, packets: &mut Vec<Packet>) {
        let mut left = packets.len();
        for packet in packets.drain(..) {
            left -= 1;
            if let Some(gap) = self.failing.take() {
                let to_ns = packet.pts_ns;
                // A failed send is noticed at the next.
                drop(self.out.send(Evidence::Gap(Gap { to_ns, ..gap })));
            }
            self.last_ns = Some(packet.pts_ns);
            self.shared.packet_counted(&packet);
            // Every frame gives one packet; those that have not yet are not done.
            let waiting = left as u64 + self.encoder.inside();
            let encoded = self.frames.saturating_sub(waiting);
            drop(self.out.send(Evidence::Packet { packet, encoded }));
        }
    }

    fn send(&self, evidence: Evidence) {
        // The clip thread outlives this one unless it panicked; then its requests have failed
        // already and there is nobody to send to.
        drop(self.out.send(evidence));
    }
}
