//! The guard of one connection: what it counts at accept, its `Drop` settles, exactly once.
//!
//! So a connection whose task was cancelled or panicked is counted and logged like any other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::context::ListenerContext;
use super::hold_queue;
use super::home::{AtHome, Home};
use super::metrics::EndpointMetrics;
use super::registry::{ConnectionPhase, Entry};
use crate::clock::{self, Moment};
use crate::dial::Dialed;
use crate::events::{ClosedBy, MTU_HINT, Reason, event};
use crate::relay::{AnswerObserver, HttpPhase, Limits, Placement, RelayArgs};
use crate::types::Direction;
use crate::upstream::endpoint::Candidate;
use crate::upstream::input::Suspicion;
use crate::upstream::snapshot::HealthState;

/// One open connection. Its fields are few because all idle connections keep them: what only some need is in a box.
#[derive(Debug)]
pub struct ConnectionGuard {
    context: Arc<ListenerContext>,
    entry: Arc<Entry>,
    /// As they were at accept: a reload is for new connections.
    limits: Arc<Limits>,
    /// Whether it counts against the limits; those rejected at accept do not.
    admitted: bool,
    /// Where it was counted last: an endpoint, or nowhere yet.
    counted: Arc<EndpointMetrics>,
    /// The last candidate that was connected.
    pub(super) candidate: Option<Candidate>,
    /// Attempts started, over all rounds.
    pub(super) attempts: u32,
    pub(super) hedged: bool,
    /// The upstream's stream was a spare.
    pub(super) warm: bool,
    /// Untried candidates were left when it was connected.
    pub(super) may_retry: bool,
    connect: Option<Duration>,
    ended: Option<(Reason, ClosedBy, Moment)>,
    rare: Option<Box<RareFacts>>,
    /// The thread that serves it.
    home: Option<AtHome>,
}

/// What few connections have to say in their record.
#[derive(Debug, Default)]
struct RareFacts {
    /// Held for an upstream for so long.
    parked: Duration,
    /// Of the certificate of a gateway's client.
    tls_identity: Option<String>,
    /// What is known of this end beyond what its reason usually means.
    hint: Option<&'static str>,
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    /// `admitted`: it has been counted against the limits ([`ListenerContext::admit`]), which the guard's end takes back.
    pub(super) fn new(context: Arc<ListenerContext>, client: SocketAddr, admitted: bool) -> Self {
        let entry =
            context
                .registry
                .enter(context.listener.clone(), context.upstream.clone(), client);
        context.relay.activity.record();
        context.metrics.accepted.increment(1);
        let counted = Arc::clone(&context.metrics.nowhere);
        counted.connections.increment(1.0);
        event!(
            context.events,
            DEBUG,
            "conn.open",
            "accepted",
            listener = context.listener.as_str(),
            client.address = %client.ip(),
            client.port = client.port(),
            conn.id = entry.id,
        );
        Self {
            limits: context.limits.load_full(),
            context,
            entry,
            admitted,
            counted,
            candidate: None,
            attempts: 0,
            hedged: false,
            warm: false,
            may_retry: false,
            connect: None,
            ended: None,
            rare: None,
            home: None,
        }
    }

    /// Its number, unique in this process.
    pub fn id(&self) -> u64 {
        self.entry.id
    }

    /// Whom the client's certificate names, for the record.
    pub fn set_tls_identity(&mut self, identity: &str) {
        self.rare.get_or_insert_default().tls_identity = Some(identity.to_owned());
    }

    /// It is given to a thread.
    pub fn set_home(&mut self, home: AtHome) {
        self.home = Some(home);
    }

    pub(super) fn home(&self) -> Option<&Arc<Home>> {
        self.home.as_ref().map(AtHome::home)
    }

    pub(super) fn context(&self) -> &Arc<ListenerContext> {
        &self.context
    }

    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// It has an upstream now. `may_retry`: untried candidates are left.
    pub(super) fn reached(&mut self, dialed: &Dialed, may_retry: bool) {
        (self.warm, self.may_retry) = (dialed.warm, may_retry);
        if self.connect.is_none() {
            let setup = dialed.at.since(self.entry.accepted);
            self.context.metrics.setup.record(setup.as_secs_f64());
        }
        self.connect = Some(dialed.took);
        let metrics = self.context.metrics.of(&dialed.candidate.endpoint);
        self.move_to(Arc::clone(&metrics));
        self.candidate = Some(dialed.candidate.clone());
        self.entry.commands.begin_upstream();
        self.entry.set_phase(ConnectionPhase::Relaying {
            candidate: dialed.candidate.clone(),
            since: dialed.at,
            metrics,
        });
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn relay_args(
        &self,
        began: Moment,
        may_retry: bool,
        unsent: Vec<u8>,
    ) -> RelayArgs<'_> {
        RelayArgs {
            began,
            limits: &self.limits,
            stats: &self.entry.stats,
            commands: &self.entry.commands,
            observer: self,
            shared: &self.context.relay,
            may_retry,
            unsent,
            placement: match self.home {
                Some(_) => Placement::Shared,
                None => Placement::Fixed,
            },
            resumed: None,
        }
    }

    /// Resolves when it is to be ended at once, with the reason; for the time before it is served.
    pub async fn cut(&self) -> Reason {
        hold_queue::cut(&self.entry.commands).await
    }

    /// It is held until there is an upstream.
    pub(super) fn waits(&self) {
        self.entry.set_phase(ConnectionPhase::Parked);
    }

    /// It has been held for so long.
    pub(super) fn has_waited(&mut self, parked: Duration) {
        self.rare.get_or_insert_default().parked = parked;
    }

    /// Its upstream gives reason to doubt it, by an attempt or a wait that began at `started`.
    pub(super) fn suspect(&self, why: Suspicion, started: Moment) {
        if let Some(candidate) = &self.candidate {
            self.context.suspect(candidate, why, started);
        }
    }

    /// Its upstream ended untouched; the next is tried.
    pub(super) fn retry_next(&mut self) {
        self.entry.set_phase(ConnectionPhase::Dialling);
    }

    /// Its end. The record is written when the guard is dropped; this fixes the reason and the time.
    pub(super) fn end(&mut self, reason: Reason, closed_by: ClosedBy) {
        self.ended
            .get_or_insert_with(|| (reason, closed_by, clock::now()));
    }

    /// Segments of full size did not get through: where the address answers its probes, it is the path.
    pub(super) fn lost_full_segments(&mut self) {
        let snapshot = self.context.view.load();
        let is_up = self.candidate.as_ref().is_some_and(|candidate| {
            snapshot
                .address(candidate.address.socket)
                .is_some_and(|view| view.state == HealthState::Up)
        });
        if is_up {
            self.rare.get_or_insert_default().hint = Some(MTU_HINT);
        }
    }

    /// Rejected, and kept only until the client has seen it.
    pub fn rejected(&mut self, reason: Reason) {
        self.end(reason, reason.closed_by());
        self.context.metrics.rejected(reason);
        self.entry.set_phase(ConnectionPhase::Leaving);
    }

    fn move_to(&mut self, metrics: Arc<EndpointMetrics>) {
        self.counted.connections.decrement(1.0);
        metrics.connections.increment(1.0);
        self.counted = metrics;
    }

    fn record(&self, reason: Reason, closed_by: ClosedBy, ended: Moment) {
        let Self { context, entry, .. } = self;
        let rare = self.rare.as_deref();
        let parked = rare.map_or(Duration::ZERO, |rare| rare.parked);
        let stats = &entry.stats;
        let idle = ended.since(stats.last_moved());
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let endpoint = self.candidate.as_ref().map(|to| &to.endpoint);
        let server = self.candidate.as_ref().map(|to| to.address.host_port());
        let zone = endpoint.and_then(|endpoint| endpoint.zone());
        let phase = stats.phase();
        let cut_in = phase.filter(|phase| !matches!(phase, HttpPhase::Idle | HttpPhase::Unknown));
        // Microseconds are enough, and keep the line short.
        let connect = self.connect.map(|took| (took.as_micros() as f64) / 1000.0);
        event!(
            context.events,
            INFO,
            "conn.close",
            "closed",
            listener = context.listener.as_str(),
            upstream = context.upstream.as_str(),
            endpoint = endpoint.map(|endpoint| endpoint.name().as_str()),
            zone = zone.map(|zone| zone.as_str()),
            client.address = %entry.client.ip(),
            client.port = entry.client.port(),
            server.address = server.map(|(host, _)| host),
            server.port = server.map(|(_, port)| port),
            conn.id = entry.id,
            tls.identity = rare.and_then(|rare| rare.tls_identity.as_deref()),
            conn.reason = reason.code(),
            conn.closed_by = closed_by.as_str(),
            conn.duration_ms = millis(ended.since(entry.accepted)),
            conn.idle_ms = millis(idle),
            conn.attempts = self.attempts,
            conn.hedged = self.hedged,
            conn.parked_ms = millis(parked),
            connect.duration_ms = connect,
            bytes.upload = stats.bytes(Direction::Upload),
            bytes.download = stats.bytes(Direction::Download),
            conn.lane = endpoint.map(|_| stats.lane()),
            http.requests = phase.map(|_| stats.requests()),
            http.phase = cut_in.map(HttpPhase::as_str),
            http.dropped = stats.request_dropped().then_some(true),
            hint = rare.and_then(|rare| rare.hint).or_else(|| reason.hint(idle)),
        );
    }
}

/// Tells the address and the metrics of its upstream about the answers.
impl AnswerObserver for ConnectionGuard {
    fn first_byte(&self, after: Duration, is_framed: bool) {
        if let Some(candidate) = &self.candidate {
            candidate.address.answers.record(after);
        }
        if is_framed {
            self.counted.first_byte(after);
        }
    }

    fn complete(&self, answers: u32) {
        self.counted.answered(answers);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let unfinished = || {
            let panicked = std::thread::panicking();
            if panicked {
                self.context.metrics.panics.increment(1);
            }
            let ending = self.context.registry.ending().filter(|_| !panicked);
            let reason = ending.unwrap_or(Reason::Internal);
            (reason, reason.closed_by(), clock::now())
        };
        let (reason, closed_by, ended) = self.ended.unwrap_or_else(unfinished);
        let metrics = &self.context.metrics;
        self.counted.settle(&self.entry.stats);
        self.counted.connections.decrement(1.0);
        self.counted.closed(reason);
        // One that an operator closes was not cut by a shutdown.
        let is_ending = || self.context.registry.ending().is_some();
        if reason == Reason::DrainDeadline || reason == Reason::Killed && is_ending() {
            metrics.drain_cut.increment(1);
        }
        if self.entry.stats.request_dropped() {
            metrics.requests_dropped.increment(1);
        }
        let lived = ended.since(self.entry.accepted);
        metrics.duration.record(lived.as_secs_f64());
        self.context.registry.leave(&self.entry);
        self.context.relay.activity.record();
        if self.admitted {
            self.context.admitted.fetch_sub(1, Relaxed);
            self.context.registry.dismiss();
        }
        if self.context.events.wants_close(reason) {
            self.record(reason, closed_by, ended);
        }
    }
}
