//! The ways to run an extractor, and how two runs are compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use visualpath::config::{LoadOptions, load};
use visualpath::{Origin, Pipeline, Registry};
use visualpath_tests::scripted::Scripted;
use visualpath_tests::workers::Place;

/// One way to run extractors: what stands in the config of each.
pub struct Variant {
    /// For messages.
    pub name: &'static str,
    /// Keys of `[extractor.<name>]`.
    pub keys: &'static str,
    /// Whether the extractor is linked into this process.
    pub linked: bool,
    /// Whether its pixels are the very ones of the frame.
    pub exact: bool,
}

/// What all others are compared with.
pub const INLINE: Variant = Variant {
    name: "inline",
    keys: "isolation = \"inline\"",
    linked: true,
    exact: true,
};

const fn process(name: &'static str, keys: &'static str, exact: bool) -> Variant {
    Variant {
        name,
        keys,
        linked: false,
        exact,
    }
}

/// Every other way. A further one (another isolation, another program) is one more line.
pub const OTHERS: &[Variant] = &[
    Variant {
        name: "thread",
        keys: "isolation = \"thread\"",
        linked: true,
        exact: true,
    },
    process("process", "isolation = \"process\"", true),
    process(
        "process, raw messages",
        "isolation = \"process\"\ntransport = \"message\"\npixels = \"raw\"",
        true,
    ),
    process(
        "process, JPEG messages",
        "isolation = \"process\"\ntransport = \"message\"\npixels = \"jpeg\"",
        false,
    ),
    process(
        "process, untrusted",
        "isolation = \"process\"\ntrust = \"untrusted\"",
        true,
    ),
];

/// What a run said, by source, kind of record and extractor (or path), in order.
pub type Said = BTreeMap<String, Vec<String>>;

/// Runs a config in this process: `ISOLATION` in it becomes the variant's keys.
pub fn run_here(text: &str, variant: &Variant) -> (Said, Vec<Value>) {
    let place = Place::new();
    let registry = Registry::new();
    if variant.linked {
        std::fs::remove_dir_all(place.path("state/plugins/scripted")).unwrap();
        registry
            .register_extractor(Origin::App, Arc::new(Scripted))
            .unwrap();
    }
    let file = place.config(&text.replace("ISOLATION", variant.keys));
    let loaded = load(&LoadOptions::new(file)).unwrap_or_else(|f| panic!("{f:?}"));
    let report = Pipeline::new(loaded.config, registry).run().unwrap();
    assert!(
        report.error.is_none(),
        "{}: {:?}",
        variant.name,
        report.error
    );
    place.until_empty();
    (said(&place.trace(), variant.exact), place.trace())
}

/// Runs a config in the real program.
pub fn run_real(text: &str, variant: &Variant) -> (Said, Vec<Value>) {
    let place = Place::new();
    place.config(&text.replace("ISOLATION", variant.keys));
    let done = place.start().finish();
    assert_eq!(done.code, 0, "{}: {}", variant.name, done.log);
    place.until_empty();
    (said(&done.trace, variant.exact), done.trace)
}

/// What must be the same, without what is a time or a duration of this run; and without the pixels,
/// where they may differ.
pub fn said(trace: &[Value], exact: bool) -> Said {
    let mut all = Said::new();
    // Losses are recorded when they happen, which for two frames of one extractor may be in either
    // order; what fusions are given is in the order of frames.
    let (mut losses, others): (Vec<_>, Vec<_>) =
        trace.iter().partition(|r| r["record_type"] == "frame_drop");
    losses.sort_by_key(|r| r["frame_id"].as_u64());
    for record in losses.into_iter().chain(others) {
        let kind = record["record_type"].as_str().unwrap_or_default();
        if ![
            "observation",
            "frame_drop",
            "fusion_decision",
            "frame",
            "worker",
            "trigger_fire",
        ]
        .contains(&kind)
        {
            continue;
        }
        let who = record["extractor"].as_str().or(record["path"].as_str());
        let source = record["source"].as_str().unwrap_or_default();
        let key = format!("{source} {kind} {}", who.unwrap_or_default());
        let mut record = record.clone();
        strip(&mut record, exact);
        all.entry(key).or_default().push(record.to_string());
    }
    all
}

fn strip(value: &mut Value, exact: bool) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| {
                let time = ["timestamp_ns", "timing_ns", "unix_ns"].contains(&key.as_str());
                !(time || !exact && key.ends_with("pixels"))
            });
            map.values_mut().for_each(|v| strip(v, exact));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| strip(v, exact)),
        _ => {}
    }
}

/// Compares record by record.
pub fn assert_same(name: &str, left: &Said, right: &Said) {
    let keys = |s: &Said| s.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(left), keys(right), "{name}: kinds of records");
    for (key, records) in left {
        let others = &right[key];
        for (n, (a, b)) in records.iter().zip(others).enumerate() {
            assert_eq!(a, b, "{name}: record {n} of {key}");
        }
        assert_eq!(records.len(), others.len(), "{name}: number of {key}");
    }
}
