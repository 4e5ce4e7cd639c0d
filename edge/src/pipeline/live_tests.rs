//! What the appliance tells of itself.

use visualpath_core::Name;
use visualpath_platform::FlowStats;

use super::super::capture::CaptureStats;
use super::super::wall::WallClock;
use super::super::{Problem, problem};
use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn live() -> Live {
    Live::new(&Config::default(), Arc::default(), Arc::default(), None)
}

/// A line that runs as long as its first part is kept.
fn line(live: &Live) -> (Arc<LineShared>, LineStats) {
    let shared = Arc::new(LineShared::new(name("cam0"), WallClock::starting_now(true)));
    let stats = LineStats {
        source: name("cam0"),
        capture: Arc::new(CaptureStats::default()),
        flow: Arc::new(FlowStats::default()),
    };
    live.add(&shared, &stats);
    (shared, stats)
}

fn give(stats: &LineStats, captured: u64, busy: u64, taken: u64) {
    stats.capture.frames.store(captured, Ordering::Relaxed);
    stats.capture.path_busy.store(busy, Ordering::Relaxed);
    stats.flow.frames.store(taken, Ordering::Relaxed);
}

const TICK: Duration = Duration::from_secs(10);

#[test]
fn a_path_thread_that_takes_nothing_while_frames_wait_is_not_alive() {
    let live = live();
    let (_shared, stats) = line(&live);
    let mut now = Instant::now();
    for n in 0..20_u64 {
        now += TICK;
        give(&stats, 10 * n, 0, 10 * n);
        live.is_alive(now).unwrap();
    }
    // Two wait in the channel, what comes is dropped; nothing is taken any more.
    let mut dead = None;
    for n in 0..20_u64 {
        now += TICK;
        give(&stats, 300 + n, n, 298);
        if let Err(why) = live.is_alive(now) {
            dead = Some((n, why));
            break;
        }
    }
    let (ticks, why) = dead.expect("it is found out");
    assert!(why.starts_with("path-cam0: "), "{why}");
    assert!(TICK * u32::try_from(ticks).unwrap() > STUCK, "not too soon");
    // It goes on.
    give(&stats, 400, 20, 380);
    live.is_alive(now + TICK).unwrap();
}

#[test]
fn a_source_that_gives_nothing_or_has_ended_is_no_fault_of_the_path_thread() {
    let live = live();
    let (shared, stats) = line(&live);
    give(&stats, 100, 7, 93);
    let now = Instant::now();
    for n in 1..100 {
        live.is_alive(now + TICK * n).unwrap();
    }
    give(&stats, 110, 7, 93);
    stats.capture.ending.store(true, Ordering::Relaxed);
    live.is_alive(now + TICK * 1000).unwrap();
    stats.capture.ending.store(false, Ordering::Relaxed);
    live.is_alive(now + TICK * 1000).unwrap_err();
    drop(shared);
    live.is_alive(now + TICK * 2000).unwrap();
}

#[test]
fn a_rate_is_that_of_the_last_seconds() {
    let live = live();
    let (_shared, stats) = line(&live);
    let start = Instant::now();
    let mut frames = 0;
    for s in 0..60_u64 {
        frames += if s < 30 { 10 } else { 20 };
        give(&stats, frames, 0, frames);
        // More often than it counts.
        for ms in [0, 300, 600] {
            live.look(start + Duration::from_millis(1000 * s + ms));
        }
        let fps = live.lines()[0].fps();
        match s {
            0 => assert_eq!(fps, None),
            29 => assert_eq!(fps, Some(10.0)),
            59 => assert_eq!(fps, Some(20.0)),
            _ => {}
        }
        assert!(live.lines()[0].samples.len() < 10, "bounded");
    }
}

#[test]
fn it_is_ready_while_nothing_is_wrong() {
    let live = live();
    assert_eq!(live.stage(), Stage::Starting);
    live.running();
    assert_eq!(live.stage(), Stage::Ready);
    let wrong: Vec<Problem> = vec![problem("ring_short", "cam0", "", "")];
    live.problems(&wrong);
    assert_eq!(live.stage(), Stage::Degraded);
    assert_eq!(live.status().problems, wrong);
    live.problems(&[]);
    assert_eq!(live.stage(), Stage::Ready);
    live.stopping();
    assert_eq!(live.stage(), Stage::Stopping);
}

#[test]
fn a_source_that_was_restarted_goes_on_counting() {
    let live = live();
    let (shared, stats) = line(&live);
    give(&stats, 100, 3, 97);
    drop(shared);
    let (_shared, stats) = line(&live);
    give(&stats, 20, 1, 19);
    let status = live.status();
    assert_eq!(status.sources.len(), 1);
    assert_eq!(status.sources[0].frames, 120);
    assert_eq!(status.sources[0].dropped["path_busy"], 4);
    assert!(status.sources[0].online);
}

#[test]
fn every_time_a_worker_restarts_counts() {
    let live = live();
    let (cam, person) = (name("cam0"), name("person"));
    for status in [
        ExtractorStatus::Running,
        ExtractorStatus::Restarting,
        ExtractorStatus::Running,
        ExtractorStatus::Restarting,
        ExtractorStatus::Held,
    ] {
        live.worker(&cam, &person, status);
    }
    let said = live.said();
    let state = &said.workers[&("cam0".to_owned(), "person".to_owned())];
    assert_eq!((state.restarts, state.status), (2, ExtractorStatus::Held));
}

#[test]
fn latencies_are_counted_by_size() {
    let mut latencies = Latencies::default();
    for seconds in [0.0, 0.005, 0.006, 0.7, 5.0, 60.0] {
        latencies.add(seconds);
    }
    assert_eq!(latencies.counts, [2, 1, 0, 0, 0, 0, 0, 1, 0, 1]);
    assert_eq!(latencies.count, 6, "the largest is in no bound but counts");
}
