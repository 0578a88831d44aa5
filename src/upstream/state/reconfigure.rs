//! Changes of configuration: endpoints, settings, our own listeners.

use std::net::IpAddr;
use std::sync::Arc;

use super::{EndpointState, UpstreamState};
use crate::clock::Moment;
use crate::upstream::change::Change;
use crate::upstream::endpoint::{Endpoint, EndpointSpec};
use crate::upstream::input::Intent;
use crate::upstream::membership;
use crate::upstream::settings::UpstreamPolicy;
use crate::upstream::snapshot::HealthState;

// === impl UpstreamState ===

impl UpstreamState {
    pub(super) fn reconfigure(
        &mut self,
        now: Moment,
        endpoints: Vec<EndpointSpec>,
        settings: UpstreamPolicy,
    ) {
        let old = std::mem::replace(&mut self.settings, settings);
        self.set_endpoints(now, endpoints);
        self.active.reset();
        let address_state = &self.addresses;
        let changes = self
            .pin
            .repin(self.settings.health.expect_s3_auth_path.clone(), |socket| {
                address_state.get(&socket).is_some_and(|address_state| {
                    address_state.gone.is_none()
                        && address_state.health.state() != HealthState::Down
                })
            });
        self.pin_changed(changes);
        let probes = self.settings.health.probes();
        let mut transitions = Vec::new();
        for (socket, address_state) in &mut self.addresses {
            if address_state.gone.is_none() && !probes {
                transitions.push((*socket, address_state.health.unprobed(now)));
            }
            address_state.schedule_next(now, 0.5, &self.settings.health);
            if old != self.settings {
                address_state.probe_now(now);
            }
        }
        for (socket, transition) in transitions {
            self.record_transition(now, socket, transition);
        }
        if !probes {
            self.first_round_done = true;
            let changes = self.pin.end_first_round();
            self.pin_changed(changes);
        }
    }

    /// The wanted endpoints; what stays keeps its addresses, and what the operator wanted of it.
    pub(super) fn set_endpoints(&mut self, now: Moment, endpoints: Vec<EndpointSpec>) {
        let shown: Vec<Arc<Endpoint>> = self
            .visible()
            .map(|endpoint_state| Arc::clone(&endpoint_state.endpoint))
            .collect();
        let mut old = std::mem::take(&mut self.endpoints);
        for mut spec in endpoints {
            spec.host = spec.host.trim_end_matches('.').to_ascii_lowercase();
            let same = old.iter().position(|endpoint_state| {
                let was = &endpoint_state.endpoint.spec;
                was.name == spec.name
                    && was.host == spec.host
                    && was.port == spec.port
                    && was.hop == spec.hop
            });
            let fresh = |spec: EndpointSpec| {
                Arc::new(Endpoint {
                    upstream: self.upstream.clone(),
                    spec,
                })
            };
            let mut endpoint_state = match same {
                Some(index) => old.swap_remove(index),
                None => EndpointState {
                    endpoint: fresh(spec.clone()),
                    intent: Intent::Ready,
                    members: Vec::new(),
                    answered: false,
                    left_out: 0,
                },
            };
            if endpoint_state.endpoint.spec != spec {
                endpoint_state.endpoint = fresh(spec);
            }
            self.endpoints.push(endpoint_state);
        }
        let endpoint_state = &self.endpoints;
        self.names.retain(|name, _| {
            endpoint_state
                .iter()
                .any(|endpoint_state| endpoint_state.endpoint.spec.host == *name)
        });
        self.seed(now);
        self.seed_behind_hops();
        for endpoint in shown {
            let spec = &endpoint.spec;
            let stays = |other: &EndpointSpec| other.name == spec.name && other.zone == spec.zone;
            if !self
                .endpoints
                .iter()
                .any(|endpoint_state| stays(&endpoint_state.endpoint.spec))
            {
                self.changes
                    .push(Change::EndpointGone(Arc::clone(&endpoint)));
            }
        }
    }

    /// New endpoints start with what their name last answered; literal addresses are their own answer.
    fn seed(&mut self, now: Moment) {
        let mut empty: Vec<String> = self
            .endpoints
            .iter()
            .filter(|endpoint_state| {
                endpoint_state.members.is_empty()
                    && endpoint_state.endpoint.spec.remote_target().is_none()
            })
            .map(|endpoint_state| endpoint_state.endpoint.spec.host.clone())
            .collect();
        empty.dedup();
        for host in empty {
            let ips = match host.parse::<IpAddr>() {
                Ok(ip) => vec![ip],
                Err(_) => match self.names.get(&host) {
                    Some(name) => name.view().addresses.clone(),
                    None => continue,
                },
            };
            if ips.is_empty() {
                continue;
            }
            for endpoint_state in self
                .endpoints
                .iter_mut()
                .filter(|endpoint_state| endpoint_state.endpoint.spec.host == host)
            {
                endpoint_state.answered = true;
            }
            self.merge(now, &host, &ips, false);
        }
    }

    /// Our own listeners have changed: addresses that reach them leave the set.
    pub(super) fn drop_own(&mut self) {
        for endpoint_state in &mut self.endpoints {
            endpoint_state
                .members
                .retain(|member| !membership::is_own(member.socket, &self.own_listeners));
        }
    }
}
