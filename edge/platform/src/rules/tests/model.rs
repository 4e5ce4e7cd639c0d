//! The state machine against a model that knows no states: it looks at the whole history at once
//! and picks out, by index, where a rule must have fired and ended.

use proptest::prelude::*;
use serde_json::json;
use visualpath_core::{EndReason, Fusion, FusionInput, FusionResult, NS_PER_MS, Phase};

use super::{Rules, aligned, compile, held};

/// One input of a history; times in ms.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Input {
    /// A frame: its time, and the condition (`None`: the signal is missing).
    Frame(i64, Option<bool>),
    Gap(i64, i64),
    End(i64),
}

#[derive(Debug, Clone, Copy)]
struct Keys {
    range: bool,
    for_ms: i64,
    release_ms: i64,
    cooldown_ms: i64,
    max_ms: i64,
}

/// A trigger as the model sees it: the input it comes out at, and what it says. Times in ms.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    at: usize,
    phase: Phase,
    event: u64,
    frame_id: u64,
    start: i64,
    fired: i64,
    end: i64,
}

/// A stretch of the history without interruption: (input index, time, truth) per frame.
type Stretch = Vec<(usize, i64, bool)>;

/// What must be said, from the whole history.
fn expected(history: &[Input], keys: Keys) -> Vec<Said> {
    let mut said = Vec::new();
    let (mut fired_before, mut events) = (None, 0);
    let mut stretch: Stretch = Vec::new();
    for (at, input) in history.iter().enumerate() {
        match *input {
            Input::Frame(t, truth) => stretch.push((at, t, truth == Some(true))),
            Input::Gap(from, to) if to - from <= 5000 => {}
            Input::Gap(..) | Input::End(_) => {
                said.extend(of_stretch(
                    &stretch,
                    Some(at),
                    keys,
                    &mut fired_before,
                    &mut events,
                ));
                stretch.clear();
            }
        }
    }
    said.extend(of_stretch(
        &stretch,
        None,
        keys,
        &mut fired_before,
        &mut events,
    ));
    said
}

fn of_stretch(
    frames: &Stretch,
    interrupted_at: Option<usize>,
    keys: Keys,
    fired_before: &mut Option<i64>,
    events: &mut u64,
) -> Vec<Said> {
    let mut said = Vec::new();
    let (mut from, mut proved) = (0, false);
    // The first frame, from `from` on, that ends a long enough true run and is past the cooldown.
    while let Some((first, fire)) = (from..frames.len()).find_map(|j| {
        if !frames[j].2 {
            return None;
        }
        let run = (from..=j).rev().take_while(|i| frames[*i].2).last()?;
        let long = frames[j].1 - frames[run].1 >= keys.for_ms || (proved && run == from);
        let cool = fired_before.is_none_or(|f| frames[j].1 >= f + keys.cooldown_ms);
        (long && cool).then_some((run, j))
    }) {
        let t_fire = frames[fire].1;
        let first = if keys.range && t_fire - frames[first].1 >= keys.max_ms {
            fire
        } else {
            first
        };
        let start = frames[first].1;
        *fired_before = Some(t_fire);
        *events += 1;
        let message = |at: usize, phase: Phase, end: i64| Said {
            at,
            phase,
            event: *events,
            frame_id: frames[first].0 as u64,
            start,
            fired: t_fire,
            end,
        };
        let phase = if keys.range {
            Phase::Start
        } else {
            Phase::Point
        };
        said.push(message(frames[fire].0, phase, t_fire));
        let last_true_to = |j: usize| {
            let i = (fire..=j).rev().find(|i| frames[*i].2);
            i.map_or(t_fire, |i| frames[i].1)
        };
        let end = |reason| Phase::End { reason };
        let released = |j: usize| {
            let run = (fire + 1..=j).rev().take_while(|i| !frames[*i].2).last();
            run.is_some_and(|i| frames[j].1 - frames[i].1 >= keys.release_ms)
        };
        let full = |j: usize| keys.range && frames[j].1 - start >= keys.max_ms;
        match (fire + 1..frames.len()).find(|j| released(*j) || full(*j)) {
            Some(j) if released(j) => {
                if keys.range {
                    said.push(message(
                        frames[j].0,
                        end(EndReason::Released),
                        last_true_to(j),
                    ));
                }
                (from, proved) = (j + 1, false);
            }
            Some(j) => {
                let until = last_true_to(j).min(start + keys.max_ms);
                said.push(message(frames[j].0, end(EndReason::MaxS), until));
                (from, proved) = (j, frames[j].2);
            }
            None => {
                if let (true, Some(at)) = (keys.range, interrupted_at) {
                    let until = last_true_to(frames.len() - 1);
                    said.push(message(at, end(EndReason::Interrupted), until));
                }
                return said;
            }
        }
    }
    said
}

/// Two rules, so that one's state can't leak into the other's: `r` and its contrary `s`.
fn fusion(keys: Keys) -> Rules {
    let rule = |label: &str, when: &str| {
        json!({
            "label": label, "when": when, "kind": if keys.range { "range" } else { "point" },
            "for_ms": keys.for_ms, "release_ms": keys.release_ms,
            "cooldown_ms": keys.cooldown_ms, "max_s": keys.max_ms as f64 / 1000.0,
            "pre_s": 3.0, "post_s": 2.0,
        })
    };
    compile(&json!([
        rule("r", "free.x > 0.5"),
        rule("s", "free.x <= 0.5")
    ]))
    .unwrap()
}

fn run(fusion: &mut Rules, history: &[Input]) -> Vec<FusionResult> {
    let feed = |(at, input): (usize, &Input)| match *input {
        Input::Frame(t, truth) => {
            let x = truth.map(|b| held(&[("x", f64::from(u8::from(b)))]));
            let frame = aligned(at as u64, t, &[("free", x)]);
            fusion.update(FusionInput::Aligned(&frame))
        }
        Input::Gap(from, to) => fusion.update(FusionInput::Gap {
            from_ns: from * NS_PER_MS,
            to_ns: to * NS_PER_MS,
        }),
        Input::End(t) => fusion.update(FusionInput::End {
            t_ns: t * NS_PER_MS,
        }),
    };
    history.iter().enumerate().map(feed).collect()
}

fn said(results: &[FusionResult], label: &str) -> Vec<Said> {
    let mut said = Vec::new();
    for (at, result) in results.iter().enumerate() {
        for t in result.triggers.iter().filter(|t| t.label == *label) {
            said.push(Said {
                at,
                phase: t.phase.clone(),
                event: t.event,
                frame_id: t.frame_id,
                start: t.event_start_ns / NS_PER_MS,
                fired: t.fired_ns / NS_PER_MS,
                end: t.event_end_ns / NS_PER_MS,
            });
        }
    }
    said
}

/// Times that are sometimes nothing, sometimes about a frame, sometimes many.
fn span() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), 1..150_i64, 100..1500_i64]
}

fn keys() -> impl Strategy<Value = Keys> {
    (any::<bool>(), span(), span(), span(), 1000..4000_i64).prop_map(
        |(range, for_ms, release_ms, cooldown_ms, max_ms)| Keys {
            range,
            for_ms,
            release_ms,
            cooldown_ms: cooldown_ms * 3,
            max_ms,
        },
    )
}

/// Frames at irregular times, in runs of one truth, with gaps, and an end at any point.
fn history() -> impl Strategy<Value = Vec<Input>> {
    let truth = prop_oneof![4 => Just(Some(true)), 3 => Just(Some(false)), 1 => Just(None)];
    let run = (
        truth,
        prop::collection::vec(prop_oneof![8 => 1..200_i64, 1 => 200..2500_i64], 1..12),
    );
    let gap = prop_oneof![6 => Just(None), 1 => Just(Some(3000)), 1 => Just(Some(5000)), 1 => Just(Some(5001))];
    let piece = (run, gap);
    (prop::collection::vec(piece, 0..14), any::<bool>()).prop_map(|(pieces, end)| {
        let mut t = 1000;
        let mut history = Vec::new();
        for ((truth, steps), gap) in pieces {
            for step in steps {
                t += step;
                history.push(Input::Frame(t, truth));
            }
            if let Some(gap) = gap {
                history.push(Input::Gap(t, t + gap));
                t += gap;
            }
        }
        if end {
            history.push(Input::End(t));
        }
        history
    })
}

fn opposite(history: &[Input]) -> Vec<Input> {
    let turn = |input: &Input| match *input {
        Input::Frame(t, truth) => Input::Frame(t, truth.map(|b| !b)),
        other => other,
    };
    history.iter().map(turn).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn rules_fire_and_end_where_the_whole_history_says(keys in keys(), history in history()) {
        let results = run(&mut fusion(keys), &history);
        prop_assert_eq!(said(&results, "r"), expected(&history, keys));
        prop_assert_eq!(said(&results, "s"), expected(&opposite(&history), keys));
    }

    #[test]
    fn the_same_history_gives_the_same_triggers_also_after_a_reset(
        keys in keys(),
        before in history(),
        history in history(),
    ) {
        let first = run(&mut fusion(keys), &history);
        let mut used = fusion(keys);
        run(&mut used, &before);
        used.reset();
        prop_assert_eq!(&run(&mut used, &history), &first);
    }

    #[test]
    fn states_and_clip_windows_follow_the_events(keys in keys(), history in history()) {
        let results = run(&mut fusion(keys), &history);
        for label in ["r", "s"] {
            let mut on = false;
            let mut latest_end = None;
            for result in &results {
                for (_, state) in result.states.iter().filter(|(l, _)| *l == *label) {
                    prop_assert_ne!(on, *state, "a state is told when it changes");
                    on = *state;
                }
                for t in result.triggers.iter().filter(|t| t.label == *label) {
                    prop_assert_eq!(t.t_start_ns, t.event_start_ns - 3000 * NS_PER_MS);
                    prop_assert!(t.event_start_ns <= t.event_end_ns);
                    prop_assert!(t.event_start_ns <= t.fired_ns);
                    match t.phase {
                        Phase::Point => prop_assert_eq!(t.t_end_ns, t.fired_ns + 2000 * NS_PER_MS),
                        Phase::Start => {
                            prop_assert_eq!(latest_end, None, "one range at a time");
                            latest_end = Some(t.t_end_ns);
                        }
                        Phase::End { .. } => {
                            prop_assert_eq!(t.t_end_ns, t.event_end_ns + 2000 * NS_PER_MS);
                            let latest = latest_end.take();
                            prop_assert!(latest.is_some_and(|latest| t.t_end_ns <= latest));
                        }
                    }
                }
                if keys.range {
                    prop_assert_eq!(on, latest_end.is_some());
                }
            }
            if let Some(Input::End(_)) = history.last() {
                prop_assert!(!on && latest_end.is_none(), "the end closes everything");
            }
        }
    }
}
