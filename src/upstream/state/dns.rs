//! DNS answers and what follows from them: which addresses the endpoints have, and which are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::UpstreamState;
use crate::clock::Moment;
use crate::upstream::address::AddressState;
use crate::upstream::change::Change;
use crate::upstream::constants;
use crate::upstream::endpoint::{Endpoint, Role};
use crate::upstream::input::{AnswerSource, DnsAnswer};
use crate::upstream::membership::{self, Merged, NameRecord};
use crate::upstream::snapshot::{HealthState, NameView};

/// Histories kept at most.
const HISTORIES: usize = 256;

impl membership::KnownAddresses for BTreeMap<SocketAddr, AddressState> {
    fn is_down(&self, socket: SocketAddr) -> bool {
        self.get(&socket)
            .is_some_and(|address_state| address_state.health.state() == HealthState::Down)
    }

    fn is_new(&self, socket: SocketAddr) -> bool {
        !self.contains_key(&socket)
    }
}

// === impl UpstreamState ===

impl UpstreamState {
    pub(super) fn answer(&mut self, now: Moment, answer: &DnsAnswer) {
        let name = answer.name.trim_end_matches('.').to_ascii_lowercase();
        let Some(ports) = self.ports(&name) else {
            return;
        };
        let ips: &[IpAddr] = answer.result.as_ref().map_or(&[], |got| &got.ips);
        let own = |ip: IpAddr| {
            ports
                .iter()
                .all(|port| membership::is_own(SocketAddr::new(ip, *port), &self.own_listeners))
        };
        let refused: Vec<IpAddr> = ips.iter().copied().filter(|ip| own(*ip)).collect();
        let usable = ips.len() > refused.len();
        if usable {
            for endpoint_state in self
                .endpoints
                .iter_mut()
                .filter(|endpoint_state| endpoint_state.endpoint.spec.host == name)
            {
                endpoint_state.answered = true;
            }
        }
        let quiet = self.is_candidate(&name) || name.parse::<IpAddr>().is_ok();
        let record = self
            .names
            .entry(name.clone())
            .or_insert_with(|| NameRecord::new(&name));
        let source_before = record.view().source;
        let error = record.record(answer, &refused);
        let kept = record.view().addresses.len();
        if let Some(error) = error.filter(|_| !quiet) {
            self.changes.push(Change::DnsError {
                name: name.clone(),
                error,
                kept,
            });
        }
        if usable {
            // Also where the name came from the hosts file before, and comes from DNS now.
            let is_dns = |source| source == Some(AnswerSource::Dns);
            let source = answer.result.as_ref().ok().map(|got| got.source);
            let is_complete =
                !is_dns(source) || source_before.is_some_and(|before| before != AnswerSource::Dns);
            self.merge(now, &name, ips, is_complete);
        }
    }

    /// A good answer changes every endpoint of that name.
    pub(super) fn merge(&mut self, now: Moment, name: &str, ips: &[IpAddr], is_complete: bool) {
        let probes = self.settings.health.probes();
        for at in 0..self.endpoints.len() {
            if self.endpoints[at].endpoint.spec.host != name {
                continue;
            }
            let (port, role) = (
                self.endpoints[at].endpoint.spec.port,
                self.endpoints[at].endpoint.spec.role,
            );
            let hop = self.endpoints[at].endpoint.spec.hop;
            if hop.is_some_and(|hop| hop.remote_dns) {
                continue;
            }
            let (mut fitting, _) = membership::fit(ips, port, &self.own_listeners);
            if let Some(hop) = hop {
                fitting = self.behind_hop(hop, fitting);
            }
            if role == Role::Regional {
                // What a zonal name holds belongs there; the regional answer only ranks it.
                let zonal = self
                    .endpoints
                    .iter_mut()
                    .filter(|endpoint_state| endpoint_state.endpoint.spec.role == Role::Zonal);
                for member in zonal.flat_map(|endpoint_state| &mut endpoint_state.members) {
                    member.regional(fitting.contains(&member.socket));
                    fitting.retain(|socket| *socket != member.socket);
                }
            }
            let merged = membership::merge(
                &mut self.endpoints[at].members,
                &fitting,
                now,
                probes,
                is_complete,
                &self.addresses,
            );
            if role == Role::Zonal {
                let zonal: Vec<SocketAddr> = self.endpoints[at]
                    .members
                    .iter()
                    .map(|member| member.socket)
                    .collect();
                let regional = self
                    .endpoints
                    .iter_mut()
                    .filter(|endpoint_state| endpoint_state.endpoint.spec.role == Role::Regional);
                for endpoint_state in regional {
                    endpoint_state
                        .members
                        .retain(|member| !zonal.contains(&member.socket));
                }
            }
            for socket in &merged.back {
                if let Some(address_state) = self.addresses.get_mut(socket) {
                    address_state.probe_now(now);
                }
            }
            let endpoint = Arc::clone(&self.endpoints[at].endpoint);
            let left_out = std::mem::replace(&mut self.endpoints[at].left_out, merged.left_out);
            if left_out == 0 && merged.left_out > 0 {
                self.changes.push(Change::AddressesLeftOut {
                    name: name.to_owned(),
                    kept: self.endpoints[at].members.len(),
                    left_out: merged.left_out,
                });
            }
            let removed = merged.removed.iter().map(|gone| self.shown_ip(*gone));
            let removed = removed.collect();
            self.report_dns_change(now, &endpoint, &merged, removed);
        }
    }

    fn report_dns_change(
        &mut self,
        now: Moment,
        endpoint: &Arc<Endpoint>,
        merged: &Merged,
        removed: Vec<IpAddr>,
    ) {
        let ips = |sockets: &[SocketAddr]| {
            let ips = sockets.iter().map(|socket| self.shown_ip(*socket));
            ips.collect::<Vec<_>>()
        };
        let added: Vec<IpAddr> = [ips(&merged.added), ips(&merged.back)].concat();
        let departed = ips(&merged.departed);
        if added.is_empty() && departed.is_empty() && removed.is_empty() {
            return;
        }
        self.dirty = true;
        let name = endpoint.spec.host.clone();
        if let Some(record) = self.names.get_mut(&name) {
            record.changed(now);
        }
        if name.parse::<IpAddr>().is_err() {
            self.changes.push(Change::Dns {
                name,
                endpoint: Arc::clone(endpoint),
                added,
                departed,
                removed,
            });
        }
    }

    /// The ports that are wanted of a name; `None`: it is not asked for.
    fn ports(&self, name: &str) -> Option<Vec<u16>> {
        let ports: Vec<u16> = self
            .endpoints
            .iter()
            .filter(|endpoint_state| endpoint_state.endpoint.spec.host == name)
            .map(|endpoint_state| endpoint_state.endpoint.spec.port)
            .collect();
        (!ports.is_empty()).then_some(ports)
    }

    /// A derived name that has not answered yet.
    fn is_candidate(&self, name: &str) -> bool {
        self.endpoints
            .iter()
            .filter(|endpoint_state| endpoint_state.endpoint.spec.host == name)
            .all(|endpoint_state| {
                matches!(
                    endpoint_state.endpoint.spec.role,
                    Role::Zonal | Role::PeeredOld
                ) && !endpoint_state.answered
            })
    }

    /// The records of all names, in the order of the endpoints.
    pub(in crate::upstream) fn name_views(&self) -> Vec<NameView> {
        let mut views: Vec<NameView> = Vec::new();
        for endpoint_state in &self.endpoints {
            let host = &endpoint_state.endpoint.spec.host;
            if host.parse::<IpAddr>().is_ok() || views.iter().any(|view| view.name == *host) {
                continue;
            }
            let candidate = self.is_candidate(host);
            views.push(match self.names.get(host) {
                Some(name) => name.view_as(candidate),
                None => NameRecord::new(host).view_as(candidate),
            });
        }
        views
    }

    /// What ends by itself: departures, histories.
    pub(super) fn expire(&mut self, now: Moment) {
        for at in 0..self.endpoints.len() {
            let address_state = &self.addresses;
            let mut removed = Vec::new();
            self.endpoints[at].members.retain(|member| {
                let over = member.departed().is_some_and(|departed| {
                    now.since(departed) >= constants::DEPARTED_FOR
                        || address_state
                            .get(&member.socket)
                            .is_some_and(|address_state| address_state.failed_since(departed))
                });
                if over {
                    removed.push(member.socket.ip());
                }
                !over
            });
            if !removed.is_empty() {
                let endpoint = Arc::clone(&self.endpoints[at].endpoint);
                self.report_dns_change(now, &endpoint, &Merged::default(), removed);
            }
        }
        let old: Vec<SocketAddr> = self
            .addresses
            .iter()
            .filter(|(_, address_state)| {
                address_state
                    .gone
                    .is_some_and(|gone| now.since(gone) >= constants::HISTORY)
            })
            .map(|(socket, _)| *socket)
            .collect();
        for socket in old {
            self.remove_address(socket);
        }
    }

    fn remove_address(&mut self, socket: SocketAddr) {
        self.addresses.remove(&socket);
        self.pin.remove(socket);
    }

    /// Brings the known addresses in line with what the endpoints hold.
    pub(super) fn refresh_set(&mut self, now: Moment) {
        let wanted: BTreeSet<SocketAddr> = self
            .visible()
            .flat_map(|endpoint_state| &endpoint_state.members)
            .map(|member| member.socket)
            .collect();
        let mut back = Vec::new();
        for socket in &wanted {
            let address = self.address_of(*socket);
            let health = &self.settings.health;
            let address_state = self.addresses.entry(*socket).or_insert_with(|| {
                self.dirty = true;
                AddressState::new(address, now, health)
            });
            if address_state.gone.take().is_some() {
                let transition = address_state.health.readmit(now, health.probes());
                address_state.schedule_next(now, 0.5, health);
                address_state.probe_now(now);
                back.push((*socket, transition));
            }
        }
        for (socket, transition) in back {
            self.dirty = true;
            self.record_transition(now, socket, transition);
        }
        for (socket, address_state) in &mut self.addresses {
            if address_state.gone.is_none() && !wanted.contains(socket) {
                address_state.gone = Some(now);
                self.dirty = true;
            }
        }
        while self.addresses.len() > wanted.len() + HISTORIES {
            let gone = self
                .addresses
                .iter()
                .filter(|(_, address_state)| address_state.gone.is_some());
            match gone
                .min_by_key(|(_, address_state)| address_state.gone)
                .map(|(socket, _)| *socket)
            {
                Some(socket) => self.remove_address(socket),
                None => break,
            }
        }
    }
}
