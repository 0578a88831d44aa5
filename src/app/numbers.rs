//! The numbers about the instance itself.

use crate::metrics::{Gauge, Metrics, family};

pub(super) fn say_what_runs(metrics: &Metrics, workers: usize) {
    let commit = option_env!("ENTRYWAY_COMMIT").unwrap_or("");
    metrics
        .gauge(&family::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), commit])
        .set(1.0);
    metrics
        .gauge(&family::START_TIME_SECONDS, &[])
        .set(seconds_since_epoch());
    metrics.gauge(&family::WORKERS, &[]).set(workers as f64);
    metrics.gauge(&family::DRAINING, &[]).set(0.0);
    // From the start, so that an increase is seen as one.
    for counter in [&family::WAKEUPS, &family::PANICS, &family::DRAIN_CUT] {
        let _zero = metrics.counter(counter, &[]);
    }
    reload_gauges(metrics, true);
}

pub(super) fn reload_gauges(metrics: &Metrics, applied: bool) {
    let flag: Gauge = metrics.gauge(&family::CONFIG_LAST_RELOAD_SUCCESSFUL, &[]);
    flag.set(if applied { 1.0 } else { 0.0 });
    if applied {
        metrics
            .gauge(&family::CONFIG_LAST_RELOAD_TIMESTAMP_SECONDS, &[])
            .set(seconds_since_epoch());
    }
}

fn seconds_since_epoch() -> f64 {
    std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0.0, |since| since.as_secs_f64())
}
