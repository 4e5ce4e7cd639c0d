//! Packets to pictures: what a decoder is.
//!
//! ```text
//! Packet ─ push ─▶ decoder ─ ready ─▶ Decoded (frame_id, pts, layout) ─ take ─▶ bytes of a slot
//! ```
//!
//! A decoder is asked in two steps, so that a picture for which there is no slot need not be
//! written anywhere, and one for which there is goes straight into it.

use visualpath_core::ImageLayout;

use crate::encode::Packet;

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

    /// Takes one packet, in decoding order.
    ///
    /// # Errors
    /// No picture comes of this packet.
    fn push(&mut self, packet: &Packet) -> Result<(), DecodeError>;

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
