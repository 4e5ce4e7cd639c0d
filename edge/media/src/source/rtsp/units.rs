//! From RTP's access units to packets: what was lost in between, when each is decoded, and whether
//! it can be.
//!
//! The library tells how many RTP packets are missing before an access unit, not which pictures
//! they belonged to; and of a picture that lost its first slice it gives the rest. So a picture
//! after a hole is taken only if it begins at its beginning, and how many are gone is told by the
//! time stamps where the pictures come evenly.

use std::sync::Arc;

use bytes::Bytes;
use retina::codec::{VideoParameters, VideoParametersCodec};
use visualpath_core::NS_PER_S;

use super::super::encoded::{Incoming, UnitTime};
use crate::decode::{JPEG_COLOR, Sps};
use crate::encode::{Codec, CodecParams};

/// Two distances count as even if they differ by less than this: half a tick of the usual 90 kHz
/// clock is 6 µs, cameras round to milliseconds.
const EVEN_NS: i64 = 2_000_000;

/// Room for the nanoseconds by which decoding times are kept apart.
const SLACK_NS: i64 = 1_000_000;

/// An access unit as the library gives it.
#[derive(Debug, Clone)]
pub(super) struct AccessUnit {
    pub(super) data: Bytes,
    /// RTP packets missing before or inside of it.
    pub(super) missing: u16,
    /// When it is shown, nanoseconds of the camera's clock.
    pub(super) shown_ns: i64,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Judged {
    /// Pictures lost before it, or with it; `Some(0)`: nobody can tell how many.
    pub(super) lost: Option<u64>,
    /// It, unless it can't be decoded.
    pub(super) packet: Option<Incoming>,
}

/// The parameters and time stamps of one connection.
#[derive(Debug, Default)]
pub(super) struct Units {
    params: Option<Arc<CodecParams>>,
    order: Order,
    /// `shown_ns` of the newest access unit without a hole before it.
    last_ns: Option<i64>,
    /// Distance of the last two such.
    step_ns: Option<i64>,
    /// The distance before that was the same.
    even: bool,
}

impl Units {
    /// Takes note of what the following access units need to be decoded.
    pub(super) fn parameters(&mut self, video: &VideoParameters) {
        let params = codec_params(video);
        if self.params.as_deref() != Some(&params) {
            self.params = Some(Arc::new(params));
        }
    }

    pub(super) fn params(&self) -> Option<&Arc<CodecParams>> {
        self.params.as_ref()
    }

    /// Judges the next access unit. Without parameters nothing can be decoded, so it counts as
    /// lost.
    pub(super) fn judge(&mut self, unit: AccessUnit) -> Judged {
        let Some(params) = self.params.clone() else {
            return Judged {
                lost: Some(1),
                packet: None,
            };
        };
        let shape = Shape::of(params.codec, &unit.data);
        if !shape.has_picture {
            // Not a picture: nothing is lost with it.
            return Judged {
                lost: (unit.missing > 0).then_some(0),
                packet: None,
            };
        }
        let whole = unit.missing == 0 || shape.from_first_slice;
        let lost = self.lost_before(&unit, whole);
        let packet = whole.then(|| {
            let (decoded_ns, shown_after_ns) = self.order.place(unit.shown_ns);
            Incoming {
                is_key: shape.all_key,
                params,
                data: unit.data,
                time: UnitTime::Device(decoded_ns),
                shown_after_ns,
            }
        });
        Judged { lost, packet }
    }

    /// How many pictures a hole took, this one included if it is not whole.
    fn lost_before(&mut self, unit: &AccessUnit, whole: bool) -> Option<u64> {
        let step_ns = self
            .last_ns
            .replace(unit.shown_ns)
            .map(|last| unit.shown_ns.saturating_sub(last));
        if unit.missing == 0 {
            self.even = match (self.step_ns, step_ns) {
                (Some(before), Some(now)) => now > 0 && (now - before).abs() < EVEN_NS,
                _ => false,
            };
            self.step_ns = step_ns;
            return None;
        }
        let (Some(usual), Some(step_ns)) = (self.step_ns, step_ns) else {
            return Some(0);
        };
        if !self.even || self.order.reorders() || step_ns <= 0 {
            return Some(0);
        }
        let steps = (step_ns + usual / 2) / usual;
        let between = u64::try_from(steps - 1).unwrap_or(0);
        let lost = between + u64::from(!whole);
        // A hole that took nothing but, say, a delimiter.
        (lost > 0).then_some(lost)
    }
}

/// Decoding times. RTP says only when a picture is shown. Without B pictures that is when it is
/// decoded. With them, a picture that is shown before one that came earlier tells how far decoding
/// must run ahead; from then on it does.
#[derive(Debug, Default)]
struct Order {
    ahead_ns: i64,
    newest_shown_ns: Option<i64>,
    last_decoded_ns: Option<i64>,
}

impl Order {
    /// When it is decoded (increasing), and how long after that it is shown.
    fn place(&mut self, shown_ns: i64) -> (i64, i64) {
        if let Some(newest) = self.newest_shown_ns {
            let behind_ns = newest.saturating_sub(shown_ns);
            if behind_ns > 0 {
                self.ahead_ns = self.ahead_ns.max(behind_ns.saturating_add(SLACK_NS));
            }
        }
        self.newest_shown_ns = self.newest_shown_ns.max(Some(shown_ns));
        let wanted = shown_ns.saturating_sub(self.ahead_ns);
        let decoded_ns = self
            .last_decoded_ns
            .map_or(wanted, |last| wanted.max(last.saturating_add(1)));
        self.last_decoded_ns = Some(decoded_ns);
        (decoded_ns, shown_ns.saturating_sub(decoded_ns))
    }

    fn reorders(&self) -> bool {
        self.ahead_ns > 0
    }
}

/// What an access unit is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// There is a slice in it.
    has_picture: bool,
    /// All its slices are of a picture that decoding may begin at.
    all_key: bool,
    /// Its first slice is its picture's first.
    from_first_slice: bool,
}

impl Shape {
    /// Of NAL units behind their lengths; of MJPEG, a JPEG.
    fn of(codec: Codec, data: &[u8]) -> Self {
        let mut shape = Self {
            has_picture: false,
            all_key: true,
            from_first_slice: false,
        };
        if codec == Codec::Mjpeg {
            let whole = data.starts_with(&[0xFF, 0xD8]) && data.ends_with(&[0xFF, 0xD9]);
            return Self {
                has_picture: true,
                all_key: true,
                from_first_slice: whole,
            };
        }
        for nal in nals(data) {
            let Some((is_slice, is_key, first)) = slice(codec, nal) else {
                continue;
            };
            if is_slice {
                if !shape.has_picture {
                    shape.from_first_slice = first;
                }
                shape.has_picture = true;
                shape.all_key &= is_key;
            }
        }
        shape
    }
}

/// Of a NAL unit: whether it is a slice, of a picture that decoding may begin at, and that
/// picture's first.
fn slice(codec: Codec, nal: &[u8]) -> Option<(bool, bool, bool)> {
    let header = *nal.first()?;
    match codec {
        // H.264 table 7-1; `first_mb_in_slice` is 0 if the slice header's first bit is set (7.3.3).
        Codec::H264 => {
            let kind = header & 0x1F;
            let first = nal.get(1).is_some_and(|b| b & 0x80 != 0);
            Some(((1..=5).contains(&kind), kind == 5, first))
        }
        // H.265 table 7-1; `first_slice_segment_in_pic_flag` is the slice header's first bit
        // (7.3.6.1).
        Codec::H265 => {
            let kind = (header >> 1) & 0x3F;
            let first = nal.get(2).is_some_and(|b| b & 0x80 != 0);
            Some((kind < 32, (16..=23).contains(&kind), first))
        }
        Codec::Mjpeg => None,
    }
}

/// The NAL units behind their lengths; ends at the first length that can't be.
fn nals(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (nal, after) = rest.split_at_checked(length)?;
        data = after;
        Some(nal)
    })
}

fn codec_params(video: &VideoParameters) -> CodecParams {
    let (width, height) = video.pixel_dimensions();
    let (codec, vps, sps, pps) = match video.codec_params() {
        VideoParametersCodec::H264 { sps, pps } => {
            (Codec::H264, Bytes::new(), sps.clone(), pps.clone())
        }
        VideoParametersCodec::H265 { vps, sps, pps } => {
            (Codec::H265, vps.clone(), sps.clone(), pps.clone())
        }
        _ => (Codec::Mjpeg, Bytes::new(), Bytes::new(), Bytes::new()),
    };
    let color = match codec {
        Codec::H264 => Sps::h264(&sps).map(|sps| sps.color),
        Codec::H265 => Sps::h265(&sps).map(|sps| sps.color),
        Codec::Mjpeg => Some(JPEG_COLOR),
    };
    CodecParams {
        codec,
        width,
        height,
        color: color.unwrap_or_default(),
        vps,
        sps,
        pps,
    }
}

/// Nanoseconds since the connection's first time stamp.
pub(super) fn elapsed_ns(timestamp: retina::Timestamp) -> i64 {
    let ns = i128::from(timestamp.elapsed()) * i128::from(NS_PER_S)
        / i128::from(timestamp.clock_rate().get());
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: i64 = 40_000_000;

    fn units() -> Units {
        Units {
            params: Some(CodecParams::for_tests(640, 480)),
            ..Units::default()
        }
    }

    fn slices(heads: &[[u8; 2]]) -> Bytes {
        let mut data = Vec::new();
        for head in heads {
            data.extend_from_slice(&[0, 0, 0, 2]);
            data.extend_from_slice(head);
        }
        data.into()
    }

    fn unit(at: i64, missing: u16, head: [u8; 2]) -> AccessUnit {
        AccessUnit {
            data: slices(&[head]),
            missing,
            shown_ns: at * STEP,
        }
    }

    const FIRST: [u8; 2] = [0x61, 0x80];
    const LATER: [u8; 2] = [0x61, 0x40];

    #[test]
    fn a_hole_counts_the_pictures_that_should_have_been_there() {
        let mut units = units();
        for at in 0..3 {
            assert_eq!(units.judge(unit(at, 0, FIRST)).lost, None);
        }
        let after = units.judge(unit(7, 9, FIRST));
        assert_eq!(after.lost, Some(4));
        assert!(after.packet.is_some());
        let headless = units.judge(unit(8, 1, LATER));
        assert_eq!(headless.lost, Some(1), "its first slice is gone");
        assert!(headless.packet.is_none());
        let again = units.judge(unit(10, 1, LATER));
        assert_eq!(again.lost, Some(2), "one between, and itself");
        let delimiter = units.judge(unit(11, 1, FIRST));
        assert_eq!(delimiter.lost, None, "nothing that shows is missing");
        assert!(delimiter.packet.is_some());
    }

    #[test]
    fn a_hole_among_uneven_pictures_is_of_unknown_size() {
        let mut units = units();
        for at in [0, 1, 5, 6, 8] {
            assert_eq!(units.judge(unit(at, 0, FIRST)).lost, None);
        }
        assert_eq!(units.judge(unit(20, 1, FIRST)).lost, Some(0));
    }

    #[test]
    fn decoding_runs_ahead_of_pictures_that_are_shown_out_of_order() {
        let mut order = Order::default();
        let shown = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8];
        let placed: Vec<_> = shown.iter().map(|s| order.place(s * STEP)).collect();
        for (pair, at) in placed.windows(2).zip(1..) {
            assert!(
                pair[1].0 > pair[0].0,
                "picture {at} is decoded after the one before"
            );
        }
        for (p, s) in placed.iter().zip(shown) {
            assert_eq!(p.0 + p.1, s * STEP, "it is shown when it says");
        }
        for p in &placed[4..] {
            assert!(
                p.1 >= 0,
                "once it is known, nothing is shown before it is decoded"
            );
        }
        let mut order = Order::default();
        for at in 0..5 {
            assert_eq!(order.place(at * STEP), (at * STEP, 0));
        }
    }

    #[test]
    fn only_a_picture_with_nothing_but_key_slices_is_a_key_and_no_slice_is_no_picture() {
        let mut units = units();
        let mixed = AccessUnit {
            data: slices(&[[0x65, 0x80], [0x61, 0x40]]),
            missing: 0,
            shown_ns: 0,
        };
        assert!(!units.judge(mixed).packet.unwrap().is_key);
        let key = AccessUnit {
            data: slices(&[[0x09, 0x10], [0x65, 0x80], [0x65, 0x40]]),
            missing: 0,
            shown_ns: STEP,
        };
        assert!(units.judge(key).packet.unwrap().is_key);
        let delimiter = AccessUnit {
            data: slices(&[[0x09, 0x10]]),
            missing: 0,
            shown_ns: 2 * STEP,
        };
        let judged = units.judge(delimiter);
        assert!(judged.packet.is_none() && judged.lost.is_none());
    }
}
