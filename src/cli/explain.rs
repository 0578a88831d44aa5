//! `entryway explain`: where does the next connection go, and why? Asks a running instance, or looks for itself.

use std::io::Write;
use std::time::Duration;

use tokio::task::JoinSet;

use super::args::OutputFormat;
use super::client::{InstanceAddress, clean};
use super::error::{CliError, code};
use super::status::print_json;
use crate::admin::api_types::{Explain, versioned};
use crate::app::{self, Config, Shares};
use crate::clock;
use crate::events::{Events, Log};
use crate::http::query::encode;
use crate::interference::Interference;
use crate::metrics::Metrics;
use crate::settings::Loaded;
use crate::sys::limits::{DescriptorBudget, DescriptorUse};
use crate::upstream::explain::WhatIf;

/// Asks; `what_if` as on the command line (`zone-down=Z`).
pub async fn run(
    instance: &InstanceAddress,
    what_if: &[String],
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let query: Vec<String> = what_if
        .iter()
        .map(|one| format!("what_if={}", encode(one)))
        .collect();
    let path = if query.is_empty() {
        "/v1/explain".to_owned()
    } else {
        format!("/v1/explain?{}", query.join("&"))
    };
    let explain: Explain = instance.read(&path).await?;
    print(&explain, output, to)?;
    Ok(0)
}

/// Looks for itself, where no instance is asked: resolves and probes what the settings name, for as long as the first
/// round takes (at most 5 s), and explains what a new connection would do.
pub async fn survey(
    loaded: Loaded,
    what_if: &[String],
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let wrong = |what: String| CliError::new(code::SETTING, what);
    let asked: Vec<WhatIf> = what_if
        .iter()
        .map(|text| WhatIf::parse(text))
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    let config = Config::new(&loaded);
    let (metrics, events) = (Metrics::default(), Events::new(Log::default()));
    let mut tasks = JoinSet::new();
    let (upstreams, _resolver) = app::observe(
        &config,
        &[],
        &metrics,
        &events,
        &Shares::of(&DescriptorBudget::of_process(&DescriptorUse::default())),
        &Interference::default(),
        &mut tasks,
    );
    let probed = async {
        while !upstreams
            .iter()
            .all(|upstream| upstream.view.load().all_probed)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), probed).await;
    let mut explain = Explain::default();
    for upstream in upstreams.iter() {
        let explanation = upstream.view.load().explain(clock::now(), &asked);
        explain.add(upstream.name.as_str(), &explanation, upstreams.len() > 1);
    }
    print(&explain, output, to)?;
    Ok(0)
}

/// Prints an explanation, wherever it comes from.
pub fn print(explain: &Explain, output: OutputFormat, to: &mut dyn Write) -> Result<(), CliError> {
    if output == OutputFormat::Json {
        return print_json(to, &versioned(explain));
    }
    let several = explain
        .order
        .iter()
        .any(|one| one.upstream != explain.order[0].upstream);
    for place in &explain.order {
        let rank = place.rank.map_or("-".to_owned(), |rank| rank.to_string());
        let upstream = if several {
            format!("{}/", place.upstream)
        } else {
            String::new()
        };
        let line = format!("{rank:>2}  {upstream}{} {}", place.endpoint, place.address);
        writeln!(to, "{}  {}", clean(&line), clean(&place.reasons.join(", ")))?;
    }
    for line in explain.verdict.lines() {
        writeln!(to, "{}", clean(line))?;
    }
    Ok(())
}
