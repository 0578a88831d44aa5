//! Metrics: every family in one table, one registry per instance, and its text exposition.
//!
//! The handles are those of the `metrics` crate, over cells of ours ([`Metrics`] is a [`metrics::Recorder`]), so that no
//! global recorder is needed and series can be removed. Handles are lock-free, the same labels yield the same series, and
//! every family is listed in the exposition whether it has a series or not. Nothing is measured here: each metric is
//! written by the component that owns the number.

use std::sync::Arc;

use ::metrics::{Key, KeyName, Metadata, Recorder, SharedString, Unit};

pub use ::metrics::{Counter, Gauge, Histogram};
pub use family::{Family, FamilyKind};

pub mod emf;
pub mod family;
mod registry;
mod text;

/// A slice of the exposition ends once it is this long, so that a scrape cannot hold the control thread.
const SLICE: usize = 16 * 1024;

/// The prefix that [`Metrics::value`] and [`Metrics::sum`] add where it is missing.
const PREFIX: &str = "entryway_";

/// All series of one instance. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<registry::SeriesRegistry>,
}

// === impl Metrics ===

impl Metrics {
    /// The counter with these label values (in the family's order).
    pub fn counter(&self, family: &'static Family, labels: &[&str]) -> Counter {
        self.registry.counter(family, labels)
    }

    /// The gauge with these label values. On a counter family: a total that is kept elsewhere (CPU seconds).
    pub fn gauge(&self, family: &'static Family, labels: &[&str]) -> Gauge {
        self.registry.gauge(family, labels)
    }

    /// The histogram with these label values.
    pub fn histogram(&self, family: &'static Family, labels: &[&str]) -> Histogram {
        self.registry.histogram(family, labels)
    }

    /// Drops every series that carries **all** the given `(label, value)` pairs. Handles to them stay usable without an
    /// effect; asking again for the same labels starts a new series at zero.
    pub fn remove(&self, matching: &[(&str, &str)]) {
        self.registry.remove(matching);
    }

    /// The same, of these families only.
    pub fn remove_from(&self, families: &[&Family], matching: &[(&str, &str)]) {
        self.registry.remove_from(families, matching);
    }

    /// The whole exposition in one text.
    pub fn render(&self) -> String {
        self.slices().collect()
    }

    /// The exposition in bounded slices, each made when it is asked for.
    pub fn slices(&self) -> impl Iterator<Item = String> + use<> {
        let registry = Arc::clone(&self.registry);
        // Every family is listed with HELP and TYPE, whether it has a series yet or not.
        let mut families = family::ALL.to_vec();
        families.sort_unstable_by_key(|family| family.name);
        let mut families = families.into_iter().peekable();
        std::iter::from_fn(move || {
            families.peek()?;
            let mut out = String::with_capacity(SLICE + SLICE / 4);
            while out.len() < SLICE
                && let Some(family) = families.next()
            {
                text::family(&mut out, family, &registry.read(family.name, &[]));
            }
            Some(out)
        })
    }

    /// The sum over the series that carry all the given `(label, value)` pairs; of a histogram, its count. `None`
    /// where there is no such series. The name may leave out `entryway_`.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.registry.read(name, labels);
        if found.is_empty() {
            found = self.registry.read(&format!("{PREFIX}{name}"), labels);
        }
        (!found.is_empty()).then(|| found.iter().map(|(_, reading)| reading.number()).sum())
    }

    /// Every series of a family: its label values in the family's order, and its value.
    pub fn series(&self, family: &Family) -> Vec<(Box<[Box<str>]>, f64)> {
        let found = self.registry.read(family.name, &[]);
        let number = |(labels, reading): registry::SeriesSample| (labels, reading.number());
        found.into_iter().map(number).collect()
    }

    /// The sum over all series of a family; 0 while there is none.
    pub fn sum(&self, name: &str) -> f64 {
        self.value(name, &[]).unwrap_or(0.0)
    }
}

impl Recorder for Metrics {
    // What a family is stands in the table.
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match of_key(key) {
            Some((family, labels)) if family.kind == FamilyKind::Counter => {
                self.counter(family, &labels)
            }
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match of_key(key) {
            Some((family, labels)) if family.kind == FamilyKind::Gauge => {
                self.gauge(family, &labels)
            }
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match of_key(key) {
            Some((family, labels)) if matches!(family.kind, FamilyKind::Histogram(_)) => {
                self.histogram(family, &labels)
            }
            _ => Histogram::noop(),
        }
    }
}

/// The family that a key names and its label values in the family's order; `None` for a metric that is not in the table.
fn of_key(key: &Key) -> Option<(&'static Family, Vec<&str>)> {
    let family = family::ALL
        .iter()
        .find(|family| family.name == key.name())?;
    let value = |name: &&str| {
        let label = key.labels().find(|label| label.key() == *name);
        label.map_or("", |label| label.value())
    };
    Some((family, family.labels.iter().map(value).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        let mut names: Vec<_> = family::ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), family::ALL.len());
        for family in family::ALL {
            assert!(
                family.name.starts_with(PREFIX) || family.name.starts_with("process_"),
                "{}",
                family.name
            );
            assert_eq!(
                family.kind == FamilyKind::Counter,
                family.name.ends_with("_total"),
                "{}",
                family.name
            );
            if let FamilyKind::Histogram(bounds) = family.kind {
                assert!(
                    bounds.is_sorted() && family.name.ends_with("_seconds"),
                    "{}",
                    family.name
                );
            }
        }
    }

    #[test]
    fn same_labels_same_series_and_removal_by_label() {
        let metrics = Metrics::default();
        let (a, b) = (["u", "a", "z1"], ["u", "b", "z2"]);
        metrics
            .counter(&family::PROBES, &["u", "a", "z1", "ok"])
            .increment(1);
        metrics
            .counter(&family::PROBES, &["u", "a", "z1", "ok"])
            .increment(2);
        metrics.gauge(&family::ENDPOINT_HEALTHY, &a).set(1.0);
        metrics.gauge(&family::ENDPOINT_HEALTHY, &b).set(1.0);
        assert_eq!(
            metrics.value("probes_total", &[("endpoint", "a"), ("result", "ok")]),
            Some(3.0)
        );
        assert_eq!(metrics.sum("entryway_endpoint_healthy"), 2.0);
        let handle = metrics.gauge(&family::ENDPOINT_HEALTHY, &a);
        metrics.remove(&[("upstream", "u"), ("endpoint", "a")]);
        handle.set(7.0);
        assert_eq!(metrics.value("probes_total", &[]), None);
        assert_eq!(metrics.sum("endpoint_healthy"), 1.0);
        assert!(!metrics.render().contains("probes_total{"));
        metrics.gauge(&family::ENDPOINT_HEALTHY, &a).set(0.0);
        assert_eq!(metrics.sum("endpoint_healthy"), 1.0);
    }

    #[test]
    fn histograms_are_cumulative_and_end_in_infinity() {
        let metrics = Metrics::default();
        let parked = metrics.histogram(&family::PARKED_SECONDS, &[]);
        for seconds in [0.05, 0.06, 1e9] {
            parked.record(seconds);
        }
        assert_eq!(metrics.sum("parked_seconds"), 3.0);
        let text = metrics.render();
        assert!(
            text.contains("entryway_parked_seconds_bucket{le=\"0.05\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("entryway_parked_seconds_bucket{le=\"0.1\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("entryway_parked_seconds_bucket{le=\"+Inf\"} 3\n"),
            "{text}"
        );
        assert!(text.contains("entryway_parked_seconds_count 3\n"), "{text}");
        assert_eq!(text.matches("# TYPE").count(), family::ALL.len());
        assert_eq!(text.matches("# HELP").count(), family::ALL.len());
    }

    #[test]
    fn label_values_are_escaped() {
        let metrics = Metrics::default();
        metrics
            .gauge(&family::DNS_STALE, &["a\"b\\c\nd\u{1b}e"])
            .set(f64::INFINITY);
        let text = metrics.render();
        assert!(
            text.contains("entryway_dns_stale{name=\"a\\\"b\\\\c\\nd?e\"} +Inf\n"),
            "{text}"
        );
    }

    #[test]
    fn slices_add_up_to_the_whole() {
        let metrics = Metrics::default();
        for name in 0..500 {
            metrics
                .counter(&family::DNS_CHANGES, &[&format!("name-{name}")])
                .increment(1);
            metrics
                .gauge(&family::DNS_STALE, &[&format!("name-{name}")])
                .set(0.0);
        }
        let slices: Vec<_> = metrics.slices().collect();
        assert!(slices.len() >= 2);
        assert_eq!(slices.concat(), metrics.render());
        assert_eq!(
            metrics.render().lines().count(),
            2 * (500 + family::ALL.len())
        );
    }

    #[test]
    fn handles_count_from_many_threads() {
        let metrics = Metrics::default();
        let gauge = metrics.gauge(&family::PIPES_IN_USE, &[]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        gauge.increment(1.0);
                        gauge.decrement(1.0);
                        gauge.increment(1.0);
                    }
                });
            }
        });
        assert_eq!(metrics.sum("pipes_in_use"), 40_000.0);
    }

    #[test]
    fn the_macros_of_the_metrics_crate_reach_the_same_series() {
        let metrics = Metrics::default();
        metrics
            .counter(&family::DNS_LOOKUPS, &["n", "ok"])
            .increment(1);
        ::metrics::with_local_recorder(&metrics, || {
            ::metrics::counter!("entryway_dns_lookups_total", "result" => "ok", "name" => "n")
                .increment(2);
            ::metrics::gauge!("entryway_dns_stale", "name" => "n").set(1.0);
            ::metrics::histogram!("entryway_parked_seconds").record(0.2);
            // Not in the table: without an effect.
            ::metrics::counter!("no_such_total").increment(1);
        });
        assert_eq!(
            metrics.value("dns_lookups_total", &[("name", "n")]),
            Some(3.0)
        );
        assert_eq!(metrics.sum("dns_stale"), 1.0);
        assert_eq!(metrics.sum("parked_seconds"), 1.0);
        assert!(!metrics.render().contains("no_such_total"));
    }

    /// Runs where promtool is installed.
    #[test]
    fn promtool_accepts_the_exposition() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};

        let metrics = Metrics::default();
        for family in family::ALL {
            let labels: Vec<String> = family
                .labels
                .iter()
                .map(|label| format!("a \"{label}\" \\ of\nours"))
                .collect();
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            match family.kind {
                FamilyKind::Counter => metrics.counter(family, &labels).increment(1),
                FamilyKind::Gauge => metrics.gauge(family, &labels).set(0.5),
                FamilyKind::Histogram(_) => metrics.histogram(family, &labels).record(0.3),
            }
        }
        let text = metrics.render();
        let started = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut promtool) = started else { return };
        promtool
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = promtool.wait_with_output().unwrap();
        let report = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success() && report.is_empty(),
            "{}",
            String::from_utf8_lossy(&report)
        );
    }
}
