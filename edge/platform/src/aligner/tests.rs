use proptest::prelude::*;
use visualpath_core::{DropReason, Signals};

use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn observed(frame_id: u64, t_ns: i64) -> Outcome {
    let signals: Signals = [("count", frame_id as f64)].into_iter().collect();
    Outcome::Observed(Arc::new(Held {
        frame_id,
        t_ns,
        observations: vec![],
        signals,
        timing_ns: 0,
    }))
}

fn path(extractors: &[usize], window_ns: Option<i64>, stale_ns: i64) -> PathSpec {
    PathSpec {
        name: name("entrance"),
        source: name("cam0"),
        extractors: extractors
            .iter()
            .map(|i| (*i, name(&format!("e{i}")), stale_ns))
            .collect(),
        window_ns,
    }
}

/// What a fusion saw: kind, frame id, per extractor (outcome kind, held frame id).
#[derive(Debug, Clone, PartialEq)]
enum Saw {
    Frame(u64, Vec<(Option<&'static str>, Option<u64>)>),
    Gap,
    End,
    Replaced,
}

fn saw(input: FusionInput<'_>) -> Saw {
    match input {
        FusionInput::Gap { .. } => Saw::Gap,
        FusionInput::End { .. } => Saw::End,
        FusionInput::Aligned(a) => Saw::Frame(
            a.frame_id,
            a.entries
                .iter()
                .map(|e| {
                    let kind = e.outcome.as_ref().map(|o| match o {
                        Outcome::Observed(_) => "observed",
                        Outcome::Failed(_) => "failed",
                        Outcome::TimedOut => "timed_out",
                        Outcome::Dropped(_) => "dropped",
                    });
                    (kind, e.held.as_ref().map(|h| h.frame_id))
                })
                .collect(),
        ),
    }
}

fn settle(aligner: &mut Aligner, now_ns: i64) -> Vec<(usize, Saw)> {
    let mut out = vec![];
    aligner.settle(now_ns, |p, settled| match settled {
        Settled::Input(input, _) => out.push((p, saw(input))),
        Settled::Replaced { .. } => out.push((p, Saw::Replaced)),
    });
    out
}

fn frame(aligner: &mut Aligner, id: u64, now_ns: i64, admitted: &[usize]) {
    aligner.frame(id, id as i64 * 100, 0, now_ns);
    for e in admitted {
        aligner.admitted(id, *e);
    }
    aligner.offered(id);
}

#[test]
fn frames_settle_in_order_though_outcomes_do_not() {
    let mut a = Aligner::new(1, 8, vec![path(&[0], None, i64::MAX)]);
    frame(&mut a, 1, 0, &[0]);
    frame(&mut a, 2, 0, &[0]);
    a.outcome(2, 0, observed(2, 200));
    assert_eq!(
        settle(&mut a, i64::MAX),
        [],
        "frame 1 is still out and there is no window"
    );
    a.outcome(1, 0, observed(1, 100));
    let both = [1, 2].map(|i| (0, Saw::Frame(i, vec![(Some("observed"), Some(i))])));
    assert_eq!(settle(&mut a, 0), both);
    assert!(a.is_empty());
}

#[test]
fn a_skipped_frame_carries_the_held_value_until_it_is_stale() {
    let mut a = Aligner::new(1, 8, vec![path(&[0], None, 150)]);
    frame(&mut a, 1, 0, &[0]);
    a.outcome(1, 0, observed(1, 100));
    frame(&mut a, 2, 0, &[]);
    frame(&mut a, 3, 0, &[]);
    let got: Vec<_> = settle(&mut a, 0).into_iter().map(|(_, s)| s).collect();
    assert_eq!(
        got,
        [
            Saw::Frame(1, vec![(Some("observed"), Some(1))]),
            Saw::Frame(2, vec![(None, Some(1))]),
            Saw::Frame(3, vec![(None, None)]),
        ]
    );
}

#[test]
fn a_late_observation_is_counted_and_held_but_never_fused_backwards() {
    let mut a = Aligner::new(1, 8, vec![path(&[0], Some(50), i64::MAX)]);
    frame(&mut a, 1, 1000, &[0]);
    assert_eq!(a.next_deadline_ns(), Some(1050));
    assert_eq!(settle(&mut a, 1049), []);
    assert_eq!(
        settle(&mut a, 1050),
        [(0, Saw::Frame(1, vec![(None, None)]))]
    );
    a.outcome(1, 0, observed(1, 100));
    assert_eq!(a.stats().late, [1]);
    assert_eq!(settle(&mut a, 2000), [], "frame 1 is not fused twice");
    frame(&mut a, 2, 2000, &[]);
    assert_eq!(
        settle(&mut a, 2000),
        [(0, Saw::Frame(2, vec![(None, Some(1))]))]
    );
}

#[test]
fn paths_wait_only_for_their_own_extractors() {
    let mut a = Aligner::new(
        2,
        8,
        vec![path(&[0], None, i64::MAX), path(&[0, 1], None, i64::MAX)],
    );
    frame(&mut a, 1, 0, &[0, 1]);
    a.outcome(1, 0, Outcome::Failed("no".into()));
    assert_eq!(
        settle(&mut a, 0),
        [(0, Saw::Frame(1, vec![(Some("failed"), None)]))]
    );
    a.outcome(1, 1, Outcome::Dropped(DropReason::QueueFull));
    let both = Saw::Frame(1, vec![(Some("failed"), None), (Some("dropped"), None)]);
    assert_eq!(settle(&mut a, 0), [(1, both)]);
}

#[test]
fn a_full_table_settles_the_oldest_frame_and_counts_it() {
    let mut a = Aligner::new(1, 2, vec![path(&[0], Some(i64::MAX), i64::MAX)]);
    for id in 1..=3 {
        frame(&mut a, id, 0, &[0]);
    }
    assert_eq!(settle(&mut a, 0), [(0, Saw::Frame(1, vec![(None, None)]))]);
    assert_eq!(a.stats().overflow, 1);
}

#[test]
fn a_successor_begins_with_the_next_frame_and_keeps_what_is_held() {
    let mut a = Aligner::new(2, 8, vec![path(&[0], None, i64::MAX)]);
    frame(&mut a, 1, 0, &[0]);
    a.outcome(1, 0, observed(1, 100));
    frame(&mut a, 2, 0, &[0]);
    a.set_path(0, Some(path(&[0, 1], None, i64::MAX)));
    a.set_path(1, Some(path(&[1], None, i64::MAX)));
    frame(&mut a, 3, 0, &[1]);
    a.outcome(3, 1, observed(3, 300));
    let seen = |e: Option<&'static str>, held| (e, held);
    let first = Saw::Frame(1, vec![seen(Some("observed"), Some(1))]);
    let other = Saw::Frame(3, vec![seen(Some("observed"), Some(3))]);
    assert_eq!(
        settle(&mut a, 0),
        [(0, first), (1, Saw::Replaced), (1, other)],
        "frame 2 is still the old path's"
    );
    a.outcome(2, 0, observed(2, 200));
    let second = Saw::Frame(2, vec![seen(Some("observed"), Some(2))]);
    let both = vec![seen(None, Some(2)), seen(Some("observed"), Some(3))];
    assert_eq!(
        settle(&mut a, 0),
        [(0, second), (0, Saw::Replaced), (0, Saw::Frame(3, both))]
    );
    a.set_path(0, None);
    a.set_path(1, None);
    assert_eq!(settle(&mut a, 0), [(0, Saw::Replaced), (1, Saw::Replaced)]);
    frame(&mut a, 4, 0, &[0]);
    assert_eq!(settle(&mut a, 0), []);
    assert!(a.is_empty(), "nobody waits for it");
}

proptest! {
    /// Random admission, lateness, loss of none, gaps and an end: every frame reaches every path
    /// exactly once, in order, gaps and the end in their places, and held values are the newest
    /// observed at or before the frame, whatever the order of arrival.
    #[test]
    fn without_a_window_only_what_outcomes_say_matters(
        frames in proptest::collection::vec((0_u8..8, 0_u8..4, any::<bool>()), 1..60),
        order in proptest::collection::vec(any::<u32>(), 180),
    ) {
        let spec = || vec![path(&[0, 1], None, 250), path(&[1, 2], None, i64::MAX)];
        let run = |shuffle: bool| {
            let mut a = Aligner::new(3, 256, spec());
            let mut owed = vec![];
            let mut out = vec![];
            for (n, (admit, result, gap)) in frames.iter().enumerate() {
                let id = n as u64;
                let admitted: Vec<usize> = (0..3).filter(|e| admit & 1 << e != 0).collect();
                frame(&mut a, id, 0, &admitted);
                if *gap {
                    a.gap(id as i64 * 100, id as i64 * 100 + 50);
                }
                owed.extend(admitted.into_iter().map(|e| (id, e, *result)));
                if shuffle {
                    // Some outcomes arrive at once, out of order, some much later.
                    let mut k = order[n % order.len()] as usize;
                    while !k.is_multiple_of(3) && !owed.is_empty() {
                        let (id, e, r) = owed.swap_remove(k % owed.len());
                        a.outcome(id, e, result_of(r, id));
                        k /= 3;
                    }
                    out.extend(settle(&mut a, i64::MAX));
                }
            }
            a.end();
            for (id, e, r) in owed {
                a.outcome(id, e, result_of(r, id));
            }
            out.extend(settle(&mut a, i64::MAX));
            prop_assert!(a.is_empty());
            prop_assert_eq!(a.stats().late.iter().sum::<u64>(), 0);
            Ok(out)
        };
        let (shuffled, plain) = (run(true)?, run(false)?);
        for p in 0..2 {
            let of = |all: &[(usize, Saw)]| -> Vec<Saw> {
                all.iter().filter(|(q, _)| *q == p).map(|(_, s)| s.clone()).collect()
            };
            let (s, plain) = (of(&shuffled), of(&plain));
            prop_assert_eq!(&s, &plain);
            let ids: Vec<u64> = s.iter().filter_map(|x| match x { Saw::Frame(i, _) => Some(*i), _ => None }).collect();
            prop_assert_eq!(ids, (0..frames.len() as u64).collect::<Vec<_>>());
            prop_assert_eq!(s.last(), Some(&Saw::End));
            prop_assert_eq!(s.iter().filter(|x| **x == Saw::Gap).count(), frames.iter().filter(|f| f.2).count());
            // Reference model of held values, from the whole history.
            let es = if p == 0 { [0, 1] } else { [1, 2] };
            let stale = if p == 0 { 250 } else { i64::MAX };
            for x in &s {
                let Saw::Frame(id, entries) = x else { continue };
                for (k, e) in es.into_iter().enumerate() {
                    let newest = (0..=*id).rev().find(|i| {
                        let (admit, result, _) = frames[*i as usize];
                        admit & 1 << e != 0 && result == 0
                    });
                    let expected = newest.filter(|i| (*id - i) as i64 * 100 <= stale);
                    prop_assert_eq!(entries[k].1, expected, "frame {} extractor {}", id, e);
                }
            }
        }
    }

    /// With a window: whatever arrives when, no frame is lost, doubled or out of order.
    #[test]
    fn with_a_window_every_frame_settles_once_in_order(
        frames in proptest::collection::vec((0_u8..4, 0_i64..120), 1..80),
        capacity in 1_usize..6,
    ) {
        let mut a = Aligner::new(2, capacity, vec![path(&[0, 1], Some(40), i64::MAX)]);
        let mut replies: Vec<(i64, u64, usize)> = vec![];
        let mut out = vec![];
        for (n, (admit, delay)) in frames.iter().enumerate() {
            let (id, now) = (n as u64, n as i64 * 10);
            replies.retain(|(at, id, e)| {
                let due = *at <= now;
                if due {
                    a.outcome(*id, *e, observed(*id, *id as i64 * 100));
                }
                !due
            });
            let admitted: Vec<usize> = (0..2).filter(|e| admit & 1 << e != 0).collect();
            frame(&mut a, id, now, &admitted);
            replies.extend(admitted.into_iter().map(|e| (now + delay, id, e)));
            out.extend(settle(&mut a, now));
        }
        a.end();
        out.extend(settle(&mut a, i64::MAX));
        let expected: Vec<u64> = (0..frames.len() as u64).collect();
        let ids: Vec<u64> = out.iter().filter_map(|(_, x)| match x { Saw::Frame(i, _) => Some(*i), _ => None }).collect();
        prop_assert_eq!(ids, expected);
        prop_assert_eq!(out.last().map(|(_, s)| s.clone()), Some(Saw::End));
    }
}

proptest! {
    /// Time stamps that jump to the ends of time and back, outcomes said twice, outcomes of frames
    /// that never were, paths that change, an end at any point: nothing stalls, nothing is doubled,
    /// and the first word of an extractor stands.
    #[test]
    fn absurd_times_and_doubled_outcomes_stall_and_double_nothing(
        frames in proptest::collection::vec((0_u8..4, any::<i64>(), any::<u8>()), 1..60),
        window in proptest::option::of(0_i64..50),
    ) {
        let mut a = Aligner::new(2, 16, vec![path(&[0, 1], window, 1000)]);
        let mut out = vec![];
        for (n, (admit, t_ns, noise)) in frames.iter().enumerate() {
            let (id, now) = (n as u64, n as i64 * 10);
            a.frame(id, *t_ns, *t_ns, now);
            let admitted: Vec<usize> = (0..2).filter(|e| admit & 1 << e != 0).collect();
            for e in &admitted {
                a.admitted(id, *e);
            }
            a.offered(id);
            for e in admitted {
                a.outcome(id, e, observed(id, *t_ns));
                a.outcome(id, e, Outcome::TimedOut);
            }
            if noise % 3 == 0 {
                a.outcome(id + 1000, 0, observed(id + 1000, i64::MAX));
                a.late(1, &Outcome::Failed("of nothing".into()));
            }
            if noise % 5 == 0 {
                a.gap(i64::MAX, i64::MIN);
            }
            if noise % 11 == 0 {
                a.set_path(0, Some(path(&[1, 0], window, 1000)));
            }
            out.extend(settle(&mut a, now));
        }
        a.end();
        out.extend(settle(&mut a, i64::MAX));
        prop_assert!(a.is_empty());
        let ids: Vec<u64> = out
            .iter()
            .filter_map(|(_, x)| match x { Saw::Frame(i, _) => Some(*i), _ => None })
            .collect();
        prop_assert_eq!(ids, (0..frames.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!(out.last().map(|(_, s)| s.clone()), Some(Saw::End));
        for (_, x) in &out {
            let Saw::Frame(_, entries) = x else { continue };
            prop_assert!(entries.iter().all(|(outcome, _)| *outcome != Some("timed_out")));
        }
    }
}

fn result_of(result: u8, id: u64) -> Outcome {
    match result {
        0 => observed(id, id as i64 * 100),
        1 => Outcome::Failed("failed".into()),
        2 => Outcome::TimedOut,
        _ => Outcome::Dropped(DropReason::QueueFull),
    }
}
