//! `entryway demo`: see `crate::demo`.

use super::failure::CliError;

/// Runs it.
pub async fn run(_forever: bool) -> Result<u8, CliError> {
    Err(CliError::new(70, "demo: not yet"))
}
