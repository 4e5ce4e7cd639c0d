//! Encoded cameras: a buffer to packets, packets to pictures.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::setup::Plan;
use crate::decode::{self, DecodeError, Decoded, Decoder};
use crate::encode::{Codec, CodecParams, Packet};
use crate::source::annexb::{AnnexB, Cut};

/// One encoded picture of a buffer, not numbered yet.
pub(super) struct Unit {
    params: Arc<CodecParams>,
    data: Bytes,
    is_key: bool,
}

impl Unit {
    pub(super) fn numbered(self, frame_id: u64, t_ns: i64) -> Packet {
        Packet {
            data: self.data,
            is_key: self.is_key,
            pts_ns: t_ns,
            dts_ns: t_ns,
            frame_id,
            params: self.params,
        }
    }
}

/// The decoder of a camera's packets.
pub(super) struct Decoding {
    cut: Cutting,
    decoder: Option<Box<dyn Decoder>>,
    /// What the decoder was made for.
    params: Option<Arc<CodecParams>>,
    at_least: Option<(u32, u32)>,
    threads: u32,
    /// Pictures can't be decoded before the next key packet.
    waits_for_key: bool,
    /// Packets not told yet, in order.
    pub(super) untold: VecDeque<Packet>,
    /// Pictures inside the decoder, by frame number.
    inside: VecDeque<u64>,
    /// Pictures that went with a decoder, not counted yet.
    lost: u64,
}

enum Cutting {
    /// A buffer is a JPEG.
    Jpeg(Arc<CodecParams>),
    /// A buffer is a piece of a byte stream: one picture with its parameter sets.
    AnnexB(Box<AnnexB>),
}

impl Decoding {
    /// For the packets of this plan; `None` if it has none.
    pub(super) fn new(plan: &Plan, at_least: Option<(u32, u32)>, threads: u32) -> Option<Self> {
        let super::formats::Kind::Packets(codec) = plan.kind else {
            return None;
        };
        let cut = if codec == Codec::Mjpeg {
            Cutting::Jpeg(Arc::new(CodecParams {
                codec,
                width: plan.format.width,
                height: plan.format.height,
                color: plan.layout.color,
                vps: Bytes::new(),
                sps: Bytes::new(),
                pps: Bytes::new(),
            }))
        } else {
            Cutting::AnnexB(Box::new(AnnexB::new(codec)))
        };
        Some(Self {
            cut,
            decoder: None,
            params: None,
            at_least,
            threads,
            waits_for_key: true,
            untold: VecDeque::new(),
            inside: VecDeque::new(),
            lost: 0,
        })
    }

    pub(super) fn at_least(&mut self, size: Option<(u32, u32)>) {
        self.at_least = size;
        if let Some(decoder) = &mut self.decoder {
            decoder.at_least(size);
        }
    }

    /// The pictures in a buffer's bytes, copied out of it: the buffer goes back at once. Empty if
    /// there is none in it.
    pub(super) fn units(&mut self, bytes: &[u8]) -> Vec<Unit> {
        match &mut self.cut {
            Cutting::Jpeg(params) => {
                // Drivers pad, and a dropped USB packet leaves a buffer that begins anywhere.
                if !bytes.starts_with(&[0xFF, 0xD8]) {
                    return Vec::new();
                }
                vec![Unit {
                    params: Arc::clone(params),
                    data: Bytes::copy_from_slice(bytes),
                    is_key: true,
                }]
            }
            Cutting::AnnexB(cut) => {
                // A V4L2 buffer holds whole pictures: it ends where the stream would go on.
                cut.push(bytes);
                cut.finish();
                let mut units = Vec::new();
                while let Some(piece) = cut.pop() {
                    if let Cut::Unit(unit) = piece {
                        units.push(Unit {
                            params: unit.params,
                            data: unit.data,
                            is_key: unit.is_key,
                        });
                    }
                }
                units
            }
        }
    }

    /// Pictures were lost on the way here: those after them can't be decoded either.
    pub(super) fn missed(&mut self) {
        self.waits_for_key |= !matches!(self.cut, Cutting::Jpeg(_));
    }

    /// Decodes a packet and keeps it to be told. An error: no picture comes of it.
    pub(super) fn push(&mut self, node: &Path, packet: Packet) -> Result<(), DecodeError> {
        let pushed = self.decode(node, &packet);
        // A damaged JPEG is no evidence either; a packet of a stream is needed by those after it.
        if pushed.is_ok() || !matches!(self.cut, Cutting::Jpeg(_)) {
            self.untold.push_back(packet);
        }
        pushed
    }

    fn decode(&mut self, node: &Path, packet: &Packet) -> Result<(), DecodeError> {
        if self.params.as_deref() != Some(&*packet.params) {
            self.drop_decoder();
            self.params = Some(Arc::clone(&packet.params));
            self.waits_for_key = true;
        }
        if self.waits_for_key && !packet.is_key {
            return Err(DecodeError::Damaged("no key picture yet".to_owned()));
        }
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => {
                let mut decoder = decode::open(&packet.params, self.threads)?;
                tracing::info!(
                    device = %node.display(),
                    "decoding {} with {}",
                    packet.params.codec.as_str(),
                    decoder.name()
                );
                decoder.at_least(self.at_least);
                none.insert(decoder)
            }
        };
        self.waits_for_key = false;
        let pushed = decoder.push(packet);
        match &pushed {
            Ok(()) => self.inside.push_back(packet.frame_id),
            Err(error) => self.failed(error),
        }
        pushed
    }

    /// Pictures that were accepted by a decoder and will not come, since the last call.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Pictures that are in here: lost if this is dropped now.
    pub(super) fn inside(&self) -> u64 {
        (self.inside.len() as u64).saturating_add(self.lost)
    }

    /// The picture of this frame is out; those before it that are not will not come.
    fn came(&mut self, frame_id: u64) {
        while let Some(first) = self.inside.front().copied().filter(|id| *id <= frame_id) {
            self.inside.pop_front();
            self.lost += u64::from(first < frame_id);
        }
    }

    fn drop_decoder(&mut self) {
        self.decoder = None;
        self.lost = self.inside();
        self.inside.clear();
    }

    /// The picture that is ready.
    pub(super) fn ready(&mut self) -> Result<Option<Decoded>, DecodeError> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(None);
        };
        let ready = decoder.ready();
        if let Err(error) = &ready {
            // Which one, nobody says: the oldest.
            if self.inside.pop_front().is_some() {
                self.lost += 1;
            }
            self.failed(error);
        }
        ready
    }

    /// Writes the ready picture into `out`.
    pub(super) fn take(&mut self, picture: &Decoded, out: &mut [u8]) -> Result<(), DecodeError> {
        let Some(decoder) = &mut self.decoder else {
            return Err(DecodeError::Gone("there is none".to_owned()));
        };
        let taken = decoder.take(out);
        self.came(picture.frame_id);
        if let Err(error) = &taken {
            self.failed(error);
        }
        taken
    }

    /// Passes over the ready picture.
    pub(super) fn skip(&mut self, picture: &Decoded) {
        if let Some(decoder) = &mut self.decoder {
            decoder.skip();
        }
        self.came(picture.frame_id);
    }

    /// Whether pictures come some time after their packets.
    pub(super) fn is_late(&self) -> bool {
        self.decoder.as_ref().is_some_and(|d| d.is_late())
    }

    fn failed(&mut self, error: &DecodeError) {
        self.waits_for_key = !matches!(self.cut, Cutting::Jpeg(_));
        if matches!(error, DecodeError::Gone(_)) {
            self.drop_decoder();
        }
    }
}
