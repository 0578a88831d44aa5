//! Connected spares: a new client connection that takes one costs no connect round trip.
//!
//! Owns sockets that nobody has used: a spare never carried a byte. They are tended by one task (`tend`), taken by
//! data threads. A spare that is dead when taken is dropped and the caller dials. Off by default.

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::attempt::Opener;
use crate::clock::{self, Moment};
use crate::metrics::{Counter, Metrics, family};
use crate::upstream::endpoint::{Candidate, Endpoint};

/// `[upstream.warm]`: connected spares.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmSettings {
    /// How many for the preferred endpoint.
    pub spares: usize,
    /// How old one may get; servers and load balancers close connections that stay silent.
    #[serde(with = "crate::duration")]
    pub max_age: Duration,
}

/// The spares of one upstream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Warm {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: WarmSettings,
    metrics: Metrics,
    /// How many there are, so that whoever has none pays for no lock.
    count: AtomicUsize,
    spares: Mutex<Vec<Spare>>,
    taken: Notify,
}

/// Not registered with any event loop: it is taken by whichever thread needs it.
#[derive(Debug)]
struct Spare {
    candidate: Candidate,
    stream: StdStream,
    since: Moment,
    /// Its use is counted without a look at the registry.
    used: Counter,
}

// === impl WarmSettings ===

impl Default for WarmSettings {
    fn default() -> Self {
        Self {
            spares: 0,
            max_age: Duration::from_secs(20),
        }
    }
}

// === impl Warm ===

impl Warm {
    /// No spares yet.
    pub fn new(settings: WarmSettings, metrics: Metrics) -> Self {
        Self {
            inner: Arc::new(Inner {
                settings,
                metrics,
                count: AtomicUsize::new(0),
                spares: Mutex::default(),
                taken: Notify::new(),
            }),
        }
    }

    /// What is wanted.
    pub fn settings(&self) -> &WarmSettings {
        &self.inner.settings
    }

    /// Whether spares are wanted at all.
    pub fn is_on(&self) -> bool {
        self.inner.settings.spares > 0
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.inner.count.load(Relaxed)
    }

    /// Resolves when so many were taken since the last call that half are gone.
    pub async fn taken(&self) {
        self.inner.taken.notified().await;
    }

    /// A living spare for exactly this candidate, the youngest first.
    pub(super) fn take(&self, best: &Candidate) -> Option<TcpStream> {
        if self.count() == 0 {
            return None;
        }
        let mut failed = 0;
        let taken = {
            let mut spares = self.lock();
            let taken = loop {
                let Some(place) = spares.iter().rposition(|spare| spare.candidate == *best) else {
                    break None;
                };
                let spare = spares.remove(place);
                if is_alive(&spare.stream) {
                    break Some(spare);
                }
                failed += 1;
            };
            self.inner.count.store(spares.len(), Relaxed);
            if spares.len() * 2 <= self.inner.settings.spares {
                // Half at a time: a burst of clients does not wake the control thread for each of them.
                self.inner.taken.notify_one();
            }
            taken
        };
        self.count_results(&best.endpoint, "failed", failed);
        let spare = taken?;
        let stream = TcpStream::from_std(spare.stream).ok()?;
        spare.used.inc();
        Some(stream)
    }

    /// Drops what is dead, too old or no longer preferred, then connects what is missing, all at once, to the first of
    /// `preferred`: the addresses that are up, best first, of the endpoint that new connections go to. A failure blames
    /// nobody: probes and traffic will see it.
    pub(super) async fn tend(&self, opener: &Opener, preferred: &[Candidate]) {
        self.prune(preferred);
        let Some(best) = preferred.first() else {
            return;
        };
        let [upstream, name, zone] = best.endpoint.labels();
        let labels = [upstream, name, zone, "used"];
        let used = self.inner.metrics.counter(&family::WARM, &labels);
        let missing = self.inner.settings.spares.saturating_sub(self.count());
        let limit = opener.settings.connect_timeout;
        // All at once: one after the other they would take a round trip each, and be gone before the last is there.
        let mut connects = opener.connect_many(best.address.socket, missing, limit);
        while let Some(connected) = connects.join_next().await {
            let Ok(Ok(stream)) = connected else {
                continue;
            };
            let mut spares = self.lock();
            spares.push(Spare {
                candidate: best.clone(),
                stream,
                since: clock::now(),
                used: used.clone(),
            });
            self.inner.count.store(spares.len(), Relaxed);
            self.gauge(&best.endpoint, &spares);
        }
    }

    fn prune(&self, preferred: &[Candidate]) {
        let now = clock::now();
        let mut dropped: Vec<(Arc<Endpoint>, &'static str)> = Vec::new();
        let mut spares = self.lock();
        spares.retain(|spare| {
            let old = now.since(spare.since) >= self.inner.settings.max_age;
            let result = if old || !preferred.contains(&spare.candidate) {
                "expired"
            } else if !is_alive(&spare.stream) {
                "died"
            } else {
                return true;
            };
            dropped.push((spare.candidate.endpoint.clone(), result));
            false
        });
        self.inner.count.store(spares.len(), Relaxed);
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
                .add(count);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.inner
            .spares
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a socket that nobody used is still good: no end and no reset has arrived. A server that spoke first is
/// alive; its bytes stay in the socket for the client that takes it.
fn is_alive(stream: &StdStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}
