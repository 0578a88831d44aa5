//! `entryway doctor`: what is wrong on the way to Datomic, or what a message of the application means.
//!
//! With a target (flags, variables or file) that target is examined; without one the running instance's own, as its
//! admin address tells it.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::{Value as Json, json};

use super::args::{self, OutputFormat};
use super::client;
use super::error::{CliError, code};
use crate::addr::aws;
use crate::admin::api_types::{Endpoints, HopRow, HopsJson, StatusJson};
use crate::doctor::{
    self, CheckVerdict, DoctorInput, InstanceHop, RunningInstance, UpstreamTarget, message,
};
use crate::settings::{self, Loaded, Settings};
use crate::types::{EndpointName, Zone};
use crate::upstream::endpoint::{EndpointSpec, Role};

/// A running instance answers at once, or there is none worth waiting for.
const ASK: Duration = Duration::from_secs(1);
/// Characters of an unknown message that are repeated.
const REPEATED: usize = 200;
/// Bytes read from standard input; the end of a longer log is not looked at.
const MESSAGE_LIMIT: u64 = 64 << 20;
/// Less specific matches that are listed below the explanation.
const OTHERS: usize = 5;

/// Examines and prints; the exit code. `matches` are the subcommand's.
pub async fn run(
    matches: &ArgMatches,
    env: impl Iterator<Item = (OsString, OsString)>,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let output = matches
        .get_one::<OutputFormat>(args::OUTPUT)
        .copied()
        .unwrap_or_default();
    if let Some(text) = matches.get_one::<String>("message") {
        let text = message_text(text, &mut io::stdin().lock())?;
        explain(&text, output, to)?;
        return Ok(0);
    }
    let subject = subject(matches, env).await?;
    let shows = io::stderr().is_terminal();
    let mut report = doctor::examine(&subject, &|what: &str| progress(shows, what)).await;
    progress(shows, "");
    if matches.get_flag("redact") {
        doctor::redact(&mut report, &subject);
    }
    match output {
        OutputFormat::Json => writeln!(to, "{:#}", report.json())?,
        OutputFormat::Text => {
            let colour = io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            to.write_all(report.text(colour).as_bytes())?;
        }
    }
    to.flush()?;
    Ok(match report.verdict() {
        CheckVerdict::Fail if report.has_wrong_settings() => code::SETTING,
        CheckVerdict::Fail => code::NOT_OK,
        _ => 0,
    })
}

/// One line that the next one overwrites; nothing where nobody watches.
fn progress(shows: bool, what: &str) {
    if shows {
        let dots = if what.is_empty() { "" } else { " …" };
        // That nobody could be told is no reason to stop.
        let _ = write!(io::stderr(), "\r\u{1b}[K{what}{dots}");
    }
}

/// What is to be examined.
async fn subject(
    matches: &ArgMatches,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<DoctorInput, CliError> {
    let admin = matches.get_one::<String>(args::INSTANCE).cloned();
    let control = matches
        .try_get_one::<String>(args::CONTROL_SOCKET)
        .ok()
        .flatten();
    let located = client::InstanceAddress::locate(admin, control.map(PathBuf::from)).await;
    let loaded = match settings::load(matches, env, false) {
        Ok(loaded) => loaded,
        Err(report) => {
            let wrong = report
                .problems
                .iter()
                .map(|problem| problem.line(report.source.as_ref()));
            return Ok(DoctorInput {
                wrong: wrong.collect(),
                ..DoctorInput::default()
            });
        }
    };
    if loaded.has_target() {
        let mut subject = of_settings(&loaded);
        // Several instances, none of them named: the target is examined without one.
        if let Ok(instance) = &located {
            subject.instance = ask(instance)
                .await
                .ok()
                .map(|(status, _)| running(&status, &[], false));
            if let Some(running) = &mut subject.instance {
                running.hops = hops(instance).await;
            }
        }
        return Ok(subject);
    }
    let instance = located?;
    let (status, endpoints) = ask(&instance).await.map_err(|error| {
        error.next("give a target (--endpoint, --vpce, --peering, --from-client), start `entryway run`, or name the instance with --admin")
    })?;
    let config: Json = instance.read("/v1/config").await.unwrap_or_default();
    let mut subject = of_instance(&status, &endpoints, &config);
    if let Some(running) = &mut subject.instance {
        running.hops = hops(&instance).await;
    }
    Ok(subject)
}

fn of_settings(loaded: &Loaded) -> DoctorInput {
    let mut subject = DoctorInput::new(&loaded.settings, &loaded.targets);
    subject.odd.clone_from(&loaded.warnings);
    subject
}

// === the running instance ===

async fn ask(instance: &client::InstanceAddress) -> Result<(StatusJson, Endpoints), CliError> {
    // The first question tells within a second whether anybody is there.
    instance.ask("/v1/version", ASK).await?;
    Ok((
        instance.read("/v1/status").await?,
        instance.read("/v1/endpoints").await?,
    ))
}

/// The hops of an instance; none where it is too old to know any.
async fn hops(instance: &client::InstanceAddress) -> Vec<InstanceHop> {
    let hops: HopsJson = instance.read("/v1/hops").await.unwrap_or_default();
    let row = |row: HopRow| InstanceHop {
        upstream: row.upstream,
        via: row.via,
        state: row.state,
        last_error: row.last_error,
        last_output: row.last_output,
    };
    hops.hops.into_iter().map(row).collect()
}

fn running(status: &StatusJson, down: &[(SocketAddr, String)], examined: bool) -> RunningInstance {
    let addresses = status
        .listeners
        .iter()
        .flat_map(|listener| &listener.addresses);
    RunningInstance {
        pid: status.pid,
        addresses: addresses
            .filter_map(|address| address.parse().ok())
            .collect(),
        down: down.to_vec(),
        hops: Vec::new(),
        examined,
    }
}

/// The subject that a running instance is: its settings, with the endpoints it has.
fn of_instance(status: &StatusJson, endpoints: &Endpoints, config: &Json) -> DoctorInput {
    let (settings, odd) = match settings_of(config) {
        Ok(settings) => (settings, None),
        Err(why) => {
            let odd = format!(
                "/v1/config of the instance cannot be read ({why}); default timers are assumed"
            );
            (Settings::default(), Some(odd))
        }
    };
    let mut subject = DoctorInput::new(&settings, &[]);
    subject.odd.extend(odd);
    subject.targets = status
        .upstreams
        .iter()
        .map(|upstream| {
            let known = settings
                .upstreams
                .iter()
                .find(|one| one.name.as_str() == upstream.name);
            let settings = known.cloned().unwrap_or_default();
            let ours = endpoints
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.upstream == upstream.name);
            let mut specs: Vec<EndpointSpec> = ours.map(spec).collect();
            // Explicit endpoints first, in the order of the settings: each may have a hop of its own.
            let place = |spec: &EndpointSpec| {
                let explicit = &settings.endpoints;
                let own = explicit.iter().position(|own| {
                    own.name.as_ref() == Some(&spec.name)
                        || own.address == format!("{}:{}", spec.host, spec.port)
                });
                own.unwrap_or(usize::MAX)
            };
            specs.sort_by_key(place);
            let hops = settings::assign_hops(&settings, &mut specs);
            UpstreamTarget {
                name: upstream.name.clone(),
                endpoints: specs,
                hops,
                system: upstream.system.clone(),
                region: upstream.region.clone(),
                connect_timeout: settings.connect_timeout,
                health: settings.health,
                keepalive: settings.tcp.keepalive,
            }
        })
        .collect();
    let addresses = endpoints
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.addresses);
    let down: Vec<(SocketAddr, String)> = addresses
        .filter(|address| address.state == "down")
        .filter_map(|address| {
            Some((
                address.address.parse().ok()?,
                format!("down: {}", address.reason),
            ))
        })
        .collect();
    let instance = running(status, &down, true);
    subject.listen.clone_from(&instance.addresses);
    subject.instance = Some(instance);
    subject
}

fn spec(endpoint: &crate::admin::api_types::EndpointJson) -> EndpointSpec {
    let host = endpoint.host.to_ascii_lowercase();
    let role = match (aws::vpce_name(&host), aws::entry_name(&host)) {
        (Some(name), _) if name.zone.is_none() => Role::Regional,
        (_, Some(name)) if name.http => Role::Peered,
        (_, Some(_)) => Role::PeeredOld,
        _ => Role::Configured,
    };
    EndpointSpec {
        name: EndpointName::new(&endpoint.name),
        host: endpoint.host.clone(),
        port: endpoint.port,
        zone: endpoint.zone.as_deref().map(Zone::new),
        role,
        hop: None,
    }
}

/// The settings out of `{value, source}` pairs. Read as TOML, which is what settings are written in.
fn settings_of(config: &Json) -> Result<Settings, String> {
    let Some(shown) = config.get("settings") else {
        return Err("no `settings` in it".to_owned());
    };
    let plain = plain(shown).unwrap_or_default();
    let value = toml::Value::try_from(plain).map_err(|error| error.to_string())?;
    value
        .try_into()
        .map_err(|error: toml::de::Error| error.message().to_owned())
}

/// Values without their sources; keys without a value are left out.
fn plain(shown: &Json) -> Option<Json> {
    match shown {
        Json::Object(pair)
            if pair.len() == 2 && pair.contains_key("value") && pair.contains_key("source") =>
        {
            pair.get("value").filter(|value| !value.is_null()).cloned()
        }
        Json::Object(table) => {
            let entries = table
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), plain(value)?)));
            Some(Json::Object(entries.collect()))
        }
        Json::Array(items) => Some(Json::Array(items.iter().filter_map(plain).collect())),
        Json::Null => None,
        other => Some(other.clone()),
    }
}

// === --message ===

/// The message itself, or all of standard input for `-`.
fn message_text(given: &str, input: &mut dyn Read) -> Result<String, CliError> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut bytes = Vec::new();
    input
        .take(MESSAGE_LIMIT)
        .read_to_end(&mut bytes)
        .map_err(|error| CliError::new(code::OS, format!("read standard input: {error}")))?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(
            CliError::new(code::NOT_UNDERSTOOD, "standard input holds no message")
                .next("entryway doctor --message - < app.log"),
        );
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn explain(text: &str, output: OutputFormat, to: &mut dyn Write) -> io::Result<()> {
    let rows = message::explain(text);
    let row = rows.first();
    if output == OutputFormat::Json {
        let document = match row {
            Some(row) => json!({
                "schema_version": 1, "known": true, "rule": row.id, "message": row.message,
                "meaning": row.meaning, "causes": row.causes, "steps": row.steps,
            }),
            None => json!({
                "schema_version": 1, "known": false, "rule": null, "message": null,
                "meaning": message::UNKNOWN, "causes": [], "steps": [],
            }),
        };
        return writeln!(to, "{document:#}");
    }
    let Some(row) = row else {
        let cut: String = text.chars().take(REPEATED).collect();
        let seen = client::clean(&cut);
        return writeln!(to, "unknown: {seen}\n  {}", message::UNKNOWN);
    };
    writeln!(to, "{}\n  means:  {}", row.message, row.meaning)?;
    for (head, items) in [("cause", row.causes), ("step", row.steps)] {
        for (index, item) in items.iter().enumerate() {
            let head = if index == 0 { head } else { "" };
            writeln!(to, "  {head:6} {}. {item}", index + 1)?;
        }
    }
    // A log often holds what followed from the cause as well.
    for other in rows.iter().skip(1).take(OTHERS) {
        writeln!(to, "also in the text: {}", other.message)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
