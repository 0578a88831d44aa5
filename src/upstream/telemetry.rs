//! What happens to the upstream, as log lines and metrics.
//!
//! Owns the series of endpoints, probes and identity, the gauges of names, and their removal. Labels come from the
//! configuration, except result codes, which are of a closed list.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::addr::HostPort;
use crate::clock::Moment;
use crate::events::{Events, event};
use crate::metrics::{Family, Metrics, family};
use crate::types::{EndpointName, UpstreamName};
use crate::upstream::change::Change;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::identity::PinChange;
use crate::upstream::snapshot::{HealthState, NameView, Snapshot};

/// An event about one address: its upstream, endpoint, zone, host and port, then the event's own fields.
macro_rules! address_event {
    ($events:expr, $level:ident, $name:literal, $message:literal, $endpoint:ident, $address:ident, $($fields:tt)*) => {
        event!(
            $events,
            $level,
            $name,
            $message,
            upstream = $endpoint.upstream.as_str(),
            endpoint = $endpoint.name().as_str(),
            zone = $endpoint.zone().map(|zone| zone.as_str()),
            server.address = $address.host.as_str(),
            server.port = $address.port,
            $($fields)*
        )
    };
}

/// Reasons for which addresses are usually marked down, and usual results of probes.
const DOWN_REASONS: [&str; 5] = ["refused", "unreachable", "timeout", "reset", "http_503"];
const PROBE_RESULTS: [&str; 4] = ["ok", "refused", "timeout", "unreachable"];

/// Writes log lines and numbers.
#[derive(Debug)]
pub(in crate::upstream) struct Telemetry {
    upstream: UpstreamName,
    metrics: Metrics,
    events: Events,
    /// Endpoints that are shown, and names that have series.
    endpoints: BTreeSet<String>,
    names: BTreeSet<String>,
    shared_names: NamesInUse,
    /// Addresses that change between up and suspect, and how often they have done so lately.
    flapping: HashMap<(EndpointName, HostPort), Flapping>,
}

/// How many upstreams follow each name: its gauges end with the last. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct NamesInUse(Arc<Mutex<BTreeMap<String, usize>>>);

/// The changes between up and suspect of one address in one window of time.
#[derive(Debug)]
struct Flapping {
    endpoint: Arc<Endpoint>,
    since: Moment,
    changes: u32,
}

/// Changes between up and suspect that one address may log in [`FLAPPING_WINDOW`]; what exceeds them is summed up in
/// one line. An upstream that serves one connection at a time is suspected and cleared several times a second.
const FLAPPING_LINES: u32 = 6;
const FLAPPING_WINDOW: Duration = Duration::from_secs(10);

/// The gauges that describe an endpoint's present state; counters of an endpoint outlive its being hidden.
const STATE_GAUGES: [&Family; 4] = [
    &family::ENDPOINT_HEALTHY,
    &family::ENDPOINT_ACTIVE,
    &family::PROBE_SUCCESS,
    &family::ENDPOINT_ADDRESSES,
];

/// The gauges of a name.
const NAME_GAUGES: [&Family; 3] = [
    &family::DNS_ADDRESSES,
    &family::DNS_STALE,
    &family::DNS_AGE_SECONDS,
];

// === impl NamesInUse ===

impl NamesInUse {
    fn enter(&self, name: &str) {
        *self.lock().entry(name.to_owned()).or_default() += 1;
    }

    /// Whether nobody follows the name any more.
    fn leave(&self, name: &str) -> bool {
        let mut names = self.lock();
        let users = names.get_mut(name);
        if let Some(users) = users.filter(|users| **users > 1) {
            *users -= 1;
            return false;
        }
        names.remove(name);
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Telemetry ===

impl Telemetry {
    pub(in crate::upstream) fn new(
        upstream: UpstreamName,
        metrics: Metrics,
        events: Events,
        shared_names: NamesInUse,
    ) -> Self {
        Self {
            upstream,
            metrics,
            events,
            endpoints: BTreeSet::new(),
            names: BTreeSet::new(),
            shared_names,
            flapping: HashMap::new(),
        }
    }

    pub(in crate::upstream) fn changes(&mut self, changes: &[Change], now: Moment) {
        self.sum_up_flapping(now);
        for change in changes {
            self.count(change);
            if self.is_flapping(change, now) {
                continue;
            }
            self.emit(change);
        }
    }

    /// Counts a change between up and suspect; true when its line is left to the sum.
    fn is_flapping(&mut self, change: &Change, now: Moment) -> bool {
        use HealthState::{Suspect, Up};
        let Change::Transition {
            endpoint,
            address,
            transition,
            ..
        } = change
        else {
            return false;
        };
        if !matches!(
            (transition.from, transition.to),
            (Up, Suspect) | (Suspect, Up)
        ) {
            return false;
        }
        let flapping = self
            .flapping
            .entry((endpoint.name().clone(), address.clone()))
            .or_insert_with(|| Flapping {
                endpoint: Arc::clone(endpoint),
                since: now,
                changes: 0,
            });
        flapping.changes += 1;
        flapping.changes > FLAPPING_LINES
    }

    fn sum_up_flapping(&mut self, now: Moment) {
        let events = &self.events;
        self.flapping.retain(|(_, address), flapping| {
            let goes_on = now.since(flapping.since) < FLAPPING_WINDOW;
            if !goes_on && flapping.changes > FLAPPING_LINES {
                let endpoint = &flapping.endpoint;
                event!(
                    events,
                    INFO,
                    "endpoint.state",
                    "an address keeps changing between up and suspect",
                    upstream = endpoint.upstream.as_str(),
                    endpoint = endpoint.name().as_str(),
                    zone = endpoint.zone().map(|zone| zone.as_str()),
                    server.address = address.host.as_str(),
                    server.port = address.port,
                    changes = flapping.changes,
                    window_s = FLAPPING_WINDOW.as_secs(),
                );
            }
            goes_on
        });
    }

    /// Sets the gauges to the snapshot; series of what is no longer in it are removed.
    pub(in crate::upstream) fn snapshot(&mut self, snapshot: &Snapshot, now: Moment) {
        let upstream = snapshot.upstream.as_str();
        let set =
            |family, labels: &[&str], value: f64| self.metrics.gauge(family, labels).set(value);
        let flag = |yes: bool| f64::from(u8::from(yes));
        set(&family::FAIL_OPEN, &[upstream], flag(snapshot.fail_open));
        let _ = self.metrics.counter(&family::FAILBACKS, &[upstream]);
        set(
            &family::UPSTREAM_ADDRESSES,
            &[upstream],
            snapshot.addresses as f64,
        );
        set(
            &family::UPSTREAM_HEALTHY_ADDRESSES,
            &[upstream],
            snapshot.healthy as f64,
        );
        let mut shown = BTreeSet::new();
        for view in &snapshot.endpoints {
            let labels = [
                upstream,
                view.endpoint.name().as_str(),
                view.endpoint.zone_label(),
            ];
            let [_, name, zone] = labels;
            if !self.endpoints.contains(name) {
                self.register(labels);
            }
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
            for state in HealthState::ALL {
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
            let labels = [("upstream", upstream), ("endpoint", gone.as_str())];
            self.metrics.remove_from(&STATE_GAUGES, &labels);
        }
        if shown != self.endpoints {
            self.register_moves(snapshot);
        }
        self.endpoints = shown;
        let named = names(snapshot).map(|view| view.name.clone()).collect();
        for new in BTreeSet::difference(&named, &self.names) {
            self.shared_names.enter(new);
        }
        for gone in self.names.difference(&named) {
            if self.shared_names.leave(gone) {
                self.forget_name(gone);
            }
        }
        self.names = named;
        self.update_name_ages(snapshot, now);
    }

    /// Counters that alerts and panels read start at 0, so that their first increase is seen as one.
    fn register(&self, labels: [&str; 3]) {
        let [upstream, name, zone] = labels;
        let zero = |family, labels: &[&str]| drop(self.metrics.counter(family, labels));
        zero(&family::IDENTITY_MISMATCHES, &labels);
        for reason in DOWN_REASONS {
            let labels = [upstream, name, zone, HealthState::Down.as_str(), reason];
            zero(&family::ENDPOINT_TRANSITIONS, &labels);
        }
        for result in PROBE_RESULTS {
            zero(&family::PROBES, &[upstream, name, zone, result]);
        }
    }

    /// Every move between two zones (endpoints, where zones are not known) starts at 0.
    fn register_moves(&self, snapshot: &Snapshot) {
        let upstream = snapshot.upstream.as_str();
        let zero = |family, labels: &[&str]| drop(self.metrics.counter(family, labels));
        zero(&family::FAILBACKS, &[upstream]);
        let areas: BTreeSet<&str> = snapshot
            .endpoints
            .iter()
            .map(|view| {
                let name = view.endpoint.name().as_str();
                view.endpoint.zone().map_or(name, |zone| zone.as_str())
            })
            .collect();
        for from in &areas {
            for to in areas.iter().filter(|to| *to != from) {
                zero(&family::FAILOVERS, &[upstream, from, to]);
            }
        }
    }

    /// The gauges of names: they age without any change.
    pub(in crate::upstream) fn update_name_ages(&self, snapshot: &Snapshot, now: Moment) {
        for view in names(snapshot) {
            let name = view.name.as_str();
            let set = |family, value: f64| self.metrics.gauge(family, &[name]).set(value);
            set(&family::DNS_ADDRESSES, view.addresses.len() as f64);
            set(&family::DNS_STALE, f64::from(u8::from(view.stale)));
            if let Some(answered) = view.answered {
                set(&family::DNS_AGE_SECONDS, now.since(answered).as_secs_f64());
            }
        }
    }

    fn forget_name(&self, name: &str) {
        self.metrics.remove_from(&NAME_GAUGES, &[("name", name)]);
    }

    fn count(&self, change: &Change) {
        let upstream = self.upstream.as_str();
        let labels = |endpoint: &Endpoint| {
            [
                endpoint.name().to_string(),
                endpoint.zone_label().to_owned(),
            ]
        };
        let inc = |family, labels: &[&str]| self.metrics.counter(family, labels).increment(1);
        match change {
            Change::Transition {
                endpoint,
                transition,
                ..
            } => {
                let [name, zone] = labels(endpoint);
                let (to, reason) = (transition.to.as_str(), label(&transition.reason));
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
                self.metrics
                    .histogram(&family::PROBE_DURATION_SECONDS, &[upstream, &name, &zone])
                    .record(took.as_secs_f64());
            }
            Change::Mismatch { endpoint, .. } | Change::Conflict { endpoint } => {
                let [name, zone] = labels(endpoint);
                inc(&family::IDENTITY_MISMATCHES, &[upstream, &name, &zone]);
            }
            Change::Failover { from, to } => inc(&family::FAILOVERS, &[upstream, from, to]),
            Change::Failback { .. } => inc(&family::FAILBACKS, &[upstream]),
            Change::EndpointGone(endpoint) => {
                let [name, zone] = labels(endpoint);
                self.metrics.remove(&[
                    ("upstream", upstream),
                    ("endpoint", &name),
                    ("zone", &zone),
                ]);
            }
            Change::Pin(_)
            | Change::Dns { .. }
            | Change::DnsError { .. }
            | Change::AddressesLeftOut { .. }
            | Change::Unreachable { .. }
            | Change::Stall(_) => {}
        }
    }

    fn emit(&self, change: &Change) {
        match change {
            Change::Transition {
                endpoint,
                address,
                transition,
                detail,
            } => {
                let (from, to) = (transition.from.as_str(), transition.to.as_str());
                let reason = &*transition.reason;
                if transition.to == HealthState::Down {
                    address_event!(
                        self.events,
                        WARN,
                        "endpoint.state",
                        "an address is down",
                        endpoint,
                        address,
                        from = from,
                        to = to,
                        reason = reason,
                        detail = detail.as_deref(),
                    );
                } else {
                    address_event!(
                        self.events,
                        INFO,
                        "endpoint.state",
                        "an address changed its state",
                        endpoint,
                        address,
                        from = from,
                        to = to,
                        reason = reason,
                        detail = detail.as_deref(),
                    );
                }
            }
            Change::Probed {
                endpoint,
                address,
                result,
                detail,
                took,
            } if result != "ok" => {
                address_event!(
                    self.events,
                    DEBUG,
                    "probe.fail",
                    "a probe failed",
                    endpoint,
                    address,
                    result = result,
                    detail = detail.as_deref(),
                    probe.duration_ms = took.as_secs_f64() * 1000.0,
                );
            }
            Change::Mismatch {
                endpoint,
                address,
                got,
                pinned,
            } => {
                address_event!(self.events, WARN, "identity.mismatch", "an address answers as another system", endpoint, address,
                    identity = %pinned,
                    identity.other = %got,
                );
            }
            _ => self.emit_about_upstream(change),
        }
    }

    /// Events that are not about one address.
    fn emit_about_upstream(&self, change: &Change) {
        let upstream = self.upstream.as_str();
        let list = |ips: &[IpAddr]| {
            let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
            (!ips.is_empty()).then(|| ips.join(" "))
        };
        match change {
            Change::Pin(PinChange::Conflict(one, other)) => event!(
                self.events,
                WARN,
                "identity.mismatch",
                "two systems behind one upstream: not used until a reload or restart",
                upstream = upstream,
                identity = %one,
                identity.other = %other,
            ),
            Change::Pin(PinChange::Unexpected { expected, got }) => event!(
                self.events,
                WARN,
                "identity.mismatch",
                "no address answers as the system of health.expect_s3_auth_path: not used",
                upstream = upstream,
                identity = %expected,
                identity.other = %got,
            ),
            Change::AddressesLeftOut {
                name,
                kept,
                left_out,
            } => {
                event!(
                    self.events,
                    WARN,
                    "dns.change",
                    "a name has more addresses than are kept; those that are down are dropped first",
                    upstream = upstream,
                    name = name,
                    kept = *kept,
                    left_out = *left_out,
                );
            }
            Change::Unreachable {
                why,
                meanwhile,
                lasting,
            } => {
                let text =
                    format!("nothing can be reached: {why}; {meanwhile}; run `entryway doctor`");
                event!(
                    self.events,
                    WARN,
                    "upstream.unreachable",
                    text,
                    upstream = upstream,
                    error = why,
                    lasting_ms = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX),
                );
            }
            Change::Failover { from, to } => event!(
                self.events,
                INFO,
                "upstream.failover",
                "new connections go to another zone",
                upstream = upstream,
                from = from,
                to = to,
            ),
            Change::Failback { from, to } => event!(
                self.events,
                INFO,
                "upstream.failback",
                "new connections go back to the nearer zone",
                upstream = upstream,
                from = from,
                to = to,
            ),
            Change::Dns {
                name,
                endpoint,
                added,
                departed,
                removed,
            } => event!(
                self.events,
                INFO,
                "dns.change",
                "the addresses of a name changed",
                upstream = upstream,
                endpoint = endpoint.name().as_str(),
                name = name,
                added = list(added),
                departed = list(departed),
                removed = list(removed),
            ),
            Change::DnsError { name, error, kept } => event!(
                self.events,
                WARN,
                "dns.error",
                "a lookup failed; known addresses are kept",
                upstream = upstream,
                name = name,
                error = error,
                kept = *kept,
            ),
            Change::Stall(late) => event!(
                self.events,
                DEBUG,
                "stall",
                "the event loop stalled; timeouts of that interval are ignored",
                upstream = upstream,
                late_ms = late.as_secs_f64() * 1000.0,
            ),
            _ => {}
        }
    }
}

/// The names that have series: those that are no candidates.
fn names(snapshot: &Snapshot) -> impl Iterator<Item = &NameView> {
    snapshot.names.iter().filter(|view| !view.candidate)
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

#[cfg(test)]
mod tests;
