//! Clips that share a file (`[clip] merge = true`), through the real lane on a real disk.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod clip_support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clip_support::*;
use crossbeam_channel::unbounded;
use visualpath_core::{ColorSpec, NS_PER_MS, NS_PER_S};
use visualpath_media::clip::{
    ClipEnd, ClipRequest, ClipResult, ClipState, ClipStore, EntryState, EvidenceLane, Finish,
    LaneOptions, Offered, ReadyClip, ShortPre,
};
use visualpath_media::encode::{Codec, CodecParams, Packet};

const LONG: Duration = Duration::from_secs(120);
/// 25 pictures per second.
const STEP: i64 = 40 * NS_PER_MS;
/// Every tenth picture is a key.
const GOP: i64 = 10;
const GOP_S: f64 = 0.4;
/// Asked for together, in pictures.
const MOST: i64 = 200;

fn at(i: i64) -> i64 {
    i * STEP
}

/// Pictures from `from` to `to`, with pre- and post-roll around `event`.
fn asks(n: u32, from: i64, event: i64, to: i64) -> ClipRequest {
    request(n, at(event), at(event - from), at(to - event))
}

fn params(width: u32) -> Arc<CodecParams> {
    Arc::new(CodecParams {
        codec: Codec::Mjpeg,
        width,
        height: 48,
        color: ColorSpec::default(),
        vps: Bytes::new(),
        sps: Bytes::new(),
        pps: Bytes::new(),
    })
}

/// Pictures that a camera encoded itself: nothing has to be decoded here.
fn packet(i: i64, params: &Arc<CodecParams>) -> Packet {
    Packet {
        data: Bytes::from(i.to_be_bytes().repeat(10)),
        is_key: i % GOP == 0,
        pts_ns: at(i),
        dts_ns: at(i),
        frame_id: u64::try_from(i).unwrap(),
        params: Arc::clone(params),
    }
}

struct Camera {
    bench: Bench,
    params: Arc<CodecParams>,
    next: i64,
}

impl Camera {
    fn start(merge: bool) -> Self {
        let max_ns = merge.then_some(at(MOST));
        let bench = Bench::start("cam0", |o| (o.gop_s, o.merge_max_ns) = (GOP_S, max_ns));
        let _noted = bench.store.take_over().unwrap();
        Self {
            bench,
            params: params(64),
            next: 0,
        }
    }

    /// Up to and with this picture.
    fn until(&mut self, last: i64) {
        while self.next <= last {
            let offered = self
                .bench
                .lane
                .offer_packet(packet(self.next, &self.params));
            assert_eq!(offered, Offered::Taken);
            self.next += 1;
        }
        self.bench.settle();
    }

    fn ask(&self, request: ClipRequest) {
        self.bench.lane.announce(&request);
        self.bench.lane.request(request);
    }

    /// Every result, by the last digits of its id.
    fn end(&self) -> BTreeMap<u32, ClipResult> {
        self.bench.lane.finish(Finish::SourceEnd, LONG).unwrap();
        let all: Vec<ClipResult> = self.bench.results.try_iter().collect();
        let count = all.len();
        let by_number: BTreeMap<u32, ClipResult> =
            all.into_iter().map(|r| (number(&r.id), r)).collect();
        assert_eq!(by_number.len(), count, "one result each");
        by_number
    }
}

fn number(id: &str) -> u32 {
    u32::from_str_radix(&id[id.len() - 8..], 16).unwrap()
}

fn ready_of(results: &BTreeMap<u32, ClipResult>, n: u32) -> ReadyClip {
    assert_eq!(results[&n].trigger_id, format!("trigger-{n}"));
    ready(results[&n].clone())
}

fn host(clip: &ReadyClip) -> Option<u32> {
    clip.merged_into.as_deref().map(number)
}

#[test]
fn a_clip_that_a_command_asks_for_is_its_own() {
    let mut camera = Camera::start(true);
    let by_command = |n| ClipRequest {
        trigger_id: String::new(),
        ..asks(n, 20, 30, 60)
    };
    camera.until(30);
    camera.ask(by_command(1));
    camera.ask(asks(2, 20, 30, 60));
    camera.ask(by_command(3));
    camera.until(100);
    let results = camera.end();
    let files: BTreeSet<String> = [1, 2, 3]
        .map(|n| ready(results[&n].clone()))
        .map(|clip| {
            assert_eq!(clip.merged_into, None);
            clip.file
        })
        .into();
    assert_eq!(files.len(), 3);
}

#[test]
fn clips_that_overlap_or_touch_share_a_file_and_each_gets_its_own_answer() {
    let mut camera = Camera::start(true);
    camera.until(30);
    camera.ask(asks(1, 20, 30, 60));
    camera.until(50);
    camera.ask(asks(2, 35, 50, 90));
    // It lies a GOP behind the last end; and its pre-roll, before the file's beginning.
    camera.ask(asks(3, 100, 105, 120));
    camera.ask(asks(4, 5, 50, 70));
    camera.until(200);
    let results = camera.end();
    let clips: Vec<ReadyClip> = (1..=4).map(|n| ready_of(&results, n)).collect();
    let mp4 = files(camera.bench.dir.path(), ".mp4");
    assert_eq!(mp4, [camera.bench.path(&clips[0])], "one file");
    for clip in &clips {
        assert_eq!(clip.file, clips[0].file);
        assert_eq!((clip.start_ns, clip.end_ns), (at(20), at(120)));
        assert_eq!((clip.frames, clip.short_post_ms), (101, 0.0));
        assert_eq!(clip.end_reason, ClipEnd::Complete);
    }
    let hosts: Vec<_> = clips.iter().map(host).collect();
    assert_eq!(hosts, [None, Some(1), Some(1), Some(1)]);
    let short = |c: &ReadyClip| (c.short_pre_ms, c.short_pre_reason);
    assert!(clips[..3].iter().all(|c| short(c) == (0.0, None)));
    assert_eq!(short(&clips[3]), (600.0, Some(ShortPre::Merged)));
    assert_eq!(clips[1].asked_start_ns, at(35));

    // The sidecar lists them, the index knows them, and any of them is the file.
    let sidecar = std::fs::read_to_string(mp4[0].with_extension("json")).unwrap();
    let sidecar: serde_json::Value = serde_json::from_str(&sidecar).unwrap();
    let merged = sidecar["merged"].as_array().unwrap();
    let ids: Vec<u32> = merged
        .iter()
        .map(|m| number(m["id"].as_str().unwrap()))
        .collect();
    assert_eq!(ids, [2, 3, 4]);
    for (key, value) in [
        ("trigger_id", "trigger-4".into()),
        ("path", "entrance".into()),
        ("label", "visitor".into()),
        ("event_ns", at(50).into()),
        ("start_ns", at(5).into()),
        ("end_ns", at(70).into()),
    ] {
        let value: serde_json::Value = value;
        assert_eq!(merged[2][key], value, "{key}");
    }
    let store = &camera.bench.store;
    let entries = store.entries().unwrap();
    let listed: Vec<_> = entries.iter().map(|e| (number(&e.id), e.state)).collect();
    assert_eq!(listed, [1, 2, 4, 3].map(|n| (n, EntryState::Ready)));
    for e in &entries {
        let result = e.result.clone().unwrap();
        assert_eq!(result, results[&number(&e.id)]);
        assert_eq!(e.merged_into, ready(result).merged_into);
    }
    let on_disk: u64 = files(&camera.bench.dir.path().join("clips"), "")
        .iter()
        .map(|f| std::fs::metadata(f).unwrap().len())
        .sum();
    assert_eq!(store.bytes(), on_disk, "counted once");
    store.pin(&uuid(3), true).unwrap();
    assert!(store.entries().unwrap().iter().all(|e| e.is_pinned));
    results.keys().for_each(|n| store.told(&uuid(*n)));
    let refused = store.delete(&uuid(2)).unwrap_err();
    assert!(refused.to_string().contains("unpin it first"), "{refused}");
    store.pin(&uuid(1), false).unwrap();
    store.delete(&uuid(2)).unwrap();
    assert_eq!(store.entries().unwrap(), []);
    assert_eq!(store.bytes(), 0);
    assert!(files(camera.bench.dir.path(), ".mp4").is_empty());
}

#[test]
fn clips_that_do_not_touch_have_a_file_each_and_so_has_what_would_make_one_too_long() {
    let mut camera = Camera::start(true);
    camera.until(30);
    camera.ask(asks(1, 20, 30, 60));
    // Eleven pictures behind its end: more than a GOP.
    camera.ask(asks(2, 71, 80, 90));
    camera.until(85);
    // With the second they ask for 200 pictures' time at most, but for the last.
    camera.ask(asks(3, 75, 85, 221));
    camera.until(110);
    camera.ask(asks(4, 100, 110, 271));
    camera.ask(asks(5, 100, 110, 272));
    camera.until(300);
    let results = camera.end();
    let hosts: Vec<_> = (1..=5).map(|n| host(&ready_of(&results, n))).collect();
    assert_eq!(hosts, [None, None, Some(2), Some(2), None]);
    assert_eq!(files(camera.bench.dir.path(), ".mp4").len(), 3);
    let second = ready_of(&results, 2);
    assert_eq!((second.start_ns, second.end_ns), (at(71), at(271)));
}

#[test]
fn clips_of_different_sources_never_share_a_file_nor_do_any_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let store = ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
    let (tell, results) = unbounded();
    let lanes = [("a", Some(at(MOST))), ("b", Some(at(MOST))), ("c", None)];
    let lanes = lanes.map(|(source, max_ns)| {
        let mut options = LaneOptions::new(name(source), Arc::clone(&store));
        (options.realtime, options.merge_max_ns) = (false, max_ns);
        let tell = tell.clone();
        EvidenceLane::start(options, move |r| tell.send(r).unwrap()).unwrap()
    });
    let params = params(64);
    for i in 0..100 {
        for (lane, n) in lanes.iter().zip([1, 2, 3]) {
            assert_eq!(lane.offer_packet(packet(i, &params)), Offered::Taken);
            if i == 30 {
                lane.request(asks(n, 20, 30, 60));
                lane.request(asks(10 + n, 25, 30, 70));
            }
        }
    }
    lanes
        .iter()
        .for_each(|l| l.finish(Finish::SourceEnd, LONG).unwrap());
    let all: BTreeMap<u32, ClipResult> = results.try_iter().map(|r| (number(&r.id), r)).collect();
    let hosts: Vec<_> = all.keys().map(|n| host(&ready_of(&all, *n))).collect();
    assert_eq!(hosts, [None, None, None, Some(1), Some(2), None]);
    assert_eq!(files(dir.path(), ".mp4").len(), 4);
}

#[test]
fn a_range_that_shares_a_file_ends_when_its_end_is_set() {
    // The first ends early, the second late; the other way round; and both before what is there.
    for (first, second, last) in [(70, 110, 110), (110, 70, 110), (45, 42, 45)] {
        let mut camera = Camera::start(true);
        camera.until(30);
        camera.ask(asks(1, 20, 30, 190));
        camera.until(40);
        camera.ask(asks(2, 30, 40, 200));
        camera.until(60);
        camera.bench.lane.set_end(&uuid(1), at(first), None);
        camera.bench.lane.set_end(&uuid(2), at(second), None);
        camera.until(220);
        let results = camera.end();
        for (n, end) in [(1, first), (2, second)] {
            let clip = ready_of(&results, n);
            assert_eq!((clip.asked_end_ns, clip.end_ns), (at(end), at(last)));
            assert_eq!(
                (clip.end_reason, clip.short_post_ms),
                (ClipEnd::Complete, 0.0)
            );
        }
        assert_eq!(host(&ready_of(&results, 2)), Some(1));
    }
}

#[test]
fn a_request_whose_event_the_file_does_not_reach_gets_a_clip_of_its_own_after_all() {
    let mut camera = Camera::start(true);
    camera.until(30);
    camera.ask(asks(1, 20, 30, 60));
    // Its event lies ahead of what has been encoded; then the picture's size changes before it.
    camera.ask(asks(2, 25, 50, 80));
    camera.until(39);
    camera.params = params(128);
    camera.until(100);
    let results = camera.end();
    let (first, second) = (ready_of(&results, 1), ready_of(&results, 2));
    assert_eq!(
        (first.end_ns, first.end_reason),
        (at(39), ClipEnd::FormatChange)
    );
    assert_eq!((host(&second), second.width), (None, 128));
    assert_eq!((second.start_ns, second.end_ns), (at(40), at(80)));
    assert_eq!(second.short_pre_reason, Some(ShortPre::FormatChange));
    assert_ne!(first.file, second.file);
    // What the books say then is what is there.
    let unheard: BTreeSet<String> = reopened(&camera.bench);
    assert_eq!(unheard, BTreeSet::from([first.file, second.file]));
}

/// The files of the results that the next start tells of.
fn reopened(bench: &Bench) -> BTreeSet<String> {
    let path = bench.dir.path().join("copy");
    copy(&bench.dir.path().join("clips"), &path.join("clips"));
    copy(&bench.dir.path().join("outbox"), &path.join("outbox"));
    let store = ClipStore::open(&path, "clips", 1 << 30).unwrap();
    let unheard = store.take_over().unwrap();
    let file = |u: &visualpath_media::clip::Unheard| ready(u.result.clone()).file;
    unheard.iter().map(file).collect()
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn an_index_that_is_lost_is_made_again_with_every_clip_that_shares_a_file() {
    let mut camera = Camera::start(true);
    camera.until(30);
    camera.ask(asks(1, 20, 30, 60));
    camera.ask(asks(2, 5, 30, 70));
    camera.until(100);
    let results = camera.end();
    let (dir, store) = (camera.bench.dir, camera.bench.store);
    drop((camera.bench.lane, store));
    std::fs::remove_dir_all(dir.path().join("outbox")).unwrap();
    let store = ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
    assert_eq!(store.take_over().unwrap(), [], "nobody is told again");
    let entries = store.entries().unwrap();
    let again: Vec<_> = entries.iter().map(|e| e.result.clone().unwrap()).collect();
    assert_eq!(again, results.into_values().collect::<Vec<_>>());
    store.delete(&uuid(1)).unwrap();
    assert_eq!(
        store.entries().unwrap(),
        [],
        "the row of the other is gone, too"
    );
}

/// What should become of requests, as one thinks of it: intervals.
#[derive(Default)]
struct Model {
    /// Of each file: the number of its first request, all that was asked for, and where it begins.
    open: Vec<(u32, Vec<ClipRequest>, i64)>,
    closed: Vec<(u32, Vec<ClipRequest>, i64)>,
}

impl Model {
    fn ask(&mut self, r: &ClipRequest) {
        let span =
            |all: &[ClipRequest]| (all[0].start_ns, all.iter().map(|r| r.end_ns).max().unwrap());
        let gap = at(GOP);
        let fits = |(_, all, begins): &&mut (u32, Vec<ClipRequest>, i64)| {
            let (start, end) = span(all);
            r.start_ns <= end + gap
                && r.end_ns + gap >= start
                && r.event_ns >= start.max(*begins)
                && end.max(r.end_ns) - start <= at(MOST)
        };
        let host = self.open.iter_mut().filter(fits);
        match host.max_by_key(|(n, all, _)| (all[0].start_ns, *n)) {
            Some((_, all, _)) => all.push(r.clone()),
            // The last picture at or before the start, or the first there is.
            None => {
                let begins = (r.start_ns.div_euclid(STEP) * STEP).max(0);
                self.open.push((number(&r.id), vec![r.clone()], begins));
            }
        }
    }

    /// This picture is in.
    fn picture(&mut self, t_ns: i64) {
        let is_done =
            |(_, all, _): &mut (u32, Vec<ClipRequest>, i64)| all.iter().all(|r| r.end_ns <= t_ns);
        let done: Vec<_> = self.open.extract_if(.., is_done).collect();
        self.closed.extend(done);
    }
}

#[test]
fn whatever_is_asked_for_is_in_the_file_it_should_be_in_and_what_is_missing_is_said() {
    let (mut shared, mut short) = (0, 0);
    for seed in 1..=20 {
        let mut random = Random(seed);
        let (mut camera, mut model) = (Camera::start(true), Model::default());
        for n in 0..40 {
            let next = camera.next + random.between(1, 25);
            while camera.next <= next {
                camera.until(camera.next);
                model.picture(at(camera.next - 1));
            }
            // The ring has them all; events lie around now, starts before it.
            let now = at(camera.next - 1);
            let event = (now - random.between(0, at(12))).max(0);
            let start = (event - random.between(0, at(120))).min(now);
            let range = random.below(3) == 0;
            let most = if range { at(150) } else { at(40) };
            let r = ClipRequest {
                wall_ns: WALL_NS + event,
                start_ns: start,
                end_ns: (event + random.between(0, most)).max(now + 1),
                ..request(n, event, 0, 0)
            };
            model.ask(&r);
            camera.ask(r);
        }
        let last = camera.next + 250;
        while camera.next <= last {
            camera.until(camera.next);
            model.picture(at(camera.next - 1));
        }
        let results = camera.end();
        assert_eq!(results.len(), 40, "seed {seed}");
        assert!(model.open.is_empty());
        for (first, all, begins) in &model.closed {
            let end = all.iter().map(|r| r.end_ns).max().unwrap();
            let end = (end + STEP - 1).div_euclid(STEP) * STEP;
            for r in all {
                let n = number(&r.id);
                let clip = ready_of(&results, n);
                let expected = (n != *first).then_some(*first);
                assert_eq!(host(&clip), expected, "seed {seed}, {n}");
                assert_eq!(
                    (clip.start_ns, clip.end_ns),
                    (*begins, end),
                    "seed {seed}, {n}"
                );
                let missing = (*begins - r.start_ns).max(0) as f64 / 1e6;
                assert_eq!((clip.short_pre_ms, clip.short_post_ms), (missing, 0.0));
                assert_eq!(clip.short_pre_reason.is_some(), missing > 0.0);
                assert_eq!(
                    (clip.asked_start_ns, clip.asked_end_ns),
                    (r.start_ns, r.end_ns)
                );
                assert_eq!(clip.file, ready_of(&results, *first).file);
                shared += u32::from(n != *first);
                short += u32::from(clip.short_pre_reason == Some(ShortPre::Merged));
            }
        }
        assert_eq!(
            files(camera.bench.dir.path(), ".mp4").len(),
            model.closed.len()
        );
    }
    assert!(shared > 100 && short > 20, "{shared} {short}");
}

#[test]
fn without_it_the_same_requests_have_a_file_each() {
    let mut camera = Camera::start(false);
    camera.until(30);
    camera.ask(asks(1, 20, 30, 60));
    camera.ask(asks(2, 25, 30, 2 * NS_PER_S / STEP));
    camera.until(100);
    let results = camera.end();
    for n in [1, 2] {
        assert!(matches!(&results[&n].state, ClipState::Ready(c) if c.merged_into.is_none()));
    }
    assert_eq!(files(camera.bench.dir.path(), ".mp4").len(), 2);
}
