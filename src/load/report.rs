//! What a run found, as JSON and as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::connection::Failure;
use super::engine::RequestOutcome;
use super::slo::{Quantity, Term, Verdict};
use super::{LoadPlan, MAX_IN_FLIGHT};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// Names that an SLO term may speak of.
pub const SLO_NAMES: &[&str] = &[
    "p50", "p90", "p99", "p999", "p99.9", "min", "max", "mean", "errors", "skipped", "rate",
];

/// Less than this share of the offered rate counts as not reached.
const REACHED: f64 = 0.98;

/// Requests sent later than this are the generator's own delay.
const LATE: Duration = Duration::from_millis(10);

/// A run's results.
#[derive(Clone, Debug)]
pub struct Report {
    /// What stands in the JSON.
    pub summary: Summary,
    /// Corrected latency in nanoseconds.
    pub(super) corrected: Histogram<u64>,
    /// Whether nothing reached the target at all.
    pub nothing_sent: bool,
    /// Whether it was ended early.
    pub interrupted: bool,
}

/// The JSON.
#[derive(Clone, Debug, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are described in the guide's reference of the JSON"
)]
pub struct Summary {
    pub schema_version: u32,
    pub target: String,
    pub workload: String,
    pub mode: &'static str,
    pub duration_s: f64,
    pub rate: Rate,
    pub requests: Requests,
    pub latency_ms: Percentiles,
    pub uncorrected_ms: Percentiles,
    pub bytes: Traffic,
    pub timeline: Vec<Second>,
    pub slo: Vec<Verdict>,
    pub versus: Option<Versus>,
    /// Requests in flight beyond which an open loop skips arrivals.
    pub max_in_flight: Option<usize>,
    pub warnings: Vec<String>,
}

/// Requests a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    /// Intended; null in a closed loop.
    pub offered: Option<f64>,
    /// Answered or failed.
    pub achieved: f64,
}

/// Requests by outcome.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Requests {
    /// Answered with a status below 400.
    pub ok: u64,
    /// Failed, by any cause.
    pub failed: u64,
    /// Due while too many were in flight; not sent.
    pub skipped: u64,
    /// Failures by cause.
    pub by_error: BTreeMap<String, u64>,
}

/// Latency in milliseconds; all null where no request succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "named after what they are")]
pub struct Percentiles {
    pub min: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub max: Option<f64>,
    pub mean: Option<f64>,
}

/// Bytes of measured requests.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named after what they are")]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
}

/// One second of the timeline, by the time of completion.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Second {
    /// Seconds from the start of the measured time to the end of this one.
    pub t_s: u64,
    /// Answered.
    pub ok: u64,
    /// Failed.
    pub failed: u64,
    /// Median latency.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
}

/// What the target costs against another one.
#[derive(Clone, Debug, Serialize)]
pub struct Versus {
    /// The other one.
    pub target: String,
    /// Rounds driven against each.
    pub rounds: usize,
    /// target − versus in milliseconds: low end, middle and high end of the 95 % interval.
    pub delta_ms: Deltas,
    /// One sentence.
    pub verdict: String,
}

/// Intervals by percentile; null where a percentile could not be measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "named after what they are")]
pub struct Deltas {
    pub p50: Option<[f64; 3]>,
    pub p99: Option<[f64; 3]>,
    pub p999: Option<[f64; 3]>,
}

// === impl Percentiles ===

impl Percentiles {
    /// Of a histogram in nanoseconds.
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| Some(millis(histogram.value_at_quantile(quantile) as f64));
        Self {
            min: Some(millis(histogram.min() as f64)),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Some(millis(histogram.max() as f64)),
            mean: Some(millis(histogram.mean())),
        }
    }
}

fn millis(nanos: f64) -> f64 {
    (nanos / 1000.0).round() / 1000.0
}

// === impl Report ===

impl Report {
    pub(super) fn new(plan: &LoadPlan, outcome: RequestOutcome) -> Self {
        let results = &outcome.results;
        let elapsed = outcome.elapsed.as_secs_f64().max(1e-9);
        let failed = results.failed();
        let completed = results.ok + failed;
        // A generator that falls behind sends what was due later on.
        let achieved = completed as f64 / (elapsed + results.overrun.as_secs_f64());
        let offered = plan.is_open().then(|| match outcome.interrupted {
            false => {
                let due: f64 = plan
                    .stages()
                    .iter()
                    .map(|(rate, length)| (rate * length.as_secs_f64()).round())
                    .sum();
                due / elapsed
            }
            true => (completed + results.skipped) as f64 / elapsed,
        });
        let by_error = results
            .failures
            .iter()
            .map(|(failure, count)| (failure.key(), *count))
            .collect();
        let unreached =
            |failure: &Failure| matches!(failure, Failure::Connect(_) | Failure::Local(_));
        let summary = Summary {
            schema_version: SCHEMA_VERSION,
            target: plan.target.authority.clone(),
            workload: plan.workload.name().to_owned(),
            mode: if plan.is_open() { "open" } else { "closed" },
            duration_s: round(elapsed),
            rate: Rate {
                offered: offered.map(round),
                achieved: round(achieved),
            },
            requests: Requests {
                ok: results.ok,
                failed,
                skipped: results.skipped,
                by_error,
            },
            latency_ms: Percentiles::of(&results.corrected),
            uncorrected_ms: Percentiles::of(&results.uncorrected),
            bytes: Traffic {
                sent: results.bytes.sent,
                received: results.bytes.received,
            },
            timeline: outcome.timeline.iter().map(Second::of).collect(),
            slo: Vec::new(),
            versus: None,
            max_in_flight: plan.is_open().then_some(MAX_IN_FLIGHT),
            warnings: warnings(&outcome, offered, achieved, elapsed),
        };
        Self {
            summary,
            corrected: outcome.results.corrected.clone(),
            nothing_sent: results.ok == 0
                && !results.failures.keys().any(|failure| !unreached(failure)),
            interrupted: outcome.interrupted,
        }
    }

    /// A report of histograms that were read from files.
    pub(super) fn merged(
        targets: String,
        corrected: Histogram<u64>,
        requests: Requests,
        bytes: Traffic,
        seconds: f64,
    ) -> Self {
        let latency_ms = Percentiles::of(&corrected);
        let completed = (requests.ok + requests.failed) as f64;
        let summary = Summary {
            schema_version: SCHEMA_VERSION,
            target: targets,
            workload: "merged".to_owned(),
            mode: "open",
            duration_s: round(seconds),
            rate: Rate {
                offered: None,
                achieved: round(completed / seconds.max(1e-9)),
            },
            requests,
            latency_ms,
            uncorrected_ms: Percentiles::default(),
            bytes,
            timeline: Vec::new(),
            slo: Vec::new(),
            versus: None,
            max_in_flight: None,
            warnings: Vec::new(),
        };
        Self {
            summary,
            corrected,
            nothing_sent: false,
            interrupted: false,
        }
    }

    /// A report of nothing, to be filled in by a test.
    #[cfg(test)]
    pub(super) fn empty_for_test() -> Self {
        let (requests, bytes) = (Requests::default(), Traffic::default());
        Self::merged(
            "test".to_owned(),
            super::recorder::histogram(),
            requests,
            bytes,
            1.0,
        )
    }

    /// Holds the results against SLO terms; whether all of them are met.
    pub fn evaluate(&mut self, terms: &[Term]) -> bool {
        let slo: Vec<_> = terms
            .iter()
            .map(|term| term.evaluate(self.quantity(term)))
            .collect();
        self.summary.slo = slo;
        self.summary.slo.iter().all(|verdict| verdict.ok)
    }

    fn quantity(&self, term: &Term) -> Option<Quantity> {
        let summary = &self.summary;
        let latency = &summary.latency_ms;
        let of_total = |count: u64| {
            let total = summary.requests.ok + summary.requests.failed + summary.requests.skipped;
            match term.is_share() {
                true => Quantity::Share(count as f64 / (total as f64).max(1.0)),
                false => Quantity::Number(count as f64),
            }
        };
        match term.name.as_str() {
            "errors" => Some(of_total(summary.requests.failed)),
            "skipped" => Some(of_total(summary.requests.skipped)),
            "rate" => Some(Quantity::Number(summary.rate.achieved)),
            name => match name {
                "p50" => latency.p50,
                "p90" => latency.p90,
                "p99" => latency.p99,
                "p999" | "p99.9" => latency.p999,
                "min" => latency.min,
                "max" => latency.max,
                "mean" => latency.mean,
                _ => None,
            }
            .map(Quantity::Milliseconds),
        }
    }

    /// The results for people.
    pub fn text(&self) -> String {
        let summary = &self.summary;
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        for warning in &summary.warnings {
            let _ = writeln!(out, "warning: {warning}");
        }
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let summary = &self.summary;
        let requests = &summary.requests;
        writeln!(
            out,
            "{} against {}, {} loop, {:.1} s",
            summary.workload, summary.target, summary.mode, summary.duration_s
        )?;
        if let Some(offered) = summary.rate.offered {
            writeln!(
                out,
                "rate       {offered:.1}/s offered, {:.1}/s achieved",
                summary.rate.achieved
            )?;
        } else {
            writeln!(out, "rate       {:.1}/s", summary.rate.achieved)?;
        }
        write!(
            out,
            "requests   {} ok, {} failed",
            requests.ok, requests.failed
        )?;
        if let Some(most) = summary.max_in_flight {
            write!(
                out,
                ", {} skipped (more than {most} in flight)",
                requests.skipped
            )?;
        }
        writeln!(out)?;
        for (cause, count) in &requests.by_error {
            writeln!(out, "           {count} × {cause}")?;
        }
        writeln!(
            out,
            "bytes      {} sent, {} received",
            summary.bytes.sent, summary.bytes.received
        )?;
        let rows = [
            ("latency", &summary.latency_ms),
            ("uncorrected", &summary.uncorrected_ms),
        ];
        let rows = rows
            .into_iter()
            .take(if summary.mode == "open" { 2 } else { 1 });
        writeln!(
            out,
            "\n{:<11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "ms", "min", "p50", "p90", "p99", "p99.9", "max", "mean"
        )?;
        for (name, latency) in rows {
            write!(out, "{name:<11}")?;
            for value in [
                latency.min,
                latency.p50,
                latency.p90,
                latency.p99,
                latency.p999,
                latency.max,
                latency.mean,
            ] {
                match value {
                    Some(value) => write!(out, " {value:>9.3}")?,
                    None => write!(out, " {:>9}", "-")?,
                }
            }
            writeln!(out)?;
        }
        if let Some(versus) = &summary.versus {
            writeln!(
                out,
                "\nagainst {}, {} rounds each, 95 % interval in ms",
                versus.target, versus.rounds
            )?;
            let deltas = [
                ("p50", versus.delta_ms.p50),
                ("p99", versus.delta_ms.p99),
                ("p99.9", versus.delta_ms.p999),
            ];
            for (name, delta) in deltas {
                match delta {
                    Some([low, middle, high]) => {
                        writeln!(out, "{name:<6} {middle:+.3} ({low:+.3} to {high:+.3})")?
                    }
                    None => writeln!(out, "{name:<6} not measured")?,
                }
            }
            writeln!(out, "{}", versus.verdict)?;
        }
        for verdict in &summary.slo {
            let observed = verdict
                .observed
                .map_or("not observed".to_owned(), |it| format!("observed {it:.3}"));
            writeln!(
                out,
                "slo {} {}, {observed}",
                if verdict.ok { "met   " } else { "MISSED" },
                verdict.term
            )?;
        }
        Ok(())
    }
}

impl Second {
    fn of(interval: &super::recorder::Interval) -> Self {
        let latency = Percentiles::of(&interval.latency);
        Self {
            t_s: interval.second + 1,
            ok: interval.ok,
            failed: interval.failed,
            p50_ms: latency.p50,
            p99_ms: latency.p99,
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn warnings(
    outcome: &RequestOutcome,
    offered: Option<f64>,
    achieved: f64,
    elapsed: f64,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if outcome.interrupted {
        warnings.push(format!("ended early, after {elapsed:.1} s"));
    }
    if !outcome.stopped.is_zero() {
        warnings.push(format!(
            "the generator itself was stopped for {:.1} s: latencies of that time are its own",
            outcome.stopped.as_secs_f64()
        ));
    }
    let results = &outcome.results;
    if let Some(offered) = offered.filter(|offered| achieved < offered * REACHED) {
        warnings.push(format!(
            "{offered:.0}/s were asked for and {achieved:.0}/s reached: more than the target or this machine can do; \
             latencies grow with the length of such a run"
        ));
    }
    let late = results.lateness.value_at_quantile(0.99);
    if offered.is_some() && u128::from(late) > LATE.as_nanos() {
        warnings.push(format!(
            "1 % of the requests were sent {:.0} ms or more after they were due: this machine is too slow or too busy \
             for the rate",
            late as f64 / 1e6
        ));
    }
    warnings
}
