//! Endpoints behind hops: their addresses, and what the health of a hop means for them.

use std::net::{IpAddr, SocketAddr};

use super::UpstreamState;
use crate::addr::HostPort;
use crate::clock::Moment;
use crate::types::{EndpointName, HopId};
use crate::upstream::address::AddressState;
use crate::upstream::endpoint::{Address, EndpointHop, HopTarget, Role};
use crate::upstream::membership::Membership;

// === impl UpstreamState ===

impl UpstreamState {
    /// An endpoint whose name the hop resolves has one address from the start, a candidate once it has answered.
    pub(super) fn seed_behind_hops(&mut self) {
        for endpoint_state in &mut self.endpoints {
            let spec = &endpoint_state.endpoint.spec;
            let Some(target) = spec.remote_target() else {
                continue;
            };
            endpoint_state.members.clear();
            if spec.is_candidate() && !endpoint_state.answered {
                continue;
            }
            endpoint_state.answered = true;
            endpoint_state.members = vec![Membership::new(target.key())];
            self.hop_targets.insert(target.key(), target);
        }
    }

    /// A candidate behind a hop has answered a probe, which stands for a DNS answer.
    pub(super) fn hop_answered(&mut self, now: Moment, name: &EndpointName) {
        for endpoint_state in &mut self.endpoints {
            if endpoint_state.endpoint.name() == name {
                endpoint_state.answered = true;
            }
        }
        self.seed_behind_hops();
        self.refresh_set(now);
    }

    /// The addresses of a DNS answer, as an endpoint behind a hop knows them.
    pub(super) fn behind_hop(
        &mut self,
        hop: EndpointHop,
        sockets: Vec<SocketAddr>,
    ) -> Vec<SocketAddr> {
        let keys = sockets.into_iter().map(|socket| {
            let target = HopTarget::of(hop.id, socket);
            let key = target.key();
            self.hop_targets.insert(key, target);
            key
        });
        keys.collect()
    }

    /// What people know an address as: behind a hop the target, whose key says nothing.
    pub(super) fn shown(&self, socket: SocketAddr) -> HostPort {
        match self.hop_targets.get(&socket) {
            Some(target) => target.to.clone(),
            None => HostPort {
                host: socket.ip().to_string(),
                port: socket.port(),
            },
        }
    }

    /// The IP of [`UpstreamState::shown`], for lists of what a name answers with.
    pub(super) fn shown_ip(&self, socket: SocketAddr) -> IpAddr {
        let target = self.hop_targets.get(&socket);
        let ip = target.and_then(|target| target.to.host.parse().ok());
        ip.unwrap_or(socket.ip())
    }

    pub(super) fn address_of(&self, socket: SocketAddr) -> Address {
        match self.hop_targets.get(&socket) {
            Some(target) => Address::behind(target.clone()),
            None => Address::new(socket),
        }
    }

    /// A hop that is down says nothing about the addresses behind it; once it is back they are probed at once.
    pub(super) fn hop_health(&mut self, now: Moment, hop: HopId, is_up: bool) {
        let news = match is_up {
            true => self.hops_down.remove(&hop),
            false => self.hops_down.insert(hop),
        };
        if !news {
            return;
        }
        for socket in self.behind(hop) {
            let probes = self.settings.health.probes();
            let Some(state) = self.addresses.get_mut(&socket) else {
                continue;
            };
            let transition = match is_up {
                true => None,
                false => state.health.hop_down(now, probes),
            };
            state.probe_now(now);
            self.record_transition(now, socket, transition);
        }
    }

    /// Something takes too long behind a hop. Whether that is the hop's fault shows by whether anything behind it
    /// answers, so all are asked, and again and again until they have answered. Their health stays as it is.
    pub(super) fn hop_doubted(&mut self, now: Moment, hop: HopId) {
        for socket in self.behind(hop) {
            let draw = self.draw();
            if let Some(state) = self.addresses.get_mut(&socket)
                && state.health.doubt(now)
            {
                state.schedule_next(now, draw, &self.settings.health);
            }
        }
    }

    /// The same, when an address has begun to be silent.
    pub(super) fn doubt_hop_of(&mut self, now: Moment, socket: SocketAddr) {
        let target = self.hop_targets.get(&socket);
        if let Some(hop) = target.map(|target| target.hop) {
            self.hop_doubted(now, hop);
        }
    }

    /// The addresses behind a hop.
    fn behind(&self, hop: HopId) -> Vec<SocketAddr> {
        let is_behind = |state: &AddressState| {
            let target = state.address.target.as_ref();
            target.is_some_and(|target| target.hop == hop)
        };
        self.set()
            .filter(|(_, state)| is_behind(state))
            .map(|(socket, _)| socket)
            .collect()
    }

    /// Whether this address is behind a hop that is down.
    pub(in crate::upstream) fn is_hop_down(&self, address: &Address) -> bool {
        address
            .target
            .as_ref()
            .is_some_and(|target| self.hops_down.contains(&target.hop))
    }

    pub(super) fn is_healthy(&self, role: Role) -> bool {
        self.endpoints
            .iter()
            .filter(|state| state.endpoint.spec.role == role)
            .flat_map(|state| &state.members)
            .filter_map(|member| self.addresses.get(&member.socket))
            .any(|state| state.health.state().is_healthy())
    }
}
