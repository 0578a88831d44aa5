//! The pool of one upstream: the actor that is its one writer, [`Feed`] into it, [`View`] of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use fact::Fact;
use snapshot::Snapshot;

pub mod endpoint;
pub mod fact;
pub mod identity;
pub mod order;
pub mod snapshot;
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
