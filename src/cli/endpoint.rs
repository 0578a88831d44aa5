//! `entryway endpoint list|drain|ready|probe`.

use std::io::Write;

use serde::Serialize;

use super::args::OutputFormat;
use super::client::{InstanceAddress, clean};
use super::error::CliError;
use super::status::{endpoint_lines, print_json};
use crate::admin::EndpointAction;
use crate::admin::api_types::{Changed, ChangedEndpoint, Endpoints, Versioned, versioned};
use crate::http::query::encode;

/// All endpoints and their state.
pub async fn list(
    instance: &InstanceAddress,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let all: Endpoints = instance.read("/v1/endpoints").await?;
    match output {
        OutputFormat::Json => print_json(to, &versioned(all))?,
        OutputFormat::Text => {
            // With one upstream its name says nothing.
            let several = all
                .endpoints
                .iter()
                .any(|one| one.upstream != all.endpoints[0].upstream);
            for endpoint in &all.endpoints {
                endpoint_lines(to, endpoint, several)?;
            }
        }
    }
    Ok(0)
}

/// An order about endpoints, each `NAME` or `UPSTREAM/NAME`. Stops at the first that is not known; those before it
/// are done and printed.
pub async fn order(
    instance: &InstanceAddress,
    order: EndpointAction,
    names: &[String],
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let mut done = Vec::new();
    let mut failure = None;
    for name in names {
        match instance.change::<Changed>(&path(order, name)).await {
            Ok(changed) => done.extend(changed.endpoints),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    match output {
        OutputFormat::Json => print_json(to, &document(done))?,
        OutputFormat::Text => {
            for one in &done {
                writeln!(
                    to,
                    "{} {}/{}",
                    order.as_str(),
                    clean(&one.upstream),
                    clean(&one.name)
                )?;
            }
        }
    }
    failure.map_or(Ok(0), Err)
}

fn document(endpoints: Vec<ChangedEndpoint>) -> Versioned<impl Serialize> {
    versioned(Changed { endpoints })
}

fn path(order: EndpointAction, name: &str) -> String {
    let order = order.as_str();
    match name.split_once('/') {
        Some((upstream, name)) => {
            format!(
                "/v1/endpoints/{}/{order}?upstream={}",
                encode(name),
                encode(upstream)
            )
        }
        None => format!("/v1/endpoints/{}/{order}", encode(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_upstream() {
        assert_eq!(path(EndpointAction::Drain, "a"), "/v1/endpoints/a/drain");
        assert_eq!(
            path(EndpointAction::Ready, "q/h:1"),
            "/v1/endpoints/h%3A1/ready?upstream=q"
        );
    }
}
