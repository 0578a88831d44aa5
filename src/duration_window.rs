//! A window of the last durations of something, for a median or a p99 without a lock.
//!
//! Written by data threads (one relaxed store), read by the control thread. A reader may see samples of slightly different
//! times, which does not matter for quantiles of recent samples.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How many samples are kept: the last 100 answers of an address decide what counts as slow.
const KEPT: usize = 100;

/// A ring of the last 100 durations, each in whole microseconds (at most 71 minutes).
#[derive(Debug)]
pub struct DurationWindow {
    /// Samples ever recorded; also where the next one goes.
    count: AtomicU64,
    micros: [AtomicU32; KEPT],
}

// === impl DurationWindow ===

impl Default for DurationWindow {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            micros: [const { AtomicU32::new(0) }; KEPT],
        }
    }
}

impl DurationWindow {
    /// Adds one sample.
    pub fn record(&self, took: Duration) {
        let place = self.count.fetch_add(1, Relaxed) as usize % KEPT;
        self.micros[place].store(took.as_micros().try_into().unwrap_or(u32::MAX), Relaxed);
    }

    /// How many samples were ever recorded.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// The median of the last `count` samples, as far as they are kept.
    pub fn median_of_last(&self, count: u64) -> Option<Duration> {
        let end = self.count();
        let kept = end.min(count).min(KEPT as u64);
        let mut sorted: Vec<u32> = (end - kept..end)
            .map(|index| self.micros[index as usize % KEPT].load(Relaxed))
            .collect();
        sorted.sort_unstable();
        let middle = sorted.len().checked_sub(1)? / 2;
        Some(Duration::from_micros(sorted[middle].into()))
    }

    /// The sample below which this share (0.0 to 1.0) of the kept ones lies; `None` while there is none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let kept = (self.count() as usize).min(KEPT);
        if kept == 0 {
            return None;
        }
        let mut sorted: Vec<u32> = self.micros[..kept]
            .iter()
            .map(|sample| sample.load(Relaxed))
            .collect();
        sorted.sort_unstable();
        let place = ((kept - 1) as f64 * share.clamp(0.0, 1.0)).round() as usize;
        Some(Duration::from_micros(sorted[place].into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_last_hundred() {
        let recent = DurationWindow::default();
        assert_eq!(recent.quantile(0.5), None);
        for micros in 1..=250 {
            recent.record(Duration::from_micros(micros));
        }
        assert_eq!(recent.count(), 250);
        assert_eq!(recent.quantile(0.0), Some(Duration::from_micros(151)));
        assert_eq!(recent.quantile(1.0), Some(Duration::from_micros(250)));
        assert_eq!(recent.quantile(0.5), Some(Duration::from_micros(201)));
    }
}
