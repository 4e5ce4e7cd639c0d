//! The `visualpath` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A worker process goes into its sandbox while it has one thread and nothing open.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "worker") {
        return visualpath::workers::main(&arguments.collect::<Vec<_>>());
    }
    visualpath::cli::main().into()
}
