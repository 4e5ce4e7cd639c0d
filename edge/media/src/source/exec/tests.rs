//! Real programs: ffmpeg as the camera, shells that misbehave.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tempfile::TempDir;
use visualpath_core::{MonotonicClock, Name};
use visualpath_frames::{FramePool, PoolSpec};

use super::*;
use crate::convert::Converter;
use crate::encode::Codec;
use crate::source::{Gap, GapCause, Needs, SourceEvent, SourceInfo};

/// Nothing here takes nearly so long.
const GUARD: Duration = Duration::from_secs(90);

fn options(uri: &str) -> SourceOptions {
    SourceOptions {
        realtime: true,
        ..SourceOptions::new(Name::new("cam0").unwrap(), uri)
    }
}

fn opened(uri: &str) -> Box<dyn Source> {
    open(&options(uri), Arc::new(MonotonicClock::new())).unwrap()
}

/// The same with less patience for a program that says nothing.
fn impatient(uri: &str) -> Box<dyn Source> {
    let opts = options(uri);
    let line = line_of(&opts, &Path::exists).unwrap();
    let owner = opts.name.as_str().to_owned();
    let source = EncodedSource::new(&opts, Arc::new(MonotonicClock::new()), Exec { owner, line });
    Box::new(source.with_start_limit(Duration::from_secs(3)))
}

fn pool_for(info: &SourceInfo) -> FramePool {
    static NEXT: AtomicU32 = AtomicU32::new(9000);
    let spec = PoolSpec {
        pool_id: NEXT.fetch_add(1, Ordering::Relaxed),
        slots: 4,
        native: info.layout,
        native_room: 0,
        views: Vec::new(),
    };
    FramePool::heap(&spec, Arc::new(Converter::new())).unwrap()
}

#[derive(Default)]
struct Seen {
    /// Number, time, epoch, pixels.
    frames: Vec<(u64, i64, u32, Vec<u8>)>,
    packets: Vec<u64>,
    gaps: Vec<Gap>,
    offline: Vec<String>,
    online: usize,
    formats: Vec<SourceInfo>,
}

/// Takes events until `enough`.
fn watch(source: &mut dyn Source, seen: &mut Seen, enough: impl Fn(&Seen) -> bool) {
    let (mut pool, stop) = (pool_for(source.info()), StopFlag::new());
    let guard = Instant::now();
    while !enough(seen) {
        assert!(
            guard.elapsed() < GUARD,
            "offline: {:?}, {} frames",
            seen.offline,
            seen.frames.len()
        );
        // So that a quiet source comes back here.
        match source.next(&pool, &stop).unwrap() {
            SourceEvent::Frame(f) => {
                let m = f.meta();
                seen.frames
                    .push((m.frame_id, m.t_ns, m.epoch, f.pixels().to_vec()));
            }
            SourceEvent::Packet(p) => seen.packets.push(p.frame_id),
            SourceEvent::Gap(gap) => seen.gaps.push(gap),
            SourceEvent::Offline(outage) => seen.offline.push(outage.detail),
            SourceEvent::Online => seen.online += 1,
            SourceEvent::NewFormat(info) => {
                pool = pool_for(&info);
                seen.formats.push(info);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn assert_dense_and_forward(seen: &Seen) {
    let lost: u64 = seen.gaps.iter().map(|g| g.lost).sum();
    let first = seen.frames[0].0;
    let last = seen.frames[seen.frames.len() - 1].0;
    assert_eq!(
        last - first + 1,
        seen.frames.len() as u64 + lost,
        "numbers and gaps add up"
    );
    assert!(
        seen.frames
            .windows(2)
            .all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1)
    );
}

const SOURCE: &str = "-f lavfi -i testsrc2=size=96x64:rate=25";

fn ffmpeg(output: &str) -> String {
    format!("exec:ffmpeg -v error -nostdin -re {SOURCE} {output} pipe:1")
}

/// The pictures that ffmpeg's pattern consists of.
fn pattern(frames: usize) -> Vec<Vec<u8>> {
    let args = format!(
        "-v error -nostdin {SOURCE} -frames:v {frames} -pix_fmt yuv420p -f rawvideo pipe:1"
    );
    let out = Command::new("ffmpeg")
        .args(args.split(' '))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "ffmpeg is needed for this test: apt install ffmpeg"
    );
    out.stdout
        .chunks(96 * 64 * 3 / 2)
        .map(<[u8]>::to_vec)
        .collect()
}

/// Mean distance of two pictures' luma.
fn distance(a: &[u8], b: &[u8]) -> f64 {
    let luma = 96 * 64;
    let sum: u64 = a[..luma]
        .iter()
        .zip(&b[..luma])
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    sum as f64 / luma as f64
}

#[test]
fn every_form_of_output_gives_its_pictures_in_order() {
    let want = pattern(40);
    let x264 = "-c:v libx264 -preset ultrafast -bf 0 -g 10 -pix_fmt yuv420p -crf 10";
    for (what, output, encoded) in [
        ("y4m", "-pix_fmt yuv420p -f yuv4mpegpipe".to_owned(), None),
        ("raw nut", "-c:v rawvideo -pix_fmt yuv420p -f nut".to_owned(), None),
        ("mjpeg", "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p -f mjpeg".to_owned(), Some(Codec::Mjpeg)),
        ("h264", format!("{x264} -f h264"), Some(Codec::H264)),
        ("h264 nut", format!("{x264} -f nut"), Some(Codec::H264)),
        ("mjpeg nut", "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p -f nut".to_owned(), Some(Codec::Mjpeg)),
        (
            "h265",
            "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=0:keyint=10:crf=10 -pix_fmt yuv420p -f hevc".to_owned(),
            Some(Codec::H265),
        ),
    ] {
        let mut source = opened(&ffmpeg(&output));
        source.adjust(&Needs { packets: true, ..Needs::default() });
        let mut seen = Seen::default();
        watch(&mut *source, &mut seen, |s| s.frames.len() >= 12);
        assert_eq!(seen.online, 1, "{what}");
        let info = &seen.formats[seen.formats.len() - 1];
        assert_eq!((info.layout.width, info.layout.height), (96, 64), "{what}");
        assert_eq!(info.encoded, encoded, "{what}");
        assert!(seen.gaps.is_empty(), "{what}: {:?}", seen.gaps);
        for (n, (id, _, _, pixels)) in seen.frames.iter().enumerate() {
            assert_eq!(*id, n as u64, "{what}");
            // Full-range forms are off by their range; the nearest picture is still the right one.
            let nearest = (0..want.len()).min_by(|a, b| distance(pixels, &want[*a]).total_cmp(&distance(pixels, &want[*b])));
            assert_eq!(nearest, Some(n), "{what}");
            if encoded.is_none() {
                assert!(*pixels == want[n], "{what} {n}");
            }
        }
        if encoded.is_some() {
            assert_eq!(seen.packets[..12], (0..12).collect::<Vec<u64>>(), "{what}");
        } else {
            assert!(seen.packets.is_empty());
        }
        assert_dense_and_forward(&seen);
        if what.ends_with("nut") {
            let steps = seen.frames.windows(2).map(|w| w[1].1 - w[0].1);
            assert!(steps.into_iter().all(|s| s == 40_000_000), "{what}: the program's own times");
        }
    }
}

/// A program that writes its number and that of a helper into `dir`, and then is the camera.
fn with_numbers(dir: &TempDir, output: &str) -> String {
    let dir = dir.path().display();
    format!(
        "exec:sh -c 'sleep 1000 & echo $! > {dir}/helper; echo $$ > {dir}/new; mv {dir}/new {dir}/main; \
         exec ffmpeg -v error -nostdin -re {SOURCE} {output} pipe:1'"
    )
}

fn number(dir: &TempDir, what: &str) -> i32 {
    let guard = Instant::now();
    loop {
        if let Ok(text) = std::fs::read_to_string(dir.path().join(what))
            && let Ok(number) = text.trim().parse()
        {
            return number;
        }
        assert!(guard.elapsed() < GUARD);
        std::thread::yield_now();
    }
}

/// Whether a process runs. One that is over and not reaped by a foreign parent does not.
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|s| s.trim_start().starts_with('Z'))
    })
}

#[test]
fn a_killed_program_is_started_again_and_numbers_and_time_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = opened(&with_numbers(&dir, "-c:v mjpeg -f mjpeg"));
    let mut seen = Seen::default();
    watch(&mut *source, &mut seen, |s| s.frames.len() >= 5);
    let first = number(&dir, "main");
    let pid = rustix::process::Pid::from_raw(first).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let before = seen.frames.len();
    watch(&mut *source, &mut seen, |s| {
        s.online >= 2 && s.frames.len() >= before + 20 && s.frames.last().is_some_and(|f| f.2 >= 1)
    });
    assert_dense_and_forward(&seen);
    assert!(seen.offline[0].contains("signal: 9"), "{:?}", seen.offline);
    assert_eq!(
        (seen.gaps[0].cause, seen.gaps[0].lost),
        (GapCause::Disconnected, 0)
    );
    assert!(
        !Path::new(&format!("/proc/{first}")).exists(),
        "the dead one is reaped"
    );
    // In the end nothing of it is left, not even what it started.
    let (main, helper) = (number(&dir, "main"), number(&dir, "helper"));
    assert_ne!(main, first);
    drop(source);
    assert!(!Path::new(&format!("/proc/{main}")).exists(), "reaped");
    assert!(!runs(helper), "what it started is ended, too");
}

#[test]
fn a_program_that_stops_giving_pictures_is_killed_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = opened(&with_numbers(&dir, "-pix_fmt yuv420p -f yuv4mpegpipe"));
    let mut seen = Seen::default();
    watch(&mut *source, &mut seen, |s| s.frames.len() >= 5);
    let first = number(&dir, "main");
    let pid = rustix::process::Pid::from_raw(first).unwrap();
    // It is there and does nothing, not even on SIGTERM.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    watch(&mut *source, &mut seen, |s| {
        s.online >= 2 && s.frames.last().is_some_and(|f| f.2 >= 1)
    });
    assert!(
        !Path::new(&format!("/proc/{first}")).exists(),
        "killed and reaped"
    );
    assert_dense_and_forward(&seen);
    assert_eq!(seen.offline.len(), 1, "{:?}", seen.offline);
}

#[test]
fn garbage_is_named_and_tried_again_with_growing_waits() {
    let mut source = opened("exec:sh -c 'echo what a beautiful day; sleep 1000'");
    let mut seen = Seen::default();
    watch(&mut *source, &mut seen, |s| !s.offline.is_empty());
    let said = &seen.offline[0];
    assert!(
        said.contains("what a beaut") && said.contains("exec sh"),
        "{said}"
    );
    assert!(seen.frames.is_empty() && seen.gaps.is_empty() && seen.online == 0);
}

#[test]
fn a_program_that_ends_at_once_is_not_started_in_a_busy_loop() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("starts");
    let uri = format!(
        "exec:sh -c 'echo x >> {}; echo no camera $$ >&2; exit 3'",
        log.display()
    );
    let mut source = opened(&uri);
    let since = Instant::now();
    let mut seen = Seen::default();
    watch(&mut *source, &mut seen, |s| s.offline.len() >= 4);
    // 0.5 s, 1 s, 2 s, each a quarter less at most.
    assert!(since.elapsed() >= Duration::from_millis(2625));
    assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 4);
    assert!(
        seen.offline[0].contains("no camera") && seen.offline[0].contains("exit status: 3"),
        "{:?}",
        seen.offline
    );
}

#[test]
fn a_program_that_writes_nothing_is_given_up_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("starts");
    // The third one works.
    let uri = format!(
        "exec:sh -c 'echo x >> {log}; if [ $(wc -l < {log}) -lt 3 ]; then exec sleep 1000; fi; \
         exec ffmpeg -v error -nostdin -re {SOURCE} -c:v mjpeg -f mjpeg pipe:1'",
        log = log.display()
    );
    let mut source = impatient(&uri);
    let mut seen = Seen::default();
    watch(&mut *source, &mut seen, |s| !s.frames.is_empty());
    assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 3);
    assert!(
        seen.offline[0].contains("nothing for"),
        "{:?}",
        seen.offline
    );
    assert!(seen.gaps.is_empty(), "nothing was lost that had begun");
}

#[test]
fn a_stop_ends_the_program_and_a_program_that_floods_stderr_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let pidfile = dir.path().join("main");
    let uri = format!(
        "exec:sh -c 'echo $$ > {}; i=0; while [ $i -lt 3000 ]; do echo \"line $i of much too much talk, more than a pipe takes\" >&2; i=$((i+1)); done; \
         exec ffmpeg -v error -nostdin -re {SOURCE} -c:v mjpeg -f mjpeg pipe:1'",
        pidfile.display()
    );
    let mut source = opened(&uri);
    let mut seen = Seen::default();
    watch(&mut *source, &mut seen, |s| s.frames.len() >= 2);
    let stop = StopFlag::new();
    stop.stop();
    let pool = pool_for(source.info());
    assert!(matches!(
        source.next(&pool, &stop),
        Ok(SourceEvent::Stopped)
    ));
    let pid = number(&dir, "main");
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "closed with Stopped"
    );
    assert!(matches!(source.next(&pool, &stop), Ok(SourceEvent::End(_))));
}

#[test]
fn a_command_that_can_not_run_is_refused_at_once_with_the_cure() {
    for (uri, says) in [
        ("exec:", "no command"),
        (
            "exec:no-such-camera-program --x",
            "`no-such-camera-program` was not found",
        ),
        ("exec:/etc/passwd", "may not be executed"),
        ("exec:/etc", "is a directory"),
        ("exec:sh -c 'a", "is not closed"),
        ("libcamera:front", "no camera number"),
    ] {
        let e = open(&options(uri), Arc::new(MonotonicClock::new())).err();
        let text = e.map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains(says), "{uri}: {text}");
    }
}
