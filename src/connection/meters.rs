//! The handles of one listener, and of each endpoint as this listener sees it: resolved once, then only added to.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;

use crate::event::Reason;
use crate::meters::{Counter, Gauge, Histogram, Meters, family};
use crate::names::{Direction, ListenerName, UpstreamName};
use crate::pool::endpoint::Endpoint;
use crate::relay::tally::Tally;

/// What one listener counts.
#[derive(Debug)]
pub(super) struct ListenerMeters {
    meters: Meters,
    listener: ListenerName,
    upstream: UpstreamName,
    pub(super) accepted: Counter,
    pub(super) duration: Histogram,
    pub(super) setup: Histogram,
    pub(super) parked: Gauge,
    pub(super) parked_seconds: Histogram,
    pub(super) panics: Counter,
    pub(super) drain_cut: Counter,
    /// Connections that have no endpoint (yet): labels without a value.
    pub(super) nowhere: Arc<EndpointMeters>,
    /// By the `Arc` of the endpoint: one that left and came back is another, and its old series are gone.
    endpoints: ArcSwap<HashMap<usize, (Weak<Endpoint>, Arc<EndpointMeters>)>>,
}

/// What one (listener, endpoint) counts.
#[derive(Debug)]
pub struct EndpointMeters {
    meters: Meters,
    /// listener, upstream, endpoint, zone.
    labels: [String; 4],
    pub(super) connections: Gauge,
    /// Absent where there is no endpoint: there is nothing to carry then.
    bytes: Option<[Counter; 2]>,
    spliced: [Counter; 2],
    pub(super) connect: Option<Histogram>,
    closed: [OnceLock<Counter>; Reason::ALL.len()],
}

// === impl ListenerMeters ===

impl ListenerMeters {
    pub(super) fn new(meters: &Meters, listener: &ListenerName, upstream: &UpstreamName) -> Self {
        let name = [listener.as_str()];
        Self {
            accepted: meters.counter(&family::CONNECTIONS_ACCEPTED, &name),
            duration: meters.histogram(&family::CONNECTION_DURATION_SECONDS, &[]),
            setup: meters.histogram(&family::SETUP_SECONDS, &[]),
            parked: meters.gauge(&family::CONNECTIONS_PARKED, &name),
            parked_seconds: meters.histogram(&family::PARKED_SECONDS, &[]),
            panics: meters.counter(&family::PANICS, &[]),
            drain_cut: meters.counter(&family::DRAIN_CUT, &[]),
            nowhere: Arc::new(EndpointMeters::new(meters, listener, upstream, None)),
            endpoints: ArcSwap::default(),
            meters: meters.clone(),
            listener: listener.clone(),
            upstream: upstream.clone(),
        }
    }

    /// The handles for this endpoint.
    pub(super) fn of(&self, endpoint: &Arc<Endpoint>) -> Arc<EndpointMeters> {
        let key = Arc::as_ptr(endpoint) as usize;
        if let Some((known, meters)) = self.endpoints.load().get(&key)
            && known.upgrade().is_some_and(|known| Arc::ptr_eq(&known, endpoint))
        {
            return Arc::clone(meters);
        }
        let made = EndpointMeters::new(&self.meters, &self.listener, &self.upstream, Some(endpoint));
        let made = Arc::new(made);
        self.endpoints.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.retain(|_, (endpoint, _)| endpoint.strong_count() > 0);
            known.insert(key, (Arc::downgrade(endpoint), Arc::clone(&made)));
            known
        });
        made
    }

    pub(super) fn rejected(&self, reason: Reason) {
        let labels = [self.listener.as_str(), reason.code()];
        self.meters.counter(&family::CONNECTIONS_REJECTED, &labels).inc();
    }

    pub(super) fn attempt(&self, endpoint: &Endpoint, result: &str) {
        let [upstream, name, zone] = endpoint.labels();
        let labels = [upstream, name, zone, result];
        self.meters.counter(&family::CONNECT_ATTEMPTS, &labels).inc();
    }

    pub(super) fn hedge(&self, endpoint: &Endpoint, result: &str) {
        let [upstream, name, zone] = endpoint.labels();
        let labels = [upstream, name, zone, result];
        self.meters.counter(&family::CONNECT_HEDGES, &labels).inc();
    }
}

// === impl EndpointMeters ===

impl EndpointMeters {
    fn new(
        meters: &Meters,
        listener: &ListenerName,
        upstream: &UpstreamName,
        endpoint: Option<&Endpoint>,
    ) -> Self {
        let [_, name, zone] = endpoint.map_or(["", "", ""], Endpoint::labels);
        let labels = [listener.as_str(), upstream.as_str(), name, zone];
        let bytes = |way: Direction| {
            meters.counter(&family::BYTES, &[upstream.as_str(), name, zone, way.as_str()])
        };
        let spliced = |way: Direction| meters.counter(&family::BYTES_SPLICED, &[way.as_str()]);
        Self {
            connections: meters.gauge(&family::CONNECTIONS, &labels),
            bytes: endpoint.map(|_| Direction::BOTH.map(bytes)),
            spliced: Direction::BOTH.map(spliced),
            connect: endpoint.map(|endpoint| {
                meters.histogram(&family::CONNECT_SECONDS, &endpoint.labels())
            }),
            closed: [const { OnceLock::new() }; Reason::ALL.len()],
            labels: labels.map(str::to_owned),
            meters: meters.clone(),
        }
    }

    pub(super) fn closed(&self, reason: Reason) {
        let [listener, upstream, endpoint, zone] = self.labels.each_ref().map(String::as_str);
        let counter = self.closed[reason as usize].get_or_init(|| {
            let labels = [listener, upstream, endpoint, zone, reason.code()];
            self.meters.counter(&family::CONNECTIONS_CLOSED, &labels)
        });
        counter.inc();
    }

    /// Adds what the tally has not reported yet.
    pub(super) fn settle(&self, tally: &Tally) {
        tally.settle(|direction, bytes, spliced| {
            if let Some(counters) = &self.bytes {
                counters[direction.index()].add(bytes);
            }
            if spliced > 0 {
                self.spliced[direction.index()].add(spliced);
            }
        });
    }
}
