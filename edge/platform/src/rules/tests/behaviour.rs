//! The state machine, the clip window and the contents of triggers, case by case.

use serde_json::json;
use visualpath_core::{
    EndReason, Fusion, FusionInput, NS_PER_MS, Outcome, Phase, Trigger, TriggerKind,
};

use super::super::{MAX_OBJECTS, RuleConfig, RulesConfig};
use super::{aligned, compile, feed, held, ms, name, object, people, rule};

const SEEN: &str = "person.count >= 1";

#[test]
fn the_contracts_example_fires_with_the_contracts_numbers() {
    // CONTRACTS §3: event_start 270066, fired and event_end 270766, clip 267066 to 272766.
    let mut rules = compile(&json!([{
        "label": "visitor", "when": SEEN, "kind": "point", "for_ms": 700, "release_ms": 300,
        "cooldown_ms": 2000, "pre_s": 3.0, "post_s": 2.0, "score": "person.max_confidence",
        "max_s": 60, "clip": true,
    }]))
    .unwrap();
    let mut fired = Vec::new();
    for (i, t_ms) in (270_066..=271_066).step_by(100).enumerate() {
        let result = rules.update(FusionInput::Aligned(&people(
            8123 + i as u64,
            t_ms,
            Some(1.0),
        )));
        assert_eq!(result.should_trigger(), t_ms == 270_766, "{t_ms}");
        if result.should_trigger() {
            assert_eq!(result.states, [(name("visitor"), true)]);
            assert_eq!((result.score, result.observations_used), (0.8, 1));
            assert_eq!(result.reason, "person.count >= 1 for 700 ms");
        }
        fired.extend(result.triggers);
    }
    let [t] = &fired[..] else { panic!("{fired:?}") };
    assert_eq!(
        (t.label.as_str(), t.kind, &t.phase),
        ("visitor", TriggerKind::Point, &Phase::Point)
    );
    assert_eq!((t.event, t.frame_id, t.clip), (1, 8123, true));
    assert_eq!(
        [
            t.t_ns,
            t.fired_ns,
            t.event_start_ns,
            t.event_end_ns,
            t.t_start_ns,
            t.t_end_ns
        ]
        .map(ms),
        [270_066, 270_766, 270_066, 270_766, 267_066, 272_766]
    );
    assert_eq!((t.score, t.observations_used), (0.8, 1));
    assert_eq!(t.reason, "person.count >= 1 for 700 ms");
    assert_eq!(t.signals, [("person.count", 1.0)].into_iter().collect());
}

#[test]
fn a_rule_needs_only_a_label_and_a_condition() {
    let read: RulesConfig =
        serde_json::from_value(json!({"rule": [{"label": "r", "when": SEEN}]})).unwrap();
    assert_eq!(read.rule[0], RuleConfig::new(name("r"), SEEN));
    let shown = serde_json::to_value(&read).unwrap();
    assert_eq!(
        shown,
        json!({"rule": [{
            "label": "r", "when": SEEN, "kind": "point", "for_ms": 0, "release_ms": 300,
            "cooldown_ms": 2000, "pre_s": 3.0, "post_s": 2.0, "max_s": 60.0, "clip": true,
        }], "stale_ms": "auto"})
    );
    // What `config show` prints reads back as itself.
    assert_eq!(serde_json::from_value::<RulesConfig>(shown).unwrap(), read);
    let mut rules = compile(&json!([{"label": "r", "when": SEEN}])).unwrap();
    assert_eq!(
        feed(&mut rules, "..#").len(),
        1,
        "fires on the first true frame"
    );
}

/// Times at which a rule fires, in ms.
fn fires(more: &serde_json::Value, pattern: &str) -> Vec<i64> {
    let triggers = feed(&mut rule(SEEN, more), pattern);
    triggers.iter().map(|t| ms(t.fired_ns)).collect()
}

#[test]
fn a_break_in_the_condition_starts_it_anew() {
    let held_300 = json!({"for_ms": 300});
    assert_eq!(fires(&held_300, "###.####"), [700]);
    assert_eq!(
        fires(&held_300, "##?####"),
        [600],
        "a missing signal breaks it too"
    );
    assert_eq!(fires(&held_300, "###"), [0; 0]);
}

#[test]
fn it_fires_once_until_released_without_a_break() {
    assert_eq!(fires(&json!({}), "####"), [0]);
    assert_eq!(fires(&json!({}), "##.##"), [0, 300]);
    let slow = json!({"release_ms": 200});
    assert_eq!(fires(&slow, "#..#..#"), [0], "100 ms twice is not 200 ms");
    assert_eq!(fires(&slow, "#...#"), [0, 400]);
    assert_eq!(fires(&slow, "#.?.#"), [0, 400], "missing counts as false");
}

#[test]
fn cooldown_counts_from_firing_and_a_condition_that_outlasts_it_fires_then() {
    let cool = json!({"cooldown_ms": 500});
    assert_eq!(
        fires(&cool, "#.#.#.#"),
        [0, 600],
        "events inside the cooldown are swallowed"
    );
    let triggers = feed(&mut rule(SEEN, &cool), "#.#####");
    assert_eq!(triggers.len(), 2);
    let late = &triggers[1];
    assert_eq!((ms(late.event_start_ns), ms(late.fired_ns)), (200, 500));
    assert_eq!(
        (late.frame_id, ms(late.event_end_ns), late.event),
        (2, 500, 2)
    );
    // The cooldown does not shorten what the condition has to hold.
    assert_eq!(
        fires(&json!({"cooldown_ms": 200, "for_ms": 200}), "###.####"),
        [200, 600]
    );
}

fn phases(triggers: &[Trigger]) -> Vec<(&str, i64, i64, i64, i64, u64)> {
    triggers
        .iter()
        .map(|t| {
            let phase = match t.phase {
                Phase::Point => "point",
                Phase::Start => "start",
                Phase::End {
                    reason: EndReason::Released,
                } => "released",
                Phase::End {
                    reason: EndReason::MaxS,
                } => "max_s",
                Phase::End {
                    reason: EndReason::Interrupted,
                } => "interrupted",
            };
            let [start, end, fired, until] =
                [t.event_start_ns, t.event_end_ns, t.fired_ns, t.t_end_ns].map(ms);
            (phase, start, end, fired, until, t.event)
        })
        .collect()
}

fn range(more: &serde_json::Value) -> super::Rules {
    let mut keys = json!({"kind": "range", "max_s": 2, "pre_s": 1, "post_s": 0.5});
    for (key, value) in more.as_object().unwrap() {
        keys[key] = value.clone();
    }
    rule(SEEN, &keys)
}

#[test]
fn a_range_starts_when_it_fires_and_ends_where_it_last_held() {
    let mut rules = range(&json!({"for_ms": 200, "release_ms": 200}));
    let triggers = feed(&mut rules, ".####.#...");
    // (phase, event start, event end, fired, clip end, event)
    assert_eq!(
        phases(&triggers),
        [
            ("start", 100, 300, 300, 2600, 1),
            ("released", 100, 600, 300, 1100, 1)
        ]
    );
    assert!(
        triggers.iter().all(|t| ms(t.t_start_ns) == -900),
        "may be negative"
    );
    assert_eq!(triggers[0].objects, triggers[1].objects);
}

#[test]
fn a_range_is_split_at_max_s_without_leaving_on() {
    let mut rules = range(&json!({"for_ms": 300}));
    let triggers = feed(&mut rules, &"#".repeat(22));
    assert_eq!(
        phases(&triggers),
        [
            ("start", 0, 300, 300, 2500, 1),
            ("max_s", 0, 2000, 300, 2500, 1),
            ("start", 2000, 2000, 2000, 4500, 2),
        ]
    );
    let mut states = Vec::new();
    rules.reset();
    for i in 0..22 {
        let result = rules.update(FusionInput::Aligned(&people(i, i as i64 * 100, Some(1.0))));
        states.extend(result.states);
    }
    assert_eq!(states, [(name("r"), true)]);
}

#[test]
fn a_split_inside_the_cooldown_waits_for_its_end() {
    let mut rules = range(&json!({"cooldown_ms": 2500}));
    let triggers = feed(&mut rules, &"#".repeat(27));
    assert_eq!(
        phases(&triggers),
        [
            ("start", 0, 0, 0, 2500, 1),
            ("max_s", 0, 2000, 0, 2500, 1),
            ("start", 2000, 2500, 2500, 4500, 2),
        ]
    );
}

#[test]
fn a_range_never_begins_longer_than_max_s_before_it_fires() {
    let mut rules = range(&json!({"cooldown_ms": 5000}));
    let triggers = feed(&mut rules, &format!("#.{}", "#".repeat(60)));
    assert_eq!(
        phases(&triggers)[2..],
        [("start", 5000, 5000, 5000, 7500, 2)],
        "the condition began at 200"
    );
}

/// Feeds a frame every 100 ms with these confidences of a person (0: nobody is there); when each
/// trigger fired, and its best frame, in ms.
fn best(rules: &mut super::Rules, confidences: &[f64]) -> Vec<(i64, i64)> {
    let mut triggers = Vec::new();
    for (i, c) in confidences.iter().enumerate() {
        let count = f64::from(*c > 0.0);
        let person = held(&[("count", count), ("max_confidence", *c)]);
        let motion = held(&[("score", 1.0 - c)]);
        let entries = [("person", Some(person)), ("motion", Some(motion))];
        let frame = aligned(i as u64, i as i64 * 100, &entries);
        triggers.extend(rules.update(FusionInput::Aligned(&frame)).triggers);
    }
    let of = |t: &Trigger| (ms(t.fired_ns), ms(t.best_ns.unwrap()));
    triggers.iter().map(of).collect()
}

#[test]
fn the_best_frame_of_a_point_is_the_one_with_the_highest_score_until_it_fires() {
    let seen = [0.0, 0.5, 0.7, 0.9, 0.9, 0.6, 1.0];
    let for_400 = json!({"for_ms": 400});
    // Of two with 0.9 the earlier; the 1.0 comes too late.
    assert_eq!(best(&mut rule(SEEN, &for_400), &seen), [(500, 300)]);
    let motion = json!({"for_ms": 400, "score": "motion.score"});
    assert_eq!(best(&mut rule(SEEN, &motion), &seen), [(500, 100)]);
    // What is above 1 is 1: the first of these.
    let ten = json!({"for_ms": 400, "score": "person.max_confidence * 2.0"});
    assert_eq!(best(&mut rule(SEEN, &ten), &seen), [(500, 100)]);
    // Nobody gives a score: the first.
    let none = json!({"for_ms": 400, "score": "free.x"});
    let when = "motion.score < 0.6";
    assert_eq!(best(&mut rule(when, &none), &seen), [(500, 100)]);
    // An event that came to nothing leaves nothing behind.
    let twice = [0.9, 0.0, 0.2, 0.3, 0.3, 0.2, 0.2];
    assert_eq!(best(&mut rule(SEEN, &for_400), &twice), [(600, 300)]);
}

#[test]
fn the_best_frame_of_a_range_is_that_of_all_of_it() {
    let mut rules = range(&json!({"for_ms": 200, "release_ms": 200}));
    let seen = [0.0, 0.5, 0.4, 0.3, 0.8, 0.0, 0.7, 0.0, 0.0, 0.0];
    assert_eq!(best(&mut rules, &seen), [(300, 100), (300, 400)]);
    // Each part of one that was split has its own.
    let mut rules = range(&json!({}));
    let mut seen = [0.5; 24];
    (seen[7], seen[22]) = (0.6, 0.7);
    let told = best(&mut rules, &seen);
    assert_eq!(told, [(0, 0), (0, 700), (2000, 2000)]);
    let end = rules.update(FusionInput::End {
        t_ns: 2300 * NS_PER_MS,
    });
    assert_eq!(end.triggers[0].best_ns.map(ms), Some(2200));
}

#[test]
fn the_end_of_the_source_closes_everything() {
    let mut rules = compile(&json!([
        {"label": "a", "when": SEEN, "kind": "range"},
        {"label": "b", "when": SEEN},
        {"label": "c", "when": SEEN, "for_ms": 60_000},
    ]))
    .unwrap();
    assert_eq!(feed(&mut rules, "###.").len(), 2);
    let end = rules.update(FusionInput::End {
        t_ns: 300 * NS_PER_MS,
    });
    assert_eq!(phases(&end.triggers), [("interrupted", 0, 200, 0, 2200, 1)]);
    assert_eq!(end.states, [(name("a"), false), (name("b"), false)]);
    let again = rules.update(FusionInput::End {
        t_ns: 300 * NS_PER_MS,
    });
    assert_eq!(again, visualpath_core::FusionResult::default());
}

#[test]
fn only_a_gap_longer_than_5_s_interrupts() {
    for (gap_ms, interrupted) in [(200, false), (5000, false), (5001, true)] {
        let mut rules = compile(&json!([
            {"label": "a", "when": SEEN, "kind": "range"},
            {"label": "b", "when": SEEN},
            {"label": "c", "when": SEEN, "for_ms": 100},
        ]))
        .unwrap();
        assert_eq!(feed(&mut rules, "#").len(), 2);
        let to = gap_ms * NS_PER_MS;
        let gap = rules.update(FusionInput::Gap {
            from_ns: 0,
            to_ns: to,
        });
        let after = rules.update(FusionInput::Aligned(&people(9, gap_ms, Some(1.0))));
        let fired: Vec<&str> = after.triggers.iter().map(|t| t.label.as_str()).collect();
        if interrupted {
            assert_eq!(phases(&gap.triggers), [("interrupted", 0, 0, 0, 2000, 1)]);
            assert_eq!(gap.states, [(name("a"), false), (name("b"), false)]);
            assert_eq!(fired, ["a", "b"], "on again; c begins anew");
        } else {
            assert_eq!(gap, visualpath_core::FusionResult::default());
            assert_eq!(fired, ["c"], "held through the gap");
        }
    }
}

#[test]
fn several_rules_fire_on_one_frame_in_their_order() {
    let mut rules = compile(&json!([
        {"label": "z", "when": SEEN, "score": "0.25"},
        {"label": "never", "when": "person.count > 5"},
        {"label": "a", "when": "person.count == 1", "score": "3"},
    ]))
    .unwrap();
    let result = rules.update(FusionInput::Aligned(&people(0, 0, Some(1.0))));
    let labels: Vec<&str> = result.triggers.iter().map(|t| t.label.as_str()).collect();
    assert_eq!(labels, ["z", "a"]);
    assert_eq!(result.score, 1.0, "the largest, clamped");
    assert_eq!(result.reason, "person.count >= 1; person.count == 1");
    assert_eq!(result.states, [(name("z"), true), (name("a"), true)]);
}

#[test]
fn the_score_is_the_confidence_of_what_the_condition_reads() {
    let entries = |confidence: Option<f64>| {
        let person = confidence.map_or(held(&[("count", 1.0)]), |c| {
            held(&[("count", 1.0), ("max_confidence", c)])
        });
        let motion = held(&[("score", 0.5), ("max_confidence", 0.9)]);
        aligned(0, 0, &[("person", Some(person)), ("motion", Some(motion))])
    };
    let score = |when: &str, more: serde_json::Value, frame| {
        let result = rule(when, &more).update(FusionInput::Aligned(&frame));
        result.triggers[0].score
    };
    assert_eq!(score(SEEN, json!({}), entries(Some(0.7))), 0.7);
    assert_eq!(score(SEEN, json!({}), entries(None)), 1.0);
    assert_eq!(
        score("motion.score > 0", json!({}), entries(None)),
        1.0,
        "not declared"
    );
    assert_eq!(
        score(SEEN, json!({"score": "motion.score"}), entries(None)),
        0.5
    );
    assert_eq!(score(SEEN, json!({"score": "-1"}), entries(None)), 0.0);
    assert_eq!(score(SEEN, json!({"score": "1u"}), entries(None)), 1.0);
    // A score that can't be had costs neither the trigger nor its confidence.
    let nan = json!({"score": "(person.count - 1.0) / (person.count - 1.0)"});
    assert!(compile(&json!([{"label": "r", "when": SEEN, "score": "free.x"}])).is_ok());
    assert_eq!(
        score(SEEN, json!({"score": "free.x"}), entries(Some(0.7))),
        0.7
    );
    let mut rules = rule(SEEN, &nan);
    let frame = entries(Some(0.7));
    assert_eq!(
        rules.update(FusionInput::Aligned(&frame)).triggers[0].score,
        0.7
    );
    assert_eq!(rules.counters().snapshot()[0].errors, 1);
}

#[test]
fn a_trigger_carries_the_objects_its_condition_is_about() {
    let frame = || {
        let mut person = held(&[("count", 2.0), ("count@door", 1.0), ("count@gate", 0.0)]);
        person.observations[0].data.objects = vec![object("out", &[]), object("in", &["door"])];
        let mut motion = held(&[("score", 0.5)]);
        motion.observations[0].data.objects = vec![object("blob", &["gate"])];
        aligned(0, 0, &[("motion", Some(motion)), ("person", Some(person))])
    };
    let labels = |when: &str| -> Vec<String> {
        let result = rule(when, &json!({})).update(FusionInput::Aligned(&frame()));
        assert_eq!(result.triggers.len(), 1, "{when}");
        result.triggers[0]
            .objects
            .iter()
            .map(|o| o.label.clone())
            .collect()
    };
    assert_eq!(labels("person.count > 1"), ["out", "in"]);
    assert_eq!(labels(r#"person["count@door"] >= 1"#), ["in"]);
    assert_eq!(labels(r#"person["count@gate"] == 0"#), [""; 0]);
    assert_eq!(
        labels(r#"person["count@gate"] == 0 && person["count@door"] > 0"#),
        ["in"]
    );
    assert_eq!(
        labels(r#"person["count@door"] > 0 && person.count > 0"#),
        ["out", "in"]
    );
    assert_eq!(
        labels("motion.score > 0.1 && person.count > 0"),
        ["blob", "out", "in"]
    );
}

#[test]
fn a_crowd_does_not_make_a_trigger_without_bound() {
    let mut crowd = held(&[("count", 1000.0)]);
    crowd.observations[0].data.objects = vec![object("p", &[]); 1000];
    let frame = aligned(0, 0, &[("person", Some(crowd))]);
    let result = rule(SEEN, &json!({})).update(FusionInput::Aligned(&frame));
    let trigger = &result.triggers[0];
    assert_eq!(trigger.objects.len(), MAX_OBJECTS);
    assert_eq!(trigger.metadata["objects_left_out"], 1000 - MAX_OBJECTS);
}

#[test]
fn what_goes_wrong_is_counted_by_rule_and_signal() {
    let mut rules = compile(&json!([
        {"label": "a", "when": "person.count > 0 && motion.score > 0.5"},
        {"label": "b", "when": "1 / int(person.count) > 0"},
        {"label": "c", "when": r#"person["co" + "unt"] > 0"#},
    ]))
    .unwrap();
    let triggers = feed(&mut rules, "#.??");
    assert_eq!(
        triggers
            .iter()
            .map(|t| t.label.as_str())
            .collect::<Vec<_>>(),
        ["b", "c"]
    );
    let counts = rules.counters().snapshot();
    let shown: Vec<_> = counts
        .iter()
        .map(|c| {
            let missing: Vec<(&str, u64)> = c.missing.iter().map(|(s, n)| (&**s, *n)).collect();
            (c.label.as_str(), c.evaluated, c.fired, c.errors, missing)
        })
        .collect();
    assert_eq!(
        shown,
        [
            // Frame 0 lacks motion; frame 1 is false already (person.count is 0); 2 and 3 lack
            // both: one evaluation ends in one error, here the right side's.
            ("a", 4, 0, 0, vec![("motion.score", 3)]),
            ("b", 4, 1, 1, vec![("person.count", 2)]),
            ("c", 4, 1, 0, vec![("?", 2)]),
        ]
    );
}

#[test]
fn a_frame_without_an_answer_neither_meets_nor_breaks() {
    // The extractor answers at 0 ms only; later frames fail or are skipped, the held value stays.
    let mut rules = rule(SEEN, &json!({"for_ms": 300}));
    let first = people(0, 0, Some(1.0));
    let outcomes = [
        Some(Outcome::Failed("broken".into())),
        None,
        Some(Outcome::TimedOut),
    ];
    let mut fired = rules.update(FusionInput::Aligned(&first)).triggers.len();
    for (i, outcome) in (1..).zip(outcomes) {
        let mut frame = first.clone();
        (frame.frame_id, frame.t_ns) = (i, i as i64 * 100 * NS_PER_MS);
        frame.entries[0].outcome = outcome;
        fired += rules.update(FusionInput::Aligned(&frame)).triggers.len();
        assert_eq!(fired, usize::from(i == 3), "frame {i}");
    }
}

#[test]
fn rules_are_a_fusion_that_can_move_to_the_path_thread() {
    let mut boxed: Box<dyn Fusion> = Box::new(rule(SEEN, &json!({})));
    let fired = std::thread::spawn(move || {
        boxed
            .update(FusionInput::Aligned(&people(0, 0, Some(1.0))))
            .should_trigger()
    });
    assert!(fired.join().unwrap());
}

#[test]
fn absurd_time_stamps_do_not_panic() {
    let mut rules = compile(&json!([
        {"label": "a", "when": SEEN, "kind": "range", "for_ms": 1},
        {"label": "b", "when": SEEN, "cooldown_ms": 86_400_000},
    ]))
    .unwrap();
    let times = [i64::MIN, i64::MAX, 0, i64::MIN, -1, i64::MAX];
    for (i, t_ns) in times.into_iter().cycle().take(24).enumerate() {
        let mut frame = people(i as u64, 0, Some((i % 5 != 4) as u8 as f64));
        frame.t_ns = t_ns;
        rules.update(FusionInput::Aligned(&frame));
        rules.update(FusionInput::Gap {
            from_ns: t_ns,
            to_ns: -(t_ns / 2),
        });
    }
    rules.update(FusionInput::End { t_ns: i64::MIN });
}
