//! `entryway status`: one screen for people, one document for programs.

use std::io::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::args::OutputFormat;
use super::client::{InstanceAddress, ago, clean, plural, span};
use super::error::CliError;
use crate::admin::api_types::{
    AddressJson, ConnectionsJson, EndpointJson, Endpoints, Explain, HopRow, HopsJson, ListenerJson,
    RankedAddress, StatusJson, UpstreamJson,
};
use crate::dial::hop::{HopState, meaning};

/// Connections shown to people.
const SHOWN: usize = 10;
/// Lines of the output of a hop's command shown to people.
const HOP_OUTPUT: usize = 5;

/// The document: `/v1/status` with what the screen shows beside it.
#[derive(Debug, Serialize)]
struct Document {
    schema_version: u32,
    #[serde(flatten)]
    status: StatusJson,
    endpoints: Vec<EndpointJson>,
    order: Vec<RankedAddress>,
    hops: Vec<HopRow>,
    verdict: String,
}

/// Asks and prints. `to` should strip styles where it is no terminal.
pub async fn run(
    instance: &InstanceAddress,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let status: StatusJson = instance.read("/v1/status").await?;
    let endpoints: Endpoints = instance.read("/v1/endpoints").await?;
    let explain: Explain = instance.read("/v1/explain").await?;
    // An instance that is older than this program knows no hops.
    let hops: HopsJson = instance.read("/v1/hops").await.unwrap_or_default();
    if output == OutputFormat::Json {
        let document = Document {
            schema_version: crate::admin::api_types::SCHEMA_VERSION,
            status,
            endpoints: endpoints.endpoints,
            order: explain.order,
            hops: hops.hops,
            verdict: explain.verdict,
        };
        print_json(to, &document)?;
        return Ok(0);
    }
    // One more than is shown tells whether there are more.
    let path = format!("/v1/connections?limit={}", SHOWN + 1);
    let connections: ConnectionsJson = instance.read(&path).await?;
    head(to, &status)?;
    for upstream in &status.upstreams {
        upstream_line(to, upstream)?;
        for hop in hops.hops.iter().filter(|hop| hop.upstream == upstream.name) {
            hop_lines(to, hop)?;
        }
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

fn head(to: &mut dyn Write, status: &StatusJson) -> Result<(), CliError> {
    let word = match (status.draining, status.ready) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    line(
        to,
        0,
        vec![
            format!("entryway {}", clean(&status.version)),
            format!("pid {}", status.pid),
            format!("up {}", span(status.uptime_s)),
            format!("at most {} connections", status.max_connections),
            painted(word, word == "ready"),
        ],
    )?;
    for ListenerJson {
        name,
        addresses,
        upstream,
        scheme: _,
        connections,
        parked,
    } in &status.listeners
    {
        let mut parts = vec![format!("listener {}", clean(name))];
        match addresses.is_empty() {
            true => parts.push("closed".to_owned()),
            false => parts.extend(addresses.iter().map(|address| clean(address).into_owned())),
        }
        if status.upstreams.len() > 1 {
            parts.push(format!("to {}", clean(upstream)));
        }
        parts.push(format!("{connections} connection{}", plural(*connections)));
        parts.push(format!("{parked} held"));
        line(to, 0, parts)?;
    }
    Ok(())
}

fn upstream_line(to: &mut dyn Write, upstream: &UpstreamJson) -> Result<(), CliError> {
    writeln!(to)?;
    let mut parts = vec![format!("upstream {}", clean(&upstream.name))];
    for (word, part) in [
        ("system", &upstream.system),
        ("region", &upstream.region),
        ("our zone", &upstream.zone),
        ("identity", &upstream.identity),
    ] {
        if let Some(part) = part {
            parts.push(format!("{word} {}", clean(part)));
        }
    }
    let counts = format!("{}/{} healthy", upstream.healthy, upstream.addresses);
    let well = upstream.healthy == upstream.addresses && upstream.healthy > 0;
    parts.push(painted(&counts, well));
    line(to, 0, parts)
}

/// A hop: its state, and where it is not up what its command said last and what that means.
fn hop_lines(to: &mut dyn Write, hop: &HopRow) -> Result<(), CliError> {
    let is_up = hop.state == HopState::Up.as_str();
    let mut parts = vec![
        format!("  via {}", clean(&hop.via)),
        format!("{} for {}", painted(&hop.state, is_up), ago(&hop.since)),
    ];
    parts.extend(hop.pid.map(|pid| format!("pid {pid}")));
    if hop.restarts > 0 {
        let plural = if hop.restarts == 1 { "" } else { "s" };
        parts.push(format!("{} restart{plural}", hop.restarts));
    }
    line(to, 4, parts)?;
    if is_up {
        return Ok(());
    }
    if let Some(error) = &hop.last_error {
        line(to, 6, vec![format!("      {}", clean(error))])?;
    }
    for last in hop.last_output.iter().rev().take(HOP_OUTPUT).rev() {
        line(to, 6, vec![format!("      | {}", clean(last))])?;
    }
    if let Some(meaning) = meaning(&hop.last_output) {
        line(to, 6, vec![format!("      that usually means: {meaning}")])?;
    }
    Ok(())
}

/// One endpoint: its own line, and one per address with state and why.
pub(super) fn endpoint_lines(
    to: &mut dyn Write,
    endpoint: &EndpointJson,
    with_upstream: bool,
) -> Result<(), CliError> {
    let upstream = match with_upstream {
        true => format!("{}/", endpoint.upstream),
        false => String::new(),
    };
    let mark = if endpoint.active { '→' } else { ' ' };
    let mut parts = vec![
        format!("{mark} {}", clean(&format!("{upstream}{}", endpoint.name))),
        clean(&format!("{}:{}", endpoint.host, endpoint.port)).into_owned(),
    ];
    if let Some(zone) = endpoint
        .zone
        .as_ref()
        .filter(|zone| **zone != endpoint.name)
    {
        parts.push(format!("zone {}", clean(zone)));
    }
    let count = endpoint.connections;
    parts.push(format!("{count} connection{}", plural(count)));
    if endpoint.intent != "ready" {
        parts.push("drained by the operator".to_owned());
    }
    line(to, 2, parts)?;
    for address in &endpoint.addresses {
        address_line(to, address)?;
    }
    if endpoint.addresses.is_empty() {
        writeln!(
            to,
            "      no address known; `entryway doctor` examines the name"
        )?;
    }
    Ok(())
}

fn address_line(to: &mut dyn Write, address: &AddressJson) -> Result<(), CliError> {
    let state = painted(&address.state, address.state == "up");
    let mut parts = vec![format!(
        "      {:<21} {state} for {}",
        clean(&address.address),
        ago(&address.since)
    )];
    if !address.reason.is_empty() && address.state != "up" {
        parts.push(clean(&address.reason).into_owned());
    }
    if let Some(millis) = address.connect_ms {
        parts.push(format!("connect {millis:.1} ms"));
    }
    if let Some(probe) = &address.last_probe {
        parts.push(format!(
            "probe {} {} ago",
            clean(&probe.result),
            ago(&probe.at)
        ));
    }
    if !address.in_dns {
        parts.push("gone from DNS".to_owned());
    }
    line(to, 28, parts)
}

fn order_line(
    to: &mut dyn Write,
    upstream: &UpstreamJson,
    order: &[RankedAddress],
) -> Result<(), CliError> {
    let ranked: Vec<&RankedAddress> = order
        .iter()
        .filter(|one| one.upstream == upstream.name && one.rank.is_some())
        .collect();
    let Some((first, rest)) = ranked.split_first() else {
        writeln!(to, "  next connection: no address to connect to")?;
        return Ok(());
    };
    let name =
        |one: &RankedAddress| clean(&format!("{} {}", one.endpoint, one.address)).into_owned();
    let mut parts = vec![format!("  next connection: {}", name(first))];
    parts.extend(rest.iter().map(|one| format!("then {}", name(one))));
    line(to, 4, parts)
}

fn connection_lines(to: &mut dyn Write, connections: &ConnectionsJson) -> Result<(), CliError> {
    let all = &connections.connections;
    if all.is_empty() {
        return Ok(());
    }
    writeln!(to)?;
    for one in all.iter().take(SHOWN) {
        let endpoint = one.endpoint.as_deref().unwrap_or("(held)");
        let rest = if one.at_rest { ", at rest" } else { "" };
        let parts = vec![
            format!("#{} {} → {}", one.id, clean(&one.client), clean(endpoint)),
            clean(one.address.as_deref().unwrap_or("-")).into_owned(),
            format!("open {}", span(one.age_s)),
            format!("quiet {}{rest}", span(one.idle_s)),
            format!("{} B sent", one.bytes.upload),
            format!("{} B received", one.bytes.download),
        ];
        line(to, 4, parts)?;
    }
    if all.len() > SHOWN {
        writeln!(to, "… more at /v1/connections")?;
    }
    Ok(())
}

/// The parts joined by ` · `, broken before a part that does not fit the terminal; later lines are indented.
fn line(to: &mut dyn Write, indent: usize, parts: Vec<String>) -> Result<(), CliError> {
    let width = columns();
    let mut column = 0;
    for (index, part) in parts.iter().enumerate() {
        let length = anstream::adapter::strip_str(part)
            .to_string()
            .chars()
            .count();
        if index > 0 && column + 3 + length > width {
            write!(to, "\n{:indent$}", "")?;
            column = indent;
        } else if index > 0 {
            write!(to, " · ")?;
            column += 3;
        }
        let room = width.saturating_sub(column);
        for (piece, text) in pieces(part, room, width - indent).into_iter().enumerate() {
            if piece > 0 {
                write!(to, "\n{:indent$}", "")?;
                column = indent;
            }
            write!(to, "{text}")?;
            column += text.chars().count();
        }
    }
    writeln!(to)?;
    Ok(())
}

/// A part that is longer than a whole line, cut into pieces: the first for what is left of its line (`room`), the others
/// for whole lines. It is cut behind white space, a dot or a hyphen, where there is one: such parts are long names, and
/// sentences of other programs. Parts that fit, and those with colours, stay whole.
fn pieces(part: &str, room: usize, whole: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut rest, mut room) = (part, room);
    if part.contains('\x1b') {
        return vec![part];
    }
    while let Some((end, _)) = rest.char_indices().nth(room) {
        let fits = &rest[..end];
        let cut = match fits.rfind([' ', '.', '-']) {
            // Less than half of a line is no place to cut at.
            Some(at) if at >= room / 2 => at + 1,
            _ => end,
        };
        let (piece, after) = rest.split_at(cut);
        pieces.push(piece.trim_end());
        rest = after.trim_start();
        room = whole;
    }
    pieces.push(rest);
    pieces
}

/// The terminal's width, 80 at least; 80 where standard output is none.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map_or(80, |size| usize::from(size.ws_col).max(80))
}

/// Shows the status again every second, until q or Ctrl-C.
pub async fn watch(instance: &InstanceAddress, to: &mut dyn Write) -> Result<u8, CliError> {
    let keys = Keys::read();
    let mut quit = keys.pressed;
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    loop {
        // Read before the screen is cleared, so that it does not flicker.
        let look = async {
            every.tick().await;
            let mut screen = Vec::new();
            match run(instance, OutputFormat::Text, &mut screen).await {
                Ok(_) => screen,
                Err(error) => format!("{error}\n").into_bytes(),
            }
        };
        // The instance may take its time with an answer.
        let screen = tokio::select! {
            screen = look => screen,
            _ = interrupted.recv() => return Ok(0),
            _ = terminated.recv() => return Ok(0),
            Some(()) = quit.recv() => return Ok(0),
        };
        // Home, then clear what is below: what a terminal needs for a new picture.
        to.write_all(b"\x1b[H\x1b[2J")?;
        to.write_all(&screen)?;
        to.write_all(b"\nq quits")?;
        to.flush()?;
    }
}

/// Single keys from a terminal, without Enter; the terminal is as before at the end.
struct Keys {
    pressed: mpsc::Receiver<()>,
    _mode: TerminalMode,
}

struct TerminalMode(Option<rustix::termios::Termios>);

impl Keys {
    fn read() -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut mode = before.clone();
            mode.local_modes &= !(LocalModes::ICANON | LocalModes::ECHO);
            // Where it fails, q needs an Enter.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &mode);
        }
        let (sender, pressed) = mpsc::channel(1);
        // Ends with the process: a read of a terminal cannot be interrupted.
        std::thread::spawn(move || {
            let mut key = [0];
            while let Ok(1) = std::io::Read::read(&mut std::io::stdin(), &mut key) {
                if key[0] == b'q' && sender.blocking_send(()).is_err() {
                    return;
                }
            }
        });
        Self {
            pressed,
            _mode: TerminalMode(before),
        }
    }
}

impl Drop for TerminalMode {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_longer_than_a_line_is_cut_where_names_have_their_ends() {
        let name = "vpce-0123456789abcdef0-abcd1234-us-east-1a.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com:8182";
        let mut lines = Vec::new();
        let parts = vec![
            "  next connection:".to_owned(),
            name.to_owned(),
            "x".repeat(200),
        ];
        line(&mut lines, 4, parts).unwrap();
        let text = String::from_utf8(lines).unwrap();
        for one in text.lines() {
            assert!(one.chars().count() <= 80, "{one}");
        }
        let whole: String = text.lines().map(str::trim_start).collect();
        assert!(whole.contains(name), "nothing is lost: {text}");
        let mut ends = text.lines().filter(|line| line.contains("vpce"));
        assert!(ends.next().unwrap().ends_with(['.', '-']), "{text}");
    }

    #[test]
    fn what_fits_and_what_has_colours_stays_whole() {
        assert_eq!(pieces("short", 80, 76), ["short"]);
        assert_eq!(pieces("", 10, 10), [""]);
        let painted = painted(&"x".repeat(100), true);
        assert_eq!(pieces(&painted, 80, 76), [painted.as_str()]);
        assert_eq!(pieces("one two three", 8, 8), ["one two", "three"]);
        assert_eq!(pieces("ääääääää", 4, 4), ["ääää", "ääää"]);
    }
}
