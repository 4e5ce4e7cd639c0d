//! On streams that a real ffmpeg wrote.
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers small by construction"
)]

use std::process::Command;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

/// A raw stream of `frames` pictures of a test pattern, written by ffmpeg.
fn ffmpeg_stream(size: &str, frames: u32, extra: &[&str]) -> Vec<u8> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i"])
        .arg(format!("testsrc2=size={size}:rate=30000/1001"))
        .args(["-frames:v", &frames.to_string()])
        .args(["-c:v", "rawvideo", "-pix_fmt", "yuv420p"])
        .args(extra)
        .args(["-f", "nut", "pipe:1"])
        .output()
        .expect("ffmpeg is needed for this test: apt install ffmpeg");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}

/// Small pictures with headers, syncpoints, info and an index: everything ffmpeg writes.
fn small() -> &'static [u8] {
    static STREAM: OnceLock<Vec<u8>> = OnceLock::new();
    STREAM.get_or_init(|| ffmpeg_stream("16x16", 12, &[]))
}

type Frames = Vec<(NutFrame, Vec<u8>)>;

fn read(bytes: &[u8]) -> Result<(NutStream, Frames), NutError> {
    let mut reader = NutReader::open(bytes)?.ok_or(NutError::Truncated("nothing"))?;
    let stream = *reader.stream();
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        let mut payload = vec![0; frame.bytes];
        reader.read_payload(&mut payload)?;
        frames.push((frame, payload));
    }
    Ok((stream, frames))
}

#[test]
fn pictures_and_times_are_those_ffmpeg_put_in() {
    // Below and above the 4096 bytes up to which payloads may have elided headers.
    for (size, width, height) in [("16x16", 16, 16), ("176x144", 176, 144), ("34x18", 34, 18)] {
        let stream = ffmpeg_stream(size, 40, &[]);
        let raw = Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i"])
            .arg(format!("testsrc2=size={size}:rate=30000/1001"))
            .args([
                "-frames:v",
                "40",
                "-f",
                "rawvideo",
                "-pix_fmt",
                "yuv420p",
                "pipe:1",
            ])
            .output()
            .unwrap()
            .stdout;
        let (info, frames) = read(&stream).unwrap();
        assert_eq!((info.width, info.height), (width, height));
        assert_eq!(&info.fourcc, b"I420");
        assert_eq!(frames.len(), 40);
        let joined: Vec<u8> = frames.iter().flat_map(|f| f.1.clone()).collect();
        assert!(
            joined == raw,
            "{size}: other pixels than ffmpeg's raw output"
        );
        for (i, (frame, _)) in frames.iter().enumerate() {
            let want = (i as f64 * 1001.0 / 30000.0 * 1e9).round() as i64;
            assert_eq!(info.ticks_to_ns(frame.pts), want, "{size} frame {i}");
            assert!(frame.key);
        }
    }
}

#[test]
fn a_payload_not_read_is_passed_over() {
    let (_, all) = read(small()).unwrap();
    let mut reader = NutReader::open(small()).unwrap().unwrap();
    for (i, (want, payload)) in all.iter().enumerate() {
        assert_eq!(reader.next_frame().unwrap().as_ref(), Some(want));
        if i % 3 == 0 {
            let mut got = vec![0; want.bytes];
            reader.read_payload(&mut got).unwrap();
            assert_eq!(&got, payload);
        }
    }
    assert!(reader.next_frame().unwrap().is_none());
    assert!(
        reader.next_frame().unwrap().is_none(),
        "the end stays the end"
    );
}

#[test]
fn a_stream_cut_anywhere_gives_its_first_frames_and_nothing_else() {
    let (_, all) = read(small()).unwrap();
    for cut in 0..small().len() {
        let Ok(Some(mut reader)) = NutReader::open(&small()[..cut]) else {
            continue;
        };
        let mut payload = vec![0; all[0].0.bytes];
        for (want, pixels) in &all {
            match reader.next_frame() {
                Ok(Some(frame)) => assert_eq!(frame, *want),
                Ok(None) => break,
                Err(e) => {
                    assert!(matches!(e, NutError::Truncated(_)), "cut at {cut}: {e}");
                    break;
                }
            }
            if reader.read_payload(&mut payload).is_err() {
                break;
            }
            assert_eq!(payload, *pixels);
        }
    }
    assert!(
        NutReader::open(&[][..]).unwrap().is_none(),
        "an empty input is no error"
    );
}

#[test]
fn a_flipped_bit_in_a_header_is_seen() {
    // Up to the first syncpoint everything but info packets is under a checksum.
    let syncpoint = small()
        .windows(8)
        .position(|w| w == SYNCPOINT.to_be_bytes())
        .unwrap();
    let info = small()
        .windows(8)
        .position(|w| w == INFO.to_be_bytes())
        .unwrap();
    let end = syncpoint + 9 + usize::from(small()[syncpoint + 8]);
    for at in (0..info).chain(syncpoint..end) {
        for bit in 0..8 {
            let mut bytes = small().to_vec();
            bytes[at] ^= 1 << bit;
            assert!(read(&bytes).is_err(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn ticks_become_nanoseconds_to_the_nearest() {
    let stream = |tick_num, tick_den| NutStream {
        fourcc: *b"I420",
        width: 1,
        height: 1,
        tick_num,
        tick_den,
    };
    assert_eq!(stream(1, 30_000).ticks_to_ns(1001), 33_366_667);
    assert_eq!(stream(1, 3).ticks_to_ns(-1), -333_333_333);
    assert_eq!(stream(1, 1000).ticks_to_ns(90_000_000), 90_000_000_000_000);
    assert_eq!(stream(u32::MAX, 1).ticks_to_ns(i64::MAX), i64::MAX);
    assert_eq!(stream(u32::MAX, 1).ticks_to_ns(i64::MIN), i64::MIN);
}

#[test]
fn a_time_stamp_is_found_from_its_low_bits() {
    let header = StreamHeader {
        info: NutStream {
            fourcc: *b"I420",
            width: 1,
            height: 1,
            tick_num: 1,
            tick_den: 25,
        },
        msb_pts_shift: 7,
        codec_data: Vec::new(),
    };
    for last in [0_i64, 60, 1_000, 123_456] {
        for near in last.saturating_sub(60).max(0)..last + 60 {
            let coded = (near & 127) as u64;
            assert_eq!(
                header.full_pts(last, coded),
                Some(near),
                "{near} after {last}"
            );
        }
        assert_eq!(header.full_pts(last, 128 + 77_777), Some(77_777));
    }
    assert_eq!(header.full_pts(0, u64::MAX), None);
    assert_eq!(header.full_pts(i64::MIN, 1), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_damage_panics_or_hangs(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        cuts: bool,
    ) {
        let mut bytes = small().to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        // Whatever comes out is bounded by what went in.
        if let Ok((_, frames)) = read_bounded(&bytes) {
            prop_assert!(frames <= bytes.len());
        }
    }

    #[test]
    fn no_bytes_after_the_file_id_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let stream = [&FILE_ID[..], &bytes].concat();
        let _outcome = read_bounded(&stream).is_ok();
        let header = [&FILE_ID[..], &MAIN.to_be_bytes(), &bytes].concat();
        let _outcome = read_bounded(&header).is_ok();
    }

    #[test]
    fn no_fields_of_a_header_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        // Under a right checksum, so that the fields are really read.
        if MainHeader::parse(&bytes).is_ok() {
            prop_assert!(bytes.len() > 4);
        }
        bytes.insert(0, 3);
        bytes.insert(1, 1);
        let _outcome = MainHeader::parse(&bytes).is_ok();
    }
}

/// Like [`read`], passing over payloads, which a damaged length can make 256 MB large.
fn read_bounded(bytes: &[u8]) -> Result<(NutStream, usize), NutError> {
    let mut reader = NutReader::open(bytes)?.ok_or(NutError::Truncated("nothing"))?;
    let stream = *reader.stream();
    let mut frames = 0;
    while reader.next_frame()?.is_some() {
        frames += 1;
    }
    Ok((stream, frames))
}
