//! Metrics about the instance itself rather than about a listener or an upstream.

use super::Handles;
use crate::clock;
use crate::metrics::{Gauge, Metrics, family};
use crate::sys::limits;

/// Sets what does not change, and creates the counters so that their first increase is seen as one.
pub(super) fn init(metrics: &Metrics, workers: usize) {
    let commit = option_env!("ENTRYWAY_COMMIT").unwrap_or("");
    metrics
        .gauge(&family::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), commit])
        .set(1.0);
    // Read once: computed at each scrape from two clocks it would differ by some microseconds every time.
    let start = seconds_since_epoch();
    for family in [
        &family::START_TIME_SECONDS,
        &family::PROCESS_START_TIME_SECONDS,
    ] {
        metrics.gauge(family, &[]).set(start);
    }
    metrics.gauge(&family::WORKERS, &[]).set(workers as f64);
    metrics.gauge(&family::DRAINING, &[]).set(0.0);
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

/// Brings up to date what is measured on demand.
pub(super) fn update(handles: &Handles) {
    let Handles {
        metrics,
        registry,
        upstreams,
        ..
    } = handles;
    registry.settle();
    let now = clock::now();
    for name in upstreams
        .iter()
        .flat_map(|upstream| upstream.view.load().names.clone())
    {
        if let Some(answered) = name.answered {
            metrics
                .gauge(&family::DNS_AGE_SECONDS, &[&name.name])
                .set(now.since(answered).as_secs_f64());
        }
    }
    let set = |family, value: f64| metrics.gauge(family, &[]).set(value);
    set(
        &family::PROCESS_CPU_SECONDS,
        limits::cpu_time().unwrap_or_default().as_secs_f64(),
    );
    set(
        &family::PROCESS_RESIDENT_MEMORY_BYTES,
        limits::resident_bytes().unwrap_or(0) as f64,
    );
    set(
        &family::PROCESS_OPEN_FDS,
        limits::open_descriptors().unwrap_or(0) as f64,
    );
    set(&family::PROCESS_MAX_FDS, limits::max_descriptors() as f64);
    set(
        &family::LOG_LINES_DROPPED,
        handles.events.log().dropped() as f64,
    );
}
