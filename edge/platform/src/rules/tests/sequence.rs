//! `then`, `within_ms` and `unless`, case by case.

use serde_json::{Value, json};
use visualpath_core::{Fusion, FusionInput, NS_PER_MS, Phase, Trigger};

use super::{Rules, aligned, compile, held, ms, object, rule};

const WHEN: &str = "person.count >= 1";
const THEN: &str = "free.open > 0";
const UNLESS: &str = "free.badge > 0";

/// Feeds one frame every 100 ms from t = 0: `w` `when`, `t` `then`, `u` `unless`, `b` `when` and
/// `then`, `c` `when` and `unless`, `x` `then` and `unless`, `.` nothing, `?` nothing held.
fn feed(rules: &mut Rules, pattern: &str) -> Vec<Trigger> {
    let mut triggers = Vec::new();
    for (i, c) in pattern.chars().enumerate() {
        let frame = frame(i as u64, c);
        triggers.extend(rules.update(FusionInput::Aligned(&frame)).triggers);
    }
    triggers
}

fn frame(i: u64, c: char) -> visualpath_core::Aligned {
    let on = |letters: &str| f64::from(u8::from(letters.contains(c)));
    let person = held(&[("count", on("wbc")), ("max_confidence", 0.8)]);
    let free = held(&[("open", on("tbx")), ("badge", on("ucx"))]);
    let held = |held| (c != '?').then_some(held);
    aligned(
        i,
        i as i64 * 100,
        &[("person", held(person)), ("free", held(free))],
    )
}

/// A rule with `then` inside 300 ms, and more keys.
fn sequence(more: &Value) -> Rules {
    with(json!({"then": THEN, "within_ms": 300}), more)
}

/// A rule that fires when `unless` stays away for 300 ms.
fn absence(more: &Value) -> Rules {
    with(json!({"unless": UNLESS, "within_ms": 300}), more)
}

fn with(mut keys: Value, more: &Value) -> Rules {
    for (key, value) in more.as_object().unwrap() {
        keys[key] = value.clone();
    }
    rule(WHEN, &keys)
}

/// (event start, fired) of each trigger that is not an end.
fn fires(mut rules: Rules, pattern: &str) -> Vec<(i64, i64)> {
    feed(&mut rules, pattern)
        .iter()
        .filter(|t| !matches!(t.phase, Phase::End { .. }))
        .map(|t| (ms(t.event_start_ns), ms(t.fired_ns)))
        .collect()
}

#[test]
fn then_must_come_within_the_time_and_when_may_be_gone_by_then() {
    let fires = |pattern| fires(sequence(&json!({})), pattern);
    assert_eq!(fires("b"), [(0, 0)], "the same frame counts");
    assert_eq!(fires("w.t"), [(0, 200)]);
    assert_eq!(fires("w..t"), [(0, 300)], "the last moment counts");
    assert_eq!(fires("w...t"), [], "too late");
    assert_eq!(fires("t.w"), [], "before does not count");
    assert_eq!(fires("w?t"), [(0, 200)], "missing is false");
}

#[test]
fn the_time_counts_from_when_the_condition_has_held_long_enough() {
    let fires = |pattern| fires(sequence(&json!({"for_ms": 200})), pattern);
    assert_eq!(fires("bbb"), [(0, 200)], "not before");
    assert_eq!(fires("www..t"), [(0, 500)]);
    assert_eq!(fires("www...t"), []);
    assert_eq!(fires("ww.t"), [], "it never held for 200 ms");
}

#[test]
fn after_too_late_it_is_armed_again_once_when_was_released() {
    let fires = |release: u64, pattern| {
        let keys = json!({"release_ms": release});
        fires(sequence(&keys), pattern)
    };
    assert_eq!(fires(200, "wwwwwwt"), [], "when still holds");
    assert_eq!(fires(200, "wwwww.wt"), [], "false for too short a time");
    assert_eq!(fires(200, "wwwww...wt"), [(800, 900)]);
    // What was false while it waited counts.
    assert_eq!(fires(200, "w....b"), [(500, 500)]);
    // While it waits, a new beginning is not another event.
    assert_eq!(fires(0, "w.wt"), [(0, 300)]);
    assert_eq!(fires(0, "w.w..t"), []);
}

#[test]
fn unless_cancels_until_the_rule_has_fired() {
    let plain = |more: Value, pattern| {
        let mut keys = json!({"unless": UNLESS});
        keys.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        fires(rule(WHEN, &keys), pattern)
    };
    assert_eq!(plain(json!({}), "w"), [(0, 0)]);
    assert_eq!(plain(json!({}), "c"), [], "on its first frame");
    assert_eq!(
        plain(json!({}), "cw"),
        [],
        "not armed before when is released"
    );
    assert_eq!(plain(json!({}), "c.w"), [(200, 200)]);
    assert_eq!(plain(json!({"for_ms": 200}), "wcww"), []);
    assert_eq!(
        plain(json!({"for_ms": 200}), "wwc"),
        [],
        "on the last frame"
    );
    assert_eq!(
        plain(json!({"for_ms": 200}), "uwww"),
        [(100, 300)],
        "before does not count"
    );
    assert_eq!(plain(json!({"release_ms": 200}), "c..w"), []);
    assert_eq!(plain(json!({"release_ms": 200}), "c...w"), [(400, 400)]);
    assert_eq!(plain(json!({}), "w?"), [(0, 0)]);
    let both = |pattern| fires(sequence(&json!({"unless": UNLESS})), pattern);
    assert_eq!(both("w.t"), [(0, 200)]);
    assert_eq!(both("wut"), [], "while it waits");
    assert_eq!(both("w.x"), [], "on the frame it would fire on");
    // After firing it has no effect: the range goes on.
    let mut range = sequence(&json!({"unless": UNLESS, "kind": "range"}));
    let triggers = feed(&mut range, "wbcc.");
    assert_eq!(triggers.len(), 2);
    assert_eq!(ms(triggers[1].event_end_ns), 300);
}

#[test]
fn absence_fires_when_nothing_cancelled_in_time() {
    let fires = |pattern| fires(absence(&json!({})), pattern);
    assert_eq!(fires("w..."), [(0, 300)], "entered, and no badge");
    assert_eq!(fires("w.."), []);
    assert_eq!(fires("w.u.."), [], "a badge");
    assert_eq!(fires("w..u"), [], "on the last frame");
    assert_eq!(fires("w...u"), [(0, 300)], "too late to cancel");
    assert_eq!(
        fires("w???"),
        [(0, 300)],
        "a missing signal does not cancel"
    );
    assert_eq!(fires("w.u.w..."), [(400, 700)]);
}

#[test]
fn an_absence_inside_the_cooldown_is_told_only_if_when_lasts() {
    let fires = |pattern| {
        let keys = json!({"cooldown_ms": 1000, "release_ms": 100});
        fires(absence(&keys), pattern)
    };
    // Fires at 300, cool again at 1300.
    assert_eq!(fires("w......w......."), [(0, 300)], "passed over");
    assert_eq!(fires("w......wwwwwwwww"), [(0, 300), (700, 1300)], "lasts");
    assert_eq!(
        fires("w.......wwwwuwww"),
        [(0, 300)],
        "cancelled while it lasts"
    );
}

#[test]
fn a_sequence_inside_the_cooldown_must_last_to_its_end() {
    let fires = |pattern| {
        let keys = json!({"cooldown_ms": 700});
        fires(sequence(&keys), pattern)
    };
    // Cool again at 700.
    assert_eq!(fires("b...wt.."), [(0, 0)], "then has come and gone");
    assert_eq!(fires("b...wttt"), [(0, 0), (400, 700)]);
    assert_eq!(fires("b..wttttt"), [(0, 0)], "too late");
}

#[test]
fn a_range_lasts_as_long_as_when_or_then_holds() {
    let mut rules = sequence(&json!({"kind": "range", "release_ms": 100}));
    let triggers = feed(&mut rules, "w.ttt.w...");
    let said: Vec<_> = triggers
        .iter()
        .map(|t| (ms(t.event_start_ns), ms(t.fired_ns), ms(t.event_end_ns)))
        .collect();
    assert_eq!(said, [(0, 200, 200), (0, 200, 600)]);
    // An absence may fire when nothing holds; its range ends at once.
    let mut rules = absence(&json!({"kind": "range", "release_ms": 100}));
    let triggers = feed(&mut rules, "w.....");
    let said: Vec<_> = triggers
        .iter()
        .map(|t| (ms(t.event_start_ns), ms(t.fired_ns), ms(t.event_end_ns)))
        .collect();
    assert_eq!(said, [(0, 300, 300), (0, 300, 300)]);
}

#[test]
fn a_split_range_goes_on_without_asking_again() {
    let keys = json!({"kind": "range", "max_s": 1, "unless": UNLESS});
    let mut rules = sequence(&keys);
    let triggers = feed(&mut rules, "wtttttttttxttt");
    let phases: Vec<&Phase> = triggers.iter().map(|t| &t.phase).collect();
    assert_eq!(phases.len(), 3, "{phases:?}");
    assert_eq!(ms(triggers[2].event_start_ns), 1000);
    assert_eq!(
        triggers[2].reason,
        "person.count >= 1, then free.open > 0, without free.badge > 0"
    );
}

#[test]
fn a_long_gap_and_the_end_forget_what_waits() {
    for (input, forgets) in [
        (
            FusionInput::Gap {
                from_ns: 0,
                to_ns: 5_000 * NS_PER_MS,
            },
            false,
        ),
        (
            FusionInput::Gap {
                from_ns: 0,
                to_ns: 5_001 * NS_PER_MS,
            },
            true,
        ),
        (FusionInput::End { t_ns: 0 }, true),
    ] {
        let mut rules = sequence(&json!({}));
        assert_eq!(feed(&mut rules, "w"), []);
        assert_eq!(
            rules.update(input),
            visualpath_core::FusionResult::default()
        );
        let fired = rules.update(FusionInput::Aligned(&frame(1, 't')));
        assert_eq!(fired.triggers.is_empty(), forgets, "{input:?}");
    }
}

#[test]
fn a_trigger_says_what_followed_what() {
    let reason = |keys: Value, pattern: &str| {
        let triggers = feed(&mut with(keys, &json!({})), pattern);
        triggers[0].reason.clone()
    };
    assert_eq!(
        reason(json!({"then": THEN, "within_ms": 2000}), "w...........t"),
        "person.count >= 1, then free.open > 0 after 1.2 s"
    );
    assert_eq!(
        reason(
            json!({"then": THEN, "within_ms": 2000, "unless": UNLESS, "for_ms": 100}),
            "wwt"
        ),
        "person.count >= 1 for 100 ms, then free.open > 0 after 0.1 s, without free.badge > 0"
    );
    assert_eq!(
        reason(
            json!({"unless": "free.badge\n > 0", "within_ms": 300}),
            "w..."
        ),
        "person.count >= 1, without free.badge > 0 for 300 ms"
    );
    assert_eq!(
        reason(json!({"unless": UNLESS, "for_ms": 100}), "ww"),
        "person.count >= 1 for 100 ms, without free.badge > 0"
    );
}

#[test]
fn a_trigger_carries_the_signals_of_all_its_conditions() {
    let mut rules = sequence(&json!({"unless": UNLESS}));
    let triggers = feed(&mut rules, "wt");
    let signals: Vec<(&str, f64)> = triggers[0].signals.iter().map(|(n, v)| (&**n, v)).collect();
    assert_eq!(
        signals,
        [
            ("free.badge", 0.0),
            ("free.open", 1.0),
            ("person.count", 0.0)
        ]
    );
    assert_eq!(triggers[0].observations_used, 2);
    assert_eq!(
        triggers[0].score, 0.8,
        "of the first extractor `when` names"
    );
    // Objects are those `when` and `then` are about.
    let mut frame = frame(2, 'b');
    let mut door = held(&[("open", 1.0), ("badge", 0.0)]);
    door.observations[0].data.objects = vec![object("door", &[])];
    frame.entries[1].held = Some(door.into());
    let mut rules = sequence(&json!({}));
    let result = rules.update(FusionInput::Aligned(&frame));
    assert_eq!(result.triggers[0].objects[0].label, "door");
    let mut rules = rule(WHEN, &json!({"unless": UNLESS}));
    let result = rules.update(FusionInput::Aligned(&frame));
    assert!(result.triggers[0].objects.is_empty());
}

#[test]
fn a_missing_signal_is_counted_whichever_condition_reads_it() {
    let mut rules = sequence(&json!({"unless": UNLESS, "within_ms": 5000}));
    feed(&mut rules, "w??");
    let counts = rules.counters().snapshot();
    let missing: Vec<(&str, u64)> = counts[0].missing.iter().map(|(s, n)| (&**s, *n)).collect();
    assert_eq!(
        missing,
        [("person.count", 2), ("free.open", 2), ("free.badge", 2)]
    );
    assert_eq!((counts[0].evaluated, counts[0].errors), (3, 0));
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    let wrong = |keys: Value| {
        let mut table = json!({"label": "r", "when": WHEN});
        table
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        let errors = compile(&json!([table])).err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        wrong(json!({"then": THEN})),
        ["rule[0].then: needs `within_ms`: how long after `when` it may come"]
    );
    assert_eq!(
        wrong(json!({"within_ms": 5})),
        [
            "rule[0].within_ms: says how long to wait, but there is neither `then` to come nor \
          `unless` to stay away"
        ]
    );
    assert_eq!(
        wrong(json!({"then": THEN, "within_ms": 0})),
        ["rule[0].within_ms: expected milliseconds, 1 to 86400000, got 0"]
    );
    let said = wrong(json!({"then": "persn.count > 0", "unless": "person.count", "within_ms": 5}));
    let starts: Vec<&str> = said.iter().filter_map(|s| s.split(' ').next()).collect();
    assert_eq!(starts, ["rule[0].then:", "rule[0].unless:"]);
}
