//! The guard of one open connection: what it raises at accept, its `Drop` settles, exactly once.
//!
//! Promises that a connection that was cancelled or panicked is counted and logged like any other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::metrics::EndpointMetrics;
use super::registry::{Entry, Place};
use super::route::Route;
use crate::clock::{self, Moment};
use crate::dial::Dialed;
use crate::events::{Event, Level, Reason};
use crate::relay::{Limits, Outcome, Terms};
use crate::sys::socket::Fault;
use crate::types::{Direction, Side};
use crate::upstream::endpoint::Candidate;

/// An upstream that ends within this time without a byte either way was none.
const UNTOUCHED: Duration = Duration::from_secs(1);

/// One open connection.
#[derive(Debug)]
pub struct Open {
    route: Arc<Route>,
    entry: Arc<Entry>,
    /// As they were at accept: a reload is for new connections.
    limits: Arc<Limits>,
    /// Whether it counts against the limits; those turned away at the door do not.
    admitted: bool,
    /// Where it was counted last: an endpoint, or nowhere yet.
    counted: Arc<EndpointMetrics>,
    /// The last candidate that was connected.
    pub(super) candidate: Option<Candidate>,
    /// Attempts started, over all rounds.
    pub(super) attempts: u32,
    pub(super) hedged: bool,
    pub(super) parked: Duration,
    connect: Option<Duration>,
    ended: Option<(Reason, Moment)>,
}

// === impl Open ===

impl Open {
    /// `admitted`: it has been counted against the limits ([`Route::admit`]), which the guard's end takes back.
    pub(super) fn new(route: Arc<Route>, client: SocketAddr, admitted: bool) -> Self {
        let entry = route
            .registry
            .enter(route.listener.clone(), route.upstream.clone(), client);
        route.metrics.accepted.inc();
        let counted = Arc::clone(&route.metrics.nowhere);
        counted.connections.add(1.0);
        if route.events.wants(Level::Debug) {
            route.events.emit(
                Event::debug("conn.open", "accepted")
                    .with("listener", route.listener.as_str().to_owned())
                    .with("client.address", client.ip().to_string())
                    .with("client.port", client.port())
                    .with("conn.id", entry.id),
            );
        }
        Self {
            limits: route.limits.load_full(),
            route,
            entry,
            admitted,
            counted,
            candidate: None,
            attempts: 0,
            hedged: false,
            parked: Duration::ZERO,
            connect: None,
            ended: None,
        }
    }

    pub(super) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// It has an upstream now.
    pub(super) fn reached(&mut self, dialed: &Dialed) {
        let now = clock::now();
        if self.connect.is_none() {
            let setup = now.since(self.entry.accepted);
            self.route.metrics.setup.record(setup.as_secs_f64());
        }
        self.connect = Some(dialed.took);
        let metrics = self.route.metrics.of(&dialed.candidate.endpoint);
        self.move_to(Arc::clone(&metrics));
        self.candidate = Some(dialed.candidate.clone());
        self.entry.set_place(Place::Relaying {
            candidate: dialed.candidate.clone(),
            since: now,
            metrics,
        });
    }

    /// The terms of the relay to this candidate.
    pub(super) fn terms<'a>(&'a self, to: &'a Candidate, may_move: bool) -> Terms<'a> {
        Terms {
            limits: &self.limits,
            tally: &self.entry.tally,
            answers: &to.address.answers,
            counters: &self.route.counters,
            may_move,
        }
    }

    /// Whether the upstream ended within 1 s without a byte moved either way (contract 7.4).
    pub(super) fn was_untouched(&self, outcome: &Outcome, began: Moment) -> bool {
        let by_upstream = match outcome {
            Outcome::Untouched(_) => return true,
            Outcome::Finished { first } => *first == Side::Upstream,
            Outcome::Reset(side, fault) => *side == Side::Upstream && *fault == Fault::Reset,
            _ => false,
        };
        let moved = |way| self.entry.tally.bytes(way) > 0;
        by_upstream
            && !Direction::BOTH.into_iter().any(moved)
            && clock::now().since(began) < UNTOUCHED
    }

    /// Whether the upstream ended the pair while a request waited for its answer.
    pub(super) fn was_unanswered(&self, outcome: &Outcome) -> bool {
        let by_upstream = match outcome {
            Outcome::Finished { first } => *first == Side::Upstream,
            Outcome::Reset(side, fault) => *side == Side::Upstream && *fault == Fault::Reset,
            _ => false,
        };
        by_upstream && self.entry.tally.waiting_since().is_some()
    }

    /// It waits for an upstream.
    pub(super) fn waits(&self) {
        self.entry.set_place(Place::Parked);
    }

    /// Its upstream was none; it goes on to the next.
    pub(super) fn moves_on(&mut self) {
        self.entry.set_place(Place::Dialling);
    }

    /// Its end. The record is written when the guard is dropped; this fixes the reason and the time.
    pub(super) fn end(&mut self, reason: Reason) {
        self.ended.get_or_insert((reason, clock::now()));
    }

    /// Turned away, and kept only until the client has seen it.
    pub(super) fn leaves(&mut self, reason: Reason) {
        self.end(reason);
        self.entry.set_place(Place::Leaving);
    }

    fn move_to(&mut self, metrics: Arc<EndpointMetrics>) {
        self.counted.connections.sub(1.0);
        metrics.connections.add(1.0);
        self.counted = metrics;
    }

    /// The record of contract section 6.
    fn record(&self, reason: Reason, ended: Moment) -> Event {
        let Self { route, entry, .. } = self;
        let tally = &entry.tally;
        let idle = ended.since(tally.last_moved());
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let endpoint = self.candidate.as_ref().map(|to| &to.endpoint);
        let server = self.candidate.as_ref().map(|to| to.address.socket);
        let zone = endpoint.and_then(|endpoint| endpoint.zone());
        // Microseconds are enough, and keep the line short.
        let connect = self.connect.map(|took| (took.as_micros() as f64) / 1000.0);
        Event::info("conn.close", "closed")
            .with("listener", route.listener.as_str().to_owned())
            .with("upstream", route.upstream.as_str().to_owned())
            .maybe(
                "endpoint",
                endpoint.map(|endpoint| endpoint.name().as_str().to_owned()),
            )
            .maybe("zone", zone.map(|zone| zone.as_str().to_owned()))
            .with("client.address", entry.client.ip().to_string())
            .with("client.port", entry.client.port())
            .maybe(
                "server.address",
                server.map(|server| server.ip().to_string()),
            )
            .maybe("server.port", server.map(|server| server.port()))
            .with("conn.id", entry.id)
            .with("conn.reason", reason.code())
            .with("conn.closed_by", reason.closed_by().as_str())
            .with("conn.duration_ms", millis(ended.since(entry.accepted)))
            .with("conn.idle_ms", millis(idle))
            .with("conn.attempts", self.attempts)
            .with("conn.hedged", self.hedged)
            .with("conn.parked_ms", millis(self.parked))
            .maybe("connect.duration_ms", connect)
            .with("bytes.upload", tally.bytes(Direction::Upload))
            .with("bytes.download", tally.bytes(Direction::Download))
            .maybe("conn.lane", endpoint.map(|_| tally.lane()))
            .maybe("hint", reason.hint(idle))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let unfinished = || {
            let panicked = std::thread::panicking();
            if panicked {
                self.route.metrics.panics.inc();
            }
            let ending = self.route.registry.ending().filter(|_| !panicked);
            (ending.unwrap_or(Reason::Internal), clock::now())
        };
        let (reason, ended) = self.ended.unwrap_or_else(unfinished);
        let metrics = &self.route.metrics;
        self.counted.settle(&self.entry.tally);
        self.counted.connections.sub(1.0);
        self.counted.closed(reason);
        if matches!(reason, Reason::DrainDeadline | Reason::Killed) {
            metrics.drain_cut.inc();
        }
        let lived = ended.since(self.entry.accepted);
        metrics.duration.record(lived.as_secs_f64());
        self.route.registry.leave(&self.entry);
        if self.admitted {
            self.route.admitted.fetch_sub(1, Relaxed);
            self.route.registry.dismiss();
        }
        if self.route.events.wants_close(reason) {
            self.route.events.emit(self.record(reason, ended));
        }
    }
}
