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
    /// A picture of a size that was not agreed on was told of.
    size_said: bool,
}

/// What is in a buffer.
#[derive(Default)]
pub(super) struct Cuttings {
    pub(super) units: Vec<Unit>,
    /// Pictures of which nothing can be made.
    pub(super) lost: u64,
}

enum Cutting {
    /// A buffer is a JPEG.
    Jpeg(Arc<CodecParams>),
    /// A buffer is a piece of a byte stream: one picture with its parameter sets.
    AnnexB(Codec, Box<AnnexB>),
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
            Cutting::AnnexB(codec, Box::new(AnnexB::new(codec)))
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
            size_said: false,
        })
    }

    pub(super) fn at_least(&mut self, size: Option<(u32, u32)>) {
        self.at_least = size;
        if let Some(decoder) = &mut self.decoder {
            decoder.at_least(size);
        }
    }

    /// The pictures in a buffer's bytes, copied out of it: the buffer goes back at once.
    pub(super) fn units(&mut self, bytes: &[u8]) -> Cuttings {
        let nothing = Cuttings {
            units: Vec::new(),
            lost: 1,
        };
        match &mut self.cut {
            Cutting::Jpeg(params) => {
                // Drivers pad, and a dropped USB packet leaves a buffer that begins anywhere.
                if !bytes.starts_with(&[0xFF, 0xD8]) {
                    return nothing;
                }
                // A damaged header must not make another format of the stream.
                let agreed = (params.width, params.height);
                if let Some(size) = jpeg_size(bytes).filter(|size| *size != agreed) {
                    if !std::mem::replace(&mut self.size_said, true) {
                        tracing::warn!(
                            "a JPEG of {}x{} where {}x{} was agreed on counts as damaged",
                            size.0,
                            size.1,
                            agreed.0,
                            agreed.1
                        );
                    }
                    return nothing;
                }
                Cuttings {
                    units: vec![Unit {
                        params: Arc::clone(params),
                        data: Bytes::copy_from_slice(bytes),
                        is_key: true,
                    }],
                    lost: 0,
                }
            }
            Cutting::AnnexB(codec, cut) => {
                // A V4L2 buffer holds whole pictures: it ends where the stream would go on.
                cut.push(bytes);
                cut.finish();
                let mut found = Cuttings::default();
                while let Some(piece) = cut.pop() {
                    match piece {
                        Cut::Unit(unit) => found.units.push(Unit {
                            params: unit.params,
                            data: unit.data,
                            is_key: unit.is_key,
                        }),
                        Cut::Lost => found.lost += 1,
                    }
                }
                // Some encoders give their parameter sets in a buffer of their own.
                if found.units.is_empty() && found.lost == 0 && !is_sets_only(*codec, bytes) {
                    return nothing;
                }
                found
            }
        }
    }

    /// Pictures were lost on the way here: those after them can't be decoded either.
    pub(super) fn missed(&mut self) {
        self.waits_for_key |= !self.is_jpeg();
    }

    /// Decodes a packet and keeps it to be told. An error: no picture comes of it.
    pub(super) fn push(&mut self, node: &Path, packet: Packet) -> Result<(), DecodeError> {
        let pushed = self.decode(node, &packet);
        // A damaged JPEG is no evidence either; a packet of a stream is needed by those after it.
        if pushed.is_ok() || !self.is_jpeg() {
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

    /// Whether packets are pictures of their own, which need no others.
    pub(super) fn is_jpeg(&self) -> bool {
        matches!(self.cut, Cutting::Jpeg(_))
    }

    /// Whether pictures come some time after their packets.
    pub(super) fn is_late(&self) -> bool {
        self.decoder.as_ref().is_some_and(|d| d.is_late())
    }

    fn failed(&mut self, error: &DecodeError) {
        self.waits_for_key = !self.is_jpeg();
        if matches!(error, DecodeError::Gone(_)) {
            self.drop_decoder();
        }
    }
}

/// The size a JPEG's frame header names; `None` if there is none to be found.
fn jpeg_size(jpeg: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        let [mark, kind, high, low] = *jpeg.get(at..)?.first_chunk::<4>()?;
        match (mark, kind) {
            // Fill bytes.
            (0xFF, 0xFF) => at += 1,
            (0xFF, 0xC0..=0xCF) if ![0xC4, 0xC8, 0xCC].contains(&kind) => {
                let [h1, h0, w1, w0] = *jpeg.get(at + 5..)?.first_chunk::<4>()?;
                let side = |high, low| u32::from(u16::from_be_bytes([high, low]));
                return Some((side(w1, w0), side(h1, h0)));
            }
            // The scan begins, or it was no marker.
            (0xFF, 0xDA) | (..0xFF, _) => return None,
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
}

/// Whether a piece of a byte stream has NAL units and no slice among them.
fn is_sets_only(codec: Codec, bytes: &[u8]) -> bool {
    let mut kinds = bytes
        .windows(4)
        .filter_map(|w| w.strip_prefix(&[0, 0, 1]))
        .filter_map(|nal| nal.first())
        .map(|first| match codec {
            Codec::H265 => (first >> 1 & 0x3F) >= 32,
            _ => !(1..=5).contains(&(first & 0x1F)),
        })
        .peekable();
    kinds.peek().is_some() && kinds.all(|is_other| is_other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_sets_alone_are_no_picture_and_garbage_is_a_lost_one() {
        let sets = [0, 0, 0, 1, 0x67, 66, 0, 30, 0, 0, 1, 0x68, 0xCE];
        let slice = [&sets[..], &[0, 0, 1, 0x65, 0x88]].concat();
        assert!(is_sets_only(Codec::H264, &sets));
        assert!(!is_sets_only(Codec::H264, &slice));
        assert!(!is_sets_only(Codec::H264, &[7; 20]));
        assert!(!is_sets_only(Codec::H264, &[]));
        assert!(is_sets_only(Codec::H265, &[0, 0, 1, 0x42, 1]));
        assert!(!is_sets_only(Codec::H265, &[0, 0, 1, 0x26, 1]));
    }

    #[test]
    fn a_jpegs_size_is_that_of_its_frame_header() {
        let jpeg = super::super::scripted::jpeg(9, (48, 32));
        assert_eq!(jpeg_size(&jpeg), Some((48, 32)));
        for end in 0..jpeg.len() {
            let size = jpeg_size(&jpeg[..end]);
            assert!(size.is_none_or(|size| size == (48, 32)), "{end}");
        }
    }
}
