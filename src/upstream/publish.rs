//! From what the pool knows to what everybody sees: one snapshot.

use std::sync::Arc;

use crate::clock::Moment;
use crate::upstream::dns::Member;
use crate::upstream::known::Known;
use crate::upstream::rank::{Entry, Rank};
use crate::upstream::snapshot::{AddressView, EndpointView, Snapshot, State};
use crate::upstream::state::{Held, Pool, place_name};

/// The picture of this moment.
pub fn snapshot(pool: &Pool, now: Moment, generation: u64) -> Snapshot {
    let endpoints: Vec<EndpointView> = pool
        .visible()
        .map(|held| endpoint(pool, held, now))
        .collect();
    let entries = pool.entries(now);
    Snapshot {
        upstream: pool.upstream().clone(),
        generation,
        identity: pool.pin().pinned().cloned(),
        identity_conflict: pool.pin().conflict().cloned(),
        fail_open: !entries.is_empty()
            && entries
                .iter()
                .all(|entry: &Entry| entry.key.health == Rank::Down),
        active_zone: pool.active().map(str::to_owned),
        own_zone: pool.own_zone().cloned(),
        names: pool.name_views(),
        healthy: pool
            .set()
            .filter(|(socket, known)| {
                known.health.state().is_healthy() && !pool.pin().forbids(*socket)
            })
            .count(),
        addresses: pool.set().count(),
        first_round_done: pool.first_round_done(),
        all_probed: endpoints.iter().all(|view| !view.addresses.is_empty())
            && pool
                .set()
                .all(|(_, known)| known.answered(&pool.settings().health)),
        rebalance: pool.farther(now),
        endpoints,
        entries,
    }
}

fn endpoint(pool: &Pool, held: &Held, now: Moment) -> EndpointView {
    let addresses: Vec<AddressView> = held
        .members
        .iter()
        .filter_map(|member| Some(address(pool, held, member, pool.known(member.socket)?, now)))
        .collect();
    EndpointView {
        endpoint: Arc::clone(&held.endpoint),
        intent: held.intent,
        tier: addresses
            .iter()
            .map(|view| view.tier)
            .min()
            .unwrap_or_default(),
        healthy: addresses
            .iter()
            .any(|view| view.state.is_healthy() && !view.forbidden),
        active: pool.active() == Some(place_name(held).as_str())
            && addresses
                .iter()
                .any(|view| !view.forbidden && view.state != State::Down),
        addresses,
    }
}

fn address(pool: &Pool, held: &Held, member: &Member, known: &Known, now: Moment) -> AddressView {
    let settings = pool.settings();
    AddressView {
        address: Arc::clone(&known.address),
        state: known.health.state(),
        since: known.health.since(),
        reason: known.health.reason().clone(),
        last_probe: known.last_probe.clone(),
        in_dns: member.in_dns(),
        identity: pool.pin().of(member.socket).cloned(),
        forbidden: pool.pin().forbids(member.socket),
        mismatch: pool.pin().mismatch(member.socket),
        down_by_silence: known.health.down_by_silence(&settings.health),
        probe_at: known.probe_at,
        pace: known.pace,
        ramp_from: known.health.ramp_from(now, &settings.failback),
        tier: pool.tier(held, member.socket, pool.zones_say()),
    }
}
