//! What the pool does, as log lines and numbers (contract section 6).
//!
//! Owns the series of endpoints, probes, identity and DNS, and their removal. Labels come from the configuration, but
//! for result codes, which are of a closed list.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::bus::Bus;
use crate::clock::Moment;
use crate::event::{Event, Level};
use crate::meters::{Meters, family};
use crate::names::UpstreamName;
use crate::pool::change::Change;
use crate::pool::endpoint::Endpoint;
use crate::pool::identity::PinChange;
use crate::pool::snapshot::{NameView, Snapshot, State};

/// Writes log lines and numbers.
#[derive(Debug)]
pub(in crate::pool) struct Report {
    upstream: UpstreamName,
    meters: Meters,
    bus: Bus,
    /// Endpoints and names that have series now.
    endpoints: BTreeSet<String>,
    names: BTreeSet<String>,
}

// === impl Report ===

impl Report {
    pub(in crate::pool) fn new(upstream: UpstreamName, meters: Meters, bus: Bus) -> Self {
        Self {
            upstream,
            meters,
            bus,
            endpoints: BTreeSet::new(),
            names: BTreeSet::new(),
        }
    }

    /// Tells what has changed.
    pub(in crate::pool) fn changes(&self, changes: &[Change], now: Moment) {
        for change in changes {
            self.count(change);
            if let Some(event) = self.event(change, now) {
                self.bus.emit(event);
            }
        }
    }

    /// Sets the gauges to the picture; series of what is no longer in it are removed.
    pub(in crate::pool) fn picture(&mut self, picture: &Snapshot, now: Moment) {
        let upstream = picture.upstream.as_str();
        let set =
            |family, labels: &[&str], value: f64| self.meters.gauge(family, labels).set(value);
        let flag = |yes: bool| f64::from(u8::from(yes));
        set(&family::FAIL_OPEN, &[upstream], flag(picture.fail_open));
        set(
            &family::UPSTREAM_ADDRESSES,
            &[upstream],
            picture.addresses as f64,
        );
        set(
            &family::UPSTREAM_HEALTHY_ADDRESSES,
            &[upstream],
            picture.healthy as f64,
        );
        let mut shown = BTreeSet::new();
        for view in &picture.endpoints {
            let labels = [
                upstream,
                view.endpoint.name().as_str(),
                view.endpoint.zone_label(),
            ];
            let [_, name, zone] = labels;
            shown.insert(name.to_owned());
            set(&family::ENDPOINT_HEALTHY, &labels, flag(view.healthy));
            set(&family::ENDPOINT_ACTIVE, &labels, flag(view.active));
            let answers = view.addresses.iter().any(|address| {
                address
                    .last_probe
                    .as_ref()
                    .is_some_and(|last| last.result == "ok")
            });
            set(&family::PROBE_SUCCESS, &labels, flag(answers));
            for state in State::ALL {
                let count = view
                    .addresses
                    .iter()
                    .filter(|address| address.state == state)
                    .count();
                set(
                    &family::ENDPOINT_ADDRESSES,
                    &[upstream, name, zone, state.as_str()],
                    count as f64,
                );
            }
        }
        for gone in self.endpoints.difference(&shown) {
            self.meters
                .remove(&[("upstream", upstream), ("endpoint", gone)]);
        }
        self.endpoints = shown;
        let named = names(picture).map(|view| view.name.clone()).collect();
        for gone in self.names.difference(&named) {
            self.meters.remove(&[("name", gone)]);
        }
        self.names = named;
        self.ages(picture, now);
    }

    /// The gauges of names: they age without any change.
    pub(in crate::pool) fn ages(&self, picture: &Snapshot, now: Moment) {
        for view in names(picture) {
            let name = view.name.as_str();
            let set = |family, value: f64| self.meters.gauge(family, &[name]).set(value);
            set(&family::DNS_ADDRESSES, view.addresses.len() as f64);
            set(&family::DNS_STALE, f64::from(u8::from(view.stale)));
            if let Some(answered) = view.answered {
                set(&family::DNS_AGE_SECONDS, now.since(answered).as_secs_f64());
            }
        }
    }

    fn count(&self, change: &Change) {
        let upstream = self.upstream.as_str();
        let labels = |endpoint: &Endpoint| {
            [
                endpoint.name().to_string(),
                endpoint.zone_label().to_owned(),
            ]
        };
        let inc = |family, labels: &[&str]| self.meters.counter(family, labels).inc();
        match change {
            Change::Flip { endpoint, flip, .. } => {
                let [name, zone] = labels(endpoint);
                let (to, reason) = (flip.to.as_str(), label(&flip.reason));
                inc(
                    &family::ENDPOINT_TRANSITIONS,
                    &[upstream, &name, &zone, to, reason],
                );
            }
            Change::Probed {
                endpoint,
                result,
                took,
                ..
            } => {
                let [name, zone] = labels(endpoint);
                inc(&family::PROBES, &[upstream, &name, &zone, label(result)]);
                self.meters
                    .histogram(&family::PROBE_DURATION_SECONDS, &[upstream, &name, &zone])
                    .record(took.as_secs_f64());
            }
            Change::Mismatch { endpoint, .. } => {
                let [name, zone] = labels(endpoint);
                inc(&family::IDENTITY_MISMATCHES, &[upstream, &name, &zone]);
            }
            Change::Failover { from, to } => inc(&family::FAILOVERS, &[upstream, from, to]),
            Change::Failback { .. } => inc(&family::FAILBACKS, &[upstream]),
            Change::Lookup { name, result } => inc(&family::DNS_LOOKUPS, &[name, result]),
            Change::Dns { name, .. } => inc(&family::DNS_CHANGES, &[name]),
            Change::EndpointGone(endpoint) => {
                let [name, zone] = labels(endpoint);
                self.meters
                    .remove(&[("upstream", upstream), ("endpoint", &name), ("zone", &zone)]);
            }
            Change::NameGone(name) => self.meters.remove(&[("name", name)]),
            Change::Pin(_) | Change::DnsError { .. } | Change::Stall(_) => {}
        }
    }

    fn event(&self, change: &Change, _now: Moment) -> Option<Event> {
        let of = |event: Event, endpoint: &Endpoint, socket: &std::net::SocketAddr| {
            event
                .with("upstream", endpoint.upstream.to_string())
                .with("endpoint", endpoint.name().to_string())
                .maybe("zone", endpoint.zone().map(ToString::to_string))
                .with("server.address", socket.ip().to_string())
                .with("server.port", socket.port())
        };
        let here = |event: Event| event.with("upstream", self.upstream.to_string());
        Some(match change {
            Change::Flip { endpoint, socket, flip } => {
                let event = if flip.to == State::Down {
                    Event::warn("endpoint.state", "an address is down")
                } else {
                    Event::info("endpoint.state", "an address changed its state")
                };
                of(event, endpoint, socket)
                    .with("from", flip.from.as_str())
                    .with("to", flip.to.as_str())
                    .with("reason", flip.reason.to_string())
            }
            Change::Probed { endpoint, socket, result, detail, took } => {
                if result == "ok" || !self.bus.wants(Level::Debug) {
                    return None;
                }
                of(Event::debug("probe.fail", "a probe failed"), endpoint, socket)
                    .with("result", result.clone())
                    .maybe("detail", detail.clone())
                    .with("probe.duration_ms", took.as_secs_f64() * 1000.0)
            }
            Change::Pin(PinChange::Pinned(_) | PinChange::Mismatch { .. }) => return None,
            Change::Pin(PinChange::Conflict(one, other)) => here(Event::warn(
                "identity.mismatch",
                "the upstream's addresses answer as two systems; it is not used until a reload or restart",
            ))
            .with("identity", one.to_string())
            .with("identity.other", other.to_string()),
            Change::Mismatch { endpoint, socket, got, pinned } => of(
                Event::warn("identity.mismatch", "an address answers as another system and is not used"),
                endpoint,
                socket,
            )
            .with("identity", pinned.to_string())
            .with("identity.other", got.to_string()),
            Change::Failover { from, to } => here(Event::info("upstream.failover", "new connections go to another zone"))
                .with("from", from.clone())
                .with("to", to.clone()),
            Change::Failback { from, to } => here(Event::info("upstream.failback", "new connections go back to a nearer zone"))
                .with("from", from.clone())
                .with("to", to.clone()),
            Change::Dns { name, endpoint, added, departed, removed } => {
                let list = |ips: &[IpAddr]| {
                    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
                    (!ips.is_empty()).then(|| ips.join(" "))
                };
                here(Event::info("dns.change", "the addresses of a name changed"))
                    .with("endpoint", endpoint.name().to_string())
                    .with("name", name.clone())
                    .maybe("added", list(added))
                    .maybe("departed", list(departed))
                    .maybe("removed", list(removed))
            }
            Change::DnsError { name, error, kept } => {
                here(Event::warn("dns.error", "a lookup went wrong; known addresses are kept"))
                    .with("name", name.clone())
                    .with("error", error.clone())
                    .with("kept", *kept)
            }
            Change::Stall(late) => here(Event::debug("stall", "we were late ourselves; timeouts meanwhile are void"))
                .with("late_ms", late.as_secs_f64() * 1000.0),
            Change::Lookup { .. } | Change::EndpointGone(_) | Change::NameGone(_) => return None,
        })
    }
}

/// The names that have series: those that are no candidates.
fn names(picture: &Snapshot) -> impl Iterator<Item = &NameView> {
    picture.names.iter().filter(|view| !view.candidate)
}

/// A code that comes from the network in part (an HTTP status), made one of a closed list.
fn label(code: &str) -> &str {
    const STATUSES: [&str; 16] = [
        "200", "204", "301", "302", "307", "308", "400", "401", "403", "404", "405", "429", "500",
        "502", "503", "504",
    ];
    match code.strip_prefix("http_") {
        Some(status) if !STATUSES.contains(&status) => "http_other",
        _ => code,
    }
}
