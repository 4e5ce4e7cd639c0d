//! Frames to packets: what an encoder is, what it makes, and how many bits it may spend.
//!
//! ```text
//! EncoderKind ─┬─ H264 ─┬─ the board's (V4L2 M2M: `v4l2/m2m`)
//!              │        └─ OpenH264 ── built from source, or Cisco's own binary
//!              └─ Mjpeg
//! ```
//!
//! All take every pixel format. A hardware encoder may answer later than it is asked, which is why
//! an encoder pushes packets into a list instead of returning one.
//!
//! Packets also come from a device that encodes by itself: those are evidence as they are.

mod h264;
pub(crate) mod i420;
mod mjpeg;
mod openh264;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use visualpath_core::{ColorSpec, FrameMeta};

pub use self::h264::{H264, H264Encoder, H264Options, hardware_encoder};
pub use self::mjpeg::Mjpeg;
pub use self::openh264::OpenH264;
use crate::ring::PACKET_OVERHEAD;
#[cfg(feature = "v4l2")]
#[doc(hidden)]
pub use crate::source::v4l2::{Trial, TrialPacket};

/// How packets are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Codec {
    /// ITU-T H.264.
    H264,
    /// ITU-T H.265.
    H265,
    /// One JPEG (ITU-T T.81) per picture.
    Mjpeg,
}

impl Codec {
    /// Its word in messages and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
            Self::Mjpeg => "mjpeg",
        }
    }
}

/// What a decoder must know before the first packet. A change of it starts a new key packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecParams {
    /// The codec.
    pub codec: Codec,
    /// Pixels across, after the sequence parameter set's cropping.
    pub width: u32,
    /// Pixels down, after cropping.
    pub height: u32,
    /// What the samples mean.
    pub color: ColorSpec,
    /// Video parameter set (H.265 7.3.2.1), a NAL unit without start code; empty for others.
    pub vps: Bytes,
    /// Sequence parameter set (H.264 7.3.2.1, H.265 7.3.2.2), a NAL unit without start code; empty
    /// for MJPEG.
    pub sps: Bytes,
    /// Picture parameter set (H.264 7.3.2.2, H.265 7.3.2.3), a NAL unit without start code; empty
    /// for MJPEG.
    pub pps: Bytes,
}

#[cfg(test)]
impl CodecParams {
    /// Stand-in parameter sets for tests that decode nothing.
    pub(crate) fn for_tests(width: u32, height: u32) -> Arc<Self> {
        Arc::new(Self {
            codec: Codec::H264,
            width,
            height,
            color: ColorSpec::default(),
            vps: Bytes::new(),
            sps: Bytes::from_static(&[0x67, 66, 0xC0, 30]),
            pps: Bytes::from_static(&[0x68, 1]),
        })
    }
}

/// One encoded access unit. It has no duration: that is the time to the next packet, which only
/// who holds both knows.
#[derive(Debug, Clone)]
pub struct Packet {
    /// H.264 and H.265: NAL units, each behind its length in 4 bytes, big-endian (ISO/IEC 14496-15,
    /// 5.3.3), without parameter sets: what an MP4 sample is, so that a clip is written without a
    /// rewrite. MJPEG: the whole JPEG.
    pub data: Bytes,
    /// Decoding may begin here (H.264: an IDR picture; H.265: an IRAP picture; MJPEG: always).
    pub is_key: bool,
    /// When it is shown, source time in nanoseconds.
    pub pts_ns: i64,
    /// When it is decoded; strictly increasing, never after `pts_ns`, and different from it only in
    /// streams with reordering.
    pub dts_ns: i64,
    /// The frame it shows. Of packets that a device made: dense in decoding order; a hole is a loss.
    pub frame_id: u64,
    /// The parameter sets it needs.
    pub params: Arc<CodecParams>,
}

impl Packet {
    /// Bytes it costs in a ring.
    pub fn cost(&self) -> usize {
        self.data.len() + PACKET_OVERHEAD
    }
}

/// Why a frame did not become a packet.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Layout and bytes disagree.
    #[error("frame {frame_id} has {have} bytes, its layout asks for {need}")]
    Pixels {
        /// The frame.
        frame_id: u64,
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Time must go forward.
    #[error("frame {frame_id} is at {t_ns} ns, not after the last one at {last_ns} ns")]
    Time {
        /// The frame.
        frame_id: u64,
        /// Its time.
        t_ns: i64,
        /// The last frame's.
        last_ns: i64,
    },
    /// Rate control must never drop a picture; if it does all the same, it is not silent.
    #[error("the encoder skipped frame {frame_id}")]
    Skipped {
        /// The frame.
        frame_id: u64,
    },
    /// A stream must begin with its parameter sets and a key picture.
    #[error("the encoder began at frame {frame_id} without {what}")]
    Begin {
        /// The frame.
        frame_id: u64,
        /// What is missing.
        what: &'static str,
    },
    /// The library failed.
    #[error(
        "openh264 failed at frame {frame_id} ({width}x{height}): {message}; it encodes up to 3840x2160"
    )]
    Library {
        /// The frame.
        frame_id: u64,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// What the library said.
        message: String,
    },
    /// Cisco's binary of OpenH264 can't be used.
    #[error(
        "OpenH264's library `{}` can't be used: {message}; clip.openh264_library must name Cisco's own binary \
         (openh264.org has it; it may be downloaded on the device only), or set clip.encoder = \"openh264\"",
        .path.display()
    )]
    OpenH264Library {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The board has no encoder for this.
    #[error("there is no hardware encoder: {message}")]
    NoHardware {
        /// What was looked for.
        message: String,
    },
    /// The hardware encoder failed. What it had not given back is lost.
    #[error("the hardware encoder failed at frame {frame_id}: {message}")]
    Hardware {
        /// The frame.
        frame_id: u64,
        /// The device, and what it said.
        message: String,
    },
    /// The JPEG library failed.
    #[error("libjpeg-turbo failed at frame {frame_id}: {message}")]
    Jpeg {
        /// The frame.
        frame_id: u64,
        /// What the library said.
        message: String,
    },
}

/// Whether a frame can be taken after one at `last_ns`.
pub(crate) fn check(
    meta: &FrameMeta,
    pixels: &[u8],
    last_ns: Option<i64>,
) -> Result<(), EncodeError> {
    let (frame_id, t_ns) = (meta.frame_id, meta.t_ns);
    let (have, need) = (pixels.len(), meta.layout.bytes());
    if have < need || meta.layout.width == 0 || meta.layout.height == 0 {
        return Err(EncodeError::Pixels {
            frame_id,
            have,
            need,
        });
    }
    match last_ns.filter(|last| t_ns <= *last) {
        Some(last_ns) => Err(EncodeError::Time {
            frame_id,
            t_ns,
            last_ns,
        }),
        None => Ok(()),
    }
}

/// Makes packets from the frames of one source.
pub trait Encoder: Send {
    /// What is really at work, for log and status, as `openh264 2.6`.
    fn name(&self) -> String;

    /// Takes one frame and appends the packets that became ready, in decoding order. `pixels` is
    /// read during the call only.
    ///
    /// # Errors
    /// The frame is lost; the next one may be offered.
    fn encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<(), EncodeError>;

    /// Frames it took and has given no packet of yet; those of [`Encoder::take_lost`] not counted.
    fn inside(&self) -> u64 {
        0
    }

    /// Frames it took, with success, that will never be packets; since this was last asked.
    fn take_lost(&mut self) -> u64 {
        0
    }

    /// The next packet must be a key packet: what it would refer to is not in the ring before it.
    fn restart(&mut self);

    /// Appends what is still inside. Called at the end, and when frames stop coming; the next frame
    /// begins a new stream.
    ///
    /// # Errors
    /// What was inside is lost.
    fn flush(&mut self, packets: &mut Vec<Packet>) -> Result<(), EncodeError>;
}

/// Which codec frames are encoded with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EncoderKind {
    /// [`H264`].
    #[default]
    H264,
    /// [`Mjpeg`]: a fraction of the CPU time and many times the bytes.
    Mjpeg,
}

impl EncoderKind {
    /// An encoder of this kind.
    pub fn build(self, options: EncoderOptions) -> Box<dyn Encoder> {
        match self {
            Self::H264 => Box::new(H264::new(options)),
            Self::Mjpeg => Box::new(Mjpeg::new(options)),
        }
    }
}

/// How many bits to spend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bitrate {
    /// From size and frame rate, see [`Bitrate::bits_per_s`].
    #[default]
    Auto,
    /// Bits per second.
    BitsPerS(u32),
}

/// Largest picture area of a row, and its bits per second at 30 frames per second: about 0.1 bit
/// per pixel for HD, more for small pictures, whose macroblocks hold more detail each.
const AUTO_BITRATES: [(u64, f64); 8] = [
    (160 * 120, 200e3),
    (320 * 240, 400e3),
    (640 * 480, 1_200e3),
    (768 * 576, 1_800e3),
    (1280 * 720, 3_000e3),
    (1920 * 1080, 6_000e3),
    (2560 * 1440, 9_000e3),
    (u64::MAX, 16_000e3),
];

impl Bitrate {
    /// Bits per second for pictures of this size and rate. `Auto` takes the first row of the table
    /// that the picture fits into, times √(fps / 30) kept within 0.4 and 1.5: at a lower rate
    /// neighbouring pictures differ more, so the bits fall more slowly than the rate.
    pub fn bits_per_s(self, width: u32, height: u32, fps: f64) -> u32 {
        match self {
            Self::BitsPerS(bits) => bits,
            Self::Auto => {
                let area = u64::from(width) * u64::from(height);
                let base = AUTO_BITRATES
                    .iter()
                    .find(|(limit, _)| area <= *limit)
                    .map_or(16_000e3, |(_, bits)| *bits);
                let rate = (fps / 30.0).max(0.0).sqrt().clamp(0.4, 1.5);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "0.08 to 24 million"
                )]
                let bits = (base * rate) as u32;
                bits
            }
        }
    }
}

/// Options of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderOptions {
    /// Longest time between key packets, in source time, nanoseconds.
    pub gop_ns: i64,
    /// Bits to spend.
    pub bitrate: Bitrate,
    /// The source's nominal rate, a hint for the bit rate only: time stamps are the frames' own.
    pub fps: f64,
    /// By what H.264 is made, and with how many threads.
    pub h264: H264Options,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        Self {
            gop_ns: 2 * visualpath_core::NS_PER_S,
            bitrate: Bitrate::Auto,
            fps: 30.0,
            h264: H264Options::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_bitrate_grows_with_size_and_rate_and_an_asked_one_is_kept() {
        let auto = |w, h, fps| Bitrate::Auto.bits_per_s(w, h, fps);
        assert_eq!(auto(1280, 720, 30.0), 3_000_000);
        assert_eq!(auto(1920, 1080, 30.0), 6_000_000);
        assert!(auto(768, 576, 10.0) > 1_000_000 && auto(768, 576, 10.0) < 1_800_000);
        assert_eq!(auto(1280, 720, 0.0), 1_200_000);
        assert_eq!(
            auto(1280, 720, f64::NAN),
            1_200_000,
            "an unknown rate is a low one"
        );
        assert_eq!(auto(7680, 4320, 1000.0), 24_000_000);
        assert_eq!(Bitrate::BitsPerS(7).bits_per_s(1, 1, 1.0), 7);
    }
}
