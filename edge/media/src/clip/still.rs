//! The still beside a clip: the picture that shows its event best, as JPEG.
//!
//! Of MJPEG it is the very JPEG the camera sent. Else the pictures from the nearest key picture on
//! are decoded, up to it. Where that can't be done (B pictures, and no `ffmpeg`), the nearest key
//! picture has to do, which decodes alone; the JPEG's comment says its time then.

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use visualpath_core::{FrameMeta, StopFlag};

use super::after::{AfterError, Pictures, TICK_NS, drain, options};
use crate::decode::{self, DecodeError, Decoder};
use crate::encode::{Codec, CodecParams, EncoderKind, H264Options};

/// How long a picture is waited for that comes late.
const LATE: Duration = Duration::from_secs(10);
/// How often a stop is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(100);
/// Packets that a decoder with a process of its own is ahead of its pictures, at most: it holds 16
/// back and takes 64.
const AHEAD: u64 = 32;

/// What a clip shows, and the time of the picture that is wanted of it.
pub(super) struct Wanted {
    pub(super) start_ns: i64,
    pub(super) end_ns: i64,
    pub(super) still_ns: i64,
}

/// Makes decoders.
pub(super) trait Decoders {
    /// For pictures in the order in which they are decoded.
    fn plain(&self, params: &CodecParams) -> Result<Box<dyn Decoder>, DecodeError>;
    /// For pictures in any order.
    fn reordering(&self, params: &CodecParams) -> Result<Box<dyn Decoder>, DecodeError>;
}

/// Those there are.
pub(super) struct OwnDecoders;

impl Decoders for OwnDecoders {
    fn plain(&self, params: &CodecParams) -> Result<Box<dyn Decoder>, DecodeError> {
        decode::open(params, 1)
    }

    fn reordering(&self, params: &CodecParams) -> Result<Box<dyn Decoder>, DecodeError> {
        decode::open_reordering(params, 1)
    }
}

/// The picture nearest to the one that is wanted.
pub(super) fn still(
    pictures: &Pictures<'_>,
    wanted: &Wanted,
    decoders: &dyn Decoders,
    stop: &StopFlag,
) -> Result<Vec<u8>, AfterError> {
    let time = |n: usize| pictures.samples[n].pts_ns;
    let is_shown = |n: &usize| {
        time(*n) + TICK_NS > wanted.start_ns && time(*n) < wanted.end_ns.saturating_add(TICK_NS)
    };
    let shown = || (0..pictures.samples.len()).filter(is_shown);
    let distance = |n: &usize| (time(*n).abs_diff(wanted.still_ns), time(*n));
    let best = shown().min_by_key(distance);
    let best = best.ok_or(AfterError::Clip("it shows nothing"))?;
    if pictures.params.codec == Codec::Mjpeg {
        return Ok(pictures.packet(best)?.data.to_vec());
    }
    let needed = needed_for(pictures, best);
    let error = match decoded(pictures, needed.clone(), decoders, stop) {
        Err(error) if !matches!(error, AfterError::Stopped) => error,
        other => return other,
    };
    // A key picture decodes alone, also where the others don't.
    let keys = shown().filter(|n| pictures.samples[*n].is_key);
    let key = keys
        .min_by_key(distance)
        .filter(|n| *needed.start() != *n || *n != best);
    let Some(key) = key else {
        return Err(error);
    };
    let Ok(mut jpeg) = decoded(pictures, key..=key, decoders, stop) else {
        return Err(error);
    };
    tracing::warn!(clip = pictures.head.asked.request.id, %error, wanted_ns = time(best), shown_ns = time(key),
        "the picture for a clip's still can't be decoded; the nearest key picture takes its place");
    comment(&mut jpeg, &format!("t_ns={}", time(key)));
    Ok(jpeg)
}

/// The pictures that must be decoded for `best`, in the order in which they are.
fn needed_for(pictures: &Pictures<'_>, best: usize) -> RangeInclusive<usize> {
    let samples = &pictures.samples;
    let mut keys = (0..=best).rev().filter(|n| samples[*n].is_key);
    // One that is shown before the key it follows may need what is before that key (an open GOP).
    let key = keys.find(|n| samples[*n].pts_ns <= samples[best].pts_ns);
    key.unwrap_or(0)..=best
}

/// The last of these pictures, as JPEG.
fn decoded(
    pictures: &Pictures<'_>,
    needed: RangeInclusive<usize>,
    decoders: &dyn Decoders,
    stop: &StopFlag,
) -> Result<Vec<u8>, AfterError> {
    let mut is_reordered = false;
    for n in needed.clone() {
        is_reordered |= decode::is_reordered(&pictures.packet(n)?);
    }
    let mut decoder = match is_reordered {
        true => decoders.reordering(&pictures.params)?,
        false => decoders.plain(&pictures.params)?,
    };
    let decoder = &mut *decoder;
    let mut encoder = EncoderKind::Mjpeg.build(options(pictures, H264Options::default()));
    let (mut pixels, mut jpeg) = (Vec::new(), Vec::new());
    let (wanted, newest) = (*needed.end() as u64, Cell::new(*needed.start() as u64));
    let mut take = |meta: FrameMeta, pixels: &[u8]| {
        newest.set(newest.get().max(meta.frame_id));
        if meta.frame_id == wanted {
            encoder.encode(&meta, pixels, &mut jpeg)?;
        }
        Ok(meta.frame_id == wanted)
    };
    let mut is_done = false;
    for n in needed {
        if stop.is_set() {
            return Err(AfterError::Stopped);
        }
        decoder.push(&pictures.packet(n)?)?;
        is_done = drain(decoder, &mut pixels, &mut take)?;
        while !is_done && decoder.is_late() && n as u64 > newest.get() + AHEAD {
            await_picture(decoder, stop)?;
            is_done = drain(decoder, &mut pixels, &mut take)?;
        }
        if is_done {
            break;
        }
    }
    decoder.end();
    while !is_done && decoder.is_late() {
        await_picture(decoder, stop)?;
        is_done = drain(decoder, &mut pixels, &mut take)?;
    }
    let jpeg = jpeg.pop();
    let jpeg = jpeg.ok_or(AfterError::Clip("no picture came of it"))?;
    Ok(jpeg.data.to_vec())
}

/// Waits for the output of a decoder with a process of its own.
fn await_picture(decoder: &mut dyn Decoder, stop: &StopFlag) -> Result<(), AfterError> {
    let patience = Instant::now() + LATE;
    while !decoder.wait(LOOK) {
        if stop.is_set() {
            return Err(AfterError::Stopped);
        }
        if Instant::now() >= patience {
            return Err(AfterError::Clip("its decoder gives no picture"));
        }
    }
    Ok(())
}

/// Puts a comment behind a JPEG's first marker (ITU T.81, B.2.4.5).
fn comment(jpeg: &mut Vec<u8>, text: &str) {
    let Ok(length) = u16::try_from(text.len() + 2) else {
        return;
    };
    let head = [0xFF, 0xFE].into_iter().chain(length.to_be_bytes());
    if jpeg.starts_with(&[0xFF, 0xD8]) {
        jpeg.splice(2..2, head.chain(text.bytes()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use visualpath_core::Name;

    use super::super::ClipRequest;
    use super::super::finish::Head;
    use super::super::index::Asked;
    use super::*;
    use crate::decode::JpegDecoder;
    use crate::decode::tests::{number_of, packets_with_b_pictures};
    use crate::encode::Packet;
    use crate::mp4::{ReadAt, Written};

    struct Bytes(Vec<u8>);

    impl ReadAt for Bytes {
        fn read_at(&self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
            let from = usize::try_from(offset).unwrap();
            Ok(self.0[from..from + len].to_vec())
        }
    }

    /// There is no ffmpeg; with `false` not even another decoder.
    struct Without(bool);

    impl Decoders for Without {
        fn plain(&self, params: &CodecParams) -> Result<Box<dyn Decoder>, DecodeError> {
            match self.0 {
                true => decode::open(params, 1),
                false => Err(DecodeError::Unsupported("there is none".to_owned())),
            }
        }

        fn reordering(&self, _: &CodecParams) -> Result<Box<dyn Decoder>, DecodeError> {
            Err(DecodeError::Unsupported("ffmpeg is missing".to_owned()))
        }
    }

    fn head(first: &Packet) -> Head {
        let name = |n| Name::new(n).unwrap();
        let request = ClipRequest {
            id: "1".to_owned(),
            trigger_id: "2".to_owned(),
            path: name("yard"),
            label: name("seen"),
            event_ns: 0,
            wall_ns: 0,
            start_ns: 0,
            end_ns: 0,
            best_ns: None,
        };
        let asked = Asked::new(&name("cam0"), &request);
        let times = (first.dts_ns, first.pts_ns, first.pts_ns);
        Head::new(asked, &first.params, times, None)
    }

    /// The picture in a JPEG, and its comment.
    fn seen(jpeg: &[u8], params: &Arc<CodecParams>) -> (u64, Option<String>) {
        let mut decoder = JpegDecoder::new().unwrap();
        let packet = Packet {
            data: bytes::Bytes::copy_from_slice(jpeg),
            is_key: true,
            pts_ns: 0,
            dts_ns: 0,
            frame_id: 0,
            params: Arc::clone(params),
        };
        decoder.push(&packet).unwrap();
        let layout = decoder.ready().unwrap().unwrap().layout;
        let mut pixels = vec![0; layout.bytes()];
        decoder.take(&mut pixels).unwrap();
        let luma = layout.planes()[0];
        let comment = jpeg.starts_with(&[0xFF, 0xD8, 0xFF, 0xFE]).then(|| {
            let length = usize::from(u16::from_be_bytes([jpeg[4], jpeg[5]]));
            String::from_utf8(jpeg[6..4 + length].to_vec()).unwrap()
        });
        (number_of(&pixels[..luma.stride * luma.rows]), comment)
    }

    #[test]
    fn what_can_not_be_decoded_here_is_stood_in_for_by_the_nearest_key_picture() {
        let packets = packets_with_b_pictures();
        let (mut bytes, mut samples) = (Vec::new(), Vec::new());
        for p in &packets {
            samples.push(Written {
                offset: bytes.len() as u64,
                size: p.data.len(),
                is_key: p.is_key,
                pts_ns: p.pts_ns,
                dts_ns: p.dts_ns,
            });
            bytes.extend_from_slice(&p.data);
        }
        let file = Bytes(bytes);
        let params = Arc::clone(&packets[0].params);
        let pictures = Pictures::from_parts(&file, head(&packets[0]), samples);
        let time = |n: u64| {
            packets
                .iter()
                .find(|p| p.frame_id == 1000 + n)
                .unwrap()
                .pts_ns
        };
        let shot = |from: u64, to: u64, n: u64, decoders: &dyn Decoders| {
            let wanted = Wanted {
                start_ns: time(from),
                end_ns: time(to),
                still_ns: time(n),
            };
            let jpeg = still(&pictures, &wanted, decoders, &StopFlag::new());
            jpeg.map(|j| seen(&j, &params))
        };
        // Keys are 0, 10, 20 and 30.
        for n in [3, 10, 14, 20, 25, 30] {
            assert_eq!(shot(0, 30, n, &OwnDecoders).unwrap(), (n, None));
        }
        let said = |n: u64| Some(format!("t_ns={}", time(n)));
        for (n, key) in [(4, 0), (6, 10), (17, 20), (29, 30)] {
            assert_eq!(shot(0, 30, n, &Without(true)).unwrap(), (key, said(key)));
        }
        assert_eq!(shot(0, 30, 20, &Without(true)).unwrap(), (20, None));
        // Only what the clip shows.
        assert_eq!(shot(2, 12, 4, &Without(true)).unwrap(), (10, said(10)));
        // No B pictures are needed for the first P.
        assert_eq!(shot(2, 12, 3, &Without(true)).unwrap(), (3, None));
        let none = shot(2, 8, 4, &Without(true)).unwrap_err();
        assert!(none.to_string().contains("ffmpeg is missing"), "{none}");
        let none = shot(0, 30, 4, &Without(false)).unwrap_err();
        assert!(none.to_string().contains("ffmpeg is missing"), "{none}");
    }
}
