//! Real files through the real decoders.
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers small by construction"
)]

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use visualpath_core::{
    ColorMatrix, ColorRange, ManualClock, MonotonicClock, NS_PER_MS, NS_PER_S, PixelFormat,
};
use visualpath_frames::PoolSpec;

use super::ffmpeg::{FfmpegPictures, Tools};
use super::*;
use crate::convert::Converter;

fn asset(path: &str) -> String {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let root = std::env::var_os("VISUALPATH_ASSETS")
        .map_or_else(|| cache.join("visualpath"), PathBuf::from);
    let file = root.join(path);
    assert!(
        file.is_file(),
        "{} is missing: run cross/setup.sh first",
        file.display()
    );
    file.to_str().unwrap().to_owned()
}

fn name() -> Name {
    Name::new("cam0").unwrap()
}

fn opened(opts: &SourceOptions) -> Box<dyn Source> {
    open(opts, Arc::new(MonotonicClock::new())).unwrap()
}

fn refused(uri: &str) -> SourceError {
    match open(
        &SourceOptions::new(name(), uri),
        Arc::new(ManualClock::default()),
    ) {
        Ok(source) => panic!("{uri} was opened: {}", source.info().description),
        Err(e) => e,
    }
}

fn pool_for(info: &SourceInfo, slots: usize) -> FramePool {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let spec = PoolSpec {
        pool_id: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        slots,
        native: info.layout,
        views: Vec::new(),
    };
    FramePool::heap(&spec, Arc::new(Converter::new())).unwrap()
}

/// What a source gave, up to its end.
struct Whole {
    ids: Vec<u64>,
    times: Vec<i64>,
    hashes: Vec<[u8; 32]>,
    gaps: Vec<Gap>,
    end: Result<EndInfo, SourceError>,
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn whole(source: &mut dyn Source) -> Whole {
    let (pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
    let mut w = Whole {
        ids: Vec::new(),
        times: Vec::new(),
        hashes: Vec::new(),
        gaps: Vec::new(),
        end: Ok(EndInfo::default()),
    };
    loop {
        match source.next(&pool, &stop) {
            Ok(SourceEvent::Frame(frame)) => {
                w.ids.push(frame.meta().frame_id);
                w.times.push(frame.meta().t_ns);
                w.hashes.push(hash(frame.pixels()));
            }
            Ok(SourceEvent::Gap(gap)) => w.gaps.push(gap),
            Ok(SourceEvent::End(end)) => w.end = Ok(end),
            Ok(other) => panic!("{other:?}"),
            Err(e) => w.end = Err(e),
        }
        if w.end.is_err() || matches!(&w.end, Ok(e) if *e != EndInfo::default()) {
            let after = source.next(&pool, &stop);
            assert!(matches!(after, Ok(SourceEvent::End(_))), "{after:?}");
            return w;
        }
    }
}

fn of_file(uri: &str) -> Whole {
    whole(&mut *opened(&SourceOptions::new(name(), uri)))
}

/// Runs ffmpeg with `args`; every `OUT` in them is a file in `dir`, which is given back.
fn ffmpeg(dir: &TempDir, out: &str, args: &[&str]) -> String {
    let path = dir.path().join(out).to_str().unwrap().to_owned();
    let done = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(args)
        .arg(&path)
        .output()
        .expect("ffmpeg is needed for this test: apt install ffmpeg");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ffmpeg {args:?}: {said}");
    path
}

/// Hashes of the pictures as ffmpeg's own raw output has them.
fn raw_hashes(file: &str, pix_fmt: &str, frame_bytes: usize) -> Vec<[u8; 32]> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i", file, "-map", "0:v:0"])
        .args([
            "-vsync",
            "passthrough",
            "-f",
            "rawvideo",
            "-pix_fmt",
            pix_fmt,
            "pipe:1",
        ])
        .output()
        .unwrap()
        .stdout;
    assert_eq!(out.len() % frame_bytes, 0);
    out.chunks_exact(frame_bytes).map(hash).collect()
}

/// Time stamps of the decoded pictures in ticks, as ffprobe reports them, and the tick.
fn ffprobe_times(file: &str) -> (Vec<i64>, i128, i128) {
    let ask = |entries: &str| {
        let out = Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-select_streams",
                "v:0",
                "-show_entries",
                entries,
            ])
            .args(["-of", "default=noprint_wrappers=1:nokey=1", file])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let base = ask("stream=time_base");
    let (num, den) = base.lines().next().unwrap().split_once('/').unwrap();
    let ticks = ask("frame=pts")
        .lines()
        .filter_map(|l| l.parse().ok())
        .collect();
    (ticks, num.parse().unwrap(), den.parse().unwrap())
}

/// From the first, to the nearest nanosecond.
fn ns(ticks: &[i64], num: i128, den: i128) -> Vec<i64> {
    let exact = |t: i64| (2 * i128::from(t) * num * 1_000_000_000 + den).div_euclid(2 * den);
    ticks
        .iter()
        .map(|&t| i64::try_from(exact(t) - exact(ticks[0])).unwrap())
        .collect()
}

#[test]
fn vtest_gives_795_frames_at_exact_times_with_ffmpegs_pixels() {
    let file = asset("videos/vtest.avi");
    let mut source = opened(&SourceOptions::new(name(), &file));
    let info = source.info().clone();
    assert_eq!((info.layout.width, info.layout.height), (768, 576));
    assert_eq!(info.layout.format, PixelFormat::I420);
    assert_eq!(info.nominal_fps, Some(10.0));
    assert_eq!(info.duration_ns, Some(79_500 * NS_PER_MS));
    assert_eq!(info.description, "ffmpeg msmpeg4v3 768x576 10 fps");
    let got = whole(&mut *source);
    assert_eq!(got.ids, (0..795).collect::<Vec<_>>());
    let want: Vec<i64> = (0..795).map(|i| i * 100 * NS_PER_MS).collect();
    assert_eq!(got.times, want);
    let want = raw_hashes(&file, "yuv420p", info.layout.bytes());
    assert_eq!(want.len(), 795);
    assert!(got.hashes == want, "pixels differ from ffmpeg's own");
    let end = EndInfo {
        frames: 795,
        lost: 0,
        last_t_ns: Some(79_400 * NS_PER_MS),
    };
    assert_eq!(got.end.unwrap(), end);
}

#[test]
fn pictures_in_another_order_than_their_packets_come_out_in_time_order() {
    let file = asset("videos/carphone_pristine.mp4");
    let got = of_file(&file);
    let (ticks, num, den) = ffprobe_times(&file);
    assert_eq!(got.times, ns(&ticks, num, den));
    assert!(got.hashes == raw_hashes(&file, "yuv420p", 176 * 144 * 3 / 2));
    assert_eq!(got.hashes.len(), 120);
}

#[test]
fn pictures_that_are_missing_in_a_file_are_not_made_up() {
    // tree.avi announces 444 pictures and has 68, most of them repeated by their times.
    let file = asset("videos/tree.avi");
    let got = of_file(&file);
    let (ticks, num, den) = ffprobe_times(&file);
    assert_eq!(got.times.len(), 68);
    assert_eq!(got.times, ns(&ticks, num, den));
    got.end.unwrap();
}

#[test]
fn a_variable_rate_file_of_60_frames_gives_60_frames_at_their_own_times() {
    let dir = TempDir::new().unwrap();
    let pts = "settb=1/30000,setpts=(N*1000+N*N*7+if(mod(N\\,3)\\,411\\,0)+15000)/30000/TB";
    for (out, codec) in [
        (
            "v.mp4",
            &[
                "-c:v",
                "mpeg4",
                "-bf",
                "2",
                "-video_track_timescale",
                "30000",
            ][..],
        ),
        ("v.mkv", &["-c:v", "ffv1"]),
        ("v.ts", &["-c:v", "mpeg4", "-bf", "2"]),
    ] {
        let mut args = vec![
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=160x120:rate=30",
            "-vf",
            pts,
        ];
        args.extend([
            "-frames:v",
            "60",
            "-vsync",
            "passthrough",
            "-enc_time_base",
            "1:30000",
        ]);
        args.extend(["-pix_fmt", "yuv420p"]);
        args.extend(codec);
        let file = ffmpeg(&dir, out, &args);
        let (ticks, num, den) = ffprobe_times(&file);
        let want = ns(&ticks, num, den);
        let steps: std::collections::BTreeSet<_> = want.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(steps.len() > 10, "{out} is not of variable rate: {steps:?}");
        let got = of_file(&file);
        assert_eq!(got.times.len(), 60, "{out}");
        assert_eq!(got.times, want, "{out}");
        got.end.unwrap();
    }
}

#[test]
fn colours_and_shapes_are_what_the_file_says() {
    let dir = TempDir::new().unwrap();
    let source = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=64x48:rate=10",
        "-frames:v",
        "3",
    ];
    let made = |out: &str, args: &[&str]| ffmpeg(&dir, out, &[&source[..], args].concat());
    let color = |file: &str| {
        opened(&SourceOptions::new(name(), file))
            .info()
            .layout
            .color
    };
    let hd = [
        "-c:v",
        "ffv1",
        "-pix_fmt",
        "yuv420p",
        "-colorspace",
        "bt709",
        "-color_range",
        "tv",
    ];
    let hd = made("709.mkv", &hd);
    assert_eq!(color(&hd).matrix, ColorMatrix::Bt709);
    assert!(of_file(&hd).hashes == raw_hashes(&hd, "yuv420p", 64 * 48 * 3 / 2));
    // Full range stays full: no sample is changed on the way.
    let full = made(
        "full.avi",
        &["-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "2"],
    );
    assert_eq!(color(&full).range, ColorRange::Full);
    assert!(of_file(&full).hashes == raw_hashes(&full, "yuvj420p", 64 * 48 * 3 / 2));
    // RGB becomes BT.601 limited, as ffmpeg's own conversion has it.
    let rgb = made("rgb.avi", &["-c:v", "rawvideo", "-pix_fmt", "bgr24"]);
    assert_eq!(color(&rgb), visualpath_core::ColorSpec::default());
    assert_eq!(of_file(&rgb).hashes.len(), 3);
    // Ten bits become eight, odd sides stay odd.
    let deep = [
        "-vf",
        "scale=33:17",
        "-c:v",
        "ffv1",
        "-pix_fmt",
        "yuv422p10le",
    ];
    let deep = made("deep.mkv", &deep);
    let source = opened(&SourceOptions::new(name(), &deep));
    assert_eq!(
        (source.info().layout.width, source.info().layout.height),
        (33, 17)
    );
    assert_eq!(of_file(&deep).hashes.len(), 3);
    // A turned picture is upright: width and height change places.
    let flat = made("flat.mp4", &["-c:v", "mpeg4"]);
    let args = ["-i", &flat, "-c", "copy", "-metadata:s:v", "rotate=90"];
    let turned = ffmpeg(&dir, "turned.mp4", &args);
    let info = opened(&SourceOptions::new(name(), &turned)).info().clone();
    assert_eq!((info.layout.width, info.layout.height), (48, 64));
    assert_eq!(of_file(&turned).hashes.len(), 3);
}

#[test]
fn a_name_that_looks_like_an_option_or_a_protocol_is_a_file() {
    let dir = TempDir::new().unwrap();
    let file = ffmpeg(
        &dir,
        "x.avi",
        &["-f", "lavfi", "-i", "testsrc2=size=32x32", "-frames:v", "2"],
    );
    for odd in ["-i.avi", "concat:a|b.avi", "a b%03d'.avi", "ümlaut.avi"] {
        let odd = dir.path().join(odd);
        std::fs::copy(&file, &odd).unwrap();
        assert_eq!(of_file(odd.to_str().unwrap()).ids, [0, 1], "{odd:?}");
        let uri = format!("file:{}", odd.display());
        assert_eq!(of_file(&uri).ids, [0, 1], "{uri}");
    }
}

#[test]
fn a_looping_file_goes_on_in_number_and_time() {
    let dir = TempDir::new().unwrap();
    let file = ffmpeg(
        &dir,
        "x.avi",
        &[
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=32x32:rate=20",
            "-frames:v",
            "5",
        ],
    );
    let opts = SourceOptions {
        loop_: true,
        ..SourceOptions::new(name(), &file)
    };
    let mut source = opened(&opts);
    let (pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
    let (mut wraps, mut seen) = (Vec::new(), Vec::new());
    while seen.len() < 13 {
        match source.next(&pool, &stop).unwrap() {
            SourceEvent::Frame(f) => {
                seen.push((f.meta().frame_id, f.meta().t_ns, hash(f.pixels())))
            }
            SourceEvent::Wrapped => wraps.push(seen.len()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(wraps, [5, 10]);
    for (i, (id, t_ns, pixels)) in seen.iter().enumerate() {
        assert_eq!((*id, *t_ns), (i as u64, i as i64 * 50 * NS_PER_MS));
        assert_eq!(*pixels, seen[i % 5].2);
    }
    stop.stop();
    assert!(matches!(
        source.next(&pool, &stop),
        Ok(SourceEvent::Stopped)
    ));
    assert!(matches!(source.next(&pool, &stop), Ok(SourceEvent::End(_))));
}

#[test]
fn what_is_no_video_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let written = |name: &str, bytes: &[u8]| {
        std::fs::write(path(name), bytes).unwrap();
        path(name)
    };
    let sine = ["-f", "lavfi", "-i", "sine=duration=1"];
    let fifo = path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let text = "Two roads diverged in a yellow wood.\n".repeat(50);
    for (uri, kind, says) in [
        (path("missing.mp4"), "NotFound", "no such file"),
        (path("."), "NotAFile", "a directory"),
        (fifo, "NotAFile", "a pipe"),
        (written("empty.mp4", b""), "NotAVideo", "it is empty"),
        (
            written("text.mp4", text.as_bytes()),
            "NotAVideo",
            "moov atom not found",
        ),
        (written("text.txt", text.as_bytes()), "NotAVideo", "text"),
        (
            written("noise.avi", &[0x5A; 5000]),
            "NotAVideo",
            "Invalid data",
        ),
        (
            ffmpeg(&dir, "a.wav", &sine),
            "NotAVideo",
            "without a video stream",
        ),
        (
            ffmpeg(&dir, "a.mka", &sine),
            "NotAVideo",
            "without a video stream",
        ),
        (
            written("no.mjpeg", b"\xFF\xD8\xFF\xE0no"),
            "Damaged",
            "no JPEG",
        ),
        ("rtsp://10.0.0.1/s".into(), "Unsupported", "network streams"),
        ("/dev/video0".into(), "Unsupported", "cameras"),
        ("synthetic:".into(), "Unsupported", "not supported yet"),
        (String::new(), "Unsupported", "empty"),
    ] {
        let error = refused(&uri);
        let text = error.to_string();
        assert!(format!("{error:?}").starts_with(kind), "{uri}: {error:?}");
        assert!(text.contains(says), "{uri}: {text}");
        assert!(text.contains(uri.trim_end_matches("/.")), "{text}");
        assert!(text.lines().count() == 1 && text.len() < 1200, "{text}");
    }
}

#[test]
fn a_truncated_file_gives_every_frame_before_the_cut_and_then_says_so() {
    let dir = TempDir::new().unwrap();
    let cut = |file: &str, out: &str, bytes: usize| {
        let path = dir.path().join(out);
        std::fs::write(&path, &std::fs::read(file).unwrap()[..bytes]).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (avi, mp4) = (
        asset("videos/vtest.avi"),
        asset("videos/carphone_pristine.mp4"),
    );
    // The index first, so that the cut takes pictures and not the index.
    let args = ["-i", &mp4, "-c", "copy", "-movflags", "+faststart"];
    let mp4_first = ffmpeg(&dir, "first.mp4", &args);
    let mkv = ffmpeg(&dir, "whole.mkv", &["-i", &mp4, "-c", "copy"]);
    for (whole_file, name, bytes, at_least) in [
        (&avi, "t.avi", 4_000_000, 380),
        (&mp4_first, "t.mp4", 300_000, 50),
        (&mkv, "t.mkv", 300_000, 50),
    ] {
        let got = of_file(&cut(whole_file, name, bytes));
        let good = of_file(whole_file);
        let error = got.end.unwrap_err();
        let SourceError::Damaged {
            frames_delivered, ..
        } = &error
        else {
            panic!("{name}: {error:?}");
        };
        assert_eq!(*frames_delivered, got.ids.len() as u64, "{name}");
        assert!(
            got.ids.len() >= at_least && got.ids.len() < good.ids.len(),
            "{name}"
        );
        // Some of the last pictures hang on what is cut off; all before are the whole file's.
        let same = got.hashes.len() - 4;
        assert!(got.hashes[..same] == good.hashes[..same], "{name}");
        assert_eq!(got.times[..same], good.times[..same], "{name}");
    }
    let no_index = refused(&cut(&mp4, "noindex.mp4", 60_000));
    assert!(
        matches!(
            no_index,
            SourceError::Damaged {
                frames_delivered: 0,
                ..
            }
        ),
        "{no_index:?}"
    );
}

#[test]
fn an_avi_cut_between_two_pictures_is_damaged_too() {
    // ffmpeg finds nothing wrong with it: the RIFF length does.
    let dir = TempDir::new().unwrap();
    let whole_file = std::fs::read(asset("videos/vtest.avi")).unwrap();
    let starts: Vec<usize> = whole_file
        .windows(4)
        .enumerate()
        .filter(|(_, w)| *w == b"00dc")
        .map(|(i, _)| i)
        .collect();
    let file = dir.path().join("t.avi");
    std::fs::write(&file, &whole_file[..starts[20]]).unwrap();
    let got = of_file(file.to_str().unwrap());
    assert_eq!(got.ids.len(), 20);
    let error = got.end.unwrap_err().to_string();
    assert!(
        error.contains("cut off") && error.contains("20 frames were delivered"),
        "{error}"
    );
}

#[test]
fn a_file_with_wrong_bits_ends_in_an_error_and_not_in_end() {
    let dir = TempDir::new().unwrap();
    for (file, out) in [
        ("videos/vtest.avi", "f.avi"),
        ("videos/carphone_pristine.mp4", "f.mp4"),
    ] {
        let mut bytes = std::fs::read(asset(file)).unwrap();
        let third = bytes.len() / 3;
        for k in 0..40_usize {
            bytes[third + k * (third / 41)] ^= 1 << (k % 8);
        }
        let path = dir.path().join(out);
        std::fs::write(&path, &bytes).unwrap();
        let got = of_file(path.to_str().unwrap());
        let error = got.end.unwrap_err();
        assert!(matches!(error, SourceError::Damaged { .. }), "{error:?}");
        assert!(got.ids.len() >= 30, "{out}: only {} frames", got.ids.len());
    }
}

#[test]
fn no_mutilated_file_hangs_or_panics() {
    let dir = TempDir::new().unwrap();
    let args = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=64x64:rate=10",
        "-frames:v",
        "12",
    ];
    for out in ["m.mp4", "m.avi", "m.mkv", "m.mjpeg"] {
        let good = std::fs::read(ffmpeg(&dir, out, &args)).unwrap();
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        for round in 0..6 {
            let mut bytes = good.clone();
            for _ in 0..=round * 4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 11) as u8;
            }
            let path = dir.path().join(format!("bad-{out}"));
            std::fs::write(&path, &bytes).unwrap();
            let opts = SourceOptions::new(name(), path.to_str().unwrap());
            let Ok(mut source) = open(&opts, Arc::new(ManualClock::default())) else {
                continue;
            };
            let (mut pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
            let mut events = 0;
            loop {
                match source.next(&pool, &stop) {
                    Ok(SourceEvent::End(_)) | Err(_) => break,
                    Ok(SourceEvent::NewFormat(info)) => pool = pool_for(&info, 2),
                    Ok(_) => {}
                }
                events += 1;
                assert!(events < 1000, "{out} round {round} does not end");
            }
        }
    }
}

#[test]
fn a_missing_ffmpeg_is_named_with_its_package() {
    let file = asset("videos/tree.avi");
    let tools = [("no-such-ffmpeg", "ffprobe"), ("ffmpeg", "no-such-ffprobe")];
    for ((ffmpeg, ffprobe), program) in tools.into_iter().zip(["ffmpeg", "ffprobe"]) {
        let tools = Tools {
            ffmpeg: ffmpeg.into(),
            ffprobe: ffprobe.into(),
        };
        let Err(error) = FfmpegPictures::open_with(tools, Path::new(&file), 1, b"RIFF") else {
            panic!("it was found");
        };
        assert!(
            matches!(error, SourceError::FfmpegMissing { .. }),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&format!("`{program}`")) && text.contains("apt install ffmpeg"),
            "{text}"
        );
    }
}

#[test]
fn a_decoder_that_dies_is_not_taken_for_a_damaged_file() {
    let dir = TempDir::new().unwrap();
    let file = asset("videos/vtest.avi");
    // Writes the beginning of the stream and is killed.
    let script = dir.path().join("dying-ffmpeg");
    let text = "#!/bin/sh\nffmpeg \"$@\" | head -c 3000000\nkill -KILL $$\n";
    std::fs::File::create(&script)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let chmod = Command::new("chmod")
        .arg("+x")
        .arg(&script)
        .status()
        .unwrap();
    assert!(chmod.success());
    let tools = Tools {
        ffmpeg: script.into(),
        ffprobe: "ffprobe".into(),
    };
    let pictures = FfmpegPictures::open_with(tools, Path::new(&file), 1, b"RIFF").unwrap();
    let opts = SourceOptions::new(name(), &file);
    let clock = Arc::new(ManualClock::default());
    let mut source = file::FileSource::new(&opts, file.into(), clock, pictures);
    let got = whole(&mut source);
    assert_eq!(got.ids, [0, 1, 2, 3]);
    let error = got.end.unwrap_err();
    assert!(
        matches!(
            error,
            SourceError::Decoder {
                frames_delivered: 4,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("signal: 9"), "{error}");
}

fn children_of_this_process() -> Vec<String> {
    let me = std::process::id().to_string();
    let out = Command::new("ps")
        .args(["--ppid", &me, "-o", "stat=,args="])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_source_dropped_half_way_leaves_no_child() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("dropped-half-way.avi");
    std::fs::copy(asset("videos/vtest.avi"), &file).unwrap();
    let mut source = opened(&SourceOptions::new(name(), file.to_str().unwrap()));
    let (pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
    assert!(matches!(
        source.next(&pool, &stop),
        Ok(SourceEvent::Frame(_))
    ));
    let ours = |lines: Vec<String>| {
        lines
            .iter()
            .filter(|l| l.contains("dropped-half-way"))
            .count()
    };
    assert_eq!(ours(children_of_this_process()), 1);
    drop(source);
    assert_eq!(
        ours(children_of_this_process()),
        0,
        "neither running nor a zombie"
    );
}

#[test]
fn a_source_as_fast_as_possible_waits_for_a_slot_and_stops_when_asked() {
    let mut source = opened(&SourceOptions::new(name(), asset("videos/tree.avi")));
    let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
    let Ok(SourceEvent::Frame(held)) = source.next(&pool, &stop) else {
        panic!("no frame");
    };
    let waiting = std::thread::spawn({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || {
            let event = source.next(&pool, &stop);
            (source, event)
        }
    });
    drop(held);
    let (mut source, event) = waiting.join().unwrap();
    let Ok(SourceEvent::Frame(held)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(held.meta().frame_id, 1, "nothing was dropped");
    let waiting = std::thread::spawn({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || source.next(&pool, &stop).map(|e| format!("{e:?}"))
    });
    stop.stop();
    assert_eq!(waiting.join().unwrap().unwrap(), "Stopped");
    drop(held);
}

#[test]
fn a_realtime_source_without_a_free_slot_drops_counts_and_goes_on() {
    let opts = SourceOptions {
        realtime: true,
        ..SourceOptions::new(name(), asset("videos/vtest.avi"))
    };
    // Always late: nothing waits, every picture is due at once.
    struct Late(std::sync::atomic::AtomicI64);
    impl Clock for Late {
        fn now_ns(&self) -> i64 {
            self.0
                .fetch_add(3_600 * NS_PER_S, std::sync::atomic::Ordering::SeqCst)
        }
    }
    let clock = Arc::new(Late(std::sync::atomic::AtomicI64::new(0)));
    let mut source = open(&opts, clock).unwrap();
    let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
    let Ok(SourceEvent::Frame(held)) = source.next(&pool, &stop) else {
        panic!("no frame");
    };
    let mut lost = 0;
    // The pool is exhausted: an open gap is reported each second of source time.
    for _ in 0..3 {
        match source.next(&pool, &stop).unwrap() {
            SourceEvent::Gap(gap) => {
                assert_eq!(gap.cause, GapCause::PoolExhausted);
                assert_eq!(gap.lost, 10, "{gap:?}");
                assert_eq!(
                    (gap.from_ns, gap.to_ns),
                    (lost * NS_PER_S / 10, (lost + 10) * NS_PER_S / 10)
                );
                lost += 10;
            }
            other => panic!("{other:?}"),
        }
    }
    drop(held);
    let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
        panic!("no frame after the gap");
    };
    assert_eq!(
        frame.meta().frame_id,
        31,
        "every lost picture has used up its number"
    );
    assert_eq!(frame.meta().t_ns, 31 * NS_PER_S / 10);
}

#[test]
fn a_gap_comes_before_the_frame_that_follows_it() {
    let opts = SourceOptions {
        realtime: true,
        ..SourceOptions::new(name(), asset("videos/vtest.avi"))
    };
    let clock = Arc::new(ManualClock::default());
    let mut source = open(&opts, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
    let Ok(SourceEvent::Frame(held)) = source.next(&pool, &stop) else {
        panic!("no frame");
    };
    // Frames 1 to 3 are due, 4 is not; without a slot they are lost.
    clock.advance(300 * NS_PER_MS);
    let next = std::thread::spawn({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || {
            let event = source.next(&pool, &stop);
            (source, event)
        }
    });
    while pool.stats().exhausted < 3 {
        std::thread::yield_now();
    }
    drop(held);
    clock.advance(100 * NS_PER_MS);
    let (mut source, event) = next.join().unwrap();
    let Ok(SourceEvent::Gap(gap)) = event else {
        panic!("{event:?}");
    };
    let want = Gap {
        lost: 3,
        from_ns: 0,
        to_ns: 400 * NS_PER_MS,
        cause: GapCause::PoolExhausted,
    };
    assert_eq!(gap, want);
    let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
        panic!("no frame after the gap");
    };
    assert_eq!(
        (frame.meta().frame_id, frame.meta().t_ns),
        (4, 400 * NS_PER_MS)
    );
}

#[test]
fn a_realtime_source_is_paced_by_its_times_on_the_clock_it_is_given() {
    let opts = SourceOptions {
        realtime: true,
        ..SourceOptions::new(name(), asset("videos/vtest.avi"))
    };
    let clock = Arc::new(MonotonicClock::new());
    let mut source = open(&opts, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let (pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
    let mut first = None;
    for _ in 0..8 {
        let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
            panic!("no frame");
        };
        let now = clock.now_ns();
        let first = *first.get_or_insert(now);
        // Never early; how late depends on the machine. The anchor is taken before the first
        // frame is read, so the first itself is late by as much.
        assert!(
            now - first + 20 * NS_PER_MS >= frame.meta().t_ns,
            "{}",
            frame.meta().frame_id
        );
    }
}

#[test]
fn a_pool_of_another_format_is_refused() {
    let mut source = opened(&SourceOptions::new(name(), asset("videos/tree.avi")));
    let other = SourceInfo {
        layout: ImageLayout::packed(PixelFormat::I420, 64, 64, Default::default()),
        ..source.info().clone()
    };
    let error = source
        .next(&pool_for(&other, 1), &StopFlag::new())
        .unwrap_err();
    assert!(
        matches!(
            error,
            SourceError::Slot {
                need: 115_200,
                have: 6_144,
                ..
            }
        ),
        "{error:?}"
    );
}

/// JPEGs of a test pattern, one after the other.
fn jpegs(dir: &TempDir, out: &str, pix_fmt: &str, size: &str) -> String {
    let input = format!("testsrc2=size={size}:rate=25");
    let args = [
        "-f",
        "lavfi",
        "-i",
        &input,
        "-frames:v",
        "6",
        "-pix_fmt",
        pix_fmt,
    ];
    ffmpeg(
        dir,
        out,
        &[&args[..], &["-c:v", "mjpeg", "-q:v", "3", "-f", "mjpeg"]].concat(),
    )
}

#[test]
fn bare_jpegs_are_decoded_here_as_ffmpeg_decodes_them() {
    let dir = TempDir::new().unwrap();
    let file = jpegs(&dir, "a.mjpeg", "yuvj420p", "96x64");
    let mut source = opened(&SourceOptions {
        fps: Some(30.0),
        ..SourceOptions::new(name(), &file)
    });
    let info = source.info().clone();
    assert_eq!(info.description, "libjpeg-turbo mjpeg 96x64 30 fps");
    assert_eq!(
        (info.layout.format, info.layout.color.range),
        (PixelFormat::I420, ColorRange::Full)
    );
    let raw = Command::new("ffmpeg")
        .args([
            "-v", "error", "-nostdin", "-i", &file, "-f", "rawvideo", "-pix_fmt", "yuvj420p",
            "pipe:1",
        ])
        .output()
        .unwrap()
        .stdout;
    let (pool, stop) = (pool_for(&info, 1), StopFlag::new());
    for (i, want) in raw.chunks_exact(info.layout.bytes()).enumerate() {
        let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
            panic!("no frame {i}");
        };
        assert_eq!(frame.meta().t_ns, (i as f64 * 1e9 / 30.0).round() as i64);
        // Two inverse DCTs may round a sample differently (T.83 allows it), never by more.
        let worst = frame
            .pixels()
            .iter()
            .zip(want)
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(worst <= Some(2), "frame {i}: {worst:?}");
    }
    assert_eq!(pool.stats().copies, 0, "decoded straight into the slot");
    assert!(matches!(source.next(&pool, &stop), Ok(SourceEvent::End(_))));
    let default = opened(&SourceOptions::new(name(), &file));
    assert_eq!(default.info().nominal_fps, Some(25.0));
}

#[test]
fn other_samplings_and_odd_sides_become_the_same_picture_in_420() {
    use turbojpeg::Subsamp;
    let dir = TempDir::new().unwrap();
    for (subsamp, (width, height)) in [
        (Subsamp::Sub2x1, (96, 64)),
        (Subsamp::None, (96, 64)),
        (Subsamp::Sub1x2, (96, 64)),
        (Subsamp::Sub4x1, (96, 64)),
        (Subsamp::Sub2x2, (95, 63)),
        (Subsamp::None, (33, 1)),
        (Subsamp::Gray, (95, 63)),
    ] {
        let pixels: Vec<u8> = (0..width * height)
            .flat_map(|i| {
                let (x, y) = (i % width, i / width);
                [20 + 2 * x, 200 - 2 * y, 60 + x + y].map(|v| v as u8)
            })
            .collect();
        let image = turbojpeg::Image {
            pixels: &pixels[..],
            width,
            pitch: width * 3,
            height,
            format: turbojpeg::PixelFormat::RGB,
        };
        let jpeg = turbojpeg::compress(image, 95, subsamp).unwrap();
        let file = dir.path().join("one.mjpg");
        std::fs::write(&file, &jpeg[..]).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let mut source = opened(&SourceOptions::new(name(), &file));
        let info = source.info().clone();
        let grey = subsamp == Subsamp::Gray;
        assert_eq!(info.layout.format == PixelFormat::Grey, grey);
        let to = if grey { "gray" } else { "yuvj420p" };
        let raw = Command::new("ffmpeg")
            .args([
                "-v",
                "error",
                "-nostdin",
                "-i",
                &file,
                "-vf",
                "scale=flags=area",
            ])
            .args(["-f", "rawvideo", "-pix_fmt", to, "pipe:1"])
            .output()
            .unwrap()
            .stdout;
        let (pool, stop) = (pool_for(&info, 1), StopFlag::new());
        let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
            panic!("no frame");
        };
        let want = &raw[..info.layout.bytes()];
        let sum: u64 = frame
            .pixels()
            .iter()
            .zip(want)
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        let mean = sum as f64 / want.len() as f64;
        assert!(
            mean < 1.0,
            "{subsamp:?} {width}x{height}: mean difference {mean}"
        );
    }
}

#[test]
fn a_broken_jpeg_costs_one_frame_and_is_said_at_the_end() {
    let dir = TempDir::new().unwrap();
    let file = jpegs(&dir, "a.mjpeg", "yuvj420p", "96x64");
    let good = of_file(&file);
    let bytes = std::fs::read(&file).unwrap();
    let starts: Vec<usize> = bytes
        .windows(3)
        .enumerate()
        .filter(|(_, w)| *w == [0xFF, 0xD8, 0xFF])
        .map(|(i, _)| i)
        .collect();
    assert_eq!(starts.len(), 6);
    // The third without its second half, and the last cut short.
    let half = starts[2] + (starts[3] - starts[2]) / 2;
    let broken = [&bytes[..half], &bytes[starts[3]..bytes.len() - 100]].concat();
    std::fs::write(&file, broken).unwrap();
    let got = of_file(&file);
    assert_eq!(got.ids, [0, 1, 3, 4]);
    assert_eq!(got.times, [0, 1, 3, 4].map(|i| i * 40 * NS_PER_MS));
    assert!(got.hashes == [0, 1, 3, 4].map(|i| good.hashes[i]));
    let lost: Vec<_> = got.gaps.iter().map(|g| (g.lost, g.cause)).collect();
    assert_eq!(lost, [(1, GapCause::Undecodable); 2]);
    let error = got.end.unwrap_err().to_string();
    assert!(error.contains("2 of its 6 JPEGs"), "{error}");
}

#[test]
fn a_picture_of_another_size_is_announced_before_it_comes() {
    let dir = TempDir::new().unwrap();
    let small = std::fs::read(jpegs(&dir, "a.mjpeg", "yuvj420p", "64x48")).unwrap();
    let large = std::fs::read(jpegs(&dir, "b.mjpeg", "yuvj420p", "96x64")).unwrap();
    let file = dir.path().join("c.mjpeg");
    std::fs::write(&file, [small, large].concat()).unwrap();
    let mut source = opened(&SourceOptions::new(name(), file.to_str().unwrap()));
    let (mut pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
    let mut seen = Vec::new();
    loop {
        match source.next(&pool, &stop).unwrap() {
            SourceEvent::Frame(f) => {
                seen.push((f.meta().frame_id, f.meta().epoch, f.layout().width))
            }
            SourceEvent::NewFormat(info) => pool = pool_for(&info, 1),
            SourceEvent::End(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let want: Vec<_> = (0..12)
        .map(|i| if i < 6 { (i, 0, 64) } else { (i, 1, 96) })
        .collect();
    assert_eq!(seen, want);
}

#[test]
fn sources_can_be_opened_in_any_thread_at_the_same_time() {
    let file = asset("videos/tree.avi");
    let all: Vec<_> = (0..3)
        .map(|_| {
            let file = file.clone();
            std::thread::spawn(move || of_file(&file).hashes)
        })
        .collect();
    let all: Vec<_> = all.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(all[0] == all[1] && all[1] == all[2]);
    assert_eq!(all[0].len(), 68);
}
