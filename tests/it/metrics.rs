//! /metrics end to end: HELP and TYPE for every family, the published families and labels, nothing from the network.

use tokio::net::TcpStream;

use crate::harness::child::Process;
use crate::harness::client::get;
use crate::harness::upstream::datomic;
use crate::harness::{Conf, eventually};

/// What stands in a quiet instance with one endpoint after one connection.
const FAMILIES: &[(&str, &[&str])] = &[
    ("entryway_build_info", &["version", "commit"]),
    ("entryway_start_time_seconds", &[]),
    ("entryway_workers", &[]),
    ("entryway_config_last_reload_successful", &[]),
    ("entryway_config_last_reload_timestamp_seconds", &[]),
    ("entryway_listener_up", &["listener"]),
    (
        "entryway_connections",
        &["listener", "upstream", "endpoint", "zone"],
    ),
    ("entryway_connections_accepted_total", &["listener"]),
    (
        "entryway_connections_closed_total",
        &["listener", "upstream", "endpoint", "zone", "reason"],
    ),
    ("entryway_connections_parked", &["listener"]),
    ("entryway_parked_seconds_count", &[]),
    ("entryway_connection_duration_seconds_count", &[]),
    ("entryway_setup_seconds_count", &[]),
    (
        "entryway_connect_attempts_total",
        &["upstream", "endpoint", "zone", "result"],
    ),
    (
        "entryway_connect_seconds_count",
        &["upstream", "endpoint", "zone"],
    ),
    (
        "entryway_bytes_total",
        &["upstream", "endpoint", "zone", "direction"],
    ),
    ("entryway_bytes_spliced_total", &["direction"]),
    ("entryway_pipes_in_use", &[]),
    ("entryway_stalls_total", &[]),
    ("entryway_reset_gave_up_total", &[]),
    (
        "entryway_endpoint_healthy",
        &["upstream", "endpoint", "zone"],
    ),
    (
        "entryway_endpoint_addresses",
        &["upstream", "endpoint", "zone", "state"],
    ),
    (
        "entryway_endpoint_active",
        &["upstream", "endpoint", "zone"],
    ),
    (
        "entryway_endpoint_transitions_total",
        &["upstream", "endpoint", "zone", "to", "reason"],
    ),
    ("entryway_fail_open", &["upstream"]),
    (
        "entryway_probes_total",
        &["upstream", "endpoint", "zone", "result"],
    ),
    (
        "entryway_probe_duration_seconds_count",
        &["upstream", "endpoint", "zone"],
    ),
    ("entryway_probe_success", &["upstream", "endpoint", "zone"]),
    ("entryway_upstream_healthy_addresses", &["upstream"]),
    ("entryway_upstream_addresses", &["upstream"]),
    ("entryway_draining", &[]),
    ("entryway_drain_cut_total", &[]),
    ("entryway_panics_total", &[]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
    ("process_open_fds", &[]),
    ("process_max_fds", &[]),
    ("process_start_time_seconds", &[]),
];

/// The label names of a series line.
fn labels(line: &str) -> Vec<&str> {
    let inside = line
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map_or("", |(inside, _)| inside);
    inside
        .split("\",")
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, _)| name)
        .collect()
}

#[tokio::test]
async fn the_published_families() {
    let entry = datomic("b/p").await;
    let conf = Conf::to(&[format!("{}?zone=a&name=one", entry.address)])
        .upstream(r#"health.kind = "datomic""#);
    let mut process = Process::with(&conf).await;
    let admin = process.admin().await;
    let mut client = TcpStream::connect(process.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut client, b"x")
        .await
        .unwrap();
    crate::harness::client::read_exactly(&mut client, 10).await;
    drop(client);
    eventually("closed", || !process.events("conn.close").is_empty()).await;
    let text = get(admin, "/metrics").await;
    for (name, expected) in FAMILIES {
        let series = text.lines().find(|line| {
            line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))
        });
        let series = series.unwrap_or_else(|| panic!("{name} is missing\n{text}"));
        assert_eq!(labels(series), *expected, "{series}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let family = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| family.strip_suffix(end))
            .unwrap_or(family);
        let known = |name: &str| {
            text.contains(&format!("# HELP {name} ")) && text.contains(&format!("# TYPE {name} "))
        };
        assert!(known(family) || known(base), "{line}");
        assert!(!line.contains("127.0.0.1"), "an address in a label: {line}");
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(
        !text.contains("b/p"),
        "text from the network in the metrics"
    );
    // A start is a fact, whenever it is asked for: a scraper takes another one for a restart.
    let later = get(admin, "/metrics").await;
    for name in [
        "process_start_time_seconds ",
        "entryway_start_time_seconds ",
    ] {
        let value = |text: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.unwrap().to_owned()
        };
        assert_eq!(value(&text), value(&later));
    }
    assert_eq!(process.term().await, 0);
}

#[tokio::test]
async fn a_door_for_metrics_alone() {
    let entry = datomic("b/p").await;
    let port = {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let conf = Conf::to(&[entry.address]).rest(&format!("admin.metrics_bind = \"{port}\""));
    let mut process = Process::with(&conf).await;
    get(port, "/metrics").await;
    get(port, "/livez").await;
    assert_ne!(
        crate::harness::client::http(port, "GET", "/v1/status")
            .await
            .0,
        200
    );
    assert_ne!(
        crate::harness::client::http(port, "POST", "/v1/shutdown")
            .await
            .0,
        200
    );
    ping_dead(&mut process).await;
}

async fn ping_dead(process: &mut Process) {
    let mut client = TcpStream::connect(process.address()).await.unwrap();
    // The answer to anything is the entry point's.
    tokio::io::AsyncWriteExt::write_all(&mut client, b"x")
        .await
        .unwrap();
    assert!(
        crate::harness::client::read_exactly(&mut client, 8)
            .await
            .starts_with(b"HTTP/1.1")
    );
    drop(client);
    assert_eq!(process.term().await, 0);
}

/// `rate()` and `increase()` of a series that appears with its first event never see that event.
#[tokio::test]
async fn counters_of_alerts_and_panels_exist_before_the_first_connection() {
    let (one, two) = (datomic("b/p").await, datomic("b/p").await);
    let endpoints = [
        format!("{}?zone=a&name=one", one.address),
        format!("{}?zone=b&name=two", two.address),
    ];
    let conf = Conf::to(&endpoints).upstream(r#"health.kind = "datomic""#);
    let mut process = Process::with(&conf).await;
    let text = get(process.admin().await, "/metrics").await;
    let mut wanted = std::collections::BTreeSet::new();
    for deployed in ["alerts.yaml", "grafana.json"] {
        let file = format!("{}/config/deploy/{deployed}", env!("CARGO_MANIFEST_DIR"));
        let rules = std::fs::read_to_string(file).unwrap();
        let is_of_a_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let words = rules.split(|letter| !is_of_a_name(letter));
        let counters =
            words.filter(|word| word.starts_with("entryway_") && word.ends_with("_total"));
        wanted.extend(counters.map(str::to_owned));
    }
    assert!(wanted.len() > 10, "{wanted:?}");
    for name in &wanted {
        let series = |line: &&str| {
            line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))
        };
        let lines: Vec<&str> = text.lines().filter(series).collect();
        assert!(
            lines.iter().any(|line| line.ends_with(" 0")),
            "{name} at 0: {lines:?}"
        );
        // A counter of an endpoint stands there for each of them.
        if lines.iter().any(|line| line.contains("endpoint=\"one\"")) {
            assert!(
                lines.iter().any(|line| line.contains("endpoint=\"two\"")),
                "{lines:?}"
            );
        }
    }
    assert_eq!(process.term().await, 0);
}
