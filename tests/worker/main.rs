//! A worker process for tests: the scripted extractor through the SDK, or, with `--raw MODE FRAME`,
//! one that speaks the protocol by hand and badly.

mod raw;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => visualpath_plugin::main(visualpath_tests::scripted::Scripted),
        ["--raw", mode] => raw::run(mode, u64::MAX),
        ["--raw", mode, frame] => raw::run(mode, frame.parse().unwrap_or(0)),
        _ => ExitCode::from(2),
    }
}
