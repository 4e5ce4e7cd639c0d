//! A frame allocates its observation and nothing else.

mod support;

use std::alloc::System;

use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{Room, signal};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_frame_allocates_its_observation_and_nothing_else() {
    let polygon = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]];
    let mut room = Room::new(json!({}), &[("left", polygon)]);
    let mut of = |draw: &dyn Fn(&mut Room)| {
        room.clear();
        draw(&mut room);
        let region = Region::new(ALLOCATOR);
        let o = room.look();
        let stats = region.change();
        (stats.allocations + stats.reallocations, o)
    };
    // The list, and the vector of signals as it grows.
    let (learning, _) = of(&|_| ());
    for _ in 0..30 {
        of(&|_| ());
    }
    for _ in 0..50 {
        let (quiet, o) = of(&|_| ());
        assert!(quiet <= 3, "{quiet} of a quiet frame: {:?}", o.signals);
    }
    assert!(learning <= 6, "{learning}: metadata");
    for i in 0..50 {
        let (busy, o) = of(&|room| {
            room.thing([i * 4, 40, i * 4 + 50, 90], 220);
            room.thing([200 - i * 2, 150, 240 - i * 2, 200], 220);
        });
        assert_eq!(signal(&o, "count"), 2.0);
        // Two labels, the list of objects.
        assert!(busy <= 6, "{busy}");
    }
}
