//! One result for every request, and every shortfall a field of it, when things go wrong.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod clip_support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clip_support::*;
use crossbeam_channel::{Receiver, Sender, unbounded};
use sha2::{Digest, Sha256};
use visualpath_core::{FrameMeta, ManualClock, NS_PER_MS, NS_PER_S, PixelFormat};
use visualpath_media::clip::{
    ClipEnd, ClipResult, ClipStore, EvidenceLane, Finish, LaneOptions, Offered, ShortPre,
};
use visualpath_media::encode::{EncodeError, Encoder, EncoderOptions, OpenH264, Packet};
use visualpath_media::ring::GapCause;

const LONG: Duration = Duration::from_secs(120);
/// 25 frames per second.
const STEP: i64 = 40 * NS_PER_MS;

fn at(i: u64) -> i64 {
    i64::try_from(i).unwrap() * STEP
}

fn offer_all(bench: &Bench, camera: &Camera, ids: std::ops::Range<u64>) {
    for i in ids {
        bench.offer(camera.frame(i, at(i)));
    }
}

#[test]
fn overlapping_triggers_get_a_clip_each_under_names_of_their_own() {
    let (camera, bench) = (Camera::new(), Bench::start("cam0", |_| {}));
    offer_all(&bench, &camera, 0..30);
    let asked: Vec<_> = (0..4).map(|n| request(n, at(20), at(10), at(10))).collect();
    for (n, r) in asked.iter().enumerate() {
        let mut r = r.clone();
        // The same second, path and label; two of them even with the same last 8 digits.
        r.wall_ns = WALL_NS;
        if n == 3 {
            r.id = uuid(2).replacen("01938f3c", "01938f3d", 1);
        }
        bench.lane.request(r);
    }
    offer_all(&bench, &camera, 30..40);
    let clips: Vec<_> = (0..4).map(|_| bench.ready()).collect();
    let mut names: Vec<&str> = clips.iter().map(|c| c.file.as_str()).collect();
    names.sort_unstable();
    let stem = "clips/2026-11-22/200000Z_entrance_visitor_0000000";
    let wanted = ["0.mp4", "1.mp4", "2.mp4", "2_2.mp4"].map(|n| format!("{stem}{n}"));
    assert_eq!(names, wanted);
    for clip in &clips {
        let shown: Vec<u64> = (10..=30).collect();
        assert_eq!(decode(&bench.path(clip), true), shown);
    }
}

#[test]
fn the_sidecar_says_what_the_result_says_and_the_hash_is_the_files() {
    let (camera, bench) = (Camera::new(), Bench::start("cam0", |_| {}));
    offer_all(&bench, &camera, 0..20);
    bench.lane.request(request(7, at(10), at(5), at(5)));
    let result = bench.result();
    let clip = ready(result.clone());
    let file = std::fs::read(bench.path(&clip)).unwrap();
    assert_eq!(clip.bytes, file.len() as u64);
    let digest: String = Sha256::digest(&file)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(clip.sha256, digest);

    let text = std::fs::read_to_string(bench.path(&clip).with_extension("json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["schema"], "visualpath.clip/1");
    assert_eq!(json["state"], "ready");
    assert_eq!(json["time"], "2026-11-22T20:00:00.4Z");
    let read: ClipResult = serde_json::from_str(&text).unwrap();
    assert_eq!(read, result);
    // Everything is counted, to the byte.
    assert_eq!(bench.store.bytes(), clip.bytes + text.len() as u64);
    // A store that is opened again counts the same.
    let again = ClipStore::open(bench.dir.path(), "clips", 1 << 30).unwrap();
    assert_eq!(again.bytes(), bench.store.bytes());
    assert_eq!(again.clips(), bench.store.clips());
}

#[test]
fn a_pre_roll_the_ring_no_longer_has_is_short_by_exactly_that_much() {
    let camera = Camera::new();
    let bench = Bench::start("cam0", |o| (o.gop_s, o.ring_bytes) = (0.2, 20_000));
    offer_all(&bench, &camera, 0..200);
    bench.settle();
    let oldest = bench.lane.stats().ring.oldest_ns.unwrap();
    assert!(
        oldest > at(45),
        "the ring is too large for this test: {oldest}"
    );
    bench.lane.request(request(1, at(195), at(150), at(10)));
    offer_all(&bench, &camera, 200..210);
    let clip = bench.ready();
    assert_eq!(clip.start_ns, oldest);
    assert_eq!(clip.short_pre_ms, (oldest - at(45)) as f64 / 1e6);
    assert_eq!(clip.short_pre_reason, Some(ShortPre::Evicted));
    assert_eq!((clip.lead_in_frames, clip.short_post_ms), (0, 0.0));
    let first = u64::try_from(oldest / STEP).unwrap();
    assert_eq!(
        decode(&bench.path(&clip), true),
        (first..=205).collect::<Vec<_>>()
    );

    // What lies before the ring altogether can't be had, and says so.
    bench.lane.request(request(2, at(20), at(5), at(5)));
    assert!(reason(bench.result()).contains("the oldest picture held is at"));
}

#[test]
fn an_open_clip_loses_nothing_to_eviction() {
    let camera = Camera::new();
    // A ring of about one GOP, and a clip of 8 s: by its end all of its beginning is evicted.
    let bench = Bench::start("cam0", |o| (o.gop_s, o.ring_bytes) = (0.4, 1));
    offer_all(&bench, &camera, 0..5);
    bench.lane.request(request(1, at(2), at(1), at(200)));
    // This one waits for its start, which lies ahead of everything encoded.
    bench.lane.request(request(2, at(100), at(3), at(20)));
    offer_all(&bench, &camera, 5..260);
    let mut clips = [bench.result(), bench.result()];
    clips.sort_by_key(|r| r.id.clone());
    let [first, second] = clips.map(ready);
    assert!(bench.lane.stats().ring.evicted_gops > 5);
    assert_eq!(
        decode(&bench.path(&first), true),
        (1..=202).collect::<Vec<_>>()
    );
    assert_eq!(
        decode(&bench.path(&second), true),
        (97..=120).collect::<Vec<_>>()
    );
    assert_eq!(
        (second.short_pre_ms, second.end_reason),
        (0.0, ClipEnd::Complete)
    );
}

#[test]
fn a_clip_that_is_being_written_can_be_read() {
    let (camera, bench) = (Camera::new(), Bench::start("cam0", |_| {}));
    offer_all(&bench, &camera, 0..50);
    bench.settle();
    bench.lane.request(request(1, at(40), at(30), at(1000)));
    // The pre-roll is there at once: all but the newest picture, whose length is not known yet.
    let part = loop {
        let parts = files(bench.dir.path(), ".mp4.part");
        if let Some(part) = parts
            .first()
            .filter(|p| std::fs::metadata(p).unwrap().len() > 30_000)
            && decode(part, false).len() == 49
        {
            break part.clone();
        }
        std::thread::yield_now();
    };
    offer_all(&bench, &camera, 50..200);
    bench.settle();
    // A cut of power now would leave this: whole fragments of at most 2 s.
    let copy = bench.dir.path().join("copy.mp4");
    std::fs::copy(&part, &copy).unwrap();
    let shown = decode(&copy, false);
    assert!(shown.len() >= 200 - 50 - 1, "{}", shown.len());
    assert_eq!(shown, (0..shown.len() as u64).collect::<Vec<_>>());
    bench.lane.finish(Finish::Stopped, LONG).unwrap();
    let clip = bench.ready();
    assert_eq!(
        decode(&bench.path(&clip), true),
        (10..200).collect::<Vec<_>>()
    );
}

#[test]
fn a_clip_that_begins_with_its_trigger_can_be_read_within_a_second() {
    let (camera, bench) = (Camera::new(), Bench::start("cam0", |o| o.gop_s = 10.0));
    bench.offer(camera.frame(0, at(0)));
    bench.settle();
    // The newest picture is all there is, and it is not known yet how long it is shown.
    bench.lane.request(request(1, at(0), 0, at(1000)));
    offer_all(&bench, &camera, 1..25);
    bench.settle();
    let parts = files(bench.dir.path(), ".mp4.part");
    assert!(decode(&parts[0], false).len() >= 10);
    bench.lane.finish(Finish::Stopped, LONG).unwrap();
    bench.ready();
}

#[test]
fn the_end_of_a_range_is_exact_whether_it_is_set_early_or_late() {
    let camera = Camera::new();
    for end in [45, 70, 120] {
        let bench = Bench::start("cam0", |_| {});
        offer_all(&bench, &camera, 0..40);
        let r = request(1, at(30), at(10), 60 * NS_PER_S);
        bench.lane.request(r.clone());
        offer_all(&bench, &camera, 40..80);
        // For 45 and 70 the pictures after the end are in the file already.
        bench.settle();
        bench.lane.set_end(&r.id, at(end), None);
        if end == 120 {
            offer_all(&bench, &camera, 80..130);
        }
        let clip = bench.ready();
        assert_eq!((clip.end_ns, clip.asked_end_ns), (at(end), at(end)));
        assert_eq!(
            (clip.end_reason, clip.short_post_ms),
            (ClipEnd::Complete, 0.0)
        );
        assert_eq!(
            decode(&bench.path(&clip), true),
            (20..=end).collect::<Vec<_>>()
        );
        // Too late is without effect, and gives no second result.
        bench.lane.set_end(&r.id, at(end + 1), None);
        bench.lane.finish(Finish::SourceEnd, LONG).unwrap();
        assert!(bench.results.is_empty());
    }
}

#[test]
fn a_stop_ends_every_clip_with_what_there_is() {
    let (camera, bench) = (Camera::new(), Bench::start("cam0", |_| {}));
    offer_all(&bench, &camera, 0..50);
    bench.lane.request(request(1, at(40), at(10), at(100)));
    bench.lane.request(request(2, at(400), at(10), at(100)));
    bench.lane.finish(Finish::Stopped, LONG).unwrap();
    let mut results: Vec<ClipResult> = bench.results.try_iter().collect();
    results.sort_by_key(|r| r.id.clone());
    assert_eq!(results.len(), 2);
    let clip = ready(results[0].clone());
    assert_eq!((clip.end_reason, clip.end_ns), (ClipEnd::Stopped, at(49)));
    assert_eq!(clip.short_post_ms, (at(140) - at(49)) as f64 / 1e6);
    assert_eq!(
        decode(&bench.path(&clip), true),
        (30..=49).collect::<Vec<_>>()
    );
    // The second lay wholly ahead: the last picture before it is all there is.
    let clip = ready(results[1].clone());
    assert_eq!(
        (clip.frames, clip.start_ns, clip.end_ns),
        (1, at(49), at(49))
    );

    // After the stop there is still an answer, at once.
    bench.lane.request(request(3, at(40), at(10), at(10)));
    assert!(reason(bench.result()).contains("stopped"));
    assert_eq!(bench.lane.offer(camera.frame(50, at(50))), Offered::Stopped);
    assert_eq!(camera.free_slots(), 8, "no lease is left");
}

#[test]
fn a_dropped_lane_leaves_no_thread_no_part_and_no_request_without_result() {
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok());
        names.filter(|n| n.contains("dropcam")).count()
    };
    let (camera, bench) = (Camera::new(), Bench::start("dropcam", |_| {}));
    offer_all(&bench, &camera, 0..50);
    assert_eq!(threads(), 2);
    bench.lane.request(request(1, at(40), at(10), at(100)));
    let Bench {
        dir, results, lane, ..
    } = bench;
    drop(lane);
    assert_eq!(
        ready(results.try_recv().unwrap()).end_reason,
        ClipEnd::Stopped
    );
    assert_eq!(threads(), 0);
    assert!(files(dir.path(), ".part").is_empty());
    assert_eq!(files(dir.path(), ".mp4").len(), 1);
    assert_eq!(camera.free_slots(), 8);
}

/// Starts a lane over a state directory as it is.
fn lane_at(state_dir: &Path) -> (EvidenceLane, Receiver<ClipResult>) {
    let store = ClipStore::open(state_dir, "clips", 1 << 30).unwrap();
    let mut options = LaneOptions::new(name("cam0"), store);
    options.realtime = false;
    let (tell, results) = unbounded();
    let lane = EvidenceLane::start(options, move |r| tell.send(r).unwrap()).unwrap();
    (lane, results)
}

#[test]
fn a_directory_that_can_not_be_written_fails_the_clip_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let file_as_dir = dir.path().join("file_as_dir");
    std::fs::create_dir(&file_as_dir).unwrap();
    std::fs::write(file_as_dir.join("clips"), "not a directory").unwrap();
    let file_as_day = dir.path().join("file_as_day");
    std::fs::create_dir_all(file_as_day.join("clips")).unwrap();
    std::fs::write(file_as_day.join("clips/2026-11-22"), "").unwrap();
    let camera = Camera::new();
    // Nobody, not even root, can make a directory in /proc.
    for state_dir in [Path::new("/proc/self"), &file_as_dir, &file_as_day] {
        let (lane, results) = lane_at(state_dir);
        for i in 0..20 {
            assert_eq!(lane.offer(camera.frame(i, at(i))), Offered::Taken);
        }
        lane.request(request(1, at(10), at(5), at(5)));
        let said = reason(results.recv_timeout(LONG).unwrap());
        let where_ = state_dir.join("clips").to_string_lossy().into_owned();
        assert!(said.contains(&where_), "{said}");
        // The lane goes on: a next request gets its own answer.
        lane.request(request(2, at(10), at(5), at(5)));
        reason(results.recv_timeout(LONG).unwrap());
        lane.finish(Finish::SourceEnd, LONG).unwrap();
    }
}

#[test]
fn a_directory_made_good_again_takes_clips_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("clips"), "").unwrap();
    let (camera, (lane, results)) = (Camera::new(), lane_at(dir.path()));
    for i in 0..20 {
        assert_eq!(lane.offer(camera.frame(i, at(i))), Offered::Taken);
    }
    lane.request(request(1, at(10), at(5), at(5)));
    reason(results.recv_timeout(LONG).unwrap());
    std::fs::remove_file(dir.path().join("clips")).unwrap();
    lane.request(request(2, at(10), at(5), at(5)));
    ready(results.recv_timeout(LONG).unwrap());
}

#[test]
fn wrong_requests_have_a_result_too() {
    let (camera, bench) = (Camera::new(), Bench::start("cam0", |_| {}));
    offer_all(&bench, &camera, 0..20);
    let good = request(1, at(10), at(5), at(1000));
    bench.lane.request(good.clone());
    bench.lane.request(good);
    assert!(reason(bench.result()).contains("this id"));
    let mut reversed = request(2, at(10), 0, 0);
    reversed.end_ns = at(9);
    bench.lane.request(reversed);
    assert!(reason(bench.result()).contains("before the start"));
    for id in [
        "",
        "../../etc/passwd",
        "01938f3c-7d2a-7000-8000-00000000000/",
    ] {
        let mut r = request(3, at(10), at(5), at(5));
        r.id = id.to_owned();
        bench.lane.request(r);
        assert!(reason(bench.result()).contains("not a UUID"), "{id}");
    }
    for dir in ["", "..", "/tmp", "a/../b"] {
        assert!(ClipStore::open(bench.dir.path(), dir, 1).is_err(), "{dir}");
    }
    bench.lane.finish(Finish::SourceEnd, LONG).unwrap();
    assert_eq!(bench.ready().end_reason, ClipEnd::SourceEnd);
}

/// An encoder that waits for permission before every frame.
struct Gated(OpenH264, Receiver<()>);

impl Encoder for Gated {
    fn name(&self) -> String {
        "gated".into()
    }
    fn encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<(), EncodeError> {
        let _closed = self.1.recv();
        self.0.encode(meta, pixels, packets)
    }
    fn restart(&mut self) {
        self.0.restart();
    }
    fn flush(&mut self, packets: &mut Vec<Packet>) -> Result<(), EncodeError> {
        self.0.flush(packets)
    }
}

fn gated(bench_options: impl FnOnce(&mut LaneOptions)) -> (Bench, Sender<()>) {
    let dir = tempfile::tempdir().unwrap();
    let store = ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
    let mut options = LaneOptions::new(name("cam0"), Arc::clone(&store));
    bench_options(&mut options);
    let (tell, results) = unbounded();
    let (open, gate) = unbounded();
    let encoder = Box::new(Gated(OpenH264::new(EncoderOptions::default()), gate));
    let report = move |r| tell.send(r).unwrap();
    let lane = EvidenceLane::start_with(options, encoder, report).unwrap();
    let bench = Bench {
        dir,
        store,
        results,
        lane,
    };
    (bench, open)
}

#[test]
fn an_encoder_that_is_too_slow_makes_a_gap_and_never_holds_up_the_source() {
    let camera = Camera::new();
    let clock = Arc::new(ManualClock::default());
    let (bench, gate) = gated(|o| (o.realtime, o.queue, o.clock) = (true, 2, clock));
    let (mut taken, mut lost) = (Vec::new(), Vec::new());
    // The encoder stands still: it has one frame in hand at most and two wait; the rest is lost.
    for i in 0..30 {
        match bench.lane.offer(camera.frame(i, at(i))) {
            Offered::Taken => taken.push(i),
            Offered::Lost => lost.push(i),
            Offered::Stopped => panic!("not stopping"),
        }
    }
    assert!((2..=3).contains(&taken.len()), "{taken:?}");
    assert_eq!(bench.lane.stats().lost_busy, lost.len() as u64);
    // It wakes up; a frame is offered until it is taken again.
    (0..1000).for_each(|_| gate.send(()).unwrap());
    let mut next = 30;
    while taken.last().is_none_or(|last| *last < 40) {
        match bench.lane.offer(camera.frame(next, at(next))) {
            Offered::Taken => taken.push(next),
            _ => lost.push(next),
        }
        next += 1;
        bench.settle();
    }
    let last = *taken.last().unwrap();
    bench
        .lane
        .request(request(1, at(20), at(20), at(last) - at(20)));
    let clip = bench.ready();
    assert_eq!(decode(&bench.path(&clip), true), taken);
    assert_eq!((clip.short_pre_ms, clip.short_post_ms), (0.0, 0.0));
    // Every frame is either in the file or counted in a gap that lies where it is missing.
    let counted: u64 = clip.gaps.iter().map(|g| g.lost).sum();
    assert_eq!(counted, lost.len() as u64);
    for gap in &clip.gaps {
        assert_eq!(gap.cause, GapCause::EncoderBusy);
        let inside = |i: &&u64| at(**i) > gap.from_ns && at(**i) < gap.to_ns;
        assert_eq!(lost.iter().filter(inside).count() as u64, gap.lost);
        assert_eq!(taken.iter().filter(inside).count(), 0);
    }
}

#[test]
fn a_post_roll_that_does_not_come_is_waited_for_its_length_and_two_seconds() {
    let camera = Camera::new();
    let clock = Arc::new(ManualClock::default());
    let (bench, gate) = gated(|o| (o.realtime, o.queue, o.clock) = (true, 64, clock.clone()));
    (0..1000).for_each(|_| gate.send(()).unwrap());
    for i in 0..50 {
        assert_eq!(bench.lane.offer(camera.frame(i, at(i))), Offered::Taken);
    }
    bench.settle();
    // 3 s of post-roll, of which 2.64 s are missing; a second clip lies wholly ahead.
    bench.lane.request(request(1, at(40), at(10), 3 * NS_PER_S));
    bench.lane.request(request(2, at(100), at(10), NS_PER_S));
    // A request that is done at once shows that the two before it are being waited for.
    bench.lane.request(request(3, at(20), at(10), at(5)));
    assert_eq!(bench.ready().end_reason, ClipEnd::Complete);
    clock.advance(at(40) + 5 * NS_PER_S - at(49));
    bench.lane.request(request(4, at(20), at(10), at(5)));
    assert_eq!(bench.result().id, uuid(4), "at the limit it still waits");
    clock.advance(1);
    let clip = ready(bench.result());
    assert_eq!(
        (clip.end_reason, clip.end_ns),
        (ClipEnd::GapTimeout, at(49))
    );
    assert_eq!(
        clip.short_post_ms,
        (at(40) + 3 * NS_PER_S - at(49)) as f64 / 1e6
    );
    assert_eq!(
        decode(&bench.path(&clip), true),
        (30..50).collect::<Vec<_>>()
    );
    clock.advance(60 * NS_PER_S);
    assert_eq!(bench.ready().end_reason, ClipEnd::GapTimeout);
}

#[test]
fn a_new_picture_size_ends_the_clip_there_and_begins_the_next() {
    let camera = Camera::new();
    let large = Camera::with(PixelFormat::I420, 2 * WIDTH, HEIGHT);
    let bench = Bench::start("cam0", |_| {});
    offer_all(&bench, &camera, 0..30);
    bench.lane.request(request(1, at(25), at(10), at(20)));
    for i in 30..60 {
        bench.offer(large.frame(i, at(i)));
    }
    let clip = bench.ready();
    assert_eq!(
        (clip.end_reason, clip.end_ns),
        (ClipEnd::FormatChange, at(29))
    );
    assert_eq!(clip.short_post_ms, at(16) as f64 / 1e6);
    assert_eq!(
        decode(&bench.path(&clip), true),
        (15..30).collect::<Vec<_>>()
    );
    // The event is after the change: its side of it is kept.
    bench.lane.request(request(2, at(40), at(20), at(5)));
    let clip = bench.ready();
    assert_eq!((clip.start_ns, clip.end_ns), (at(30), at(45)));
    assert_eq!(clip.short_pre_reason, Some(ShortPre::FormatChange));
    assert_eq!((clip.short_pre_ms, clip.width), (at(10) as f64 / 1e6, 256));
}

/// An encoder that refuses some frames.
struct Refuses(OpenH264, std::ops::Range<u64>);

impl Encoder for Refuses {
    fn name(&self) -> String {
        "refuses".into()
    }
    fn encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<(), EncodeError> {
        let frame_id = meta.frame_id;
        match self.1.contains(&frame_id) {
            true => Err(EncodeError::Skipped { frame_id }),
            false => self.0.encode(meta, pixels, packets),
        }
    }
    fn restart(&mut self) {
        self.0.restart();
    }
    fn flush(&mut self, packets: &mut Vec<Packet>) -> Result<(), EncodeError> {
        self.0.flush(packets)
    }
}

#[test]
fn frames_the_encoder_can_not_take_are_a_gap_or_a_reason() {
    let camera = Camera::new();
    let refuses = |ids| {
        let encoder = OpenH264::new(EncoderOptions::default());
        Bench::start_with("cam0", Box::new(Refuses(encoder, ids)), |_| {})
    };
    let bench = refuses(10..14);
    offer_all(&bench, &camera, 0..30);
    bench.lane.request(request(1, at(15), at(10), at(10)));
    let clip = bench.ready();
    assert_eq!(clip.gaps.len(), 1);
    let gap = clip.gaps[0];
    assert_eq!((gap.from_ns, gap.to_ns, gap.lost), (at(9), at(14), 4));
    assert_eq!(gap.cause, GapCause::EncoderError);
    let shown: Vec<u64> = (5..10).chain(14..=25).collect();
    assert_eq!(decode(&bench.path(&clip), true), shown);

    // Nothing but such frames: the clip fails with the encoder's words, without a clock.
    let bench = refuses(0..100);
    bench.lane.request(request(1, at(10), at(5), at(5)));
    offer_all(&bench, &camera, 0..100);
    assert!(reason(bench.result()).contains("skipped frame"));
}

#[test]
fn the_quota_holds_and_the_oldest_clips_go_first() {
    let camera = Camera::new();
    // How large is one?
    let probe = Bench::start("cam0", |_| {});
    offer_all(&probe, &camera, 0..60);
    probe.lane.request(request(0, at(20), at(10), at(20)));
    probe.ready();
    let one = probe.store.bytes();

    let dir = tempfile::tempdir().unwrap();
    // Left by a crash of an earlier run: counted until it is seen to.
    let day = dir.path().join("clips/2026-11-21");
    std::fs::create_dir_all(&day).unwrap();
    std::fs::write(day.join("235959Z_a_b_00000000.mp4.part"), vec![0; 5000]).unwrap();
    std::fs::write(day.join("README"), "not a clip").unwrap();
    let quota = 3 * one + one / 2;
    let store = ClipStore::open(dir.path(), "clips", quota).unwrap();
    assert_eq!(store.bytes(), 5000);
    assert_eq!(store.take_over().unwrap(), [], "there is nothing in it");
    assert_eq!(store.bytes(), 0);
    let mut options = LaneOptions::new(name("cam0"), Arc::clone(&store));
    options.realtime = false;
    let (tell, results) = unbounded();
    let lane = EvidenceLane::start(options, move |r| tell.send(r).unwrap()).unwrap();
    for i in 0..60 {
        assert_eq!(lane.offer(camera.frame(i, at(i))), Offered::Taken);
    }
    for n in 1..=10 {
        let mut r = request(n, at(20), at(10), at(20));
        r.wall_ns = WALL_NS + i64::from(n) * NS_PER_S;
        lane.request(r);
        ready(results.recv_timeout(LONG).unwrap());
        assert!(store.bytes() <= quota, "after clip {n}");
    }
    let left = files(&dir.path().join("clips"), ".mp4");
    let names = left
        .iter()
        .map(|p| p.file_stem().unwrap().to_string_lossy().into_owned());
    let ids: Vec<String> = names.map(|n| n[n.len() - 8..].to_owned()).collect();
    assert_eq!(ids, ["00000008", "00000009", "0000000a"]);
    assert_eq!(
        files(dir.path(), ".json").len(),
        3,
        "a sidecar goes with its clip"
    );
    assert!(files(dir.path(), ".part").is_empty());
    assert!(
        day.join("README").exists(),
        "what is not a clip is not touched"
    );
}

#[test]
fn a_clip_larger_than_the_quota_ends_where_the_room_ends() {
    let camera = Camera::new();
    let dir = tempfile::tempdir().unwrap();
    let store = ClipStore::open(dir.path(), "clips", 60_000).unwrap();
    let mut options = LaneOptions::new(name("cam0"), Arc::clone(&store));
    (options.realtime, options.gop_s) = (false, 0.4);
    let (tell, results) = unbounded();
    let lane = EvidenceLane::start(options, move |r| tell.send(r).unwrap()).unwrap();
    lane.request(request(1, at(10), at(5), at(990)));
    for i in 0..1200 {
        assert_eq!(lane.offer(camera.frame(i, at(i))), Offered::Taken);
    }
    let clip = ready(results.recv_timeout(LONG).unwrap());
    assert_eq!(clip.end_reason, ClipEnd::Quota);
    assert!(clip.end_ns < at(1000) && clip.short_post_ms > 0.0);
    let shown = decode(&dir.path().join(&clip.file), true);
    let last = u64::try_from(clip.end_ns / STEP).unwrap();
    assert_eq!(shown, (5..=last).collect::<Vec<_>>());
    assert!(clip.bytes <= 60_000);

    // And where there is no room at all, it fails and says what to do.
    let store = ClipStore::open(dir.path(), "other", 1000).unwrap();
    let mut options = LaneOptions::new(name("cam0"), store);
    options.realtime = false;
    let (tell, results) = unbounded();
    let lane = EvidenceLane::start(options, move |r| tell.send(r).unwrap()).unwrap();
    lane.request(request(1, at(10), at(5), at(5)));
    for i in 0..30 {
        assert_eq!(lane.offer(camera.frame(i, at(i))), Offered::Taken);
    }
    assert!(reason(results.recv_timeout(LONG).unwrap()).contains("quota_bytes"));
    assert!(files(&dir.path().join("other"), "").is_empty());
}

#[test]
fn an_offer_that_waits_ends_when_the_lane_stops() {
    let camera = Camera::new();
    let (bench, gate) = gated(|o| (o.realtime, o.queue) = (false, 1));
    let lane = &bench.lane;
    std::thread::scope(|scope| {
        let offering = scope.spawn(|| {
            let mut i = 0;
            while lane.offer(camera.frame(i, at(i))) == Offered::Taken {
                i += 1;
            }
            i
        });
        while lane.stats().taken == 0 {
            std::thread::yield_now();
        }
        let limit = Duration::from_millis(1);
        // The encoder is stuck, so the lane can't end in time, and says which thread it is.
        let late = lane.finish(Finish::Stopped, limit).unwrap_err().to_string();
        assert!(late.contains("encode-cam0"), "{late}");
        assert!(offering.join().unwrap() <= 3);
        drop(gate);
        lane.finish(Finish::Stopped, LONG).unwrap();
    });
}

/// An encoder with a bug.
struct Panics(OpenH264, u64);

impl Encoder for Panics {
    fn name(&self) -> String {
        "panics".into()
    }
    fn encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<(), EncodeError> {
        assert!(meta.frame_id < self.1, "a bug in the encoder");
        self.0.encode(meta, pixels, packets)
    }
    fn restart(&mut self) {
        self.0.restart();
    }
    fn flush(&mut self, packets: &mut Vec<Packet>) -> Result<(), EncodeError> {
        self.0.flush(packets)
    }
}

#[test]
fn a_panicking_encoder_leaves_no_request_without_result_and_no_slot_held() {
    let camera = Camera::new();
    let dir = tempfile::tempdir().unwrap();
    let store = ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
    let mut options = LaneOptions::new(name("cam0"), store);
    options.realtime = false;
    let (tell, results) = unbounded();
    let encoder = Box::new(Panics(OpenH264::new(EncoderOptions::default()), 30));
    let report = move |r| tell.send(r).unwrap();
    let lane = EvidenceLane::start_with(options, encoder, report).unwrap();
    let mut i = 0;
    while i < 30 {
        assert_eq!(lane.offer(camera.frame(i, at(i))), Offered::Taken);
        i += 1;
    }
    lane.request(request(1, at(20), at(10), at(100)));
    while lane.offer(camera.frame(i, at(i))) == Offered::Taken {
        i += 1;
    }
    let clip = ready(results.recv_timeout(LONG).unwrap());
    assert_eq!((clip.end_reason, clip.end_ns), (ClipEnd::Stopped, at(29)));
    let shown = decode(&dir.path().join(&clip.file), true);
    assert_eq!(shown, (10..30).collect::<Vec<_>>());
    lane.request(request(2, at(20), at(10), at(100)));
    assert!(reason(results.recv_timeout(LONG).unwrap()).contains("stopped"));
    lane.finish(Finish::Stopped, LONG).unwrap();
    assert_eq!(camera.free_slots(), 8);
}
