//! The pool of one upstream: the actor that is its one writer, [`Feed`] into it, [`View`] of it.
//!
//! Owns the rhythm: all facts that wait are applied, then one snapshot is published; every 100 ms what happens by
//! itself. Promises that telling never blocks, that a full queue drops observations only (never an answer or an
//! order), and that a data thread goes on with the last snapshot when the actor stalls. What facts mean is `state`'s
//! business; it has no clock.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::types::UpstreamName;

use endpoint::EndpointSpec;
use fact::Fact;
use report::Report;
use snapshot::Snapshot;
use state::Pool;
use timing::{PoolSettings, Timing};

pub mod active;
pub mod change;
pub mod dns;
pub mod endpoint;
pub mod fact;
pub mod health;
pub mod identity;
pub mod known;
pub mod near;
pub mod order;
pub mod publish;
pub mod rank;
mod report;
pub mod snapshot;
pub mod state;
pub mod timing;

/// Observations that may wait.
const QUEUE: usize = 1024;

/// What a pool starts with.
#[derive(Debug)]
pub struct PoolConfig {
    /// The upstream.
    pub upstream: UpstreamName,
    /// Its endpoints, candidates among them.
    pub endpoints: Vec<EndpointSpec>,
    /// Its settings.
    pub settings: PoolSettings,
    /// Where the numbers go.
    pub metrics: Metrics,
    /// Where the events go.
    pub events: Events,
    /// Our own listening sockets: never used as addresses.
    pub own_listeners: Vec<SocketAddr>,
}

/// The way in. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Feed {
    observations: mpsc::Sender<Fact>,
    /// Answers and orders: few, and none may be lost.
    orders: mpsc::UnboundedSender<Fact>,
    dropped: Arc<AtomicU64>,
}

/// The way out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View {
    current: Arc<ArcSwap<Snapshot>>,
    changes: watch::Receiver<u64>,
}

/// Everything the actor owns.
struct Actor {
    pool: Pool,
    report: Report,
    observations: mpsc::Receiver<Fact>,
    orders: mpsc::UnboundedReceiver<Fact>,
    current: Arc<ArcSwap<Snapshot>>,
    changes: watch::Sender<u64>,
}

/// The pool of one upstream: its two ends, and the actor, to be run on the control thread. The actor ends when the
/// last [`Feed`] is gone.
pub fn start(config: PoolConfig) -> (Feed, View, impl Future<Output = ()> + use<>) {
    let now = clock::now();
    let pool = Pool::new(
        config.upstream.clone(),
        config.endpoints,
        config.settings,
        config.own_listeners,
        now,
        fastrand::u64(..),
    );
    let first = Arc::new(publish::snapshot(&pool, now, 0));
    let mut report = Report::new(config.upstream, config.metrics, config.events);
    report.picture(&first, now);
    let current = Arc::new(ArcSwap::new(first));
    let (observations, seen) = mpsc::channel(QUEUE);
    let (orders, ordered) = mpsc::unbounded_channel();
    let (changes, changed) = watch::channel(0);
    let actor = Actor {
        pool,
        report,
        observations: seen,
        orders: ordered,
        current: Arc::clone(&current),
        changes,
    };
    let feed = Feed {
        observations,
        orders,
        dropped: Arc::default(),
    };
    let view = View {
        current,
        changes: changed,
    };
    (feed, view, actor.run())
}

// === impl Actor ===

impl Actor {
    async fn run(mut self) {
        let mut tick = interval(Timing::TICK);
        // A late tick is seen by `beat`; catching up would only blur it.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_tick = clock::now();
        loop {
            let (fact, ticked) = tokio::select! {
                biased;
                fact = self.orders.recv() => match fact {
                    Some(fact) => (Some(fact), false),
                    None => return,
                },
                fact = self.observations.recv() => (fact, false),
                _ = tick.tick() => (None, true),
            };
            let now = clock::now();
            // First of all: were we late? Then the timeouts that wait in the queue are void.
            let mut changes = self.pool.beat(now);
            let mut next = fact;
            for _ in 0..QUEUE {
                let Some(fact) = next.take() else { break };
                changes.extend(self.pool.apply(now, fact));
                next = self
                    .orders
                    .try_recv()
                    .or_else(|_| self.observations.try_recv())
                    .ok();
            }
            // One taken beyond the measure must not be lost.
            if let Some(fact) = next {
                changes.extend(self.pool.apply(now, fact));
            }
            // A flood of facts does not hold up what happens by itself.
            let ticked = ticked || now.since(last_tick) >= Timing::TICK;
            if ticked {
                last_tick = now;
                changes.extend(self.pool.tick(now));
            }
            let picture = self.pool.take_dirty().then(|| self.publish(now));
            self.report.changes(&changes);
            match picture {
                Some(picture) => self.report.picture(&picture, now),
                None if ticked => self.report.ages(&self.current.load(), now),
                None => {}
            }
        }
    }

    fn publish(&mut self, now: clock::Moment) -> Arc<Snapshot> {
        let generation = self.current.load().generation + 1;
        let picture = Arc::new(publish::snapshot(&self.pool, now, generation));
        self.current.store(Arc::clone(&picture));
        self.changes.send_replace(generation);
        picture
    }
}

// === impl Feed ===

impl Feed {
    /// Tells the pool. Never blocks: a full queue drops an observation (a probe, a dial, a suspicion) and counts it.
    pub fn tell(&self, fact: Fact) {
        let told = match fact {
            Fact::Probed { .. } | Fact::Dialled { .. } | Fact::Suspect { .. } => {
                self.observations.try_send(fact).is_ok()
            }
            _ => self.orders.send(fact).is_ok(),
        };
        if !told {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Facts that were dropped because the queue was full (or the actor gone).
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

// === impl View ===

impl View {
    /// The present picture.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Resolves when a newer snapshot than the last one this view was told of is published; pending for ever once the
    /// actor is gone.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
