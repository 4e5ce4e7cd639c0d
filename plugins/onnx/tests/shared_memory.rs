//! What a second user of a model costs in memory, and what is left when all are gone.
//!
//! A program of its own: resident memory is that of a process.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use support::{library, picture, ssd};
use visualpath_onnx::{LoadOptions, LoadedModel, Runtime, load};

const OUTPUTS: [&str; 2] = ["raw_outputs_box_encodings", "raw_outputs_class_predictions"];

/// Resident memory of this process, KiB.
fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_second_to_fourth_user_cost_a_fraction_and_nothing_is_left_behind() {
    let model = ssd();
    let input = picture(1);
    let options = LoadOptions {
        ort_library: Some(library()),
        ..LoadOptions::new(&model.card, &OUTPUTS)
    };
    for runtime in [Runtime::Tract, Runtime::Ort] {
        let user = || -> LoadedModel {
            let mut user = load(runtime, &model, &options).unwrap();
            // Working memory comes with the first run.
            user.run(&input).unwrap();
            user
        };
        let before = resident_kib();
        let mut users = vec![user()];
        let first = resident_kib() - before;
        users.extend((0..3).map(|_| user()));
        let later = resident_kib() - before - first;
        println!("{runtime}: the first user {first} KiB, three more {later} KiB");
        // Compared with the weights, because the first may use memory that is there already.
        let weights = i64::try_from(model.bytes().len() / 1024).unwrap();
        assert!(
            later / 3 * 4 < weights,
            "{runtime}: {later} KiB for three more users of {weights} KiB of weights"
        );
        drop(users);

        // The allocator settles within a few loads.
        (0..5).for_each(|_| drop(user()));
        let settled = resident_kib();
        (0..10).for_each(|_| drop(user()));
        let grown = resident_kib() - settled;
        println!("{runtime}: ten loads more left {grown} KiB");
        assert!(grown < weights, "{runtime}: {grown} KiB are left behind");
    }
}
