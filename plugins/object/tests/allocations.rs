//! Heap allocations per frame are few and always the same.
//!
//! ONNX Runtime allocates on its own side, which is not counted; tract allocates a tensor per node
//! of its graph, which is. So the number to keep small is that of the ONNX Runtime run: the plugin's
//! own and the binding's.

mod support;

use std::alloc::System;

use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{assets, extractor, frames, view};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Promised for a frame with a handful of objects (docs/design/inference.md).
const MOST: usize = 64;

#[test]
fn allocations_of_a_frame_are_few_and_constant() {
    let video = frames(&assets().join("videos/vtest.avi"), 100);
    let (number, pixels) = &video[1];
    for runtime in ["ort", "tract"] {
        let mut extractor = extractor(json!({"runtime": runtime}));
        let mut count = || {
            let region = Region::new(ALLOCATOR);
            let observations = extractor.extract(&view(*number, pixels), &[]).unwrap();
            let stats = region.change();
            (
                stats.allocations + stats.reallocations,
                observations[0].data.objects.len(),
            )
        };
        // The first frames grow what is then kept.
        for _ in 0..3 {
            count();
        }
        let (first, objects) = count();
        println!("{runtime}: {first} allocations with {objects} objects");
        for _ in 0..5 {
            assert_eq!(count().0, first, "{runtime}: constant");
        }
        if runtime == "ort" {
            assert!(
                first <= MOST,
                "{first} allocations, at most {MOST} are promised"
            );
        }
    }
}
