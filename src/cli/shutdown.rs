//! `entryway shutdown`: drain and stop the instance. Returns once it has begun.

use std::io::Write;

use super::args::OutputFormat;
use super::failure::CliError;
use super::online::Instance;
use super::status::print_json;

/// Asks for it.
pub async fn run(
    instance: &Instance,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let begun: serde_json::Value = instance.change("/v1/shutdown").await?;
    match output {
        OutputFormat::Json => print_json(to, &begun)?,
        OutputFormat::Text => writeln!(to, "draining")?,
    }
    Ok(0)
}
