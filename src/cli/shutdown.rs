//! `entryway shutdown`: drain and stop the instance. Returns once it has begun.

use std::io::Write;

use super::args::Output;
use super::failure::CliError;
use super::online::Instance;
use super::status::print_json;

/// Asks for it.
pub async fn run(instance: &Instance, output: Output, to: &mut dyn Write) -> Result<u8, CliError> {
    let begun: serde_json::Value = instance.change("/v1/shutdown").await?;
    match output {
        Output::Json => print_json(to, &begun)?,
        Output::Text => writeln!(to, "draining")?,
    }
    Ok(0)
}
