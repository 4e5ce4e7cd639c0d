//! What is made of a clip afterwards: a still, and a copy that plays in a browser.
#![allow(clippy::unwrap_used, reason = "a test")]

mod clip_support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clip_support::streams::{h264, h265, jittered, pass};
use clip_support::{
    Bench, Camera, decode, files, grey, read_number, ready, request, sample_times_us, uuid,
};
use visualpath_media::clip::{After, Beside, ClipState, ClipStore, ReadyClip};
use visualpath_media::encode::{EncoderKind, H264Options};

const STEP: i64 = 40_000_000;

fn at(picture: u64) -> i64 {
    i64::try_from(picture).unwrap() * STEP
}

/// A clip of pictures 20 to 80 whose event is at 50, of this codec.
fn clip(codec: EncoderKind) -> (Bench, ReadyClip) {
    clip_seen_best(codec, None)
}

/// The same; it is said to be seen best in that picture.
fn clip_seen_best(codec: EncoderKind, best: Option<u64>) -> (Bench, ReadyClip) {
    let camera = Camera::new();
    let bench = Bench::start("cam0", |o| o.codec = codec);
    for n in 0..100 {
        bench.offer(camera.frame(n, at(n)));
    }
    let mut asked = request(1, at(50), at(30), at(30));
    asked.best_ns = best.map(at);
    bench.lane.request(asked);
    let ready = bench.ready();
    (bench, ready)
}

/// What the clip's still shows.
fn still_of(bench: &Bench, ready: &ReadyClip) -> u64 {
    let after = After::start(&bench.store, BOTH, H264Options::default()).unwrap();
    let still = beside(bench, ready, "jpg");
    until(&still);
    drop(after);
    let told = bench.store.still(ready, BOTH).unwrap();
    assert_eq!(bench.dir.path().join(told), still);
    number_in(&still)
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
    read_number(&grey(jpeg, &[]))
}

const BOTH: Beside = Beside {
    still: true,
    copy: true,
};

#[test]
fn a_still_shows_the_best_picture_or_the_nearest_to_it_in_the_clip() {
    for codec in [EncoderKind::H264, EncoderKind::Mjpeg] {
        // Nobody says which: the event's first. One before the clip: its first. One after: its last.
        let cases = [
            (None, 50),
            (Some(20), 20),
            (Some(63), 63),
            (Some(5), 20),
            (Some(95), 80),
        ];
        for (best, shows) in cases {
            let (bench, ready) = clip_seen_best(codec, best);
            assert_eq!(ready.still_ns, Some(at(shows)), "{codec:?} {best:?}");
            assert_eq!(still_of(&bench, &ready), shows, "{codec:?} {best:?}");
        }
    }
    let (bench, ready) = clip(EncoderKind::Mjpeg);
    assert_eq!(bench.store.still(&ready, Beside::default()), None);
}

#[test]
fn the_still_of_a_range_is_that_of_all_of_it() {
    for codec in [EncoderKind::H264, EncoderKind::Mjpeg] {
        let camera = Camera::new();
        let bench = Bench::start("cam0", |o| o.codec = codec);
        let mut asked = request(1, at(50), at(30), at(1000));
        asked.best_ns = Some(at(52));
        bench.lane.request(asked.clone());
        for n in 0..100 {
            bench.offer(camera.frame(n, at(n)));
        }
        bench.settle();
        bench.lane.set_end(&asked.id, at(80), Some(at(71)));
        let ready = bench.ready();
        assert_eq!((ready.end_ns, ready.still_ns), (at(80), Some(at(71))));
        assert_eq!(still_of(&bench, &ready), 71, "{codec:?}");
    }
}

/// Copies what is on the disk now, as a crash would leave it.
fn as_after_a_crash(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => as_after_a_crash(&path, &to),
            false => drop(std::fs::copy(&path, &to).unwrap()),
        }
    }
}

#[test]
fn after_a_crash_the_still_and_the_end_are_those_of_the_whole_range() {
    for codec in [EncoderKind::H264, EncoderKind::Mjpeg] {
        let camera = Camera::new();
        let bench = Bench::start("cam0", |o| o.codec = codec);
        assert_eq!(bench.store.take_over().unwrap(), []);
        let mut asked = request(1, at(50), at(30), at(9000));
        asked.best_ns = Some(at(52));
        bench.lane.announce(&asked);
        bench.lane.request(asked.clone());
        for n in 0..160 {
            bench.offer(camera.frame(n, at(n)));
        }
        bench.settle();
        // It ends at a picture that has not come yet.
        bench.lane.set_end(&asked.id, at(400), Some(at(71)));
        let dir = tempfile::tempdir().unwrap();
        as_after_a_crash(bench.dir.path(), dir.path());
        let store = ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
        let unheard = store.take_over().unwrap();
        assert_eq!(unheard.len(), 1, "{unheard:?}");
        let told = unheard.into_iter().next().unwrap();
        let ready = ready(told.result);
        assert!(ready.partial, "{ready:?}");
        assert_eq!(
            (ready.asked_end_ns, ready.still_ns),
            (at(400), Some(at(71)))
        );
        let short_ns = at(400) - ready.end_ns;
        assert!((ready.short_post_ms - short_ns as f64 / 1e6).abs() < 0.001);
        let after = After::start(&store, BOTH, H264Options::default()).unwrap();
        let still = dir.path().join(store.still(&ready, BOTH).unwrap());
        until(&still);
        drop(after);
        assert_eq!(number_in(&still), 71, "{codec:?}");
    }
}

#[test]
fn every_picture_of_a_stream_with_b_pictures_can_be_the_still() {
    let streams = [
        h264(60, &["-bf", "3", "-b_strategy", "0"]),
        h265(60, "bframes=3:b-adapt=0:open-gop=0"),
        // Pictures that are shown before the key picture they follow, and need the GOP before it.
        h265(60, "bframes=3:b-adapt=0:open-gop=1"),
    ];
    for (i, stream) in streams.iter().enumerate() {
        let bench = Bench::start("cam0", |o| o.gop_s = 0.5);
        let packets = stream.packets();
        let wanted = [23, 26, 28, 29, 30, 31, 33, 46, 47];
        for (n, best) in (0..).zip(wanted) {
            let mut asked = request(n, jittered(35), 0, 0);
            (asked.start_ns, asked.end_ns) = (jittered(23), jittered(47));
            asked.best_ns = Some(jittered(best));
            bench.lane.request(asked);
        }
        pass(&bench, &packets);
        let after = After::start(&bench.store, BOTH, H264Options::default()).unwrap();
        for _ in wanted {
            let result = bench.result();
            let id = result.id.clone();
            after.add(&result);
            let n = (0..).zip(wanted).find(|(n, _)| uuid(*n) == id).unwrap().1;
            let ready = ready(result);
            assert_eq!(ready.still_ns, Some(jittered(n)), "stream {i}");
            let still = beside(&bench, &ready, "jpg");
            until(&still);
            assert_eq!(number_in(&still), n as u64, "stream {i}");
        }
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
