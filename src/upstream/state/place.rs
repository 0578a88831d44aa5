//! Where each address stands: its zone, its tier, its key. Part of `Pool`'s own methods, apart for their length.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Held, Pool};
use crate::clock::Moment;
use crate::types::Zone;
use crate::upstream::active::Place;
use crate::upstream::dns::Member;
use crate::upstream::endpoint::{Candidate, Role};
use crate::upstream::fact::Intent;
use crate::upstream::known::Known;
use crate::upstream::rank::{Entry, Key, Rank};
use crate::upstream::snapshot::{Farther, State};
use crate::upstream::timing::{Rebalance, Timing};

// === impl Pool ===

impl Pool {
    /// Every address that may be used, best first; one that several endpoints have stands once.
    pub(in crate::upstream) fn entries(&self, now: Moment) -> Vec<Entry> {
        let zones_say = self.zones_say();
        let mut entries = Vec::new();
        for (place, held) in self.visible().enumerate() {
            for (at, member) in held.members.iter().enumerate() {
                let Some(known) = self.known.get(&member.socket) else {
                    continue;
                };
                if self.pin.forbids(member.socket) {
                    continue;
                }
                let ramp = known.health.ramp_from(now, &self.settings.failback);
                entries.push(Entry {
                    candidate: Candidate {
                        endpoint: Arc::clone(&held.endpoint),
                        address: Arc::clone(&known.address),
                    },
                    key: self.key(held, member, known, (place << 8) | at, zones_say),
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
        held: &Held,
        member: &Member,
        known: &Known,
        place: usize,
        zones_say: bool,
    ) -> Key {
        Key {
            drained: held.intent == Intent::Drain,
            health: self.rank(known),
            departed: !member.in_dns(),
            tier: self.tier(held, member.socket, zones_say),
            near: self.near.rank(member.socket),
            place,
        }
    }

    fn rank(&self, known: &Known) -> Rank {
        match known.health.state() {
            State::Up => Rank::Well,
            State::Unknown if known.health.fails() > 0 => Rank::Suspect,
            State::Unknown if !self.first_round_done => Rank::Well,
            State::Unknown => Rank::Unproven,
            State::Returning => Rank::Returning,
            State::Suspect => Rank::Suspect,
            State::Down => Rank::Down,
        }
    }

    /// 0 near, 1 farther, 2 a peered name; by connect time where zones do not say.
    pub(in crate::upstream) fn tier(&self, held: &Held, socket: SocketAddr, zones_say: bool) -> u8 {
        match held.endpoint.spec.role {
            Role::Peered | Role::PeeredOld => 2,
            _ if zones_say => u8::from(!held.endpoint.zone().is_some_and(|zone| self.is_own(zone))),
            _ => u8::from(self.near.is_far(socket)),
        }
    }

    /// Whether our own zone is one of the endpoints'.
    pub(in crate::upstream) fn zones_say(&self) -> bool {
        self.visible()
            .any(|held| held.endpoint.zone().is_some_and(|zone| self.is_own(zone)))
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

    /// The zone of an address, or its endpoint's name; empty when nobody has it.
    pub(super) fn place_of(&self, socket: SocketAddr) -> String {
        self.visible()
            .find(|held| held.members.iter().any(|member| member.socket == socket))
            .map(place_name)
            .unwrap_or_default()
    }

    /// All places, best first, those that may not be used last.
    pub(super) fn ranked_places(&self) -> Vec<Place> {
        let zones_say = self.zones_say();
        let mut places: Vec<Place> = Vec::new();
        for (index, held) in self.visible().enumerate() {
            let name = place_name(held);
            for (at, member) in held.members.iter().enumerate() {
                let Some(known) = self.known.get(&member.socket) else {
                    continue;
                };
                let key = self.key(held, member, known, (index << 8) | at, zones_say);
                let preference = (key.tier, key.near, key.place);
                let key = Some(key).filter(|_| !self.pin.forbids(member.socket));
                match places.iter_mut().find(|place| place.name == name) {
                    Some(place) => {
                        place.preference = place.preference.min(preference);
                        place.key = [place.key, key].into_iter().flatten().min();
                    }
                    None => places.push(Place {
                        name: name.clone(),
                        key,
                        preference,
                    }),
                }
            }
        }
        places.sort_by_key(|place| (place.key.is_none(), place.key));
        places
    }

    /// Which pairs at rest may move to a nearer zone that is well again, and has been for long enough.
    pub(in crate::upstream) fn farther(&self, now: Moment) -> Option<Farther> {
        if self.settings.failback.rebalance == Rebalance::Off || !self.first_round_done {
            return None;
        }
        let entries = self.entries(now);
        let settled = |entry: &Entry| {
            let fit = entry.key.health == Rank::Well && !entry.key.drained && !entry.key.departed;
            self.known
                .get(&entry.candidate.address.socket)
                .filter(|_| fit)
                .and_then(|known| known.health.settled(now, &self.settings.failback))
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
            .filter(|held| !held.members.is_empty())
            .filter(|held| {
                held.members
                    .iter()
                    .all(|member| sockets.contains(&member.socket))
            })
            .map(|held| held.endpoint.name().clone())
            .collect();
        (!sockets.is_empty()).then_some(Farther {
            since,
            endpoints,
            sockets,
        })
    }

    /// Looks at connect times, once a second.
    pub(super) fn look_near(&mut self, now: Moment) {
        if self
            .near_looked
            .is_some_and(|last| now.since(last) < Timing::NEARER_EVERY)
        {
            return;
        }
        self.near_looked = Some(now);
        let mut measured: Vec<(SocketAddr, _)> = Vec::new();
        for member in self.visible().flat_map(|held| &held.members) {
            if let Some(known) = self.known.get(&member.socket)
                && !measured.iter().any(|(socket, _)| *socket == member.socket)
            {
                measured.push((member.socket, known.median()));
            }
        }
        self.dirty |= self.near.look(&measured);
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
pub(in crate::upstream) fn place_name(held: &Held) -> String {
    held.endpoint
        .zone()
        .map_or_else(|| held.endpoint.name().to_string(), Zone::to_string)
}
