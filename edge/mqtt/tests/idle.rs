//! An idle publisher costs nothing. Alone in its process: the threads are counted by name.
#![allow(
    clippy::unwrap_used,
    reason = "clippy's allow-unwrap-in-tests covers test functions only, not their helpers"
)]

mod support;

use std::time::Duration;

use support::*;

/// Times the thread called `mqtt` gave up the CPU by itself: each wake-up is one.
fn wake_ups() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    for task in tasks {
        let dir = task.unwrap().path();
        let Ok(comm) = std::fs::read_to_string(dir.join("comm")) else {
            continue;
        };
        if comm.trim() == "mqtt" {
            let status = std::fs::read_to_string(dir.join("status")).unwrap();
            let line = status
                .lines()
                .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            return line.unwrap().trim().parse().unwrap();
        }
    }
    panic!("no thread called mqtt");
}

#[test]
fn the_thread_does_not_spin_with_nothing_to_do() {
    let broker = Mosquitto::start();
    let p = publisher(options(broker.port));
    fire(&p, 1);
    eventually("delivered", || p.pending() == 0);
    let before = wake_ups();
    // Not to synchronise: this is the stretch of idleness that is counted.
    std::thread::sleep(Duration::from_secs(3));
    let woken = wake_ups() - before;
    // One ping and its answer a second, with a few switches each.
    assert!(woken < 60, "{woken} wake-ups in 3 idle seconds");
}
