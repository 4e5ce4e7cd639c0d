//! Runs inside the ARM machine of `tests/vm`: named scenarios on a real V4L2 driver.
//!
//! ```text
//! init ─▶ vm-probe all PORT NAME… ─┬─▶ vm-probe one NAME ─▶ one JSON line ─┬─▶ PORT ─▶ tests/vm
//!                                  └─▶ vm-probe one NAME ─▶ …              ┘
//! ```
//!
//! Each scenario is a process of its own, so that what one breaks or leaks is not the next one's.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program: its output is what it is for"
)]

mod app;
mod camera;
mod machine;
mod runner;
mod scenarios;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["all", port, names @ ..] => runner::all(port, names),
        ["one", name] => runner::one(name),
        _ => Err(anyhow::anyhow!("vm-probe all PORT NAME… | one NAME")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("vm-probe: {e:#}");
            ExitCode::FAILURE
        }
    }
}
