//! What rules promise, on hand-made aligned frames.

mod behaviour;
mod expressions;
mod gate;
mod hours;
mod model;
mod reference;
mod sequence;
mod take_over;
mod wrong;

use std::sync::Arc;

use serde_json::{Value, json};
use visualpath_core::{
    Aligned, AlignedEntry, Fusion, FusionInput, Held, NS_PER_MS, Name, Object, Observation, Trigger,
};

use super::{ExtractorSignals, RuleError, Rules, RulesConfig, TimeZone};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A path with a detector, motion, and a plugin that declares nothing.
fn path() -> Vec<ExtractorSignals> {
    let extractor = |n: &str, signals: &[&str]| ExtractorSignals {
        name: name(n),
        signals: signals.iter().map(|s| (*s).to_owned()).collect(),
        zones: vec![name("door"), name("gate")],
    };
    vec![
        extractor("person", &["count", "max_confidence", "car_count"]),
        extractor("motion", &["score"]),
        extractor("free", &[]),
    ]
}

/// Reads and compiles a list of rules.
fn compile(rules: &Value) -> Result<Rules, Vec<RuleError>> {
    let config: RulesConfig = serde_json::from_value(json!({ "rule": rules }))
        .map_err(|e| vec![RuleError::new(None, "rule", e.to_string())])?;
    Rules::compile(config, &path(), TimeZone::UTC)
}

/// One rule `r` with this condition that fires at once and releases at once, and more keys.
fn rule(when: &str, more: &Value) -> Rules {
    let mut table = json!({"label": "r", "when": when, "release_ms": 0, "cooldown_ms": 0});
    for (key, value) in more.as_object().unwrap() {
        table[key] = value.clone();
    }
    compile(&json!([table])).unwrap()
}

/// An extractor's held outcome: its signals, nothing found.
fn held(signals: &[(&str, f64)]) -> Held {
    let mut observation = Observation::new(name("any"), 0, 0);
    observation.signals = signals.iter().copied().collect();
    Held {
        frame_id: 0,
        t_ns: 0,
        signals: observation.signals.clone(),
        observations: vec![observation],
        timing_ns: 0,
    }
}

fn aligned(frame_id: u64, t_ms: i64, entries: &[(&str, Option<Held>)]) -> Aligned {
    Aligned {
        unix_ns: 0,
        source: name("cam0"),
        frame_id,
        t_ns: t_ms * NS_PER_MS,
        entries: entries
            .iter()
            .map(|(extractor, held)| AlignedEntry {
                extractor: name(extractor),
                outcome: None,
                held: held.clone().map(Arc::new),
            })
            .collect(),
    }
}

/// A frame on which `person` counts `count`, or holds nothing.
fn people(frame_id: u64, t_ms: i64, count: Option<f64>) -> Aligned {
    let person = count.map(|c| held(&[("count", c), ("max_confidence", 0.8)]));
    aligned(frame_id, t_ms, &[("person", person)])
}

/// Feeds one frame every 100 ms from t = 0, `#` = a person, `.` = none, `?` = stale.
fn feed(rules: &mut Rules, pattern: &str) -> Vec<Trigger> {
    let mut triggers = Vec::new();
    for (i, c) in pattern.chars().enumerate() {
        let count = match c {
            '#' => Some(1.0),
            '.' => Some(0.0),
            _ => None,
        };
        let frame = people(i as u64, i as i64 * 100, count);
        triggers.extend(rules.update(FusionInput::Aligned(&frame)).triggers);
    }
    triggers
}

fn object(label: &str, zones: &[&str]) -> Object {
    Object {
        track_id: None,
        label: label.to_owned(),
        score: 0.9,
        bbox: [0.1, 0.2, 0.3, 0.4],
        area: 0.04,
        zones: zones.iter().map(|z| (*z).to_owned()).collect(),
        keypoints: Vec::new(),
    }
}

fn ms(t_ns: i64) -> i64 {
    t_ns / NS_PER_MS
}
