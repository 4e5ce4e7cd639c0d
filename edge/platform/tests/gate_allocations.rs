//! Asking a gate costs no allocation while nobody answers anew.

use std::alloc::System;
use std::sync::Arc;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use visualpath_core::{ExtractorSignals, Held, Name, Signals};
use visualpath_platform::rules::Gate;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

// The only test of this program: the counters are those of all its threads.
#[test]
fn asking_a_gate_again_allocates_nothing() {
    const CALLS: i64 = 10_000;
    let motion = ExtractorSignals {
        name: Name::new("motion").unwrap(),
        signals: vec!["score".to_owned()],
        zones: vec![],
    };
    for (score, text) in [
        (Some(0.5), "motion.score > 0.02"),
        (Some(0.0), "motion.score > 0.02 || motion.score < -1.0"),
        (None, "motion.score > 0.02"),
        (Some(0.0), "1 / int(motion.score) > 0"),
    ] {
        let mut gate = Gate::compile(text, 0, std::slice::from_ref(&motion)).unwrap();
        let held = score.map(|score| {
            Arc::new(Held {
                frame_id: 0,
                t_ns: 0,
                signals: [("score", score)].into_iter().collect::<Signals>(),
                observations: vec![],
                timing_ns: 0,
            })
        });
        let first = gate.open(0, &mut |_| held.clone());
        let region = Region::new(ALLOCATOR);
        for t_ns in 1..=CALLS {
            assert_eq!(gate.open(t_ns, &mut |_| held.clone()), first);
        }
        let allocations = region.change().allocations;
        // The test harness may allocate now and then.
        assert!(allocations < 100, "{text}: {allocations} in {CALLS} calls");
    }
}
