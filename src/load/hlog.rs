//! Histogram logs (`.hlog`, the format of HdrHistogram's log writer, version 1.3): written, read and merged.
//!
//! Values are whole microseconds of corrected latency, successful requests only. Counts that a histogram cannot carry
//! (failed and skipped requests, bytes) stand in a comment line that other readers pass over.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use super::Report;
use super::report::{Requests, Traffic};

/// Begins the comment with our own counts.
const COUNTS: &str = "entryway: ";

/// A file that is larger than this is no histogram log of ours.
const LARGEST: u64 = 256 * 1024 * 1024;

/// Why histogram logs cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// A file holds something else.
    #[error("{path}: not a histogram log: {why}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What a histogram cannot carry.
#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    target: String,
    duration_s: f64,
    requests: Requests,
    bytes: Traffic,
}

/// The log of one run.
pub(super) fn write(report: &Report, now: SystemTime) -> io::Result<Vec<u8>> {
    let summary = &report.summary;
    let duration = Duration::from_secs_f64(summary.duration_s.max(0.0));
    let counts = Counts {
        target: summary.target.clone(),
        duration_s: summary.duration_s,
        requests: summary.requests.clone(),
        bytes: summary.bytes,
    };
    let counts = serde_json::to_string(&counts).map_err(io::Error::other)?;
    let mut micros = Histogram::<u64>::new(3).map_err(io::Error::other)?;
    micros.auto(true);
    for value in report.corrected.iter_recorded() {
        let at = (value.value_iterated_to() / 1000).max(1);
        micros
            .record_n(at, value.count_since_last_iteration())
            .map_err(io::Error::other)?;
    }
    let start = now.checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut out = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("{COUNTS}{counts}"))
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(1000.0)
        .begin_log_with(&mut out, &mut serializer)?;
    writer
        .write_histogram(&micros, Duration::ZERO, duration, None)
        .map_err(|error| io::Error::other(format!("{error:?}")))?;
    Ok(out)
}

/// Adds up the logs of several generators that ran at the same time.
///
/// # Errors
///
/// A file that cannot be read or is no histogram log.
pub fn merge(paths: &[impl AsRef<Path>]) -> Result<Report, MergeError> {
    let mut corrected = super::recorder::histogram();
    let mut requests = Requests::default();
    let mut bytes = Traffic::default();
    let (mut targets, mut seconds) = (Vec::new(), 0f64);
    for path in paths {
        let path = path.as_ref();
        let text = read(path)?;
        let format = |why: String| MergeError::Format {
            path: path.display().to_string(),
            why,
        };
        let counts = counts_of(&text);
        let mut here = 0;
        for entry in IntervalLogIterator::new(&text) {
            let entry = entry.map_err(|_| format("a line that cannot be read".to_owned()))?;
            if let LogEntry::Interval(interval) = entry {
                let histogram = decode(interval.encoded_histogram()).map_err(&format)?;
                here += histogram.len();
                for value in histogram.iter_recorded() {
                    let nanos = value.value_iterated_to().saturating_mul(1000);
                    let _ = corrected.record_n(nanos.max(1), value.count_since_last_iteration());
                }
                if counts.is_none() {
                    seconds = seconds
                        .max((interval.start_timestamp() + interval.duration()).as_secs_f64());
                }
            }
        }
        match counts {
            Some(counts) => {
                requests.ok += counts.requests.ok;
                requests.failed += counts.requests.failed;
                requests.skipped += counts.requests.skipped;
                for (cause, count) in counts.requests.by_error {
                    *requests.by_error.entry(cause).or_default() += count;
                }
                bytes.sent += counts.bytes.sent;
                bytes.received += counts.bytes.received;
                seconds = seconds.max(counts.duration_s);
                if !targets.contains(&counts.target) {
                    targets.push(counts.target);
                }
            }
            None if here == 0 => return Err(format("it holds no histogram".to_owned())),
            None => requests.ok += here,
        }
    }
    Ok(Report::merged(
        targets.join(", "),
        corrected,
        requests,
        bytes,
        seconds,
    ))
}

fn read(path: &Path) -> Result<Vec<u8>, MergeError> {
    let failed = |error| MergeError::Read {
        path: path.display().to_string(),
        error,
    };
    let about = std::fs::metadata(path).map_err(failed)?;
    if !about.is_file() || about.len() > LARGEST {
        return Err(MergeError::Format {
            path: path.display().to_string(),
            why: "no regular file of at most 256 MiB".to_owned(),
        });
    }
    std::fs::read(path).map_err(failed)
}

fn counts_of(text: &[u8]) -> Option<Counts> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| {
        let json = line.strip_prefix('#')?.trim_start().strip_prefix(COUNTS)?;
        serde_json::from_str(json).ok()
    })
}

fn decode(encoded: &str) -> Result<Histogram<u64>, String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|error| format!("a histogram that is not base64: {error}"))?;
    let mut deserializer = Deserializer::new();
    deserializer
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| format!("a histogram that cannot be read: {error}"))
}
