//! The path thread with real threads, real slots and extractors that misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};
use visualpath_core::{
    Clock, ColorSpec, ExtractError, Extractor, FrameMeta, FrameView, Fusion, FusionInput,
    FusionResult, ImageLayout, ManualClock, Name, Observation, Outcome, PixelFormat, RateGate,
    StopFlag, ViewSpec,
};
use visualpath_frames::{Frame, FramePool, PoolSpec, ViewError, ViewMaker};
use visualpath_platform::{
    Bell, Captured, DropPolicy, Flow, FlowChange, FlowLimiter, FlowPath, FlowSpec, FlowStats,
    Isolation, LaneSpec, LaneWorker, Leaving, Merger, PathSink, PathSpec, Runner, Times,
};

mod spine;

type Look = Box<dyn FnMut(&FrameView<'_>) -> Result<Vec<Observation>, ExtractError> + Send>;

struct Scripted(Look);

impl Extractor for Scripted {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        _: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        (self.0)(frame)
    }
}

struct NoViews;

impl ViewMaker for NoViews {
    fn make(
        &self,
        _: &ViewSpec,
        _: &ImageLayout,
        _: &[u8],
        _: &ImageLayout,
        _: &mut [u8],
    ) -> Result<(), ViewError> {
        unreachable!("only native views are asked for")
    }
}

/// Notes what it is fed with.
struct Noting(Arc<Mutex<Vec<String>>>);

impl Fusion for Noting {
    fn update(&mut self, input: FusionInput<'_>) -> FusionResult {
        let line = match input {
            FusionInput::Gap { from_ns, to_ns } => format!("gap {from_ns}-{to_ns}"),
            FusionInput::End { t_ns } => format!("end {t_ns}"),
            FusionInput::Aligned(a) => {
                let mut line = format!("{}", a.frame_id);
                for e in &a.entries {
                    let outcome = match &e.outcome {
                        None => "-".to_owned(),
                        Some(Outcome::Observed(h)) => format!("{:?}", h.signals.get("value")),
                        Some(Outcome::Failed(why)) => format!("failed({why})"),
                        Some(Outcome::TimedOut) => "timed_out".to_owned(),
                        Some(Outcome::Dropped(r)) => r.as_str().to_owned(),
                    };
                    let held = e.held.as_ref().map(|h| h.frame_id);
                    line += &format!(" {}={outcome}/{held:?}", e.extractor);
                }
                line
            }
        };
        self.0.lock().unwrap().push(line);
        FusionResult::default()
    }
    fn reset(&mut self) {}
}

#[derive(Default)]
struct Held(Vec<String>);

impl PathSink for Held {
    fn fused(&mut self, _: &Name, _: FusionInput<'_>, _: FusionResult, _: Times) {}
    fn held(&mut self, extractor: &Name, why: &str) {
        self.0.push(format!("{extractor}: {why}"));
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn pool() -> FramePool {
    let native = ImageLayout::packed(PixelFormat::Grey, 16, 16, ColorSpec::default());
    FramePool::heap(
        &PoolSpec {
            pool_id: 1,
            slots: 16,
            native,
            native_room: 0,
            views: vec![],
        },
        Arc::new(NoViews),
    )
    .unwrap()
}

fn frame(pool: &FramePool, id: u64) -> Frame {
    let slot = pool
        .acquire_timeout(std::time::Duration::from_secs(60))
        .expect("a slot comes free");
    let layout = *pool.layout().native();
    slot.publish(
        FrameMeta {
            frame_id: id,
            t_ns: id as i64 * 100,
            epoch: 0,
            layout,
        },
        pool.holder("capture"),
    )
}

/// The value it gives is a function of the frame, so that results can be compared.
fn honest() -> Look {
    Box::new(|f| {
        let mut o = Observation::new(name("x"), 0, 0);
        o.signals.set("value", (f.meta.frame_id * 7 % 5) as f64);
        Ok(vec![o])
    })
}

struct LaneOpts {
    look: fn() -> Look,
    isolation: Isolation,
    policy: DropPolicy,
    rate: Option<RateGate>,
}

fn lane(n: &str, opts: LaneOpts) -> LaneSpec {
    let look = opts.look;
    let runner = Runner::new(
        name(n),
        ViewSpec::default(),
        Merger::new(name(n), vec![]),
        Box::new(move || Ok(Box::new(Scripted(look())))),
    )
    .unwrap();
    LaneSpec {
        worker: LaneWorker::local(runner, opts.isolation),
        limiter: FlowLimiter::new(opts.rate, opts.policy, 1),
        depends: vec![],
        gate: None,
        stale_ns: i64::MAX,
        timeout_ns: 1_000,
        hang_ns: 1_000_000,
    }
}

type Workers = Vec<(Name, Leaving)>;

struct Started {
    captured: Sender<Captured>,
    thread: std::thread::JoinHandle<(Held, Workers)>,
    stats: Arc<FlowStats>,
    noted: Arc<Mutex<Vec<String>>>,
    stop: StopFlag,
    changes: Sender<FlowChange>,
}

fn start(lanes: Vec<LaneSpec>, realtime: bool, clock: Arc<dyn Clock>) -> Started {
    let noted = Arc::new(Mutex::new(vec![]));
    let stop = StopFlag::new();
    let extractors = lanes
        .iter()
        .enumerate()
        .map(|(i, l)| (i, l.worker.name().clone(), i64::MAX))
        .collect();
    let path = PathSpec {
        name: name("entrance"),
        source: name("cam0"),
        extractors,
        window_ns: realtime.then_some(5_000),
    };
    let fusion: Box<dyn Fusion> = Box::new(Noting(Arc::clone(&noted)));
    let (changes, changed) = bounded(4);
    let spec = FlowSpec {
        trace: visualpath_platform::trace::FlowTrace::off(name("cam0")),
        source: name("cam0"),
        unix_ns: Arc::new(|t_ns| t_ns),
        bell: Bell::new().unwrap(),
        changes: changed,
        realtime,
        lanes,
        paths: vec![(path, fusion)],
        pending: 64,
        clock,
        stop: stop.clone(),
        stop_grace_ns: 1_000_000,
    };
    let flow = Flow::new(spec, Held::default()).unwrap();
    let stats = flow.stats();
    let (captured, inbox): (_, Receiver<Captured>) = bounded(2);
    let thread = std::thread::spawn(move || flow.run(&inbox));
    Started {
        captured,
        thread,
        stats,
        noted,
        stop,
        changes,
    }
}

fn finish(s: Started) -> (Vec<String>, Arc<FlowStats>, Vec<String>) {
    drop(s.captured);
    let (sink, threads) = s.thread.join().unwrap();
    for (_, t) in threads {
        assert!(t.join());
    }
    for (name, lane) in s.stats.lanes() {
        let get = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::SeqCst);
        let outcomes = get(&lane.observed)
            + get(&lane.failed)
            + get(&lane.timed_out)
            + get(&lane.dropped_queue_full)
            + get(&lane.dropped_held)
            + get(&lane.dropped_stopping)
            + get(&lane.dropped_dependency);
        assert_eq!(
            get(&lane.admitted),
            outcomes,
            "{name}: exactly one outcome per admitted frame"
        );
    }
    let noted = s.noted.lock().unwrap().clone();
    (noted, s.stats, sink.0)
}

fn run_file(lanes: Vec<LaneSpec>, frames: u64) -> (Vec<String>, Arc<FlowStats>, Vec<String>) {
    let pool = pool();
    let s = start(lanes, false, Arc::new(ManualClock::default()));
    for id in 0..frames {
        s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
        if id == frames / 2 {
            s.captured
                .send(Captured::Gap {
                    from_ns: id as i64 * 100,
                    to_ns: id as i64 * 100 + 100,
                })
                .unwrap();
        }
    }
    s.captured.send(Captured::End).unwrap();
    let result = finish(s);
    assert_eq!(
        pool.available(),
        16,
        "every lease came back: {}",
        pool.held_by()
    );
    result
}

fn opts(look: fn() -> Look, isolation: Isolation) -> LaneOpts {
    LaneOpts {
        look,
        isolation,
        policy: DropPolicy::None,
        rate: None,
    }
}

#[test]
fn on_a_file_inline_and_thread_give_the_same_and_lose_nothing() {
    let lanes = |isolation| {
        let limited = LaneOpts {
            rate: RateGate::new(1e9 / 300.0),
            ..opts(honest, isolation)
        };
        vec![lane("a", opts(honest, isolation)), lane("b", limited)]
    };
    let (inline, stats, _) = run_file(lanes(Isolation::Inline), 200);
    let (thread, _, _) = run_file(lanes(Isolation::Thread), 200);
    assert_eq!(inline, thread);
    assert_eq!(inline.len(), 202, "200 frames, a gap, the end");
    assert_eq!(inline[101], "gap 10000-10100");
    assert_eq!(inline[201], "end 19900");
    assert_eq!(stats.lanes()[0].1.observed.load(Ordering::SeqCst), 200);
    assert_eq!(
        stats.lanes()[1].1.observed.load(Ordering::SeqCst),
        67,
        "every third frame"
    );
    assert_eq!(stats.lanes()[1].1.skipped.load(Ordering::SeqCst), 133);
}

fn faulty() -> Look {
    Box::new(|f| match f.meta.frame_id % 10 {
        3 => Err(ExtractError("no luck".into())),
        4 => {
            let mut o = Observation::new(name("x"), 0, 0);
            o.signals.set("value", f64::INFINITY);
            Ok(vec![o])
        }
        _ => honest()(f),
    })
}

#[test]
fn an_extractor_that_errors_stops_nobody() {
    for isolation in [Isolation::Inline, Isolation::Thread] {
        let (noted, stats, held) = run_file(
            vec![
                lane("bad", opts(faulty, isolation)),
                lane("good", opts(honest, isolation)),
            ],
            50,
        );
        assert_eq!(stats.lanes()[0].1.failed.load(Ordering::SeqCst), 10);
        assert_eq!(stats.lanes()[1].1.observed.load(Ordering::SeqCst), 50);
        assert_eq!(
            noted[3],
            "3 bad=failed(no luck)/Some(2) good=Some(1.0)/Some(3)"
        );
        assert!(noted[4].contains("signal `value` is inf"), "{}", noted[4]);
        assert_eq!(held, Vec::<String>::new());
    }
}

fn panicking() -> Look {
    Box::new(|f| {
        assert!(f.meta.frame_id % 20 != 7, "seven");
        honest()(f)
    })
}

#[test]
fn a_panicking_extractor_is_made_again_then_held_and_the_others_go_on() {
    for isolation in [Isolation::Inline, Isolation::Thread] {
        let lanes = vec![
            lane("bad", opts(panicking, isolation)),
            lane("good", opts(honest, isolation)),
        ];
        let (noted, stats, held) = run_file(lanes, 200);
        let bad = Arc::clone(&stats.lanes()[0].1);
        assert_eq!(
            bad.failed.load(Ordering::SeqCst),
            5,
            "frames 7, 27, 47, 67 and 87 panicked"
        );
        assert_eq!(
            bad.observed.load(Ordering::SeqCst),
            83,
            "it worked between its panics"
        );
        assert_eq!(
            bad.dropped_held.load(Ordering::SeqCst),
            112,
            "on Hold after the fifth"
        );
        assert_eq!(stats.lanes()[1].1.observed.load(Ordering::SeqCst), 200);
        assert!(
            noted[7].contains("bad=failed(panicked: seven)"),
            "{}",
            noted[7]
        );
        assert_eq!(held.len(), 1);
        assert!(held[0].contains("5 panics in 60 s"), "{held:?}");
    }
}

/// Answers only when the test says so.
static GATE: Mutex<Option<(Sender<()>, Receiver<()>)>> = Mutex::new(None);

fn gated() -> Look {
    let open = GATE
        .lock()
        .unwrap()
        .as_ref()
        .map(|(_, r)| r.clone())
        .unwrap();
    Box::new(move |f| {
        open.recv().map_err(|e| ExtractError(e.to_string()))?;
        honest()(f)
    })
}

/// Waits for something another thread does. Ends by itself only if that never happens.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !done() {
        assert!(started.elapsed().as_secs() < 60, "{what} did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn live_a_slow_extractor_times_out_loses_old_frames_and_delays_nobody() {
    let (open, opened) = bounded(64);
    *GATE.lock().unwrap() = Some((open.clone(), opened));
    let clock = Arc::new(ManualClock::default());
    let pool = pool();
    let live = |look, isolation| LaneOpts {
        policy: DropPolicy::Oldest,
        ..opts(look, isolation)
    };
    let lanes = vec![
        lane("slow", live(gated, Isolation::Thread)),
        lane("fast", live(honest, Isolation::Inline)),
    ];
    let s = start(lanes, true, Arc::clone(&clock) as Arc<dyn Clock>);
    let slow = Arc::clone(&s.stats.lanes()[0].1);
    let fast = Arc::clone(&s.stats.lanes()[1].1);
    for id in 0..4 {
        s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
    }
    until("the fast one sees all", || {
        fast.observed.load(Ordering::SeqCst) == 4
    });
    assert_eq!(
        slow.dropped_queue_full.load(Ordering::SeqCst),
        2,
        "0 in flight, 3 waits, 1 and 2 gave way"
    );
    clock.advance(1_000);
    until("frame 0 times out", || {
        slow.timed_out.load(Ordering::SeqCst) == 1
    });
    assert_eq!(
        pool.available(),
        14,
        "the late frame's slot is not taken back: {}",
        pool.held_by()
    );
    open.send(()).unwrap(); // frame 0's answer: late
    until("the late answer is counted", || {
        slow.late.load(Ordering::SeqCst) == 1
    });
    open.send(()).unwrap(); // frame 3
    until("frame 3 is observed", || {
        slow.observed.load(Ordering::SeqCst) == 1
    });
    s.captured.send(Captured::End).unwrap();
    let (noted, _, held) = finish(s);
    assert_eq!(held, Vec::<String>::new());
    assert_eq!(
        noted,
        [
            "0 slow=timed_out/None fast=Some(0.0)/Some(0)",
            "1 slow=queue_full/None fast=Some(2.0)/Some(1)",
            "2 slow=queue_full/None fast=Some(4.0)/Some(2)",
            "3 slow=Some(1.0)/Some(3) fast=Some(1.0)/Some(3)",
            "end 300",
        ]
    );
    assert_eq!(pool.available(), 16);
}

/// Never answers before the test says so; each test has its own gate.
fn hanging(open: Receiver<()>) -> LaneSpec {
    let look = move |f: &FrameView<'_>| {
        open.recv().map_err(|e| ExtractError(e.to_string()))?;
        honest()(f)
    };
    let runner = Runner::new(
        name("hung"),
        ViewSpec::default(),
        Merger::new(name("hung"), vec![]),
        Box::new(move || Ok(Box::new(Scripted(Box::new(look.clone()))))),
    )
    .unwrap();
    LaneSpec {
        worker: LaneWorker::local(runner, Isolation::Thread),
        limiter: FlowLimiter::new(None, DropPolicy::None, 1),
        depends: vec![],
        gate: None,
        stale_ns: i64::MAX,
        timeout_ns: 1_000,
        hang_ns: 300_000_000,
    }
}

#[test]
fn on_a_file_a_hung_extractor_is_held_and_the_rest_is_worked_off() {
    let (open, opened) = bounded(1);
    let pool = pool();
    let lanes = vec![
        hanging(opened),
        lane("good", opts(honest, Isolation::Inline)),
    ];
    let s = start(lanes, false, Arc::new(ManualClock::default()));
    for id in 0..6 {
        s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
    }
    s.captured.send(Captured::End).unwrap();
    let good = Arc::clone(&s.stats);
    until("the others go on", || {
        good.lanes()[1].1.observed.load(Ordering::SeqCst) == 6
    });
    drop(open); // lets its thread end
    let (noted, stats, held) = finish(s);
    assert_eq!(held, ["hung: silent past hang_ms"]);
    let hung = Arc::clone(&stats.lanes()[0].1);
    assert_eq!(hung.timed_out.load(Ordering::SeqCst), 1, "the frame it had");
    assert_eq!(hung.dropped_held.load(Ordering::SeqCst), 5, "the others");
    assert_eq!(noted.len(), 7, "{noted:?}");
    assert_eq!(pool.available(), 16);
}

#[test]
fn a_stop_does_not_wait_for_a_hung_extractor_beyond_its_grace() {
    for realtime in [true, false] {
        let (open, opened) = bounded(1);
        let clock = Arc::new(ManualClock::default());
        let pool = pool();
        let mut lane = hanging(opened);
        lane.hang_ns = i64::MAX;
        let s = start(vec![lane], realtime, Arc::clone(&clock) as Arc<dyn Clock>);
        // Not realtime, the third waits in the inbox, and so does the end: nobody takes them.
        for id in 0..3 {
            s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
        }
        s.captured.send(Captured::End).unwrap();
        s.stop.stop();
        let stats = Arc::clone(&s.stats);
        let lane = Arc::clone(&stats.lanes()[0].1);
        until("what waits is given up", || {
            lane.dropped_stopping.load(Ordering::SeqCst) >= 1
        });
        clock.advance(1_000_000);
        until("the grace is over", || {
            lane.timed_out.load(Ordering::SeqCst) == 1
        });
        drop(open);
        let (noted, _, held) = finish(s);
        assert_eq!(held, Vec::<String>::new(), "no fault of its own");
        assert_eq!(
            noted
                .last()
                .map(String::as_str)
                .map(|l| l.starts_with("end")),
            Some(true)
        );
    }
}
