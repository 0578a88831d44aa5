//! All live connections, for `/v1/connections`, the supervisor and the metrics.
//!
//! Owns the ids and the shared part of each connection ([`Entry`]). Sharded, so that accepting on one worker does not
//! wait for another; what a reader sees is consistent for each entry, not across entries.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::metrics::EndpointMetrics;
use crate::clock::Moment;
use crate::events::Reason;
use crate::relay::{CommandChannel, ConnStats};
use crate::types::{ListenerName, UpstreamName};
use crate::upstream::endpoint::Candidate;

/// Shards of the table.
const SHARDS: usize = 16;

/// The live connections of one instance. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shards: [Mutex<HashMap<u64, Arc<Entry>>>; SHARDS],
    next: AtomicU64,
    live: AtomicUsize,
    /// Of these, the ones that count against the limit.
    admitted: AtomicUsize,
    /// Why connections that are dropped unfinished end, once that is in order: set before the data threads stop.
    ending: Mutex<Option<Reason>>,
}

/// The shared part of one connection.
#[derive(Debug)]
pub struct Entry {
    /// Its number, from 1.
    pub id: u64,
    /// The listener that accepted it.
    pub listener: ListenerName,
    /// The upstream it is for.
    pub upstream: UpstreamName,
    pub client: SocketAddr,
    /// When it was accepted.
    pub accepted: Moment,
    pub stats: ConnStats,
    pub commands: CommandChannel,
    phase: Mutex<ConnectionPhase>,
}

/// Where a connection is in its life.
#[derive(Clone, Debug, Default)]
pub enum ConnectionPhase {
    /// On its way to an upstream.
    #[default]
    Dialling,
    /// Waiting for one.
    Parked,
    /// Connected to this candidate.
    Relaying {
        /// Where it leads.
        candidate: Candidate,
        /// Since when.
        since: Moment,
        /// Where its bytes are counted.
        metrics: Arc<EndpointMetrics>,
    },
    /// Turned away: FIN sent, waiting for the client's.
    Leaving,
}

// === impl Registry ===

impl Registry {
    /// Enters a connection.
    pub(super) fn enter(
        &self,
        listener: ListenerName,
        upstream: UpstreamName,
        client: SocketAddr,
    ) -> Arc<Entry> {
        let stats = ConnStats::default();
        let entry = Arc::new(Entry {
            id: self.inner.next.fetch_add(1, Relaxed) + 1,
            listener,
            upstream,
            client,
            accepted: stats.created(),
            stats,
            commands: CommandChannel::default(),
            phase: Mutex::default(),
        });
        self.inner.live.fetch_add(1, Relaxed);
        self.shard(entry.id).insert(entry.id, Arc::clone(&entry));
        entry
    }

    /// Takes it out.
    pub(super) fn leave(&self, entry: &Entry) {
        if self.shard(entry.id).remove(&entry.id).is_some() {
            self.inner.live.fetch_sub(1, Relaxed);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.inner.live.load(Relaxed)
    }

    /// How many count against the limit: those rejected at accept do not.
    pub fn admitted(&self) -> usize {
        self.inner.admitted.load(Relaxed)
    }

    /// Counts one more against the limit; false, and nothing counted, when there are `most` already.
    pub(super) fn admit(&self, most: usize) -> bool {
        let more = |admitted| (admitted < most).then_some(admitted + 1);
        let admitted = &self.inner.admitted;
        admitted.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    pub(super) fn dismiss(&self) {
        self.inner.admitted.fetch_sub(1, Relaxed);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `look` with each; in no order. One shard is locked at a time, so `look` should be quick.
    pub fn each(&self, mut look: impl FnMut(&Arc<Entry>)) {
        for shard in &self.inner.shards {
            lock(shard).values().for_each(&mut look);
        }
    }

    /// The oldest ones, at most `limit`.
    pub fn oldest(&self, limit: usize) -> Vec<Arc<Entry>> {
        let mut all = Vec::with_capacity(self.len());
        self.each(|entry| all.push(Arc::clone(entry)));
        all.sort_unstable_by_key(|entry| entry.id);
        all.truncate(limit);
        all
    }

    /// Adds to the metrics what has moved since the last call: before each scrape.
    pub fn settle(&self) {
        self.each(|entry| entry.settle());
    }

    /// From now on a connection that is dropped unfinished ends for this reason, not as a bug of ours.
    pub fn set_ending(&self, reason: Reason) {
        *lock(&self.inner.ending) = Some(reason);
    }

    /// The reason set by [`Registry::set_ending`].
    pub(super) fn ending(&self) -> Option<Reason> {
        *lock(&self.inner.ending)
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        lock(&self.inner.shards[id as usize % SHARDS])
    }
}

// === impl Entry ===

impl Entry {
    /// Where it is now.
    pub fn phase(&self) -> ConnectionPhase {
        lock(&self.phase).clone()
    }

    pub(super) fn set_phase(&self, place: ConnectionPhase) {
        *lock(&self.phase) = place;
    }

    /// The candidate it is connected to, and since when.
    pub fn candidate(&self) -> Option<(Candidate, Moment)> {
        self.relaying(|candidate, since| (candidate.clone(), since))
    }

    /// Calls `look` with the candidate it is connected to, and since when; `None` while there is none.
    pub fn relaying<T>(&self, look: impl FnOnce(&Candidate, Moment) -> T) -> Option<T> {
        match &*lock(&self.phase) {
            ConnectionPhase::Relaying {
                candidate, since, ..
            } => Some(look(candidate, *since)),
            _ => None,
        }
    }

    /// Whether it is connected, and nothing is under way: see [`ConnStats::at_rest`].
    pub fn at_rest(&self, now: Moment, quiet: Duration) -> bool {
        self.relaying(|_, since| self.stats.at_rest(now, since, quiet)) == Some(true)
    }

    /// How long nothing has moved.
    pub fn idle(&self, now: Moment) -> Duration {
        now.since(self.stats.last_moved())
    }

    /// Adds to the metrics what has moved since the last call.
    pub(super) fn settle(&self) {
        if let ConnectionPhase::Relaying { metrics, .. } = &*lock(&self.phase) {
            metrics.settle(&self.stats);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
