//! What several extractors of one source do to each other: dependencies, changes while running.

use proptest::prelude::*;

use visualpath_core::ExtractorSignals;
use visualpath_platform::LaneGate;
use visualpath_platform::rules::Gate;

use super::*;

/// What an extractor is to do with a frame, and what it says: a function of the frame and of what
/// it was given.
#[derive(Debug, Clone)]
struct Plan {
    depends: Vec<usize>,
    thread: bool,
    /// One frame in so many, if limited.
    every: Option<u32>,
    /// Looks only while this one's value is large.
    gate: Option<usize>,
    /// Fails on frames with this remainder modulo 5.
    fails: Option<u64>,
}

fn value(frame_id: u64, lane: usize, deps: &[f64]) -> f64 {
    let own = (frame_id * 31 + lane as u64 * 7) % 101;
    deps.iter().fold(own as f64, |sum, d| sum * 2.0 + d) % 1009.0
}

struct Dependent {
    lane: usize,
    fails: Option<u64>,
}

impl Extractor for Dependent {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        deps: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        let id = frame.meta.frame_id;
        if self.fails == Some(id % 5) {
            return Err(ExtractError("no".into()));
        }
        if let Some(other) = deps.iter().find(|d| d.frame_id != id) {
            return Err(ExtractError(format!("answer of frame {}", other.frame_id)));
        }
        let deps: Vec<f64> = deps.iter().filter_map(|d| d.signals.get("value")).collect();
        let mut o = Observation::new(name("x"), 0, 0);
        o.signals.set("value", value(id, self.lane, &deps));
        Ok(vec![o])
    }
}

fn lane_of(index: usize, plan: &Plan) -> LaneSpec {
    let (n, fails) = (name(&format!("e{index}")), plan.fails);
    let factory = move || {
        let lane = index;
        Ok(Box::new(Dependent { lane, fails }) as Box<dyn Extractor>)
    };
    let merger = Merger::new(n.clone(), vec![]);
    let runner = Runner::new(n, ViewSpec::default(), merger, Box::new(factory)).unwrap();
    LaneSpec {
        worker: LaneWorker::local(
            runner,
            if plan.thread {
                Isolation::Thread
            } else {
                Isolation::Inline
            },
        ),
        limiter: FlowLimiter::new(rate(plan), DropPolicy::None, 1),
        depends: plan.depends.clone(),
        gate: plan.gate.map(gate_on),
        stale_ns: i64::MAX,
        timeout_ns: 1_000,
        hang_ns: 60_000_000_000,
    }
}

const LARGE: f64 = 400.0;

fn gate_on(lane: usize) -> LaneGate {
    let known: Vec<ExtractorSignals> = (0..=lane)
        .map(|i| ExtractorSignals {
            name: name(&format!("e{i}")),
            signals: vec![],
            zones: vec![],
        })
        .collect();
    let text = format!("e{lane}.value > {LARGE:.1}");
    LaneGate {
        gate: Gate::compile(&text, 0, &known).unwrap(),
        lanes: (0..=lane).collect(),
    }
}

fn rate(plan: &Plan) -> Option<RateGate> {
    // Frames are 100 ns apart.
    RateGate::new(1e9 / (100.0 * f64::from(plan.every?)))
}

/// The rules of `docs/design/spine.md` in plain code, one frame after the other.
fn model(plans: &[Plan], frames: u64) -> Vec<String> {
    #[derive(Clone, Copy, PartialEq)]
    enum Said {
        Skipped,
        Lost(&'static str),
        Value(f64),
    }
    let mut rates: Vec<Option<RateGate>> = plans.iter().map(rate).collect();
    let mut held: Vec<Option<u64>> = vec![None; plans.len()];
    let mut values: Vec<f64> = vec![0.0; plans.len()];
    let mut out = Vec::new();
    for id in 0..frames {
        let mut said: Vec<Said> = Vec::new();
        for (i, plan) in plans.iter().enumerate() {
            let deps: Vec<Said> = plan.depends.iter().map(|d| said[*d]).collect();
            // The newest value at or before this frame, not the one that happens to be there.
            let open = plan.gate.is_none_or(|g| values[g] > LARGE);
            let skipped = deps.contains(&Said::Skipped) || !open;
            let wanted = !skipped
                && rates[i]
                    .as_mut()
                    .is_none_or(|rate| rate.admits(id as i64 * 100));
            said.push(if !wanted {
                Said::Skipped
            } else if deps.iter().any(|d| matches!(d, Said::Lost(_))) {
                Said::Lost("dependency")
            } else if plan.fails == Some(id % 5) {
                Said::Lost("failed(no)")
            } else {
                let value_of = |d: &Said| match d {
                    Said::Value(v) => Some(*v),
                    _ => None,
                };
                let deps: Vec<f64> = deps.iter().filter_map(value_of).collect();
                held[i] = Some(id);
                values[i] = value(id, i, &deps);
                Said::Value(values[i])
            });
        }
        let entry = |(i, s): (usize, &Said)| {
            let outcome = match s {
                Said::Skipped => "-".to_owned(),
                Said::Lost(why) => (*why).to_owned(),
                Said::Value(v) => format!("{:?}", Some(v)),
            };
            format!(" e{i}={outcome}/{:?}", held[i])
        };
        let entries: String = said.iter().enumerate().map(entry).collect();
        out.push(format!("{id}{entries}"));
    }
    out.push(format!("end {}", (frames as i64 - 1) * 100));
    out
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let one = (
        any::<u8>(),
        any::<Option<u8>>(),
        any::<bool>(),
        proptest::option::of(2_u32..4),
        proptest::option::of(0_u64..5),
    );
    proptest::collection::vec(one, 1..6).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(i, (mask, gate, thread, every, fails))| Plan {
                gate: gate.filter(|_| i > 0).map(|g| usize::from(g) % i.max(1)),
                depends: (0..i).filter(|d| mask & 1 << d != 0).collect(),
                thread,
                every,
                fails,
            })
            .collect()
    })
}

fn run_plans(plans: &[Plan], frames: u64) -> Vec<String> {
    let lanes = plans.iter().enumerate().map(|(i, p)| lane_of(i, p));
    let pool = pool();
    let s = start(lanes.collect(), false, Arc::new(ManualClock::default()));
    for id in 0..frames {
        s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
    }
    s.captured.send(Captured::End).unwrap();
    let (noted, _, held) = finish(s);
    assert_eq!(held, Vec::<String>::new());
    assert_eq!(pool.available(), 16, "{}", pool.held_by());
    noted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Any acyclic `depends` and gates, inline and on threads, with rate limits and failures: what every
    /// frame brings is what the plain model says, whoever is faster.
    #[test]
    fn on_a_file_dependencies_give_what_the_model_says(plans in plans()) {
        prop_assert_eq!(run_plans(&plans, 24), model(&plans, 24));
    }
}

/// Frames are looked at when the test says so.
fn slow(n: &str, go: Receiver<()>, depends: Vec<usize>) -> LaneSpec {
    let look = move |f: &FrameView<'_>| {
        go.recv().map_err(|e| ExtractError(e.to_string()))?;
        honest()(f)
    };
    let merger = Merger::new(name(n), vec![]);
    let factory =
        Box::new(move || Ok(Box::new(Scripted(Box::new(look.clone()))) as Box<dyn Extractor>));
    let runner = Runner::new(name(n), ViewSpec::default(), merger, factory).unwrap();
    LaneSpec {
        worker: LaneWorker::local(runner, Isolation::Thread),
        limiter: FlowLimiter::new(None, DropPolicy::Oldest, 1),
        depends,
        timeout_ns: i64::MAX,
        hang_ns: i64::MAX,
        ..lane(n, opts(honest, Isolation::Thread))
    }
}

#[test]
fn live_what_the_dependency_dropped_the_dependent_drops_and_no_slot_waits_for_it() {
    let (go, gone) = bounded(16);
    let pool = pool();
    let live = LaneOpts {
        policy: DropPolicy::Oldest,
        ..opts(honest, Isolation::Inline)
    };
    let second = LaneSpec {
        depends: vec![0],
        ..lane("second", live)
    };
    let clock = Arc::new(ManualClock::default());
    let s = start(vec![slow("first", gone, vec![]), second], true, clock);
    let stats = Arc::clone(&s.stats);
    for id in 0..8 {
        s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
    }
    until("all are taken over", || {
        stats.frames.load(Ordering::SeqCst) == 8
    });
    // One in flight, one waiting, both leased twice; the six between are gone already.
    until("what was dropped is free", || pool.available() == 14);
    for _ in 0..8 {
        go.send(()).unwrap();
    }
    s.captured.send(Captured::End).unwrap();
    let (noted, stats, _) = finish(s);
    let second = Arc::clone(&stats.lanes()[1].1);
    assert_eq!(second.dropped_dependency.load(Ordering::SeqCst), 6);
    assert_eq!(second.observed.load(Ordering::SeqCst), 2);
    assert_eq!(
        noted[3],
        "3 first=queue_full/Some(0) second=dependency/Some(0)"
    );
    assert_eq!(
        noted[7],
        "7 first=Some(4.0)/Some(7) second=Some(4.0)/Some(7)"
    );
    assert_eq!(pool.available(), 16);
}

/// A fusion that notes what it is fed with, under a name of its own.
fn noting(n: &str, lanes: &[(usize, &str)]) -> (FlowPath, Arc<Mutex<Vec<String>>>) {
    let noted = Arc::new(Mutex::new(vec![]));
    let extractors = lanes.iter().map(|(i, e)| (*i, name(e), i64::MAX));
    let spec = PathSpec {
        name: name(n),
        source: name("cam0"),
        extractors: extractors.collect(),
        window_ns: None,
    };
    ((spec, Box::new(Noting(Arc::clone(&noted)))), noted)
}

#[test]
fn a_change_takes_over_between_two_frames_and_touches_nothing_else() {
    let pool = pool();
    let lanes = vec![
        lane("a", opts(honest, Isolation::Thread)),
        lane("b", opts(honest, Isolation::Inline)),
    ];
    let s = start(lanes, false, Arc::new(ManualClock::default()));
    let stats = Arc::clone(&s.stats);
    let send = |from: u64, to: u64| {
        for id in from..to {
            s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
        }
        until("they are taken over", || {
            stats.frames.load(Ordering::SeqCst) == to
        });
    };
    send(0, 10);
    // Path 0 (over a and b) stays. Lane 2 comes, with a path that has it and lane 0.
    let (second, second_noted) = noting("second", &[(2, "c"), (0, "a")]);
    let mut c = lane("c", opts(honest, Isolation::Thread));
    c.depends = vec![0];
    let change = |lanes, paths| {
        s.changes
            .send(FlowChange {
                lanes,
                paths,
                in_force: None,
            })
            .unwrap()
    };
    let applied = |n: usize| until("the change is applied", || stats.lanes().len() == n);
    change(vec![(2, Some(c))], vec![(1, Some(second))]);
    applied(3);
    send(10, 20);
    // Another fusion in its place.
    let (third, third_noted) = noting("second", &[(0, "a")]);
    let spare = lane("d", opts(honest, Isolation::Thread));
    change(vec![(2, Some(spare))], vec![(1, Some(third))]);
    applied(4);
    send(20, 30);
    // And both gone.
    change(vec![(2, None)], vec![(1, None)]);
    until("the fusion has ended", || {
        third_noted
            .lock()
            .unwrap()
            .last()
            .is_some_and(|l| l.starts_with("end"))
    });
    send(30, 40);
    s.captured.send(Captured::End).unwrap();
    let (noted, _, held) = finish(s);
    assert_eq!(held, Vec::<String>::new());
    let ids = |lines: &[String]| -> Vec<u64> {
        let id = |l: &String| l.split(' ').next().and_then(|w| w.parse().ok());
        lines.iter().filter_map(id).collect()
    };
    assert_eq!(ids(&noted), (0..40).collect::<Vec<_>>(), "without a gap");
    assert!(
        noted.iter().take(40).all(|l| !l.contains("=-")),
        "{noted:?}"
    );
    let (second, third) = (second_noted.lock().unwrap(), third_noted.lock().unwrap());
    assert_eq!(ids(&second), (10..20).collect::<Vec<_>>());
    assert_eq!(ids(&third), (20..30).collect::<Vec<_>>());
    assert_eq!(second[0], "10 c=Some(0.0)/Some(10) a=Some(0.0)/Some(10)");
    assert_eq!(second.last().unwrap(), "end 1900", "the old one is closed");
    assert_eq!(third.last().unwrap(), "end 2900");
    assert_eq!(pool.available(), 16, "{}", pool.held_by());
}

#[test]
fn a_lane_taken_away_while_it_works_answers_nobody_and_its_successor_starts_clean() {
    let (go, gone) = bounded(16);
    let pool = pool();
    let s = start(
        vec![slow("old", gone, vec![])],
        true,
        Arc::new(ManualClock::default()),
    );
    let stats = Arc::clone(&s.stats);
    for id in 0..2 {
        s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
    }
    until("they are taken over", || {
        stats.frames.load(Ordering::SeqCst) == 2
    });
    let successor = lane("new", opts(honest, Isolation::Thread));
    let (path, path_noted) = noting("entrance", &[(0, "new")]);
    let lanes = vec![(0, Some(successor))];
    let paths = vec![(0, Some(path))];
    s.changes
        .send(FlowChange {
            lanes,
            paths,
            in_force: None,
        })
        .unwrap();
    until("the change is applied", || stats.lanes().len() == 2);
    // Only now the old one answers; its answer must not be taken for the new one's.
    go.send(()).unwrap();
    s.captured.send(Captured::Frame(frame(&pool, 2))).unwrap();
    let new = Arc::clone(&stats.lanes()[1].1);
    until("the new one works", || {
        new.observed.load(Ordering::SeqCst) == 1
    });
    s.captured.send(Captured::End).unwrap();
    drop(go);
    let (noted, stats, _) = finish(s);
    let old = Arc::clone(&stats.lanes()[0].1);
    assert_eq!(old.dropped_stopping.load(Ordering::SeqCst), 2);
    assert_eq!(old.observed.load(Ordering::SeqCst), 0);
    assert_eq!(path_noted.lock().unwrap()[0], "2 new=Some(4.0)/Some(2)");
    assert!(noted[2].starts_with("end"), "{noted:?}");
    assert_eq!(pool.available(), 16);
}

#[test]
fn a_lane_taken_out_of_a_chain_leaves_nobody_waiting_for_it() {
    let (go, gone) = bounded(16);
    let pool = pool();
    let live = |n: &str, depends| LaneSpec {
        depends,
        ..lane(
            n,
            LaneOpts {
                policy: DropPolicy::Oldest,
                ..opts(honest, Isolation::Inline)
            },
        )
    };
    let lanes = vec![
        slow("a", gone, vec![]),
        live("b", vec![0]),
        live("c", vec![1]),
    ];
    let s = start(lanes, true, Arc::new(ManualClock::default()));
    let stats = Arc::clone(&s.stats);
    // Undecided at b, and so at c.
    s.captured.send(Captured::Frame(frame(&pool, 0))).unwrap();
    until("it is taken over", || {
        stats.frames.load(Ordering::SeqCst) == 1
    });
    s.changes
        .send(FlowChange {
            lanes: vec![(1, Some(live("b", vec![0])))],
            paths: vec![],
            in_force: None,
        })
        .unwrap();
    until("the change is applied", || stats.lanes().len() == 4);
    for id in 1..4 {
        go.send(()).unwrap();
        s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
        let taken = id + 1;
        until("it is taken over", || {
            stats.frames.load(Ordering::SeqCst) == taken
        });
        let a = Arc::clone(&stats.lanes()[0].1);
        until("a has answered", || a.observed.load(Ordering::SeqCst) == id);
    }
    go.send(()).unwrap();
    s.captured.send(Captured::End).unwrap();
    let (_, stats, _) = finish(s);
    let c = Arc::clone(&stats.lanes()[2].1);
    assert_eq!(c.observed.load(Ordering::SeqCst), 3, "c goes on: {c:?}");
    assert_eq!(c.skipped_dependency.load(Ordering::SeqCst), 1, "{c:?}");
    assert_eq!(pool.available(), 16, "{}", pool.held_by());
}

#[test]
fn live_a_gate_on_a_slow_extractor_holds_no_frame_and_opens_on_its_last_word() {
    let (go, gone) = bounded(16);
    let pool = pool();
    let live = LaneOpts {
        policy: DropPolicy::Oldest,
        ..opts(honest, Isolation::Inline)
    };
    let known = ExtractorSignals {
        name: name("slow"),
        signals: vec![],
        zones: vec![],
    };
    let gated = LaneSpec {
        gate: Some(LaneGate {
            gate: Gate::compile("slow.value >= 0.0", 0, &[known]).unwrap(),
            lanes: vec![0],
        }),
        ..lane("gated", live)
    };
    let clock = Arc::new(ManualClock::default());
    let s = start(vec![slow("slow", gone, vec![]), gated], true, clock);
    let stats = Arc::clone(&s.stats);
    for id in 0..8 {
        s.captured.send(Captured::Frame(frame(&pool, id))).unwrap();
    }
    until("all are taken over", || {
        stats.frames.load(Ordering::SeqCst) == 8
    });
    until("one is looked at, one waits, nobody else has any", || {
        pool.available() == 14
    });
    let gated = Arc::clone(&stats.lanes()[1].1);
    assert_eq!(
        gated.skipped_gate.load(Ordering::SeqCst),
        8,
        "nothing known yet"
    );
    go.send(()).unwrap();
    let slow = Arc::clone(&stats.lanes()[0].1);
    until("it has answered", || {
        slow.observed.load(Ordering::SeqCst) == 1
    });
    s.captured.send(Captured::Frame(frame(&pool, 8))).unwrap();
    until("the gate is open", || {
        gated.observed.load(Ordering::SeqCst) == 1
    });
    drop(go);
    s.captured.send(Captured::End).unwrap();
    finish(s);
    assert_eq!(pool.available(), 16);
}

/// Counts how often it was reset.
struct Forgetful(Arc<std::sync::atomic::AtomicU64>);

impl Extractor for Forgetful {
    fn extract(
        &mut self,
        _: &FrameView<'_>,
        _: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        Ok(Vec::new())
    }

    fn reset(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_long_gap_told_in_pieces_resets_extractors_and_short_ones_with_frames_between_do_not() {
    const S: i64 = 1_000_000_000;
    let resets = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&resets);
    let factory = move || Ok(Box::new(Forgetful(Arc::clone(&counted))) as Box<dyn Extractor>);
    let merger = Merger::new(name("x"), vec![]);
    let runner = Runner::new(name("x"), ViewSpec::default(), merger, Box::new(factory)).unwrap();
    let spec = LaneSpec {
        worker: LaneWorker::local(runner, Isolation::Inline),
        ..lane(
            "x",
            LaneOpts {
                policy: DropPolicy::None,
                ..opts(honest, Isolation::Inline)
            },
        )
    };
    let pool = pool();
    let s = start(vec![spec], false, Arc::new(ManualClock::default()));
    let gap = |from_ns, to_ns| Captured::Gap { from_ns, to_ns };
    s.captured.send(Captured::Frame(frame(&pool, 0))).unwrap();
    for piece in 0..4 {
        s.captured.send(gap(piece * S, (piece + 1) * S)).unwrap();
        s.captured
            .send(Captured::Frame(frame(&pool, 1 + piece as u64)))
            .unwrap();
    }
    for piece in 4..12 {
        s.captured.send(gap(piece * S, (piece + 1) * S)).unwrap();
    }
    s.captured.send(Captured::Frame(frame(&pool, 5))).unwrap();
    s.captured.send(Captured::End).unwrap();
    finish(s);
    assert_eq!(resets.load(Ordering::SeqCst), 1);
}
