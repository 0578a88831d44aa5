//! `entryway wait`: until the instance is up, ready or healthy. It need not even run yet.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::args::{OutputFormat, WaitFor};
use super::client::InstanceAddress;
use super::error::{CliError, code};
use super::status::print_json;
use crate::admin::api_types::StatusJson;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks until the goal is reached or `timeout` is over; 75 then.
pub async fn run(
    instance: &InstanceAddress,
    goal: WaitFor,
    timeout: Duration,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let started = Instant::now();
    let deadline = started + timeout;
    loop {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(PAUSE);
        let missing = match look(instance, goal, left).await {
            Ok(None) => break,
            Ok(Some(missing)) => missing,
            Err(error) => error.what,
        };
        if Instant::now() + PAUSE >= deadline {
            return Err(CliError::new(
                code::TIMED_OUT,
                format!("not {} after {:?}: {missing}", word(goal), timeout),
            )
            .next("entryway status, or entryway doctor"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    match output {
        OutputFormat::Text => writeln!(to, "{}", word(goal))?,
        OutputFormat::Json => print_json(
            to,
            &serde_json::json!({
                "schema_version": crate::admin::api_types::SCHEMA_VERSION,
                "reached": word(goal),
                "waited_s": crate::admin::seconds(started.elapsed()),
            }),
        )?,
    }
    Ok(0)
}

/// What is missing; `None`: nothing.
async fn look(
    instance: &InstanceAddress,
    goal: WaitFor,
    time: Duration,
) -> Result<Option<String>, CliError> {
    let path = match goal {
        WaitFor::Startup => "/startupz",
        WaitFor::Ready => "/readyz",
        WaitFor::Healthy(wanted) => {
            let answer = instance.ask("/v1/status", time).await?;
            let status: StatusJson = serde_json::from_slice(&answer.body)
                .map_err(|_| CliError::new(code::NOT_THERE, "the answer is not entryway's"))?;
            let healthy: usize = status
                .upstreams
                .iter()
                .map(|upstream| upstream.healthy)
                .sum();
            let known: usize = status
                .upstreams
                .iter()
                .map(|upstream| upstream.addresses)
                .sum();
            return Ok((healthy < wanted)
                .then(|| format!("{healthy} of {known} addresses healthy, {wanted} wanted")));
        }
    };
    let answer = instance.ask(path, time).await?;
    if answer.status.is_success() {
        return Ok(None);
    }
    let detail =
        serde_json::from_slice::<crate::http::Problem>(&answer.body).map(|problem| problem.detail);
    Ok(Some(detail.unwrap_or_else(|_| {
        format!("{path} answers {}", answer.status)
    })))
}

fn word(goal: WaitFor) -> &'static str {
    match goal {
        WaitFor::Startup => "started",
        WaitFor::Ready => "ready",
        WaitFor::Healthy(_) => "healthy",
    }
}
