//! Result files: JSON, histogram log, HTML and CSV, by the ending of their name.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::{Report, hlog, html};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadOutput {
    /// The summary.
    Json,
    /// The histogram of corrected latency.
    Hlog,
    /// One page with charts.
    Html,
    /// The timeline, one line a second.
    Csv,
}

// === impl LoadOutput ===

impl LoadOutput {
    /// By the ending of the name.
    ///
    /// # Errors
    ///
    /// A sentence that names the file and the endings there are.
    pub fn of(path: &str) -> Result<Self, String> {
        let ending = Path::new(path)
            .extension()
            .and_then(|ending| ending.to_str());
        match ending {
            Some("json") => Ok(Self::Json),
            Some("hlog") => Ok(Self::Hlog),
            Some("html") => Ok(Self::Html),
            Some("csv") => Ok(Self::Csv),
            _ => Err(format!(
                "`{path}`: a result file ends in .json, .hlog, .html or .csv"
            )),
        }
    }
}

/// Whether a result file can be made there, as far as can be said without making it: that is known before a run, not
/// behind it.
///
/// # Errors
///
/// A sentence that names the folder.
pub fn check_folder(path: &str) -> Result<(), String> {
    let folder = Path::new(path).parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    match folder.is_none_or(Path::is_dir) {
        true => Ok(()),
        false => Err(format!(
            "`{path}`: its folder does not exist; make it first, or name another"
        )),
    }
}

/// Writes one result file.
///
/// # Errors
///
/// What the system says.
pub fn write(report: &Report, path: &str, kind: LoadOutput) -> io::Result<()> {
    let content = match kind {
        LoadOutput::Json => {
            let mut json = serde_json::to_vec_pretty(&report.summary)?;
            json.push(b'\n');
            json
        }
        LoadOutput::Hlog => hlog::write(report, SystemTime::now())?,
        LoadOutput::Html => html::page(report).into_bytes(),
        LoadOutput::Csv => csv(report).into_bytes(),
    };
    std::fs::write(path, content)
}

fn csv(report: &Report) -> String {
    let mut out = "t_s,ok,failed,p50_ms,p99_ms\n".to_owned();
    let cell = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for second in &report.summary.timeline {
        let _ = writeln!(
            out,
            "{},{},{},{},{}",
            second.t_s,
            second.ok,
            second.failed,
            cell(second.p50_ms),
            cell(second.p99_ms)
        );
    }
    out
}
