//! A reload: what stays goes on, what changed is closed.

use serde_json::{Value, json};
use visualpath_core::{EndReason, Fusion, FusionInput, FusionResult, NS_PER_MS, Phase, Trigger};

use super::super::{RulesConfig, TimeZone};
use super::{Rules, compile, feed, ms, name, path, people};

const SEEN: &str = "person.count >= 1";

fn range(label: &str) -> Value {
    json!({"label": label, "when": SEEN, "kind": "range", "release_ms": 0, "cooldown_ms": 0})
}

fn with(mut rule: Value, key: &str, value: Value) -> Value {
    rule[key] = value;
    rule
}

fn next(rules: &mut Rules, i: u64, count: f64) -> FusionResult {
    rules.update(FusionInput::Aligned(&people(
        i,
        i as i64 * 100,
        Some(count),
    )))
}

fn take_over(new: &mut Rules, old: Rules, t_ms: i64) -> FusionResult {
    new.take_over(Box::new(old), t_ms * NS_PER_MS)
}

fn labels(triggers: &[Trigger]) -> Vec<&str> {
    triggers.iter().map(|t| t.label.as_str()).collect()
}

#[test]
fn an_unchanged_rule_goes_on_as_if_nothing_had_happened() {
    let all = json!([
        range("open"),
        {"label": "pending", "when": SEEN, "for_ms": 500},
        {"label": "waiting", "when": SEEN, "then": "person.count == 0", "within_ms": 1000},
        {"label": "cooling", "when": SEEN, "cooldown_ms": 1000, "release_ms": 0},
    ]);
    // What an appliance says that is reloaded after the frame at `at`, or never.
    let said = |at: Option<u64>| {
        let mut rules = compile(&all).unwrap();
        let mut said = Vec::new();
        for i in 0..20 {
            let count = f64::from(u8::from(i != 1 && i < 15));
            said.push(next(&mut rules, i, count));
            if at == Some(i) {
                let mut new = compile(&all).unwrap();
                let result = take_over(&mut new, rules, i as i64 * 100);
                assert_eq!(result, FusionResult::default(), "after {i}");
                rules = new;
            }
        }
        (said, rules.counters().snapshot())
    };
    let undisturbed = said(None);
    assert!(undisturbed.0.iter().flat_map(|r| &r.triggers).count() > 5);
    for at in 0..20 {
        assert_eq!(said(Some(at)), undisturbed, "after {at}");
    }
}

#[test]
fn what_is_gone_or_changed_is_interrupted_and_nothing_else_is_touched() {
    let mut old = compile(&json!([
        range("gone"),
        range("changed"),
        range("kept"),
        {"label": "point", "when": SEEN, "release_ms": 0, "cooldown_ms": 0},
        with(range("off"), "when", json!("person.count > 5")),
    ]))
    .unwrap();
    feed(&mut old, "#.###");
    let mut new = compile(&json!([
        range("kept"),
        range("new"),
        with(range("changed"), "post_s", json!(7)),
        with(range("off"), "when", json!("person.count > 6")),
    ]))
    .unwrap();
    let result = take_over(&mut new, old, 400);
    assert_eq!(labels(&result.triggers), ["gone", "changed"]);
    for t in &result.triggers {
        let reason = EndReason::Interrupted;
        assert_eq!(t.phase, Phase::End { reason });
        assert_eq!(
            (t.event, ms(t.event_end_ns), ms(t.t_end_ns)),
            (2, 400, 2400)
        );
    }
    assert_eq!(
        result.states,
        [
            (name("gone"), false),
            (name("changed"), false),
            (name("point"), false)
        ]
    );
    // The next frame: the kept range says nothing, the others begin; events are counted on.
    let result = next(&mut new, 5, 1.0);
    assert_eq!(labels(&result.triggers), ["new", "changed"]);
    assert_eq!(result.triggers[1].event, 3);
    assert_eq!(ms(result.triggers[1].event_start_ns), 500);
    let end = next(&mut new, 6, 0.0);
    assert_eq!(labels(&end.triggers), ["kept", "new", "changed"]);
    assert_eq!(
        (end.triggers[0].event, ms(end.triggers[0].event_start_ns)),
        (2, 200)
    );
}

#[test]
fn a_rule_whose_extractor_declares_something_else_is_changed() {
    let config =
        |rules: Value| -> RulesConfig { serde_json::from_value(json!({"rule": rules})).unwrap() };
    let free = |label: &str| with(range(label), "when", json!("free.x > 0 || true"));
    let night = with(free("night"), "active", json!("00:00-24:00"));
    let rules = json!([range("a"), free("b"), night]);
    let mut old = Rules::compile(config(rules.clone()), &path(), TimeZone::UTC).unwrap();
    feed(&mut old, "#");
    let mut extractors = path();
    extractors.swap(0, 2);
    extractors[2].signals.push("bus_count".to_owned());
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    let mut new = Rules::compile(config(rules), &extractors, berlin).unwrap();
    let result = take_over(&mut new, old, 0);
    assert_eq!(
        labels(&result.triggers),
        ["a", "night"],
        "b reads another extractor, at any hour"
    );
}

#[test]
fn another_kind_of_fusion_is_ended() {
    struct Other;
    impl Fusion for Other {
        fn update(&mut self, input: FusionInput<'_>) -> FusionResult {
            FusionResult {
                reason: format!("{input:?}"),
                ..FusionResult::default()
            }
        }
        fn reset(&mut self) {}
    }
    let mut rules = compile(&json!([range("a")])).unwrap();
    let result = rules.take_over(Box::new(Other), 7);
    assert_eq!(result.reason, "End { t_ns: 7 }");
    // And the other way round: rules close what they have open.
    feed(&mut rules, "#");
    let result = Other.take_over(Box::new(rules), 0);
    assert_eq!(labels(&result.triggers), ["a"]);
}
