//! What is made of a clip afterwards: a still, and a copy that plays in a browser.
#![allow(clippy::unwrap_used, reason = "a test")]

mod clip_support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clip_support::{Bench, Camera, decode, files, read_number, request, sample_times_us};
use visualpath_media::clip::{After, Beside, ClipState, ReadyClip};
use visualpath_media::encode::{EncoderKind, H264Options};

const STEP: i64 = 40_000_000;

fn at(picture: u64) -> i64 {
    i64::try_from(picture).unwrap() * STEP
}

/// A clip of pictures 20 to 80 whose event is at 50, of this codec.
fn clip(codec: EncoderKind) -> (Bench, ReadyClip) {
    let camera = Camera::new();
    let bench = Bench::start("cam0", |o| o.codec = codec);
    for n in 0..100 {
        bench.offer(camera.frame(n, at(n)));
    }
    bench.lane.request(request(1, at(50), at(30), at(30)));
    let ready = bench.ready();
    (bench, ready)
}

fn beside(bench: &Bench, ready: &ReadyClip, ending: &str) -> PathBuf {
    bench.path(ready).with_extension(ending)
}

/// Waits for a file.
fn until(path: &Path) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !path.exists() {
        assert!(Instant::now() < patience, "no {}", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The number drawn into a JPEG.
fn number_in(jpeg: &Path) -> u64 {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(jpeg)
        .args(["-f", "rawvideo", "-pix_fmt", "gray", "-"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    read_number(&out.stdout)
}

const BOTH: Beside = Beside {
    still: true,
    copy: true,
};

#[test]
fn a_still_shows_the_picture_of_the_event() {
    for codec in [EncoderKind::H264, EncoderKind::Mjpeg] {
        let (bench, ready) = clip(codec);
        let after = After::start(&bench.store, BOTH, H264Options::default()).unwrap();
        let still = beside(&bench, &ready, "jpg");
        until(&still);
        assert_eq!(number_in(&still), 50, "{codec:?}");
        drop(after);
    }
}

#[test]
fn a_clip_that_no_browser_plays_has_a_copy_with_the_same_pictures_at_the_same_times() {
    let (bench, ready) = clip(EncoderKind::Mjpeg);
    let after = After::start(&bench.store, BOTH, H264Options::default()).unwrap();
    let copy = beside(&bench, &ready, "h264.mp4");
    until(&copy);
    drop(after);
    let shown: Vec<u64> = (20..=80).collect();
    assert_eq!(decode(&bench.path(&ready), true), shown);
    assert_eq!(decode(&copy, true), shown);
    let from_first = |times: Vec<i64>| -> Vec<i64> { times.iter().map(|t| t - times[0]).collect() };
    let clip_times = from_first(sample_times_us(&bench.path(&ready)));
    assert_eq!(
        from_first(sample_times_us(&copy)),
        clip_times[..shown.len()]
    );
    let told = bench.store.playable(&ready, BOTH).unwrap();
    assert!(copy.ends_with(told.rsplit('/').next().unwrap()), "{told}");
    assert!(files(bench.dir.path(), ".part").is_empty());
    // What is there is counted.
    let there: u64 = files(&bench.dir.path().join("clips"), "")
        .iter()
        .filter(|p| !p.ends_with(".lock"))
        .map(|p| p.metadata().unwrap().len())
        .sum();
    assert_eq!(bench.store.bytes(), there);
}

#[test]
fn a_clip_that_plays_has_no_copy_and_says_so() {
    let (bench, ready) = clip(EncoderKind::H264);
    let after = After::start(&bench.store, BOTH, H264Options::default()).unwrap();
    until(&beside(&bench, &ready, "jpg"));
    drop(after);
    assert!(files(bench.dir.path(), ".h264.mp4").is_empty());
    assert_eq!(bench.store.playable(&ready, BOTH), Some(ready.file.clone()));
    let none = Beside::default();
    let (_, mjpeg) = clip(EncoderKind::Mjpeg);
    assert_eq!(bench.store.playable(&mjpeg, none), None);
}

#[test]
fn what_a_stop_left_undone_is_done_after_the_next_start() {
    let (bench, ready) = clip(EncoderKind::Mjpeg);
    // Half a copy, of a process that was killed.
    let part = beside(&bench, &ready, "h264.mp4.part");
    std::fs::write(&part, b"half").unwrap();
    let unheard = bench.store.take_over().unwrap();
    assert!(unheard.is_empty(), "{unheard:?}");
    let there = files(bench.dir.path(), "");
    assert!(!part.exists(), "{} {there:?}", part.display());
    let after = After::start(&bench.store, BOTH, H264Options::default()).unwrap();
    until(&beside(&bench, &ready, "h264.mp4"));
    drop(after);
    // And when the clip goes, so do they.
    bench.store.delete(&clip_id(&bench)).unwrap();
    let left = files(&bench.dir.path().join("clips"), "");
    let left: Vec<_> = left.iter().filter(|p| !p.ends_with(".lock")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(bench.store.bytes(), 0);
}

fn clip_id(bench: &Bench) -> String {
    let entries = Arc::clone(&bench.store).entries().unwrap();
    let entry = entries.first().unwrap();
    assert!(matches!(
        entry.result.as_ref().map(|r| &r.state),
        Some(ClipState::Ready(_))
    ));
    entry.id.clone()
}
