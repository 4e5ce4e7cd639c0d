//! The state machine against a model that knows no states: it looks at the whole history at once
//! and picks out, by index, where a rule must have fired and ended.

use std::ops::Range;

use proptest::prelude::*;
use serde_json::json;
use visualpath_core::{EndReason, Fusion, FusionInput, FusionResult, NS_PER_MS, NS_PER_S, Phase};

use super::{Rules, aligned, compile, held};

/// What the conditions of a rule are worth on a frame; `None`: the signal is missing.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Says {
    when: Option<bool>,
    then: Option<bool>,
    unless: Option<bool>,
    /// Within the rule's hours.
    inside: bool,
}

/// One input of a history; times in ns.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Input {
    Frame(i64, Says),
    Gap(i64, i64),
    End(i64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Follow {
    Nothing,
    Then(i64),
    Absence(i64),
}

/// Times in ns.
#[derive(Debug, Clone, Copy)]
struct Keys {
    range: bool,
    follow: Follow,
    unless: bool,
    hours: bool,
    hold: i64,
    release: i64,
    cooldown: i64,
    max: i64,
}

/// A trigger as the model sees it: the input it comes out at, and what it says.
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

/// What must come out: the triggers, and from which input to before which other the state is ON.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    said: Vec<Said>,
    on: Vec<Range<usize>>,
}

/// A stretch of the history without interruption, by frame.
struct Stretch {
    /// Where each frame is in the history.
    at: Vec<usize>,
    t: Vec<i64>,
    when: Vec<bool>,
    then: Vec<bool>,
    unless: Vec<bool>,
    inside: Vec<bool>,
    keys: Keys,
}

impl Stretch {
    fn new(frames: &[(usize, i64, Says)], keys: Keys) -> Self {
        let each = |f: &dyn Fn(&Says) -> bool| frames.iter().map(|(_, _, s)| f(s)).collect();
        let inside = move |s: &Says| s.inside || !keys.hours;
        let sequence = matches!(keys.follow, Follow::Then(_));
        Self {
            at: frames.iter().map(|f| f.0).collect(),
            t: frames.iter().map(|f| f.1).collect(),
            when: each(&|s| inside(s) && s.when == Some(true)),
            then: each(&|s| inside(s) && s.then == Some(true) && sequence),
            unless: each(&|s| inside(s) && s.unless == Some(true) && keys.unless),
            inside: each(&inside),
            keys,
        }
    }

    fn len(&self) -> usize {
        self.t.len()
    }

    /// The first frame from `from` on of which `is` is true; the length if there is none.
    fn first(&self, from: usize, is: impl Fn(usize) -> bool) -> usize {
        (from..self.len()).find(|i| is(*i)).unwrap_or(self.len())
    }

    fn since(&self, i: usize, j: usize) -> i64 {
        self.t[j].saturating_sub(self.t[i])
    }

    /// Whether, looking back from `j` and no further than `from`, `holds` was false for `release`.
    fn released(&self, from: usize, j: usize, holds: impl Fn(usize) -> bool) -> bool {
        let run = (from..=j).rev().take_while(|i| !holds(*i)).last();
        run.is_some_and(|i| self.since(i, j) >= self.keys.release)
    }

    /// Where a rule that is armed from `from` on fires next, (start, firing); or else where, having
    /// been cancelled or late, it is armed again.
    fn next(&self, from: usize, cool_from: Option<i64>) -> Result<(usize, usize), usize> {
        let cool = |i: usize| cool_from.is_none_or(|c| self.t[i] >= c);
        let start = self.first(from, |i| self.when[i]);
        let broken = self.first(start, |i| !self.when[i]);
        let met = self.first(start, |i| self.since(start, i) >= self.keys.hold);
        let cancelled = self.first(start, |i| self.unless[i]);
        let rearmed =
            |from: usize| Err(self.first(from, |i| self.released(start, i, |i| self.when[i])));
        let within = match self.keys.follow {
            Follow::Nothing => {
                let fire = self.first(met, cool);
                return if broken <= cancelled.min(fire) {
                    Err(broken)
                } else if cancelled <= fire {
                    rearmed(cancelled)
                } else {
                    Ok((start, fire))
                };
            }
            Follow::Then(within) | Follow::Absence(within) => within,
        };
        if broken <= cancelled.min(met) {
            return Err(broken);
        }
        let left = self.first(met, |i| !self.inside[i]);
        let (fire, over) = if matches!(self.keys.follow, Follow::Then(_)) {
            let fire = self.first(met, |i| self.then[i] && cool(i));
            (fire, self.first(met, |i| self.since(met, i) > within))
        } else {
            let due = |i: usize| self.since(met, i) >= within;
            let fire = self.first(met, |i| due(i) && cool(i));
            let passed_over =
                |i: usize| due(i) && !cool(i) && self.released(start, i, |i| self.when[i]);
            (fire, self.first(met, passed_over))
        };
        let lost = cancelled.min(left).min(over);
        if lost <= fire {
            rearmed(lost)
        } else {
            Ok((start, fire))
        }
    }
}

/// What must come out of the whole history.
fn expected(history: &[Input], keys: Keys) -> Expected {
    let mut out = Expected::default();
    let (mut cool_from, mut frames) = (None, Vec::new());
    for (at, input) in history.iter().enumerate() {
        match *input {
            Input::Frame(t, says) => frames.push((at, t, says)),
            Input::Gap(from, to) if to.saturating_sub(from) <= 5 * NS_PER_S => {}
            Input::Gap(..) | Input::End(_) => {
                let stretch = Stretch::new(&frames, keys);
                of_stretch(&stretch, at, true, &mut cool_from, &mut out);
                frames.clear();
            }
        }
    }
    let stretch = Stretch::new(&frames, keys);
    of_stretch(&stretch, history.len(), false, &mut cool_from, &mut out);
    out
}

fn of_stretch(s: &Stretch, end_at: usize, ends: bool, cool: &mut Option<i64>, out: &mut Expected) {
    let keep = |i: usize| s.when[i] || s.then[i];
    let mut from = 0;
    // The frame on which a range was split that goes on.
    let mut goes_on = None;
    while from < s.len() {
        let next = match goes_on.take() {
            Some(start) => {
                let fire = s.first(start, |i| cool.is_none_or(|c| s.t[i] >= c));
                let broken = s.first(start, |i| !keep(i));
                if broken <= fire {
                    Err(broken)
                } else {
                    Ok((start, fire))
                }
            }
            None => s.next(from, *cool),
        };
        let (start, fire) = match next {
            Ok(found) => found,
            Err(armed) => {
                from = armed;
                continue;
            }
        };
        let start = if s.keys.range && s.since(start, fire) >= s.keys.max {
            fire
        } else {
            start
        };
        *cool = Some(s.t[fire].saturating_add(s.keys.cooldown));
        let event = 1 + out.said.iter().map(|said| said.event).max().unwrap_or(0);
        let message = |at: usize, phase: Phase, end: i64| Said {
            at,
            phase,
            event,
            frame_id: s.at[start] as u64,
            start: s.t[start],
            fired: s.t[fire],
            end,
        };
        let phase = if s.keys.range {
            Phase::Start
        } else {
            Phase::Point
        };
        out.said.push(message(s.at[fire], phase, s.t[fire]));
        let last_true_to = |j: usize| {
            let i = (fire..=j).rev().find(|i| keep(*i));
            i.map_or(s.t[fire], |i| s.t[i])
        };
        let released = s.first(fire + 1, |j| s.released(fire, j, keep));
        let full = s.first(fire + 1, |j| {
            s.keys.range && s.since(start, j) >= s.keys.max
        });
        let over = released.min(full);
        let (at, until, reason) = if over == s.len() {
            (end_at, last_true_to(over - 1), EndReason::Interrupted)
        } else if released <= full {
            (s.at[over], last_true_to(over), EndReason::Released)
        } else {
            let most = s.t[start].saturating_add(s.keys.max);
            (s.at[over], last_true_to(over).min(most), EndReason::MaxS)
        };
        if s.keys.range && (over < s.len() || ends) {
            out.said.push(message(at, Phase::End { reason }, until));
        }
        out.on.push(s.at[fire]..at);
        from = over;
        goes_on = (reason == EndReason::MaxS && keep(over)).then_some(over);
    }
}

/// Two rules, so that one's state can't leak into the other's: `r`, and `s` whose `when` is the
/// contrary.
fn fusion(keys: Keys) -> Rules {
    let ms = |ns: i64| ns / NS_PER_MS;
    let rule = |label: &str, when: &str| {
        let mut rule = json!({
            "label": label, "when": when, "kind": if keys.range { "range" } else { "point" },
            "for_ms": ms(keys.hold), "release_ms": ms(keys.release),
            "cooldown_ms": ms(keys.cooldown), "max_s": ms(keys.max) as f64 / 1000.0,
            "pre_s": 3.0, "post_s": 2.0,
        });
        if let Follow::Then(within) | Follow::Absence(within) = keys.follow {
            rule["within_ms"] = json!(ms(within));
        }
        if matches!(keys.follow, Follow::Then(_)) {
            rule["then"] = json!("free.y > 0.5");
        }
        if keys.unless {
            rule["unless"] = json!("free.z > 0.5");
        }
        if keys.hours {
            rule["active"] = json!("Thu 00:00-12:00");
        }
        rule
    };
    compile(&json!([
        rule("r", "free.x > 0.5"),
        rule("s", "free.x <= 0.5")
    ]))
    .unwrap()
}

fn run(fusion: &mut Rules, history: &[Input]) -> Vec<FusionResult> {
    let feed = |(at, input): (usize, &Input)| match *input {
        Input::Frame(t, says) => {
            let signals = [("x", says.when), ("y", says.then), ("z", says.unless)];
            let signals: Vec<(&str, f64)> = signals
                .into_iter()
                .filter_map(|(name, truth)| Some((name, f64::from(u8::from(truth?)))))
                .collect();
            let mut frame = aligned(at as u64, 0, &[("free", Some(held(&signals)))]);
            frame.t_ns = t;
            // 1970 began on a Thursday.
            frame.unix_ns = if says.inside { 0 } else { 13 * 3600 * NS_PER_S };
            fusion.update(FusionInput::Aligned(&frame))
        }
        Input::Gap(from_ns, to_ns) => fusion.update(FusionInput::Gap { from_ns, to_ns }),
        Input::End(t_ns) => fusion.update(FusionInput::End { t_ns }),
    };
    history.iter().enumerate().map(feed).collect()
}

/// What came out, of the rule `label`.
fn came(results: &[FusionResult], label: &str) -> Expected {
    let mut out = Expected::default();
    let mut on_since = None;
    for (at, result) in results.iter().enumerate() {
        for t in result.triggers.iter().filter(|t| t.label == *label) {
            out.said.push(Said {
                at,
                phase: t.phase.clone(),
                event: t.event,
                frame_id: t.frame_id,
                start: t.event_start_ns,
                fired: t.fired_ns,
                end: t.event_end_ns,
            });
        }
        for (_, on) in result.states.iter().filter(|(l, _)| *l == *label) {
            assert_ne!(*on, on_since.is_some(), "a state is told when it changes");
            if *on {
                on_since = Some(at);
            } else {
                out.on.extend(on_since.take().map(|since| since..at));
            }
        }
    }
    out.on.extend(on_since.map(|since| since..results.len()));
    out
}

/// A range that goes on after a split is ON all the while.
fn joined(on: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for range in on {
        match out.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => out.push(range),
        }
    }
    out
}

/// Times, in ns, that are sometimes nothing, sometimes about a frame, sometimes many; often such
/// that frames meet them exactly.
fn span() -> impl Strategy<Value = i64> {
    let ms = prop_oneof![
        Just(0),
        1..150_i64,
        100..1500_i64,
        (0..12_i64).prop_map(|n| n * 100),
    ];
    ms.prop_map(|ms| ms * NS_PER_MS)
}

fn keys() -> impl Strategy<Value = Keys> {
    let within = || span().prop_map(|ns| ns.max(NS_PER_MS));
    let follow = prop_oneof![
        2 => Just(Follow::Nothing),
        3 => within().prop_map(Follow::Then),
        2 => within().prop_map(Follow::Absence),
    ];
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.3));
    let times = (span(), span(), span(), 1000..4000_i64);
    (flags, follow, times).prop_map(
        |((range, unless, hours), follow, (hold, release, cooldown, max))| Keys {
            range,
            follow,
            unless: unless || matches!(follow, Follow::Absence(_)),
            hours,
            hold,
            release,
            cooldown: cooldown * 3,
            max: max * NS_PER_MS,
        },
    )
}

/// How one frame follows another: mostly a jittery interval, sometimes a stall.
fn step() -> impl Strategy<Value = i64> {
    let ms = prop_oneof![
        4 => 1..200_i64,
        12 => Just(100),
        1 => (2..20_i64).prop_map(|n| n * 100),
        1 => 200..2500_i64,
    ];
    ms.prop_map(|ms| ms * NS_PER_MS)
}

fn truth(often: u32) -> impl Strategy<Value = Option<bool>> {
    prop_oneof![often => Just(Some(true)), 8 => Just(Some(false)), 1 => Just(None)]
}

/// Frames at irregular times, in runs of one truth, with gaps, and an end at any point.
fn history() -> impl Strategy<Value = Vec<Input>> {
    let frame = (step(), truth(1));
    let run = (
        truth(8),
        truth(2),
        prop::bool::weighted(0.8),
        prop::collection::vec(frame, 1..12),
    );
    let gap = prop_oneof![6 => Just(None), 1 => Just(Some(3000)), 1 => Just(Some(5000)), 1 => Just(Some(5001))];
    let piece = (run, gap);
    (prop::collection::vec(piece, 0..14), any::<bool>()).prop_map(|(pieces, end)| {
        let mut t = NS_PER_S;
        let mut history = Vec::new();
        for ((when, then, inside, frames), gap) in pieces {
            for (step, unless) in frames {
                t += step;
                let says = Says {
                    when,
                    then,
                    unless,
                    inside,
                };
                history.push(Input::Frame(t, says));
            }
            if let Some(ms) = gap {
                history.push(Input::Gap(t, t + ms * NS_PER_MS));
                t += ms * NS_PER_MS;
            }
        }
        if end {
            history.push(Input::End(t));
        }
        history
    })
}

/// The same with time stamps that jump anywhere, also back and to the ends of time.
fn absurd_history() -> impl Strategy<Value = Vec<Input>> {
    let jump = prop_oneof![
        12 => Just(None),
        1 => prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), any::<i64>()].prop_map(Some),
        1 => (-3000..3000_i64).prop_map(|ms| Some(ms * NS_PER_MS)),
    ];
    (history(), prop::collection::vec(jump, 200)).prop_map(|(history, jumps)| {
        let bent = |(input, jump): (&Input, Option<i64>)| match (*input, jump) {
            (Input::Frame(_, says), Some(t)) => Input::Frame(t, says),
            (input, _) => input,
        };
        history.iter().zip(jumps).map(bent).collect()
    })
}

fn opposite(history: &[Input]) -> Vec<Input> {
    let turn = |input: &Input| match *input {
        Input::Frame(t, says) => {
            let when = says.when.map(|b| !b);
            Input::Frame(t, Says { when, ..says })
        }
        other => other,
    };
    history.iter().map(turn).collect()
}

/// Both rules say what the model says.
fn agree(keys: Keys, history: &[Input]) -> Result<(), TestCaseError> {
    let results = run(&mut fusion(keys), history);
    for (label, history) in [("r", history.to_vec()), ("s", opposite(history))] {
        let expected = expected(&history, keys);
        let came = came(&results, label);
        prop_assert_eq!(came.said, expected.said, "{}", label);
        prop_assert_eq!(came.on, joined(expected.on), "{}", label);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn rules_fire_and_end_where_the_whole_history_says(keys in keys(), history in history()) {
        agree(keys, &history)?;
    }

    #[test]
    fn also_where_time_stamps_are_absurd(keys in keys(), history in absurd_history()) {
        agree(keys, &history)?;
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
            let mut fired_ns: Option<i64> = None;
            for result in &results {
                for (_, state) in result.states.iter().filter(|(l, _)| *l == *label) {
                    prop_assert_ne!(on, *state, "a state is told when it changes");
                    on = *state;
                }
                for t in result.triggers.iter().filter(|t| t.label == *label) {
                    prop_assert_eq!(t.t_start_ns, t.event_start_ns - 3000 * NS_PER_MS);
                    prop_assert!(t.event_start_ns <= t.event_end_ns);
                    let best_ns = t.best_ns.unwrap();
                    prop_assert!((t.event_start_ns..=t.event_end_ns).contains(&best_ns));
                    prop_assert!(t.event_start_ns <= t.fired_ns);
                    if !matches!(t.phase, Phase::End { .. }) {
                        let again = fired_ns.replace(t.fired_ns);
                        prop_assert!(again.is_none_or(|f| t.fired_ns - f >= keys.cooldown));
                    }
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

/// The generators must reach every way a rule can go.
#[test]
fn the_histories_reach_every_way_a_rule_can_go() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut fired, mut ends) = ([0; 3], [0; 3]);
    let (mut quiet, mut late) = (0, 0);
    for _ in 0..1000 {
        let (keys, history) = (keys(), history()).new_tree(&mut runner).unwrap().current();
        let out = expected(&history, keys);
        let follow = match keys.follow {
            Follow::Nothing => 0,
            Follow::Then(_) => 1,
            Follow::Absence(_) => 2,
        };
        quiet += u32::from(out.said.is_empty());
        for said in &out.said {
            late += u32::from(said.fired > said.start);
            match said.phase {
                Phase::End { reason } => ends[reason as usize] += 1,
                Phase::Point | Phase::Start => fired[follow] += 1,
            }
        }
    }
    let all = (fired, ends, quiet, late);
    assert!(fired.iter().chain(&ends).all(|n| *n >= 50), "{all:?}");
    assert!(quiet > 50 && late > 300, "{all:?}");
}
