//! Against an unscaled decode and a slow box average.
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers small by construction"
)]

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use turbojpeg::{Compressor, Image};

use super::*;
use crate::encode::{Codec, CodecParams};

/// Something with edges and gradients in it, as RGB.
fn scene(width: usize, height: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let wave = |a: usize, b: usize| ((x * a + y * b) as f64 / 40.0).sin() * 100.0 + 128.0;
            out.extend([wave(1, 2), wave(3, 1), wave(2, 5)].map(|v| v.clamp(0.0, 255.0) as u8));
        }
    }
    out
}

fn jpeg(width: usize, height: usize, subsamp: Subsamp) -> Vec<u8> {
    let mut compressor = Compressor::new().unwrap();
    compressor.set_quality(90).unwrap();
    compressor.set_subsamp(subsamp).unwrap();
    let pixels = scene(width, height);
    compressor
        .compress_to_vec(Image {
            pixels: pixels.as_slice(),
            width,
            pitch: width * 3,
            height,
            format: turbojpeg::PixelFormat::RGB,
        })
        .unwrap()
}

fn packet(data: Vec<u8>) -> Packet {
    Packet {
        data: Bytes::from(data),
        is_key: true,
        pts_ns: 70,
        dts_ns: 70,
        frame_id: 7,
        params: Arc::new(CodecParams {
            codec: Codec::Mjpeg,
            ..(*CodecParams::for_tests(0, 0)).clone()
        }),
    }
}

fn decoded(
    jpeg: &[u8],
    at_least: Option<(u32, u32)>,
) -> Result<(ImageLayout, Vec<u8>), DecodeError> {
    let mut decoder = JpegDecoder::new()?;
    decoder.at_least(at_least);
    decoder.push(&packet(jpeg.to_vec()))?;
    let picture = decoder.ready()?.expect("a JPEG is a picture");
    assert_eq!((picture.frame_id, picture.pts_ns), (7, 70));
    let mut out = vec![0; picture.layout.bytes()];
    decoder.take(&mut out)?;
    assert_eq!(decoder.ready(), Ok(None), "taken");
    Ok((picture.layout, out))
}

/// The mean over each target sample's rectangle of the source, in real numbers.
fn box_average(src: &[u8], (w, h): (usize, usize), (tw, th): (usize, usize)) -> Vec<f64> {
    let mut out = Vec::new();
    for ty in 0..th {
        for tx in 0..tw {
            let (x0, x1) = (
                tx as f64 * w as f64 / tw as f64,
                (tx + 1) as f64 * w as f64 / tw as f64,
            );
            let (y0, y1) = (
                ty as f64 * h as f64 / th as f64,
                (ty + 1) as f64 * h as f64 / th as f64,
            );
            let (mut sum, mut area) = (0.0, 0.0);
            for y in y0 as usize..(y1.ceil() as usize).min(h) {
                for x in x0 as usize..(x1.ceil() as usize).min(w) {
                    let part = ((x + 1) as f64).min(x1) - (x as f64).max(x0);
                    let part = part * (((y + 1) as f64).min(y1) - (y as f64).max(y0));
                    sum += part * f64::from(src[y * w + x]);
                    area += part;
                }
            }
            out.push(sum / area);
        }
    }
    out
}

#[test]
fn the_smallest_scale_is_taken_that_is_not_below_what_is_needed() {
    let jpeg = jpeg(640, 480, Subsamp::Sub2x2);
    for (at_least, want) in [
        (None, (640, 480)),
        (Some((640, 480)), (640, 480)),
        (Some((9999, 1)), (640, 480)),
        (Some((561, 1)), (640, 480)),
        (Some((560, 1)), (560, 420)),
        (Some((320, 240)), (320, 240)),
        (Some((320, 241)), (400, 300)),
        (Some((300, 200)), (320, 240)),
        (Some((1, 1)), (80, 60)),
    ] {
        let (layout, _) = decoded(&jpeg, at_least).unwrap();
        assert_eq!((layout.width, layout.height), want, "{at_least:?}");
    }
}

#[test]
fn a_scaled_picture_is_the_mean_of_the_full_one() {
    for subsamp in [
        Subsamp::Sub2x2,
        Subsamp::Sub2x1,
        Subsamp::None,
        Subsamp::Gray,
    ] {
        let jpeg = jpeg(320, 240, subsamp);
        let (full_layout, full) = decoded(&jpeg, None).unwrap();
        for n in 1..8_u32 {
            let (layout, small) = decoded(&jpeg, Some((40 * n, 30 * n))).unwrap();
            assert_eq!((layout.width, layout.height), (40 * n, 30 * n));
            assert_eq!(layout.format, full_layout.format);
            for (i, (from, to)) in full_layout.planes().iter().zip(layout.planes()).enumerate() {
                let want = box_average(
                    full_layout.plane(&full, i).unwrap(),
                    (from.row_bytes, from.rows),
                    (to.row_bytes, to.rows),
                );
                let got = layout.plane(&small, i).unwrap();
                let off = |(a, b): (&u8, &f64)| (f64::from(*a) - b).abs();
                let worst = got.iter().zip(&want).map(off).fold(0.0, f64::max);
                let mean = got.iter().zip(&want).map(off).sum::<f64>() / want.len() as f64;
                // Fewer frequencies are not exactly a box; on a smooth scene nearly.
                assert!(
                    worst <= 16.0 && mean <= 3.0,
                    "{subsamp:?} {n}/8 plane {i}: {worst} {mean}"
                );
            }
        }
    }
}

#[test]
fn grey_and_even_420_go_straight_into_the_slot_at_every_scale_that_is_even() {
    for (w, h, subsamp, direct) in [
        (64, 48, Subsamp::Sub2x2, true),
        (63, 48, Subsamp::Sub2x2, false),
        (63, 47, Subsamp::Gray, true),
        (64, 48, Subsamp::Sub2x1, false),
    ] {
        let jpeg = jpeg(w, h, subsamp);
        let mut decoder = JpegDecoder::new().unwrap();
        let layout = decoder.look(&jpeg).unwrap();
        let mut out = vec![0; layout.bytes()];
        assert_eq!(
            decoder.decode(&jpeg, &mut out),
            Ok(direct),
            "{w}x{h} {subsamp:?}"
        );
    }
}

#[test]
fn a_jpeg_cut_off_is_damaged_and_the_next_one_is_fine() {
    let whole = jpeg(160, 120, Subsamp::Sub2x2);
    let mut decoder = JpegDecoder::new().unwrap();
    for keep in [0, 2, 20, 300, whole.len() / 2, whole.len() * 9 / 10] {
        let cut = &whole[..keep];
        let outcome = decoder.look(cut).and_then(|layout| {
            let mut out = vec![0; layout.bytes()];
            decoder.decode(cut, &mut out)
        });
        assert!(
            matches!(outcome, Err(DecodeError::Damaged(_))),
            "{keep}: {outcome:?}"
        );
    }
    let layout = decoder.look(&whole).unwrap();
    let mut out = vec![0; layout.bytes()];
    assert_eq!(decoder.decode(&whole, &mut out), Ok(true));
}

/// The DHT segments of a JPEG, taken out.
fn without_tables(jpeg: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut rest, mut tables) = (jpeg[..2].to_vec(), Vec::new());
    let mut at = 2;
    while jpeg[at + 1] != SOS {
        let len = 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        let segment = &jpeg[at..at + len];
        match jpeg[at + 1] {
            DHT => tables.extend_from_slice(&segment[4..]),
            _ => rest.extend_from_slice(segment),
        }
        at += len;
    }
    rest.extend_from_slice(&jpeg[at..]);
    (rest, tables)
}

#[test]
fn a_jpeg_without_huffman_tables_gets_the_standard_ones() {
    let whole = jpeg(160, 120, Subsamp::Sub2x2);
    let (bare, tables) = without_tables(&whole);
    let mut want: Vec<_> = standard_tables()[4..].to_vec();
    assert_eq!(want.len(), tables.len());
    want.sort_unstable();
    let mut got = tables;
    got.sort_unstable();
    assert_eq!(got, want, "the library writes the standard tables too");
    let (layout, pixels) = decoded(&bare, None).unwrap();
    assert_eq!((layout, pixels), decoded(&whole, None).unwrap());
}

#[test]
fn tables_of_an_earlier_jpeg_are_not_taken_for_one_that_has_none() {
    let mut compressor = Compressor::new().unwrap();
    compressor.set_optimize(true).unwrap();
    compressor.set_subsamp(Subsamp::Sub2x2).unwrap();
    let pixels = scene(64, 64);
    let own_tables = compressor
        .compress_to_vec(Image {
            pixels: pixels.as_slice(),
            width: 64,
            pitch: 192,
            height: 64,
            format: turbojpeg::PixelFormat::RGB,
        })
        .unwrap();
    let whole = jpeg(160, 120, Subsamp::Sub2x2);
    let (bare, _) = without_tables(&whole);
    let mut decoder = JpegDecoder::new().unwrap();
    let mut run = |jpeg: &[u8]| {
        let layout = decoder.look(jpeg).unwrap();
        let mut out = vec![0; layout.bytes()];
        decoder.decode(jpeg, &mut out).unwrap();
        out
    };
    let want = run(&whole);
    run(&own_tables);
    assert!(run(&bare) == want);
}

fn small() -> &'static [u8] {
    static JPEG: OnceLock<Vec<u8>> = OnceLock::new();
    JPEG.get_or_init(|| jpeg(48, 32, Subsamp::Sub2x2))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_panic_or_hang(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        at_least in proptest::option::of((0_u32..100, 0_u32..100)),
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        keep: bool,
    ) {
        let mut bytes = if keep { small().to_vec() } else { [&[0xFF, 0xD8][..], &noise].concat() };
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let mut decoder = JpegDecoder::new().unwrap();
        decoder.at_least(at_least);
        if let Ok(layout) = decoder.look(&bytes) {
            // A flipped size can ask for 400 MB; that much is not what is tested here.
            if layout.bytes() < 1 << 24 {
                let mut out = vec![0; layout.bytes()];
                let _outcome = decoder.decode(&bytes, &mut out).is_ok();
            }
        }
    }
}
