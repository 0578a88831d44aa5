//! `entryway incident`: what was known when an upstream had no healthy address, another identity, or flapped.

use std::io::Write;

use super::args::OutputFormat;
use super::client::{Instance, clean};
use super::error::CliError;
use super::status::print_json;
use crate::admin::api_types::{IncidentReport, Incidents, Versioned, versioned};
use crate::doctor::Redactor;
use crate::http::query::encode;

pub async fn list(
    instance: &Instance,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let all: Incidents = instance.read("/v1/incidents").await?;
    if output == OutputFormat::Json {
        print_json(to, &versioned(all))?;
        return Ok(0);
    }
    if all.incidents.is_empty() {
        writeln!(to, "no incident since the start")?;
    }
    for one in &all.incidents {
        writeln!(
            to,
            "{}  {}  {}",
            clean(&one.id),
            clean(&one.at),
            clean(&one.upstream)
        )?;
        writeln!(to, "    {}", clean(&one.summary))?;
    }
    Ok(0)
}

/// For people: the summary, the addresses as they were, and the events around it.
pub async fn show(
    instance: &Instance,
    id: &str,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let report = read(instance, id).await?;
    if output == OutputFormat::Json {
        print_json(to, &report)?;
        return Ok(0);
    }
    let IncidentReport {
        incident,
        endpoints,
        events,
        ..
    } = report.value;
    writeln!(
        to,
        "{} · {} · upstream {}\n{}\n",
        clean(&incident.id),
        clean(&incident.at),
        clean(&incident.upstream),
        clean(&incident.summary)
    )?;
    for endpoint in endpoints
        .iter()
        .filter(|one| one.upstream == incident.upstream)
    {
        for address in &endpoint.addresses {
            let line = format!(
                "  {} {} {} ({})",
                endpoint.name, address.address, address.state, address.reason
            );
            writeln!(to, "{}", clean(&line))?;
        }
    }
    writeln!(to)?;
    for event in &events {
        let part = |key: &str| event[key].as_str().unwrap_or("");
        let line = format!(
            "  {} {:<5} {} {} {}",
            part("timestamp"),
            part("level"),
            part("event"),
            part("message"),
            part("endpoint")
        );
        writeln!(to, "{}", clean(line.trim_end()))?;
    }
    Ok(0)
}

/// One JSON document that can be attached to a ticket.
pub async fn export(
    instance: &Instance,
    id: &str,
    redact: bool,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let report = read(instance, id).await?;
    let mut redactor = Redactor::default();
    for endpoint in &report.value.endpoints {
        redactor.host(&endpoint.host);
        for address in &endpoint.addresses {
            if let Some(identity) = &address.identity {
                redactor.bucket(identity);
            }
        }
    }
    for upstream in &report.value.status.upstreams {
        if let Some(system) = &upstream.system {
            redactor.system(system);
        }
        if let Some(identity) = &upstream.identity {
            redactor.bucket(identity);
        }
    }
    let internal =
        |error: serde_json::Error| CliError::new(super::error::code::INTERNAL, error.to_string());
    let mut document = serde_json::to_value(&report).map_err(internal)?;
    if redact {
        redactor.json(&mut document);
    }
    print_json(to, &document)?;
    Ok(0)
}

async fn read(instance: &Instance, id: &str) -> Result<Versioned<IncidentReport>, CliError> {
    instance
        .read(&format!("/v1/incidents/{}", encode(id)))
        .await
}
