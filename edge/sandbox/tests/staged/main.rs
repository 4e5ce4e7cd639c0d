//! Real processes in real sandboxes: this test starts itself through the stage, as a plugin that
//! tries one hostile (or ordinary) thing and prints what the kernel said.
//!
//! | started as | it is |
//! |---|---|
//! | `staged [FILTER…]` | the parent: the tests below |
//! | `staged --stage` | the launcher stage; without a program it goes on as the plugin |
//! | `staged --attack NAME ARG…` | the plugin |
//! | `staged --middle` | a parent that only exists to be killed |

#![allow(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, but clippy sees that only where there is libtest"
)]

mod attack;
mod child;
mod files;
mod layers;
mod life;
mod limits;
mod python;
mod system;

use std::panic::catch_unwind;
use std::process::ExitCode;

/// One promise and the check of it; a string: it can't be checked here, and why.
type Test = (&'static str, fn() -> Result<(), String>);

const TESTS: &[&[Test]] = &[
    files::TESTS,
    limits::TESTS,
    system::TESTS,
    life::TESTS,
    layers::TESTS,
    python::TESTS,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--stage") => {
            let _entered = visualpath_sandbox::enter_or_exit();
            attack::run(&args[1..]);
            ExitCode::SUCCESS
        }
        Some("--attack") => {
            attack::run(&args[1..]);
            ExitCode::SUCCESS
        }
        Some("--middle") => life::middle(),
        _ => run(&args),
    }
}

/// What libtest does, as far as we need it: filters, one line per test.
fn run(args: &[String]) -> ExitCode {
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen = |name: &str| {
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    let all = TESTS.iter().flat_map(|tests| tests.iter());
    if args.iter().any(|arg| arg == "--list") {
        all.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for (name, test) in all.filter(|(name, _)| chosen(name)) {
        match catch_unwind(test) {
            Ok(Ok(())) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Ok(Err(why)) => {
                println!("test {name} ... SKIPPED: {why}");
                skipped += 1;
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(name);
            }
        }
    }
    let count = failed.len();
    println!("\ntest result: {passed} passed; {count} failed; {skipped} skipped");
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("failed: {failed:?}");
        ExitCode::FAILURE
    }
}
