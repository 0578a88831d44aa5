//! `entryway slo`: how many connections reached an upstream, against a target.

use std::io::Write;

use super::args::OutputFormat;
use super::client::{InstanceAddress, clean, span};
use super::error::CliError;
use super::status::print_json;
use crate::admin::api_types::{Slo, Versioned};

/// `target` in percent.
pub async fn run(
    instance: &InstanceAddress,
    target: f64,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let slo: Versioned<Slo> = instance.read(&format!("/v1/slo?target={target}")).await?;
    if output == OutputFormat::Json {
        print_json(to, &slo)?;
        return Ok(0);
    }
    let slo = slo.value;
    writeln!(
        to,
        "{:.4} % of {} connections reached an upstream in {} (target {} %)",
        slo.ratio * 100.0,
        slo.good + slo.bad,
        span(slo.window_s),
        slo.target
    )?;
    let left = slo.budget_left * 100.0;
    if left < 0.0 {
        writeln!(to, "error budget overspent: {} failed", slo.bad)?;
    } else {
        writeln!(to, "error budget left: {left:.1} % ({} failed)", slo.bad)?;
    }
    for one in &slo.by_endpoint {
        let line = format!("  {}/{}", one.upstream, one.endpoint);
        writeln!(
            to,
            "{:<32} {:>9} served, {:>6} failed attempts",
            clean(&line),
            one.good,
            one.bad
        )?;
    }
    Ok(0)
}
