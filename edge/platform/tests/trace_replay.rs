//! What a path thread traces is all a fusion was given: fed again it gives the same, to the bit,
//! and whatever is missing or changed is found.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;
use visualpath_core::{
    Aligned, AlignedEntry, DropReason, ExtractorSignals, Fusion, FusionInput, FusionResult, Held,
    NS_PER_MS, Name, Object, Observation, Outcome, Signals, TriggerKind,
};
use visualpath_platform::Times;
use visualpath_platform::rules::{RuleConfig, Rules, RulesConfig};
use visualpath_platform::trace::record::{SCHEMA, SessionExtractor, SessionPath, SessionStart};
use visualpath_platform::trace::{
    FileSink, FlowTrace, LaneOptions, Level, ObservabilityHub, Record, ReplayReport, TraceReader,
    replay,
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// What becomes of one extractor's frame.
#[derive(Debug, Clone)]
enum Fate {
    Observed(Vec<(f64, f64)>),
    Failed,
    TimedOut,
    Dropped,
    Skipped,
    /// Answers this many frames later, after its frame has settled.
    Late(usize, f64),
}

#[derive(Debug, Clone)]
enum Step {
    Frame([Fate; 2]),
    Gap(i64),
}

/// Every finite double counts, so the odd ones do too.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => 0.0..3.0_f64,
        1 => Just(-0.0),
        1 => any::<f64>().prop_filter("finite", |v| v.is_finite()),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => proptest::collection::vec((number(), number()), 0..3).prop_map(Fate::Observed),
        1 => Just(Fate::Failed),
        1 => Just(Fate::TimedOut),
        1 => Just(Fate::Dropped),
        2 => Just(Fate::Skipped),
        1 => (1usize..4, number()).prop_map(|(after, v)| Fate::Late(after, v)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => [fate(), fate()].prop_map(Step::Frame),
        1 => (1i64..8_000).prop_map(|ms| Step::Gap(ms * NS_PER_MS)),
    ];
    proptest::collection::vec(step, 1..60)
}

fn held(extractor: &Name, frame_id: u64, t_ns: i64, values: &[(f64, f64)]) -> Arc<Held> {
    let mut signals = Signals::new();
    signals.set("count", values.len() as f64);
    let observations = values
        .iter()
        .map(|(level, score)| {
            signals.raise("level", *level);
            let mut o = Observation::new(extractor.clone(), frame_id, t_ns);
            o.signals.set("level", *level);
            o.confidence = Some(*score);
            o.timing_ns = 17;
            o.metadata
                .insert("note".to_owned(), json!({"a": [1, -2.5e-7, null]}));
            o.data.other.insert("mask".to_owned(), json!([0.1, 1e300]));
            o.data.objects.push(Object {
                track_id: Some(u64::MAX),
                label: "Größe \"x\"\n".to_owned(),
                score: *score,
                bbox: [*level, 0.1, 0.2, 0.3],
                area: 0.0,
                zones: vec!["door".to_owned()],
                keypoints: vec![[*score, *level, 1.0]],
            });
            o
        })
        .collect();
    Arc::new(Held {
        frame_id,
        t_ns,
        observations,
        signals,
        timing_ns: 17,
    })
}

/// The inputs a path of both extractors gets, as an aligner would make them.
fn inputs(steps: &[Step]) -> Vec<Owned> {
    let extractors = [name("person"), name("motion")];
    let mut inputs = vec![];
    let mut newest: [Option<Arc<Held>>; 2] = [None, None];
    let mut late: Vec<(usize, usize, Arc<Held>)> = vec![];
    let (mut t_ns, mut frame_id) = (-50 * NS_PER_MS, 0);
    for (index, step) in steps.iter().enumerate() {
        late.retain(|(due, of, held)| {
            if *due == index
                && newest[*of]
                    .as_ref()
                    .is_none_or(|n| n.frame_id < held.frame_id)
            {
                newest[*of] = Some(Arc::clone(held));
            }
            *due > index
        });
        match step {
            Step::Gap(length) => {
                inputs.push(Owned::Gap(t_ns, t_ns + length));
                t_ns += length;
            }
            Step::Frame(fates) => {
                t_ns += 100 * NS_PER_MS;
                let entries = (0..2).map(|i| {
                    let of = |values: &[(f64, f64)]| held(&extractors[i], frame_id, t_ns, values);
                    let outcome = match &fates[i] {
                        Fate::Observed(values) => {
                            newest[i] = Some(of(values));
                            newest[i].clone().map(Outcome::Observed)
                        }
                        Fate::Failed => Some(Outcome::Failed("no \"luck\"".into())),
                        Fate::TimedOut => Some(Outcome::TimedOut),
                        Fate::Dropped => Some(Outcome::Dropped(DropReason::Dependency)),
                        Fate::Skipped => None,
                        Fate::Late(after, v) => {
                            late.push((index + after, i, of(&[(*v, *v)])));
                            None
                        }
                    };
                    let stale = |h: &Arc<Held>| t_ns - h.t_ns > 450 * NS_PER_MS;
                    if newest[i].as_ref().is_some_and(stale) {
                        newest[i] = None;
                    }
                    AlignedEntry {
                        extractor: extractors[i].clone(),
                        outcome,
                        held: newest[i].clone(),
                    }
                });
                inputs.push(Owned::Frame(Aligned {
                    source: name("cam0"),
                    frame_id,
                    t_ns,
                    unix_ns: t_ns + 1_795_000_000_000_000_000,
                    entries: entries.collect(),
                }));
                frame_id += 1;
            }
        }
    }
    inputs.push(Owned::End(t_ns));
    inputs
}

/// An input that owns what it holds. `{:?}` of f64 is exact, and tells -0.0 from 0.0.
#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Frame(Aligned),
    Gap(i64, i64),
    End(i64),
}

impl Owned {
    fn of(input: &FusionInput<'_>) -> Self {
        match *input {
            FusionInput::Aligned(aligned) => Self::Frame(aligned.clone()),
            FusionInput::Gap { from_ns, to_ns } => Self::Gap(from_ns, to_ns),
            FusionInput::End { t_ns } => Self::End(t_ns),
        }
    }

    fn input(&self) -> FusionInput<'_> {
        match self {
            Self::Frame(aligned) => FusionInput::Aligned(aligned),
            Self::Gap(from_ns, to_ns) => FusionInput::Gap {
                from_ns: *from_ns,
                to_ns: *to_ns,
            },
            Self::End(t_ns) => FusionInput::End { t_ns: *t_ns },
        }
    }
}

fn known() -> Vec<ExtractorSignals> {
    let signals = vec!["count".to_owned(), "level".to_owned()];
    ["person", "motion"]
        .map(|n| ExtractorSignals {
            name: name(n),
            signals: signals.clone(),
            zones: vec![],
        })
        .to_vec()
}

fn rules() -> Rules {
    let rule = |label: &str, when: &str| RuleConfig {
        release_ms: 0,
        cooldown_ms: 0,
        ..RuleConfig::new(name(label), when)
    };
    let config = RulesConfig {
        rule: vec![
            rule("seen", "person.count >= 1"),
            RuleConfig {
                kind: TriggerKind::Range,
                for_ms: 200,
                max_s: 1.0,
                score: Some("motion.level".to_owned()),
                ..rule("moving", "motion.level > 0.5 && person.count >= 0")
            },
        ],
        ..RulesConfig::default()
    };
    Rules::compile(config, &known(), visualpath_platform::rules::TimeZone::UTC)
        .unwrap_or_else(|e| panic!("{e:?}"))
}

/// Notes what it is given and lets the rules answer; panics on a frame if told so.
struct Noting {
    rules: Rules,
    seen: Arc<Mutex<Vec<Owned>>>,
    panics_on: Option<u64>,
}

impl Fusion for Noting {
    fn update(&mut self, input: FusionInput<'_>) -> FusionResult {
        self.seen.lock().unwrap().push(Owned::of(&input));
        if let FusionInput::Aligned(a) = input {
            assert!(Some(a.frame_id) != self.panics_on, "told so");
        }
        self.rules.update(input)
    }

    fn reset(&mut self) {
        self.rules.reset();
    }
}

fn session() -> Record {
    let extractors: Vec<SessionExtractor> = known().iter().map(SessionExtractor::from).collect();
    let path = |path: &str| SessionPath {
        path: name(path),
        source: name("cam0"),
        fusion: name("f"),
        extractors: extractors.clone(),
    };
    Record::SessionStart(SessionStart {
        timestamp_ns: 0,
        unix_ns: 1,
        schema: SCHEMA.to_owned(),
        level: Level::Verbose,
        device: "d".to_owned(),
        boot_id: "b".to_owned(),
        version: "0".to_owned(),
        config_sha256: "0".to_owned(),
        continued: false,
        paths: vec![path("a"), path("b")],
    })
}

/// Feeds the rules of two paths, the second `lag` inputs behind, and traces both; gives the trace
/// and how many triggers there were.
fn record(inputs: &[Owned], lag: usize) -> (String, usize) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.jsonl");
    let hub = Arc::new(ObservabilityHub::new(Level::Verbose));
    let room = LaneOptions {
        queue: 100_000,
        ..LaneOptions::default()
    };
    hub.add_sink_with(Box::new(FileSink::new(&file, 1 << 40)), room);
    hub.emit(session());
    let mut trace = FlowTrace::new(Arc::clone(&hub), name("cam0"));
    let mut paths = [(name("a"), rules(), 0), (name("b"), rules(), lag)];
    let mut triggers = 0;
    for turn in 0..inputs.len() + lag {
        for (path, rules, lag) in &mut paths {
            let Some(owned) = turn.checked_sub(*lag).and_then(|i| inputs.get(i)) else {
                continue;
            };
            let input = owned.input();
            let result = rules.update(input);
            triggers += result.triggers.len();
            trace.fused(path, &input, &result, &Times::default());
        }
    }
    assert_eq!(hub.close(Duration::from_secs(60)), Vec::<String>::new());
    (std::fs::read_to_string(file).unwrap(), triggers)
}

type Seen = BTreeMap<String, Arc<Mutex<Vec<Owned>>>>;

fn play(text: &str, panics_on: Option<u64>) -> (ReplayReport, Seen) {
    let mut seen = Seen::new();
    let mut reader = TraceReader::new("t.jsonl", Cursor::new(text.as_bytes()));
    let make = |path: &Name, source: &Name, extractors: &[ExtractorSignals]| {
        assert_eq!(source.as_str(), "cam0");
        if text.contains("session_start") {
            assert_eq!(extractors, &*known());
        }
        let noted: Arc<Mutex<Vec<Owned>>> = Arc::default();
        seen.insert(path.to_string(), Arc::clone(&noted));
        let fusion = Noting {
            rules: rules(),
            seen: noted,
            panics_on,
        };
        Ok(Box::new(fusion) as Box<dyn Fusion>)
    };
    let report = replay(&mut reader, make).unwrap();
    (report, seen)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_input_and_every_trigger_comes_back_to_the_bit(steps in steps(), lag in 0usize..4) {
        let inputs = inputs(&steps);
        let (text, triggers) = record(&inputs, lag);
        let (report, seen) = play(&text, None);
        prop_assert!(report.identical(), "{:?} {:?}", report.differences, report.missing);
        prop_assert_eq!(report.triggers.len(), triggers);
        prop_assert_eq!(report.decisions as usize, inputs.len() * 2);
        for seen in seen.values() {
            prop_assert_eq!(format!("{:?}", seen.lock().unwrap()), format!("{inputs:?}"));
        }
        // Each observation once, and before the decision that reads it: else it would be missing.
        let mut observed = std::collections::BTreeSet::new();
        for line in text.lines().filter(|l| l.contains("\"observation\"")) {
            let o: serde_json::Value = serde_json::from_str(line).unwrap();
            prop_assert!(observed.insert((o["extractor"].to_string(), o["frame_id"].as_u64())));
        }
    }

    #[test]
    fn a_line_that_is_missing_is_missed(steps in steps(), which in any::<Index>()) {
        let inputs = inputs(&steps);
        let (text, _) = record(&inputs, 0);
        let lines: Vec<&str> = text.lines().collect();
        let needed: Vec<usize> = (0..lines.len())
            .filter(|i| lines[*i].contains("\"observation\"") || lines[*i].contains("\"fusion_decision\""))
            .collect();
        // That the last decisions of a run are missing can't be known: it may have been cut off.
        let last = |of: &str| (0..lines.len()).rev().find(|i| lines[*i].contains(of));
        let gone = *which.get(&needed);
        let ends = [last("\"path\":\"a\",\"seq\""), last("\"path\":\"b\",\"seq\"")];
        prop_assume!(!ends.contains(&Some(gone)));
        let rest: Vec<&str> = (0..lines.len()).filter(|i| *i != gone).map(|i| lines[i]).collect();
        let (report, _) = play(&rest.join("\n"), None);
        prop_assert!(report.missing_pieces > 0, "without {}", lines[gone]);
        prop_assert!(!report.identical());
    }
}

/// 30 frames on which both rules fire.
fn firing() -> Vec<Owned> {
    let sees = Fate::Observed(vec![(0.75, 0.5)]);
    let nobody = Fate::Observed(vec![]);
    let frame = |i: usize| match i % 10 {
        0..4 => Step::Frame([sees.clone(), sees.clone()]),
        _ => Step::Frame([nobody.clone(), nobody.clone()]),
    };
    inputs(&(0..30).map(frame).collect::<Vec<_>>())
}

#[test]
fn a_number_that_was_changed_is_found() {
    let (text, triggers) = record(&firing(), 0);
    assert!(triggers >= 12, "{triggers}");
    let (report, _) = play(&text, None);
    assert!(report.identical(), "{report:?}");
    for (what, from, to) in [
        (
            "a signal read",
            r#""signals":{"count":1.0,"level":0.75},"timing_ns""#,
            r#""signals":{"count":0.0,"level":0.75},"timing_ns""#,
        ),
        (
            "a trigger's score",
            r#""score":0.75"#,
            r#""score":0.7500000000000001"#,
        ),
        ("a time", r#""fired_ns":50000000"#, r#""fired_ns":50000001"#),
        ("a state", r#"[["seen",true]]"#, r#"[["seen",false]]"#),
        (
            "a trigger",
            r#""label":"seen","kind""#,
            r#""label":"sein","kind""#,
        ),
    ] {
        let at = text
            .find(from)
            .unwrap_or_else(|| panic!("{from} in {text}"));
        let tampered = format!("{}{to}{}", &text[..at], &text[at + from.len()..]);
        let (report, _) = play(&tampered, None);
        assert!(report.different > 0 && report.missing_pieces == 0, "{what}");
        let line = text[..at].lines().count() as u64;
        assert!(report.differences[0].line >= line, "{what}: {report:?}");
    }
}

#[test]
fn a_run_that_was_cut_off_replays_up_to_there() {
    let (text, _) = record(&firing(), 0);
    for cut in [text.len() - 1, text.len() - 20, text.len() / 2] {
        let (report, _) = play(&text[..cut], None);
        assert_eq!(
            (report.different, report.missing_pieces),
            (0, 0),
            "{report:?}"
        );
        assert!(
            report
                .notes
                .iter()
                .any(|n| n.contains("has no session_end"))
        );
    }
    // Cut off, and a second run went on in the same file.
    let (second, _) = record(&firing(), 0);
    let both = format!("{}\n{second}", &text[..text.len() / 2]);
    let (report, _) = play(&both, None);
    assert_eq!(
        (report.different, report.missing_pieces),
        (0, 0),
        "{report:?}"
    );
    assert!(
        report.notes.iter().any(|n| n.contains("is torn")),
        "{:?}",
        report.notes
    );
}

#[test]
fn what_a_trace_says_is_missing_makes_it_no_proof() {
    let (text, _) = record(&firing(), 0);
    let dropped = r#"{"record_type":"dropped_records","timestamp_ns":1,"count":3}"#;
    let (report, _) = play(&format!("{text}{dropped}\n"), None);
    assert_eq!(report.missing[0].what, "3 records were dropped here");
    let (report, _) = play(&text.replace("session_start", "weather"), None);
    assert!(
        report.notes[0].contains("no session_start lists"),
        "{:?}",
        report.notes
    );
    let continued = text.replacen(
        "\"config_sha256\"",
        "\"continued\":true,\"config_sha256\"",
        1,
    );
    let (report, _) = play(&continued, None);
    assert!(report.missing[0].what.contains("began in an earlier file"));
    // In its place behind the earlier file it is no second session.
    let head = text.lines().next().unwrap();
    let head = head.replacen(
        "\"config_sha256\"",
        "\"continued\":true,\"config_sha256\"",
        1,
    );
    let half = text.lines().count() / 2;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.insert(half, &head);
    let (report, _) = play(&lines.join("\n"), None);
    assert!(report.identical(), "{report:?}");
    let (report, _) = play("", None);
    assert!(!report.identical(), "nothing proves nothing");
}

#[test]
fn a_trace_that_begins_in_the_middle_of_a_run_is_told() {
    let hub = Arc::new(ObservabilityHub::new(Level::Off));
    let mut trace = FlowTrace::new(Arc::clone(&hub), name("cam0"));
    let mut rules = rules();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.jsonl");
    for (index, owned) in firing().iter().enumerate() {
        if index == 7 {
            let sink = FileSink::new(&file, 1 << 30);
            hub.configure(Level::Verbose, vec![Box::new(sink)]);
            hub.emit(session());
        }
        let result = rules.update(owned.input());
        trace.fused(&name("a"), &owned.input(), &result, &Times::default());
    }
    hub.close(Duration::from_secs(60));
    let (report, _) = play(&std::fs::read_to_string(file).unwrap(), None);
    assert!(
        report.missing[0]
            .what
            .starts_with("its seq is 7, expected 0"),
        "{report:?}"
    );
}

#[test]
fn a_fusion_that_panicked_panics_again_and_goes_on_after_its_reset() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.jsonl");
    let hub = Arc::new(ObservabilityHub::new(Level::Verbose));
    hub.add_sink(Box::new(FileSink::new(&file, 1 << 30)));
    hub.emit(session());
    let mut trace = FlowTrace::new(Arc::clone(&hub), name("cam0"));
    let mut rules = rules();
    for owned in &firing() {
        let input = owned.input();
        if matches!(owned, Owned::Frame(a) if a.frame_id == 2) {
            rules.reset();
            trace.fusion_panicked(&name("a"), &input);
        } else {
            let result = rules.update(input);
            trace.fused(&name("a"), &input, &result, &Times::default());
        }
    }
    hub.close(Duration::from_secs(60));
    let text = std::fs::read_to_string(file).unwrap();
    let (report, _) = play(&text, Some(2));
    assert!(report.identical(), "{report:?}");
    let (report, _) = play(&text, None);
    assert_eq!(
        report.differences[0].what,
        "recorded: the fusion panicked; replayed: it did not"
    );
    let (report, _) = play(&text, Some(4));
    assert!(report.different >= 2);
}

#[test]
fn new_rules_take_over_in_a_replay_as_they_did() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.jsonl");
    let hub = Arc::new(ObservabilityHub::new(Level::Verbose));
    hub.add_sink(Box::new(FileSink::new(&file, 1 << 30)));
    hub.emit(session());
    let mut trace = FlowTrace::new(Arc::clone(&hub), name("cam0"));
    let noting = || Noting {
        rules: rules(),
        seen: Arc::default(),
        panics_on: None,
    };
    let mut fusion: Box<dyn Fusion> = Box::new(noting());
    for owned in &firing() {
        let input = owned.input();
        let result = fusion.update(input);
        trace.fused(&name("a"), &input, &result, &Times::default());
        if let Owned::Frame(a) = owned
            && a.frame_id == 3
        {
            let old = std::mem::replace(&mut fusion, Box::new(noting()));
            let result = fusion.take_over(old, a.t_ns);
            assert_eq!(result.triggers.len(), 1, "the open range is closed");
            trace.taken_over(&name("a"), a.t_ns, &result);
        }
    }
    hub.close(Duration::from_secs(60));
    let (report, _) = play(&std::fs::read_to_string(file).unwrap(), None);
    assert!(report.identical(), "{report:?}");
}

/// The records of a source whose path thread calls `each`, in order.
fn traced(level: Level, each: impl FnOnce(&mut FlowTrace)) -> Vec<Arc<Record>> {
    let hub = Arc::new(ObservabilityHub::new(level));
    hub.add_sink(Box::new(visualpath_platform::trace::MemorySink::new(
        10_000,
    )));
    let mut trace = FlowTrace::new(Arc::clone(&hub), name("cam0"));
    each(&mut trace);
    assert!(hub.flush(Duration::from_secs(60)));
    hub.recent()
}

#[test]
fn levels_record_what_the_contract_says() {
    let run = |trace: &mut FlowTrace| {
        let mut rules = rules();
        for owned in &firing() {
            if let Owned::Frame(a) = owned {
                trace.tick(a.t_ns);
                for e in &a.entries {
                    let outcome = e.outcome.as_ref().unwrap();
                    trace.outcome(&e.extractor, a.frame_id, a.t_ns, outcome, 5, 1);
                }
            }
            let result = rules.update(owned.input());
            trace.fused(&name("a"), &owned.input(), &result, &Times::default());
        }
        trace.worker(&name("person"), "held", "silent");
        let dropped = Outcome::Dropped(DropReason::QueueFull);
        trace.outcome(&name("person"), 99, 990, &dropped, 0, 1);
    };
    let types = |level| -> std::collections::BTreeSet<&'static str> {
        traced(level, run).iter().map(|r| r.record_type()).collect()
    };
    assert_eq!(types(Level::Off), [].into());
    assert_eq!(types(Level::Minimal), ["trigger_fire"].into());
    let normal = [
        "trigger_fire",
        "frame",
        "timing",
        "frame_drop",
        "state_change",
        "worker",
    ];
    assert_eq!(types(Level::Normal), normal.into());
    let mut all: std::collections::BTreeSet<_> = normal.into();
    all.extend(["observation", "fusion_decision"]);
    assert_eq!(types(Level::Verbose), all);
}

#[test]
fn slow_and_late_frames_are_told_and_so_is_who_they_waited_for() {
    let ms = |n: i64| n * NS_PER_MS;
    let skips = |a: &mut Aligned| {
        for e in &mut a.entries {
            e.outcome = None;
        }
    };
    let records = traced(Level::Verbose, |trace| {
        trace.window(&name("a"), Some(ms(100)));
        for owned in &firing() {
            let Owned::Frame(a) = owned else { continue };
            let mut a = a.clone();
            let (mut took, mut settle) = (ms(10), ms(50));
            match a.frame_id {
                // Twice the mean is not more than it, and the window's half is the limit.
                15 => (took, settle) = (ms(20), ms(150)),
                20 => (took, settle) = (ms(25), ms(151)),
                25 => {
                    skips(&mut a);
                    trace.skipped(&name("motion"), 25, "rate");
                    settle = ms(200);
                }
                _ => {}
            }
            if let Some(outcome) = &a.entries[0].outcome {
                trace.outcome(&name("person"), a.frame_id, a.t_ns, outcome, took, 0);
            }
            let times = Times {
                dequeued_ns: 1,
                settled_ns: 1 + settle,
                fused_ns: 2 + settle,
            };
            let input = FusionInput::Aligned(&a);
            trace.fused(&name("a"), &input, &FusionResult::default(), &times);
        }
    });
    let slow: Vec<u64> = records
        .iter()
        .filter_map(|r| match &**r {
            Record::Timing(t) if t.is_slow && t.component == *"person" => Some(t.frame_id),
            _ => None,
        })
        .collect();
    assert_eq!(slow, [20]);
    let delays: Vec<(u64, Vec<Name>)> = records
        .iter()
        .filter_map(|r| match &**r {
            Record::SyncDelay(d) => Some((d.frame_id, d.waiting_for.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(delays.len(), 2, "{delays:?}");
    assert_eq!(delays[0].0, 20);
    assert_eq!(
        delays[1],
        (25, vec![name("person")]),
        "the other was skipped"
    );
    let entries = records.iter().find_map(|r| match &**r {
        Record::FusionDecision(d) if d.frame_id == Some(25) => Some(&d.entries),
        _ => None,
    });
    let words: Vec<String> = entries
        .unwrap()
        .iter()
        .map(|e| e.outcome.to_string())
        .collect();
    assert_eq!(words, ["pending", "skipped"]);
    assert_eq!(entries.unwrap()[1].why.as_deref(), Some("rate"));
}

#[test]
fn every_ten_seconds_of_source_time_are_summed_up() {
    let person = name("person");
    let records = traced(Level::Normal, |trace| {
        for id in 0..1001_u64 {
            let t_ns = id as i64 * 25 * NS_PER_MS;
            trace.tick(t_ns);
            if id % 4 == 0 {
                let outcome = match id % 16 {
                    0 => Outcome::Dropped(DropReason::QueueFull),
                    _ => Outcome::Observed(held(&person, id, t_ns, &[])),
                };
                trace.outcome(&person, id, t_ns, &outcome, 1, 0);
            } else {
                trace.skipped(&person, id, "rate");
            }
        }
    });
    let sums: Vec<_> = records
        .iter()
        .filter_map(|r| match &**r {
            Record::FpsSummary(s) => Some(s),
            _ => None,
        })
        .collect();
    assert_eq!(sums.len(), 2, "25 s");
    for sum in sums {
        assert_eq!((sum.frames, sum.period_ms, sum.fps), (400, 10_000.0, 40.0));
        let e = &sum.extractors[0];
        assert_eq!(
            (e.observed, e.dropped, e.skipped, e.failed),
            (75, 25, 300, 0)
        );
        assert_eq!(e.fps, 7.5);
    }
}
