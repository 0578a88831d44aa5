//! Builds a snapshot from the state.

use std::sync::Arc;

use crate::clock::Moment;
use crate::upstream::address::AddressState;
use crate::upstream::membership::Membership;
use crate::upstream::ranking::{HealthClass, Ranked};
use crate::upstream::snapshot::{AddressView, EndpointView, HealthState, Snapshot};
use crate::upstream::state::{EndpointState, UpstreamState, zone_or_endpoint_name};

/// The snapshot of this moment.
pub fn snapshot(upstream: &UpstreamState, now: Moment, generation: u64) -> Snapshot {
    let endpoints: Vec<EndpointView> = upstream
        .visible()
        .map(|endpoint_state| endpoint(upstream, endpoint_state, now))
        .collect();
    let entries = upstream.entries(now);
    Snapshot {
        upstream: upstream.upstream().clone(),
        generation,
        identity: upstream.pin().pinned().cloned(),
        identity_conflict: upstream.pin().conflict().cloned(),
        identity_configured: upstream.pin().is_configured(),
        fail_open: !entries.is_empty()
            && entries
                .iter()
                .all(|entry: &Ranked| entry.key.health == HealthClass::Down),
        active_zone: upstream.active().map(str::to_owned),
        own_zone: upstream.own_zone().cloned(),
        names: upstream.name_views(),
        healthy: upstream
            .set()
            .filter(|(socket, address_state)| {
                address_state.health.state().is_healthy() && !upstream.pin().forbids(*socket)
            })
            .count(),
        addresses: upstream.set().count(),
        first_round_done: upstream.first_round_done(),
        all_probed: endpoints.iter().all(|view| !view.addresses.is_empty())
            && upstream
                .set()
                .all(|(_, address_state)| address_state.answered(&upstream.settings().health)),
        rebalance: upstream.rebalance_candidates(now),
        endpoints,
        entries,
    }
}

fn endpoint(upstream: &UpstreamState, endpoint_state: &EndpointState, now: Moment) -> EndpointView {
    let addresses: Vec<AddressView> = endpoint_state
        .members
        .iter()
        .filter_map(|member| {
            Some(address(
                upstream,
                endpoint_state,
                member,
                upstream.address(member.socket)?,
                now,
            ))
        })
        .collect();
    EndpointView {
        endpoint: Arc::clone(&endpoint_state.endpoint),
        intent: endpoint_state.intent,
        tier: addresses
            .iter()
            .map(|view| view.tier)
            .min()
            .unwrap_or_default(),
        healthy: addresses
            .iter()
            .any(|view| view.state.is_healthy() && !view.forbidden),
        active: upstream.active() == Some(zone_or_endpoint_name(endpoint_state).as_str())
            && addresses
                .iter()
                .any(|view| !view.forbidden && view.state != HealthState::Down),
        addresses,
    }
}

fn address(
    upstream: &UpstreamState,
    endpoint_state: &EndpointState,
    member: &Membership,
    address_state: &AddressState,
    now: Moment,
) -> AddressView {
    let settings = upstream.settings();
    AddressView {
        address: Arc::clone(&address_state.address),
        state: address_state.health.state(),
        since: address_state.health.since(),
        reason: address_state.health.reason().clone(),
        last_probe: address_state.last_probe.clone(),
        in_dns: member.in_dns(),
        identity: upstream.pin().of(member.socket).cloned(),
        forbidden: upstream.pin().forbids(member.socket),
        hop_down: upstream.is_hop_down(&address_state.address),
        mismatch: upstream.pin().mismatch(member.socket),
        down_by_silence: address_state.health.down_by_silence(&settings.health),
        probe_at: address_state.probe_at,
        pace: address_state.pace,
        ramp_from: address_state.health.ramp_from(now, &settings.failback),
        tier: upstream.tier(endpoint_state, member.socket, upstream.zones_known()),
    }
}
