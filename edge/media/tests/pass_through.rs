//! Evidence from cameras that encode by themselves: what comes out of a clip is what they sent.
//!
//! Real streams, made by ffmpeg, go in as packets with time stamps of their own; the clip is taken
//! apart again by ffmpeg.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may"
)]

mod clip_support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use clip_support::streams::*;
use clip_support::*;
use visualpath_core::{ManualClock, PixelFormat};
use visualpath_media::clip::{ClipEnd, Finish, Offered, ReadyClip, ShortPre};
use visualpath_media::encode::{Codec, EncoderKind, Packet};
use visualpath_media::ring::GapCause;

/// The clip's samples, as ffmpeg copies them out: shown when (µs after the first decoded), bytes.
fn samples(file: &Path, codec: Codec) -> Vec<(i64, Bytes)> {
    let copied = read(codec, file);
    let listed = Command::new("ffprobe")
        .args(["-v", "error", "-ignore_editlist", "1"])
        .args(["-show_entries", "packet=pts", "-of", "csv=p=0"])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        listed.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let times = String::from_utf8(listed.stdout).unwrap();
    let times = times
        .lines()
        .map(|l| l.trim_end_matches(',').parse().unwrap());
    let data = copied.pictures.into_iter().map(|p| p.data);
    let samples: Vec<_> = times.zip(data).collect();
    assert!(!samples.is_empty());
    samples
}

/// Every sample of the clip is the camera's packet, bit for bit, at its time.
fn check_bits(bench: &Bench, clip: &ReadyClip, packets: &[Packet], codec: Codec) {
    let samples = samples(&bench.path(clip), codec);
    let first = packets.iter().position(|p| p.data == samples[0].1);
    let sent = &packets[first.expect("the first sample is a packet")..];
    let t0 = sent[0].dts_ns;
    let mut sent = sent
        .iter()
        .filter(|p| p.pts_ns >= packets[first.unwrap()].pts_ns);
    for (i, (pts_us, data)) in samples.iter().enumerate() {
        let packet = sent.next().unwrap();
        assert_eq!(*data, packet.data, "sample {i}");
        let want = (packet.pts_ns - t0 + 500).div_euclid(1000);
        assert!(
            (pts_us - want).abs() <= 1,
            "sample {i}: {pts_us} not {want} µs"
        );
    }
}

fn numbers(range: std::ops::RangeInclusive<usize>) -> Vec<u64> {
    range.map(|i| i as u64).collect()
}

/// A clip from picture 23 to 47, asked for at 35 (times between two pictures).
fn exact_clip(stream: &Stream, codec: Codec) -> ReadyClip {
    let bench = Bench::start("cam0", |o| o.gop_s = 0.5);
    let packets = stream.packets();
    let (before, after) = packets.split_at(36);
    pass(&bench, before);
    let (start, event, end) = (jittered(23) + 5, jittered(35), jittered(47) - 5);
    let mut asked = request(1, event, 0, 0);
    (asked.start_ns, asked.end_ns) = (start, end);
    bench.lane.request(asked);
    pass(&bench, after);
    let clip = bench.ready();
    assert_eq!((clip.start_ns, clip.end_ns), (jittered(23), jittered(47)));
    assert_eq!((clip.end_reason, clip.frames), (ClipEnd::Complete, 25));
    assert_eq!((clip.codec, clip.gaps.len()), (codec, 0));
    assert_eq!((clip.short_pre_ms, clip.short_post_ms), (0.0, 0.0));
    assert_eq!(decode(&bench.path(&clip), true), numbers(23..=47));
    check_bits(&bench, &clip, &packets, codec);
    assert_eq!(bench.lane.stats().passed, packets.len() as u64);
    clip
}

#[test]
fn h264_of_a_camera_is_in_the_clip_bit_for_bit() {
    let clip = exact_clip(&h264(60, &[]), Codec::H264);
    assert_eq!(clip.lead_in_frames, 3);
    // A high profile says its format in the sample entry too.
    exact_clip(
        &h264(60, &["-pix_fmt", "yuv422p", "-profile:v", "high422"]),
        Codec::H264,
    );
}

#[test]
fn h265_of_a_camera_is_in_the_clip_bit_for_bit() {
    let clip = exact_clip(&h265(60, "bframes=0"), Codec::H265);
    assert_eq!(clip.lead_in_frames, 3);
}

/// The bytes of a box, wherever it is.
fn find_box(file: &Path, kind: &[u8; 4]) -> Vec<u8> {
    let bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(4).position(|w| w == kind).unwrap() - 4;
    let size = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    bytes[at + 8..at + size as usize].to_vec()
}

#[test]
fn the_sample_entry_says_what_ffmpegs_own_says_of_the_same_stream() {
    for pixels in ["yuv420p", "yuv422p10le", "yuv444p"] {
        let coding = ["-c:v", "libx265", "-pix_fmt", pixels, "-x265-params"];
        let params = ["log-level=none:pools=none:frame-threads=1:temporal-layers=1"];
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own.mp4");
        let source = ["-f", "lavfi", "-i", "testsrc=s=128x64:r=25:d=1"];
        let to = ["-tag:v", "hvc1", "-f", "mp4", own.to_str().unwrap()];
        ffmpeg(&[&source[..], &coding, &params, &to].concat());
        let stream = read(Codec::H265, &own);
        let bench = Bench::start("cam0", |_| {});
        pass(&bench, &stream.packets());
        let mut asked = request(1, jittered(5), 0, 0);
        (asked.start_ns, asked.end_ns) = (jittered(0), jittered(10));
        bench.lane.request(asked);
        bench
            .lane
            .finish(Finish::SourceEnd, std::time::Duration::from_secs(120))
            .unwrap();
        let clip = bench.ready();
        let (own, ours) = (
            find_box(&own, b"hvcC"),
            find_box(&bench.path(&clip), b"hvcC"),
        );
        // Version, profile, tier, level; sample format; layers. Not: parallelism, SEI.
        assert_eq!(ours[..13], own[..13], "{pixels}");
        assert_eq!(ours[16..19], own[16..19], "{pixels}");
        assert_eq!(ours[21], own[21], "{pixels}");
    }
}

#[test]
fn mjpeg_of_a_camera_is_in_the_clip_bit_for_bit_and_starts_at_the_very_picture() {
    let clip = exact_clip(&mjpeg(60), Codec::Mjpeg);
    assert_eq!((clip.lead_in_frames, clip.lead_in_ms), (0, 0.0));
}

#[test]
fn reordered_pictures_are_all_there_up_to_the_asked_end_and_no_further() {
    let b_frames = h264(60, &["-bf", "3", "-b_strategy", "0"]);
    assert!(
        b_frames
            .pictures
            .iter()
            .enumerate()
            .any(|(i, p)| p.shown != i)
    );
    exact_clip(&b_frames, Codec::H264);
    // Open GOPs: pictures shown before the key picture they follow.
    let open = h265(60, "bframes=3:b-adapt=0:open-gop=1");
    let keys = open.pictures.iter().enumerate().filter(|(_, p)| p.is_key);
    let leading =
        |(i, k): (usize, &Picture)| open.pictures[i + 1..].iter().any(|p| p.shown < k.shown);
    assert!(
        keys.skip(1).any(leading),
        "no leading picture in this stream"
    );
    exact_clip(&open, Codec::H265);
}

#[test]
fn after_a_loss_nothing_is_taken_that_can_not_be_decoded() {
    let stream = h264(60, &[]);
    let packets = stream.packets();
    for told in [true, false] {
        let bench = Bench::start("cam0", |_| {});
        // Evidence begins between two keys, and picture 33 is lost on the way.
        for (i, packet) in packets.iter().enumerate().skip(4) {
            if i == 33 {
                if told {
                    bench.lane.gap(packets[32].pts_ns, packets[34].pts_ns, 1);
                }
                continue;
            }
            let lost = i < 10 || (34..40).contains(&i);
            let wanted = if lost { Offered::Lost } else { Offered::Taken };
            assert_eq!(
                bench.lane.offer_packet(packet.clone()),
                wanted,
                "picture {i}"
            );
        }
        let mut asked = request(1, jittered(30), 0, 0);
        (asked.start_ns, asked.end_ns) = (jittered(2), jittered(50));
        bench.lane.request(asked);
        let clip = bench.ready();
        let shown = [numbers(10..=32), numbers(40..=50)].concat();
        assert_eq!(decode(&bench.path(&clip), true), shown);
        assert_eq!(clip.short_pre_reason, Some(ShortPre::SourceStart));
        let gaps: Vec<_> = clip.gaps.iter().map(|g| (g.cause, g.lost)).collect();
        assert_eq!(gaps, [(GapCause::Source, 1), (GapCause::NoKey, 6)]);
        let whole = clip
            .gaps
            .iter()
            .any(|g| (g.from_ns, g.to_ns) == (jittered(32), jittered(40)));
        assert!(whole, "{:?}", clip.gaps);
        assert_eq!(bench.lane.stats().lost_undecodable, 12);
    }
}

#[test]
fn after_a_loss_in_a_reordered_stream_everything_taken_decodes() {
    let stream = h264(60, &["-bf", "3", "-b_strategy", "0"]);
    let packets = stream.packets();
    for lost in [31, 33] {
        let bench = Bench::start("cam0", |_| {});
        let mut taken = Vec::new();
        for (i, packet) in packets.iter().enumerate().filter(|(i, _)| *i != lost) {
            if bench.lane.offer_packet(packet.clone()) == Offered::Taken {
                taken.push(stream.pictures[i].shown);
            }
        }
        let mut asked = request(1, jittered(25), 0, 0);
        (asked.start_ns, asked.end_ns) = (jittered(15), jittered(50));
        bench.lane.request(asked);
        let clip = bench.ready();
        taken.retain(|n| (15..=50).contains(n));
        taken.sort_unstable();
        assert!((20..36).contains(&taken.len()), "{taken:?}");
        let shown: Vec<u64> = taken.iter().map(|n| *n as u64).collect();
        assert_eq!(decode(&bench.path(&clip), true), shown);
        assert_eq!(
            clip.gaps.iter().map(|g| g.lost).sum::<u64>(),
            40 - lost as u64
        );
    }
}

#[test]
fn a_gap_of_pictures_whose_packets_are_here_is_none_of_the_clip() {
    let stream = h264(60, &[]);
    let packets = stream.packets();
    let bench = Bench::start("cam0", |_| {});
    for (i, packet) in packets.iter().enumerate() {
        assert_eq!(bench.lane.offer_packet(packet.clone()), Offered::Taken);
        if i == 25 {
            // No slot was free for the decoded pictures 21 to 24.
            bench.lane.gap(jittered(20), jittered(25), 4);
        }
    }
    let mut asked = request(1, jittered(30), 0, 0);
    (asked.start_ns, asked.end_ns) = (jittered(15), jittered(40));
    bench.lane.request(asked);
    let clip = bench.ready();
    assert_eq!(clip.gaps, []);
    assert_eq!(decode(&bench.path(&clip), true), numbers(15..=40));
}

#[test]
fn a_full_queue_loses_packets_up_to_the_next_key_and_never_holds_up_the_camera() {
    let stream = h264(400, &["-g", "50"]);
    let packets = stream.packets();
    let clock = Arc::new(ManualClock::default());
    let (gate, hold) = crossbeam_channel::bounded::<()>(0);
    let held = std::sync::Mutex::new(Some(hold));
    let dir = tempfile::tempdir().unwrap();
    let store = visualpath_media::clip::ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
    let mut options = visualpath_media::clip::LaneOptions::new(name("cam0"), store);
    options.clock = clock;
    let (tell, results) = crossbeam_channel::unbounded();
    // The clip thread stands still inside its first report.
    let lane = visualpath_media::clip::EvidenceLane::start(options, move |r| {
        if let Some(hold) = held.lock().unwrap().take() {
            let _released = hold.recv();
        }
        tell.send(r).unwrap();
    })
    .unwrap();
    let mut reversed = request(9, 0, 0, 0);
    reversed.end_ns = -1;
    lane.request(reversed);
    while lane.stats().failed == 0 {
        std::thread::yield_now();
    }
    let offered: Vec<Offered> = packets
        .iter()
        .map(|p| lane.offer_packet(p.clone()))
        .collect();
    assert!(offered.iter().take(200).all(|o| *o == Offered::Taken));
    let full = offered
        .iter()
        .position(|o| *o == Offered::Lost)
        .expect("a full queue");
    assert!(offered[full..].iter().all(|o| *o == Offered::Lost));
    drop(gate);
    while lane.stats().ring.packets < full {
        std::thread::yield_now();
    }
    // There is room again, but the next pictures refer to lost ones; after them comes a key.
    let again = h264(30, &[]).pictures;
    let mut more = Vec::new();
    for (i, picture) in again[5..25].iter().enumerate() {
        let n = 400 + i;
        more.push(Packet {
            data: picture.data.clone(),
            is_key: picture.is_key,
            pts_ns: jittered(n),
            dts_ns: jittered(n),
            frame_id: n as u64,
            params: Arc::clone(&stream.params),
        });
    }
    let key = more.iter().position(|p| p.is_key).unwrap();
    for (i, packet) in more.iter().enumerate() {
        let wanted = if i < key {
            Offered::Lost
        } else {
            Offered::Taken
        };
        assert_eq!(lane.offer_packet(packet.clone()), wanted);
    }
    let mut asked = request(1, jittered(full - 1), 0, 0);
    (asked.start_ns, asked.end_ns) = (jittered(full - 20), jittered(400 + key + 3));
    lane.request(asked);
    results.recv().unwrap();
    let clip = ready(
        results
            .recv_timeout(std::time::Duration::from_secs(120))
            .unwrap(),
    );
    let gap = clip.gaps[0];
    assert_eq!((clip.gaps.len(), gap.cause), (1, GapCause::WriterBusy));
    assert_eq!(gap.lost, (400 - full + key) as u64);
    assert_eq!(
        (gap.from_ns, gap.to_ns),
        (jittered(full - 1), jittered(400 + key))
    );
    let expected = 20 + 4;
    assert_eq!(clip.frames, expected);
    assert_eq!(
        decode(&dir.path().join(&clip.file), true).len() as u64,
        expected
    );
}

#[test]
fn changing_between_frames_and_packets_cuts_the_clip_there_and_says_so() {
    let stream = h264(90, &[]);
    let packets = stream.packets();
    let camera = Camera::new();
    let bench = Bench::start("cam0", |_| {});
    let asked = |n, event, start, end| {
        let mut asked = request(n, jittered(event), 0, 0);
        (asked.start_ns, asked.end_ns) = (jittered(start), jittered(end));
        bench.lane.request(asked);
    };
    // Frames to 30, packets to 60 (a mask is taken away), frames again (it is back).
    let frames = |range: std::ops::Range<usize>| {
        for i in range {
            bench.offer(camera.frame(i as u64, jittered(i)));
        }
    };
    frames(0..20);
    asked(1, 19, 10, 40);
    frames(20..30);
    for (i, packet) in packets.iter().enumerate().take(60).skip(30) {
        assert_eq!(bench.lane.offer_packet(packet.clone()), Offered::Taken);
        // Whoever offers the decoded frame too does no harm.
        bench.offer(camera.frame(i as u64, jittered(i)));
        if i == 45 {
            asked(2, 45, 20, 70);
        }
    }
    frames(60..90);
    asked(3, 70, 50, 80);
    bench
        .lane
        .finish(Finish::SourceEnd, std::time::Duration::from_secs(120))
        .unwrap();
    let mut clips: Vec<_> = bench.results.try_iter().collect();
    clips.sort_by_key(|r| r.id.clone());
    let clips: Vec<ReadyClip> = clips.into_iter().map(ready).collect();
    let said = |c: &ReadyClip| {
        (
            c.end_reason,
            c.short_pre_reason,
            decode(&bench.path(c), true),
        )
    };
    let cut = ClipEnd::FormatChange;
    assert_eq!(said(&clips[0]), (cut, None, numbers(10..=29)));
    assert_eq!(
        said(&clips[1]),
        (cut, Some(ShortPre::FormatChange), numbers(30..=59))
    );
    let whole = ClipEnd::Complete;
    assert_eq!(
        said(&clips[2]),
        (whole, Some(ShortPre::FormatChange), numbers(60..=80))
    );
    let s = bench.lane.stats();
    assert_eq!((s.taken, s.passed, s.lost_error), (60, 30, 0));
    assert!(clips.iter().all(|c| c.gaps.is_empty()));
}

#[test]
fn other_parameter_sets_cut_the_clip_and_need_a_key_picture() {
    let first = h264(30, &[]).packets();
    // Another size of the coded picture's blocks is another SPS; the pictures are as large.
    let second = h264(60, &["-profile:v", "baseline", "-bf", "0"]).packets();
    assert_ne!(first[0].params, second[0].params);
    let bench = Bench::start("cam0", |_| {});
    pass(&bench, &first);
    let mut asked = request(1, jittered(20), 0, 0);
    (asked.start_ns, asked.end_ns) = (jittered(12), jittered(50));
    bench.lane.request(asked);
    for (i, packet) in second.iter().enumerate().skip(33) {
        let wanted = if i < 40 {
            Offered::Lost
        } else {
            Offered::Taken
        };
        assert_eq!(bench.lane.offer_packet(packet.clone()), wanted);
    }
    let clip = bench.ready();
    assert_eq!(
        (clip.end_reason, clip.end_ns),
        (ClipEnd::FormatChange, jittered(29))
    );
    assert_eq!(decode(&bench.path(&clip), true), numbers(12..=29));
}

#[test]
fn every_pixel_format_becomes_a_clip_with_either_encoder() {
    use PixelFormat::*;
    for codec in [EncoderKind::H264, EncoderKind::Mjpeg] {
        for format in [I420, Nv12, Nv21, Yuyv, Uyvy, Rgb, Bgr, Grey] {
            let camera = Camera::with(format, WIDTH, HEIGHT);
            let bench = Bench::start("cam0", |o| o.codec = codec);
            for i in 0..30 {
                bench.offer(camera.frame(i, jittered(i as usize)));
            }
            let mut asked = request(1, jittered(10), 0, 0);
            (asked.start_ns, asked.end_ns) = (jittered(5), jittered(20));
            bench.lane.request(asked);
            let clip = bench.ready();
            let shown = decode(&bench.path(&clip), true);
            assert_eq!(shown, numbers(5..=20), "{codec:?} {format:?}");
            let wanted = match codec {
                EncoderKind::H264 => Codec::H264,
                EncoderKind::Mjpeg => Codec::Mjpeg,
            };
            assert_eq!((clip.codec, clip.end_reason), (wanted, ClipEnd::Complete));
        }
    }
}
