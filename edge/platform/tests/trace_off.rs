//! Off costs nothing: no thread, no allocation. Alone in its process, which is what is measured.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::alloc::System;
use std::sync::Arc;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use visualpath_core::{
    Aligned, AlignedEntry, FusionInput, FusionResult, Held, Name, Outcome, Signals,
};
use visualpath_platform::Times;
use visualpath_platform::trace::{FlowTrace, Level, NullSink, ObservabilityHub, Record};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counted, not named: a thread names itself once it runs.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// All that a path thread calls for a frame.
fn frame(trace: &mut FlowTrace, path: &Name, aligned: &Aligned, result: &FusionResult) {
    let entry = &aligned.entries[0];
    trace.tick(aligned.t_ns);
    trace.skipped(&entry.extractor, aligned.frame_id, "rate");
    let outcome = entry.outcome.as_ref().unwrap();
    trace.outcome(&entry.extractor, aligned.frame_id, 0, outcome, 5, 0);
    trace.worker(&entry.extractor, "running", "");
    let input = FusionInput::Aligned(aligned);
    trace.fused(path, &input, result, &Times::default());
}

#[test]
fn off_or_without_a_sink_nothing_is_allocated_and_no_thread_is_started() {
    let (person, path) = (Name::new("person").unwrap(), Name::new("p").unwrap());
    let held = Arc::new(Held {
        frame_id: 1,
        t_ns: 1,
        observations: vec![],
        signals: Signals::new(),
        timing_ns: 1,
    });
    let aligned = Aligned {
        source: Name::new("cam0").unwrap(),
        frame_id: 1,
        t_ns: 1,
        unix_ns: 1,
        entries: vec![AlignedEntry {
            extractor: person,
            outcome: Some(Outcome::Observed(Arc::clone(&held))),
            held: Some(held),
        }],
    };
    let result = FusionResult::default();
    let before = threads();
    let with_sink_but_off = ObservabilityHub::new(Level::Off);
    with_sink_but_off.add_sink(Box::new(NullSink));
    let without_sink = ObservabilityHub::new(Level::Verbose);
    for hub in [with_sink_but_off, without_sink] {
        let hub = Arc::new(hub);
        let mut trace = FlowTrace::new(Arc::clone(&hub), aligned.source.clone());
        let region = Region::new(ALLOCATOR);
        for _ in 0..1000 {
            frame(&mut trace, &path, &aligned, &result);
            hub.emit_with(Level::Minimal, || unreachable!("nobody wants it"));
        }
        let change = region.change();
        assert_eq!(change.allocations + change.reallocations, 0);
        assert_eq!(threads(), before);
        assert!(hub.recent().is_empty());
    }
    // And they can fail: on, both happen.
    let hub = Arc::new(ObservabilityHub::new(Level::Verbose));
    hub.add_sink(Box::new(NullSink));
    let mut trace = FlowTrace::new(Arc::clone(&hub), aligned.source.clone());
    let region = Region::new(ALLOCATOR);
    frame(&mut trace, &path, &aligned, &result);
    assert!(region.change().allocations > 0);
    assert_eq!(threads(), before + 1);
    hub.emit(Record::Unknown);
}
