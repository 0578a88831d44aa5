//! The shutdown of the core, in the order that ARCHITECTURE.md gives: after a request, a signal, or because another process
//! has taken over.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::{App, Handles, ShutdownOutcome, StopRequest};
use crate::events::event;
use crate::metrics::family;

/// How often a drain checks whether the last connection has ended.
pub(super) const DRAIN_POLL: Duration = Duration::from_millis(10);

/// How often it checks once it lasts long, and what is long.
const LONG_DRAIN_POLL: Duration = Duration::from_millis(250);
const LONG_DRAIN: Duration = Duration::from_secs(10);

/// A drain without a deadline.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Time beyond `max_delay` for the workers to send the last resets.
const LAST_RESETS: Duration = Duration::from_millis(200);

// === impl App ===

impl App {
    /// The shutdown of the core, after the first stop.
    pub(super) async fn drain(mut self, first: StopRequest) -> ShutdownOutcome {
        let began = Instant::now();
        let Handles {
            events,
            metrics,
            registry,
            ..
        } = self.handles.clone();
        let shutdown = self.handles.shutdown.load_full();
        self.draining.fire();
        metrics.gauge(&family::DRAINING, &[]).set(1.0);
        event!(
            events,
            INFO,
            "drain.start",
            "shutting down",
            connections = registry.len(),
        );
        let cut_before = metrics.sum(family::DRAIN_CUT.name);

        let mut urgent = Urgency::new(first);
        let mut now = urgent.is_now();
        // Nobody is sent here any more, and what is here may take its time.
        let (min_delay, max_delay) = match first {
            StopRequest::Replaced { max_drain } => (Duration::ZERO, max_drain.unwrap_or(FOR_EVER)),
            _ => (shutdown.min_delay, shutdown.max_delay),
        };
        if !now && !min_delay.is_zero() {
            now = timeout(min_delay, urgent.wait(&mut self.stops))
                .await
                .is_ok();
        }
        self.listeners.fire();
        self.listeners.finished().await;
        let left = max_delay.saturating_sub(began.elapsed());
        self.ending.drain(left);
        let mut until = Instant::now() + left + LAST_RESETS;
        while !now && !registry.is_empty() && Instant::now() < until {
            let is_long = began.elapsed() > LONG_DRAIN;
            tokio::select! {
                () = sleep(if is_long { LONG_DRAIN_POLL } else { DRAIN_POLL }) => {}
                stop = self.stops.recv() => if let Some(stop) = stop {
                    urgent.record(stop);
                    now = urgent.is_now();
                    // One that was replaced is told to end: from here on as any other.
                    until = until.min(Instant::now() + shutdown.max_delay + LAST_RESETS);
                },
            }
        }
        if !registry.is_empty() {
            self.ending.kill();
            let until = Instant::now() + LAST_RESETS;
            while !registry.is_empty() && Instant::now() < until {
                sleep(DRAIN_POLL).await;
            }
        }
        // A connection that is still there is dropped with its thread, and counted by its guard.
        self.workers.stop();
        registry.settle();
        if let Some(upstream) = self.handles.upstreams.first() {
            upstream.hop_tasks.end().await;
        }
        self.core.shutdown().await;
        let cut = (metrics.sum(family::DRAIN_CUT.name) - cut_before) as u64;
        event!(
            events,
            INFO,
            "drain.end",
            "stopped",
            cut = cut,
            duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
        ShutdownOutcome {
            cut,
            is_replaced: matches!(first, StopRequest::Replaced { .. }),
        }
    }
}

/// Decides which stop ends a drain that is under way.
#[derive(Debug)]
struct Urgency {
    signals: u32,
    now: bool,
}

// === impl Urgency ===

impl Urgency {
    fn new(first: StopRequest) -> Self {
        let mut urgency = Self {
            signals: 0,
            now: false,
        };
        urgency.record(first);
        urgency
    }

    fn record(&mut self, stop: StopRequest) {
        match stop {
            StopRequest::Request | StopRequest::Replaced { .. } => {}
            StopRequest::Signal => self.signals += 1,
            StopRequest::Now => self.now = true,
        }
    }

    fn is_now(&self) -> bool {
        self.now || self.signals > 1
    }

    /// Resolves when the drain is to end now. Cancel-safe: what was received is kept.
    async fn wait(&mut self, stops: &mut mpsc::UnboundedReceiver<StopRequest>) {
        while !self.is_now() {
            match stops.recv().await {
                Some(stop) => self.record(stop),
                // The handles hold a sender for as long as the drain runs.
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_after_a_request_is_the_first_one() {
        let mut urgency = Urgency::new(StopRequest::Request);
        urgency.record(StopRequest::Request);
        urgency.record(StopRequest::Signal);
        assert!(!urgency.is_now());
        urgency.record(StopRequest::Signal);
        assert!(urgency.is_now());
        assert!(Urgency::new(StopRequest::Now).is_now());
        let mut signalled = Urgency::new(StopRequest::Signal);
        signalled.record(StopRequest::Request);
        assert!(!signalled.is_now());
        signalled.record(StopRequest::Signal);
        assert!(signalled.is_now());
    }
}
