//! One zone: its address, its mode and behaviour, and what it has counted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::config::{Behaviour, MockConfig};
use super::mode::ZoneMode;

/// One fake entry point.
#[derive(Debug)]
pub struct Zone {
    name: String,
    address: SocketAddr,
    /// Written by the listener's task only, after the listening socket is as the mode wants it.
    pub(super) mode: watch::Sender<ZoneMode>,
    changes: mpsc::Sender<ModeChange>,
    pub(super) behaviour: ArcSwap<Behaviour>,
    identity: Bytes,
    other_identity: Bytes,
    pub(super) accepted: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) posts: AtomicU64,
    /// How often its connections have been forgotten.
    pub(super) forgotten: AtomicU64,
}

/// What a zone has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneCounts {
    /// Connections accepted, the ones that were reset or closed at once included.
    pub accepted: u64,
    /// Requests read, probes included.
    pub requests: u64,
    /// Those of them that were POST: what clients asked for.
    pub posts: u64,
}

/// A mode that is asked for, and where to report that it is in force.
#[derive(Debug)]
pub(super) struct ModeChange {
    pub(super) mode: ZoneMode,
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
    ) -> (Self, mpsc::Receiver<ModeChange>) {
        let (changes, inbox) = mpsc::channel(8);
        let identity = |prefix: &str| {
            Bytes::from(format!("{{:s3-auth-path \"{prefix}{}\"}}", config.identity))
        };
        let zone = Self {
            name,
            address,
            mode: watch::Sender::new(ZoneMode::Ok),
            changes,
            behaviour: ArcSwap::from_pointee(config.behaviour.clone()),
            identity: identity(""),
            other_identity: identity("other-"),
            accepted: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            posts: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
        };
        (zone, inbox)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens (while it does).
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn mode(&self) -> ZoneMode {
        *self.mode.borrow()
    }

    /// Switches it; in force when this returns.
    pub async fn set_mode(&self, mode: ZoneMode) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the mock has ended");
        let (done, outcome) = oneshot::channel();
        self.changes
            .send(ModeChange { mode, done })
            .await
            .map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    /// Changes latency, sizes and idle limits; for requests and idle times from now on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.behaviour.store(Arc::new(behaviour));
    }

    /// Forgets its connections as they are now, as something on the way does that loses its table: nothing is sent, and the
    /// next request is answered by a reset. One that is under way is answered.
    pub fn forget_idle(&self) {
        self.forgotten.fetch_add(1, Relaxed);
    }

    pub fn behaviour(&self) -> Behaviour {
        Behaviour::clone(&self.behaviour.load())
    }

    /// The body of the identity answer.
    pub(super) fn identity(&self, other: bool) -> Bytes {
        match other {
            false => self.identity.clone(),
            true => self.other_identity.clone(),
        }
    }

    pub fn counts(&self) -> ZoneCounts {
        ZoneCounts {
            accepted: self.accepted.load(Relaxed),
            requests: self.requests.load(Relaxed),
            posts: self.posts.load(Relaxed),
        }
    }
}
