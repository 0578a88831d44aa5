//! How the snapshots of the upstreams become the JSON of `status`: pure, and the one place where a [`Moment`] becomes a time of
//! day.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;

use super::api_types::{
    AddressJson, EndpointJson, Explain, HopRow, NameJson, Probe, RankedAddress, UpstreamJson,
};
use crate::clock::Moment;
use crate::dial::hop::Hop;
use crate::types::UpstreamName;
use crate::upstream::explain::Explanation;
use crate::upstream::input::Intent;
use crate::upstream::snapshot::{AddressView, EndpointView, NameView, Snapshot};

/// A wall clock that differs by less than this from what it should show was not set.
const STEP_MS: u64 = 50;

/// The moment on the wall clock, RFC 3339 UTC. `now` is this very moment. Unless the clock is set, one moment is
/// always shown as the same time: both clocks are not read at once.
pub fn wall(moment: Moment, now: Moment) -> String {
    static START: AtomicI64 = AtomicI64::new(i64::MIN);
    let millis = |moment: Moment| i64::try_from(moment.as_millis()).unwrap_or(i64::MAX);
    let measured = Timestamp::now()
        .as_millisecond()
        .saturating_sub(millis(now));
    let known = START.load(Relaxed);
    let start = if known.abs_diff(measured) < STEP_MS {
        known
    } else {
        START.store(measured, Relaxed);
        measured
    };
    let at = Timestamp::from_millisecond(start.saturating_add(millis(moment)));
    // Only a clock before the year -9999 is out of range.
    format!("{:.3}", at.unwrap_or_default())
}

/// Milliseconds with three decimals.
pub fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Seconds with three decimals.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

// === impl Upstream ===

impl UpstreamJson {
    /// As its snapshot says. System and region are the settings'.
    pub fn of(snapshot: &Snapshot, system: Option<String>, region: Option<String>) -> Self {
        Self {
            name: snapshot.upstream.to_string(),
            system,
            region,
            zone: snapshot.own_zone.as_ref().map(ToString::to_string),
            identity: snapshot.identity.as_ref().map(ToString::to_string),
            healthy: snapshot.healthy,
            addresses: snapshot.addresses,
        }
    }
}

// === impl Endpoint ===

impl EndpointJson {
    /// As its view says; `connections` is how many are open to it.
    pub fn of(view: &EndpointView, connections: usize, now: Moment) -> Self {
        let spec = &view.endpoint.spec;
        Self {
            upstream: view.endpoint.upstream.to_string(),
            name: spec.name.to_string(),
            host: spec.host.clone(),
            port: spec.port,
            zone: spec.zone.as_ref().map(ToString::to_string),
            tier: view.tier,
            healthy: view.healthy,
            intent: match view.intent {
                Intent::Ready => "ready",
                Intent::Drain => "drain",
            }
            .to_owned(),
            active: view.active,
            connections,
            addresses: view
                .addresses
                .iter()
                .map(|address| AddressJson::of(address, now))
                .collect(),
        }
    }
}

// === impl Address ===

impl AddressJson {
    fn of(view: &AddressView, now: Moment) -> Self {
        Self {
            address: view.address.to_string(),
            state: view.state.as_str().to_owned(),
            since: wall(view.since, now),
            reason: view.reason.to_string(),
            connect_ms: view.address.connects.quantile(0.5).map(millis),
            last_probe: view.last_probe.as_ref().map(|probe| Probe {
                at: wall(probe.at, now),
                result: probe.result.clone(),
                detail: probe.detail.clone(),
                ms: millis(probe.took),
            }),
            in_dns: view.in_dns,
            identity: view.identity.as_ref().map(ToString::to_string),
        }
    }
}

// === impl Name ===

impl NameJson {
    /// As its view says.
    pub fn of(view: &NameView, now: Moment) -> Self {
        Self {
            name: view.name.clone(),
            addresses: view.addresses.iter().map(ToString::to_string).collect(),
            ttl_s: view.answered.map(|_| seconds(view.ttl)),
            age_s: view.answered.map(|at| seconds(now.since(at))),
            stale: view.stale,
            last_error: view.last_error.clone(),
            last_change: view.last_change.map(|at| wall(at, now)),
        }
    }
}

// === impl Explain ===

impl Explain {
    /// Adds what one upstream reports; with `several` upstreams each verdict names its own.
    pub fn add(&mut self, upstream: &str, explanation: &Explanation, several: bool) {
        self.order
            .extend(explanation.order.iter().map(|one| RankedAddress {
                upstream: upstream.to_owned(),
                endpoint: one.endpoint.to_string(),
                address: one.address.to_string(),
                rank: one.rank,
                reasons: one.reasons.clone(),
            }));
        if !self.verdict.is_empty() {
            self.verdict.push('\n');
        }
        if several {
            self.verdict.push_str(upstream);
            self.verdict.push_str(": ");
        }
        self.verdict.push_str(&explanation.verdict);
    }
}

// === impl HopRow ===

impl HopRow {
    pub fn of(upstream: &UpstreamName, hop: &Hop) -> Self {
        let status = hop.health().status();
        Self {
            upstream: upstream.to_string(),
            via: hop.spec().to_string(),
            kind: hop.spec().kind.as_str().to_owned(),
            state: status.state.as_str().to_owned(),
            since: Timestamp::try_from(status.since)
                .unwrap_or_default()
                .to_string(),
            pid: status.pid,
            restarts: status.restarts,
            last_error: status.last_error,
            last_output: status.last_output,
        }
    }
}
