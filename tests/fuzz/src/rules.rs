//! One rule: `when`, `score`, `then`, `unless` and its other keys as JSON, each ended by a NUL;
//! what follows is a script of frames, a byte each.
//!
//! A rule that is refused says where and why in a few words. One that compiles can be fed
//! anything: scores and times are in bounds, a range that began ends, nothing ends that did not
//! begin, and the same input gives the same answer.

use serde_json::{Map, Value, json};
use visualpath_core::{
    Aligned, AlignedEntry, Fusion, FusionInput, FusionResult, Held, Name, Observation, Phase,
    TriggerKind,
};
use visualpath_platform::rules::{ExtractorSignals, Rules, RulesConfig, TimeZone};

/// Longest message: an expression may be quoted whole, once.
const MAX_MESSAGE_BYTES: usize = 4000;
/// Frames of one script.
const MAX_FRAMES: usize = 300;

/// See the module.
pub fn check(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(6, |b| *b == 0);
    let mut part = || parts.next().unwrap_or_default();
    let texts: Vec<_> = ["when", "score", "then", "unless"]
        .map(|key| (key, String::from_utf8_lossy(part()).into_owned()))
        .into_iter()
        .filter(|(key, text)| *key == "when" || !text.is_empty())
        .collect();
    let mut rule: Map<String, Value> = serde_json::from_slice(part()).unwrap_or_default();
    rule.entry("label").or_insert(json!("r"));
    rule.extend(
        texts
            .into_iter()
            .map(|(k, text)| (k.to_owned(), text.into())),
    );
    let script = part();

    // What the config's check refuses never gets here.
    let Ok(config) = serde_json::from_value::<RulesConfig>(json!({ "rule": [rule] })) else {
        return false;
    };
    let Some(mut rules) = compile(&config) else {
        return false;
    };
    let answers = run(&mut rules, script);
    sensible(&answers);
    let again = compile(&config).map(|mut rules| run(&mut rules, script));
    assert!(
        again.as_ref() == Some(&answers),
        "the same again is something else"
    );
    rules.reset();
    assert!(
        run(&mut rules, script) == answers,
        "reset is not the beginning"
    );
    answers.iter().any(FusionResult::should_trigger)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn compile(config: &RulesConfig) -> Option<Rules> {
    let extractor = |n: &str, signals: &[&str]| ExtractorSignals {
        name: name(n),
        signals: signals.iter().map(|s| (*s).to_owned()).collect(),
        zones: vec![name("door"), name("gate")],
    };
    let path = [
        extractor("person", &["count", "max_confidence", "car_count"]),
        extractor("motion", &["score"]),
        extractor("free", &[]),
    ];
    match Rules::compile(config.clone(), &path, TimeZone::UTC) {
        Ok(rules) => Some(rules),
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without an error");
            for error in errors {
                assert!(error.path().starts_with("rule"), "no place: {error}");
                let words = error.message.len();
                assert!(
                    (1..=MAX_MESSAGE_BYTES).contains(&words),
                    "{words} bytes: {error}"
                );
            }
            None
        }
    }
}

/// Feeds frames as the script's bytes say, then the end.
fn run(rules: &mut Rules, script: &[u8]) -> Vec<FusionResult> {
    // Source times that come, and leaps that never should.
    const STEPS_NS: [i64; 8] = [
        33_000_000,
        33_000_000,
        100_000_000,
        0,
        1_000_000_000,
        20_000_000_000,
        i64::MAX / 4,
        i64::MAX,
    ];
    const VALUES: [Option<f64>; 8] = [
        None,
        Some(0.0),
        Some(1.0),
        Some(2.0),
        Some(0.5),
        Some(-1e300),
        Some(f64::MAX),
        Some(f64::MIN_POSITIVE),
    ];
    let (mut t_ns, mut answers) = (0_i64, Vec::new());
    for (frame_id, byte) in (0..).zip(script.iter().take(MAX_FRAMES)) {
        let value = VALUES[usize::from(byte & 7)];
        let step = STEPS_NS[usize::from(byte >> 3 & 7)];
        let from_ns = t_ns;
        t_ns = t_ns.saturating_add(step);
        if byte >> 6 == 3 {
            let to_ns = t_ns;
            answers.push(rules.update(FusionInput::Gap { from_ns, to_ns }));
            continue;
        }
        let held = |signals: &[(&str, f64)]| {
            let mut observation = Observation::new(name("any"), frame_id, t_ns);
            observation.signals = signals.iter().copied().collect();
            Held {
                frame_id,
                t_ns,
                signals: observation.signals.clone(),
                observations: vec![observation],
                timing_ns: 0,
            }
        };
        let entry = |extractor: &str, held: Option<Held>| AlignedEntry {
            extractor: name(extractor),
            outcome: None,
            held: held.map(Into::into),
        };
        let frame = Aligned {
            source: name("cam0"),
            frame_id,
            t_ns,
            unix_ns: 1_700_000_000_000_000_000_i64.saturating_add(t_ns),
            entries: vec![
                entry(
                    "person",
                    value.map(|v| {
                        held(&[
                            ("count", v),
                            ("count@door", v),
                            ("car_count", v),
                            ("max_confidence", v),
                        ])
                    }),
                ),
                entry("motion", (byte >> 6 == 1).then(|| held(&[("score", 0.5)]))),
                entry("free", value.map(|v| held(&[("a", v)]))),
            ],
        };
        answers.push(rules.update(FusionInput::Aligned(&frame)));
    }
    answers.push(rules.update(FusionInput::End { t_ns }));
    answers
}

fn sensible(answers: &[FusionResult]) {
    let (mut open, mut on, mut event) = (None, false, 0);
    for result in answers {
        assert!((0.0..=1.0).contains(&result.score), "{}", result.score);
        for (_, state) in &result.states {
            assert_ne!(on, *state, "a state that was so already");
            on = *state;
        }
        for t in &result.triggers {
            assert!((0.0..=1.0).contains(&t.score), "{t:?}");
            assert!(t.event_start_ns <= t.event_end_ns, "{t:?}");
            assert!(t.t_start_ns <= t.event_start_ns, "{t:?}");
            assert!(t.event_start_ns <= t.t_end_ns, "{t:?}");
            assert!(
                t.signals.iter().all(|(_, v)| v.is_finite()),
                "no signal is infinite: {t:?}"
            );
            if let Phase::End { .. } = t.phase {
                assert_eq!(open.take(), Some(t.event), "ends what did not begin: {t:?}");
                continue;
            }
            assert_eq!(open, None, "begins before the last one ended: {t:?}");
            assert!(t.event > event, "an event's number twice: {t:?}");
            event = t.event;
            open = (t.kind == TriggerKind::Range).then_some(t.event);
            assert_eq!(open.is_some(), t.phase == Phase::Start, "{t:?}");
        }
    }
    assert!(open.is_none() && !on, "still open after the end");
}
