//! Real streams through the real decoders, against ffmpeg's own decoding.
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers small by construction"
)]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use visualpath_core::{ColorRange, ColorSpec, FrameMeta, PixelFormat};

use super::child::FfmpegDecoder;
use super::*;
use crate::encode::{Encoder, EncoderOptions, OpenH264};
use crate::source::annexb::{AnnexB, Cut};

const W: u32 = 96;
const H: u32 = 64;

/// Picture `n`: its number is a shade of grey in the middle of noise-free gradients.
fn numbered(n: u32) -> Vec<u8> {
    let layout = ImageLayout::packed(PixelFormat::I420, W, H, ColorSpec::default());
    let mut out = vec![128; layout.bytes()];
    for y in 0..H as usize {
        for x in 0..W as usize {
            let shade = 16 + 5 * n as usize % 200;
            let ramp = (x + y) / 8;
            out[y * W as usize + x] = (shade + ramp) as u8;
        }
    }
    out
}

fn raw(frames: u32) -> Vec<u8> {
    (0..frames).flat_map(numbered).collect()
}

fn ffmpeg(input: &[&str], stdin: &[u8], output: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in");
    std::fs::write(&file, stdin).unwrap();
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin"])
        .args(input)
        .arg("-i")
        .arg(&file)
        .args(output)
        .arg("pipe:1")
        .output()
        .expect("ffmpeg is needed for this test: apt install ffmpeg");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    out.stdout
}

/// The numbered video in a byte stream.
fn encoded(frames: u32, codec: Codec, extra: &[&str]) -> Vec<u8> {
    let size = format!("{W}x{H}");
    let (encoder, format) = match codec {
        Codec::H265 => ("libx265", "hevc"),
        _ => ("libx264", "h264"),
    };
    let mut output = vec![
        "-c:v",
        encoder,
        "-preset",
        "ultrafast",
        "-g",
        "10",
        "-f",
        format,
    ];
    output.splice(4..4, extra.iter().copied());
    if codec == Codec::H265 {
        output.splice(0..0, ["-x265-params", "log-level=none"]);
    }
    let input = [
        "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size, "-r", "25",
    ];
    ffmpeg(&input, &raw(frames), &output)
}

/// What ffmpeg makes of the byte stream.
fn reference(codec: Codec, bytes: &[u8]) -> Vec<Vec<u8>> {
    let format = if codec == Codec::H265 { "hevc" } else { "h264" };
    let out = ffmpeg(
        &["-f", format],
        bytes,
        &["-f", "rawvideo", "-pix_fmt", "yuv420p"],
    );
    out.chunks((W * H * 3 / 2) as usize)
        .map(<[u8]>::to_vec)
        .collect()
}

/// The packets of a byte stream; `order[i]` is the place in the video of the i-th in the stream.
fn packets(codec: Codec, bytes: &[u8], order: Option<&[u64]>) -> Vec<Packet> {
    let mut splitter = AnnexB::new(codec);
    splitter.push(bytes);
    splitter.finish();
    let units = std::iter::from_fn(|| splitter.pop()).map(|cut| match cut {
        Cut::Unit(unit) => unit,
        Cut::Lost => panic!("a picture is lost"),
    });
    units
        .enumerate()
        .map(|(i, unit)| {
            let place = order.map_or(i as u64, |order| order[i]);
            Packet {
                data: unit.data,
                is_key: unit.is_key,
                pts_ns: 1_000_000_007 + place as i64 * 33_333_333,
                dts_ns: 1_000_000_007 + i as i64 * 33_333_333,
                frame_id: 1_000 + place,
                params: unit.params,
            }
        })
        .collect()
}

/// Takes every picture that comes within `patience` of the last one.
fn take_all(decoder: &mut dyn Decoder, patience: Duration) -> Vec<(Decoded, Vec<u8>)> {
    let mut out = Vec::new();
    let mut last = Instant::now();
    while last.elapsed() < patience {
        match decoder.ready().unwrap() {
            Some(picture) => {
                let mut pixels = vec![0; picture.layout.bytes()];
                decoder.take(&mut pixels).unwrap();
                out.push((picture, pixels));
                last = Instant::now();
            }
            None if decoder.is_late() => std::thread::sleep(Duration::from_millis(1)),
            None => break,
        }
    }
    out
}

/// Pushes one packet after the other, taking what is ready in between.
fn decode(decoder: &mut dyn Decoder, packets: &[Packet]) -> Vec<(Decoded, Vec<u8>)> {
    let mut out = Vec::new();
    for packet in packets {
        decoder.push(packet).unwrap();
        out.extend(take_all(decoder, Duration::ZERO));
        if !decoder.is_late() {
            out.extend(take_all(decoder, Duration::from_secs(1)));
        }
    }
    out.extend(take_all(decoder, Duration::from_millis(1500)));
    out
}

fn assert_same(got: &[(Decoded, Vec<u8>)], want: &[Vec<u8>], what: &str) {
    for (n, (picture, pixels)) in got.iter().enumerate() {
        assert_eq!(picture.frame_id, 1_000 + n as u64, "{what}");
        assert_eq!(picture.pts_ns, 1_000_000_007 + n as i64 * 33_333_333);
        assert_eq!((picture.layout.width, picture.layout.height), (W, H));
        assert!(*pixels == want[n], "{what}: other pixels in picture {n}");
    }
}

#[test]
fn h264_without_reordering_is_decoded_here_picture_by_picture_as_ffmpeg_does() {
    for profile in ["baseline", "main", "high"] {
        let bytes = encoded(25, Codec::H264, &["-bf", "0", "-profile:v", profile]);
        let packets = packets(Codec::H264, &bytes, None);
        let mut decoder = open(&packets[0].params, 1).unwrap();
        assert_eq!(decoder.name(), "openh264");
        for packet in &packets {
            decoder.push(packet).unwrap();
            let ready = decoder.ready().unwrap().expect("at once");
            assert_eq!(ready.frame_id, packet.frame_id);
            assert_eq!(
                decoder.ready().unwrap(),
                Some(ready),
                "the same until it is taken"
            );
            decoder.skip();
            assert_eq!(decoder.ready().unwrap(), None);
        }
        decoder.reset();
        let got = decode(&mut *decoder, &packets);
        assert_eq!(got.len(), 25);
        assert_same(&got, &reference(Codec::H264, &bytes), profile);
    }
}

#[test]
fn what_our_own_encoder_makes_is_decoded() {
    let mut encoder = OpenH264::new(EncoderOptions::default());
    let layout = ImageLayout::packed(PixelFormat::I420, W, H, ColorSpec::default());
    let mut packets = Vec::new();
    for n in 0..10_u32 {
        let meta = FrameMeta {
            frame_id: 1_000 + u64::from(n),
            t_ns: 1_000_000_007 + i64::from(n) * 33_333_333,
            epoch: 0,
            layout,
        };
        encoder.encode(&meta, &numbered(n), &mut packets).unwrap();
    }
    let mut decoder = open(&packets[0].params, 1).unwrap();
    let got = decode(&mut *decoder, &packets);
    assert_eq!(got.len(), 10);
    for (n, (picture, pixels)) in got.iter().enumerate() {
        assert_eq!(picture.frame_id, 1_000 + n as u64);
        let want = numbered(n as u32);
        let off: u64 = pixels
            .iter()
            .zip(&want)
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        assert!(off / (want.len() as u64) < 3, "picture {n}: {off}");
    }
}

#[test]
fn a_child_gives_each_picture_to_its_packet_soon_and_with_ffmpegs_pixels() {
    for codec in [Codec::H264, Codec::H265] {
        let bytes = encoded(25, codec, &["-bf", "0"]);
        let packets = packets(codec, &bytes, None);
        let mut decoder = FfmpegDecoder::new(&packets[0].params, 1).unwrap();
        // Each picture comes without another packet behind it.
        let mut got = Vec::new();
        for packet in &packets {
            decoder.push(packet).unwrap();
            let guard = Instant::now();
            while decoder.ready().unwrap().is_none() {
                assert!(
                    guard.elapsed() < Duration::from_secs(20),
                    "{codec:?}: picture {} does not come",
                    got.len()
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            got.extend(take_all(
                &mut decoder,
                Duration::ZERO.max(Duration::from_micros(1)),
            ));
        }
        assert_eq!(got.len(), 25);
        assert_same(&got, &reference(codec, &bytes), codec.as_str());
    }
}

#[test]
fn with_b_pictures_each_picture_still_belongs_to_its_packet() {
    for codec in [Codec::H264, Codec::H265] {
        let (bytes, order) = with_b_pictures(codec);
        let packets = packets(codec, &bytes, Some(&order));
        let mut decoder = FfmpegDecoder::new(&packets[0].params, 1).unwrap();
        let got = decode(&mut decoder, &packets);
        // The last ones stay inside: nothing pushes them out.
        assert!(got.len() >= 26, "{codec:?}: {}", got.len());
        assert_same(&got, &reference(codec, &bytes), codec.as_str());
    }
}

/// 31 pictures with B pictures among them, and where each packet's picture is in the video.
fn with_b_pictures(codec: Codec) -> (Vec<u8>, Vec<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let (yuv, mkv) = (dir.path().join("in.yuv"), dir.path().join("out.mkv"));
    std::fs::write(&yuv, raw(31)).unwrap();
    let (encoder, format) = match codec {
        Codec::H265 => (
            "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=2:b-adapt=0:open-gop=0:keyint=10",
            "hevc",
        ),
        _ => (
            "-c:v libx264 -preset veryfast -x264-params bframes=2:b-adapt=0:open-gop=0:keyint=10:scenecut=0",
            "h264",
        ),
    };
    let run = |args: &str| {
        let out = Command::new("ffmpeg")
            .args(args.split_ascii_whitespace())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        out.stdout
    };
    let (yuv, mkv) = (yuv.display(), mkv.display());
    run(&format!(
        "-v error -nostdin -f rawvideo -pix_fmt yuv420p -s {W}x{H} -r 25 -i {yuv} {encoder} {mkv}"
    ));
    let bytes = run(&format!(
        "-v error -nostdin -i {mkv} -c copy -f {format} pipe:1"
    ));
    let out = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-show_entries",
            "packet=pts",
            "-of",
            "csv=p=0",
        ])
        .arg(mkv.to_string())
        .output()
        .unwrap();
    let pts: Vec<i64> = String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .filter_map(|l| l.trim_end_matches(',').parse().ok())
        .collect();
    let mut sorted = pts.clone();
    sorted.sort_unstable();
    let order: Vec<u64> = pts
        .iter()
        .map(|p| sorted.iter().position(|s| s == p).unwrap() as u64)
        .collect();
    assert!(
        order.windows(2).any(|w| w[0] > w[1]),
        "{order:?}: nothing is reordered"
    );
    (bytes, order)
}

/// Packets of H.264 with B pictures, for other tests.
pub(crate) fn packets_with_b_pictures() -> Vec<Packet> {
    let (bytes, order) = with_b_pictures(Codec::H264);
    packets(Codec::H264, &bytes, Some(&order))
}

/// Which of the numbered pictures a JPEG shows: this is its luma, full range.
pub(crate) fn number_of(luma: &[u8]) -> u64 {
    let mean = |luma: &[u8]| luma.iter().map(|l| f64::from(*l)).sum::<f64>() / luma.len() as f64;
    let limited = mean(luma) * 219.0 / 255.0 + 16.0;
    let steps = (limited - mean(&numbered(0)[..luma.len()])) / 5.0;
    (0..100)
        .find(|n| (*n as f64 - steps).abs() < 0.4)
        .expect("a numbered picture")
}

#[test]
fn a_stream_that_turns_out_to_have_b_pictures_goes_to_the_child() {
    let (bytes, order) = with_b_pictures(Codec::H264);
    let packets = packets(Codec::H264, &bytes, Some(&order));
    let mut decoder = open(&packets[0].params, 1).unwrap();
    assert_eq!(decoder.name(), "openh264");
    let mut waits = false;
    for packet in &packets {
        if waits && !packet.is_key {
            continue;
        }
        waits = decoder.push(packet).is_err();
        decoder.skip();
    }
    assert_eq!(decoder.name(), "ffmpeg h264");
    let want = reference(Codec::H264, &bytes);
    for (picture, pixels) in take_all(&mut *decoder, Duration::from_millis(1500)) {
        assert!(pixels == want[(picture.frame_id - 1_000) as usize]);
    }
}

#[test]
fn damaged_packets_are_told_and_the_next_key_picture_is_fine() {
    let bytes = encoded(25, Codec::H264, &["-bf", "0"]);
    let packets = packets(Codec::H264, &bytes, None);
    let mut decoder = open(&packets[0].params, 1).unwrap();
    decoder.push(&packets[0]).unwrap();
    let mut bad = packets[1].clone();
    bad.data = bad.data.slice(..bad.data.len() / 2);
    assert!(matches!(decoder.push(&bad), Err(DecodeError::Damaged(_))));
    let got = decode(&mut *decoder, &packets[10..20]);
    assert_eq!(got.len(), 10);
    let want = reference(Codec::H264, &bytes);
    assert!(got[0].1 == want[10] && got[9].1 == want[19]);
}

#[test]
fn a_child_that_is_killed_is_told_and_begins_again_at_a_key_packet() {
    let bytes = encoded(25, Codec::H264, &["-bf", "0"]);
    let packets = packets(Codec::H264, &bytes, None);
    let mut decoder = FfmpegDecoder::new(&packets[0].params, 1).unwrap();
    decoder.push(&packets[0]).unwrap();
    assert_eq!(take_all(&mut decoder, Duration::from_millis(1500)).len(), 1);
    decoder.kill_for_tests();
    let guard = Instant::now();
    let error = loop {
        match decoder.ready() {
            Err(e) => break e,
            Ok(_) => assert!(guard.elapsed() < Duration::from_secs(20)),
        }
    };
    assert!(
        matches!(&error, DecodeError::Gone(why) if why.contains("ffmpeg")),
        "{error}"
    );
    assert!(
        matches!(decoder.push(&packets[1]), Err(DecodeError::Damaged(_))),
        "not a key packet"
    );
    let got = decode(&mut decoder, &packets[10..12]);
    assert_eq!(got.len(), 2);
}

#[test]
fn without_ffmpeg_the_error_says_what_to_install() {
    let params = Arc::new(CodecParams {
        codec: Codec::H265,
        ..(*CodecParams::for_tests(64, 48)).clone()
    });
    let error = FfmpegDecoder::with_program("no-such-ffmpeg".into(), &params, 1).err();
    let Some(DecodeError::Unsupported(text)) = error else {
        panic!("{error:?}")
    };
    assert!(
        text.contains("apt install ffmpeg") && text.contains("h265"),
        "{text}"
    );
}

#[test]
fn white_and_black_keep_the_values_of_their_range() {
    for codec in [Codec::H264, Codec::H265] {
        for (format, range, black, white) in [
            ("yuv420p", ColorRange::Limited, 16, 235),
            ("yuvj420p", ColorRange::Full, 0, 255),
        ] {
            let size = format!("{W}x{H}");
            let mut raw = Vec::new();
            for luma in [black, white] {
                raw.extend(vec![luma; (W * H) as usize]);
                raw.extend(vec![128; (W * H / 2) as usize]);
            }
            let (encoder, muxer) = match codec {
                Codec::H265 => ("libx265", "hevc"),
                _ => ("libx264", "h264"),
            };
            let input = [
                "-f", "rawvideo", "-pix_fmt", format, "-s", &size, "-r", "25",
            ];
            let mut output = vec!["-c:v", encoder, "-preset", "ultrafast", "-bf", "0"];
            // Nearly without loss; each picture by itself.
            output.extend(["-crf", "1", "-g", "1", "-f", muxer]);
            if codec == Codec::H265 {
                output.splice(0..0, ["-x265-params", "log-level=none"]);
            }
            let bytes = ffmpeg(&input, &raw, &output);
            let packets = packets(codec, &bytes, None);
            let mut decoder = FfmpegDecoder::new(&packets[0].params, 1).unwrap();
            let got = decode(&mut decoder, &packets);
            assert_eq!(got.len(), 2);
            for ((picture, pixels), want) in got.iter().zip([black, white]) {
                assert_eq!(picture.layout.color.range, range, "{codec:?}");
                let middle = pixels[(H / 2 * W + W / 2) as usize];
                assert!(middle.abs_diff(want) <= 1, "{codec:?} {format}: {middle}");
            }
        }
    }
}
