//! What a drill found, as JSON and as sentences.

use std::fmt::Write;

use serde::Serialize;

use super::measure::{LatencyIncrease, Seen, Slice, millis};
use super::{DrillPlan, Times};
use crate::clock::Moment;
use crate::load::slo::{Quantity, Term, Verdict};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// Pieces of the timeline.
const SLICES: usize = 600;

/// Names that an assertion may speak of. Times are the `*_ms` of the report, `p50 p99 max` those of `added_ms`;
/// `errors` is `failed`, as a number or as a share of all requests.
pub const ASSERT_NAMES: &[&str] = &[
    "errors",
    "p50",
    "p99",
    "max",
    "detection",
    "failover",
    "failback",
    "held",
];

/// The results of one drill.
#[derive(Clone, Debug)]
pub struct DrillReport {
    /// What stands in the JSON.
    pub summary: DrillSummary,
    /// Whether it was ended early.
    pub interrupted: bool,
}

/// The JSON. Times are milliseconds since the fault was set, of `failback_ms` since it was taken back; what was not
/// seen is null.
#[derive(Clone, Debug, Serialize)]
pub struct DrillSummary {
    pub schema_version: u32,
    pub kind: &'static str,
    pub zone: Option<String>,
    pub for_s: f64,
    /// Requests a second.
    pub rate: f64,
    /// Until an address was marked down.
    pub detection_ms: Option<f64>,
    /// Until the first answer from another zone.
    pub failover_ms: Option<f64>,
    /// Requests of all that were sent.
    pub requests: Option<u64>,
    pub failed: Option<u64>,
    /// Requests that were sent a second time, because their kept connection ended without a byte of an answer.
    pub repeated: Option<u64>,
    /// Requests that were due while too many were under way, and were not sent.
    pub skipped: Option<u64>,
    pub added_ms: LatencyIncrease,
    pub failback_ms: Option<f64>,
    /// Connections that waited for an address.
    pub held: Option<u64>,
    pub asserts: Vec<Verdict>,
    pub verdict: &'static str,
    pub interrupted: bool,
    pub timeline: Vec<Slice>,
    /// The same drill of another program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare: Option<Box<Compared>>,
    /// Why there is none, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_compared: Option<&'static str>,
}

/// Another program in the same drill.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub program: String,
    #[serde(flatten)]
    pub summary: DrillSummary,
}

// === impl DrillReport ===

impl DrillReport {
    pub(super) fn new(plan: &DrillPlan, times: Times, seen: Seen, interrupted: bool) -> Self {
        let since_set = |at: Option<Moment>| at.map(|at| millis(at.since(times.set)));
        let has_load = plan.rate > 0.0;
        let count = |number: u64| has_load.then_some(number);
        let was_set = times.set != Moment::default();
        let mut summary = DrillSummary {
            schema_version: SCHEMA_VERSION,
            kind: plan.kind.as_str(),
            zone: plan.zone.clone(),
            for_s: match was_set {
                true => millis(times.cleared.since(times.set)) / 1000.0,
                false => 0.0,
            },
            rate: plan.rate,
            detection_ms: since_set(seen.detection),
            failover_ms: since_set(seen.failover),
            requests: count(seen.samples.len() as u64),
            failed: count(seen.failed()),
            repeated: count(seen.repeated()),
            skipped: count(seen.skipped),
            added_ms: seen.added(times),
            failback_ms: seen.failback.map(|at| millis(at.since(times.cleared))),
            held: seen.held.filter(|_| was_set),
            asserts: Vec::new(),
            verdict: "PASS",
            interrupted,
            timeline: match has_load && was_set {
                true => seen.timeline(times, SLICES),
                false => Vec::new(),
            },
            compare: None,
            not_compared: None,
        };
        summary.evaluate(&plan.asserts);
        Self {
            summary,
            interrupted,
        }
    }

    /// Whether every assertion holds.
    pub fn passed(&self) -> bool {
        self.summary.verdict == "PASS"
    }

    /// Puts the same drill of another program beside it.
    pub fn compare(&mut self, program: String, other: DrillReport) {
        let mut summary = other.summary;
        summary.timeline.clear();
        self.interrupted |= other.interrupted;
        self.summary.interrupted |= other.interrupted;
        self.summary.compare = Some(Box::new(Compared { program, summary }));
    }

    /// In sentences.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.summary.write(&mut out);
        out
    }
}

// === impl DrillSummary ===

impl DrillSummary {
    fn evaluate(&mut self, terms: &[Term]) {
        self.asserts = terms
            .iter()
            .map(|term| term.evaluate(self.observed(term)))
            .collect();
        let passed = self.asserts.iter().all(|verdict| verdict.ok);
        self.verdict = if passed { "PASS" } else { "FAIL" };
    }

    fn observed(&self, term: &Term) -> Option<Quantity> {
        let time = |ms: Option<f64>| ms.map(Quantity::Milliseconds);
        match term.name.as_str() {
            "p50" => time(self.added_ms.p50),
            "p99" => time(self.added_ms.p99),
            "max" => time(self.added_ms.max),
            "detection" => time(self.detection_ms),
            "failover" => time(self.failover_ms),
            "failback" => time(self.failback_ms),
            "held" => self.held.map(|held| Quantity::Number(held as f64)),
            _ if term.is_share() => {
                let all = self.requests.filter(|all| *all > 0)? as f64;
                Some(Quantity::Share(self.failed? as f64 / all))
            }
            _ => self.failed.map(|failed| Quantity::Number(failed as f64)),
        }
    }

    /// What was drilled, in a few words.
    pub(super) fn title(&self) -> String {
        match &self.zone {
            Some(zone) => format!("{} in zone {zone}", self.kind),
            None => self.kind.to_owned(),
        }
    }

    /// Every number with its sentence: name, value, what it means.
    pub(super) fn rows(&self) -> Vec<(&'static str, String, String)> {
        let number = |value: Option<u64>| value.map_or("–".to_owned(), |value| value.to_string());
        let added = &self.added_ms;
        let mut rows = vec![
            (
                "detection",
                time(self.detection_ms),
                "until an address of it was marked down".to_owned(),
            ),
            (
                "failover",
                time(self.failover_ms),
                "until another zone gave its first answer".to_owned(),
            ),
        ];
        let meaning = match (self.requests, self.repeated) {
            (Some(all), Some(repeated)) => {
                let skipped = self.skipped.filter(|skipped| *skipped > 0);
                let skipped = skipped
                    .map(|skipped| format!(", {skipped} not sent because too many were under way"));
                format!(
                    "of {all} requests; {repeated} were repeated because their kept connection had ended{}",
                    skipped.unwrap_or_default()
                )
            }
            _ => "no requests were sent by the drill".to_owned(),
        };
        rows.push(("failed", number(self.failed), meaning));
        rows.push((
            "added",
            time(added.p99),
            format!(
                "to every hundredth request while the fault stood; {} to every second, {} at most",
                time(added.p50),
                time(added.max)
            ),
        ));
        rows.push((
            "held",
            number(self.held),
            "connections waited for an address".to_owned(),
        ));
        rows.push((
            "failback",
            time(self.failback_ms),
            "after the fault, until the zone was used again".to_owned(),
        ));
        rows
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let length = (self.for_s * 10.0).round() / 10.0;
        writeln!(
            out,
            "{} for {length} s, {} requests a second",
            self.title(),
            self.rate
        )?;
        let rows = self.rows();
        match &self.compare {
            None => {
                for (name, value, meaning) in rows {
                    writeln!(out, "  {name:<10} {value:>10}  {meaning}")?;
                }
            }
            Some(other) => {
                let others = other.summary.rows();
                let width = other.program.chars().count().max(10);
                writeln!(
                    out,
                    "  {:<10} {:>10}  {:>width$}",
                    "", "entryway", other.program
                )?;
                for ((name, value, meaning), (_, theirs, their_meaning)) in
                    rows.into_iter().zip(others)
                {
                    writeln!(out, "  {name:<10} {value:>10}  {theirs:>width$}  {meaning}")?;
                    if meaning != their_meaning {
                        writeln!(
                            out,
                            "  {:<10} {:>10}  {:>width$}  {their_meaning}",
                            "", "", ""
                        )?;
                    }
                }
            }
        }
        for verdict in &self.asserts {
            let word = if verdict.ok { "holds" } else { "missed" };
            let observed = verdict
                .observed
                .map_or("not observed".to_owned(), |value| format!("{value}"));
            writeln!(out, "  {:<24} {word} ({observed})", verdict.term)?;
        }
        if let Some(why) = self.not_compared {
            writeln!(out, "{why}")?;
        }
        if self.interrupted {
            writeln!(out, "interrupted; the fault was taken back")?;
        }
        writeln!(out, "{}", self.verdict)
    }
}

/// Milliseconds, or a dash.
pub(super) fn time(ms: Option<f64>) -> String {
    match ms {
        None => "–".to_owned(),
        Some(ms) if ms >= 10_000.0 => format!("{:.1} s", ms / 1000.0),
        Some(ms) if ms >= 1_000.0 => format!("{:.2} s", ms / 1000.0),
        Some(ms) if ms >= 10.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{ms:.1} ms"),
    }
}
