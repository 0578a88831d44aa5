//! One zone: its address, its mode, what it has counted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::config::MockConfig;
use super::mode::Mode;

/// One fake entry point.
#[derive(Debug)]
pub struct Zone {
    name: String,
    address: SocketAddr,
    /// Written by the door's task only, after the listening socket is as the mode wants it.
    pub(super) mode: watch::Sender<Mode>,
    orders: mpsc::Sender<Order>,
    pub(super) latency: Duration,
    pub(super) slow_by: Duration,
    pub(super) identity: String,
    pub(super) accepted: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) posts: AtomicU64,
}

/// What a zone has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted, the ones that were reset or closed at once included.
    pub accepted: u64,
    /// Requests read, probes included.
    pub requests: u64,
    /// Those of them that were POST: what clients asked for.
    pub posts: u64,
}

/// Switch the mode, then say so.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) mode: Mode,
    pub(super) done: oneshot::Sender<io::Result<()>>,
}

/// The zone of this name.
pub(super) fn find<'a>(zones: &'a [Arc<Zone>], name: &str) -> Option<&'a Arc<Zone>> {
    zones.iter().find(|zone| zone.name() == name)
}

// === impl Zone ===

impl Zone {
    pub(super) fn new(
        name: String,
        address: SocketAddr,
        config: &MockConfig,
    ) -> (Self, mpsc::Receiver<Order>) {
        let (orders, inbox) = mpsc::channel(8);
        let zone = Self {
            name,
            address,
            mode: watch::Sender::new(Mode::Ok),
            orders,
            latency: config.latency,
            slow_by: config.slow_by,
            identity: config.identity.clone(),
            accepted: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            posts: AtomicU64::new(0),
        };
        (zone, inbox)
    }

    /// Its name as asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens (while it does).
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it behaves now.
    pub fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Switches it; in force when this returns.
    pub async fn set_mode(&self, mode: Mode) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the mock has ended");
        let (done, outcome) = oneshot::channel();
        self.orders
            .send(Order { mode, done })
            .await
            .map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    /// What the zone has seen so far.
    pub fn counts(&self) -> Counts {
        Counts {
            accepted: self.accepted.load(Relaxed),
            requests: self.requests.load(Relaxed),
            posts: self.posts.load(Relaxed),
        }
    }
}
