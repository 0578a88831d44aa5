//! The pool of one upstream: the actor that is its one writer, [`Feed`] into it, [`View`] of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use std::net::SocketAddr;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::bus::Bus;
use crate::clock;
use crate::meters::Meters;
use crate::names::UpstreamName;
use endpoint::EndpointSpec;
use fact::Fact;
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
pub mod snapshot;
pub mod state;
pub mod timing;

/// The way in. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Feed {
    facts: mpsc::Sender<Fact>,
    /// Soft facts that a full queue did not take.
    dropped: Arc<AtomicU64>,
}

/// The way out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View {
    current: Arc<ArcSwap<Snapshot>>,
    changes: watch::Receiver<u64>,
}

/// What a pool is made of.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The upstream.
    pub upstream: UpstreamName,
    /// Its endpoints.
    pub endpoints: Vec<EndpointSpec>,
    /// Its settings.
    pub settings: PoolSettings,
    /// Where it is counted.
    pub meters: Meters,
    /// Where it is told.
    pub bus: Bus,
    /// Addresses that are never used.
    pub own_listeners: Vec<SocketAddr>,
}

/// The one writer.
#[derive(Debug)]
pub struct Actor {
    facts: mpsc::Receiver<Fact>,
    pool: Pool,
    current: Arc<ArcSwap<Snapshot>>,
    changes: watch::Sender<u64>,
    generation: u64,
}

/// Makes the pool of an upstream.
pub fn start(config: PoolConfig) -> (Feed, View, Actor) {
    let now = clock::now();
    let pool = Pool::new(config.upstream, config.endpoints, config.settings, config.own_listeners, now, fastrand::u64(..));
    let (tell, facts) = mpsc::channel(4096);
    let current = Arc::new(ArcSwap::from_pointee(publish::snapshot(&pool, now, 0)));
    let (changes, seen) = watch::channel(0);
    let view = View { current: current.clone(), changes: seen };
    let feed = Feed { facts: tell, dropped: Arc::default() };
    (feed, view, Actor { facts, pool, current, changes, generation: 0 })
}

impl Actor {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(Timing::TICK);
        loop {
            tokio::select! {
                fact = self.facts.recv() => {
                    let now = clock::now();
                    self.pool.beat(now);
                    let Some(fact) = fact else { return };
                    self.pool.apply(now, fact);
                    while let Ok(fact) = self.facts.try_recv() { self.pool.apply(now, fact); }
                }
                _ = tick.tick() => { let now = clock::now(); self.pool.beat(now); self.pool.tick(now); }
            }
            if self.pool.take_dirty() {
                self.generation += 1;
                self.current.store(Arc::new(publish::snapshot(&self.pool, clock::now(), self.generation)));
                self.changes.send_replace(self.generation);
            }
        }
    }
}

// === impl Feed ===

impl Feed {
    /// Tells the pool. Never blocks: a full queue drops the fact and counts it.
    pub fn tell(&self, fact: Fact) {
        if self.facts.try_send(fact).is_err() {
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
