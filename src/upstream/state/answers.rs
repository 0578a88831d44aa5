//! Answers of DNS into the set, and out of it again (contract 7.10). Part of `Pool`'s own methods, apart for their
//! length.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Pool;
use crate::clock::Moment;
use crate::upstream::change::Change;
use crate::upstream::dns::{self, Merged, Name};
use crate::upstream::endpoint::{Endpoint, Role};
use crate::upstream::fact::Answer;
use crate::upstream::known::Known;
use crate::upstream::snapshot::NameView;
use crate::upstream::timing::Timing;

/// Histories kept at most.
const HISTORIES: usize = 256;

// === impl Pool ===

impl Pool {
    pub(super) fn answer(&mut self, now: Moment, answer: &Answer) {
        let name = answer.name.trim_end_matches('.').to_ascii_lowercase();
        let Some(ports) = self.ports(&name) else {
            return;
        };
        let ips: &[IpAddr] = answer.result.as_ref().map_or(&[], |got| &got.ips);
        let own = |ip: IpAddr| {
            ports
                .iter()
                .all(|port| dns::is_own(SocketAddr::new(ip, *port), &self.own_listeners))
        };
        let refused: Vec<IpAddr> = ips.iter().copied().filter(|ip| own(*ip)).collect();
        let usable = ips.len() > refused.len();
        if usable {
            for held in self
                .held
                .iter_mut()
                .filter(|held| held.endpoint.spec.host == name)
            {
                held.answered = true;
            }
        }
        let quiet = self.is_candidate(&name) || name.parse::<IpAddr>().is_ok();
        let record = self
            .names
            .entry(name.clone())
            .or_insert_with(|| Name::new(&name));
        let error = record.note(answer, &refused);
        let kept = record.view().addresses.len();
        if !quiet {
            let result = answer
                .result
                .as_ref()
                .map_or_else(|none| none.as_str(), |_| "ok");
            self.changes.push(Change::Lookup {
                name: name.clone(),
                result,
            });
            if let Some(error) = error {
                self.changes.push(Change::DnsError {
                    name: name.clone(),
                    error,
                    kept,
                });
            }
        }
        if usable {
            self.merge(now, &name, ips);
        }
    }

    /// A good answer changes every endpoint of that name.
    pub(super) fn merge(&mut self, now: Moment, name: &str, ips: &[IpAddr]) {
        let probes = self.settings.health.probes();
        for at in 0..self.held.len() {
            if self.held[at].endpoint.spec.host != name {
                continue;
            }
            let (port, role) = (
                self.held[at].endpoint.spec.port,
                self.held[at].endpoint.spec.role,
            );
            let (mut fitting, _) = dns::fit(ips, port, &self.own_listeners, &self.held[at].members);
            if role == Role::Regional {
                // What a zonal name holds belongs there; the regional answer only ranks it.
                let zonal = self
                    .held
                    .iter_mut()
                    .filter(|held| held.endpoint.spec.role == Role::Zonal);
                for member in zonal.flat_map(|held| &mut held.members) {
                    member.regional(fitting.contains(&member.socket));
                    fitting.retain(|socket| *socket != member.socket);
                }
            }
            let merged = dns::merge(&mut self.held[at].members, &fitting, now, probes);
            if role == Role::Zonal {
                let zonal: Vec<SocketAddr> = self.held[at]
                    .members
                    .iter()
                    .map(|member| member.socket)
                    .collect();
                let regional = self
                    .held
                    .iter_mut()
                    .filter(|held| held.endpoint.spec.role == Role::Regional);
                for held in regional {
                    held.members
                        .retain(|member| !zonal.contains(&member.socket));
                }
            }
            for socket in &merged.back {
                if let Some(known) = self.known.get_mut(socket) {
                    known.hurry(now);
                }
            }
            let endpoint = Arc::clone(&self.held[at].endpoint);
            self.told_dns(now, &endpoint, &merged, Vec::new());
        }
    }

    fn told_dns(
        &mut self,
        now: Moment,
        endpoint: &Arc<Endpoint>,
        merged: &Merged,
        removed: Vec<IpAddr>,
    ) {
        let ips = |sockets: &[SocketAddr]| sockets.iter().map(SocketAddr::ip).collect::<Vec<_>>();
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

    /// The ports that are wanted of a name; `None`: nobody asked for it.
    fn ports(&self, name: &str) -> Option<Vec<u16>> {
        let ports: Vec<u16> = self
            .held
            .iter()
            .filter(|held| held.endpoint.spec.host == name)
            .map(|held| held.endpoint.spec.port)
            .collect();
        (!ports.is_empty()).then_some(ports)
    }

    /// A derived name that has not answered yet.
    fn is_candidate(&self, name: &str) -> bool {
        self.held
            .iter()
            .filter(|held| held.endpoint.spec.host == name)
            .all(|held| {
                matches!(held.endpoint.spec.role, Role::Zonal | Role::PeeredOld) && !held.answered
            })
    }

    /// The records of all names, in the order of the endpoints.
    pub(in crate::upstream) fn name_views(&self) -> Vec<NameView> {
        let mut views: Vec<NameView> = Vec::new();
        for held in &self.held {
            let host = &held.endpoint.spec.host;
            if host.parse::<IpAddr>().is_ok() || views.iter().any(|view| view.name == *host) {
                continue;
            }
            let candidate = self.is_candidate(host);
            views.push(match self.names.get(host) {
                Some(name) => name.view_as(candidate),
                None => Name::new(host).view_as(candidate),
            });
        }
        views
    }

    /// What ends by itself: departures, histories.
    pub(super) fn expire(&mut self, now: Moment) {
        for at in 0..self.held.len() {
            let known = &self.known;
            let mut removed = Vec::new();
            self.held[at].members.retain(|member| {
                let over = member.departed().is_some_and(|departed| {
                    now.since(departed) >= Timing::DEPARTED_FOR
                        || known
                            .get(&member.socket)
                            .is_some_and(|known| known.failed_since(departed))
                });
                if over {
                    removed.push(member.socket.ip());
                }
                !over
            });
            if !removed.is_empty() {
                let endpoint = Arc::clone(&self.held[at].endpoint);
                self.told_dns(now, &endpoint, &Merged::default(), removed);
            }
        }
        let old: Vec<SocketAddr> = self
            .known
            .iter()
            .filter(|(_, known)| {
                known
                    .gone
                    .is_some_and(|gone| now.since(gone) >= Timing::HISTORY)
            })
            .map(|(socket, _)| *socket)
            .collect();
        for socket in old {
            self.forget(socket);
        }
    }

    fn forget(&mut self, socket: SocketAddr) {
        self.known.remove(&socket);
        self.pin.forget(socket);
    }

    /// Brings the known addresses in line with what the endpoints hold.
    pub(super) fn refresh_set(&mut self, now: Moment) {
        let wanted: BTreeSet<SocketAddr> = self
            .visible()
            .flat_map(|held| &held.members)
            .map(|member| member.socket)
            .collect();
        let mut back = Vec::new();
        for socket in &wanted {
            let health = &self.settings.health;
            let known = self.known.entry(*socket).or_insert_with(|| {
                self.dirty = true;
                Known::new(*socket, now, health)
            });
            if known.gone.take().is_some() {
                let flip = known.health.back(now, health.probes());
                known.plan(now, 0.5, health);
                known.hurry(now);
                back.push((*socket, flip));
            }
        }
        for (socket, flip) in back {
            self.dirty = true;
            self.flipped(now, socket, flip);
        }
        for (socket, known) in &mut self.known {
            if known.gone.is_none() && !wanted.contains(socket) {
                known.gone = Some(now);
                self.dirty = true;
            }
        }
        while self.known.len() > wanted.len() + HISTORIES {
            let gone = self.known.iter().filter(|(_, known)| known.gone.is_some());
            match gone
                .min_by_key(|(_, known)| known.gone)
                .map(|(socket, _)| *socket)
            {
                Some(socket) => self.forget(socket),
                None => break,
            }
        }
    }
}
