//! Retention: many times more clips than fit, from several sources at once, on a real disk.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod clip_support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clip_support::*;
use crossbeam_channel::{Receiver, unbounded};
use sha2::{Digest, Sha256};
use visualpath_core::{ColorSpec, NS_PER_MS, NS_PER_S};
use visualpath_media::clip::{
    ClipResult, ClipStore, EntryState, EvidenceLane, Finish, LaneOptions, Offered, ReadyClip,
};
use visualpath_media::encode::{Codec, CodecParams, Packet};

const LONG: Duration = Duration::from_secs(120);
const STEP: i64 = 40 * NS_PER_MS;
const QUOTA: u64 = 1_000_000;
/// What may be written beyond the quota: the tables and the sidecar of a clip whose media is there
/// (docs/design/clips.md, Room), a few kB for each source's open clip.
const TABLES: u64 = 8_000;
const SOURCES: [&str; 3] = ["a", "b", "c"];
/// Open at once, per source.
const OPEN: u64 = 2;

struct Lane {
    lane: EvidenceLane,
    results: Receiver<ClipResult>,
    params: Arc<CodecParams>,
    next: i64,
}

impl Lane {
    fn start(source: &str, store: &Arc<ClipStore>) -> Self {
        let mut options = LaneOptions::new(name(source), Arc::clone(store));
        (options.realtime, options.gop_s) = (false, 0.4);
        let (tell, results) = unbounded();
        let lane = EvidenceLane::start(options, move |r| tell.send(r).unwrap()).unwrap();
        let params = Arc::new(CodecParams {
            codec: Codec::Mjpeg,
            width: 64,
            height: 48,
            color: ColorSpec::default(),
            vps: Bytes::new(),
            sps: Bytes::new(),
            pps: Bytes::new(),
        });
        Self {
            lane,
            results,
            params,
            next: 0,
        }
    }

    /// Pictures of random sizes; returns when all of them are behind the clip thread.
    fn pictures(&mut self, count: i64, random: &mut Random) {
        for n in self.next..self.next + count {
            let size = usize::try_from(random.between(50, 3000)).unwrap();
            let packet = Packet {
                data: Bytes::from(vec![u8::try_from(n % 251).unwrap(); size]),
                is_key: n % 10 == 0,
                pts_ns: n * STEP,
                dts_ns: n * STEP,
                frame_id: u64::try_from(n).unwrap(),
                params: Arc::clone(&self.params),
            };
            assert_eq!(self.lane.offer_packet(packet), Offered::Taken);
        }
        self.next += count;
        let passed = u64::try_from(self.next).unwrap();
        while {
            let ring = self.lane.stats().ring;
            (ring.packets as u64 + ring.evicted_packets) < passed
        } {
            std::thread::yield_now();
        }
    }
}

/// Bytes of every file of clips.
fn walk(root: &Path) -> u64 {
    let of = |f: &std::path::PathBuf| std::fs::metadata(f).map_or(0, |m| m.len());
    let all = files(&root.join("clips"), "");
    all.iter().filter(|f| !f.ends_with(".lock")).map(of).sum()
}

/// Names of finished clips without ending, oldest first.
fn there(root: &Path) -> Vec<String> {
    let stem = |f: &std::path::PathBuf| {
        let below = f.strip_prefix(root).unwrap().with_extension("");
        below.to_str().unwrap().to_owned()
    };
    files(&root.join("clips"), ".mp4")
        .iter()
        .map(stem)
        .collect()
}

fn stem(clip: &ReadyClip) -> String {
    clip.file.strip_suffix(".mp4").unwrap().to_owned()
}

/// Of one run: what has been told, and pinned, in the order in which it ought to go.
#[derive(Default)]
struct Books {
    ready: BTreeMap<String, ReadyClip>,
    ids: BTreeMap<String, String>,
    pinned: BTreeSet<String>,
    written: u64,
    failed: usize,
    /// At the last look.
    present: BTreeSet<String>,
}

impl Books {
    fn take(&mut self, result: &ClipResult, store: &ClipStore, random: &mut Random) {
        store.told(&result.id);
        let visualpath_media::clip::ClipState::Ready(clip) = &result.state else {
            self.failed += 1;
            return;
        };
        let stem = stem(clip);
        self.written += clip.bytes;
        // A clip may have gone before anybody could pin it.
        let few = self.pinned.len() < 4 && random.below(8) == 0;
        if few && store.pin(&result.id, true).is_ok() {
            self.pinned.insert(stem.clone());
        }
        self.ids.insert(stem.clone(), result.id.clone());
        self.ready.insert(stem, clip.clone());
    }

    /// What must hold at any moment.
    fn check(&mut self, root: &Path, step: &str) {
        let bytes = walk(root);
        assert!(bytes <= QUOTA + TABLES, "{step}: {bytes} bytes");
        let there: BTreeSet<String> = there(root).into_iter().collect();
        // Of what was there the last time, everything that went is older than everything left.
        let gone = self.present.difference(&there).last();
        let mut left = self.present.intersection(&there);
        let oldest = left.find(|s| !self.pinned.contains(*s));
        if let (Some(gone), Some(oldest)) = (gone, oldest) {
            assert!(gone < oldest, "{step}: {gone} went before {oldest}");
        }
        let lost = self.pinned.iter().find(|s| !there.contains(*s));
        assert_eq!(lost, None, "{step}: a pinned one is gone");
        self.present = there;
    }

    /// What must hold when nothing is being written.
    fn check_at_rest(&mut self, root: &Path, store: &ClipStore, step: &str) {
        self.check(root, step);
        let there = there(root);
        assert_eq!(
            store.bytes(),
            walk(root),
            "{step}: what is counted is there"
        );
        let stems: Vec<String> = there.iter().map(|s| s.replacen("clips/", "", 1)).collect();
        assert_eq!(store.clips(), stems, "{step}");
        // No file is anybody's but a finished clip's.
        for file in files(&root.join("clips"), "") {
            let below = file.strip_prefix(root).unwrap().to_str().unwrap();
            let stem = below.split_once('.').unwrap().0;
            let known = stem == "clips/" || there.iter().any(|s| s == stem);
            assert!(known && !below.ends_with(".part"), "{step}: orphan {below}");
        }
        // The index is the files, and the files are what was told.
        let entries = store.entries().unwrap();
        let listed: BTreeMap<String, bool> = entries
            .iter()
            .filter(|e| e.state == EntryState::Ready)
            .map(|e| (stem(&ready(e.result.clone().unwrap())), e.is_pinned))
            .collect();
        assert!(
            listed.keys().eq(there.iter()),
            "{step}: the index is not the files"
        );
        for (stem, is_pinned) in listed {
            assert_eq!(is_pinned, self.pinned.contains(&stem), "{step}: {stem}");
            let clip = &self.ready[&stem];
            let file = std::fs::read(root.join(&clip.file)).unwrap();
            let sum: String = Sha256::digest(&file)
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            assert_eq!(sum, clip.sha256, "{step}: {stem}");
        }
    }
}

#[test]
fn with_over_ten_times_the_quota_written_the_oldest_unpinned_clips_are_gone_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut random = Random(7);
    let mut books = Books::default();
    let mut number = 0;
    // Twice: the second time on what the first one left.
    for run in 1..=2 {
        let store = ClipStore::open(root, "clips", QUOTA).unwrap();
        assert_eq!(store.take_over().unwrap(), [], "run {run}");
        books.check_at_rest(root, &store, &format!("run {run} begins"));
        let mut lanes = SOURCES.map(|s| Lane::start(s, &store));
        let goal = books.written + 12 * QUOTA;
        while books.written < goal {
            let lane = &mut lanes[usize::try_from(random.below(3)).unwrap()];
            lane.pictures(random.between(5, 40), &mut random);
            let stats = lane.lane.stats();
            if stats.requested - stats.ready - stats.failed < OPEN {
                number += 1;
                let event = (lane.next - 1) * STEP;
                let (pre, post) = (random.between(1, 20), random.between(1, 30));
                let mut r = request(number, event, pre * STEP, post * STEP);
                r.wall_ns = WALL_NS + i64::from(number) * NS_PER_S;
                lane.lane.announce(&r);
                lane.lane.request(r);
            }
            let step = format!("run {run}, clip {number}");
            for lane in &lanes {
                for result in lane.results.try_iter() {
                    books.take(&result, &store, &mut random);
                }
            }
            books.check(root, &step);
        }
        for lane in &lanes {
            lane.lane.finish(Finish::SourceEnd, LONG).unwrap();
            for result in lane.results.try_iter() {
                books.take(&result, &store, &mut random);
            }
        }
        books.check_at_rest(root, &store, &format!("run {run} ends"));
        assert!(books.pinned.len() >= 3, "{:?}", books.pinned);
        assert!(
            there(root).len() >= 6,
            "the quota holds some clips: {:?}",
            there(root)
        );
        // One is not kept any longer, and goes in its turn.
        let unpinned = books.pinned.first().unwrap().clone();
        store.pin(&books.ids[&unpinned], false).unwrap();
        books.pinned.remove(&unpinned);
    }
    let store = ClipStore::open(root, "clips", QUOTA).unwrap();
    assert_eq!(store.take_over().unwrap(), []);
    books.check_at_rest(root, &store, "at the end");
    assert!(books.written > 20 * QUOTA, "{}", books.written);
    assert_eq!(books.failed, 0);
}

/// A clip of so many pictures of 2000 bytes, asked for now.
fn clip(lane: &mut Lane, number: u32, pictures: i64) -> ClipResult {
    let event = (lane.next - 1).max(0) * STEP;
    let mut r = request(number, event, 0, pictures * STEP);
    r.wall_ns = WALL_NS + i64::from(number) * NS_PER_S;
    lane.lane.request(r);
    for n in lane.next..lane.next + pictures + 2 {
        let packet = Packet {
            data: Bytes::from(vec![1; 2000]),
            is_key: n % 10 == 0,
            pts_ns: n * STEP,
            dts_ns: n * STEP,
            frame_id: u64::try_from(n).unwrap(),
            params: Arc::clone(&lane.params),
        };
        assert_eq!(lane.lane.offer_packet(packet), Offered::Taken);
    }
    lane.next += pictures + 2;
    lane.results.recv_timeout(LONG).unwrap()
}

#[test]
fn nothing_is_deleted_where_that_would_not_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = ClipStore::open(dir.path(), "clips", 100_000).unwrap();
    let mut lane = Lane::start("a", &store);
    // Some 60 kB that stay, and some 12 kB that need not.
    let pinned = clip(&mut lane, 1, 25);
    store.pin(&pinned.id, true).unwrap();
    let small = ready(clip(&mut lane, 2, 2));
    let before = there(dir.path());
    assert_eq!(before.len(), 2);
    // One picture is more than both of what is free and what could be.
    let result = {
        let mut r = request(3, lane.next * STEP, 0, STEP);
        r.wall_ns = WALL_NS + 3 * NS_PER_S;
        lane.lane.request(r);
        for n in lane.next..lane.next + 4 {
            let packet = Packet {
                data: Bytes::from(vec![1; 60_000]),
                is_key: true,
                pts_ns: n * STEP,
                dts_ns: n * STEP,
                frame_id: u64::try_from(n).unwrap(),
                params: Arc::clone(&lane.params),
            };
            assert_eq!(lane.lane.offer_packet(packet), Offered::Taken);
        }
        lane.lane.finish(Finish::SourceEnd, LONG).unwrap();
        lane.results.recv_timeout(LONG).unwrap()
    };
    assert!(reason(result).contains("quota"));
    assert_eq!(there(dir.path()), before, "{} went in vain", small.file);
}

#[test]
fn what_another_process_deleted_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = ClipStore::open(dir.path(), "clips", 100_000).unwrap();
    let mut lane = Lane::start("a", &store);
    let small = clip(&mut lane, 1, 2);
    let large = clip(&mut lane, 2, 25);
    // As `visualpath clip delete` does it.
    let other = ClipStore::open(dir.path(), "clips", 100_000).unwrap();
    other.delete(&large.id).unwrap();
    let next = ready(clip(&mut lane, 3, 25));
    assert_eq!(there(dir.path()).len(), 2, "the oldest had not to go");
    assert!(store.file_of(&small.id).is_some());
    assert!(dir.path().join(&next.file).exists());
    lane.lane.finish(Finish::SourceEnd, LONG).unwrap();
}

#[test]
fn a_clip_that_is_pinned_and_deleted_at_once_is_pinned_or_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = ClipStore::open(dir.path(), "clips", QUOTA).unwrap();
    let mut lane = Lane::start("a", &store);
    let ids: Vec<String> = (1..=12).map(|n| clip(&mut lane, n, 2).id).collect();
    let other = ClipStore::open(dir.path(), "clips", QUOTA).unwrap();
    for (n, id) in ids.iter().enumerate() {
        let begin = std::sync::Barrier::new(2);
        let (pinned, deleted) = std::thread::scope(|s| {
            let pins = s.spawn(|| {
                begin.wait();
                other.pin(id, true)
            });
            begin.wait();
            let deleted = store.delete(id);
            (pins.join().unwrap(), deleted)
        });
        assert_ne!(pinned.is_ok(), deleted.is_ok(), "{pinned:?} {deleted:?}");
        let left = there(dir.path()).len();
        assert_eq!(store.file_of(id).is_some(), pinned.is_ok(), "{n}: {left}");
    }
    lane.lane.finish(Finish::SourceEnd, LONG).unwrap();
}

#[test]
fn a_video_that_is_no_clip_of_ours_is_never_deleted_by_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let day = dir.path().join("clips/2026-11-21");
    std::fs::create_dir_all(&day).unwrap();
    let video = day.join("235959Z_a_b_00000000.mp4");
    std::fs::write(&video, [7; 5000]).unwrap();
    for _ in 0..2 {
        let store = ClipStore::open(dir.path(), "clips", QUOTA).unwrap();
        assert_eq!(store.take_over().unwrap(), []);
        assert_eq!(std::fs::read(&video).unwrap(), [7; 5000]);
    }
}
