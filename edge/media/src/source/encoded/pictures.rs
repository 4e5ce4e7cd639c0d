//! From a packet or a raw picture to a frame: decoder, format, slot.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use visualpath_core::{FrameMeta, ImageLayout, PixelFormat};
use visualpath_frames::{FramePool, SlotMut};

use super::backoff::Backoff;
use super::pending::Pending;
use super::{Connect, EncodedSource, Link, Staged, StreamError};
use crate::decode::{self, DecodeError, Decoded, Decoder};
use crate::encode::{Codec, CodecParams, Packet};
use crate::source::file::same_bytes;
use crate::source::{GapCause, SourceError, SourceEvent, StopFlag};

/// What turns packets into pictures, and what is inside it.
#[derive(Default)]
pub(super) struct Decoding {
    pub(super) decoder: Option<Box<dyn Decoder>>,
    pub(super) params: Option<Arc<CodecParams>>,
    pub(super) pending: Pending,
    /// Pictures are lost up to the next key packet.
    pub(super) waits_for_key: bool,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl<C: Connect> EncodedSource<C> {
    /// What can be done without waiting: the staged unit, then pictures that are ready.
    pub(super) fn work(
        &mut self,
        pool: &FramePool,
        stop: &StopFlag,
    ) -> Result<Option<SourceEvent>, SourceError> {
        match self.staged.take() {
            Some(Staged::Packet { packet, pushed }) => {
                if let Some(event) = self.work_on_packet(packet, pushed)? {
                    return Ok(Some(event));
                }
            }
            Some(Staged::Picture {
                layout,
                frame_id,
                t_ns,
            }) => {
                if let Some(event) = self.announce(layout, None) {
                    self.staged = Some(Staged::Picture {
                        layout,
                        frame_id,
                        t_ns,
                    });
                    return Ok(Some(event));
                }
                return self.take_raw(frame_id, t_ns, pool, stop);
            }
            None => {}
        }
        self.take_decoded(pool)
    }

    /// Decoder, format, evidence: in this order, so that who keeps evidence knows what it is of.
    fn work_on_packet(
        &mut self,
        packet: Packet,
        mut pushed: bool,
    ) -> Result<Option<SourceEvent>, SourceError> {
        let codec = packet.params.codec;
        if !pushed {
            pushed = true;
            if !self.push(&packet)? {
                return Ok(None);
            }
            let layout = match self.decoding.peek() {
                Some(picture) => picture.layout,
                None if codec == Codec::Mjpeg => self.info.layout,
                None => ImageLayout::packed(
                    PixelFormat::I420,
                    packet.params.width,
                    packet.params.height,
                    packet.params.color,
                ),
            };
            if let Some(event) = self.announce(layout, Some(codec)) {
                self.staged = Some(Staged::Packet { packet, pushed });
                return Ok(Some(event));
            }
        }
        let wanted = self.needs.packets && !self.is_private;
        Ok(wanted.then(|| SourceEvent::Packet(packet)))
    }

    /// Gives the packet to the decoder. False if the packet itself is good for nothing.
    fn push(&mut self, packet: &Packet) -> Result<bool, SourceError> {
        if packet.is_key {
            self.decoding.waits_for_key = false;
        }
        if self.decoding.retry_at.is_some_and(|at| Instant::now() < at) {
            self.decoding.waits_for_key = true;
        }
        if self.decoding.waits_for_key {
            self.lose(1, packet.pts_ns, GapCause::Undecodable);
            return Ok(true);
        }
        if self.decoding.decoder.is_none() {
            match decode::open(&packet.params, self.threads) {
                Ok(mut decoder) => {
                    tracing::info!(source = %self.name, "decoding {} with {}", packet.params.codec.as_str(), decoder.name());
                    decoder.at_least(self.needs.at_least);
                    self.decoding.decoder = Some(decoder);
                }
                Err(e) => {
                    self.lose(1, packet.pts_ns, GapCause::Undecodable);
                    self.decoder_failed(e)?;
                    return Ok(true);
                }
            }
        }
        let Some(decoder) = self.decoding.decoder.as_mut() else {
            return Ok(true);
        };
        self.decoding.pending.push(packet.frame_id, packet.pts_ns);
        let Err(e) = decoder.push(packet) else {
            return Ok(true);
        };
        self.decoding.pending.remove(packet.pts_ns);
        self.lose(1, packet.pts_ns, GapCause::Undecodable);
        let damaged_jpeg = packet.params.codec == Codec::Mjpeg;
        self.decoder_failed(e)?;
        Ok(!damaged_jpeg)
    }

    /// What follows from a decoder's error; the picture it is about is counted already.
    fn decoder_failed(&mut self, error: DecodeError) -> Result<(), SourceError> {
        match error {
            DecodeError::Damaged(why) => {
                tracing::debug!(source = %self.name, "a picture is lost: {why}");
            }
            DecodeError::Gone(why) => {
                let wait = self.decoding.backoff.next();
                tracing::warn!(source = %self.name, "the decoder is gone, a new one comes in {:.1} s: {why}", wait.as_secs_f64());
                self.decoding.retry_at = Some(Instant::now() + wait);
                self.decoding.decoder = None;
                self.give_up_pending(GapCause::Undecodable);
            }
            DecodeError::Unsupported(detail) => {
                self.close();
                return Err(SourceError::Unsupported {
                    uri: self.uri.clone(),
                    detail,
                });
            }
        }
        let intra_only = |p: &Arc<CodecParams>| p.codec == Codec::Mjpeg;
        self.decoding.waits_for_key = !self.decoding.params.as_ref().is_some_and(intra_only);
        Ok(())
    }

    /// A picture that the decoder has ready.
    fn take_decoded(&mut self, pool: &FramePool) -> Result<Option<SourceEvent>, SourceError> {
        let Some(decoder) = self.decoding.decoder.as_mut() else {
            return Ok(None);
        };
        let picture = match decoder.ready() {
            Ok(Some(picture)) => picture,
            Ok(None) => return Ok(None),
            Err(e) => return self.decoder_failed(e).map(|()| None),
        };
        let codec = self.decoding.params.as_ref().map(|p| p.codec);
        if let Some(event) = self.announce(picture.layout, codec) {
            return Ok(Some(event));
        }
        let slot = self.slot(pool, &picture.layout)?;
        let Some(decoder) = self.decoding.decoder.as_mut() else {
            return Ok(None);
        };
        let Some((frame_id, lost)) = self.decoding.pending.come(picture.pts_ns) else {
            decoder.skip();
            return Ok(None);
        };
        let t_ns = picture
            .pts_ns
            .max(self.last_frame_ns.map_or(i64::MIN, |t| t + 1));
        let Some(mut slot) = slot else {
            decoder.skip();
            self.lose(lost, t_ns, GapCause::Undecodable);
            self.lose(1, t_ns, GapCause::PoolExhausted);
            return Ok(None);
        };
        let taken = decoder.take(slot.pixels_mut());
        self.lose(lost, t_ns, GapCause::Undecodable);
        if let Err(e) = taken {
            self.lose(1, t_ns, GapCause::Undecodable);
            return self.decoder_failed(e).map(|()| None);
        }
        self.decoding.backoff.reset();
        self.decoding.retry_at = None;
        self.deliver(pool, slot, frame_id, t_ns);
        Ok(self.told.pop_front())
    }

    /// A raw picture, from the connection into the slot.
    fn take_raw(
        &mut self,
        frame_id: u64,
        t_ns: i64,
        pool: &FramePool,
        stop: &StopFlag,
    ) -> Result<Option<SourceEvent>, SourceError> {
        let layout = self.info.layout;
        let Some(mut slot) = self.slot(pool, &layout)? else {
            self.lose(1, t_ns, GapCause::PoolExhausted);
            return Ok(None);
        };
        let Link::Up(up) = &mut self.link else {
            return Ok(None);
        };
        match up.stream.fill(slot.pixels_mut(), stop) {
            Ok(()) => {
                self.deliver(pool, slot, frame_id, t_ns);
                Ok(self.told.pop_front())
            }
            Err(StreamError::Stopped) => Ok(None),
            Err(StreamError::Failed(outage)) => {
                self.lose(1, t_ns, GapCause::Undecodable);
                self.down(outage, GapCause::Disconnected);
                Ok(None)
            }
        }
    }

    fn deliver(&mut self, pool: &FramePool, slot: SlotMut, frame_id: u64, t_ns: i64) {
        let meta = FrameMeta {
            frame_id,
            t_ns,
            epoch: self.timeline.epoch(),
            layout: self.info.layout,
        };
        let frame = self.publisher.publish(pool, slot, meta);
        self.delivered += 1;
        self.last_frame_ns = Some(t_ns);
        if let Some(gap) = self.losses.delivered(t_ns) {
            self.told.push_back(SourceEvent::Gap(gap));
        }
        self.told.push_back(SourceEvent::Frame(frame));
    }

    /// A slot for a picture of `layout`; `None` if it has to be dropped.
    fn slot(&self, pool: &FramePool, layout: &ImageLayout) -> Result<Option<SlotMut>, SourceError> {
        let have = pool.layout().native();
        if !same_bytes(layout, have) {
            return Err(SourceError::Slot {
                file: PathBuf::from(&self.uri),
                need: layout.bytes(),
                have: have.bytes(),
            });
        }
        Ok(pool.try_acquire())
    }
}

impl Decoding {
    fn peek(&mut self) -> Option<Decoded> {
        // One that is late says nothing about this packet; the others have no errors here.
        let decoder = self.decoder.as_mut().filter(|d| !d.is_late())?;
        decoder.ready().ok().flatten()
    }

    pub(super) fn is_late(&self) -> bool {
        !self.pending.is_empty() && self.decoder.as_ref().is_some_and(|d| d.is_late())
    }
}
