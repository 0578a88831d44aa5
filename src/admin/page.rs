//! The status page, `GET /`: one HTML document, rendered here, correct without JavaScript and live with it.
//!
//! The script only replaces `<main>` by a fresh rendering when `/v1/events` reports something, so there is one rendering
//! of everything. [`Html`] takes literals as they are and escapes every value, so no name can become markup. Style and
//! script are inline, allowed by their hashes in the Content-Security-Policy; nothing is requested from elsewhere.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::LazyLock;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::api_types::{
    AddressJson, ConnectionJson, EndpointJson, Explain, History, HistorySeries, HopRow,
    ListenerJson, StatusJson, UpstreamJson,
};
use crate::events::Recorded;
use crate::http::{self, Body, HeaderValue, Reply, StatusCode};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Connections and events shown.
pub(super) const CONNECTIONS: usize = 50;
pub(super) const EVENTS: usize = 50;

/// Minutes of history in the strips.
pub(super) const MINUTES: usize = 60;

/// Everything the page shows.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) status: StatusJson,
    /// Set on purpose, one line each.
    pub(super) faults: Vec<String>,
    /// The ways to the upstreams that are not direct.
    pub(super) hops: Vec<HopRow>,
    pub(super) endpoints: Vec<EndpointJson>,
    pub(super) explain: Explain,
    /// The oldest connections, at most [`CONNECTIONS`].
    pub(super) connections: Vec<ConnectionJson>,
    pub(super) history: History,
    /// Newest last.
    pub(super) events: Vec<Recorded>,
}

/// A document under way.
#[derive(Debug, Default)]
struct Html(String);

// === impl Html ===

impl Html {
    /// Markup: only literals, so that no value gets here.
    fn markup(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// A value, in text or in a quoted attribute.
    fn text(&mut self, value: impl Display) -> &mut Self {
        struct HtmlEscape<'a>(&'a mut String);
        impl std::fmt::Write for HtmlEscape<'_> {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                for character in text.chars() {
                    match character {
                        '&' => self.0.push_str("&amp;"),
                        '<' => self.0.push_str("&lt;"),
                        '>' => self.0.push_str("&gt;"),
                        '"' => self.0.push_str("&quot;"),
                        '\'' => self.0.push_str("&#39;"),
                        other if other.is_control() && other != '\n' => self.0.push('\u{fffd}'),
                        other => self.0.push(other),
                    }
                }
                Ok(())
            }
        }
        // Writing to a String cannot fail.
        let _ = write!(HtmlEscape(&mut self.0), "{value}");
        self
    }
}

/// The page as a reply, with its Content-Security-Policy.
pub(super) fn reply(page: &Page) -> Reply {
    static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            digest(STYLE),
            digest(SCRIPT)
        );
        HeaderValue::from_str(&policy).ok()
    });
    let mut reply = http::reply(
        StatusCode::OK,
        "text/html; charset=utf-8",
        Body::whole(render(page)),
    );
    let headers = reply.headers_mut();
    if let Some(policy) = &*POLICY {
        headers.insert("content-security-policy", policy.clone());
    }
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    reply
}

fn digest(text: &str) -> String {
    data_encoding::BASE64.encode(&Sha256::digest(text))
}

fn render(page: &Page) -> String {
    let mut html = Html::default();
    let title = match (page.status.draining, page.status.ready) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    html.markup("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
        .markup("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
        .markup("<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n")
        .markup("<link rel=\"icon\" href=\"data:,\">\n<title>")
        .text(title)
        .markup(" · entryway</title>\n<style>")
        .markup(STYLE)
        .markup("</style>\n</head>\n<body>\n<main>\n<header><h1>entryway</h1> <span class=\"badge ")
        .markup(if page.status.ready { "good" } else { "bad" })
        .markup("\">")
        .text(title)
        .markup("</span> <span class=\"quiet\">")
        .text(&page.status.version)
        .markup(" · pid ")
        .text(page.status.pid)
        .markup(" · up ")
        .text(span(page.status.uptime_s))
        .markup("</span></header>\n");
    faults(&mut html, &page.faults);
    listeners(&mut html, &page.status.listeners);
    for upstream in &page.status.upstreams {
        upstream_section(&mut html, page, upstream);
    }
    connections(&mut html, &page.connections, &page.status);
    events(&mut html, &page.events);
    client_map(&mut html, &page.status);
    html.markup("</main>\n<footer><p><span id=\"live\" role=\"status\">")
        .markup("reloads every 5 s</span> · <a href=\"/v1/status\">status</a> · ")
        .markup("<a href=\"/v1/endpoints\">endpoints</a> · <a href=\"/v1/connections\">connections</a> · ")
        .markup("<a href=\"/v1/dns\">dns</a> · <a href=\"/v1/config\">config</a> · ")
        .markup("<a href=\"/v1/explain\">explain</a> · <a href=\"/metrics\">metrics</a></p></footer>\n<script>")
        .markup(SCRIPT)
        .markup("</script>\n</body>\n</html>\n");
    html.0
}

fn faults(html: &mut Html, faults: &[String]) {
    if faults.is_empty() {
        return;
    }
    html.markup("<p><strong class=\"warn\">Faults are set on purpose</strong>: ");
    for (index, fault) in faults.iter().enumerate() {
        html.markup(if index > 0 { ", " } else { "" })
            .markup("<span class=\"mono\">")
            .text(fault)
            .markup("</span>");
    }
    html.markup("</p>\n");
}

fn listeners(html: &mut Html, listeners: &[ListenerJson]) {
    for listener in listeners {
        html.markup("<p>Listener <strong>")
            .text(&listener.name)
            .markup("</strong> on <span class=\"mono\">");
        match listener.addresses.is_empty() {
            true => html.text("no address (closed)"),
            false => html.text(listener.addresses.join(" ")),
        };
        html.markup("</span>: ")
            .text(listener.connections)
            .text(if listener.connections == 1 {
                " connection"
            } else {
                " connections"
            });
        if listener.parked > 0 {
            html.markup(", <strong class=\"warn\">")
                .text(listener.parked)
                .markup(" held until an address comes back</strong>");
        }
        html.markup("</p>\n");
    }
}

fn upstream_section(html: &mut Html, page: &Page, upstream: &UpstreamJson) {
    html.markup("<section>\n<h2>Upstream ")
        .text(&upstream.name)
        .markup(" <span class=\"badge ")
        .markup(match upstream.healthy {
            0 => "bad",
            healthy if healthy < upstream.addresses => "warn",
            _ => "good",
        })
        .markup("\">")
        .text(upstream.healthy)
        .markup("/")
        .text(upstream.addresses)
        .markup(" healthy</span></h2>\n<p class=\"quiet\">");
    let facts = [
        ("system", &upstream.system),
        ("region", &upstream.region),
        ("own zone", &upstream.zone),
        ("identity", &upstream.identity),
    ];
    let known = facts
        .iter()
        .filter_map(|(label, value)| Some((*label, value.as_ref()?)));
    for (index, (label, value)) in known.enumerate() {
        html.markup(if index == 0 { "" } else { " · " })
            .markup(label)
            .markup(" ")
            .text(value);
    }
    html.markup("</p>\n");
    next_connection(html, &page.explain, upstream);
    let hops = page.hops.iter().filter(|hop| hop.upstream == upstream.name);
    hops.for_each(|hop| hop_line(html, hop));
    let mut zones: BTreeMap<(u8, &str), Vec<&EndpointJson>> = BTreeMap::new();
    for endpoint in page
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.upstream == upstream.name)
    {
        let zone = endpoint.zone.as_deref().unwrap_or("");
        zones
            .entry((endpoint.tier, zone))
            .or_default()
            .push(endpoint);
    }
    html.markup("<div class=\"zones\">\n");
    for ((_, zone), endpoints) in &zones {
        let active = endpoints.iter().any(|endpoint| endpoint.active);
        html.markup(if active {
            "<article class=\"panel active\"><h3>"
        } else {
            "<article class=\"panel\"><h3>"
        });
        match zone.is_empty() {
            true => html.text("zone unknown"),
            false => html.text(zone),
        };
        if upstream.zone.as_deref() == Some(zone) {
            html.markup(" <span class=\"quiet\">own zone</span>");
        }
        if active {
            html.markup(" <span class=\"badge good\">in use</span>");
        }
        html.markup("</h3>\n<ul>\n");
        for endpoint in endpoints {
            endpoint_item(html, endpoint, &page.history);
        }
        html.markup("</ul></article>\n");
    }
    html.markup("</div>\n</section>\n");
}

/// The way to an upstream, and what is wrong with it.
fn hop_line(html: &mut Html, hop: &HopRow) {
    html.markup("<p>Through <span class=\"mono\">")
        .text(&hop.via)
        .markup("</span> <span class=\"badge ")
        .markup(match hop.state.as_str() {
            "up" => "good",
            "starting" => "warn",
            _ => "bad",
        })
        .markup("\">")
        .text(&hop.state)
        .markup("</span> <span class=\"quiet\">since ")
        .text(clock_time(&hop.since));
    if hop.restarts > 0 {
        html.markup(" · restarts ").text(hop.restarts);
    }
    html.markup("</span>");
    if let Some(error) = &hop.last_error {
        html.markup(" <span class=\"bad\">")
            .text(error)
            .markup("</span>");
    }
    html.markup("</p>\n");
}

fn next_connection(html: &mut Html, explain: &Explain, upstream: &UpstreamJson) {
    let first = explain
        .order
        .iter()
        .find(|one| one.upstream == upstream.name && one.rank == Some(1));
    html.markup("<p>The next connection goes to ");
    match first {
        Some(first) => {
            html.markup("<strong>")
                .text(&first.endpoint)
                .markup("</strong> <span class=\"mono\">")
                .text(&first.address)
                .markup("</span>");
            if !first.reasons.is_empty() {
                html.markup(" (").text(first.reasons.join(", ")).markup(")");
            }
        }
        None => {
            html.markup("<strong class=\"bad\">no address</strong>");
        }
    }
    html.markup(".</p>\n");
}

fn endpoint_item(html: &mut Html, endpoint: &EndpointJson, history: &History) {
    html.markup("<li><strong>")
        .text(&endpoint.name)
        .markup("</strong> <span class=\"quiet\">");
    if endpoint.name != endpoint.host {
        html.markup("<span class=\"mono\">")
            .text(&endpoint.host)
            .markup(":")
            .text(endpoint.port)
            .markup("</span> · ");
    }
    html.text(endpoint.connections)
        .text(if endpoint.connections == 1 {
            " connection"
        } else {
            " connections"
        })
        .markup("</span>");
    if endpoint.intent == "drain" {
        html.markup(" <span class=\"badge warn\">drained by the operator</span>");
    }
    if endpoint.addresses.is_empty() {
        html.markup("<p class=\"bad\">No address is known.</p>");
    }
    for address in &endpoint.addresses {
        address_lines(html, address);
        let series = history
            .series
            .iter()
            .find(|series| series.endpoint == endpoint.name && series.address == address.address);
        if let Some(series) = series {
            strip(html, series);
        }
    }
    html.markup("</li>\n");
}

fn address_lines(html: &mut Html, address: &AddressJson) {
    html.markup("<p><span class=\"mono\">")
        .text(&address.address)
        .markup("</span> <span class=\"badge ")
        .markup(match address.state.as_str() {
            "up" => "good",
            "down" => "bad",
            _ => "warn",
        })
        .markup("\">")
        .text(&address.state)
        .markup("</span> <span class=\"quiet\">since ")
        .text(clock_time(&address.since));
    if !address.reason.is_empty() && address.state != "up" {
        html.markup(", ").text(words(&address.reason));
    }
    if let Some(connect) = address.connect_ms {
        html.markup(" · connects in ")
            .text(format_args!("{connect:.1}"))
            .markup(" ms");
    }
    if let Some(probe) = &address.last_probe {
        html.markup(" · last probe ")
            .text(words(&probe.result))
            .markup(" at ")
            .text(clock_time(&probe.at));
    }
    if !address.in_dns {
        html.markup(" · no longer in DNS");
    }
    html.markup("</span></p>");
}

/// What a state's or a probe's code means.
fn words(code: &str) -> String {
    match code {
        "refused" => "connection refused".to_owned(),
        "timeout" => "no answer in time".to_owned(),
        "silent" => "no answer to a probe".to_owned(),
        "unreachable" => "no route".to_owned(),
        "reset" => "connection reset".to_owned(),
        "new" => "not probed yet".to_owned(),
        "probe_ok" => "answers again".to_owned(),
        "lost_hedge" => "slower than another address".to_owned(),
        "untouched" => "accepts and ends at once".to_owned(),
        "slow_answer" => "a request waits unusually long".to_owned(),
        "mute" => "answers nothing".to_owned(),
        other => match other.strip_prefix("http_") {
            Some(status) => format!("HTTP status {status}"),
            None => other.replace('_', " "),
        },
    }
}

/// One bar a minute: probes that succeeded and failed; a line for connect times.
fn strip(html: &mut Html, series: &HistorySeries) {
    let count = series.probe_ok.len();
    let sum = |values: &[Option<u32>]| {
        values
            .iter()
            .flatten()
            .map(|count| u64::from(*count))
            .sum::<u64>()
    };
    html.markup("<svg class=\"strip\" role=\"img\" preserveAspectRatio=\"none\" viewBox=\"0 0 ")
        .text(count * 4)
        .markup(" 20\" aria-label=\"probes of the last ")
        .text(count)
        .markup(" minutes: ")
        .text(sum(&series.probe_ok))
        .markup(" succeeded, ")
        .text(sum(&series.probe_failed))
        .markup(" failed\">");
    for minute in 0..count {
        let (ok, failed) = (series.probe_ok[minute], series.probe_failed[minute]);
        let (class, height) = match (ok.unwrap_or(0), failed.unwrap_or(0)) {
            (0, 0) => ("none", 2),
            (_, 0) => ("ok", 14),
            (0, _) => ("failed", 20),
            _ => ("failed", 14),
        };
        html.markup("<rect class=\"")
            .markup(class)
            .markup("\" x=\"")
            .text(minute * 4)
            .markup("\" y=\"")
            .text(20 - height)
            .markup("\" width=\"3\" height=\"")
            .text(height)
            .markup("\"/>");
    }
    let slowest = series
        .connect_p50_ms
        .iter()
        .flatten()
        .copied()
        .fold(0.0, f64::max);
    if slowest > 0.0 {
        html.markup("<polyline points=\"");
        for (minute, value) in series.connect_p50_ms.iter().enumerate() {
            if let Some(value) = value {
                html.text(format_args!(
                    "{},{:.1} ",
                    minute * 4 + 1,
                    18.0 - 16.0 * value / slowest
                ));
            }
        }
        html.markup("\"/>");
    }
    html.markup("</svg>");
}

fn connections(html: &mut Html, connections: &[ConnectionJson], status: &StatusJson) {
    let open: usize = status.listeners.iter().map(|one| one.connections).sum();
    html.markup("<section>\n<h2>Connections</h2>\n");
    if connections.is_empty() {
        html.markup("<p class=\"quiet\">None is open.</p>\n</section>\n");
        return;
    }
    html.markup("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"open connections\">\n<table>\n<thead><tr><th>Client</th><th>Endpoint</th><th>Address</th>")
        .markup("<th class=\"number\">Open</th><th class=\"number\">Idle</th><th class=\"number\">Sent</th>")
        .markup("<th class=\"number\">Received</th></tr></thead>\n<tbody>\n");
    for one in connections {
        html.markup("<tr><td class=\"mono\">")
            .text(&one.client)
            .markup("</td><td>")
            .text(one.endpoint.as_deref().unwrap_or("held"))
            .markup("</td><td class=\"mono\">")
            .text(one.address.as_deref().unwrap_or(""))
            .markup("</td><td class=\"number\">")
            .text(span(one.age_s))
            .markup("</td><td class=\"number\">")
            .text(span(one.idle_s))
            .markup("</td><td class=\"number\">")
            .text(bytes(one.bytes.upload))
            .markup("</td><td class=\"number\">")
            .text(bytes(one.bytes.download))
            .markup("</td></tr>\n");
    }
    html.markup("</tbody></table></div>\n");
    if open > connections.len() {
        html.markup("<p class=\"quiet\">The oldest ")
            .text(connections.len())
            .markup(" of ")
            .text(open)
            .markup("; all of them are in <a href=\"/v1/connections\">/v1/connections</a>.</p>\n");
    }
    html.markup("</section>\n");
}

fn events(html: &mut Html, events: &[Recorded]) {
    html.markup("<section>\n<h2>Recent events</h2>\n");
    if events.is_empty() {
        html.markup("<p class=\"quiet\">Nothing has happened yet.</p>\n</section>\n");
        return;
    }
    html.markup("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"recent events\">\n<table>\n<thead><tr><th>Time (UTC)</th><th>Event</th><th>What</th></tr></thead>\n<tbody>\n");
    for event in events.iter().rev() {
        let Ok(Json::Object(line)) = serde_json::from_str(&event.line) else {
            continue;
        };
        let part = |key: &str| line.get(key).and_then(Json::as_str).unwrap_or("");
        html.markup("<tr><td class=\"time\">")
            .text(clock_time(part("timestamp")).trim_end_matches(" UTC"))
            .markup("</td><td class=\"")
            .markup(match part("level") {
                "error" => "bad",
                "warn" => "warn",
                _ => "",
            })
            .markup("\">")
            .text(part("event"))
            .markup("</td><td>")
            .text(part("message"));
        for (key, value) in &line {
            if matches!(key.as_str(), "timestamp" | "level" | "event" | "message") {
                continue;
            }
            html.markup(" <span class=\"quiet\">")
                .text(key)
                .markup("</span> ");
            match value {
                Json::String(text) => html.text(text),
                other => html.text(other),
            };
        }
        html.markup("</td></tr>\n");
    }
    html.markup("</tbody></table></div>\n</section>\n");
}

fn client_map(html: &mut Html, status: &StatusJson) {
    let Some((listener, address)) = status
        .listeners
        .iter()
        .find_map(|listener| Some((listener, listener.addresses.first()?)))
    else {
        return;
    };
    let url = format!("http://{}", local(address));
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let upstream = status.upstreams.first();
    let part = |value: Option<&String>, missing: &str| quote(value.map_or(missing, String::as_str));
    let map = format!(
        "{{:server-type :cloud\n :region      {}\n :system      {}\n :endpoint    {}}}",
        part(upstream.and_then(|one| one.region.as_ref()), "REGION"),
        part(upstream.and_then(|one| one.system.as_ref()), "SYSTEM"),
        quote(&url)
    );
    html.markup("<section>\n<h2>To connect</h2>\n<p>Endpoint of listener ")
        .text(&listener.name)
        .markup(": <code id=\"endpoint\">")
        .text(&url)
        .markup("</code> <button type=\"button\" id=\"copy-endpoint\" data-copy=\"endpoint\">Copy the endpoint</button></p>\n<pre id=\"map\" tabindex=\"0\" role=\"region\" aria-label=\"client map\">")
        .text(map)
        .markup("</pre>\n<button type=\"button\" id=\"copy-map\" data-copy=\"map\">Copy the client map</button>\n</section>\n");
}

/// A listening address as clients on this machine write it.
fn local(address: &str) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]" | "127.0.0.1" | "[::1]", port)) => format!("localhost:{port}"),
        _ => address.to_owned(),
    }
}

/// `HH:MM:SS UTC` of an RFC 3339 time.
fn clock_time(at: &str) -> String {
    match at.split_once('T').and_then(|(_, time)| time.get(..8)) {
        Some(time) => format!("{time} UTC"),
        None => at.to_owned(),
    }
}

fn span(seconds: f64) -> String {
    match seconds.max(0.0) as u64 {
        whole @ 0..=59 => format!("{whole} s"),
        whole @ 60..=3599 => format!("{} min", whole / 60),
        whole @ 3600..=86399 => format!("{} h", whole / 3600),
        whole => format!("{} d", whole / 86400),
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} B"),
        10_000..=9_999_999 => format!("{} kB", count / 1000),
        10_000_000..=9_999_999_999 => format!("{} MB", count / 1_000_000),
        _ => format!("{} GB", count / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests;
