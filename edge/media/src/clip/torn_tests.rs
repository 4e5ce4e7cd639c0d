//! What is promised of clips when the power goes, or a call fails, between any two calls: on the
//! model of a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;
use visualpath_core::{NS_PER_S, Name};

use super::index::{Index as _, Row};
use super::merge::{Merging, Settled};
use super::model::{Fault, ModelDisk, Op, Random, is_ready};
use super::open::{OpenClip, Step, failed};
use super::store::ClipStore;
use super::*;
use crate::encode::{CodecParams, Packet};
use crate::ring::{Gap, GapCause, Ring};

/// No whole number of the file's ticks.
const STEP_NS: i64 = 40_000_333;
/// Pictures of a run: 14 s.
const PICTURES: i64 = 350;
const GOP: i64 = 30;

fn uuid(n: usize) -> String {
    format!("00000000-0000-7000-8000-{n:012x}")
}

fn packets() -> Vec<Packet> {
    let params = CodecParams::for_tests(64, 48);
    (0..PICTURES)
        .map(|n| {
            let size = 40 + usize::try_from(n * 37 % 900).unwrap();
            let fill = u8::try_from(n % 251).unwrap();
            Packet {
                data: Bytes::from(vec![fill; size]),
                is_key: n % GOP == 0,
                pts_ns: n * STEP_NS,
                dts_ns: n * STEP_NS,
                frame_id: u64::try_from(n).unwrap(),
                params: Arc::clone(&params),
            }
        })
        .collect()
}

/// Event, pre-roll and post-roll in pictures; one overlaps two others.
const CLIPS: [(i64, i64, i64); 5] = [
    (60, 40, 90),
    (100, 10, 20),
    (130, 50, 160),
    (215, 5, 30),
    (240, 80, 60),
];

fn request(n: usize) -> ClipRequest {
    let (event, pre, post) = CLIPS[n];
    ClipRequest {
        id: uuid(n),
        trigger_id: format!("trigger-{n}"),
        path: Name::new("yard").unwrap(),
        label: Name::new("seen").unwrap(),
        event_ns: event * STEP_NS,
        wall_ns: 1_795_377_600 * NS_PER_S + event * STEP_NS,
        start_ns: (event - pre) * STEP_NS,
        end_ns: (event + post) * STEP_NS,
        best_ns: None,
    }
}

fn source() -> Name {
    Name::new("cam0").unwrap()
}

fn store(disk: &ModelDisk, quota: u64) -> Arc<ClipStore> {
    let disk: Arc<dyn super::disk::Disk> = Arc::new(disk.clone());
    ClipStore::on(disk, Path::new("/state"), "clips", quota).unwrap()
}

/// The clip thread's loop, without the thread.
struct Run<'a> {
    disk: &'a ModelDisk,
    store: &'a Arc<ClipStore>,
    merging: Option<Merging>,
    ring: Ring,
    open: Vec<OpenClip>,
    results: Vec<ClipResult>,
}

impl Run<'_> {
    fn settle(&mut self, settled: Settled) {
        for result in settled.results {
            let asked = (0..CLIPS.len()).map(request).find(|r| r.id == result.id);
            self.store.answered(&source(), &asked.unwrap(), &result);
            self.store.told(&result.id);
            self.results.push(result);
        }
        for request in settled.left {
            self.request(request, true);
        }
    }

    fn request(&mut self, request: ClipRequest, again: bool) {
        let id = request.id.clone();
        let newest_ns = self.ring.newest_ns();
        let host = self.merging;
        if let Some(host) = host.and_then(|m| m.host(&self.open, &request, newest_ns)) {
            let host_id = self.open[host].request.id.clone();
            self.store.joined(&source(), &request, Some(&host_id));
            match self.open[host].join(request) {
                Ok(Step::Open) => self.disk.mark(Op::Begun(id)),
                Ok(Step::Done(end)) => {
                    let clip = self.open.remove(host);
                    self.settle(clip.finish(end, self.ring.newest_ns()));
                }
                Err(e) => {
                    let clip = self.open.remove(host);
                    self.settle(clip.fail(&e));
                }
            }
            return;
        }
        if again {
            self.store.joined(&source(), &request, None);
        }
        let mut clip = OpenClip::new(request, source(), 0);
        match clip.begin(&self.ring, self.store, None) {
            Ok(Step::Open) => {
                self.disk.mark(Op::Begun(id));
                self.open.push(clip);
            }
            Ok(Step::Done(end)) => self.settle(clip.finish(end, self.ring.newest_ns())),
            Err(e) => self.settle(clip.fail(&e)),
        }
    }

    fn packet(&mut self, packet: &Packet) {
        self.ring.add(packet.clone()).unwrap();
        for mut clip in std::mem::take(&mut self.open) {
            match clip.push(packet) {
                Ok(Step::Open) => self.open.push(clip),
                Ok(Step::Done(end)) => self.settle(clip.finish(end, self.ring.newest_ns())),
                Err(e) => self.settle(clip.fail(&e)),
            }
        }
    }
}

/// Gives every result.
fn run(disk: &ModelDisk, store: &Arc<ClipStore>) -> Vec<ClipResult> {
    run_with(disk, store, None)
}

fn run_with(disk: &ModelDisk, store: &Arc<ClipStore>, merging: Option<Merging>) -> Vec<ClipResult> {
    let mut run = Run {
        disk,
        store,
        merging,
        ring: Ring::new(1 << 20, 2 * NS_PER_S),
        open: Vec::new(),
        results: Vec::new(),
    };
    for packet in packets() {
        let picture = packet.pts_ns / STEP_NS;
        disk.mark(Op::Pushed(packet.pts_ns));
        if picture == 150 {
            let gap = Gap {
                from_ns: packet.pts_ns - STEP_NS,
                to_ns: packet.pts_ns,
                lost: 0,
                cause: GapCause::Source,
            };
            run.ring.add_gap(gap);
            run.open.iter_mut().for_each(|c| c.push_gap(gap));
        }
        run.packet(&packet);
        let at_this = CLIPS.iter().enumerate().filter(|(_, c)| c.0 == picture);
        for (n, _) in at_this {
            store.asked(&source(), &request(n));
            disk.mark(Op::Named(uuid(n)));
            run.request(request(n), false);
        }
    }
    assert!(run.open.is_empty());
    run.results
}

/// Of the five clips the first two and the next two share a file, or all five.
fn merging() -> [Option<Merging>; 2] {
    [215, 300].map(|pictures| {
        Some(Merging {
            gap_ns: GOP * STEP_NS,
            max_ns: pictures * STEP_NS,
        })
    })
}

/// Every clip on the disk is whole; gives them by id.
fn whole_clips(disk: &ModelDisk) -> BTreeMap<String, ReadyClip> {
    let packets = packets();
    let mut clips = BTreeMap::new();
    for path in disk.paths() {
        let name = path.to_string_lossy().into_owned();
        assert!(!name.ends_with(".part"), "left behind: {name}");
        let Some(stem) = name.strip_suffix(".mp4") else {
            let mp4 = PathBuf::from(format!("{}.mp4", name.split_once('.').unwrap().0));
            assert!(disk.bytes(&mp4).is_some(), "nobody's: {name}");
            continue;
        };
        let text = disk.bytes(Path::new(&format!("{stem}.json")));
        let mut all = super::finish::read_sidecar(&text.expect("a sidecar")).expect("whole");
        let (_, result) = all.remove(0);
        let ClipState::Ready(clip) = result.state else {
            panic!("{name}: the sidecar says it failed");
        };
        let bytes = disk.bytes(&path).unwrap();
        assert_eq!(bytes.len() as u64, clip.bytes, "{name}");
        let sum = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
        let sum: String = sum.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(sum, clip.sha256, "{name}");
        assert!(name.ends_with(&clip.file[5..]), "{name} {}", clip.file);
        // Read by a parser that is not ours: the very packets.
        let mp4 = re_mp4::Mp4::read_bytes(&bytes).unwrap();
        assert!(mp4.moofs.is_empty(), "{name}: plain");
        let track = mp4.tracks().values().next().unwrap();
        let first = usize::try_from(clip.start_ns / STEP_NS).unwrap()
            - usize::try_from(clip.lead_in_frames).unwrap();
        let shown = clip.frames + clip.lead_in_frames;
        assert_eq!(track.samples.len() as u64, shown, "{name}");
        for (sample, packet) in track.samples.iter().zip(&packets[first..]) {
            let same = bytes[sample.byte_range()] == packet.data[..];
            assert!(same, "{name}: not the packet at {}", packet.pts_ns);
            assert_eq!(sample.is_sync, packet.is_key);
        }
        let steps = i64::try_from(clip.frames).unwrap() - 1;
        let off_ns = clip.end_ns - clip.start_ns - steps * STEP_NS;
        // A file that was finished later knows its times to the tick.
        assert!(off_ns.abs() <= 500, "{name}: {off_ns}");
        let spans = clip.start_ns < 149 * STEP_NS && clip.end_ns >= 150 * STEP_NS;
        // What was known of the gap went with the fragment that followed it.
        if spans && clip.end_ns > 151 * STEP_NS {
            assert_eq!(clip.gaps.len(), 1, "{name}");
        }
        for (asked, joined) in all {
            assert_eq!(asked.merged_into.as_ref(), Some(&result.id));
            let ClipState::Ready(ready) = joined.state else {
                panic!("{name}: {joined:?}");
            };
            assert_eq!(ready.file, clip.file);
            let known = clips.insert(joined.id, ready);
            assert_eq!(known, None, "in two files");
        }
        let known = clips.insert(result.id, clip);
        assert_eq!(known, None, "in two files");
    }
    clips
}

/// What an appliance finds that starts after the power went at `calls`.
fn after_the_cut(before: &ModelDisk, calls: usize, disk: &ModelDisk, has_index: bool) {
    let store = store(disk, 1 << 30);
    let log = &before.log()[..calls];
    let unheard = store.take_over_with(disk.index());
    assert_eq!(store.trouble(), None);
    let clips = whole_clips(disk);

    // Every clip that was asked for has exactly one answer.
    let asked: BTreeSet<&str> = log
        .iter()
        .filter_map(|op| match op {
            Op::Named(id) => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let told: BTreeSet<&str> = log
        .iter()
        .filter_map(|op| match op {
            Op::Told(id) => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let mut answers: BTreeMap<&str, usize> = BTreeMap::new();
    for u in &unheard {
        *answers.entry(u.result.id.as_str()).or_default() += 1;
        assert_eq!(u.request.trigger_id, u.result.trigger_id);
        assert_eq!(
            is_ready(&u.result),
            clips.contains_key(&u.result.id),
            "{u:?}"
        );
    }
    for id in &asked {
        let answers = answers.get(id).copied().unwrap_or(0);
        match has_index {
            true => assert_eq!(answers + usize::from(told.contains(id)), 1, "{id}"),
            // Nobody knows of those that have no file.
            false => assert!(answers <= 1),
        }
    }
    for op in log {
        if let Op::Finished(_, result) = op
            && is_ready(result)
        {
            assert!(clips.contains_key(&result.id), "{} was ready", result.id);
        }
    }

    // At most 2 s of what an open clip had are lost: everything its synced fragments had is there.
    let pushed = log.iter().rev().find_map(|op| match op {
        Op::Pushed(t_ns) => Some(*t_ns),
        _ => None,
    });
    for u in &unheard {
        let ClipState::Ready(clip) = &u.result.state else {
            assert!(!has_begun(log, &u.request.id), "lost: {u:?}");
            continue;
        };
        // To half a tick of the file: then it is the picture that was asked for.
        if clip.end_ns + 500 >= u.request.end_ns {
            assert_eq!(clip.end_reason, ClipEnd::Complete, "{u:?}");
        }
        if clip.end_reason == ClipEnd::Interrupted {
            assert!(clip.partial);
            let newest = pushed.unwrap().min(u.request.end_ns);
            // From the moment on in which its beginning is there.
            assert!(
                !has_begun(log, &u.request.id) || newest - clip.end_ns <= 2 * NS_PER_S + STEP_NS,
                "{} ns are lost of {}",
                newest - clip.end_ns,
                u.request.id
            );
        } else {
            assert!(!clip.partial);
        }
    }

    // Once told, nothing more is to be said, and the files stay as they are.
    for u in &unheard {
        store.told(&u.result.id);
    }
    let again = super::torn_tests::store(disk, 1 << 30);
    assert_eq!(again.take_over_with(disk.index()), []);
    assert_eq!(whole_clips(disk), clips);
    assert_eq!(again.bytes(), store.bytes(), "what is counted is there");
}

/// Whether the clip thread had gone on from the beginning of this clip.
fn has_begun(log: &[Op], id: &str) -> bool {
    log.iter()
        .any(|op| matches!(op, Op::Begun(begun) if begun == id))
}

#[test]
fn after_a_power_cut_between_any_two_calls_every_clip_is_whole_or_accounted_for() {
    cut_everywhere(None, 3);
}

#[test]
fn so_is_every_clip_that_shares_its_file() {
    for (merging, files) in merging().into_iter().zip([3, 1]) {
        let disk = cut_everywhere(merging, 2);
        let mp4 = |p: &&PathBuf| p.extension().is_some_and(|e| e == "mp4");
        assert_eq!(disk.paths().iter().filter(mp4).count(), files);
    }
}

/// Cuts the power after each call of a run, in a few ways. Gives the disk of the whole run.
fn cut_everywhere(merging: Option<Merging>, ways: usize) -> ModelDisk {
    let disk = ModelDisk::default();
    let first = store(&disk, 1 << 30);
    assert_eq!(first.take_over_with(disk.index()), []);
    let results = run_with(&disk, &first, merging);
    assert_eq!(results.iter().filter(|r| is_ready(r)).count(), CLIPS.len());
    assert_eq!(whole_clips(&disk).len(), CLIPS.len());
    let calls = disk.log().len();
    let mut random = Random(1);
    for n in 0..=calls {
        after_the_cut(&disk, n, &disk.durable(n), true);
        after_the_cut(&disk, n, &disk.cut(n, &mut |many| many.min(2) - 1), true);
        for _ in 0..ways {
            let cut = disk.cut(n, &mut |many| random.below(many));
            after_the_cut(&disk, n, &cut, true);
            let lost = disk.cut(n, &mut |many| random.below(many)).without_rows();
            after_the_cut(&disk, n, &lost, false);
        }
    }
    disk
}

#[test]
fn a_power_cut_while_the_last_one_is_cleaned_up_after_changes_nothing() {
    for merging in [None, merging()[0]] {
        let disk = ModelDisk::default();
        let first = store(&disk, 1 << 30);
        first.take_over_with(disk.index());
        run_with(&disk, &first, merging);
        cut_while_cleaned_up(&disk);
    }
}

fn cut_while_cleaned_up(disk: &ModelDisk) {
    let calls = disk.log().len();
    let mut random = Random(2);
    for n in (0..=calls).step_by(7) {
        let cut = disk.cut(n, &mut |many| random.below(many));
        let second = store(&cut, 1 << 30);
        second.take_over_with(cut.index());
        for m in 0..=cut.log().len() {
            let again = cut.cut(m, &mut |many| random.below(many));
            // Nobody was told: that comes after.
            after_the_cut(disk, n, &again, true);
        }
    }
}

#[test]
fn whatever_call_fails_every_clip_has_one_result_and_the_store_is_whole_after_a_restart() {
    fail_everywhere(None);
}

#[test]
fn so_it_is_where_clips_share_their_files() {
    fail_everywhere(merging()[0]);
}

fn fail_everywhere(merging: Option<Merging>) {
    let disk = ModelDisk::default();
    let all = store(&disk, 1 << 30);
    all.take_over_with(disk.index());
    run_with(&disk, &all, merging);
    let mut seen = BTreeSet::new();
    for at in 0..disk.calls() {
        for errno in [Errno::NOSPC, Errno::IO, Errno::ROFS] {
            for for_good in [false, true] {
                let fault = Fault {
                    at,
                    for_good,
                    errno,
                };
                let disk = ModelDisk::failing(Some(fault));
                let first = store(&disk, 1 << 30);
                first.take_over_with(disk.index());
                let results = run_with(&disk, &first, merging);
                let ids: BTreeSet<&str> = results.iter().map(|r| r.id.as_str()).collect();
                assert_eq!((results.len(), ids.len()), (CLIPS.len(), CLIPS.len()));
                let hits = disk.hits();
                let sync_failed = hits.iter().any(|h| h.contains("Sync"));
                assert_eq!(first.trouble().is_some(), sync_failed, "{hits:?}");
                let ready: BTreeMap<&str, &ClipResult> = results
                    .iter()
                    .filter(|r| is_ready(r))
                    .map(|r| (r.id.as_str(), r))
                    .collect();
                for r in &results {
                    if let ClipState::Failed { reason } = &r.state {
                        assert!(reason.len() > 10, "{reason}");
                    }
                    if let ClipState::Ready(clip) = &r.state {
                        seen.insert(clip.end_reason);
                    }
                }
                // One call that fails once costs one clip at most, or safe mode.
                if !for_good && !sync_failed {
                    assert!(ready.len() + 1 >= CLIPS.len(), "{fault:?}: {results:?}");
                }
                disk.mended();
                let second = store(&disk, 1 << 30);
                let unheard = second.take_over_with(disk.index());
                let clips = whole_clips(&disk);
                for id in ready.keys() {
                    assert!(clips.contains_key(*id), "{fault:?}: {id} was ready");
                }
                // An index that could not be written may say again what was said.
                for u in &unheard {
                    assert!(
                        for_good
                            || !ready.contains_key(u.result.id.as_str())
                            || hits[0].contains("Told")
                            || hits[0].contains("Finished"),
                        "{fault:?} {hits:?} {u:?}"
                    );
                }
            }
        }
    }
    assert!(
        seen.contains(&ClipEnd::DiskFull) && seen.contains(&ClipEnd::DiskError),
        "clips end at their last fragment: {seen:?}"
    );
}

/// A disk on which the power went in the middle of a run.
fn cut_short() -> (ModelDisk, usize, ModelDisk) {
    let disk = ModelDisk::default();
    let first = store(&disk, 1 << 30);
    first.take_over_with(disk.index());
    run(&disk, &first);
    // Two clips are ready by then, two are being written.
    let calls = disk
        .log()
        .iter()
        .position(|op| matches!(op, Op::Pushed(t) if *t == 245 * STEP_NS))
        .unwrap();
    let cut = disk.cut(calls, &mut |many| many.min(2) - 1);
    (disk, calls, cut)
}

#[test]
fn whatever_call_fails_while_it_is_cleaned_up_nothing_is_lost_and_the_next_start_answers() {
    let (disk, calls, whole) = cut_short();
    let before = whole.calls();
    store(&whole, 1 << 30).take_over_with(whole.index());
    let after = whole.calls();
    let expected: BTreeSet<String> = whole_clips(&whole).into_keys().collect();
    assert!(expected.len() >= 4, "{expected:?}");
    for n in 0..after - before {
        for errno in [Errno::NOSPC, Errno::IO, Errno::ROFS] {
            for for_good in [false, true] {
                let cut = disk.cut(calls, &mut |many| many.min(2) - 1);
                cut.fail(Fault {
                    at: cut.calls() + n,
                    for_good,
                    errno,
                });
                let second = store(&cut, 1 << 30);
                let told = second.take_over_with(cut.index());
                cut.mended();
                for u in &told {
                    second.told(&u.result.id);
                }
                let third = store(&cut, 1 << 30);
                let later = third.take_over_with(cut.index());
                let clips: BTreeSet<String> = whole_clips(&cut).into_keys().collect();
                assert_eq!(
                    clips,
                    expected,
                    "{errno:?} at {n}, for good: {for_good}: {:?}",
                    cut.hits()
                );
                for u in told.iter().chain(&later) {
                    assert_eq!(is_ready(&u.result), clips.contains(&u.result.id), "{u:?}");
                }
            }
        }
    }
}

#[test]
fn a_range_that_was_over_when_the_power_went_ends_where_it_ended() {
    let disk = ModelDisk::default();
    let first = store(&disk, 1 << 30);
    first.take_over_with(disk.index());
    let (end_ns, best_ns) = (150 * STEP_NS, Some(101 * STEP_NS));
    let asked = ClipRequest {
        end_ns: 3600 * NS_PER_S,
        best_ns: Some(61 * STEP_NS),
        ..request(0)
    };
    first.asked(&source(), &asked);
    let mut ring = Ring::new(1 << 20, 2 * NS_PER_S);
    let (before, after) = (packets(), packets().split_off(61));
    for packet in &before[..61] {
        ring.add(packet.clone()).unwrap();
    }
    let mut clip = OpenClip::new(asked.clone(), source(), 0);
    clip.begin(&ring, &first, None).unwrap();
    for packet in &after {
        clip.push(packet).unwrap();
    }
    first.end_known(&asked.id, end_ns, best_ns);
    // The power goes before the clip's own thread has heard of it.
    let cut = disk.durable(disk.log().len());
    let again = store(&cut, 1 << 30);
    let unheard = again.take_over_with(cut.index());
    let [u] = &unheard[..] else {
        panic!("{unheard:?}")
    };
    let check = |result: &ClipResult| {
        let ClipState::Ready(ready) = &result.state else {
            panic!("{result:?}")
        };
        assert_eq!((ready.asked_end_ns, ready.end_ns), (end_ns, end_ns));
        assert_eq!((ready.still_ns, ready.short_post_ms), (best_ns, 0.0));
        assert_eq!(
            (ready.end_reason, ready.partial),
            (ClipEnd::Complete, false)
        );
    };
    check(&u.result);
    assert_eq!((u.request.end_ns, u.request.best_ns), (end_ns, best_ns));
    // A sidecar that is lost is made again of the file, whose note knows neither.
    let json = cut
        .paths()
        .into_iter()
        .find(|p| p.extension() == Some("json".as_ref()));
    let json = json.unwrap();
    super::disk::Disk::remove(&cut, &json).unwrap();
    again.told(&u.result.id);
    store(&cut, 1 << 30).take_over_with(cut.index());
    let text = cut.bytes(&json).unwrap();
    let all = super::finish::read_sidecar(&text).unwrap();
    let (asked, result) = &all[0];
    check(result);
    assert_eq!(asked.request.best_ns, best_ns);
}

#[test]
fn what_an_earlier_version_wrote_of_a_request_is_read_and_the_index_corrects_its_end() {
    let mut row = serde_json::to_value(request(0)).unwrap();
    row["source"] = "cam0".into();
    assert!(row.get("best_ns").is_none(), "{row}");
    let asked: super::index::Asked = serde_json::from_value(row).unwrap();
    assert_eq!(asked.request, request(0));
    assert_eq!(asked.request.still_at_ns(), asked.request.event_ns);

    let dir = tempfile::tempdir().unwrap();
    let mut index = super::index::SqliteIndex::open(dir.path(), "clips").unwrap();
    let index: &mut dyn super::index::Index = &mut index;
    let id = asked.request.id.clone();
    let ends = |index: &mut dyn super::index::Index| {
        let row = index.rows().unwrap().pop().unwrap();
        (row.asked.request.end_ns, row.asked.request.best_ns)
    };
    index.open(&asked).unwrap();
    index.set_end(&id, i64::MAX - 1, None).unwrap();
    assert_eq!(ends(index), (i64::MAX - 1, None));
    index.set_end(&id, 7, Some(-8)).unwrap();
    index.set_end(&id, 9, None).unwrap();
    assert_eq!(ends(index), (9, Some(-8)));
    // Who joins it to a clip has it as it was asked for; its end stays known.
    let joined = asked.clone().into_file_of("another");
    index.join(&joined).unwrap();
    assert_eq!(ends(index), (9, Some(-8)));
    assert_eq!(index.rows().unwrap()[0].asked.host(), "another");
    index.join(&asked).unwrap();
    assert_eq!(index.rows().unwrap()[0].asked.host(), id);
    // What has its result stays what it was.
    let result = failed(asked.request.clone(), source(), &"no picture");
    index.finish(&asked, &result).unwrap();
    index.set_end(&id, 11, Some(12)).unwrap();
    assert_eq!(ends(index), (9, Some(-8)));
}

#[test]
fn a_clip_whose_sidecar_is_gone_or_damaged_gets_it_again() {
    for damaged in [false, true] {
        let disk = ModelDisk::default();
        let first = store(&disk, 1 << 30);
        first.take_over_with(disk.index());
        run(&disk, &first);
        let clips = whole_clips(&disk);
        for path in disk.paths() {
            if path.extension().is_some_and(|e| e == "json") {
                let disk: &dyn super::disk::Disk = &disk;
                match damaged {
                    true => disk.open(&path).unwrap().set_len(20).unwrap(),
                    false => disk.remove(&path).unwrap(),
                }
            }
        }
        let second = store(&disk, 1 << 30);
        assert_eq!(second.take_over_with(disk.index()), []);
        let again = whole_clips(&disk);
        assert!(again.keys().eq(clips.keys()), "damaged: {damaged}");
    }
}

#[test]
fn only_a_clip_that_is_known_to_have_failed_is_thrown_away_after_a_crash() {
    let (disk, calls, _) = cut_short();
    let again = || disk.cut(calls, &mut |many| many.min(2) - 1);
    let open: Vec<Row> = again()
        .rows()
        .into_iter()
        .filter(|r| r.result.is_none())
        .collect();
    assert!(open.len() >= 2, "{open:?}");
    for row in &open {
        let id = &row.asked.request.id;
        // Whether its row is there, and whether it says that it failed.
        for (known, has_failed) in [(true, false), (true, true), (false, false)] {
            let mut cut = again();
            if has_failed {
                let request = row.asked.request.clone();
                let result = failed(request, source(), &"no room");
                cut.finish(&row.asked, &result).unwrap();
            }
            if !known {
                cut = cut.without_rows();
            }
            let second = store(&cut, 1 << 30);
            let unheard = second.take_over_with(cut.index());
            let answers: Vec<bool> = unheard
                .iter()
                .filter(|u| u.result.id == *id)
                .map(|u| is_ready(&u.result))
                .collect();
            assert_eq!(answers, [!has_failed], "{id}, {known}");
            assert_eq!(whole_clips(&cut).contains_key(id), !has_failed);
        }
    }
}

#[test]
fn a_clip_of_large_pictures_is_in_pieces_that_a_recovery_reads() {
    const LARGE: usize = 6 << 20;
    let disk = ModelDisk::default();
    let first = store(&disk, 1 << 30);
    first.take_over_with(disk.index());
    let params = CodecParams::for_tests(64, 48);
    let data = Bytes::from(vec![7; LARGE]);
    let picture = |n: i64| Packet {
        data: data.clone(),
        is_key: n == 0,
        pts_ns: n * STEP_NS,
        dts_ns: n * STEP_NS,
        frame_id: u64::try_from(n).unwrap(),
        params: Arc::clone(&params),
    };
    let mut ring = Ring::new(1 << 30, 2 * NS_PER_S);
    ring.add(picture(0)).unwrap();
    let mut asked = request(0);
    (asked.start_ns, asked.event_ns) = (0, 0);
    first.asked(&source(), &asked);
    let mut clip = OpenClip::new(asked, source(), 0);
    assert_eq!(clip.begin(&ring, &first, None).unwrap(), Step::Open);
    for n in 1..16 {
        assert_eq!(clip.push(&picture(n)).unwrap(), Step::Open);
    }
    let cut = disk.durable(disk.log().len());
    let unheard = store(&cut, 1 << 30).take_over_with(cut.index());
    let ClipState::Ready(ready) = &unheard[0].result.state else {
        panic!("{unheard:?}");
    };
    // At most what fits into one piece is lost.
    assert!(ready.frames >= 10, "{ready:?}");
}

#[test]
fn a_directory_that_is_gone_has_nothing_to_sync_and_any_other_failed_sync_ends_it_all() {
    use super::disk::{Disk as _, RealDisk};
    let dir = tempfile::tempdir().unwrap();
    let store = ClipStore::open(dir.path(), "clips", 1 << 30).unwrap();
    let gone = dir.path().join("clips/2026-11-22");
    let failed = store.synced("sync the directory", &gone, RealDisk.sync_dir(&gone));
    assert!(failed.is_err());
    assert_eq!(store.trouble(), None);
    let broken = store.synced("sync", &gone, Err(Errno::IO.into()));
    assert!(broken.is_err());
    assert!(store.trouble().unwrap().contains("sync"));
}
