//! `entryway healthcheck`: one word and 0 or 1, for container runtimes.

use std::io::Write;
use std::time::Duration;

use super::client::InstanceAddress;
use super::error::{CliError, code};

/// Container runtimes wait some seconds at most.
const TIME: Duration = Duration::from_secs(3);

/// Asks `/livez`, or `/readyz` with `ready`.
pub async fn run(
    instance: &InstanceAddress,
    ready: bool,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let (path, good, bad) = if ready {
        ("/readyz", "ready", "unready")
    } else {
        ("/livez", "alive", "unhealthy")
    };
    let (word, exit) = match instance.ask(path, TIME).await {
        Ok(answer) if answer.status.is_success() => (good, 0),
        Ok(_) => (bad, code::NOT_OK),
        Err(_) => ("unreachable", code::NOT_OK),
    };
    writeln!(to, "{word}")?;
    Ok(exit)
}
