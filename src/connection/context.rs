//! What the connections of one listener share: its upstream, how that is dialled, limits, and what dials report.

use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::detour::Detour;
use super::hold_queue::{HoldQueue, Policy};
use super::metrics::ListenerMetrics;
use super::registry::Registry;
use super::shortage::Shortage;
use crate::clock::{self, Moment};
use crate::dial::{self, Attempt, ClientData, Dialer};
use crate::events::{Events, event};
use crate::metrics::Metrics;
use crate::relay::{Limits, RelayShared};
use crate::types::{ListenerName, UpstreamName};
use crate::upstream::endpoint::Candidate;
use crate::upstream::input::{DialFailure, Input, Suspicion};
use crate::upstream::{SnapshotReader, UpstreamHandle};

/// What all connections of one listener share.
#[derive(Debug)]
pub struct ListenerContext {
    pub listener: ListenerName,
    /// The upstream it leads to.
    pub upstream: UpstreamName,
    /// What is known of the upstream.
    pub view: SnapshotReader,
    /// Takes inputs for it.
    pub feed: UpstreamHandle,
    /// All live connections of the instance.
    pub registry: Registry,
    /// Where events go.
    pub events: Events,
    /// How the upstream is dialled; a reload swaps it.
    pub dialer: ArcSwap<Dialer>,
    /// The relay's limits; a reload swaps them.
    pub limits: ArcSwap<Limits>,
    /// What to do when nothing can be dialled; a reload swaps it ([`ListenerContext::set_policy`]).
    pub policy: ArcSwap<Policy>,
    /// Whether what it needs to accept is missing.
    pub shortage: Shortage,
    policy_changed: Notify,
    pub(super) relay: Arc<RelayShared>,
    pub(super) metrics: ListenerMetrics,
    pub(super) queue: HoldQueue,
    /// Connections that count against the limits.
    pub(super) admitted: AtomicIsize,
    /// The last round over all candidates failed, and nothing was connected since.
    round_failed: AtomicBool,
    /// When a round that failed for reasons of our own was last logged.
    local_fault_logged: Mutex<Option<Moment>>,
    /// It accepts nothing, whatever the state of its upstream.
    refusing: watch::Sender<bool>,
    /// Whether its sockets accept.
    accepting: watch::Sender<bool>,
    /// Somebody else holds its sockets as well.
    shared: AtomicBool,
    detour: OnceLock<Arc<dyn Detour>>,
}

/// What a [`ListenerContext`] is made of.
#[derive(Debug)]
pub struct ContextParts {
    pub listener: ListenerName,
    pub upstream: UpstreamName,
    /// What is known of it.
    pub view: SnapshotReader,
    /// Takes inputs for the upstream.
    pub feed: UpstreamHandle,
    /// All live connections.
    pub registry: Registry,
    /// Where events go.
    pub events: Events,
    /// How it is dialled.
    pub dialer: Dialer,
    /// The relay's limits.
    pub limits: Limits,
    /// The relay's shared counts and bounds.
    pub relay: Arc<RelayShared>,
    /// When nothing can be dialled.
    pub policy: Policy,
    /// Where it is counted.
    pub metrics: Metrics,
}

// === impl ListenerContext ===

impl ListenerContext {
    /// A context without connections.
    pub fn new(parts: ContextParts) -> Arc<Self> {
        let metrics = ListenerMetrics::new(&parts.metrics, &parts.listener, &parts.upstream);
        Arc::new(Self {
            queue: HoldQueue::new(metrics.parked.clone(), metrics.parked_seconds.clone()),
            metrics,
            listener: parts.listener,
            upstream: parts.upstream,
            view: parts.view,
            feed: parts.feed,
            registry: parts.registry,
            events: parts.events,
            relay: parts.relay,
            dialer: ArcSwap::from_pointee(parts.dialer),
            limits: ArcSwap::from_pointee(parts.limits),
            policy: ArcSwap::from_pointee(parts.policy),
            shortage: Shortage::default(),
            policy_changed: Notify::new(),
            admitted: AtomicIsize::new(0),
            round_failed: AtomicBool::new(false),
            local_fault_logged: Mutex::default(),
            refusing: watch::Sender::new(false),
            accepting: watch::Sender::new(false),
            shared: AtomicBool::new(false),
            detour: OnceLock::new(),
        })
    }

    pub fn set_policy(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
        self.policy_changed.notify_one();
        // The supervisor's rules came with the same reload.
        self.relay.activity.record();
    }

    /// Resolves when the policy may have changed since the last call. For the listener, and nobody else.
    pub async fn policy_changed(&self) {
        self.policy_changed.notified().await;
    }

    /// Lets something carry connections in place of the relay; the first one stays.
    pub fn set_detour(&self, detour: Arc<dyn Detour>) {
        let _ = self.detour.set(detour);
    }

    pub(super) fn detour(&self) -> Option<&dyn Detour> {
        self.detour.get().map(|detour| &**detour)
    }

    /// Closes the listening sockets, or opens them again. Of sockets that somebody else holds as well connections are
    /// reset instead: closing them would refuse nobody.
    pub fn set_refusing(&self, refusing: bool) {
        self.refusing.send_replace(refusing);
    }

    pub fn is_refusing(&self) -> bool {
        *self.refusing.borrow()
    }

    /// The listening sockets accept, or do not any more. For the listener.
    pub fn set_accepting(&self, accepting: bool) {
        self.accepting.send_replace(accepting);
    }

    /// Waits until the listening sockets accept, or do not.
    pub async fn accepts(&self, wanted: bool) {
        let mut accepting = self.accepting.subscribe();
        // The sender is this context's own.
        let _ = accepting.wait_for(|accepting| *accepting == wanted).await;
    }

    /// Somebody else holds the listening sockets as well. For the listener.
    pub fn set_shared(&self) {
        self.shared.store(true, Relaxed);
    }

    pub fn is_shared(&self) -> bool {
        self.shared.load(Relaxed)
    }

    /// Waits until the listening sockets are to be closed, or may be open.
    pub async fn refusing(&self, wanted: bool) {
        let mut refusing = self.refusing.subscribe();
        // The sender is this context's own.
        let _ = refusing.wait_for(|refusing| *refusing == wanted).await;
    }

    /// Connections that count against the listener's limit.
    pub fn admitted(&self) -> usize {
        self.admitted.load(Relaxed).try_into().unwrap_or(0)
    }

    /// Whether one more connection is within this listener's limit and the instance's.
    pub fn has_room(&self, most_in_all: usize) -> bool {
        let most = self.policy.load().max_connections.unwrap_or(usize::MAX);
        self.admitted() < most && self.registry.admitted() < most_in_all
    }

    /// Counts one more connection against both limits; false, and nothing counted, when one of them is reached. In one
    /// step, because several threads accept.
    pub(super) fn admit(&self, most_in_all: usize) -> bool {
        let most = self.policy.load().max_connections.unwrap_or(usize::MAX);
        let more = |admitted: isize| {
            let room = usize::try_from(admitted).unwrap_or(0) < most;
            room.then_some(admitted + 1)
        };
        if self.admitted.fetch_update(Relaxed, Relaxed, more).is_err() {
            return false;
        }
        let admitted = self.registry.admit(most_in_all);
        if !admitted {
            self.admitted.fetch_sub(1, Relaxed);
        }
        admitted
    }

    /// Connections that wait for an upstream.
    pub fn parked(&self) -> usize {
        self.queue.parked()
    }

    /// Whether the last round over all candidates failed and nothing was connected since.
    pub fn round_failed(&self) -> bool {
        self.round_failed.load(Relaxed)
    }

    /// Shows the numbers of every endpoint from when it is known: counters at 0, so that their first increase is seen as
    /// one. Runs until dropped.
    pub async fn show_endpoints(self: Arc<Self>) {
        let mut view = self.view.clone();
        loop {
            for endpoint in &view.load().endpoints {
                let _shown = self.metrics.of(&endpoint.endpoint);
            }
            view.changed().await;
        }
    }

    /// Where a connection would be dialled now, best first.
    pub fn order(&self) -> Vec<Candidate> {
        self.view.load().order(clock::now(), fastrand::f64())
    }

    /// Runs one round of attempts without a client and closes the result. Reports it to the upstream and wakes clients that are held.
    pub async fn canary(&self) {
        let candidates = self.order();
        let dialer = self.dialer.load_full();
        let dialed = dialer
            .dial(&candidates, ClientData::None, &mut |attempt| {
                self.note(&attempt);
            })
            .await;
        self.judge(dialed.is_ok());
    }

    /// Whether the upstream can be reached, as the last round shows it. A success lets go whoever is parked.
    pub(super) fn judge(&self, reached: bool) {
        if self.round_failed.load(Relaxed) == reached {
            self.round_failed.store(!reached, Relaxed);
        }
        if reached {
            self.queue.release();
        }
    }

    /// A round in which every candidate failed because this process lacked something: nobody else would say so. At most
    /// one line a second.
    pub(super) fn local_fault_round(&self, error: &dial::Error) {
        self.metrics.local_fault_rounds.increment(1);
        let now = clock::now();
        let mut logged = self
            .local_fault_logged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if logged.is_some_and(|at| now.since(at) < Duration::from_secs(1)) {
            return;
        }
        *logged = Some(now);
        event!(
            self.events,
            WARN,
            "resource",
            "no connection could be made because of this host",
            listener = self.listener.as_str(),
            upstream = self.upstream.as_str(),
            error = display(error),
        );
    }

    /// What an attempt says: counts, the address's own numbers, and an input for the upstream where it failed.
    pub(super) fn note(&self, attempt: &Attempt) {
        let (candidate, outcome) = (&attempt.candidate, &attempt.outcome);
        let metrics = self.metrics.of(&candidate.endpoint);
        metrics.attempt(outcome);
        if attempt.hedge {
            metrics.hedge(outcome);
        }
        let failure = match outcome {
            dial::ConnectOutcome::Ok => {
                candidate.address.dialled(attempt.took);
                return metrics.connected(attempt.took);
            }
            dial::ConnectOutcome::LostRace { later } => {
                if *later {
                    self.suspect(candidate, Suspicion::LostHedge, attempt.started);
                }
                return;
            }
            dial::ConnectOutcome::Refused => DialFailure::Refused,
            dial::ConnectOutcome::Timeout => DialFailure::Timeout,
            dial::ConnectOutcome::Unreachable(_) => DialFailure::Unreachable,
            dial::ConnectOutcome::Reset => DialFailure::Reset,
            dial::ConnectOutcome::Local(_) | dial::ConnectOutcome::Hop(_) => DialFailure::Local,
        };
        self.feed.send(Input::Dialled {
            endpoint: candidate.endpoint.name().clone(),
            socket: candidate.address.socket,
            failure,
            started: attempt.started,
        });
        self.record_failure(attempt);
    }

    pub(super) fn suspect(&self, candidate: &Candidate, why: Suspicion, started: Moment) {
        self.feed.send(Input::Suspect {
            endpoint: candidate.endpoint.name().clone(),
            socket: candidate.address.socket,
            why,
            started,
        });
    }
}

impl ListenerContext {
    fn record_failure(&self, attempt: &Attempt) {
        let endpoint = &attempt.candidate.endpoint;
        let (host, port) = attempt.candidate.address.host_port();
        event!(
            self.events,
            DEBUG,
            "connect.fail",
            display(&attempt.outcome),
            upstream = endpoint.upstream.as_str(),
            endpoint = endpoint.name().as_str(),
            zone = endpoint.zone().map(|zone| zone.as_str()),
            server.address = host,
            server.port = port,
            connect.result = attempt.outcome.as_str(),
            connect.duration_ms = attempt.took.as_secs_f64() * 1000.0,
        );
    }
}
