use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};

use serde_json::Value as Json;

use super::*;

const LONG: Duration = Duration::from_secs(10);

fn settings(format: Format) -> LogSettings {
    LogSettings {
        format,
        ..LogSettings::default()
    }
}

fn written(format: Format, event: &Event) -> String {
    let (log, lines) = Log::memory(&settings(format)).unwrap();
    log.write(event);
    assert!(log.flush(LONG));
    lines.text()
}

fn close(reason: &'static str) -> Event {
    Event::info("conn.close", "closed").with("conn.reason", reason)
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
    let event = Event::info("conn.close", "closed")
        .with("listener", "datomic")
        .with("client.port", 50312_u16)
        .with("conn.hedged", false)
        .with("connect.duration_ms", 0.412_345)
        .with("broken", f64::NAN)
        .maybe("hint", None::<&'static str>);
    let text = written(Format::Json, &event);
    let line: BTreeMap<String, Json> = serde_json::from_str(&text).unwrap();
    assert!(text.starts_with("{\"timestamp\":\"2"), "{text}");
    let at = line["timestamp"].as_str().unwrap();
    assert_eq!((at.len(), &at[at.len() - 1..]), (24, "Z"), "{at}");
    assert!(at.parse::<Timestamp>().is_ok());
    assert_eq!(line["level"], "info");
    assert_eq!(line["event"], "conn.close");
    assert_eq!(line["client.port"], 50312);
    assert_eq!(line["conn.hedged"], false);
    assert_eq!(line["connect.duration_ms"], 0.412);
    assert!(!line.contains_key("broken") && !line.contains_key("hint"));
}

#[test]
fn text_lines_quote_what_is_not_one_word() {
    let event = Event::warn("endpoint.state", "went down")
        .with("endpoint", "us-east-1a")
        .with("server.address", "[::1]:8182")
        .with("reason", "no \"answer\"\n\u{1b}[0m")
        .with("empty", "")
        .with("n", 3_u16);
    let text = written(Format::Text, &event);
    let tail = text.split_once(' ').unwrap().1;
    assert_eq!(
        tail,
        "level=warn event=endpoint.state message=\"went down\" endpoint=us-east-1a server.address=[::1]:8182 \
         reason=\"no \\\"answer\\\"\\n\\x1b[0m\" empty=\"\" n=3\n"
    );
}

#[test]
fn hostile_text_stays_on_one_line() {
    for text in hostile() {
        let event = Event::info("probe.bad", text.clone()).with("answer", text.clone());
        let line = written(Format::Json, &event);
        let (body, end) = line.split_at(line.len() - 1);
        assert_eq!(end, "\n");
        assert!(
            body.bytes().all(|byte| byte >= 0x20 && byte != 0x7f),
            "{text:?}"
        );
        let parsed: BTreeMap<String, Json> = serde_json::from_str(body).unwrap();
        let answer = parsed["answer"].as_str().unwrap();
        assert!(answer.chars().count() <= 200);
        if text.chars().count() <= 200 {
            assert_eq!(answer, text);
        } else {
            assert!(answer.ends_with('…'));
        }
        let line = written(Format::Text, &event);
        assert_eq!(line.lines().count(), 1);
        assert!(
            line.trim_end_matches('\n').chars().all(|c| !c.is_control()),
            "{line:?}"
        );
    }
}

#[test]
fn level_and_filters_change_while_it_runs() {
    let (log, lines) = Log::memory(&settings(Format::Json)).unwrap();
    log.write(&Event::debug("conn.open", "one"));
    log.set_level(Level::Debug);
    log.write(&Event::debug("conn.open", "two"));
    log.write(&Event::debug("probe.fail", "three"));
    log.apply(&LogSettings {
        level: Level::Debug,
        connections: Connections::Errors,
        probes: Probes::Off,
        ..LogSettings::default()
    });
    log.write(&Event::debug("probe.fail", "four"));
    log.write(&Event::debug("conn.open", "five"));
    log.write(&close("client_fin"));
    log.write(&close("upstream_rst"));
    log.apply(&LogSettings {
        connections: Connections::Off,
        level: Level::Warn,
        ..LogSettings::default()
    });
    log.write(&close("upstream_rst"));
    log.write(&Event::warn("endpoint.state", "six"));
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
}

#[test]
fn ordinary_ends_are_reasons_of_the_contract() {
    use crate::events::Reason;
    assert!(
        ORDINARY
            .iter()
            .all(|code| Reason::ALL.iter().any(|reason| reason.code() == *code))
    );
}

/// A sink that waits for a word before each write.
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
fn a_blocked_sink_drops_lines_and_says_so() {
    let (key, gate): (Sender<()>, _) = channel();
    let lines = Lines::default();
    let log = Log::to(&settings(Format::Json), Gate(gate, lines.clone()), false).unwrap();
    let events = 3 * QUEUE;
    for _ in 0..events {
        log.write(&close("client_fin"));
    }
    assert!(!log.flush(Duration::from_millis(20)));
    drop(key);
    assert!(log.flush(LONG));
    // One more, so that the telling has a batch to ride on whatever the timing was.
    log.write(&close("client_fin"));
    assert!(log.flush(LONG));
    let text = lines.text();
    let (told, kept): (Vec<Json>, Vec<Json>) = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .partition(|line: &Json| line["event"] == "resource");
    let dropped: u64 = told
        .iter()
        .map(|line| line["log.dropped"].as_u64().unwrap())
        .sum();
    assert!(dropped > 0);
    assert_eq!(kept.len() as u64 + dropped, events as u64 + 1);
}

#[test]
fn the_default_log_is_silent() {
    let log = Log::default();
    assert!(!log.wants(Level::Error));
    log.write(&close("internal"));
    assert!(log.flush(Duration::ZERO));
}

#[test]
fn settings_read_and_refuse() {
    let read: LogSettings = toml::from_str(
        "format = \"text\"\nlevel = \"debug\"\nconnections = \"errors\"\nprobes = \"off\"",
    )
    .unwrap();
    assert_eq!(
        (read.level, read.connections, read.probes),
        (Level::Debug, Connections::Errors, Probes::Off)
    );
    assert!(toml::from_str::<LogSettings>("level = \"loud\"").is_err());
    assert!(toml::from_str::<LogSettings>("colour = true").is_err());
}
