//! Packets to pictures: what a decoder is, and which one there is for a stream.
//!
//! ```text
//! Packet ─ push ─▶ decoder ─ ready ─▶ Decoded (frame_id, pts, layout) ─ take ─▶ bytes of a slot
//!                    ├─ JpegDecoder     libjpeg-turbo, here, scaled, straight into the slot
//!                    ├─ H264Decoder     openh264, here; what it can't do goes to the child
//!                    └─ FfmpegDecoder   a child: packets in, pictures out, both over NUT
//! ```
//!
//! A decoder is asked in two steps, so that a picture for which there is no slot need not be
//! written anywhere, and one for which there is goes straight into it.

mod child;
mod h264;
mod ivf;
mod jpeg;
mod sps;

#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use visualpath_core::ImageLayout;

use crate::encode::{Codec, CodecParams, Packet};

pub use jpeg::{JPEG_COLOR, JpegDecoder};
pub use sps::Sps;
pub(crate) use sps::{Bits, rbsp};

/// A picture that is ready to be taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoded {
    /// That of its packet.
    pub frame_id: u64,
    /// That of its packet.
    pub pts_ns: i64,
    /// How [`Decoder::take`] will lay it out: packed, no padding.
    pub layout: ImageLayout,
}

/// Why a packet gave no picture. The next one may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The packet's bytes are damaged.
    #[error("the picture is damaged: {0}")]
    Damaged(String),
    /// The decoder can't do this stream at all.
    #[error("{0}")]
    Unsupported(String),
    /// The decoder itself is gone; a new one has to be made, and begins at a key packet.
    #[error("the decoder ended: {0}")]
    Gone(String),
}

/// Makes pictures from the packets of one stream.
pub trait Decoder: Send {
    /// What is really at work, for log and status, as `libjpeg-turbo` or `ffmpeg hevc`.
    fn name(&self) -> &str;

    /// Pictures need not be larger than this, both ways; `None`: full size. A decoder that can't
    /// scale ignores it.
    fn at_least(&mut self, size: Option<(u32, u32)>) {
        let _ = size;
    }

    /// Whether pictures come some time after their packets, so that [`Decoder::ready`] is worth
    /// asking again without another packet.
    fn is_late(&self) -> bool {
        false
    }

    /// Takes one packet, in decoding order. A picture that was ready and not taken is lost.
    ///
    /// # Errors
    /// No picture comes of this packet.
    fn push(&mut self, packet: &Packet) -> Result<(), DecodeError>;

    /// No more packets follow: pictures that were held back for them come out, late.
    fn end(&mut self) {}

    /// Of one that [`Decoder::is_late`]: waits until [`Decoder::ready`] is worth asking again, at
    /// most so long; whether it is.
    fn wait(&mut self, limit: Duration) -> bool {
        let _ = limit;
        false
    }

    /// The next picture, in the order they are shown; `None`: another packet is needed.
    /// The same one until it is taken or dropped.
    ///
    /// # Errors
    /// A picture is lost.
    fn ready(&mut self) -> Result<Option<Decoded>, DecodeError>;

    /// Writes the picture that is ready into `out`, exactly `layout.bytes()` bytes.
    ///
    /// # Errors
    /// The picture is lost.
    fn take(&mut self, out: &mut [u8]) -> Result<(), DecodeError>;

    /// Passes over the picture that is ready.
    fn skip(&mut self);

    /// Forgets everything inside: the next packet is a key packet of another epoch.
    fn reset(&mut self);
}

/// A decoder for a stream with these parameter sets. `threads` of a child's decoder; 0 lets it
/// choose, 1 gives each picture soonest.
///
/// # Errors
/// [`DecodeError::Unsupported`] if there is none, with what to install.
pub fn open(params: &CodecParams, threads: u32) -> Result<Box<dyn Decoder>, DecodeError> {
    Ok(match params.codec {
        Codec::Mjpeg => Box::new(JpegDecoder::new()?),
        Codec::H264 => Box::new(h264::H264Decoder::new(params, threads)?),
        Codec::H265 => Box::new(child::FfmpegDecoder::new(params, threads)?),
    })
}

/// The same for one whose pictures may be shown in another order than they are decoded in.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_reordering(
    params: &CodecParams,
    threads: u32,
) -> Result<Box<dyn Decoder>, DecodeError> {
    match params.codec {
        Codec::Mjpeg => open(params, threads),
        Codec::H264 | Codec::H265 => Ok(Box::new(child::FfmpegDecoder::new(params, threads)?)),
    }
}

/// Whether what [`open`] gives for H.264 may not do for this packet: it has B slices.
pub(crate) fn is_reordered(packet: &Packet) -> bool {
    packet.params.codec == Codec::H264 && h264::has_b_slice(packet)
}

/// The NAL units of a packet, without their lengths.
fn nal_units(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = data.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        let (nal, rest) = rest.split_at_checked(len)?;
        data = rest;
        Some(nal)
    })
}
