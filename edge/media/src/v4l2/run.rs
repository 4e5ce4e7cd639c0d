//! A camera that streams: one step at a time, buffers to frames.

use std::path::{Path, PathBuf};
use std::time::Duration;

use visualpath_core::FrameMeta;
use visualpath_frames::{FramePool, SlotMut};

use super::device::Dequeued;
use super::formats::Kind;
use super::packets::Decoding;
use super::recovery::{Action, Phase, Sign, action, silence_ns};
use super::setup::Plan;
use super::source::{CameraSource, SLICE};
use super::stream::{Failed, Filled, Stream};
use crate::decode::DecodeError;
use crate::source::{GapCause, SourceError, SourceEvent, SourceInfo};

/// A wait for the driver.
const POLL_MS: i32 = 50;
/// The same while a decoder works on something.
const LATE_MS: i32 = 4;

/// Why a step could not be done.
pub(super) enum Stop {
    /// The stream is of no more use.
    Failed(Failed),
    /// The source is.
    Fatal(SourceError),
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

/// A stream and what was seen of it.
pub(super) struct Running {
    node: PathBuf,
    stream: Stream,
    plan: Plan,
    decoding: Option<Decoding>,
    /// Of the newest buffer.
    sequence: Option<u32>,
    /// When a buffer came, or could not have come.
    heard_ns: i64,
    /// A buffer could not be lent since the last frame: the driver may have dropped pictures for
    /// want of one.
    starved: bool,
}

impl Running {
    pub(super) fn new(
        node: PathBuf,
        stream: Stream,
        plan: Plan,
        decoding: Option<Decoding>,
        now_ns: i64,
    ) -> Self {
        Self {
            node,
            stream,
            plan,
            decoding,
            sequence: None,
            heard_ns: now_ns,
            starved: false,
        }
    }

    pub(super) fn parts(&mut self) -> (&Path, &mut Stream) {
        (&self.node, &mut self.stream)
    }

    /// Pictures inside a decoder, which end with this stream.
    pub(super) fn inside(&self) -> u64 {
        self.decoding.as_ref().map_or(0, Decoding::inside)
    }

    pub(super) fn into_parts(self) -> (PathBuf, Stream) {
        (self.node, self.stream)
    }

    pub(super) fn at_least(&mut self, size: Option<(u32, u32)>) {
        if let Some(decoding) = &mut self.decoding {
            decoding.at_least(size);
        }
    }

    /// Does the next thing there is to do, waiting at most 50 ms for it.
    pub(super) fn step(&mut self, camera: &mut CameraSource, pool: &FramePool) -> Result<(), Stop> {
        if self.decoded(camera, pool)? {
            return Ok(());
        }
        let fed = self.stream.feed(pool)?;
        self.starved |= fed.starved;
        let now_ns = camera.timeline.now_ns();
        if !fed.any {
            // Nothing can come: the driver has no memory to write into. Its `poll` would say
            // POLLERR.
            self.heard_ns = now_ns;
            drop(pool.acquire_timeout(SLICE));
            return Ok(());
        }
        let late = self.decoding.as_ref().is_some_and(Decoding::is_late);
        let ready = self.stream.poll(if late { LATE_MS } else { POLL_MS });
        let ready = match ready {
            Ok(ready) => ready,
            Err(failed) => return self.retry(camera, failed),
        };
        if ready.event {
            self.events(camera)?;
        }
        if ready.frame {
            return self.take(camera, pool);
        }
        let now_ns = camera.timeline.now_ns();
        let sign = if ready.gone {
            Some(Sign::PollGone)
        } else if ready.error {
            Some(Sign::PollError)
        } else if now_ns.saturating_sub(self.heard_ns) >= silence_ns(self.plan.interval_ns()) {
            Some(Sign::Silence)
        } else {
            None
        };
        match sign {
            None => Ok(()),
            Some(sign) => Err(Stop::Failed(Failed {
                phase: Phase::Waiting,
                sign,
                what: match sign {
                    Sign::Silence => "no picture for a long time",
                    Sign::PollGone => "the device has hung up",
                    _ => "the driver signals an error",
                },
            })),
        }
    }

    fn events(&mut self, camera: &CameraSource) -> Result<(), Stop> {
        let failed = Failed::of(Phase::Waiting, "taking the driver's events");
        let changed = self.stream.device()?.source_changed().map_err(failed)?;
        if changed {
            tracing::info!(source = %camera.name, "the camera's input has changed");
            return Err(Stop::Failed(Failed {
                phase: Phase::Waiting,
                sign: Sign::SourceChanged,
                what: "its input has changed",
            }));
        }
        Ok(())
    }

    /// Tries a failed call again where the table says so.
    fn retry(&mut self, camera: &mut CameraSource, failed: Failed) -> Result<(), Stop> {
        if action(failed.phase, failed.sign) != Action::Retry {
            return Err(Stop::Failed(failed));
        }
        let now_ns = camera.timeline.now_ns();
        if now_ns.saturating_sub(self.heard_ns) >= silence_ns(self.plan.interval_ns()) {
            return Err(Stop::Failed(Failed {
                sign: Sign::Silence,
                ..failed
            }));
        }
        // A driver that says "there is one" and "there is none" in one breath must not spin us.
        camera.bus.wait(Duration::from_millis(1));
        Ok(())
    }

    /// Takes a buffer from the driver.
    fn take(&mut self, camera: &mut CameraSource, pool: &FramePool) -> Result<(), Stop> {
        let (done, filled) = match self.stream.dequeue() {
            Ok(taken) => taken,
            Err(failed) => return self.retry(camera, failed),
        };
        self.heard_ns = camera.timeline.now_ns();
        let missed = self.missed(done.sequence);
        if missed > 0 {
            camera.timeline.skip(missed);
            let cause = if self.starved {
                GapCause::PoolExhausted
            } else {
                GapCause::Missed
            };
            camera.gap(missed, self.heard_ns, cause);
            if let Some(decoding) = &mut self.decoding {
                decoding.missed();
            }
        }
        self.starved = false;
        let taken = match self.plan.kind {
            Kind::Packets(_) => self.packets(camera, &done),
            Kind::Pixels(_) => self.picture(camera, pool, &done, filled),
        };
        camera.watch_rate(missed.saturating_add(1), self.heard_ns, &mut self.stream);
        // Whatever became of the picture, the buffer goes back.
        self.stream.give_back(done.index)?;
        taken.map_err(Stop::Fatal)
    }

    /// Pictures the driver counted and did not give. None right after the start: a device may
    /// count from anywhere, and one that begins anew counts from 0.
    fn missed(&mut self, sequence: u32) -> u64 {
        let last = self.sequence.replace(sequence);
        let Some(last) = last else { return 0 };
        let step = sequence.wrapping_sub(last);
        // Backwards, or not at all: a driver that does not count.
        if (1..1 << 31).contains(&step) {
            u64::from(step - 1)
        } else {
            0
        }
    }

    fn age_ns(camera: &CameraSource, done: &Dequeued) -> i64 {
        done.monotonic_ns
            .map_or(0, |at| camera.bus.monotonic_ns().saturating_sub(at).max(0))
    }

    /// A raw picture becomes a frame, or a loss.
    fn picture(
        &mut self,
        camera: &mut CameraSource,
        pool: &FramePool,
        done: &Dequeued,
        filled: Filled,
    ) -> Result<(), SourceError> {
        let (frame_id, t_ns) = camera.timeline.stamp_aged(Self::age_ns(camera, done));
        let lost = |camera: &mut CameraSource, cause| camera.gap(1, t_ns, cause);
        let sign = (done.error || !self.is_whole(done)).then_some(Sign::Damaged);
        if sign.map(|sign| action(Phase::Dequeueing, sign)) == Some(Action::DropPicture) {
            lost(camera, GapCause::DriverError);
            return Ok(());
        }
        camera.check(&self.node, pool)?;
        let offset = done.used.parts().first().map_or(0, |used| used.0);
        let slot = match filled {
            Filled::Slot(slot, of) if of.pool_id() == pool.pool_id() => {
                Some(in_place(slot, offset))
            }
            // The consumer has changed to another pool meanwhile.
            Filled::Slot(mut old, _) => pool.try_acquire().map(|mut slot| {
                copy(old.room_mut().get(offset..).unwrap_or_default(), &mut slot);
                slot
            }),
            Filled::Mapped => match pool.try_acquire() {
                Some(mut slot) => {
                    if !put_together(&self.stream, done, &self.plan, &mut slot) {
                        lost(camera, GapCause::DriverError);
                        return Ok(());
                    }
                    Some(slot)
                }
                None => None,
            },
        };
        match slot {
            Some(slot) => deliver(camera, pool, slot, frame_id, t_ns),
            None => lost(camera, GapCause::PoolExhausted),
        }
        Ok(())
    }

    /// Whether the driver filled as much as a picture takes.
    fn is_whole(&self, done: &Dequeued) -> bool {
        let planes = &self.plan.format.planes;
        let used = done.used.parts();
        if used.len() != planes.len() {
            return false;
        }
        if planes.len() > 1 {
            return used.iter().all(|(from, to)| to > from);
        }
        // The last row's padding need not be written.
        let need = self
            .plan
            .layout
            .planes()
            .iter()
            .map(|p| p.offset + p.stride * p.rows.saturating_sub(1) + p.row_bytes);
        used.first()
            .is_some_and(|(from, to)| to.saturating_sub(*from) >= need.max().unwrap_or(0))
    }

    /// Encoded pictures of a buffer: to the decoder, and to be told.
    fn packets(&mut self, camera: &mut CameraSource, done: &Dequeued) -> Result<(), SourceError> {
        let age_ns = Self::age_ns(camera, done);
        let Some(decoding) = &mut self.decoding else {
            return Ok(());
        };
        let units = if done.error {
            Vec::new()
        } else {
            let bytes = self.stream.plane(done, 0);
            bytes.map(|bytes| decoding.units(bytes)).unwrap_or_default()
        };
        if units.is_empty() {
            let (_, t_ns) = camera.timeline.stamp_aged(age_ns);
            decoding.missed();
            let cause = if done.error {
                GapCause::DriverError
            } else {
                GapCause::Undecodable
            };
            camera.gap(1, t_ns, cause);
        }
        for unit in units {
            let (frame_id, t_ns) = camera.timeline.stamp_aged(age_ns);
            match decoding.push(&self.node, unit.numbered(frame_id, t_ns)) {
                Ok(()) => {}
                Err(DecodeError::Unsupported(detail)) => {
                    return Err(SourceError::Unsupported {
                        uri: self.node.display().to_string(),
                        detail,
                    });
                }
                Err(error) => {
                    tracing::debug!(source = %camera.name, frame_id, %error, "a picture is lost");
                    camera.gap(1, t_ns, GapCause::Undecodable);
                }
            }
            Self::count_lost(decoding, camera, t_ns);
        }
        Ok(())
    }

    /// Pictures that went with a decoder.
    fn count_lost(decoding: &mut Decoding, camera: &mut CameraSource, t_ns: i64) {
        let lost = decoding.take_lost();
        if lost > 0 {
            camera.gap(lost, t_ns, GapCause::Undecodable);
        }
    }

    /// Tells of packets and takes a picture that is decoded. Whether there was any.
    fn decoded(&mut self, camera: &mut CameraSource, pool: &FramePool) -> Result<bool, Stop> {
        let Some(decoding) = &mut self.decoding else {
            return Ok(false);
        };
        let ready = match decoding.ready() {
            Ok(ready) => ready,
            Err(error) => {
                tracing::debug!(source = %camera.name, %error, "a picture is lost");
                let now_ns = camera.timeline.now_ns();
                Self::count_lost(decoding, camera, now_ns);
                return Ok(true);
            }
        };
        // Who keeps evidence must know what it is of: the format comes before the packet.
        if let Some(picture) = ready
            && picture.layout != camera.info.layout
        {
            let info = SourceInfo {
                layout: picture.layout,
                ..camera.info.clone()
            };
            if camera.delivered > 0 {
                camera.timeline.new_epoch();
            }
            camera.info = info.clone();
            camera.told.push_back(SourceEvent::NewFormat(info));
            return Ok(true);
        }
        if let Some(packet) = decoding.untold.pop_front() {
            if camera.needs.packets && !camera.is_private {
                camera.told.push_back(SourceEvent::Packet(packet));
            }
            return Ok(true);
        }
        let Some(picture) = ready else {
            return Ok(false);
        };
        camera.check(&self.node, pool).map_err(Stop::Fatal)?;
        let Some(mut slot) = pool.try_acquire() else {
            decoding.skip(&picture);
            Self::count_lost(decoding, camera, picture.pts_ns);
            camera.gap(1, picture.pts_ns, GapCause::PoolExhausted);
            return Ok(true);
        };
        let taken = decoding.take(&picture, slot.pixels_mut());
        Self::count_lost(decoding, camera, picture.pts_ns);
        match taken {
            Ok(()) => deliver(camera, pool, slot, picture.frame_id, picture.pts_ns),
            Err(error) => {
                tracing::debug!(source = %camera.name, %error, "a picture is lost");
                camera.gap(1, picture.pts_ns, GapCause::Undecodable);
            }
        }
        Ok(true)
    }
}

fn deliver(camera: &mut CameraSource, pool: &FramePool, slot: SlotMut, frame_id: u64, t_ns: i64) {
    camera.came(t_ns);
    let meta = FrameMeta {
        frame_id,
        t_ns,
        epoch: camera.timeline.epoch(),
        layout: camera.info.layout,
    };
    let frame = camera.publisher.publish(pool, slot, meta);
    camera.delivered += 1;
    let gap = camera.losses.delivered(t_ns);
    camera.told.extend(gap.map(SourceEvent::Gap));
    camera.told.push_back(SourceEvent::Frame(frame));
}

/// A picture that the driver wrote into the slot itself. One that it put behind an offset is moved
/// to the front.
fn in_place(mut slot: SlotMut, offset: usize) -> SlotMut {
    if offset > 0 {
        let bytes = slot.layout().bytes();
        let room = slot.room_mut();
        let end = offset.saturating_add(bytes).min(room.len());
        room.copy_within(offset.min(end)..end, 0);
        slot.count_copy();
    }
    slot
}

/// The one copy.
fn copy(from: &[u8], slot: &mut SlotMut) {
    let to = slot.pixels_mut();
    let bytes = to.len().min(from.len());
    to[..bytes].copy_from_slice(&from[..bytes]);
    slot.count_copy();
}

/// The driver's planes into a slot; false if they hold too little.
fn put_together(stream: &Stream, done: &Dequeued, plan: &Plan, slot: &mut SlotMut) -> bool {
    let memories = &plan.format.planes;
    if memories.len() == 1 {
        let Some(bytes) = stream.plane(done, 0) else {
            return false;
        };
        copy(bytes, slot);
        return true;
    }
    let layout = *slot.layout();
    let pixels = slot.pixels_mut();
    if memories.len() != layout.planes().len() {
        return false;
    }
    for (index, (place, memory)) in layout.planes().iter().zip(memories).enumerate() {
        let Some(bytes) = stream.plane(done, index) else {
            return false;
        };
        let stride = match memory.stride as usize {
            0 => place.row_bytes,
            stride => stride,
        };
        for row in 0..place.rows {
            let from = bytes.get(row * stride..row * stride + place.row_bytes);
            let to = place.offset + row * place.stride;
            let to = pixels.get_mut(to..to + place.row_bytes);
            let (Some(from), Some(to)) = (from, to) else {
                return false;
            };
            to.copy_from_slice(from);
        }
    }
    slot.count_copy();
    true
}
