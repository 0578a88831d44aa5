//! `entryway load`: a load generator that tells the truth about latency.
//!
//! An open loop (`--rate`) sends at times that are fixed before the run and measures from the *intended* time of
//! sending, so that a server which stalls cannot hide its stall by holding the generator back ("coordinated omission").
//! A closed loop (`--connections`) measures the plain time between request and answer. Both are recorded in
//! [`hdrhistogram`] histograms, one pair a thread, merged without loss.
//!
//! Invariants: in an open loop `ok + failed + skipped` equals the number of intended requests; requests of the warm-up
//! are sent but never counted; nothing here shares state with a running proxy.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

pub use engine::{Progress, Stop, run, run_sampled};
pub(crate) use html::escape;
pub use output::{LoadOutput as OutputKind, check_folder, write as write_output};
pub use recorder::{Sample, Samples};
pub use report::{Report, SLO_NAMES, Summary};
pub use versus::run as run_versus;
pub use workload::Workload;

mod connection;
mod engine;
pub mod hlog;
mod html;
mod output;
mod pacer;
mod recorder;
mod report;
pub mod slo;
#[cfg(test)]
mod tests;
mod versus;
mod workload;

/// Requests in flight at once in an open loop; later arrivals are skipped and counted.
pub const MAX_IN_FLIGHT: usize = 1024;

/// After this long a request without a complete answer has failed.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadTarget {
    /// `HOST:PORT` as it stands in the report and in the `Host` header.
    pub authority: String,
    /// What the host name resolved to, tried in order at every connect.
    pub addresses: Vec<SocketAddr>,
    /// Path of the URL, `/` where there is none.
    pub path: String,
}

/// How requests are spaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Open loop: so many requests a second, whatever the answers do.
    Rate {
        /// Requests a second.
        per_second: f64,
        /// Whether arrivals are spread at random (a Poisson process) instead of evenly.
        poisson: bool,
    },
    /// Closed loop: every connection sends its next request when it has its answer.
    Connections(usize),
}

/// A rate that grows step by step; each step lasts [`LoadPlan::duration`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// Requests a second in the first step.
    pub from: f64,
    /// Requests a second in the last step.
    pub to: f64,
    /// Requests a second added at each step.
    pub step: f64,
}

/// Everything one run needs to know.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Where to.
    pub target: LoadTarget,
    /// What is sent.
    pub workload: Workload,
    /// How it is spaced.
    pub pace: Pace,
    /// Steps of the rate, instead of one rate.
    pub ramp: Option<Ramp>,
    /// Measured time (of each step, with a ramp).
    pub duration: Duration,
    /// Unmeasured time before it.
    pub warmup: Duration,
    /// Generator threads.
    pub threads: usize,
    /// A request whose kept connection ends before a byte of the answer is sent once more over a new one, as HTTP
    /// clients do: the server may have closed the connection before it saw the request.
    pub repeats_lost: bool,
}

// === impl LoadPlan ===

impl LoadPlan {
    /// The rates to go through, in order, with how long each lasts; empty in a closed loop.
    pub fn stages(&self) -> Vec<(f64, Duration)> {
        match (self.ramp, self.pace) {
            (Some(ramp), _) => {
                let mut stages = vec![(ramp.from, self.duration)];
                let mut rate = ramp.from;
                while rate < ramp.to {
                    rate = (rate + ramp.step).min(ramp.to);
                    stages.push((rate, self.duration));
                }
                stages
            }
            (None, Pace::Rate { per_second, .. }) => vec![(per_second, self.duration)],
            (None, Pace::Connections(_)) => Vec::new(),
        }
    }

    /// Measured time of the whole run.
    pub fn measured(&self) -> Duration {
        let steps = u32::try_from(self.stages().len().max(1)).unwrap_or(u32::MAX);
        self.duration.saturating_mul(steps)
    }

    /// Whether latency counts from intended times of sending.
    pub fn is_open(&self) -> bool {
        self.ramp.is_some() || matches!(self.pace, Pace::Rate { .. })
    }

    /// Connections the run opens at most at the same time.
    pub fn connections(&self) -> usize {
        match self.pace {
            Pace::Connections(connections) if self.ramp.is_none() => connections,
            _ => MAX_IN_FLIGHT,
        }
    }
}

/// A step of a ramp that would take more steps than this is taken for a slip of the pen.
const MAX_STEPS: f64 = 10_000.0;

impl std::str::FromStr for Ramp {
    type Err = String;

    /// Reads `A..B/STEP`, rates in requests a second.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("`{text}` is not a ramp; a ramp looks like 100..1000/100 (requests a second)")
        };
        let (from, rest) = text.split_once("..").ok_or_else(bad)?;
        let (to, step) = rest.split_once('/').ok_or_else(bad)?;
        let [from, to, step] = [from, to, step].map(|part| rate(part).ok());
        let (Some(from), Some(to), Some(step)) = (from, to, step) else {
            return Err(bad());
        };
        if to < from {
            return Err(format!("`{text}`: the last rate is below the first one"));
        }
        if (to - from) / step > MAX_STEPS {
            return Err(format!("`{text}`: more than {MAX_STEPS} steps"));
        }
        Ok(Self { from, to, step })
    }
}

impl fmt::Display for LoadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

/// Reads a rate: a number above 0, `/s` may follow.
///
/// # Errors
///
/// A sentence that names the text.
pub fn rate(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix("/s").unwrap_or(text.trim());
    number
        .parse::<f64>()
        .ok()
        .filter(|rate| rate.is_finite() && *rate > 0.0 && *rate <= 10_000_000.0)
        .ok_or_else(|| format!("`{text}` is not a rate; a rate looks like 500 or 500/s (requests a second, above 0, at most 10,000,000)"))
}
