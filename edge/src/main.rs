//! The `visualpath` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    visualpath::cli::main().into()
}
