//! The encoder thread: frames to packets.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use visualpath_frames::Frame;

use super::lane::Shared;
use super::writer::Evidence;
use crate::encode::{Encoder, Packet};
use crate::ring::{Gap, GapCause};

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
        while let Ok(job) = self.jobs.recv() {
            if self.last_ns.is_none() && self.failing.is_none() {
                let source = self.shared.source();
                tracing::info!(%source, encoder = %self.encoder.name(), "encoding evidence");
            }
            self.encode(job, &mut packets);
        }
        if let Err(e) = self.encoder.flush(&mut packets) {
            tracing::warn!(source = %self.shared.source(), error = %e, "the encoder's last frames are lost");
        }
        self.pass_on(&mut packets);
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
            // With the last of a frame's packets the frame is done.
            let encoded = self.frames.saturating_sub(u64::from(left > 0));
            drop(self.out.send(Evidence::Packet { packet, encoded }));
        }
    }

    fn send(&self, evidence: Evidence) {
        // The clip thread outlives this one unless it panicked; then its requests have failed
        // already and there is nobody to send to.
        drop(self.out.send(evidence));
    }
}
