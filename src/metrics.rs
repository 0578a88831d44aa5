//! What is measured: every metric family in one table, one registry per instance, its text form.
//!
//! Owns the names, units and labels of contract section 6 and the values behind `/metrics` and the JSON. Promises that
//! a handle's methods never lock, that the same labels give the same series, and that a family shows up once it has
//! one. Handles are resolved once per (listener, endpoint) and then only added to. Knows nothing of what is measured.

use std::sync::Arc;

pub use family::{Family, Kind};
pub use registry::{Counter, Gauge, Histogram};

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
    registry: Arc<registry::Registry>,
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

    /// Drops every series that carries **all** the given `(label, value)` pairs. Handles to them stay usable and are
    /// heard by nobody; asking again for the same labels starts a new series at zero.
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
        // Every family stands there with HELP and TYPE (contract section 6), whether it has a series yet or not.
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

    /// The sum over all series of a family; 0 while there is none.
    pub fn sum(&self, name: &str) -> f64 {
        self.value(name, &[]).unwrap_or(0.0)
    }
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
                family.kind == Kind::Counter,
                family.name.ends_with("_total"),
                "{}",
                family.name
            );
            if let Kind::Histogram(bounds) = family.kind {
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
            .inc();
        metrics
            .counter(&family::PROBES, &["u", "a", "z1", "ok"])
            .add(2);
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
        assert_eq!(metrics.gauge(&family::ENDPOINT_HEALTHY, &a).get(), 0.0);
    }

    #[test]
    fn histograms_are_cumulative_and_end_in_infinity() {
        let metrics = Metrics::default();
        let parked = metrics.histogram(&family::PARKED_SECONDS, &[]);
        for seconds in [0.05, 0.06, 1e9] {
            parked.record(seconds);
        }
        assert_eq!(parked.count(), 3);
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
                .inc();
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
                        gauge.add(1.0);
                        gauge.sub(1.0);
                        gauge.add(1.0);
                    }
                });
            }
        });
        assert_eq!(metrics.sum("pipes_in_use"), 40_000.0);
    }

    /// Runs where promtool is installed; elsewhere the other tests have to do.
    #[test]
    fn promtool_has_nothing_to_say() {
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
                Kind::Counter => metrics.counter(family, &labels).inc(),
                Kind::Gauge => metrics.gauge(family, &labels).set(0.5),
                Kind::Histogram(_) => metrics.histogram(family, &labels).record(0.3),
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
        let said = promtool.wait_with_output().unwrap();
        let words = [said.stdout, said.stderr].concat();
        assert!(
            said.status.success() && words.is_empty(),
            "{}",
            String::from_utf8_lossy(&words)
        );
    }
}
