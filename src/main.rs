//! The binary of entryway: parses, calls `cli`, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(entryway::cli::main(std::env::args_os()))
}
