//! `entryway status`: one screen for people, one document for programs.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::args::OutputFormat;
use super::client::{Instance, ago, clean, plural, span};
use super::error::CliError;
use crate::admin::api_types::{
    Address, Connections, Endpoint, Endpoints, Explain, Listener, RankedAddress, Status, Upstream,
};

/// Connections shown to people.
const SHOWN: usize = 10;

/// The document: `/v1/status` with what the screen shows beside it.
#[derive(Debug, Serialize)]
struct Document {
    schema_version: u32,
    #[serde(flatten)]
    status: Status,
    endpoints: Vec<Endpoint>,
    order: Vec<RankedAddress>,
    verdict: String,
}

/// Asks and prints. `to` should strip styles where it is no terminal.
pub async fn run(
    instance: &Instance,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let status: Status = instance.read("/v1/status").await?;
    let endpoints: Endpoints = instance.read("/v1/endpoints").await?;
    let explain: Explain = instance.read("/v1/explain").await?;
    if output == OutputFormat::Json {
        let document = Document {
            schema_version: crate::admin::api_types::SCHEMA_VERSION,
            status,
            endpoints: endpoints.endpoints,
            order: explain.order,
            verdict: explain.verdict,
        };
        print_json(to, &document)?;
        return Ok(0);
    }
    // One more than is shown tells whether there are more.
    let path = format!("/v1/connections?limit={}", SHOWN + 1);
    let connections: Connections = instance.read(&path).await?;
    head(to, &status)?;
    for upstream in &status.upstreams {
        upstream_line(to, upstream)?;
        for endpoint in endpoints
            .endpoints
            .iter()
            .filter(|one| one.upstream == upstream.name)
        {
            endpoint_lines(to, endpoint, false)?;
        }
        order_line(to, upstream, &explain.order)?;
    }
    connection_lines(to, &connections)?;
    Ok(0)
}

/// Any result as JSON for programs, one document.
pub(super) fn print_json(to: &mut dyn Write, value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::new(super::error::code::INTERNAL, error.to_string()))?;
    writeln!(to, "{text}")?;
    Ok(())
}

fn head(to: &mut dyn Write, status: &Status) -> Result<(), CliError> {
    let word = match (status.draining, status.ready) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    writeln!(
        to,
        "entryway {} · pid {} · up {} · {}",
        clean(&status.version),
        status.pid,
        span(status.uptime_s),
        painted(word, word == "ready")
    )?;
    for Listener {
        name,
        addresses,
        connections,
        parked,
    } in &status.listeners
    {
        let places = if addresses.is_empty() {
            "closed".to_owned()
        } else {
            addresses.join(" ")
        };
        writeln!(
            to,
            "listener {} · {} · {connections} connection{} · {parked} parked",
            clean(name),
            clean(&places),
            plural(*connections)
        )?;
    }
    Ok(())
}

fn upstream_line(to: &mut dyn Write, upstream: &Upstream) -> Result<(), CliError> {
    let mut line = format!("upstream {}", upstream.name);
    for (word, part) in [
        ("system", &upstream.system),
        ("region", &upstream.region),
        ("our zone", &upstream.zone),
        ("identity", &upstream.identity),
    ] {
        if let Some(part) = part {
            line.push_str(&format!(" · {word} {part}"));
        }
    }
    let counts = format!("{}/{} healthy", upstream.healthy, upstream.addresses);
    writeln!(
        to,
        "\n{} · {}",
        clean(&line),
        painted(
            &counts,
            upstream.healthy == upstream.addresses && upstream.healthy > 0
        )
    )?;
    Ok(())
}

/// One endpoint: its own line, and one per address with state and why.
pub(super) fn endpoint_lines(
    to: &mut dyn Write,
    endpoint: &Endpoint,
    with_upstream: bool,
) -> Result<(), CliError> {
    let upstream = if with_upstream {
        format!("{}/", endpoint.upstream)
    } else {
        String::new()
    };
    let mark = if endpoint.active { '→' } else { ' ' };
    let zone = endpoint
        .zone
        .as_ref()
        .map_or(String::new(), |zone| format!(" · zone {zone}"));
    let drain = if endpoint.intent == "ready" {
        ""
    } else {
        " · drained by the operator"
    };
    let line = format!(
        "{mark} {upstream}{} · {}:{}{zone} · tier {} · {} connection{}{drain}",
        endpoint.name,
        endpoint.host,
        endpoint.port,
        endpoint.tier,
        endpoint.connections,
        plural(endpoint.connections)
    );
    writeln!(to, "{}", clean(&line))?;
    for address in &endpoint.addresses {
        address_line(to, address)?;
    }
    if endpoint.addresses.is_empty() {
        writeln!(
            to,
            "      no address known; `entryway doctor` looks at the name"
        )?;
    }
    Ok(())
}

fn address_line(to: &mut dyn Write, address: &Address) -> Result<(), CliError> {
    let mut why = format!("for {}", ago(&address.since));
    if !address.reason.is_empty() {
        why.push_str(&format!(" ({})", address.reason));
    }
    if let Some(millis) = address.connect_ms {
        why.push_str(&format!(" · connect {millis:.1} ms"));
    }
    if let Some(probe) = &address.last_probe {
        why.push_str(&format!(" · probe {} {} ago", probe.result, ago(&probe.at)));
    }
    if !address.in_dns {
        why.push_str(" · gone from DNS");
    }
    writeln!(
        to,
        "      {:<22} {} {}",
        clean(&address.address),
        painted(&format!("{:<9}", address.state), address.state == "up"),
        clean(&why)
    )?;
    Ok(())
}

fn order_line(
    to: &mut dyn Write,
    upstream: &Upstream,
    order: &[RankedAddress],
) -> Result<(), CliError> {
    let places: Vec<String> = order
        .iter()
        .filter(|place| place.upstream == upstream.name && place.rank.is_some())
        .map(|place| format!("{} {}", place.endpoint, place.address))
        .collect();
    let text = if places.is_empty() {
        "nothing to dial".to_owned()
    } else {
        places.join(" → ")
    };
    writeln!(to, "  next connection: {}", clean(&text))?;
    Ok(())
}

fn connection_lines(to: &mut dyn Write, connections: &Connections) -> Result<(), CliError> {
    let all = &connections.connections;
    if all.is_empty() {
        return Ok(());
    }
    writeln!(to)?;
    for one in all.iter().take(SHOWN) {
        let line = format!(
            "#{} {} → {} {} · open {} · quiet {}{} · {} up, {} down · {}",
            one.id,
            one.client,
            one.endpoint.as_deref().unwrap_or("(waiting)"),
            one.address.as_deref().unwrap_or(""),
            span(one.age_s),
            span(one.idle_s),
            if one.at_rest { ", at rest" } else { "" },
            one.bytes.upload,
            one.bytes.download,
            one.lane
        );
        writeln!(to, "{}", clean(&line))?;
    }
    if all.len() > SHOWN {
        writeln!(to, "… more at /v1/connections")?;
    }
    Ok(())
}

/// Green when well, yellow when not.
fn painted(text: &str, well: bool) -> String {
    let colour = if well {
        AnsiColor::Green
    } else {
        AnsiColor::Yellow
    };
    let style = Style::new().fg_color(Some(colour.into()));
    format!("{style}{}{style:#}", clean(text))
}
