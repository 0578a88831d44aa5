//! The handles of one listener, and of each endpoint as this listener sees it: resolved once, then only added to.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::dial::ConnectOutcome;
use crate::events::Reason;
use crate::metrics::{Counter, Family, Gauge, Histogram, Metrics, family};
use crate::relay::ConnStats;
use crate::types::{Direction, ListenerName, UpstreamName};
use crate::upstream::endpoint::Endpoint;

/// Results of attempts.
const RESULTS: [&str; 7] = [
    "ok",
    "refused",
    "timeout",
    "unreachable",
    "reset",
    "local",
    "lost_race",
];

/// Results of attempts that were started beside another.
const HEDGES: [&str; 3] = ["won", "lost", "failed"];

/// The usual ends of connections with an endpoint, and without one.
const ENDS: [Reason; 8] = [
    Reason::ClientFin,
    Reason::UpstreamFin,
    Reason::ClientRst,
    Reason::UpstreamRst,
    Reason::UserTimeout,
    Reason::DrainIdle,
    Reason::EndpointSilent,
    Reason::EndpointUnhealthy,
];
const ENDS_NOWHERE: [Reason; 8] = [
    Reason::ClientGone,
    Reason::ConnectRefused,
    Reason::ConnectTimeout,
    Reason::Unreachable,
    Reason::NoEndpoint,
    Reason::HoldTimeout,
    Reason::MaxConnections,
    Reason::Resource,
];

/// Values of the label `reason` of rejected connections.
const REJECTED_REASONS: [Reason; 4] = [
    Reason::MaxConnections,
    Reason::NoEndpoint,
    Reason::HoldTimeout,
    Reason::Resource,
];

/// What one listener counts.
#[derive(Debug)]
pub(super) struct ListenerMetrics {
    metrics: Metrics,
    listener: ListenerName,
    upstream: UpstreamName,
    pub(super) accepted: Counter,
    pub(super) duration: Histogram,
    pub(super) setup: Histogram,
    pub(super) parked: Gauge,
    pub(super) parked_seconds: Histogram,
    pub(super) panics: Counter,
    pub(super) drain_cut: Counter,
    pub(super) local_fault_rounds: Counter,
    pub(super) requests_dropped: Counter,
    /// Connections that have no endpoint (yet): labels without a value.
    pub(super) nowhere: Arc<EndpointMetrics>,
    /// By the `Arc` of the endpoint, of which there are few: one that left and came back is another, and its old series
    /// are gone.
    endpoints: ArcSwap<Vec<KnownEndpoint>>,
}

type KnownEndpoint = (Weak<Endpoint>, Arc<EndpointMetrics>);

/// What one (listener, endpoint) counts.
#[derive(Debug)]
pub struct EndpointMetrics {
    metrics: Metrics,
    /// listener, upstream, endpoint, zone.
    labels: [String; 4],
    pub(super) connections: Gauge,
    /// Absent where there is no endpoint: there is nothing to carry then.
    bytes: Option<[Counter; 2]>,
    spliced: [Counter; 2],
    connect: Option<Histogram>,
    first_byte: Option<Histogram>,
    answers: Option<Counter>,
    attempts: [OnceLock<Counter>; RESULTS.len()],
    hedges: [OnceLock<Counter>; HEDGES.len()],
    closed: [OnceLock<Counter>; Reason::ALL.len()],
}

// === impl ListenerMetrics ===

impl ListenerMetrics {
    pub(super) fn new(metrics: &Metrics, listener: &ListenerName, upstream: &UpstreamName) -> Self {
        let name = [listener.as_str()];
        // From the start, so that the first increase is seen as one.
        for reason in REJECTED_REASONS {
            let labels = [listener.as_str(), reason.code()];
            let _zero = metrics.counter(&family::CONNECTIONS_REJECTED, &labels);
        }
        Self {
            accepted: metrics.counter(&family::CONNECTIONS_ACCEPTED, &name),
            duration: metrics.histogram(&family::CONNECTION_DURATION_SECONDS, &[]),
            setup: metrics.histogram(&family::SETUP_SECONDS, &[]),
            parked: metrics.gauge(&family::CONNECTIONS_PARKED, &name),
            parked_seconds: metrics.histogram(&family::PARKED_SECONDS, &[]),
            panics: metrics.counter(&family::PANICS, &[]),
            drain_cut: metrics.counter(&family::DRAIN_CUT, &[]),
            local_fault_rounds: metrics.counter(&family::LOCAL_FAULT_ROUNDS, &[upstream.as_str()]),
            requests_dropped: metrics.counter(&family::REQUESTS_DROPPED, &name),
            nowhere: Arc::new(EndpointMetrics::new(metrics, listener, upstream, None)),
            endpoints: ArcSwap::default(),
            metrics: metrics.clone(),
            listener: listener.clone(),
            upstream: upstream.clone(),
        }
    }

    /// The handles for this endpoint.
    pub(super) fn of(&self, endpoint: &Arc<Endpoint>) -> Arc<EndpointMetrics> {
        let all = self.endpoints.load();
        // While the weak one is kept, no other endpoint has its address.
        let mut all = all.iter();
        if let Some((_, metrics)) = all.find(|(of, _)| of.as_ptr() == Arc::as_ptr(endpoint)) {
            return Arc::clone(metrics);
        }
        let made = EndpointMetrics::new(
            &self.metrics,
            &self.listener,
            &self.upstream,
            Some(endpoint),
        );
        let made = Arc::new(made);
        self.endpoints.rcu(|known| {
            let mut known = Vec::clone(known);
            known.retain(|(of, _)| of.strong_count() > 0);
            known.push((Arc::downgrade(endpoint), Arc::clone(&made)));
            known
        });
        made
    }

    /// Counts a connection that ended without an upstream; one whose client left by itself was not rejected.
    pub(super) fn rejected(&self, reason: Reason) {
        let label = match reason {
            Reason::MaxConnections | Reason::HoldTimeout | Reason::Resource => reason.code(),
            Reason::NoEndpoint
            | Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::Unreachable => Reason::NoEndpoint.code(),
            _ => return,
        };
        self.metrics
            .counter(
                &family::CONNECTIONS_REJECTED,
                &[self.listener.as_str(), label],
            )
            .increment(1);
    }
}

// === impl EndpointMetrics ===

impl EndpointMetrics {
    fn new(
        metrics: &Metrics,
        listener: &ListenerName,
        upstream: &UpstreamName,
        endpoint: Option<&Endpoint>,
    ) -> Self {
        let [_, name, zone] = endpoint.map_or(["", "", ""], Endpoint::labels);
        let labels = [listener.as_str(), upstream.as_str(), name, zone];
        let bytes = |way: Direction| {
            metrics.counter(
                &family::BYTES,
                &[upstream.as_str(), name, zone, way.as_str()],
            )
        };
        let spliced = |way: Direction| metrics.counter(&family::BYTES_SPLICED, &[way.as_str()]);
        let this = Self {
            connections: metrics.gauge(&family::CONNECTIONS, &labels),
            bytes: endpoint.map(|_| Direction::BOTH.map(bytes)),
            spliced: Direction::BOTH.map(spliced),
            connect: endpoint
                .map(|endpoint| metrics.histogram(&family::CONNECT_SECONDS, &endpoint.labels())),
            first_byte: endpoint.map(|endpoint| {
                metrics.histogram(&family::ANSWER_FIRST_BYTE_SECONDS, &endpoint.labels())
            }),
            answers: endpoint.map(|endpoint| metrics.counter(&family::ANSWERS, &endpoint.labels())),
            attempts: [const { OnceLock::new() }; RESULTS.len()],
            hedges: [const { OnceLock::new() }; HEDGES.len()],
            closed: [const { OnceLock::new() }; Reason::ALL.len()],
            labels: labels.map(str::to_owned),
            metrics: metrics.clone(),
        };
        // From the start, so that the first increase is seen as one.
        let ends = if endpoint.is_some() {
            ENDS
        } else {
            ENDS_NOWHERE
        };
        for reason in ends {
            let _zero = this.closed_for(reason);
        }
        if endpoint.is_some() {
            for (place, result) in RESULTS.iter().enumerate() {
                let _zero =
                    this.of_result(&this.attempts[place], &family::CONNECT_ATTEMPTS, result);
            }
        }
        this
    }

    pub(super) fn closed(&self, reason: Reason) {
        self.closed_for(reason).increment(1);
    }

    fn closed_for(&self, reason: Reason) -> &Counter {
        let [listener, upstream, endpoint, zone] = self.labels.each_ref().map(String::as_str);
        self.closed[reason as usize].get_or_init(|| {
            let labels = [listener, upstream, endpoint, zone, reason.code()];
            self.metrics.counter(&family::CONNECTIONS_CLOSED, &labels)
        })
    }

    fn of_result<'a>(
        &self,
        counter: &'a OnceLock<Counter>,
        of: &'static Family,
        result: &str,
    ) -> &'a Counter {
        let [_, upstream, endpoint, zone] = self.labels.each_ref().map(String::as_str);
        let labels = [upstream, endpoint, zone, result];
        counter.get_or_init(|| self.metrics.counter(of, &labels))
    }

    /// Counts an attempt of traffic.
    pub(super) fn attempt(&self, outcome: &ConnectOutcome) {
        self.count(
            &self.attempts,
            &RESULTS,
            outcome.as_str(),
            &family::CONNECT_ATTEMPTS,
        );
    }

    /// Counts an attempt that was started beside another.
    pub(super) fn hedge(&self, outcome: &ConnectOutcome) {
        let result = match outcome {
            ConnectOutcome::Ok => "won",
            ConnectOutcome::LostRace { .. } => "lost",
            _ => "failed",
        };
        self.count(&self.hedges, &HEDGES, result, &family::CONNECT_HEDGES);
    }

    /// A connect of traffic succeeded.
    pub(super) fn connected(&self, took: Duration) {
        if let Some(connect) = &self.connect {
            connect.record(took.as_secs_f64());
        }
    }

    /// An answer has begun, by framing.
    pub(super) fn first_byte(&self, after: Duration) {
        if let Some(first_byte) = &self.first_byte {
            first_byte.record(after.as_secs_f64());
        }
    }

    /// Answers are complete, by framing.
    pub(super) fn answered(&self, count: u32) {
        if let Some(answers) = &self.answers {
            answers.increment(count.into());
        }
    }

    fn count(
        &self,
        counters: &[OnceLock<Counter>],
        results: &[&str],
        result: &str,
        of: &'static Family,
    ) {
        let Some(place) = results.iter().position(|known| *known == result) else {
            return;
        };
        self.of_result(&counters[place], of, result).increment(1);
    }

    /// Adds what the statistics have not reported yet.
    pub(super) fn settle(&self, stats: &ConnStats) {
        stats.settle(|direction, bytes, spliced| {
            if let Some(counters) = &self.bytes {
                counters[direction.index()].increment(bytes);
            }
            if spliced > 0 {
                self.spliced[direction.index()].increment(spliced);
            }
        });
    }
}
