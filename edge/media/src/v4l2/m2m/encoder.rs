//! Frames to H.264 packets by the board's encoder.
//!
//! A stream lasts as long as the layout of the frames. Its bytes are those of the driver, cut into
//! NAL units; parameter sets go into [`CodecParams`] as everywhere. Key pictures come by source time:
//! the driver is told with the picture. Where a driver can't be told, it counts pictures (`gop_frames`
//! at the nominal rate), and where a key picture *must* come (a new epoch, a restart) the stream is
//! begun anew.

use std::collections::VecDeque;
use std::sync::Arc;

use visualpath_core::{ColorSpec, FrameMeta, ImageLayout};

use super::device::CodecDevice;
use super::session::{Coded, Coding, Session, Wanted};
use super::{H264, M2mError, find};
use crate::encode::i420::{self, Canvas};
use crate::encode::{Codec, CodecParams, EncodeError, Encoder, EncoderOptions, Packet, check};
use crate::source::annexb::{AnnexB, Cut};

/// Encoders take no smaller side (bcm2835-codec: 32).
const SMALLEST_SIDE: usize = 32;
/// The first picture's stamp: 0 may mean "none".
const FIRST_STAMP_US: i64 = 1_000_000;

pub(super) type Open = Box<dyn FnMut() -> Result<Box<dyn CodecDevice>, M2mError> + Send>;

/// See the module's text.
pub(crate) struct M2mEncoder {
    options: EncoderOptions,
    open: Open,
    stream: Option<Stream>,
    /// Of the newest stream.
    device: String,
    last_ns: Option<i64>,
    restarts: bool,
    lost: u64,
}

impl M2mEncoder {
    /// The device is looked for at the first frame.
    pub(crate) fn new(options: EncoderOptions) -> Self {
        Self::with(options, Box::new(|| find(H264)))
    }

    pub(super) fn with(options: EncoderOptions, open: Open) -> Self {
        Self {
            options,
            open,
            stream: None,
            device: "none yet".to_owned(),
            last_ns: None,
            restarts: false,
            lost: 0,
        }
    }

    /// What is inside the stream comes out, and the stream ends.
    fn end_stream(&mut self, packets: &mut Vec<Packet>) -> Result<(), M2mError> {
        let Some(mut stream) = self.stream.take() else {
            return Ok(());
        };
        let drained = stream.session.drain();
        let taken = drained.and_then(|()| stream.take(packets));
        self.lost += stream.take_lost(true);
        taken
    }

    fn try_encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<(), Failure> {
        let fits = self
            .stream
            .as_ref()
            .is_some_and(|s| s.goes_on(meta, self.restarts));
        if !fits {
            self.end_stream(packets)?;
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = Stream::begin(&self.options, meta, (self.open)()?)?;
                self.device = stream.session.device();
                none.insert(stream)
            }
        };
        stream.needs_key |= std::mem::take(&mut self.restarts);
        stream.encode(meta, pixels, self.options.gop_ns)?;
        stream.take(packets)?;
        self.lost += stream.take_lost(false);
        Ok(())
    }
}

/// A failure of the device, or of the frame.
enum Failure {
    Device(M2mError),
    Frame(EncodeError),
}

impl From<M2mError> for Failure {
    fn from(error: M2mError) -> Self {
        Self::Device(error)
    }
}

impl Encoder for M2mEncoder {
    fn name(&self) -> String {
        format!("v4l2 (hardware, {})", self.device)
    }

    fn encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<(), EncodeError> {
        check(meta, pixels, self.last_ns)?;
        let before = packets.len();
        let error = match self.try_encode(meta, pixels, packets) {
            Ok(()) => {
                self.last_ns = Some(meta.t_ns);
                return Ok(());
            }
            Err(Failure::Frame(error)) => return Err(error),
            Err(Failure::Device(error)) => error,
        };
        if let Some(mut stream) = self.stream.take() {
            // This frame is not lost: the caller has it.
            stream.inside.retain(|f| f.frame_id != meta.frame_id);
            self.lost += stream.take_lost(true);
        }
        // It may have come out, and something else have failed: whoever encodes it now must not
        // make a second packet of it.
        while packets.len() > before && packets.last().is_some_and(|p| p.frame_id == meta.frame_id)
        {
            packets.pop();
        }
        let message = error.to_string();
        Err(match error {
            M2mError::None { .. } => EncodeError::NoHardware { message },
            _ => EncodeError::Hardware {
                frame_id: meta.frame_id,
                message,
            },
        })
    }

    fn restart(&mut self) {
        self.restarts = true;
    }

    fn inside(&self) -> u64 {
        self.stream.as_ref().map_or(0, |s| s.inside.len() as u64)
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn flush(&mut self, packets: &mut Vec<Packet>) -> Result<(), EncodeError> {
        let newest = self.stream.as_ref().and_then(|s| s.inside.back());
        let frame_id = newest.map_or(0, |f| f.frame_id);
        self.end_stream(packets)
            .map_err(|error| EncodeError::Hardware {
                frame_id,
                message: error.to_string(),
            })
    }
}

/// A frame that is inside.
#[derive(Debug, Clone, Copy)]
struct Inside {
    stamp_us: i64,
    frame_id: u64,
    t_ns: i64,
}

/// One run of frames of one layout.
struct Stream {
    session: Session,
    canvas: Canvas,
    cut: AnnexB,
    layout: ImageLayout,
    color: ColorSpec,
    epoch: u32,
    first_ns: i64,
    inside: VecDeque<Inside>,
    last_stamp_us: i64,
    /// When a key picture was last made, or asked for.
    last_key_ns: i64,
    /// Packets before the next key packet are not given.
    needs_key: bool,
    /// No key picture came when it had to: the stream must be begun anew.
    broken: bool,
    begun: bool,
    params: Option<(Arc<CodecParams>, Arc<CodecParams>)>,
    lost: u64,
}

impl Stream {
    fn begin(
        options: &EncoderOptions,
        meta: &FrameMeta,
        device: Box<dyn CodecDevice>,
    ) -> Result<Self, M2mError> {
        let layout = meta.layout;
        let color = i420::meaning(&layout);
        let canvas = Canvas::even(&layout, SMALLEST_SIDE);
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (width, height) = canvas.dimensions();
        let (width, height) = (side(width), side(height));
        let wanted = wanted(options, H264_CODING, (width, height), color);
        let session = Session::begin(device, &wanted)?;
        if !session.refused.is_empty() {
            tracing::warn!(
                device = %session.device(),
                refused = %session.refused.join(", "),
                "the hardware encoder does not do all that was asked"
            );
        }
        Ok(Self {
            session,
            canvas,
            cut: AnnexB::new(Codec::H264),
            layout,
            color,
            epoch: meta.epoch,
            first_ns: meta.t_ns,
            inside: VecDeque::new(),
            last_stamp_us: 0,
            last_key_ns: meta.t_ns,
            needs_key: true,
            broken: false,
            begun: false,
            params: None,
            lost: 0,
        })
    }

    /// Whether the frame can be the next one of this stream.
    fn goes_on(&self, meta: &FrameMeta, restarts: bool) -> bool {
        let must_be_key = restarts || meta.epoch != self.epoch;
        // What is inside was queued before the key picture, and would come out before it.
        let can = (self.session.can_force && self.inside.is_empty()) || !must_be_key;
        self.layout == meta.layout && can && !self.broken
    }

    fn encode(&mut self, meta: &FrameMeta, pixels: &[u8], gop_ns: i64) -> Result<(), Failure> {
        let (t_ns, frame_id) = (meta.t_ns, meta.frame_id);
        self.needs_key |= meta.epoch != self.epoch;
        self.epoch = meta.epoch;
        let due = self.begun && (t_ns - self.last_key_ns >= gop_ns || self.needs_key);
        let picture = self.canvas.picture(pixels);
        let picture = picture.ok_or(Failure::Frame(EncodeError::Pixels {
            frame_id,
            have: pixels.len(),
            need: self.layout.bytes(),
        }))?;
        let stamp_us = FIRST_STAMP_US.saturating_add((t_ns - self.first_ns) / 1000);
        let stamp_us = stamp_us.max(self.last_stamp_us + 1);
        self.last_stamp_us = stamp_us;
        self.inside.push_back(Inside {
            stamp_us,
            frame_id,
            t_ns,
        });
        if due {
            self.last_key_ns = t_ns;
        }
        self.session.submit(&picture, stamp_us, due)?;
        Ok(())
    }

    /// What came out, as packets.
    fn take(&mut self, packets: &mut Vec<Packet>) -> Result<(), M2mError> {
        while let Some(coded) = self.session.pop() {
            self.cut.push(&coded.data);
            self.cut.finish();
            let (unit, more) = (self.cut.pop(), self.cut.pop());
            if !coded.has_picture {
                continue;
            }
            let Some(frame) = self.of(&coded) else {
                continue;
            };
            let broken = |what: &str| M2mError::Broken {
                device: self.session.device(),
                what: what.to_owned(),
            };
            let unit = match (unit, more) {
                (Some(Cut::Unit(unit)), None) => unit,
                (Some(Cut::Lost), _) => return Err(broken("it began without parameter sets")),
                (None, _) => return Err(broken("a coded picture is none")),
                (Some(_), Some(_)) => return Err(broken("two pictures are in one buffer")),
            };
            if !unit.is_key && !self.begun {
                return Err(broken("it began without a key picture"));
            }
            self.begun = true;
            if unit.is_key {
                self.needs_key = false;
                self.last_key_ns = self.last_key_ns.max(frame.t_ns);
            } else if self.needs_key {
                self.lost += 1;
                self.broken = true;
                continue;
            }
            packets.push(Packet {
                params: self.params(&unit.params),
                data: unit.data,
                is_key: unit.is_key,
                pts_ns: frame.t_ns,
                dts_ns: frame.t_ns,
                frame_id: frame.frame_id,
            });
        }
        Ok(())
    }

    /// The frame a coded picture shows; those before it never came out.
    fn of(&mut self, coded: &Coded) -> Option<Inside> {
        let stamp = coded.stamp_us;
        let place = self.inside.iter().position(|f| f.stamp_us == stamp)?;
        self.lost += place as u64;
        self.inside.drain(..=place).next_back()
    }

    /// As the driver wrote them, but with what the frames mean: not every driver writes that.
    fn params(&mut self, theirs: &Arc<CodecParams>) -> Arc<CodecParams> {
        match &self.params {
            Some((of, ours)) if Arc::ptr_eq(of, theirs) => Arc::clone(ours),
            _ => {
                let ours = Arc::new(CodecParams {
                    color: self.color,
                    ..(**theirs).clone()
                });
                self.params = Some((Arc::clone(theirs), Arc::clone(&ours)));
                ours
            }
        }
    }

    /// Frames that will never be packets; all that are inside, if nothing more is to come out.
    fn take_lost(&mut self, ends: bool) -> u64 {
        let inside = if ends {
            self.inside.drain(..).count()
        } else {
            0
        };
        std::mem::take(&mut self.lost) + inside as u64
    }
}

/// H.264 table 7-1: slices.
pub(super) const H264_CODING: Coding = Coding {
    fourcc: H264,
    has_picture: |bytes| {
        bytes
            .windows(4)
            .any(|w| w[..3] == [0, 0, 1] && matches!(w[3] & 0x1F, 1 | 2 | 5))
    },
};

/// What is asked of a device.
pub(super) fn wanted(
    options: &EncoderOptions,
    coding: Coding,
    (width, height): (u32, u32),
    color: ColorSpec,
) -> Wanted {
    let fps = if options.fps.is_finite() {
        options.fps.clamp(1.0, 240.0)
    } else {
        30.0
    };
    let gop = (options.gop_ns as f64 * fps / 1e9).round().clamp(1.0, 1e6);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped"
    )]
    let gop_frames = gop as u32;
    Wanted {
        coding,
        width,
        height,
        color,
        bits_per_s: options.bitrate.bits_per_s(width, height, fps),
        gop_frames,
        fps,
    }
}
