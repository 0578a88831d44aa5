//! Carries numbers that others only keep into the metrics, once a second: bytes of live connections, and the relay's
//! shared counts with their log lines.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::connection::Registry;
use crate::events::{Events, event};
use crate::metrics::{Counter, Gauge, Metrics, family};
use crate::relay::RelayShared;

const EVERY: Duration = Duration::from_secs(1);

/// What was exported so far.
#[derive(Debug)]
pub(super) struct Export {
    counters: Arc<RelayShared>,
    metrics: Metrics,
    events: Events,
    pipes: Gauge,
    stalls: (Counter, u64),
    gave_up: (Counter, u64),
    fallbacks: HashMap<&'static str, u64>,
    last: Option<Moment>,
}

// === impl Export ===

impl Export {
    pub(super) fn new(counters: Arc<RelayShared>, metrics: &Metrics, events: &Events) -> Self {
        Self {
            counters,
            pipes: metrics.gauge(&family::PIPES_IN_USE, &[]),
            stalls: (metrics.counter(&family::STALLS, &[]), 0),
            gave_up: (metrics.counter(&family::RESET_GAVE_UP, &[]), 0),
            fallbacks: HashMap::new(),
            metrics: metrics.clone(),
            events: events.clone(),
            last: None,
        }
    }

    pub(super) fn tick(&mut self, registry: &Registry, now: Moment) {
        if self.last.is_some_and(|last| now.since(last) < EVERY) {
            return;
        }
        self.last = Some(now);
        self.export(registry);
    }

    /// Carries everything over now.
    pub(super) fn export(&mut self, registry: &Registry) {
        registry.settle();
        self.pipes.set(self.counters.pipes_in_use() as f64);
        carry(&mut self.stalls, self.counters.stalls());
        carry(&mut self.gave_up, self.counters.reset_gave_up());
        if let Some(picture) = self.counters.take_stall() {
            event!(
                self.events,
                WARN,
                "stall",
                "a direction made no progress although it could have; this is a bug of entryway",
                picture = picture,
            );
        }
        for (reason, count) in self.counters.fallbacks() {
            let known = self.fallbacks.entry(reason).or_default();
            if count > *known {
                if *known == 0 {
                    // Once per reason: the metric tells how often.
                    event!(
                        self.events,
                        INFO,
                        "splice.fallback",
                        "copying bytes through user space",
                        reason = reason,
                    );
                }
                let counter = self.metrics.counter(&family::SPLICE_FALLBACKS, &[reason]);
                counter.increment(count - *known);
                *known = count;
            }
        }
    }
}

/// Adds to a counter what a count has grown by.
fn carry((counter, known): &mut (Counter, u64), count: u64) {
    counter.increment(count.saturating_sub(*known));
    *known = count;
}
