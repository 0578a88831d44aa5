//! The binary of entryway: parses, calls `cli`, exits.

use std::process::ExitCode;

/// musl's allocator returns memory to the system and takes it back while connections come and go: bursts of them cost
/// 1.28 times the CPU (`benches/README.md`). glibc's was no slower than this one.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(entryway::cli::main(std::env::args_os()))
}
