//! The rank of each address: its zone, its tier, its sort key; and which connections may be rebalanced.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{EndpointState, UpstreamState};
use crate::clock::Moment;
use crate::types::Zone;
use crate::upstream::active_zone::ZoneRank;
use crate::upstream::address::AddressState;
use crate::upstream::constants;
use crate::upstream::endpoint::{Candidate, Role};
use crate::upstream::input::Intent;
use crate::upstream::membership::Membership;
use crate::upstream::ranking::{HealthClass, Ranked, SortKey};
use crate::upstream::settings::Rebalance;
use crate::upstream::snapshot::{HealthState, RebalanceCandidates};

// === impl UpstreamState ===

impl UpstreamState {
    /// Every address that may be used, best first; one that several endpoints have stands once.
    pub(in crate::upstream) fn entries(&self, now: Moment) -> Vec<Ranked> {
        let zones_known = self.zones_known();
        let mut entries = Vec::new();
        for (index, endpoint_state) in self.visible().enumerate() {
            for (at, member) in endpoint_state.members.iter().enumerate() {
                let Some(address_state) = self.addresses.get(&member.socket) else {
                    continue;
                };
                if self.pin.forbids(member.socket) {
                    continue;
                }
                let ramp = address_state.health.ramp_from(now, &self.settings.failback);
                entries.push(Ranked {
                    candidate: Candidate {
                        endpoint: Arc::clone(&endpoint_state.endpoint),
                        address: Arc::clone(&address_state.address),
                    },
                    key: self.key(
                        endpoint_state,
                        member,
                        address_state,
                        (index << 8) | at,
                        zones_known,
                    ),
                    ramp: ramp.map(|from| (from, self.settings.failback.ramp)),
                });
            }
        }
        entries.sort_by_key(|entry| entry.key);
        let mut seen = BTreeSet::new();
        entries.retain(|entry| seen.insert(entry.candidate.address.socket));
        entries
    }

    fn key(
        &self,
        endpoint_state: &EndpointState,
        member: &Membership,
        address_state: &AddressState,
        index: usize,
        zones_known: bool,
    ) -> SortKey {
        SortKey {
            drained: endpoint_state.intent == Intent::Drain,
            health: self.rank(address_state),
            departed: !member.in_dns(),
            tier: self.tier(endpoint_state, member.socket, zones_known),
            latency_rank: self.latency.rank(member.socket),
            index,
        }
    }

    fn rank(&self, address_state: &AddressState) -> HealthClass {
        match address_state.health.state() {
            _ if self.is_hop_down(&address_state.address) => HealthClass::Down,
            HealthState::Up => HealthClass::Healthy,
            HealthState::Unknown if address_state.health.failures() > 0 => HealthClass::Suspect,
            HealthState::Unknown if !self.first_round_done => HealthClass::Healthy,
            HealthState::Unknown => HealthClass::Unprobed,
            HealthState::Returning => HealthClass::Returning,
            HealthState::Suspect => HealthClass::Suspect,
            HealthState::Down => HealthClass::Down,
        }
    }

    /// 0 near, 1 farther, 2 a peered name; by connect time where zones do not say.
    pub(in crate::upstream) fn tier(
        &self,
        endpoint_state: &EndpointState,
        socket: SocketAddr,
        zones_known: bool,
    ) -> u8 {
        match endpoint_state.endpoint.spec.role {
            Role::Peered | Role::PeeredOld => 2,
            _ if zones_known => u8::from(
                !endpoint_state
                    .endpoint
                    .zone()
                    .is_some_and(|zone| self.is_own(zone)),
            ),
            _ => u8::from(self.latency.is_far(socket)),
        }
    }

    /// Whether our own zone is one of the endpoints'.
    pub(in crate::upstream) fn zones_known(&self) -> bool {
        self.visible().any(|endpoint_state| {
            endpoint_state
                .endpoint
                .zone()
                .is_some_and(|zone| self.is_own(zone))
        })
    }

    /// Whether this zone is ours, by name or by id.
    fn is_own(&self, zone: &Zone) -> bool {
        let equal = |one: &Zone, other: &Zone| one.as_str().eq_ignore_ascii_case(other.as_str());
        let is = |own: &Option<Zone>| own.as_ref().is_some_and(|own| equal(own, zone));
        let Some(set) = &self.settings.own_zone else {
            return is(&self.own_zone) || is(&self.own_zone_id);
        };
        // The setting may be a name where endpoints have ids, or the other way round: what was detected tells which
        // name goes with which id, as long as it is the same zone.
        let detected = [&self.own_zone, &self.own_zone_id];
        let agrees = detected.into_iter().flatten().any(|own| equal(own, set));
        equal(set, zone) || (agrees && detected.into_iter().any(is))
    }

    /// The zone of an address, or its endpoint's name; empty where no endpoint has it.
    pub(super) fn zone_of(&self, socket: SocketAddr) -> String {
        self.visible()
            .find(|endpoint_state| {
                endpoint_state
                    .members
                    .iter()
                    .any(|member| member.socket == socket)
            })
            .map(zone_or_endpoint_name)
            .unwrap_or_default()
    }

    /// All zones, best first, those that may not be used last.
    pub(super) fn rank_zones(&self) -> Vec<ZoneRank> {
        let zones_known = self.zones_known();
        let mut zones: Vec<ZoneRank> = Vec::new();
        for (index, endpoint_state) in self.visible().enumerate() {
            let name = zone_or_endpoint_name(endpoint_state);
            for (at, member) in endpoint_state.members.iter().enumerate() {
                let Some(address_state) = self.addresses.get(&member.socket) else {
                    continue;
                };
                let key = self.key(
                    endpoint_state,
                    member,
                    address_state,
                    (index << 8) | at,
                    zones_known,
                );
                let preference = (key.tier, key.latency_rank, key.index);
                let key = Some(key).filter(|_| !self.pin.forbids(member.socket));
                match zones.iter_mut().find(|zone| zone.name == name) {
                    Some(zone) => {
                        zone.preference = zone.preference.min(preference);
                        zone.key = [zone.key, key].into_iter().flatten().min();
                    }
                    None => zones.push(ZoneRank {
                        name: name.clone(),
                        key,
                        preference,
                    }),
                }
            }
        }
        zones.sort_by_key(|zone| (zone.key.is_none(), zone.key));
        zones
    }

    /// Which connections at rest may move to a nearer zone that is well again, and has been for long enough.
    pub(in crate::upstream) fn rebalance_candidates(
        &self,
        now: Moment,
    ) -> Option<RebalanceCandidates> {
        if self.settings.failback.rebalance == Rebalance::Off || !self.first_round_done {
            return None;
        }
        let entries = self.entries(now);
        let settled = |entry: &Ranked| {
            let fit = entry.key.health == HealthClass::Healthy
                && !entry.key.drained
                && !entry.key.departed;
            self.addresses
                .get(&entry.candidate.address.socket)
                .filter(|_| fit)
                .and_then(|address_state| {
                    address_state.health.settled(now, &self.settings.failback)
                })
        };
        let nearest = entries
            .iter()
            .filter(|entry| settled(entry).is_some())
            .map(|entry| entry.key.tier)
            .min()?;
        let since = entries
            .iter()
            .filter(|entry| entry.key.tier == nearest)
            .filter_map(settled)
            .min()?;
        let sockets: Vec<SocketAddr> = entries
            .iter()
            .filter(|entry| entry.key.tier > nearest)
            .map(|entry| entry.candidate.address.socket)
            .collect();
        let endpoints = self
            .visible()
            .filter(|endpoint_state| !endpoint_state.members.is_empty())
            .filter(|endpoint_state| {
                endpoint_state
                    .members
                    .iter()
                    .all(|member| sockets.contains(&member.socket))
            })
            .map(|endpoint_state| endpoint_state.endpoint.name().clone())
            .collect();
        (!sockets.is_empty()).then_some(RebalanceCandidates {
            since,
            endpoints,
            sockets,
        })
    }

    /// Looks at connect times, once a second.
    pub(super) fn update_latency_ranking(&mut self, now: Moment) {
        if self
            .latency_ranked_at
            .is_some_and(|last| now.since(last) + constants::TICK / 2 < constants::NEARER_EVERY)
        {
            return;
        }
        self.latency_ranked_at = Some(now);
        let mut measured: Vec<(SocketAddr, _)> = Vec::new();
        for member in self
            .visible()
            .flat_map(|endpoint_state| &endpoint_state.members)
        {
            if let Some(address_state) = self.addresses.get(&member.socket)
                && !measured.iter().any(|(socket, _)| *socket == member.socket)
            {
                measured.push((member.socket, address_state.median()));
            }
        }
        self.dirty |= self.latency.update(&measured);
    }

    /// Our own zone as far as it is known, the name before the id.
    pub(in crate::upstream) fn own_zone(&self) -> Option<&Zone> {
        [&self.settings.own_zone, &self.own_zone, &self.own_zone_id]
            .into_iter()
            .flatten()
            .next()
    }
}

/// A zone, or an endpoint whose zone is not known.
pub(in crate::upstream) fn zone_or_endpoint_name(endpoint_state: &EndpointState) -> String {
    endpoint_state.endpoint.zone().map_or_else(
        || endpoint_state.endpoint.name().to_string(),
        Zone::to_string,
    )
}
