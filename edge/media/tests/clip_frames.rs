//! Frame-exact, in numbers: thousands of clips out of a synthetic source, whose pictures say their
//! number and time themselves, read back picture by picture and compared with what was asked.
//!
//! `clip_exact.rs` asks ffmpeg about every clip, which costs a process each. Here a clip is taken
//! apart by `re_mp4` (not our code), decoded in this process, and every fiftieth is shown to ffmpeg
//! all the same. Runs are few and clips many: up to a hundred overlapping ones out of one source,
//! as rules make them.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test; its numbers are small"
)]

mod clip_support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clip_support::{Random, grey, name, request};
use visualpath_core::{ColorSpec, MonotonicClock, NS_PER_S};
use visualpath_frames::{FramePool, PoolSpec};
use visualpath_media::clip::{
    ClipEnd, ClipRequest, ClipResult, ClipState, ClipStore, EvidenceLane, Finish, LaneOptions,
    Offered, ReadyClip, ShortPre,
};
use visualpath_media::convert::Converter;
use visualpath_media::decode;
use visualpath_media::encode::{Codec, CodecParams, Packet};
use visualpath_media::ring::{Gap, GapCause};
use visualpath_media::source::synthetic::read_frame_number;
use visualpath_media::source::{Source, SourceEvent, SourceOptions, StopFlag, open};

/// The code of number and time needs 128 × 112.
const WIDTH: usize = 128;
const HEIGHT: usize = 112;
/// A tick of our files.
const TICK_NS: i64 = 1000;
/// One clip in so many is shown to ffmpeg, too.
const FFMPEG_EVERY: u64 = 50;

/// One run: a camera, a lane, and what is asked of it.
struct Plan {
    uri: String,
    gop_s: f64,
    /// So small that pre-rolls are evicted.
    small_ring: Option<usize>,
}

fn plan(random: &mut Random) -> Plan {
    let fps = random.between(4_000, 31_000) as f64 / 1000.0;
    let step_ns = (1e9 / fps) as i64;
    let frames = random.between(300, 700) as u64;
    let most_jitter_ms = (step_ns / 2 - 2_000_000) / 1_000_000;
    let jitter_ms = match random.below(3) {
        0 => 0,
        _ => random.between(0, most_jitter_ms.max(1)),
    };
    let mut uri = format!(
        "synthetic:?width={WIDTH}&height={HEIGHT}&text=0&fps={fps}&frames={frames}&seed={}&jitter_ms={jitter_ms}",
        random.below(1 << 40)
    );
    if random.below(3) > 0 {
        let every = random.between(12, 150);
        let lost = random.between(1, every / 2);
        uri += &format!("&gap_every={every}&gap_frames={lost}");
    }
    Plan {
        uri,
        gop_s: random.between(2, 40) as f64 / 10.0,
        small_ring: (random.below(4) == 0).then(|| random.between(8_000, 60_000) as usize),
    }
}

/// A clip to ask for, and how.
struct Wish {
    /// Number of the picture after which it is asked for.
    raised: u64,
    asked: ClipRequest,
    /// A RANGE: its end is said after this picture, if it is not over by then.
    ends: Option<(u64, i64)>,
}

/// Overlapping wishes all over the run: on real frame times, a nanosecond beside them, and anywhere.
fn wishes(random: &mut Random, frames: &[(u64, i64)], first: u32, count: u32) -> Vec<Wish> {
    let any = |random: &mut Random| frames[random.below(frames.len() as u64) as usize];
    (first..first + count)
        .map(|n| {
            let (at, event_ns) = any(random);
            let roll = |random: &mut Random| match random.below(8) {
                0 => 0,
                1..3 => (event_ns - any(random).1).abs().min(6 * NS_PER_S),
                3 => (event_ns - any(random).1).abs().min(6 * NS_PER_S) + 1,
                4 => (event_ns - any(random).1).abs().clamp(1, 6 * NS_PER_S) - 1,
                5 => random.between(0, NS_PER_S / 4),
                _ => random.between(0, 5 * NS_PER_S),
            };
            let (pre, post) = (roll(random), roll(random));
            let raised = at
                + match random.below(8) {
                    // Far too late, as of an extractor that hung.
                    0 => random.below(200),
                    _ => random.below(12),
                };
            let asked = request(n, event_ns, pre, post);
            let ends = (random.below(6) == 0).then(|| {
                let said = raised + random.below(30);
                (said, event_ns + random.between(0, post.max(1)))
            });
            Wish {
                raised,
                asked,
                ends,
            }
        })
        .collect()
}

/// What a run gave.
struct Run {
    dir: tempfile::TempDir,
    /// Number and time of every picture that the source delivered.
    frames: Vec<(u64, i64)>,
    results: Vec<ClipResult>,
}

/// Thousands of small files and syncs: in memory where there is such a place.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// The plan's source, and a pool for it.
fn source(plan: &Plan) -> (Box<dyn Source>, FramePool) {
    let opts = SourceOptions::new(name("cam0"), plan.uri.clone());
    let source = open(&opts, Arc::new(MonotonicClock::new())).unwrap();
    let spec = PoolSpec {
        pool_id: 1,
        slots: 8,
        native: source.info().layout,
        native_room: 0,
        views: vec![],
    };
    let pool = FramePool::heap(&spec, Arc::new(Converter::new())).unwrap();
    (source, pool)
}

/// Number and time of every picture that the plan's source delivers.
fn frames(plan: &Plan) -> Vec<(u64, i64)> {
    let (mut source, pool) = source(plan);
    let mut frames = vec![];
    loop {
        match source.next(&pool, &StopFlag::new()).unwrap() {
            SourceEvent::Frame(f) => frames.push((f.meta().frame_id, f.meta().t_ns)),
            SourceEvent::Gap(_) => {}
            SourceEvent::End(_) => return frames,
            other => panic!("{other:?}"),
        }
    }
}

/// Runs the plan; `wishes` get the ends that were really set.
fn run(plan: &Plan, wishes: &mut [Wish]) -> Run {
    let dir = scratch();
    let store = ClipStore::open(dir.path(), "clips", 1 << 32).unwrap();
    let mut options = LaneOptions::new(name("cam0"), store);
    options.realtime = false;
    options.gop_s = plan.gop_s;
    options.ring_bytes = plan.small_ring.unwrap_or(options.ring_bytes);
    let (tell, results) = crossbeam_channel::unbounded();
    let lane = EvidenceLane::start(options, move |r| tell.send(r).unwrap()).unwrap();

    let (mut source, pool) = source(plan);
    let stop = StopFlag::new();
    let mut frames = vec![];
    loop {
        match source.next(&pool, &stop).unwrap() {
            SourceEvent::Gap(g) => lane.gap(g.from_ns, g.to_ns, g.lost),
            SourceEvent::Frame(frame) => {
                let (id, t_ns) = (frame.meta().frame_id, frame.meta().t_ns);
                let last = frames.last().map_or(0, |f: &(u64, i64)| f.0 + 1);
                frames.push((id, t_ns));
                assert_eq!(lane.offer(frame), Offered::Taken);
                // Lost pictures raise nothing; what was due meanwhile is raised now.
                for wish in wishes.iter_mut() {
                    if (last..=id).contains(&wish.raised) {
                        lane.request(wish.asked.clone());
                    }
                    if let Some((said, end_ns)) = wish.ends
                        && (last..=id).contains(&said)
                        && t_ns < wish.asked.end_ns
                    {
                        // It can't be over: no picture at or after its end was offered.
                        lane.set_end(&wish.asked.id, end_ns, None);
                        wish.asked.end_ns = end_ns.max(wish.asked.start_ns);
                    }
                }
            }
            SourceEvent::End(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let last = frames.last().unwrap().0;
    // What would be raised after the last picture is raised at the end.
    for wish in wishes.iter().filter(|w| w.raised > last) {
        lane.request(wish.asked.clone());
    }
    lane.finish(Finish::SourceEnd, Duration::from_secs(300))
        .unwrap();
    let results = results.try_iter().collect();
    Run {
        dir,
        frames,
        results,
    }
}

/// A picture as it was read back: what is drawn into it, and when the file shows it.
struct Shown {
    frame: (u64, i64),
    /// From the file's first sample.
    at_ns: i64,
    in_edit: bool,
}

/// Takes the file apart and decodes all of it.
fn read(case: &str, file: &Path) -> Vec<Shown> {
    let bytes = std::fs::read(file).unwrap();
    let mp4 = re_mp4::Mp4::read_bytes(&bytes).unwrap();
    assert!(
        mp4.moofs.is_empty(),
        "{case}: a finished file is a plain one"
    );
    let track = mp4.tracks().values().next().unwrap();
    let config = track.raw_codec_config(&mp4).unwrap();
    let edit = track.trak(&mp4).edts.as_ref().unwrap();
    let edit = &edit.elst.as_ref().unwrap().entries[0];
    let edit = edit.media_time as i64..(edit.media_time + edit.segment_duration) as i64;
    assert_eq!(track.timescale, 1_000_000, "{case}");

    let params = Arc::new(params(&config));
    let mut decoder = decode::open(&params, 1).unwrap();
    let mut luma = vec![0; WIDTH * HEIGHT * 3 / 2];
    let mut shown = vec![];
    for (i, sample) in track.samples.iter().enumerate() {
        let at_ns = sample.composition_timestamp * TICK_NS;
        let packet = Packet {
            data: Bytes::copy_from_slice(&bytes[sample.byte_range()]),
            is_key: sample.is_sync,
            pts_ns: at_ns,
            dts_ns: at_ns,
            frame_id: i as u64,
            params: Arc::clone(&params),
        };
        decoder.push(&packet).unwrap();
        let picture = decoder.ready().unwrap();
        let picture = picture.unwrap_or_else(|| panic!("{case}: no picture of sample {i}"));
        assert_eq!(picture.frame_id, i as u64, "{case}");
        decoder.take(&mut luma[..picture.layout.bytes()]).unwrap();
        let stride = picture.layout.planes()[0].stride;
        let frame = read_frame_number(&luma, stride, WIDTH, HEIGHT);
        shown.push(Shown {
            frame: frame.unwrap_or_else(|| panic!("{case}: sample {i} can't be read")),
            at_ns,
            in_edit: edit.contains(&sample.composition_timestamp),
        });
    }
    shown
}

/// The parameter sets of an `avcC` (ISO 14496-15, 5.3.3.1).
fn params(avcc: &[u8]) -> CodecParams {
    let length = |at: usize| usize::from(u16::from_be_bytes([avcc[at], avcc[at + 1]]));
    let sps = 8..8 + length(6);
    let pps = sps.end + 3..sps.end + 3 + length(sps.end + 1);
    CodecParams {
        codec: Codec::H264,
        width: WIDTH as u32,
        height: HEIGHT as u32,
        color: ColorSpec::default(),
        vps: Bytes::new(),
        sps: Bytes::copy_from_slice(&avcc[sps]),
        pps: Bytes::copy_from_slice(&avcc[pps]),
    }
}

/// The pictures that ffmpeg shows.
fn ffmpeg(file: &Path) -> Vec<(u64, i64)> {
    let grey = grey(file, &[]);
    let pictures = grey.chunks_exact(WIDTH * HEIGHT);
    assert!(pictures.remainder().is_empty());
    pictures
        .map(|p| read_frame_number(p, WIDTH, WIDTH, HEIGHT).unwrap())
        .collect()
}

/// What kinds of clips there were, so that a test of nothing is seen.
#[derive(Debug, Default)]
struct Tally {
    clips: u64,
    pictures: u64,
    complete: u64,
    source_start: u64,
    source_end: u64,
    evicted: u64,
    too_old: u64,
    with_gaps: u64,
    lead_in: u64,
    ends_set: u64,
}

/// One wish against its result.
fn check(case: &str, plan: &Plan, run: &Run, wish: &Wish, result: &ClipResult, tally: &mut Tally) {
    let (frames, asked) = (&run.frames, &wish.asked);
    let last = frames.len() - 1;
    let clip = match &result.state {
        ClipState::Ready(clip) => clip,
        ClipState::Failed { reason } => {
            // Only an evicted ring may have nothing; it says from when on it has something.
            assert!(plan.small_ring.is_some(), "{case}: {reason}");
            assert!(reason.contains("oldest"), "{case}: {reason}");
            assert!(asked.end_ns < frames[last].1, "{case}: {reason}");
            tally.too_old += 1;
            return;
        }
    };
    let asked_times = (clip.asked_start_ns, clip.asked_end_ns);
    assert_eq!(asked_times, (asked.start_ns, asked.end_ns), "{case}");

    // Which pictures must be shown.
    let at_or_before = frames.iter().rposition(|f| f.1 <= asked.start_ns);
    let first = match clip.short_pre_reason {
        None => at_or_before.unwrap_or_else(|| panic!("{case}: nothing is short?")),
        Some(ShortPre::SourceStart) => {
            assert_eq!(at_or_before, None, "{case}: the source had begun");
            0
        }
        Some(ShortPre::Evicted) => {
            assert!(plan.small_ring.is_some(), "{case}: the ring is large");
            assert_eq!(
                clip.lead_in_frames, 0,
                "{case}: from the oldest key picture on"
            );
            let first = frames.iter().position(|f| f.1 == clip.start_ns);
            first.unwrap_or_else(|| panic!("{case}: starts at no picture"))
        }
        Some(why) => panic!("{case}: {why:?}, but no format changed and no file is shared"),
    };
    let short_pre_ns = (frames[first].1 - asked.start_ns).max(0);
    assert_eq!(clip.short_pre_ms, short_pre_ns as f64 / 1e6, "{case}");
    let at_or_after = frames.iter().position(|f| f.1 >= asked.end_ns);
    // A start that was evicted beyond the asked end shows one picture at least.
    let end = at_or_after.unwrap_or(last).max(first);
    let (reason, short_post_ns) = match at_or_after {
        Some(_) => (ClipEnd::Complete, 0),
        None => (ClipEnd::SourceEnd, asked.end_ns - frames[last].1),
    };
    assert_eq!(clip.end_reason, reason, "{case}");
    assert_eq!(clip.short_post_ms, short_post_ns as f64 / 1e6, "{case}");
    check_pictures(case, run, (first, end), clip, tally);

    tally.complete += u64::from(reason == ClipEnd::Complete);
    tally.source_end += u64::from(reason == ClipEnd::SourceEnd);
    tally.source_start += u64::from(clip.short_pre_reason == Some(ShortPre::SourceStart));
    tally.evicted += u64::from(clip.short_pre_reason == Some(ShortPre::Evicted));
    tally.with_gaps += u64::from(!clip.gaps.is_empty());
    tally.lead_in += u64::from(clip.lead_in_frames > 0);
    tally.ends_set += u64::from(wish.ends.is_some_and(|(_, end_ns)| end_ns == asked.end_ns));
}

/// Exactly the pictures from `first` to `end` of the run, at their times, and none else.
fn check_pictures(
    case: &str,
    run: &Run,
    (first, end): (usize, usize),
    clip: &ReadyClip,
    tally: &mut Tally,
) {
    let want = &run.frames[first..=end];
    let times = (want[0].1, want[want.len() - 1].1);
    assert_eq!((clip.start_ns, clip.end_ns), times, "{case}");
    assert_eq!(clip.frames, want.len() as u64, "{case}");

    let file = run.dir.path().join(&clip.file);
    let all = read(case, &file);
    let edit = all.iter().filter(|s| s.in_edit).map(|s| s.frame);
    assert_eq!(
        edit.collect::<Vec<_>>(),
        want,
        "{case}: what the edit list shows"
    );
    let lead_in = all.iter().take_while(|s| !s.in_edit).count();
    assert_eq!(clip.lead_in_frames, lead_in as u64, "{case}");
    let before = &run.frames[first - lead_in..first];
    let lead: Vec<_> = all[..lead_in].iter().map(|s| s.frame).collect();
    assert_eq!(lead, before, "{case}: the lead-in");
    let base_ns = all[0].frame.1;
    let lead_in_ms = (want[0].1 - base_ns) as f64 / 1e6;
    assert_eq!(clip.lead_in_ms, lead_in_ms, "{case}");
    // Every time survived: what the file says against what is drawn into the picture.
    for s in &all {
        let off_ns = s.at_ns - (s.frame.1 - base_ns);
        assert!(off_ns.abs() <= TICK_NS / 2, "{case}: {off_ns} ns off");
    }
    // What is missing inside is told, and only that.
    let holes: Vec<Gap> = want
        .windows(2)
        .filter(|pair| pair[1].0 > pair[0].0 + 1)
        .map(|pair| Gap {
            from_ns: pair[0].1,
            to_ns: pair[1].1,
            lost: pair[1].0 - pair[0].0 - 1,
            cause: GapCause::Source,
        })
        .collect();
    assert_eq!(clip.gaps, holes, "{case}");
    if tally.clips.is_multiple_of(FFMPEG_EVERY) {
        assert_eq!(ffmpeg(&file), want, "{case}: what ffmpeg shows");
    }
    tally.clips += 1;
    tally.pictures += all.len() as u64;
}

#[test]
fn thousands_of_clips_show_exactly_the_pictures_that_were_asked_for() {
    let soak = std::env::var("VISUALPATH_SOAK").is_ok_and(|v| v == "1");
    let enough = if soak { 50_000 } else { 3_000 };
    let mut tally = Tally::default();
    let mut seed = 0;
    while tally.clips < enough {
        seed += 1;
        let mut random = Random(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let plan = plan(&mut random);
        // A source has 64 clips open at most.
        let count = random.between(30, 62) as u32;
        let mut wishes = wishes(&mut random, &frames(&plan), 1, count);
        let run = run(&plan, &mut wishes);
        let case = format!("seed {seed}, {}", plan.uri);
        assert_eq!(run.results.len(), wishes.len(), "{case}: one result each");
        for wish in &wishes {
            let id = &wish.asked.id;
            let case = format!("{case}, clip {id}");
            let mut own = run.results.iter().filter(|r| r.id == *id);
            let (one, more) = (own.next(), own.next());
            let one = one.unwrap_or_else(|| panic!("{case}: no result"));
            assert_eq!(more, None, "{case}: a second result");
            check(&case, &plan, &run, wish, one, &mut tally);
        }
        assert!(clip_support::files(run.dir.path(), ".part").is_empty());
    }
    println!("{tally:?}");
    let rare = [
        ("complete", tally.complete),
        ("source start", tally.source_start),
        ("source end", tally.source_end),
        ("evicted", tally.evicted),
        ("too old", tally.too_old),
        ("with gaps", tally.with_gaps),
        ("with lead-in", tally.lead_in),
        ("ends set later", tally.ends_set),
    ];
    for (what, count) in rare {
        assert!(
            count * 200 > tally.clips,
            "too few to show anything: {what}: {tally:?}"
        );
    }
}
