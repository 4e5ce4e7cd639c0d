//! An ARM machine with real V4L2 drivers: Debian's arm64 kernel with the test camera `vivid` and the
//! test encoder `vicodec`, under qemu. `cross/vm.sh` builds what runs inside and then these tests;
//! each scenario of `tests/vm/probe` is one test here.
//!
//! The machine is booted once for all scenarios that need no network, with a clock that counts
//! instructions, and once for each that has a broker outside.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test; its numbers are for people"
)]

mod machine;
mod outside;
mod usb;
mod usb_camera;

use std::sync::OnceLock;

use machine::{Clock, Machine, Results, soak, wanted};

/// All that were run in one machine, which the first test boots.
fn together() -> &'static Results {
    static RESULTS: OnceLock<Results> = OnceLock::new();
    RESULTS.get_or_init(|| {
        let length = if soak() { "=soak" } else { "" };
        let scenarios: Vec<String> = TOGETHER
            .iter()
            .filter(|name| wanted(name) && has(name))
            .map(|name| format!("{name}{length}"))
            .collect();
        Machine::boot(Clock::Counted, &scenarios).finish()
    })
}

/// Whether the machine has what a scenario needs; `cross/vm.sh` has said so if not.
fn has(scenario: &str) -> bool {
    scenario != ENCODER || std::env::var_os("VISUALPATH_VM_NO_ENCODER").is_none()
}

const ENCODER: &str = "the_boards_encoder_gives_every_picture_back_with_its_time";

macro_rules! scenarios {
    ($($name:ident)+) => {
        const TOGETHER: &[&str] = &[$(stringify!($name)),+];
        $(
            #[test]
            #[ignore = "needs the ARM machine: cross/vm.sh"]
            fn $name() {
                if has(stringify!($name)) {
                    together().expect(stringify!($name));
                }
            }
        )+
    };
}

scenarios! {
    the_machine_has_a_camera_that_streams
    every_format_shows_the_bars_in_their_colours
    the_drivers_matrix_and_range_are_used
    many_frames_leave_no_files_memory_or_leases_behind
    no_frame_is_torn_and_its_drawn_number_is_its_own
    pictures_are_copied_once_at_most
    the_cost_of_a_720p30_stream_against_v4l2_ctl
    a_damaged_buffer_is_one_lost_picture
    dropped_buffers_are_missed_to_the_picture
    a_dead_stream_is_begun_again
    a_stalled_camera_is_opened_again
    a_pulled_camera_gives_frames_again_within_three_seconds
    the_boards_encoder_gives_every_picture_back_with_its_time
}
