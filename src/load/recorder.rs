//! What one generator thread has measured, and how the threads' results are added up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::connection::{Bytes, Failure};
use crate::clock::Moment;

/// Significant digits of every histogram: values are exact to 0.1 %.
const DIGITS: u8 = 3;

/// Longest latency that is told apart, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;

/// Results of one second, by the time of completion.
#[derive(Clone, Debug)]
pub(super) struct Interval {
    /// Seconds from the start of the measured time.
    pub(super) second: u64,
    pub(super) ok: u64,
    pub(super) failed: u64,
    /// Corrected latency in nanoseconds, successful requests only.
    pub(super) latency: Histogram<u64>,
}

/// One request, for whoever wants to know more than sums.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was due.
    pub intended: Moment,
    pub done: Moment,
    /// The port that its connection had on this side, where there was one.
    pub local_port: Option<u16>,
    /// When that connection was made.
    pub connected: Option<Moment>,
    /// Whether it was sent a second time.
    pub repeated: bool,
    /// Why it failed, as in `by_error`; `None`: it was answered.
    pub error: Option<String>,
}

/// Requests as they end, from all threads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    list: Arc<Mutex<Vec<Sample>>>,
}

/// Everything measured, of one thread or of all.
#[derive(Clone, Debug)]
pub(super) struct Results {
    pub(super) ok: u64,
    pub(super) skipped: u64,
    pub(super) failures: BTreeMap<Failure, u64>,
    pub(super) bytes: Bytes,
    /// From the intended time of sending, nanoseconds, successful requests only.
    pub(super) corrected: Histogram<u64>,
    /// From the real time of sending, nanoseconds, successful requests only.
    pub(super) uncorrected: Histogram<u64>,
    /// How late requests were sent, nanoseconds.
    pub(super) lateness: Histogram<u64>,
    /// How long after the measured time its last request was sent: 0 where the rate was kept up with.
    pub(super) overrun: Duration,
}

/// When a request was due, sent and done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) intended: Moment,
    pub(super) sent: Moment,
    pub(super) done: Moment,
}

/// The measured time of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) start: Moment,
    pub(super) length: Duration,
}

/// Records for one thread; each finished second goes to the collector.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) results: Results,
    window: Window,
    interval: Interval,
    finished: std::sync::mpsc::Sender<Interval>,
    samples: Option<Samples>,
}

/// A histogram of nanoseconds.
pub(super) fn histogram() -> Histogram<u64> {
    let mut histogram =
        Histogram::new(DIGITS).unwrap_or_else(|_| unreachable!("3 digits are allowed"));
    histogram.auto(true);
    histogram
}

fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST);
    // Cannot fail: the histogram grows to what it is given.
    let _ = histogram.record(nanos.clamp(1, LONGEST));
}

/// Adds `from` to `to`.
pub(super) fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    // Fails only where the target cannot grow; it can.
    let _ = to.add(from);
}

// === impl Samples ===

impl Samples {
    /// Those that have ended since the last call.
    pub fn take(&self) -> Vec<Sample> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, sample: Sample) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(sample);
    }
}

// === impl Interval ===

impl Interval {
    fn new(second: u64) -> Self {
        Self {
            second,
            ok: 0,
            failed: 0,
            latency: histogram(),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        add(&mut self.latency, &other.latency);
    }
}

// === impl Results ===

impl Results {
    pub(super) fn new() -> Self {
        Self {
            ok: 0,
            skipped: 0,
            failures: BTreeMap::new(),
            bytes: Bytes::default(),
            corrected: histogram(),
            uncorrected: histogram(),
            lateness: histogram(),
            overrun: Duration::ZERO,
        }
    }

    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.skipped += other.skipped;
        for (failure, count) in &other.failures {
            *self.failures.entry(failure.clone()).or_default() += count;
        }
        self.bytes.sent += other.bytes.sent;
        self.bytes.received += other.bytes.received;
        add(&mut self.corrected, &other.corrected);
        add(&mut self.uncorrected, &other.uncorrected);
        add(&mut self.lateness, &other.lateness);
        self.overrun = self.overrun.max(other.overrun);
    }
}

// === impl Window ===

impl Window {
    /// Whether a request that was due at `moment` counts.
    pub(super) fn contains(&self, moment: Moment) -> bool {
        moment >= self.start && moment < self.start + self.length
    }
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn new(
        window: Window,
        finished: std::sync::mpsc::Sender<Interval>,
        samples: Option<Samples>,
    ) -> Self {
        Self {
            results: Results::new(),
            window,
            interval: Interval::new(0),
            finished,
            samples,
        }
    }

    /// Hands over one request, where somebody wants it.
    pub(super) fn sample(&self, sample: impl FnOnce() -> Sample) {
        if let Some(samples) = &self.samples {
            samples.push(sample());
        }
    }

    /// Counts one request; those due outside the measured time are left out.
    pub(super) fn record(&mut self, timing: Timing, bytes: Bytes, outcome: Result<(), Failure>) {
        if !self.window.contains(timing.intended) {
            return;
        }
        self.roll(timing.done);
        let results = &mut self.results;
        results.bytes.sent += bytes.sent;
        results.bytes.received += bytes.received;
        record(&mut results.lateness, timing.sent.since(timing.intended));
        let end = self.window.start + self.window.length;
        results.overrun = results.overrun.max(timing.sent.since(end));
        match outcome {
            Ok(()) => {
                let latency = timing.done.since(timing.intended);
                results.ok += 1;
                record(&mut results.corrected, latency);
                record(&mut results.uncorrected, timing.done.since(timing.sent));
                self.interval.ok += 1;
                record(&mut self.interval.latency, latency);
            }
            Err(failure) => {
                *results.failures.entry(failure).or_default() += 1;
                self.interval.failed += 1;
            }
        }
    }

    /// Counts an arrival for which too many requests were in flight.
    pub(super) fn skip(&mut self, intended: Moment) {
        if self.window.contains(intended) {
            self.results.skipped += 1;
        }
    }

    /// Begins a new interval where `now` lies in a later second. What completes after the end counts in the last second.
    fn roll(&mut self, now: Moment) {
        let last = (self.window.length.as_secs_f64().ceil() as u64).saturating_sub(1);
        let second = now.since(self.window.start).as_secs().min(last);
        if second > self.interval.second {
            self.flush();
            self.interval.second = second;
        }
    }

    /// Hands over the interval that is under way.
    pub(super) fn flush(&mut self) {
        let next = Interval::new(self.interval.second);
        let finished = std::mem::replace(&mut self.interval, next);
        if finished.ok + finished.failed > 0 {
            // The collector is gone only when the run is.
            let _ = self.finished.send(finished);
        }
    }
}
