//! Every number and duration of the settings at both ends of its range, and just beyond.

use std::collections::BTreeSet;

use super::*;
use crate::settings::effective;

/// Key, values at the ends that are accepted, values beyond that are refused.
#[rustfmt::skip]
const ENDS: &[(&str, &[&str], &[&str])] = &[
    ("schema", &["1"], &["0", "2"]),
    ("listener.max_connections", &["1", "1000000"], &["0", "1000001", "-1", "4294967296"]),
    ("listener.hold_timeout", &["\"0s\"", "\"24h\""], &["\"24h1ms\""]),
    ("listener.hold_max", &["0", "1000000"], &["1000001", "-1"]),
    ("upstream.connect_timeout", &["\"1ms\"", "\"10m\""], &["\"0s\"", "\"999us\"", "\"10m1ms\"", "\"99999h\""]),
    ("upstream.hedge_after", &["\"0s\"", "\"1ms\"", "\"1500ms\""], &["\"999us\"", "\"10m1ms\""]),
    ("upstream.pipe_size", &["\"4KiB\"", "\"1MiB\"", "4096"], &["\"4095\"", "4095", "\"1025KiB\"", "0"]),
    ("upstream.health.interval", &["\"200ms\"", "\"1h\""], &["\"199ms\"", "\"1h1s\""]),
    ("upstream.health.fast_interval", &["\"200ms\"", "\"5s\""], &["\"199ms\"", "\"5001ms\""]),
    ("upstream.health.down_interval", &["\"200ms\"", "\"1h\""], &["\"199ms\"", "\"1h1s\""]),
    ("upstream.health.timeout", &["\"10ms\"", "\"1m\""], &["\"9ms\"", "\"61s\""]),
    ("upstream.health.jitter_percent", &["0", "50"], &["51", "256", "-1"]),
    ("upstream.health.fall", &["1", "100"], &["0", "101", "4294967296"]),
    ("upstream.health.rise", &["1", "100"], &["0", "101"]),
    ("upstream.failback.after", &["\"0s\"", "\"24h\""], &["\"24h1s\""]),
    ("upstream.failback.dwell", &["\"0s\"", "\"24h\""], &["\"24h1s\""]),
    ("upstream.failback.ramp", &["\"0s\"", "\"24h\""], &["\"24h1s\""]),
    ("upstream.tcp.keepalive", &["\"1s\"", "\"32767s\""], &["\"0s\"", "\"500ms\"", "\"1500ms\"", "\"32768s\"", "\"12h\""]),
    ("upstream.tcp.keepalive_interval", &["\"1s\"", "\"32767s\""], &["\"0s\"", "\"500ms\"", "\"32768s\"", "\"12h\""]),
    ("upstream.tcp.keepalive_probes", &["1", "127"], &["0", "128", "200"]),
    ("upstream.tcp.user_timeout", &["\"0s\"", "\"1ms\"", "\"2147483647ms\""], &["\"999us\"", "\"1500us\"", "\"2147483648ms\"", "\"600h\""]),
    ("upstream.tcp.idle_timeout", &["\"0s\"", "\"1ms\"", "\"8760h\""], &["\"1us\"", "\"8761h\""]),
    ("upstream.tcp.half_open_timeout", &["\"0s\"", "\"8760h\""], &["\"8761h\""]),
    ("upstream.tcp.reset_deadline", &["\"0s\"", "\"8760h\""], &["\"8761h\""]),
    ("upstream.tcp.max_age", &["\"0s\"", "\"8760h\""], &["\"8761h\""]),
    ("upstream.warm.spares", &["0", "1024"], &["1025", "100000", "-1"]),
    ("upstream.warm.max_age", &["\"0s\"", "\"24h\""], &["\"24h1s\""]),
    ("upstream.via.connect_timeout", &["\"1ms\"", "\"10m\""], &["\"0s\"", "\"10m1s\""]),
    ("upstream.via.ready_timeout", &["\"1ms\"", "\"24h\""], &["\"0s\"", "\"24h1s\""]),
    ("upstream.via.renew_after", &["\"0s\"", "\"1s\"", "\"8760h\""], &["\"999ms\"", "\"8761h\""]),
    ("dns.min_ttl", &["\"1s\"", "\"60s\""], &["\"999ms\"", "\"61s\""]),
    ("dns.max_ttl", &["\"1s\"", "\"24h\""], &["\"999ms\"", "\"24h1s\""]),
    ("dns.timeout", &["\"50ms\"", "\"1m\""], &["\"49ms\"", "\"61s\""]),
    ("metrics.emf", &["\"0s\"", "\"1s\"", "\"24h\""], &["\"999ms\"", "\"24h1s\""]),
    ("shutdown.min_delay", &["\"0s\"", "\"24h\""], &["\"24h1s\""]),
    ("shutdown.max_delay", &["\"0s\"", "\"24h\""], &["\"24h1s\""]),
    ("faults.max_ttl", &["\"1s\"", "\"24h\""], &["\"999ms\"", "\"24h1s\""]),
    ("runtime.workers", &["1", "512"], &["0", "513", "1000"]),
    ("gateway.handshake_timeout", &["\"10ms\"", "\"1m\""], &["\"9ms\"", "\"61s\"", "\"0s\""]),
    ("gateway.max_handshakes", &["1", "65536"], &["0", "65537"]),
    ("readiness.upstream", &["0", "1000000"], &["1000001", "-1"]),
];

fn with(key: &str, value: &str) -> String {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    match table {
        "" => format!("{name} = {value}\n[upstream]\nendpoint = \"a:1\"\n"),
        "upstream.via" => format!(
            "[upstream]\nendpoint = \"a:1\"\n[upstream.via]\nurl = \"ssh://b\"\n{name} = {value}\n"
        ),
        "upstream" => format!("[upstream]\nendpoint = \"a:1\"\n{name} = {value}\n"),
        _ => format!("[upstream]\nendpoint = \"a:1\"\n[{table}]\n{name} = {value}\n"),
    }
}

#[test]
fn both_ends_are_accepted_and_what_is_beyond_is_refused_at_its_line() {
    let is_built = |key: &str| {
        (cfg!(feature = "gateway") || !key.starts_with("gateway."))
            && (cfg!(feature = "faults") || !key.starts_with("faults."))
    };
    for (key, accepted, refused) in ENDS.iter().filter(|(key, ..)| is_built(key)) {
        for value in *accepted {
            let loaded = OneFile::new(with(key, value)).load(&[], &[]);
            assert!(loaded.is_ok(), "{key} = {value}: {}", loaded.unwrap_err());
        }
        for value in *refused {
            let report = OneFile::new(with(key, value)).report(&[], &[]);
            let name = key.rsplit('.').next().unwrap();
            assert!(report.contains(name), "{key} = {value}: {report}");
            assert!(
                report.contains("entryway.toml:"),
                "{key} = {value}: {report}"
            );
        }
    }
}

#[test]
fn a_reload_refuses_them_too() {
    let file = OneFile::new(with("upstream.tcp.keepalive", "\"15s\""));
    let loaded = file.load(&[], &[]).unwrap();
    file.write(with("upstream.tcp.keepalive", "\"500ms\""));
    let report = loaded.reload().unwrap_err().plain();
    assert!(report.contains("whole seconds"), "{report}");
}

/// A key of the reference that is a number, a duration or a size has its ends tested above.
#[test]
fn no_number_is_left_out() {
    let tested: BTreeSet<&str> = ENDS.iter().map(|(key, ..)| *key).collect();
    let tree: toml::Value = toml::from_str(&effective::uncomment(true)).unwrap();
    let mut missing = Vec::new();
    numbers(&tree, String::new(), &mut |key| {
        if !tested.contains(key) {
            missing.push(key.to_owned());
        }
    });
    assert_eq!(missing, [] as [&str; 0]);
}

fn numbers(value: &toml::Value, key: String, found: &mut dyn FnMut(&str)) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                numbers(value, key, found);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| {
            if item.is_table() {
                numbers(item, key.clone(), found);
            }
        }),
        toml::Value::Integer(_) => found(&key),
        toml::Value::String(text)
            if crate::duration::parse(text).is_ok()
                || crate::settings::byte_size::parse(text).is_ok() =>
        {
            found(&key)
        }
        _ => {}
    }
}

#[test]
fn lists_have_a_length() {
    let endpoints = |count: usize| {
        let all: Vec<String> = (0..count).map(|n| format!("\"h{n}.example:1\"")).collect();
        OneFile::new(format!("[upstream]\nendpoint = [{}]\n", all.join(", ")))
    };
    assert!(endpoints(256).load(&[], &[]).is_ok());
    assert!(endpoints(257).report(&[], &[]).contains("at most 256"));
    let upstreams: String = (0..20_000)
        .map(|n| {
            format!(
                "[[upstream]]\nname = \"u{n}\"\nendpoint = \"a:{}\"\n",
                n % 60_000 + 1
            )
        })
        .collect();
    assert!(
        OneFile::new(upstreams)
            .report(&[], &[])
            .contains("at most 256")
    );
}
