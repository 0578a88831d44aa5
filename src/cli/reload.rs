//! `entryway reload`: read the settings again, or only look at them.

use std::io::Write;

use super::args::OutputFormat;
use super::client::{InstanceAddress, clean};
use super::error::CliError;
use super::status::print_json;
use crate::admin::api_types::{Reloaded, versioned};

/// Asks for the reload and prints what it changes. Wrong settings are the report and 78.
pub async fn run(
    instance: &InstanceAddress,
    dry_run: bool,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let path = if dry_run {
        "/v1/reload?dry_run=1"
    } else {
        "/v1/reload"
    };
    let reloaded: Reloaded = instance.change(path).await?;
    if output == OutputFormat::Json {
        print_json(to, &versioned(reloaded))?;
        return Ok(0);
    }
    for warning in &reloaded.warnings {
        writeln!(to, "warning: {}", clean(warning))?;
    }
    let verb = if reloaded.dry_run {
        "would change"
    } else {
        "changed"
    };
    for key in &reloaded.changed {
        writeln!(to, "{verb} {}", clean(key))?;
    }
    for key in &reloaded.restart_needed {
        writeln!(to, "needs a restart: {}", clean(key))?;
    }
    if reloaded.changed.is_empty() && reloaded.restart_needed.is_empty() {
        writeln!(to, "nothing differs")?;
    }
    Ok(0)
}
