//! Preconnected sockets ("spares"): a client connection that takes one waits for no connect round trip.
//!
//! Spares belong to one upstream, lead to the endpoint that new connections go to, and have never carried a byte. One
//! task maintains them ([`keep_preconnected`]), data threads take them. A spare that is dead when taken is dropped, and
//! the caller dials. Off by default.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::Dialer;
use super::attempt::Connector;
use super::hop::Lease;
use super::spare_stream::SpareStream;
use crate::clock::{self, Moment};
use crate::metrics::{Counter, Metrics, family};
use crate::stream::Stream;
use crate::sys::socket::TcpOptions;
use crate::upstream::SnapshotReader;
use crate::upstream::endpoint::{Candidate, Endpoint};
use crate::upstream::snapshot::{HealthState, ProbeMode};

/// How often spares are checked when nothing happens.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// A spare that dies before this age is of no use.
const YOUNG: Duration = Duration::from_secs(1);

/// Pause before spares are connected again: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// `[upstream.warm]`: connected spares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreconnectSettings {
    /// Spares for the preferred endpoint.
    pub spares: usize,
    /// Age at which a spare is replaced; 0 = never. Servers and load balancers close connections that stay silent.
    #[serde(with = "crate::duration")]
    pub max_age: Duration,
}

/// How many spares all upstreams together may hold. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SpareLimit {
    permits: Arc<Semaphore>,
}

/// The spares of one upstream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Preconnected {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: PreconnectSettings,
    metrics: Metrics,
    limit: SpareLimit,
    backoff: Mutex<SpareBackoff>,
    /// Length of `spares`, so that an upstream without any needs no lock.
    count: AtomicUsize,
    spares: Mutex<Vec<Spare>>,
    taken: Notify,
    /// The last ones lead to this machine. A connect costs no time there, and a spare costs more CPU than it saves
    /// (0.77 to 0.86 of the rate of connects on loopback): they are connected again at the check interval and not as
    /// fast as clients take them.
    is_local: AtomicBool,
}

/// Any data thread may take it.
#[derive(Debug)]
struct Spare {
    candidate: Candidate,
    stream: SpareStream,
    lease: Option<Lease>,
    since: Moment,
    /// Its socket has its options.
    has_options: bool,
    /// Counts its use without a lookup in the registry.
    used: Counter,
    _permit: OwnedSemaphorePermit,
}

/// Slows down the connecting of spares that nobody can use: an upstream that accepts and ends at once would otherwise be
/// connected to as fast as it can accept.
#[derive(Debug, Default)]
struct SpareBackoff {
    pause: Duration,
    until: Option<Moment>,
}

// === impl PreconnectSettings ===

impl Default for PreconnectSettings {
    fn default() -> Self {
        Self {
            spares: 0,
            max_age: Duration::from_secs(20),
        }
    }
}

// === impl Preconnected ===

impl Preconnected {
    pub fn new(settings: PreconnectSettings, metrics: Metrics, limit: SpareLimit) -> Self {
        Self {
            inner: Arc::new(Inner {
                settings,
                metrics,
                limit,
                backoff: Mutex::default(),
                count: AtomicUsize::new(0),
                spares: Mutex::default(),
                taken: Notify::new(),
                is_local: AtomicBool::new(false),
            }),
        }
    }

    pub fn settings(&self) -> &PreconnectSettings {
        &self.inner.settings
    }

    pub(super) fn is_on(&self) -> bool {
        self.inner.settings.spares > 0
    }

    pub fn count(&self) -> usize {
        self.inner.count.load(Relaxed)
    }

    /// Resolves when half of the spares have been taken since the last call, and others are worth connecting at once.
    pub(super) async fn taken(&self) {
        match self.inner.is_local.load(Relaxed) {
            true => std::future::pending().await,
            false => self.inner.taken.notified().await,
        }
    }

    /// The youngest live spare for this candidate.
    pub(super) fn take(&self, best: &Candidate) -> Option<(Stream, Option<Lease>)> {
        if self.count() == 0 {
            return None;
        }
        let mut failed = 0;
        let taken = {
            let mut spares = self.lock();
            let taken = loop {
                let Some(index) = spares.iter().rposition(|spare| spare.candidate == *best) else {
                    break None;
                };
                let spare = spares.remove(index);
                if spare.stream.is_alive() {
                    break Some(spare);
                }
                failed += 1;
            };
            self.inner.count.store(spares.len(), Relaxed);
            if spares.len() * 2 <= self.inner.settings.spares {
                // Half at a time, so that a burst of clients does not wake the control thread for each of them.
                self.inner.taken.notify_one();
            }
            taken
        };
        self.count_results(&best.endpoint, "failed", failed);
        let spare = taken?;
        let stream = spare.stream.take_here().ok()?;
        spare.used.increment(1);
        Some((stream, spare.lease))
    }

    /// Drops spares that are dead, too old or no longer preferred, then connects the missing ones, all at once, to the
    /// first of `preferred`: the addresses that are up, best first, of the endpoint that new connections go to. A
    /// failure changes no health: probes and traffic will see it.
    pub(super) async fn maintain(&self, connector: &Connector, preferred: &[Candidate]) {
        self.prune(preferred, &connector.settings.tcp);
        let Some(best) = preferred.first() else {
            return;
        };
        let [upstream, name, zone] = best.endpoint.labels();
        let labels = [upstream, name, zone, "used"];
        let used = self.inner.metrics.counter(&family::WARM, &labels);
        if self.backoff().is_waiting() {
            return;
        }
        let missing = self.inner.settings.spares.saturating_sub(self.count());
        let mut permits = self.inner.limit.take(missing);
        let limit = connector.settings.connect_timeout;
        // All at once: one after the other they would take a round trip each, and be taken before the last is there.
        let mut connects = connector.connect_many(&best.address, permits.len(), limit);
        let mut is_local = false;
        while let Some(connected) = connects.join_next().await {
            let (Ok(Ok(new)), Some(permit)) = (connected, permits.pop()) else {
                self.backoff().grow();
                continue;
            };
            is_local |= new.is_local;
            self.inner.is_local.store(is_local, Relaxed);
            let mut spares = self.lock();
            spares.push(Spare {
                candidate: best.clone(),
                stream: new.stream,
                lease: new.lease,
                since: clock::now(),
                has_options: false,
                used: used.clone(),
                _permit: permit,
            });
            self.inner.count.store(spares.len(), Relaxed);
            self.gauge(&best.endpoint, &spares);
        }
    }

    /// Drops them all: nobody knows whether they still lead anywhere. Others are connected.
    pub fn forget(&self) {
        let dropped = std::mem::take(&mut *self.lock());
        self.inner.count.store(0, Relaxed);
        for spare in &dropped {
            self.count_results(&spare.candidate.endpoint, "expired", 1);
            self.gauge(&spare.candidate.endpoint, &[]);
        }
        self.inner.taken.notify_one();
    }

    fn prune(&self, preferred: &[Candidate], options: &TcpOptions) {
        let now = clock::now();
        let mut dropped: Vec<(Arc<Endpoint>, &'static str)> = Vec::new();
        let mut died_young = false;
        let mut spares = self.lock();
        spares.retain_mut(|spare| {
            let age = now.since(spare.since);
            let max_age = self.inner.settings.max_age;
            let old = !max_age.is_zero() && age >= max_age;
            let result = if old || !preferred.contains(&spare.candidate) {
                "expired"
            } else if !spare.stream.is_alive() {
                died_young |= age < YOUNG;
                "died"
            } else {
                // Most are taken before they are that old.
                if age >= YOUNG && !std::mem::replace(&mut spare.has_options, true) {
                    spare.stream.set_options(options);
                }
                return true;
            };
            dropped.push((spare.candidate.endpoint.clone(), result));
            false
        });
        self.inner.count.store(spares.len(), Relaxed);
        match died_young {
            true => self.backoff().grow(),
            false if spares.iter().any(|spare| now.since(spare.since) >= YOUNG) => {
                *self.backoff() = SpareBackoff::default();
            }
            false => {}
        }
        for (endpoint, result) in &dropped {
            self.count_results(endpoint, result, 1);
            self.gauge(endpoint, &spares);
        }
        if let Some(best) = preferred.first() {
            self.gauge(&best.endpoint, &spares);
        }
    }

    fn gauge(&self, endpoint: &Arc<Endpoint>, spares: &[Spare]) {
        let count = spares
            .iter()
            .filter(|spare| Arc::ptr_eq(&spare.candidate.endpoint, endpoint))
            .count();
        let gauge = self
            .inner
            .metrics
            .gauge(&family::WARM_SPARES, &endpoint.labels());
        gauge.set(count as f64);
    }

    fn count_results(&self, endpoint: &Endpoint, result: &str, count: u64) {
        if count > 0 {
            let [upstream, name, zone] = endpoint.labels();
            let labels = [upstream, name, zone, result];
            self.inner
                .metrics
                .counter(&family::WARM, &labels)
                .increment(count);
        }
    }

    fn backoff(&self) -> MutexGuard<'_, SpareBackoff> {
        self.inner
            .backoff
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.inner
            .spares
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SpareLimit ===

impl SpareLimit {
    pub fn new(limit: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// At most this many permits.
    fn take(&self, count: usize) -> Vec<OwnedSemaphorePermit> {
        let permit = |_| Arc::clone(&self.permits).try_acquire_owned().ok();
        (0..count).map_while(permit).collect()
    }
}

impl Default for SpareLimit {
    /// No limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

// === impl Backoff ===

impl SpareBackoff {
    fn is_waiting(&self) -> bool {
        self.until.is_some_and(|until| clock::now() < until)
    }

    fn grow(&mut self) {
        if !self.is_waiting() {
            self.pause = (self.pause * 2).clamp(BACKOFF.0, BACKOFF.1);
            self.until = Some(clock::now() + self.pause);
        }
    }
}

impl Drop for Inner {
    /// A reload may have replaced these spares by none, which maintain no gauge.
    fn drop(&mut self) {
        let spares = self
            .spares
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for spare in spares.drain(..) {
            let labels = spare.candidate.endpoint.labels();
            self.metrics.gauge(&family::WARM_SPARES, &labels).set(0.0);
        }
    }
}

/// Maintains the spares of one upstream until dropped. Where none are wanted it waits for a reload that wants some.
pub async fn keep_preconnected(dialer: Arc<ArcSwap<Dialer>>, mut view: SnapshotReader) {
    loop {
        let dialer = dialer.load_full();
        if !dialer.preconnected().is_on() {
            clock::aligned_sleep(4 * CHECK_INTERVAL).await;
            continue;
        }
        dialer.maintain_spares(&preferred(&view)).await;
        tokio::select! {
            () = dialer.preconnected().taken() => {}
            () = view.changed() => {}
            () = sleep(CHECK_INTERVAL) => {}
        }
    }
}

/// The addresses of the best endpoint that are up, best first.
fn preferred(view: &SnapshotReader) -> Vec<Candidate> {
    let snapshot = view.load();
    // While new connections shift back to a nearer zone, the spares stay with the zone that is left last.
    let mut order = snapshot.order(clock::now(), 1.0);
    let Some(best) = order.first().map(|best| Arc::clone(&best.endpoint)) else {
        return order;
    };
    order.retain(|candidate| {
        Arc::ptr_eq(&candidate.endpoint, &best)
            && snapshot
                .address(candidate.address.socket)
                // Without probes no address is ever known to be up, and clients go there all the same.
                .is_some_and(|view| view.state == HealthState::Up || view.pace == ProbeMode::Off)
    });
    order
}
