//! The numbers about the instance itself.

use crate::metrics::{Gauge, Meters, family};

pub(super) fn say_what_runs(meters: &Meters, workers: usize) {
    let commit = option_env!("ENTRYWAY_COMMIT").unwrap_or("");
    meters
        .gauge(&family::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), commit])
        .set(1.0);
    meters
        .gauge(&family::START_TIME_SECONDS, &[])
        .set(seconds_since_epoch());
    meters.gauge(&family::WORKERS, &[]).set(workers as f64);
    meters.gauge(&family::DRAINING, &[]).set(0.0);
    // From the start, so that an increase is seen as one.
    for counter in [&family::WAKEUPS, &family::PANICS, &family::DRAIN_CUT] {
        let _zero = meters.counter(counter, &[]);
    }
    reload_gauges(meters, true);
}

pub(super) fn reload_gauges(meters: &Meters, applied: bool) {
    let flag: Gauge = meters.gauge(&family::CONFIG_LAST_RELOAD_SUCCESSFUL, &[]);
    flag.set(if applied { 1.0 } else { 0.0 });
    if applied {
        meters
            .gauge(&family::CONFIG_LAST_RELOAD_TIMESTAMP_SECONDS, &[])
            .set(seconds_since_epoch());
    }
}

fn seconds_since_epoch() -> f64 {
    std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0.0, |since| since.as_secs_f64())
}
