//! The thread that serves a connection, and the one beside it that carries it while it is bulk.
//!
//! A task stays on the thread that serves it. What goes to the other one and comes back are the two streams and what a
//! relay has left, so that everything but the relay has one thread.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::oneshot;

use super::Ends;
use crate::clock;
use crate::relay::{self, Ended, Outcome, Paused, Placement, Resumed};

/// What a thread is to run. The future is made there, and stays there.
pub type ThreadJob = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A thread for bulk, beside one that serves connections.
pub trait BulkThread: Debug + Send + Sync {
    /// Whether there is one that works; it is started when there is a need for it.
    fn is_there(&self) -> bool;

    /// Runs this there; dropped where there is none.
    fn run(&self, job: ThreadJob);
}

/// A thread that serves connections, as they see it.
#[derive(Debug)]
pub struct Home {
    /// Connections that it serves, also while the thread for bulk carries them.
    load: AtomicUsize,
    bulk: Box<dyn BulkThread>,
}

/// One connection on the thread that serves it, in whose load it counts until dropped.
#[derive(Debug)]
pub struct AtHome(Arc<Home>);

// === impl Home ===

impl Home {
    pub fn new(bulk: impl BulkThread + 'static) -> Self {
        Self {
            load: AtomicUsize::new(0),
            bulk: Box::new(bulk),
        }
    }

    pub fn load(&self) -> usize {
        self.load.load(Relaxed)
    }
}

// === impl AtHome ===

impl AtHome {
    pub fn new(home: &Arc<Home>) -> Self {
        home.load.fetch_add(1, Relaxed);
        Self(Arc::clone(home))
    }

    pub(super) fn home(&self) -> &Arc<Home> {
        &self.0
    }
}

impl Drop for AtHome {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Relaxed);
    }
}

// === impl Ends ===

impl Ends {
    /// Relays a connection that is misplaced on this thread where it belongs, to its end or until something else is to
    /// carry it. `None`: the other thread has failed, and with it the connection.
    pub(super) async fn relocate(
        mut self: Box<Self>,
        mut ended: Ended,
    ) -> Option<(Box<Self>, Ended)> {
        loop {
            let Outcome::Misplaced(paused) = ended.outcome else {
                return Some((self, ended));
            };
            let home = self.guard.home().filter(|home| home.bulk.is_there());
            let Some(home) = home.map(Arc::clone) else {
                ended = self.resume(paused, Placement::Fixed).await;
                continue;
            };
            (self, ended) = self.carry_as_bulk(&home, paused).await?;
            if matches!(ended.outcome, Outcome::Diverted(_) | Outcome::Misplaced(_)) {
                self.move_here();
            }
            if let Outcome::Misplaced(paused) = ended.outcome {
                ended = self.resume(paused, Placement::Shared).await;
            }
        }
    }

    /// Relays on the thread for bulk, until it is misplaced there too, or has ended.
    async fn carry_as_bulk(
        mut self: Box<Self>,
        home: &Home,
        paused: Box<Paused>,
    ) -> Option<(Box<Self>, Ended)> {
        let (give_back, given_back) = oneshot::channel();
        home.bulk.run(Box::new(move || {
            Box::pin(async move {
                self.move_here();
                let ended = self.resume(paused, Placement::Bulk).await;
                // Where nobody waits, the process ends.
                let _ = give_back.send((self, ended));
            })
        }));
        given_back.await.ok()
    }

    async fn resume(&mut self, paused: Box<Paused>, placement: Placement) -> Ended {
        // Bytes have moved: there is nothing to retry.
        let mut args = self.guard.relay_args(clock::now(), false, Vec::new());
        args.placement = placement;
        args.resumed = Some(Resumed::Paused(paused));
        relay::relay(&mut self.down, &mut self.up, args).await
    }

    fn move_here(&mut self) {
        for stream in [&mut self.down, &mut self.up] {
            // Refused (no descriptor is left), it stays with the event loop that it has.
            let _ = stream.move_here();
        }
    }
}
