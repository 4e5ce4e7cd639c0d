//! On streams that real encoders wrote.
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers small by construction"
)]

use std::process::Command;
use std::sync::OnceLock;

use proptest::prelude::*;
use visualpath_core::{ColorMatrix, ColorRange, ColorSpec};

use super::*;

/// `frames` pictures of a test pattern as a byte stream.
fn stream(codec: &str, size: &str, frames: u32, extra: &[&str]) -> Vec<u8> {
    let (encoder, format) = match codec {
        "h264" => ("libx264", "h264"),
        _ => ("libx265", "hevc"),
    };
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i"])
        .arg(format!("testsrc2=size={size}:rate=25"))
        .args(["-frames:v", &frames.to_string(), "-c:v", encoder])
        .args(["-preset", "ultrafast", "-pix_fmt", "yuv420p"])
        .args(["-bf", "0", "-g", "5"])
        .args(extra)
        .args(["-f", format, "pipe:1"])
        .output()
        .expect("ffmpeg is needed for this test: apt install ffmpeg");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    out.stdout
}

fn h264() -> &'static [u8] {
    static STREAM: OnceLock<Vec<u8>> = OnceLock::new();
    STREAM.get_or_init(|| stream("h264", "64x48", 12, &["-x264-params", "slices=3"]))
}

fn h265() -> &'static [u8] {
    static STREAM: OnceLock<Vec<u8>> = OnceLock::new();
    STREAM.get_or_init(|| stream("hevc", "64x48", 12, &["-x265-params", "log-level=none"]))
}

fn cut(codec: Codec, pieces: &[&[u8]]) -> Vec<Cut> {
    let mut splitter = AnnexB::new(codec);
    for piece in pieces {
        splitter.push(piece);
    }
    splitter.finish();
    std::iter::from_fn(|| splitter.pop()).collect()
}

fn units(codec: Codec, bytes: &[u8]) -> Vec<AccessUnit> {
    cut(codec, &[bytes])
        .into_iter()
        .map(|c| match c {
            Cut::Unit(unit) => unit,
            Cut::Lost => panic!("a picture is lost"),
        })
        .collect()
}

fn nal_kinds(codec: Codec, data: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), data);
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        out.push(match codec {
            Codec::H265 => tail[0] >> 1 & 0x3F,
            _ => tail[0] & 0x1F,
        });
        rest = &tail[len..];
    }
    assert!(rest.is_empty(), "lengths add up");
    out
}

#[test]
fn each_picture_is_one_unit_with_all_its_slices_and_no_parameter_sets() {
    for (codec, bytes, slices) in [(Codec::H264, h264(), 3), (Codec::H265, h265(), 1)] {
        let units = units(codec, bytes);
        assert_eq!(units.len(), 12, "{codec:?}");
        for (i, unit) in units.iter().enumerate() {
            assert_eq!(unit.is_key, i % 5 == 0, "{codec:?} {i}");
            let kinds = nal_kinds(codec, &unit.data);
            let is_slice = |k: &&u8| match codec {
                Codec::H265 => **k < 32,
                _ => matches!(**k, 1 | 5),
            };
            assert_eq!(kinds.iter().filter(is_slice).count(), slices, "{kinds:?}");
            let sets: &[u8] = if codec == Codec::H265 {
                &[32, 33, 34, 35]
            } else {
                &[7, 8, 9]
            };
            assert!(!kinds.iter().any(|k| sets.contains(k)), "{kinds:?}");
            assert_eq!((unit.params.width, unit.params.height), (64, 48));
            assert!(
                Arc::ptr_eq(&unit.params, &units[0].params),
                "no change, no new sets"
            );
        }
        assert!(units.windows(2).all(|w| w[0].first_byte < w[1].first_byte));
        assert!(units[0].first_byte <= 4);
    }
}

#[test]
fn wherever_the_stream_is_split_the_units_are_the_same() {
    for (codec, bytes) in [(Codec::H264, h264()), (Codec::H265, h265())] {
        let bytes = &bytes[..bytes.len().min(6000)];
        let want = cut(codec, &[bytes]);
        assert!(want.len() >= 2);
        for at in 0..bytes.len() {
            let (a, b) = bytes.split_at(at);
            assert_eq!(cut(codec, &[a, b]), want, "split at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(cut(codec, &single), want, "byte by byte");
    }
}

#[test]
fn a_stream_that_comes_packet_by_packet_gives_each_at_once() {
    let all = units(Codec::H264, h264());
    let mut splitter = AnnexB::new(Codec::H264);
    let mut got = Vec::new();
    let ends = all.iter().skip(1).map(|u| u.first_byte as usize - 4);
    let mut from = 0;
    for end in ends.chain([h264().len()]) {
        splitter.push(&h264()[from..end]);
        splitter.finish();
        from = end;
        let Some(Cut::Unit(unit)) = splitter.pop() else {
            panic!("nothing came of a whole picture")
        };
        got.push(unit.data);
    }
    let want: Vec<_> = all.into_iter().map(|u| u.data).collect();
    assert!(got == want);
}

#[test]
fn size_crop_and_colour_are_those_of_the_parameter_set() {
    let spec = |matrix, range| ColorSpec { matrix, range };
    for (size, extra, color) in [
        (
            "64x48",
            &[][..],
            spec(ColorMatrix::Bt601, ColorRange::Limited),
        ),
        (
            "66x50",
            &[
                "-colorspace",
                "bt709",
                "-color_primaries",
                "bt709",
                "-color_trc",
                "bt709",
            ],
            spec(ColorMatrix::Bt709, ColorRange::Limited),
        ),
        (
            "162x122",
            &["-colorspace", "smpte170m", "-color_range", "pc"],
            spec(ColorMatrix::Bt601, ColorRange::Full),
        ),
    ] {
        for codec in ["h264", "hevc"] {
            let quiet = ["-x265-params", "log-level=none"];
            let mut extra = extra.to_vec();
            if codec == "hevc" {
                extra.extend(quiet);
            }
            let bytes = stream(codec, size, 3, &extra);
            let kind = if codec == "h264" {
                Codec::H264
            } else {
                Codec::H265
            };
            let params = &units(kind, &bytes)[0].params;
            let got = format!("{}x{}", params.width, params.height);
            assert_eq!((got.as_str(), params.color), (size, color), "{codec}");
        }
    }
}

#[test]
fn profiles_a_decoder_must_choose_by_are_read() {
    for (extra, chroma, bits, progressive) in [
        (&["-pix_fmt", "yuv420p"][..], 1, 8, true),
        (
            &["-pix_fmt", "yuv422p", "-profile:v", "high422"],
            2,
            8,
            true,
        ),
        (
            &["-pix_fmt", "yuv444p", "-profile:v", "high444"],
            3,
            8,
            true,
        ),
        (
            &["-flags", "+ildct+ilme", "-x264-params", "interlaced=1"],
            1,
            8,
            false,
        ),
    ] {
        let bytes = stream("h264", "64x64", 2, extra);
        let unit = &units(Codec::H264, &bytes)[0];
        let sps = Sps::h264(&unit.params.sps).unwrap();
        assert_eq!(
            (sps.chroma, sps.bits, sps.progressive),
            (chroma, bits, progressive),
            "{extra:?}"
        );
        assert_eq!((sps.width, sps.height), (64, 64));
    }
}

#[test]
fn a_stream_entered_in_the_middle_gives_nothing_before_its_sets() {
    let bytes = h264();
    let all = units(Codec::H264, bytes);
    // Behind the first picture's sets: slices come that nothing is known of.
    let at = all[1].first_byte as usize - 8;
    let rest = cut(Codec::H264, &[&bytes[at..]]);
    let lost = rest.iter().take_while(|c| **c == Cut::Lost).count();
    assert!((3..=4).contains(&lost), "{lost}");
    let Cut::Unit(first) = &rest[lost] else {
        panic!("{rest:?}")
    };
    assert!(first.is_key);
}

#[test]
fn new_parameter_sets_are_new_params() {
    let bytes = [h264(), &stream("h264", "96x64", 3, &[])].concat();
    let units = units(Codec::H264, &bytes);
    assert_eq!(units.len(), 15);
    assert_eq!(units[11].params.width, 64);
    assert_eq!(units[12].params.width, 96);
    assert!(units[12].is_key);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_damage_panics_hangs_or_depends_on_the_pieces(
        hevc: bool,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        at in any::<prop::sample::Index>(),
    ) {
        let (codec, bytes) = if hevc { (Codec::H265, h265()) } else { (Codec::H264, h264()) };
        let mut bytes = bytes.to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (a, b) = bytes.split_at(at.index(bytes.len()));
        let cuts = cut(codec, &[a, b]);
        prop_assert_eq!(&cuts, &cut(codec, &[&bytes]));
        let total: usize = cuts.iter().map(|c| match c { Cut::Unit(u) => u.data.len(), Cut::Lost => 0 }).sum();
        prop_assert!(total <= 2 * bytes.len());
    }

    #[test]
    fn no_bytes_of_a_parameter_set_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for header in [&[0x67, 100][..], &[0x42, 1]] {
            let nal = [header, &bytes].concat();
            for sps in [Sps::h264(&nal), Sps::h265(&nal)].into_iter().flatten() {
                prop_assert!(sps.width > 0 && sps.height > 0);
            }
        }
        let _units = cut(Codec::H264, &[&bytes]);
        let _units = cut(Codec::H265, &[&bytes]);
    }
}
