//! What is tried in the machine. The names are those of the tests in `tests/vm/main.rs`.

mod colours;
mod drawn;
mod encoder;
mod faults;
mod streaming;
mod usb;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::app;
use crate::machine::Camera;
use crate::runner::Numbers;

/// A scenario: its argument, and where it leaves what it measured.
pub type Scenario = fn(&str, &mut Numbers) -> Result<()>;

const ALL: &[(&str, Scenario)] = &[
    ("the_machine_has_a_camera_that_streams", streams),
    (
        "every_format_shows_the_bars_in_their_colours",
        colours::every_format,
    ),
    (
        "the_drivers_matrix_and_range_are_used",
        colours::matrix_and_range,
    ),
    (
        "many_frames_leave_no_files_memory_or_leases_behind",
        streaming::no_growth,
    ),
    (
        "no_frame_is_torn_and_its_drawn_number_is_its_own",
        streaming::no_tearing,
    ),
    ("pictures_are_copied_once_at_most", streaming::copies),
    (
        "the_cost_of_a_720p30_stream_against_v4l2_ctl",
        streaming::cost,
    ),
    (
        "a_damaged_buffer_is_one_lost_picture",
        faults::damaged_buffers,
    ),
    (
        "dropped_buffers_are_missed_to_the_picture",
        faults::dropped_buffers,
    ),
    ("a_dead_stream_is_begun_again", faults::dead_streams),
    ("a_stalled_camera_is_opened_again", faults::stalled),
    (
        "a_pulled_camera_gives_frames_again_within_three_seconds",
        faults::pulled,
    ),
    (
        "the_boards_encoder_gives_every_picture_back_with_its_time",
        encoder::whole,
    ),
    (
        "a_usb_camera_gives_whole_pictures_is_pulled_and_comes_back",
        usb::camera,
    ),
    (
        "the_appliance_runs_and_triggers_reach_a_broker_outside",
        app::drawn,
    ),
    (
        "a_pulled_camera_is_offline_at_the_broker_and_comes_back",
        app::camera,
    ),
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<Scenario> {
    ALL.iter().find(|(n, _)| *n == name).map(|(_, run)| *run)
}

/// The bench itself, without anything of ours.
fn streams(_: &str, numbers: &mut Numbers) -> Result<()> {
    let camera = Camera::WEBCAM;
    camera.insert()?;
    camera.ctl(&[
        "-v",
        "width=320,height=180,pixelformat=YUYV",
        "-p",
        "60",
        "--stream-mmap",
        "--stream-count=60",
        "--stream-to=/tmp/frames",
    ])?;
    let bytes = std::fs::metadata("/tmp/frames")?.len();
    numbers.insert("bytes".into(), json!(bytes));
    ensure!(bytes == 60 * 320 * 180 * 2, "60 frames have {bytes} bytes");
    Ok(())
}
