//! Metrics as CloudWatch reads them out of a log: one line of embedded metric format (EMF) per upstream and interval, on
//! standard output. Where a container's output goes to CloudWatch Logs, nothing else is needed.
//!
//! Counters are written as what was added since the line before, because CloudWatch sums them. The output is written by a
//! thread of its own: a reader that stands still costs lines, never the control loop.

use std::collections::HashMap;
use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::Metrics;
use crate::types::UpstreamName;

/// Lines that may wait for a slow reader; more are dropped.
const WAITING: usize = 64;

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// How often EMF lines are written; zero: never.
    #[serde(with = "crate::duration")]
    pub emf: Duration,
}

/// What a metric of the lines is made from.
enum ReadingKind {
    Gauge,
    /// What was added since the line before.
    Added,
}

/// Name, unit, how it is read, family and labels beside the upstream's.
type EmfRow = (
    &'static str,
    &'static str,
    ReadingKind,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const ROWS: &[EmfRow] = &[
    (
        "healthy_addresses",
        "Count",
        ReadingKind::Gauge,
        "upstream_healthy_addresses",
        &[],
    ),
    (
        "addresses",
        "Count",
        ReadingKind::Gauge,
        "upstream_addresses",
        &[],
    ),
    ("fail_open", "Count", ReadingKind::Gauge, "fail_open", &[]),
    (
        "connections",
        "Count",
        ReadingKind::Gauge,
        "connections",
        &[],
    ),
    (
        "connections_closed",
        "Count",
        ReadingKind::Added,
        "connections_closed_total",
        &[],
    ),
    (
        "connect_attempts",
        "Count",
        ReadingKind::Added,
        "connect_attempts_total",
        &[],
    ),
    (
        "failovers",
        "Count",
        ReadingKind::Added,
        "failovers_total",
        &[],
    ),
    (
        "failbacks",
        "Count",
        ReadingKind::Added,
        "failbacks_total",
        &[],
    ),
    ("probes", "Count", ReadingKind::Added, "probes_total", &[]),
    (
        "probes_ok",
        "Count",
        ReadingKind::Added,
        "probes_total",
        &[("result", "ok")],
    ),
    (
        "bytes_upload",
        "Bytes",
        ReadingKind::Added,
        "bytes_total",
        &[("direction", "upload")],
    ),
    (
        "bytes_download",
        "Bytes",
        ReadingKind::Added,
        "bytes_total",
        &[("direction", "download")],
    ),
];

/// Makes the lines.
#[derive(Debug)]
pub struct EmfWriter {
    upstreams: Vec<UpstreamName>,
    before: HashMap<(usize, &'static str), f64>,
}

// === impl EmfWriter ===

impl EmfWriter {
    pub fn new(upstreams: Vec<UpstreamName>) -> Self {
        Self {
            upstreams,
            before: HashMap::new(),
        }
    }

    /// One line per upstream, without line ends.
    pub fn lines(&mut self, metrics: &Metrics, now: SystemTime) -> Vec<String> {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let upstreams = self.upstreams.clone();
        let line = |(index, upstream): (usize, &UpstreamName)| {
            let mut values = Map::new();
            for (name, _, read, family, labels) in ROWS {
                let labels = [&[("upstream", upstream.as_str())], *labels].concat();
                let total = metrics.value(family, &labels).unwrap_or(0.0);
                let value = match read {
                    ReadingKind::Gauge => total,
                    ReadingKind::Added => {
                        let before = self.before.insert((index, name), total).unwrap_or(0.0);
                        // A series that was removed and came back begins anew.
                        if total < before {
                            total
                        } else {
                            total - before
                        }
                    }
                };
                values.insert((*name).to_owned(), json!(value));
            }
            let names: Vec<Value> = ROWS
                .iter()
                .map(|(name, unit, ..)| json!({"Name": name, "Unit": unit}))
                .collect();
            values.insert("upstream".to_owned(), json!(upstream.as_str()));
            values.insert(
                "_aws".to_owned(),
                json!({
                    "Timestamp": u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
                    "CloudWatchMetrics": [{
                        "Namespace": "entryway",
                        "Dimensions": [["upstream"]],
                        "Metrics": names,
                    }],
                }),
            );
            Value::Object(values).to_string()
        };
        upstreams.iter().enumerate().map(line).collect()
    }

    /// Writes to standard output every `every`, for as long as the future is polled.
    pub async fn run(mut self, metrics: Metrics, every: Duration) {
        let lines = stdout_thread();
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once: there is nothing to say yet.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            for line in self.lines(&metrics, SystemTime::now()) {
                // Full: whoever reads has stopped reading.
                let _ = lines.try_send(line);
            }
        }
    }
}

/// A thread that writes lines to standard output; it ends with its sender, or when the output is closed.
fn stdout_thread() -> SyncSender<String> {
    let (sender, lines) = sync_channel::<String>(WAITING);
    let write = move || {
        for mut line in lines {
            line.push('\n');
            let mut out = std::io::stdout().lock();
            if out
                .write_all(line.as_bytes())
                .and_then(|()| out.flush())
                .is_err()
            {
                return;
            }
        }
    };
    // Without a thread there are no lines; the proxy goes on.
    let _ = std::thread::Builder::new()
        .name("emf".to_owned())
        .spawn(write);
    sender
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::family;

    /// What the specification of the format asks of a document: a timestamp in ms, a namespace, dimensions that name
    /// members with text values, metrics that name members with numbers, at most 100 of them, known units.
    fn validate(line: &str) -> Value {
        let document: Value = serde_json::from_str(line).unwrap();
        let metadata = &document["_aws"];
        assert!(metadata["Timestamp"].is_u64(), "{line}");
        let directives = metadata["CloudWatchMetrics"].as_array().unwrap();
        assert!(!directives.is_empty());
        for directive in directives {
            let namespace = directive["Namespace"].as_str().unwrap();
            assert!((1..=1024).contains(&namespace.len()));
            for set in directive["Dimensions"].as_array().unwrap() {
                let set = set.as_array().unwrap();
                assert!(set.len() <= 30);
                for dimension in set {
                    assert!(document[dimension.as_str().unwrap()].is_string(), "{line}");
                }
            }
            let metrics = directive["Metrics"].as_array().unwrap();
            assert!((1..=100).contains(&metrics.len()));
            for metric in metrics {
                let name = metric["Name"].as_str().unwrap();
                assert!(document[name].is_number(), "{name} in {line}");
                assert!(
                    ["Count", "Bytes", "Milliseconds"].contains(&metric["Unit"].as_str().unwrap())
                );
            }
        }
        assert!(!line.contains('\n') && line.len() < 256 * 1024);
        document
    }

    #[test]
    fn lines_are_embedded_metrics_and_counters_are_what_was_added() {
        let metrics = Metrics::default();
        let names = ["a", "b"].map(UpstreamName::new);
        let mut writer = EmfWriter::new(names.to_vec());
        metrics
            .gauge(&family::UPSTREAM_HEALTHY_ADDRESSES, &["a"])
            .set(3.0);
        let probes = metrics.counter(&family::PROBES, &["a", "e", "z", "ok"]);
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        for (added, expected) in [(5, 5.0), (2, 2.0), (0, 0.0)] {
            probes.increment(added);
            let lines = writer.lines(&metrics, now);
            assert_eq!(lines.len(), 2);
            let [a, b] = [&lines[0], &lines[1]].map(|line| validate(line));
            assert_eq!((&a["upstream"], &b["upstream"]), (&json!("a"), &json!("b")));
            assert_eq!(a["_aws"]["Timestamp"], json!(1_700_000_000_123_u64));
            assert_eq!(a["healthy_addresses"], json!(3.0));
            assert_eq!(a["probes_ok"], json!(expected));
            assert_eq!(b["probes_ok"], json!(0.0));
        }
    }

    /// Every row reads a family that exists, with labels it has.
    #[test]
    fn every_row_reads_a_family() {
        for (name, _, _, family, labels) in ROWS {
            let family = family::ALL
                .iter()
                .find(|known| known.name == format!("entryway_{family}"))
                .unwrap_or_else(|| panic!("{name}"));
            let has = |label: &str| family.labels.contains(&label);
            assert!(
                has("upstream") && labels.iter().all(|(label, _)| has(label)),
                "{name}"
            );
        }
    }
}
