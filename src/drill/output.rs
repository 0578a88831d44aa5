//! Result files: JSON, JUnit and HTML, by the ending of their name.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::html;
use super::report::{DrillReport, DrillSummary};
use crate::load::escape;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrillOutput {
    Json,
    /// A test suite with one case for each assertion.
    Junit,
    /// One page with a chart.
    Html,
}

// === impl DrillOutput ===

impl DrillOutput {
    /// By the ending of the name.
    ///
    /// # Errors
    ///
    /// A sentence that names the file and the endings there are.
    pub fn of(path: &str) -> Result<Self, String> {
        let ending = Path::new(path).extension();
        match ending.and_then(|ending| ending.to_str()) {
            Some("json") => Ok(Self::Json),
            Some("xml") => Ok(Self::Junit),
            Some("html") => Ok(Self::Html),
            _ => Err(format!(
                "`{path}`: a result file ends in .json, .xml (JUnit) or .html"
            )),
        }
    }
}

/// Writes one result file.
///
/// # Errors
///
/// What the system says.
pub fn write(report: &DrillReport, path: &str, kind: DrillOutput) -> io::Result<()> {
    let content = match kind {
        DrillOutput::Json => {
            let mut json = serde_json::to_vec_pretty(&report.summary)?;
            json.push(b'\n');
            json
        }
        DrillOutput::Junit => junit(&report.summary).into_bytes(),
        DrillOutput::Html => html::page(&report.summary).into_bytes(),
    };
    std::fs::write(path, content)
}

/// One case for each assertion; without any, one for the drill, so that it is seen to have run.
fn junit(summary: &DrillSummary) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_junit(&mut out, summary);
    out
}

fn write_junit(out: &mut String, summary: &DrillSummary) -> std::fmt::Result {
    let name = escape(&format!("entryway drill {}", summary.title()));
    let missed = summary.asserts.iter().filter(|verdict| !verdict.ok).count();
    let cases = summary.asserts.len().max(1);
    writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites tests=\"{cases}\" failures=\"{missed}\">\n\
         <testsuite name=\"{name}\" tests=\"{cases}\" failures=\"{missed}\" time=\"{}\">\n<properties>",
        summary.for_s
    )?;
    for (name, value) in numbers(summary) {
        writeln!(out, "<property name=\"{name}\" value=\"{value}\"/>")?;
    }
    writeln!(out, "</properties>")?;
    if summary.asserts.is_empty() {
        writeln!(out, "<testcase classname=\"drill\" name=\"{name}\"/>")?;
    }
    for verdict in &summary.asserts {
        let term = escape(&verdict.term);
        write!(out, "<testcase classname=\"{name}\" name=\"{term}\"")?;
        if verdict.ok {
            writeln!(out, "/>")?;
            continue;
        }
        let observed = verdict.observed.map_or("not observed".to_owned(), |value| {
            format!("observed {value}")
        });
        writeln!(
            out,
            "><failure type=\"assertion\" message=\"{observed}\">{term}: {observed}</failure></testcase>"
        )?;
    }
    writeln!(out, "</testsuite>\n</testsuites>")
}

/// The numbers of the report that were seen.
fn numbers(summary: &DrillSummary) -> Vec<(&'static str, f64)> {
    let count = |number: Option<u64>| number.map(|number| number as f64);
    let added = &summary.added_ms;
    [
        ("detection_ms", summary.detection_ms),
        ("failover_ms", summary.failover_ms),
        ("failed", count(summary.failed)),
        ("added_ms.p50", added.p50),
        ("added_ms.p99", added.p99),
        ("added_ms.max", added.max),
        ("failback_ms", summary.failback_ms),
        ("held", count(summary.held)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}
