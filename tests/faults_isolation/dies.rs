//! Workers that die or hang.

use crate::bad::{Bad, Fate, run};

#[test]
fn a_worker_that_dies_is_back_and_nobody_else_notices() {
    let done = run(
        180,
        &[
            Bad::at("killed", 30, "sigkill", 0, Fate::Back("signal 9 (SIGKILL)")),
            Bad::at(
                "faults",
                40,
                "sigsegv",
                0,
                Fate::Back("signal 11 (SIGSEGV)"),
            ),
            Bad::at("aborts", 50, "sigabrt", 0, Fate::Back("signal 6 (SIGABRT)")),
            Bad::at("leaves", 60, "exit", 0, Fate::Back("exit code 0")),
            Bad::at(
                "complains",
                70,
                "last_words",
                0,
                Fate::Back("exit code 3: ERROR the lens is dirty"),
            ),
            Bad::at(
                "scribbles",
                80,
                "write_frame",
                0,
                Fate::Back("signal 11 (SIGSEGV)"),
            ),
        ],
    );
    let said: Vec<&str> = done.lines_of("complains").collect();
    assert!(
        said.iter()
            .any(|l| l.contains("ERROR") && l.contains("the lens is dirty")),
        "what it wrote is in the log under its name: {said:?}"
    );
    // The frame at which it died has failed for that reason.
    let failed = visualpath_tests::workers::of(&done.trace, "frame_drop")
        .find(|r| r["extractor"] == "killed" && r["reason"] == "failed")
        .unwrap();
    let error = failed["error"].as_str().unwrap();
    assert!(
        error.contains("died") && error.contains("SIGKILL"),
        "{error}"
    );
}

#[test]
fn a_worker_that_hangs_is_killed_and_back_and_nobody_else_notices() {
    let keys = "timeout_ms = 200\nhang_ms = 600";
    let done = run(
        150,
        &[
            Bad::at("stops", 30, "sigstop", 0, Fate::Back("silent past hang_ms")).with(keys),
            Bad::at("sleeps", 30, "sleep", 0, Fate::Back("silent past hang_ms")).with(keys),
            // Late is not dead: the frame timed out, its slot stays with it, and it goes on.
            Bad::at("dawdles", 30, "late", 1200, Fate::Lives)
                .with("timeout_ms = 200\nhang_ms = 60000"),
            Bad::at("fails", 30, "error", 0, Fate::Lives),
            Bad::panics("panics", 30),
            Bad::at("no_number", 30, "nan", 0, Fate::Lives),
        ],
    );
    for name in ["stops", "sleeps", "dawdles"] {
        assert_eq!(
            done.summary["timed_out"][name], 1,
            "{name}: {}",
            done.summary
        );
    }
    assert_eq!(done.summary["late"]["dawdles"], 1, "{}", done.summary);
    for name in ["fails", "panics", "no_number"] {
        assert_eq!(done.summary["failed"][name], 1, "{name}: {}", done.summary);
    }
}
