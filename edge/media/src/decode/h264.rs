//! H.264: Cisco's OpenH264 in this process as long as the stream is one it can do, else ffmpeg.
//!
//! It does progressive 4:2:0 of 8 bits, and gives a picture at once only if nothing is reordered.
//! Whether a stream has B pictures is seen at the first B slice; whether the library takes a stream
//! at all, at its key pictures. In both cases a child takes over at the next key packet.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use openh264::OpenH264API;
use openh264::decoder::{Decoder as Library, DecoderConfig, Flush};
use openh264::formats::YUVSource;
use visualpath_core::{ImageLayout, PixelFormat};

use super::child::FfmpegDecoder;
use super::{Bits, DecodeError, Decoded, Decoder, Sps, nal_units, rbsp};
use crate::encode::{CodecParams, Packet};

/// Key packets in a row that the library may fail on before it is given up.
const KEYS_LOST: u32 = 2;

/// See the module's text.
pub(super) struct H264Decoder {
    params: CodecParams,
    threads: u32,
    inside: Option<Inside>,
    child: Option<FfmpegDecoder>,
    /// The library can't do this stream.
    leave: bool,
    keys_lost: u32,
}

impl H264Decoder {
    pub(super) fn new(params: &CodecParams, threads: u32) -> Result<Self, DecodeError> {
        let mut this = Self {
            params: params.clone(),
            threads,
            inside: None,
            child: None,
            leave: false,
            keys_lost: 0,
        };
        if Sps::h264(&params.sps).is_some_and(|sps| is_for_openh264(&sps)) {
            this.inside = Some(Inside::new(params)?);
        } else {
            this.child = Some(FfmpegDecoder::new(params, threads)?);
        }
        Ok(this)
    }

    /// What to do with a packet, before it is pushed.
    fn choose(&mut self, packet: &Packet) -> Result<(), DecodeError> {
        if self.inside.is_none() {
            return Ok(());
        }
        self.leave |= has_b_slice(packet);
        if !self.leave {
            return Ok(());
        }
        if !packet.is_key {
            return Err(DecodeError::Damaged(
                "the stream has B pictures; ffmpeg takes over at the next key picture".to_owned(),
            ));
        }
        self.child = Some(FfmpegDecoder::new(&self.params, self.threads)?);
        self.inside = None;
        Ok(())
    }
}

/// Whether OpenH264 decodes it: 4:2:0, 8 bits, whole frames.
fn is_for_openh264(sps: &Sps) -> bool {
    sps.chroma == 1 && sps.bits == 8 && sps.progressive && [66, 77, 100].contains(&sps.profile)
}

/// `slice_type` 1 and 6 are B (table 7-6).
pub(super) fn has_b_slice(packet: &Packet) -> bool {
    nal_units(&packet.data)
        .filter(|nal| nal.first().is_some_and(|b| matches!(b & 0x1F, 1 | 5)))
        .any(|nal| {
            let head = rbsp(nal, 16).unwrap_or_default();
            let mut b = Bits::new(head.get(1..).unwrap_or_default());
            matches!((b.ue(), b.ue()), (Some(_), Some(1 | 6)))
        })
}

impl Decoder for H264Decoder {
    fn name(&self) -> &str {
        match &self.child {
            Some(child) => child.name(),
            None => "openh264",
        }
    }

    fn is_late(&self) -> bool {
        self.child.is_some()
    }

    fn push(&mut self, packet: &Packet) -> Result<(), DecodeError> {
        self.choose(packet)?;
        if let Some(child) = &mut self.child {
            return child.push(packet);
        }
        let Some(inside) = &mut self.inside else {
            return Err(DecodeError::Gone("no decoder is left".to_owned()));
        };
        let outcome = inside.push(packet);
        if packet.is_key {
            self.keys_lost = if outcome.is_ok() {
                0
            } else {
                self.keys_lost + 1
            };
            self.leave |= self.keys_lost >= KEYS_LOST;
        }
        outcome
    }

    fn end(&mut self) {
        if let Some(child) = &mut self.child {
            child.end();
        }
    }

    fn wait(&mut self, limit: Duration) -> bool {
        self.child.as_mut().is_some_and(|child| child.wait(limit))
    }

    fn ready(&mut self) -> Result<Option<Decoded>, DecodeError> {
        match (&mut self.child, &mut self.inside) {
            (Some(child), _) => child.ready(),
            (None, Some(inside)) => Ok(inside.ready()),
            (None, None) => Ok(None),
        }
    }

    fn take(&mut self, out: &mut [u8]) -> Result<(), DecodeError> {
        match (&mut self.child, &mut self.inside) {
            (Some(child), _) => child.take(out),
            (None, Some(inside)) => inside.take(out),
            (None, None) => Err(DecodeError::Gone("no decoder is left".to_owned())),
        }
    }

    fn skip(&mut self) {
        match (&mut self.child, &mut self.inside) {
            (Some(child), _) => child.skip(),
            (None, Some(inside)) => inside.picture = None,
            (None, None) => {}
        }
    }

    fn reset(&mut self) {
        if let Some(child) = &mut self.child {
            child.reset();
        }
        if let Some(inside) = &mut self.inside {
            inside.picture = None;
            inside.pending.clear();
        }
    }
}

/// OpenH264.
struct Inside {
    library: Library,
    params: CodecParams,
    /// Packets whose pictures have not come out.
    pending: VecDeque<(u64, i64)>,
    /// The picture is the library's until the next packet; this is the copy that may wait.
    pixels: Vec<u8>,
    picture: Option<Decoded>,
    bytes: BytesMut,
}

/// Pictures the library may hold back at most (16 reference frames, A.3.1).
const MAX_PENDING: usize = 17;

impl Inside {
    fn new(params: &CodecParams) -> Result<Self, DecodeError> {
        let config = DecoderConfig::new().flush_after_decode(Flush::Flush);
        let library = Library::with_api_config(OpenH264API::from_source(), config)
            .map_err(|e| DecodeError::Gone(format!("openh264: {e}")))?;
        Ok(Self {
            library,
            params: params.clone(),
            pending: VecDeque::new(),
            pixels: Vec::new(),
            picture: None,
            bytes: BytesMut::new(),
        })
    }

    fn push(&mut self, packet: &Packet) -> Result<(), DecodeError> {
        self.picture = None;
        self.bytes.clear();
        if packet.is_key {
            self.pending.clear();
            put_annexb(&mut self.bytes, [&self.params.sps[..], &self.params.pps]);
        }
        put_annexb(&mut self.bytes, nal_units(&packet.data));
        self.pending.push_back((packet.frame_id, packet.pts_ns));
        if self.pending.len() > MAX_PENDING {
            self.pending.pop_front();
        }
        let outcome = self.library.decode(&self.bytes);
        let picture = match outcome {
            Ok(Some(picture)) => picture,
            // Nothing is reordered: a packet without a picture is one that is lost.
            Ok(None) => {
                self.pending.clear();
                return Err(DecodeError::Damaged("no picture came of it".to_owned()));
            }
            Err(e) => {
                self.pending.clear();
                return Err(DecodeError::Damaged(format!("openh264: {e}")));
            }
        };
        let Some((frame_id, pts_ns)) = self.pending.pop_front() else {
            return Ok(());
        };
        let (width, height) = picture.dimensions();
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        if (side(width), side(height)) != (self.params.width, self.params.height) {
            return Err(DecodeError::Damaged(format!(
                "a picture of {width}x{height} in a stream of {}x{}",
                self.params.width, self.params.height
            )));
        }
        let layout = ImageLayout::packed(
            PixelFormat::I420,
            side(width),
            side(height),
            self.params.color,
        );
        self.pixels.resize(layout.bytes(), 0);
        let strides = picture.strides();
        let planes = [
            (picture.y(), strides.0),
            (picture.u(), strides.1),
            (picture.v(), strides.2),
        ];
        for ((src, stride), plane) in planes.into_iter().zip(layout.planes()) {
            let out = self.pixels.get_mut(plane.offset..).unwrap_or_default();
            let rows = out.chunks_exact_mut(plane.stride).take(plane.rows);
            for (row, src) in rows.zip(src.chunks(stride.max(1))) {
                let n = plane.row_bytes.min(src.len());
                row[..n].copy_from_slice(&src[..n]);
            }
        }
        self.picture = Some(Decoded {
            frame_id,
            pts_ns,
            layout,
        });
        Ok(())
    }

    fn ready(&self) -> Option<Decoded> {
        self.picture
    }

    fn take(&mut self, out: &mut [u8]) -> Result<(), DecodeError> {
        if self.picture.take().is_none() || out.len() != self.pixels.len() {
            return Err(DecodeError::Damaged("there is no such picture".to_owned()));
        }
        out.copy_from_slice(&self.pixels);
        Ok(())
    }
}

/// Puts NAL units behind start codes (annex B).
pub(super) fn put_annexb<'a>(out: &mut BytesMut, nals: impl IntoIterator<Item = &'a [u8]>) {
    for nal in nals {
        if !nal.is_empty() {
            out.put_slice(&[0, 0, 0, 1]);
            out.put_slice(nal);
        }
    }
}
