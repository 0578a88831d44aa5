use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::events::{Events, event};
use serde_json::Value as Json;

const LONG: Duration = Duration::from_secs(10);

fn settings(format: Format) -> LogSettings {
    LogSettings {
        format,
        ..LogSettings::default()
    }
}

fn memory(settings: &LogSettings) -> (Events, Lines) {
    let (log, lines) = Log::memory(settings).unwrap();
    (Events::new(log), lines)
}

fn written(format: Format, emit: impl FnOnce(&Events)) -> String {
    let (events, lines) = memory(&settings(format));
    emit(&events);
    assert!(events.log().flush(LONG));
    lines.text()
}

fn close(events: &Events, reason: &str) {
    event!(events, INFO, "conn.close", "closed", conn.reason = reason);
}

/// Names, reason phrases and bodies as a hostile network would send them.
fn hostile() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\r\n",
        "a\r\nHTTP/1.1 200 OK",
        "\u{1b}[31mred\u{1b}[0m",
        "\u{1b}]0;title\u{7}",
        "\0",
        "a\0b",
        "\"",
        "\\",
        "\\\"",
        "\"}\n{\"level\":\"error\"",
        "${jndi:ldap://x}",
        "%n%s%x",
        "\u{7f}",
        "\u{85}",
        "\u{9b}31m",
        "\u{2028}",
        "\u{2029}",
        "\u{202e}gpj.exe",
        "\u{200b}",
        "\u{feff}",
        "\u{fffd}",
        "日本語",
        "🦀",
        "\t",
        "\u{8}\u{8}",
        "a=b c=d",
        "'",
        "`",
        "<script>",
        "{{7*7}}",
        "null",
        "key=\"value\"",
        "\u{1f}",
        "\u{e000}",
        "\u{10ffff}",
    ]
    .iter()
    .map(|text| (*text).to_owned())
    .collect();
    texts.push("x".repeat(65536));
    texts.push("🦀".repeat(300));
    texts.push("\u{1b}".repeat(300));
    texts.push(String::from_utf8_lossy(&[0xff, 0xfe, 0x80, b'a']).into_owned());
    texts
}

#[test]
fn json_lines_are_flat_and_typed() {
    let text = written(Format::Json, |events| {
        event!(
            events,
            INFO,
            "conn.close",
            "closed",
            listener = "datomic",
            client.address = %std::net::Ipv4Addr::LOCALHOST,
            client.port = 50312_u16,
            conn.hedged = false,
            connect.duration_ms = 0.412_345,
            conn.idle_ms = f64::NAN,
            hint = None::<&str>,
        );
    });
    let line: BTreeMap<String, Json> = serde_json::from_str(&text).unwrap();
    assert!(text.starts_with("{\"timestamp\":\"2"), "{text}");
    let at = line["timestamp"].as_str().unwrap();
    assert_eq!((at.len(), &at[at.len() - 1..]), (24, "Z"), "{at}");
    assert!(at.parse::<Timestamp>().is_ok());
    assert_eq!(line["level"], "info");
    assert_eq!(line["event"], "conn.close");
    assert_eq!(line["message"], "closed");
    assert_eq!(line["client.address"], "127.0.0.1");
    assert_eq!(line["client.port"], 50312);
    assert_eq!(line["conn.hedged"], false);
    assert_eq!(line["connect.duration_ms"], 0.412);
    assert!(!line.contains_key("conn.idle_ms") && !line.contains_key("hint"));
}

fn went_down(events: &Events) {
    event!(
        events,
        WARN,
        "endpoint.state",
        "an address is down",
        endpoint = "us-east-1a",
        server.address = "[::1]:8182",
        from = "up",
        to = "down",
        reason = "no \"answer\"\n\u{1b}[0m",
        zone = "",
        server.port = 3_u16,
    );
}

#[test]
fn logfmt_quotes_what_is_not_one_word() {
    let text = written(Format::Logfmt, went_down);
    let tail = text.split_once(' ').unwrap().1;
    assert_eq!(
        tail,
        "level=warn event=endpoint.state message=\"an address is down\" endpoint=us-east-1a \
         server.address=[::1]:8182 from=up to=down reason=\"no \\\"answer\\\"\\n\\x1b[0m\" zone=\"\" \
         server.port=3\n"
    );
}

#[test]
fn text_is_for_people_and_fits_80_columns() {
    let text = written(Format::Text, went_down);
    let time = text.split(' ').next().unwrap();
    assert_eq!((time.len(), time.matches(':').count()), (8, 2), "{text}");
    assert_eq!(
        text[8..],
        *" WARN  an address is down: us-east-1a, [::1]:8182, from up, to down,\n               \
          reason no \"answer\"\\n\\x1b[0m\n"
    );
    let long = written(Format::Text, |events| {
        event!(
            events,
            INFO,
            "conn.close",
            "closed",
            endpoint = "us-east-1a",
            conn.id = 17,
            conn.reason = "upstream_fin",
            conn.duration_ms = 60_112,
            hint = Reason::UpstreamFin.hint(Duration::from_secs(60)),
        );
    });
    assert!(long.lines().count() > 1, "{long}");
    assert!(
        long.lines().all(|line| line.chars().count() <= 80),
        "{long}"
    );
    // The start shows people nothing but the line on standard output.
    let start = written(Format::Text, |events| {
        event!(events, INFO, "start", "entryway starts", pid = 1);
        event!(events, INFO, "listener.up", "accepting", name = "datomic");
        let (from, to) = ("unknown", "up");
        event!(
            events,
            INFO,
            "endpoint.state",
            "changed",
            from = from,
            to = to
        );
        event!(
            events,
            INFO,
            "dns.change",
            "changed",
            name = "n",
            added = "10.0.0.1"
        );
    });
    assert_eq!(start, "");
}

#[test]
fn hostile_text_stays_on_one_line() {
    for text in hostile() {
        let emit = |events: &Events| {
            event!(events, INFO, "wake", display(&text), why = text);
        };
        let line = written(Format::Json, emit);
        let (body, end) = line.split_at(line.len() - 1);
        assert_eq!(end, "\n");
        assert!(
            body.bytes().all(|byte| byte >= 0x20 && byte != 0x7f),
            "{text:?}"
        );
        let parsed: BTreeMap<String, Json> = serde_json::from_str(body).unwrap();
        for key in ["message", "why"] {
            let kept = parsed[key].as_str().unwrap();
            assert!(kept.chars().count() <= 200);
            if text.chars().count() <= 200 {
                assert_eq!(kept, text);
            } else {
                assert!(kept.ends_with('…'));
            }
        }
        let harmless = |c: char| !c.is_control() && !('\u{2028}'..='\u{202e}').contains(&c);
        let line = written(Format::Logfmt, emit);
        assert_eq!(line.lines().count(), 1);
        assert!(
            line.trim_end_matches('\n').chars().all(harmless),
            "{line:?}"
        );
        let line = written(Format::Text, emit);
        assert!(line.chars().all(|c| c == '\n' || harmless(c)), "{line:?}");
    }
}

#[test]
fn level_and_filters_change_while_it_runs() {
    let (events, lines) = memory(&settings(Format::Json));
    let log = events.log();
    event!(events, DEBUG, "conn.open", "one");
    log.set_level(Level::DEBUG);
    event!(events, DEBUG, "conn.open", "two");
    event!(events, DEBUG, "probe.fail", "three");
    log.apply(&LogSettings {
        level: Level::DEBUG,
        connections: ConnectionEvents::Errors,
        probes: Probes::Off,
        ..LogSettings::default()
    });
    event!(events, DEBUG, "probe.fail", "four");
    event!(events, DEBUG, "conn.open", "five");
    close(&events, "client_fin");
    close(&events, "upstream_rst");
    assert!(log.wants_close(Reason::UpstreamRst) && !log.wants_close(Reason::ClientFin));
    log.apply(&LogSettings {
        connections: ConnectionEvents::Off,
        level: Level::WARN,
        ..LogSettings::default()
    });
    close(&events, "upstream_rst");
    event!(events, WARN, "endpoint.state", "six");
    event!(events, INFO, "wake", "kept for readers, not logged");
    assert!(log.flush(LONG));
    let messages: Vec<String> = lines
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap())
        .map(|line| {
            format!(
                "{}{}",
                line["message"].as_str().unwrap(),
                line["conn.reason"].as_str().unwrap_or("")
            )
        })
        .collect();
    assert_eq!(messages, ["two", "three", "closedupstream_rst", "six"]);
    // What is kept for readers is what was logged, and info events besides.
    assert_eq!(events.recent().after(0, 100).len(), 5);
}

#[test]
fn what_libraries_log_is_written_once_a_second_each() {
    let (events, lines) = memory(&settings(Format::Json));
    events.in_scope(|| {
        for _ in 0..3 {
            tracing::warn!(target: "hickory_proto::udp", id = 7, "unexpected message");
            tracing::error!(target: "rustls::conn", "fatal alert");
        }
        tracing::info!(target: "hyper::proto", "not a warning");
    });
    events.log().apply(&LogSettings {
        libraries: Libraries::Debug,
        ..LogSettings::default()
    });
    events.in_scope(|| tracing::debug!(target: "hyper::proto", "flushed"));
    events.log().apply(&LogSettings {
        libraries: Libraries::Off,
        ..LogSettings::default()
    });
    events.in_scope(|| tracing::error!(target: "tokio_rustls", "not wanted"));
    assert!(events.log().flush(LONG));
    let seen: Vec<[String; 4]> = lines
        .text()
        .lines()
        .map(|line| {
            let line: Json = serde_json::from_str(line).unwrap();
            assert_eq!(line["event"], "library");
            ["level", "library", "library.target", "message"]
                .map(|key| line[key].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(
        seen,
        [
            [
                "warn",
                "hickory",
                "hickory_proto::udp",
                "unexpected message id=7"
            ],
            ["error", "rustls", "rustls::conn", "fatal alert"],
            ["debug", "hyper", "hyper::proto", "flushed"],
        ]
    );
}

#[test]
fn events_inside_a_connection_carry_its_number() {
    let (events, lines) = memory(&LogSettings {
        level: Level::TRACE,
        ..settings(Format::Json)
    });
    events.in_scope(|| {
        let span = tracing::trace_span!(target: "entryway", "conn", conn.id = 42_u64);
        let _entered = span.enter();
        event!(events, DEBUG, "connect.fail", "refused");
        tracing::warn!(target: "rustls", "bad record");
    });
    event!(events, DEBUG, "connect.fail", "outside");
    assert!(events.log().flush(LONG));
    let text = lines.text();
    let numbers: Vec<Option<u64>> = text
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap()["conn.id"].as_u64())
        .collect();
    assert_eq!(numbers, [Some(42), Some(42), None]);
}

/// A sink that waits for a message before each write.
struct Gate(Receiver<()>, Lines);

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The gate stays open once its key is gone.
        let _ = self.0.recv();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_blocked_sink_drops_lines_and_reports_it() {
    let (key, gate): (Sender<()>, _) = channel();
    let lines = Lines::default();
    let log = Log::to(&settings(Format::Json), Gate(gate, lines.clone()), false).unwrap();
    let events = Events::new(log.clone());
    let count = 3 * QUEUE;
    for _ in 0..count {
        close(&events, "client_fin");
    }
    assert!(!log.flush(Duration::from_millis(20)));
    drop(key);
    assert!(log.flush(LONG));
    // One more, so that the report has a batch to go with whatever the timing was.
    close(&events, "client_fin");
    assert!(log.flush(LONG));
    let text = lines.text();
    let (reports, kept): (Vec<Json>, Vec<Json>) = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .partition(|line: &Json| line["event"] == "resource");
    let dropped: u64 = reports
        .iter()
        .map(|line| line["log.dropped"].as_u64().unwrap())
        .sum();
    assert!(dropped > 0);
    assert_eq!(log.dropped(), dropped);
    assert_eq!(kept.len() as u64 + dropped, count as u64 + 1);
}

#[test]
fn the_default_log_is_silent() {
    let log = Log::default();
    assert!(!log.wants(Level::ERROR) && !log.wants_close(Reason::Internal));
    close(&Events::new(log.clone()), "internal");
    assert!(log.flush(Duration::ZERO));
}

#[test]
fn settings_read_and_refuse() {
    let read: LogSettings = toml::from_str(
        "format = \"logfmt\"\nlevel = \"debug\"\nconnections = \"errors\"\nprobes = \"off\"\nlibraries = \"off\"",
    )
    .unwrap();
    assert_eq!(
        (
            read.format,
            read.level,
            read.connections,
            read.probes,
            read.libraries
        ),
        (
            Format::Logfmt,
            Level::DEBUG,
            ConnectionEvents::Errors,
            Probes::Off,
            Libraries::Off
        )
    );
    assert!(toml::from_str::<LogSettings>("level = \"loud\"").is_err());
    assert!(toml::from_str::<LogSettings>("colour = true").is_err());
}
