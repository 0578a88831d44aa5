//! The sweep: every 100 ms one look over all live connections, on the control thread.
//!
//! Owns what is done to established connections without a byte asking for it: the watch over silent answers, early
//! closing of pairs at rest, the cutting of pairs that wait on a silent address, and the end of a shutdown. Gives
//! orders to tallies only; the relay checks once more on its own thread. Never touches a socket.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock::{self, Moment};
use crate::connection::{Entry, Registry};
use crate::events::Events;
use crate::events::Reason;
use crate::metrics::Metrics;
use crate::relay::{Counters, Order};
use crate::types::UpstreamName;
use crate::upstream::endpoint::Candidate;
use crate::upstream::snapshot::Snapshot;
use crate::upstream::timing::Timing;
use crate::upstream::{Feed, View};
use export::Export;
pub use rest::Rules;
use rest::{Pair, QUIET, Rest};
use silence::Silence;

mod export;
mod rest;
mod silence;

/// Quiet that is enough in the last fifth of a shutdown.
const LAST_QUIET: Duration = Duration::from_millis(100);

/// One upstream, as far as the sweep is concerned.
#[derive(Clone, Debug)]
pub struct Swept {
    /// Its name.
    pub upstream: UpstreamName,
    /// What is known of it.
    pub view: View,
    /// Where suspicions go.
    pub feed: Feed,
    /// What its settings say; a reload swaps it.
    pub rules: Arc<ArcSwap<Rules>>,
}

/// Begins the end of all connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ending {
    phase: Arc<watch::Sender<Phase>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining { since: Moment, until: Moment },
    Killed,
}

/// The sweep, before it runs.
#[derive(Debug)]
pub struct Sweep {
    registry: Registry,
    upstreams: Vec<Watched>,
    phase: watch::Receiver<Phase>,
    export: Export,
}

#[derive(Debug)]
struct Watched {
    swept: Swept,
    silence: Silence,
    rest: Rest,
}

/// The sweep of all upstreams, and the handle that ends everything.
pub fn sweep(
    registry: Registry,
    upstreams: Vec<Swept>,
    counters: Arc<Counters>,
    metrics: &Metrics,
    events: &Events,
) -> (Sweep, Ending) {
    let (phase, seen) = watch::channel(Phase::Serving);
    let watched = |swept: Swept| Watched {
        silence: Silence::default(),
        rest: Rest::default(),
        swept,
    };
    let sweep = Sweep {
        registry,
        upstreams: upstreams.into_iter().map(watched).collect(),
        phase: seen,
        export: Export::new(counters, metrics, events),
    };
    let ending = Ending {
        phase: Arc::new(phase),
    };
    (sweep, ending)
}

// === impl Ending ===

impl Ending {
    /// A shutdown: pairs at rest are closed as they come to rest; what is left after `max_delay` is reset.
    pub fn drain(&self, max_delay: Duration) {
        let since = clock::now();
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Serving;
            if first {
                *phase = Phase::Draining {
                    since,
                    until: since + max_delay,
                };
            }
            first
        });
    }

    /// The second signal: everything is reset now.
    pub fn kill(&self) {
        self.phase.send_replace(Phase::Killed);
    }
}

// === impl Sweep ===

impl Sweep {
    /// Sweeps until dropped.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(Timing::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        let mut watched = true;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = self.phase.changed(), if watched => watched = changed.is_ok(),
            }
            let now = clock::now();
            if last.elapsed() > Timing::TICK + Timing::STALL {
                // Contract 7.12: what seemed silent meanwhile may have been us.
                for watched in &mut self.upstreams {
                    watched.silence.forgive(now);
                }
            }
            last = Instant::now();
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Moment) {
        let phase = *self.phase.borrow();
        let snapshots: Vec<_> = self
            .upstreams
            .iter()
            .map(|watched| watched.swept.view.load())
            .collect();
        for (watched, snapshot) in self.upstreams.iter_mut().zip(&snapshots) {
            watched.rest.begin(snapshot, now);
        }
        let registry = self.registry.clone();
        registry.each(|entry| {
            let found = self.upstreams.iter_mut().zip(&snapshots);
            let found = found
                .into_iter()
                .find(|(watched, _)| watched.swept.upstream == entry.upstream);
            if let Some((watched, snapshot)) = found {
                watched.look(entry, snapshot, now);
            }
            end(entry, phase, now);
        });
        for watched in &mut self.upstreams {
            watched.silence.turn();
        }
        match phase {
            Phase::Killed => registry.set_ending(Reason::Killed),
            Phase::Draining { until, .. } if now >= until => {
                registry.set_ending(Reason::DrainDeadline)
            }
            _ => {}
        }
        self.export.tick(&registry, now);
    }
}

impl Drop for Sweep {
    /// What was counted since the last export is not lost at the end.
    fn drop(&mut self) {
        self.export.export(&self.registry);
    }
}

/// What a shutdown wants of a connection. One that waits for an upstream keeps its hold until the end.
fn end(entry: &Entry, phase: Phase, now: Moment) {
    let order = match phase {
        Phase::Serving => return,
        Phase::Killed => Order::Cut(Reason::Killed),
        Phase::Draining { until, .. } if now >= until => Order::Cut(Reason::DrainDeadline),
        Phase::Draining { since, until } => {
            let last_fifth = until.since(now) * 5 <= until.since(since);
            let quiet = if last_fifth { LAST_QUIET } else { QUIET };
            if entry.relaying(|_, since| Pair::of(entry, since, now).at_rest(now, quiet))
                != Some(true)
            {
                return;
            }
            Order::CloseAtRest(Reason::DrainIdle, quiet)
        }
    };
    entry.tally.order(order);
}

// === impl Watched ===

impl Watched {
    fn look(&mut self, entry: &Entry, snapshot: &Snapshot, now: Moment) {
        let rules = **self.swept.rules.load();
        entry.relaying(|candidate, since| {
            let found = snapshot.all().find(|(endpoint, address)| {
                address.address.socket == candidate.address.socket
                    && endpoint.endpoint.name() == candidate.endpoint.name()
            });
            hear(entry, candidate, now);
            let view = found.map(|(_, view)| view);
            if let Some(fact) = self.silence.look(entry, candidate, view, now) {
                self.swept.feed.tell(fact);
            }
            let pair = Pair::of(entry, since, now);
            if let Some(order) = self.rest.judge(&pair, found, snapshot, rules, now) {
                entry.tally.order(order);
            }
        });
    }
}

/// Bytes from upstream may stand in for a probe (contract 7.11): the pool reads the address's own mark.
fn hear(entry: &Entry, candidate: &Candidate, now: Moment) {
    let Some(heard) = entry.tally.last_download() else {
        return;
    };
    // Heard since the last look; a look that came late misses nothing that matters for seconds.
    if now.since(heard) <= 2 * Timing::TICK {
        candidate.address.hear();
    }
}

#[cfg(test)]
mod tests;
