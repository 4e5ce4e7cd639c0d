//! Frame-exact: what is asked is what ffmpeg shows, for random triggers, rates, GOPs and gaps.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod clip_support;

use clip_support::*;
use std::time::Duration;
use visualpath_core::NS_PER_S;
use visualpath_media::clip::{ClipEnd, ClipRequest, ReadyClip, ShortPre};
use visualpath_media::clip::{ClipResult, Finish};
use visualpath_media::ring::Gap;

/// The frames of a source, and where it lost some.
struct Script {
    frames: Vec<(u64, i64)>,
    gaps: Vec<Gap>,
}

/// 2 to 6 s at a random rate with jitter; sometimes frames are lost.
fn script(random: &mut Random) -> Script {
    let step_ns = NS_PER_S / random.between(5, 31);
    let jitter_ns = random.between(0, step_ns / 2 + 1);
    let end_ns = random.between(2 * NS_PER_S, 6 * NS_PER_S);
    let (mut t_ns, mut id) = (random.between(0, 3 * NS_PER_S), random.below(1000));
    let end_ns = end_ns + t_ns;
    let (mut frames, mut gaps): (Vec<(u64, i64)>, Vec<Gap>) = (Vec::new(), Vec::new());
    while t_ns < end_ns {
        frames.push((id, t_ns));
        id += 1;
        let from_ns = t_ns;
        t_ns += step_ns + random.between(0, jitter_ns + 1);
        if random.below(25) == 0 {
            let lost = random.below(20) + 1;
            id += lost;
            t_ns += step_ns * i64::try_from(lost).unwrap();
            let cause = visualpath_media::ring::GapCause::Source;
            gaps.push(Gap {
                from_ns,
                to_ns: t_ns,
                lost,
                cause,
            });
        }
    }
    gaps.retain(|g| g.to_ns < end_ns);
    Script { frames, gaps }
}

/// What must be delivered for `asked`.
fn check(case: &str, script: &Script, asked: &ClipRequest, clip: &ReadyClip, bench: &Bench) {
    let t = |i: usize| script.frames[i].1;
    let last = script.frames.len() - 1;
    let start = script.frames.iter().rposition(|f| f.1 <= asked.start_ns);
    let end = script.frames.iter().position(|f| f.1 >= asked.end_ns);
    let (first, final_) = (start.unwrap_or(0), end.unwrap_or(last));

    assert_eq!(
        (clip.start_ns, clip.end_ns),
        (t(first), t(final_)),
        "{case}"
    );
    assert_eq!(clip.frames, (final_ - first + 1) as u64, "{case}");
    let short_pre = if start.is_none() {
        t(0) - asked.start_ns
    } else {
        0
    };
    assert_eq!(clip.short_pre_ms, short_pre as f64 / 1e6, "{case}");
    let why = start.is_none().then_some(ShortPre::SourceStart);
    assert_eq!(clip.short_pre_reason, why, "{case}");
    let short_post = if end.is_none() {
        asked.end_ns - t(last)
    } else {
        0
    };
    assert_eq!(clip.short_post_ms, short_post as f64 / 1e6, "{case}");
    let reason = if end.is_none() {
        ClipEnd::SourceEnd
    } else {
        ClipEnd::Complete
    };
    assert_eq!(clip.end_reason, reason, "{case}");
    let gaps = script.gaps.iter().copied();
    let inside: Vec<Gap> = gaps
        .filter(|g| g.from_ns >= t(first) && g.to_ns <= t(final_))
        .collect();
    assert_eq!(clip.gaps, inside, "{case}");

    // What is shown is what was asked for, picture by picture.
    let file = bench.path(clip);
    let shown: Vec<u64> = script.frames[first..=final_].iter().map(|f| f.0).collect();
    assert_eq!(decode(&file, true), shown, "{case}: with the edit list");
    // Without the edit list the lead-in comes first, and every time stamp survived.
    let lead = usize::try_from(clip.lead_in_frames).unwrap();
    assert!(lead <= first, "{case}");
    let key = first - lead;
    let all: Vec<u64> = script.frames[key..=final_].iter().map(|f| f.0).collect();
    assert_eq!(decode(&file, false), all, "{case}: without the edit list");
    assert_eq!(clip.lead_in_ms, (t(first) - t(key)) as f64 / 1e6, "{case}");
    let rounded = |i: usize| (t(i) - t(key) + 500).div_euclid(1000);
    let times: Vec<i64> = (key..=final_).map(rounded).collect();
    assert_eq!(sample_times_us(&file), times, "{case}");
}

#[test]
fn every_random_clip_shows_exactly_what_was_asked_or_says_what_is_missing() {
    let soak = std::env::var("VISUALPATH_SOAK").is_ok_and(|v| v == "1");
    let cases = if soak { 1000 } else { 50 };
    let camera = Camera::new();
    for seed in 1..=cases {
        let mut random = Random(seed * 0x9E37_79B9);
        let script = script(&mut random);
        let gop_s = random.between(2, 25) as f64 / 10.0;
        let bench = Bench::start("cam0", |o| o.gop_s = gop_s);
        // 1 to 3 triggers, overlapping as chance has it; each is raised some frames after its
        // event, as a fusion does.
        let mut asked: Vec<(usize, ClipRequest)> = Vec::new();
        for n in 0..=random.below(3) {
            let n = u32::try_from(n).unwrap();
            let last = script.frames.len() - 1;
            let at = usize::try_from(random.below(last as u64 + 1)).unwrap();
            let raised = (at + usize::try_from(random.below(10)).unwrap()).min(last);
            let event_ns = script.frames[at].1;
            let (pre, post) = (
                random.between(0, 3 * NS_PER_S),
                random.between(0, 2 * NS_PER_S),
            );
            // One in four asks for exact frame times.
            let pre = match random.below(4) {
                0 => event_ns - script.frames[at / 2].1,
                _ => pre,
            };
            asked.push((raised, request(n, event_ns, pre, post)));
        }
        for (i, (id, t_ns)) in script.frames.iter().enumerate() {
            if let Some(gap) = script.gaps.iter().find(|g| g.to_ns == *t_ns) {
                bench.lane.gap(gap.from_ns, gap.to_ns, gap.lost);
            }
            bench.offer(camera.frame(*id, *t_ns));
            for (_, r) in asked.iter().filter(|(raised, _)| *raised == i) {
                bench.lane.request(r.clone());
            }
        }
        bench
            .lane
            .finish(Finish::SourceEnd, Duration::from_secs(120))
            .unwrap();
        let results: Vec<ClipResult> = bench.results.try_iter().collect();
        assert_eq!(
            results.len(),
            asked.len(),
            "seed {seed}: one result per request"
        );
        for result in results {
            let (_, r) = asked.iter().find(|(_, r)| r.id == result.id).unwrap();
            check(&format!("seed {seed}"), &script, r, &ready(result), &bench);
        }
        assert!(files(bench.dir.path(), ".part").is_empty());
    }
}

#[test]
fn the_same_input_gives_the_same_file() {
    let camera = Camera::new();
    let make = || {
        let bench = Bench::start("cam0", |_| {});
        for i in 0..60u64 {
            bench.offer(camera.frame(i, i64::try_from(i).unwrap() * 40_000_000));
            if i == 30 {
                bench
                    .lane
                    .request(request(1, NS_PER_S, NS_PER_S / 2, NS_PER_S));
            }
        }
        bench
            .lane
            .finish(Finish::SourceEnd, Duration::from_secs(120))
            .unwrap();
        bench.ready()
    };
    let (a, b) = (make(), make());
    // Fragments may be cut elsewhere, depending on how far the encoder was at the request; what is
    // in them, and everything that is said about them, may not.
    let same = |c: &ReadyClip| {
        (
            c.start_ns,
            c.end_ns,
            c.frames,
            c.lead_in_frames,
            c.file.clone(),
        )
    };
    assert_eq!(same(&a), same(&b));
}
