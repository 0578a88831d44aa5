//! Which toxics are set on which proxy, when they end, and which connections they divert.
//!
//! One per instance. Every listener is a proxy of its name. A change reaches live connections by the flag on their
//! command channel and by the version that each carried connection watches; with no toxic set neither is ever touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
    fence,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::carry::{self, Chain};
use super::drill::{DrillClaim, DrillFault, LiveFault, Zones};
use super::proxy::{EngineError, Listeners, ProxyFaults, ProxySpec, ProxyView};
use super::toxic::{Toxic, ToxicRequest, ToxicSubject, parse_update, seconds, stream_of};
use crate::clock::{self, Moment};
use crate::connection::{Detour, Diversion, DiversionEnd, Entry, ListenerContext, Registry};
use crate::events::{Events, event};
use crate::interference::Interference;
use crate::metrics::{Metrics, family};
use crate::stream::Stream;
use crate::types::Direction;

mod drills;
mod opening;

/// How long the connections of a proxy that is closed are waited for.
const ENDING: Duration = Duration::from_millis(250);

/// The faults of one instance. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    listeners: Box<dyn Listeners>,
    zones: Box<dyn Zones>,
    interference: Interference,
    drill: Mutex<Option<DrillFault>>,
    claim: Mutex<Option<DrillClaim>>,
    has_drill: AtomicBool,
    /// Held while listeners are opened, closed or led elsewhere.
    opening: tokio::sync::Mutex<()>,
    proxies: Mutex<BTreeMap<String, ProxyFaults>>,
    deadman: Mutex<Option<Instant>>,
    registry: Registry,
    metrics: Metrics,
    events: Events,
    max_ttl: Duration,
    next_id: AtomicU64,
    /// Set while there is any fault, so that a new connection looks without a lock.
    is_active: AtomicBool,
    version: watch::Sender<u64>,
    /// Something that ends by time has changed.
    clock: Notify,
    /// Proxies whose last connections may not have ended.
    removed: Mutex<Vec<String>>,
}

/// The toxics of one connection, by direction.
struct ConnectionChain<'a> {
    engine: &'a Inner,
    entry: &'a Entry,
}

// === impl Engine ===

impl Engine {
    pub fn new(
        registry: Registry,
        metrics: Metrics,
        events: Events,
        max_ttl: Duration,
        interference: Interference,
        listeners: Box<dyn Listeners>,
        zones: Box<dyn Zones>,
    ) -> Self {
        let (version, _) = watch::channel(0);
        Self {
            inner: Arc::new(Inner {
                listeners,
                zones,
                interference,
                drill: Mutex::default(),
                claim: Mutex::default(),
                has_drill: AtomicBool::new(false),
                opening: tokio::sync::Mutex::default(),
                proxies: Mutex::default(),
                deadman: Mutex::default(),
                registry,
                metrics,
                events,
                max_ttl,
                next_id: AtomicU64::new(1),
                is_active: AtomicBool::new(false),
                version,
                clock: Notify::new(),
                removed: Mutex::default(),
            }),
        }
    }

    /// Makes a listener of the settings a proxy.
    pub fn add_configured(
        &self,
        name: &str,
        listen: String,
        upstream: &str,
        context: &Arc<ListenerContext>,
    ) {
        self.insert(
            ProxySpec {
                name: name.to_owned(),
                listen,
                upstream: upstream.to_owned(),
                context: Some(Arc::clone(context)),
                is_configured: true,
            },
            true,
        );
    }

    fn insert(&self, spec: ProxySpec, enabled: bool) {
        if let Some(context) = &spec.context {
            context.set_detour(Arc::new(self.clone()));
        }
        let proxy = ProxyFaults {
            spec,
            enabled,
            toxics: Vec::new(),
        };
        self.inner.count(&proxy);
        self.inner.lock().insert(proxy.spec.name.clone(), proxy);
    }

    pub fn proxies(&self) -> Vec<ProxyView> {
        self.inner.lock().values().map(ProxyFaults::view).collect()
    }

    pub fn proxy(&self, name: &str) -> Result<ProxyView, EngineError> {
        self.inner
            .lock()
            .get(name)
            .map(ProxyFaults::view)
            .ok_or(EngineError::ProxyNotFound)
    }

    pub fn toxics(&self, proxy: &str) -> Result<Vec<Value>, EngineError> {
        self.proxy(proxy).map(|view| view.toxics)
    }

    pub fn toxic(&self, proxy: &str, name: &str) -> Result<Value, EngineError> {
        let proxies = self.inner.lock();
        let proxy = proxies.get(proxy).ok_or(EngineError::ProxyNotFound)?;
        proxy
            .find(name)
            .map(|index| proxy.toxics[index].to_json())
            .ok_or(EngineError::ToxicNotFound)
    }

    pub fn set_toxic(&self, proxy: &str, body: &[u8]) -> Result<Value, EngineError> {
        let mut proxies = self.inner.lock();
        let proxy = proxies.get_mut(proxy).ok_or(EngineError::ProxyNotFound)?;
        let mut request = ToxicRequest::parse(body).map_err(EngineError::Invalid)?;
        if proxy.find(&request.name).is_some() {
            return Err(EngineError::ToxicExists);
        }
        request.read_attributes().map_err(EngineError::Invalid)?;
        proxy.knows(&request)?;
        let id = self.inner.next_id.fetch_add(1, Relaxed);
        let toxic = Arc::new(Toxic::new(id, request, clock::now(), self.inner.max_ttl));
        let shown = toxic.to_json();
        self.inner.set("a fault is set", proxy, &toxic);
        proxy.toxics.push(toxic);
        self.inner.count(proxy);
        drop(proxies);
        self.inner.changed();
        Ok(shown)
    }

    pub fn update_toxic(&self, proxy: &str, name: &str, body: &[u8]) -> Result<Value, EngineError> {
        let mut proxies = self.inner.lock();
        let proxy = proxies.get_mut(proxy).ok_or(EngineError::ProxyNotFound)?;
        let index = proxy.find(name).ok_or(EngineError::ToxicNotFound)?;
        let old = &proxy.toxics[index];
        let (mut effect, mut toxicity) = (old.effect, old.toxicity);
        parse_update(body, &mut effect, &mut toxicity).map_err(EngineError::Invalid)?;
        let toxic = Arc::new(old.updated(effect, toxicity));
        let shown = toxic.to_json();
        self.inner.set("a fault is changed", proxy, &toxic);
        proxy.toxics[index] = toxic;
        drop(proxies);
        self.inner.changed();
        Ok(shown)
    }

    pub fn remove_toxic(&self, proxy: &str, name: &str) -> Result<(), EngineError> {
        let mut proxies = self.inner.lock();
        let proxy = proxies.get_mut(proxy).ok_or(EngineError::ProxyNotFound)?;
        let index = proxy.find(name).ok_or(EngineError::ToxicNotFound)?;
        let toxic = proxy.toxics.remove(index);
        self.inner.cleared(&proxy.spec.name, &toxic);
        self.inner.count(proxy);
        drop(proxies);
        self.inner.changed();
        Ok(())
    }

    /// Enables every proxy, removes every toxic and ends the drill. An address that is taken by now keeps its proxy disabled, and is
    /// the error.
    pub async fn reset(&self) -> Result<(), EngineError> {
        let _opening = self.inner.opening.lock().await;
        let names: Vec<String> = self.inner.lock().keys().cloned().collect();
        let mut result = Ok(());
        for name in names {
            if let Err(error) = self.set_enabled(&name, true).await {
                result = Err(error);
            }
            let mut proxies = self.inner.lock();
            if let Some(proxy) = proxies.get_mut(&name) {
                for toxic in std::mem::take(&mut proxy.toxics) {
                    self.inner.cleared(&name, &toxic);
                }
                self.inner.count(proxy);
            }
        }
        // None is as good as one that is removed.
        let _ = self.end_drill();
        self.inner.changed();
        result
    }

    /// Every fault is removed unless this is called again within that time.
    pub fn arm_deadman(&self, within: Duration) {
        *lock(&self.inner.deadman) = Some(Instant::now() + within);
        // Whoever renews this one is there for the drill as well.
        let _ = self.keep_drill(within);
        self.inner.clock.notify_one();
    }

    /// `GET /faults`.
    pub fn faults(&self) -> Value {
        let now = clock::now();
        let proxies = self.inner.lock();
        let mut faults = Vec::new();
        for proxy in proxies.values() {
            let name = &proxy.spec.name;
            if !proxy.enabled {
                faults.push(json!({
                    "proxy": name, "toxic": Value::Null, "type": "down", "stream": Value::Null,
                    "ttl_left_s": Value::Null, "connections": [],
                }));
            }
            for toxic in &proxy.toxics {
                faults.push(json!({
                    "proxy": name,
                    "toxic": toxic.name,
                    "type": toxic.effect.as_str(),
                    "stream": stream_of(toxic.direction),
                    "ttl_left_s": seconds(toxic.expires.since(now)),
                    "connections": toxic.connections(),
                }));
            }
        }
        drop(proxies);
        let now = Instant::now();
        let mut deadman = lock(&self.inner.deadman).map(|at| at.saturating_duration_since(now));
        let live = self.inner.live();
        if let Some(drill) = &*lock(&self.inner.drill) {
            faults.push(drill.to_json(&live));
            let left = drill.deadman_left(now);
            deadman = Some(deadman.map_or(left, |other| other.min(left)));
        }
        json!({"schema_version": 1, "faults": faults, "deadman_s": deadman.map(seconds)})
    }

    /// One line for each fault, for `/readyz?verbose`.
    pub fn names(&self) -> Vec<String> {
        let proxies = self.inner.lock();
        let mut names = Vec::new();
        for proxy in proxies.values() {
            if !proxy.enabled {
                names.push(format!("{}: down", proxy.spec.name));
            }
            names.extend(proxy.toxics.iter().map(|toxic| {
                format!(
                    "{}: {} ({})",
                    proxy.spec.name,
                    toxic.name,
                    toxic.effect.as_str()
                )
            }));
        }
        names.extend(lock(&self.inner.drill).as_ref().map(DrillFault::name));
        names
    }

    /// Ends what ends by time, and forgets connections that have ended; runs until dropped.
    pub async fn run(self) {
        loop {
            let next = self.expire().await;
            let sweep = match self.inner.forget_removed() {
                true => Duration::from_secs(10),
                false => ENDING,
            };
            let sweep = Instant::now() + sweep;
            tokio::select! {
                () = self.inner.clock.notified() => {}
                () = sleep_until(next.map_or(sweep, |next| next.min(sweep))) => {}
            }
        }
    }

    async fn expire(&self) -> Option<Instant> {
        let fired = {
            let mut deadman = lock(&self.inner.deadman);
            let fired = deadman.is_some_and(|at| at <= Instant::now());
            if fired {
                *deadman = None;
            }
            fired
        };
        if fired {
            event!(
                self.inner.events,
                WARN,
                "fault.clear",
                "the dead-man switch was not renewed in time: every fault is removed",
            );
            if let Err(error) = self.reset().await {
                event!(
                    self.inner.events,
                    WARN,
                    "fault.clear",
                    "a listener stays closed",
                    error = format!("{error:?}"),
                );
            }
        }
        let now = clock::now();
        let mut next: Option<Moment> = None;
        let mut expired = Vec::new();
        let mut live = BTreeSet::new();
        self.inner.registry.each(|entry| {
            live.insert(entry.id);
        });
        for proxy in self.inner.lock().values() {
            for toxic in &proxy.toxics {
                toxic.retain(|id| live.contains(&id));
                if toxic.expires <= now {
                    expired.push((proxy.spec.name.clone(), toxic.name.clone()));
                } else {
                    next = Some(next.map_or(toxic.expires, |next| next.min(toxic.expires)));
                }
            }
        }
        for (proxy, toxic) in expired {
            let _ = self.remove_toxic(&proxy, &toxic);
        }
        let next = next.map(|next| Instant::now() + next.since(clock::now()));
        let deadman = *lock(&self.inner.deadman);
        next.into_iter()
            .chain(deadman)
            .chain(self.keep_up_drill())
            .min()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("faults", &self.names())
            .finish_non_exhaustive()
    }
}

impl Detour for Engine {
    fn connected(&self, entry: &Entry) {
        // The other side of `changed`: either the toxic sees this connection, or this sees that there is a toxic.
        fence(SeqCst);
        if self.inner.is_active.load(Relaxed) {
            self.inner.divert(entry);
        }
    }

    fn carry<'a>(
        &'a self,
        down: &'a mut Stream,
        up: &'a mut Stream,
        diversion: Diversion<'a>,
    ) -> Pin<Box<dyn Future<Output = DiversionEnd> + 'a>> {
        Box::pin(async move {
            let changes = self.inner.version.subscribe();
            let chain = ConnectionChain {
                engine: &self.inner,
                entry: diversion.entry,
            };
            carry::carry(down, up, diversion, &chain, changes).await
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Inner ===

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ProxyFaults>> {
        lock(&self.proxies)
    }

    /// The toxics have changed: live connections leave the relay, or come back to it.
    fn changed(&self) {
        let any =
            self.has_drill.load(Relaxed) || self.lock().values().any(|proxy| proxy.active() > 0);
        let was = self.is_active.swap(any, Relaxed);
        fence(SeqCst);
        if any || was {
            self.registry.each(|entry| self.divert(entry));
        }
        self.version.send_modify(|version| *version += 1);
        self.clock.notify_one();
    }

    fn divert(&self, entry: &Entry) {
        let any = Direction::BOTH
            .into_iter()
            .any(|direction| !self.toxics_of(entry, direction).is_empty());
        let any = any || self.live_fault(entry).is_some() || self.is_closed(entry);
        entry.commands.set_diverted(any);
    }

    /// Removes the series of proxies that are gone, once their last connection has ended; whether none is left.
    fn forget_removed(&self) -> bool {
        let mut removed = lock(&self.removed);
        removed.retain(|name| {
            if self.lock().contains_key(name) {
                return false;
            }
            let mut is_live = false;
            self.registry
                .each(|entry| is_live |= entry.listener.as_str() == name);
            if !is_live {
                // Its name as a listener and the name of its upstream are the same.
                self.metrics.remove(&[("listener", name)]);
                self.metrics.remove(&[("upstream", name)]);
            }
            is_live
        });
        removed.is_empty()
    }

    /// Whether the proxy of a connection is disabled or gone.
    fn is_closed(&self, entry: &Entry) -> bool {
        self.lock()
            .get(entry.listener.as_str())
            .is_none_or(|proxy| !proxy.enabled)
    }

    fn toxics_of(&self, entry: &Entry, direction: Direction) -> Vec<Arc<Toxic>> {
        let Some((candidate, _)) = entry.candidate() else {
            return Vec::new();
        };
        let subject = ToxicSubject {
            connection: entry.id,
            accepted: entry.accepted,
            zone: candidate.endpoint.zone(),
            endpoint: candidate.endpoint.name().as_str(),
        };
        let proxies = self.lock();
        let Some(proxy) = proxies.get(entry.listener.as_str()) else {
            return Vec::new();
        };
        let mut toxics: Vec<_> = proxy
            .toxics
            .iter()
            .filter(|toxic| toxic.direction == direction && toxic.applies_to(subject))
            .cloned()
            .collect();
        drop(proxies);
        if direction == Direction::Download && self.live_fault(entry) == Some(LiveFault::Slow) {
            toxics.extend(
                lock(&self.drill)
                    .as_ref()
                    .map(|drill| Arc::clone(drill.slow())),
            );
        }
        toxics
    }

    fn count(&self, proxy: &ProxyFaults) {
        let drills = self.has_drill.load(Relaxed) && proxy.spec.is_configured;
        let active = proxy.active() + usize::from(drills);
        self.metrics
            .gauge(&family::FAULTS_ACTIVE, &[&proxy.spec.name])
            .set(active as f64);
    }

    fn set(&self, text: &'static str, proxy: &ProxyFaults, toxic: &Toxic) {
        event!(
            self.events,
            INFO,
            "fault.set",
            text,
            listener = proxy.spec.name.as_str(),
            toxic = toxic.name.as_str(),
            "type" = toxic.effect.as_str(),
            stream = stream_of(toxic.direction),
        );
    }

    fn cleared(&self, listener: &str, toxic: &Toxic) {
        event!(
            self.events,
            INFO,
            "fault.clear",
            "a fault is removed",
            listener = listener,
            toxic = toxic.name.as_str(),
            "type" = toxic.effect.as_str(),
            stream = stream_of(toxic.direction),
        );
    }
}

impl Chain for ConnectionChain<'_> {
    fn toxics(&self, direction: Direction) -> Vec<Arc<Toxic>> {
        self.engine.toxics_of(self.entry, direction)
    }

    fn is_clear(&self) -> bool {
        self.live_fault().is_none()
            && Direction::BOTH
                .into_iter()
                .all(|direction| self.toxics(direction).is_empty())
    }

    fn live_fault(&self) -> Option<LiveFault> {
        self.engine.live_fault(self.entry)
    }

    fn is_closed(&self) -> bool {
        self.engine.is_closed(self.entry)
    }
}
