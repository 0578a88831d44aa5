//! What is configured: endpoints, settings, our own listeners. Part of `Pool`'s own methods, apart for their length.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Held, Pool};
use crate::clock::Moment;
use crate::upstream::change::Change;
use crate::upstream::dns;
use crate::upstream::endpoint::{Endpoint, EndpointSpec};
use crate::upstream::fact::Intent;
use crate::upstream::snapshot::State;
use crate::upstream::timing::PoolSettings;

// === impl Pool ===

impl Pool {
    pub(super) fn reconfigure(
        &mut self,
        now: Moment,
        endpoints: Vec<EndpointSpec>,
        settings: PoolSettings,
    ) {
        let old = std::mem::replace(&mut self.settings, settings);
        self.set_endpoints(now, endpoints);
        self.active.set_anew();
        let known = &self.known;
        let told = self
            .pin
            .renew(self.settings.health.expect_s3_auth_path.clone(), |socket| {
                known.get(&socket).is_some_and(|known| {
                    known.gone.is_none() && known.health.state() != State::Down
                })
            });
        self.pin_changed(told);
        let probes = self.settings.health.probes();
        let mut flips = Vec::new();
        for (socket, known) in &mut self.known {
            if known.gone.is_none() && !probes {
                flips.push((*socket, known.health.unprobed(now)));
            }
            known.plan(now, 0.5, &self.settings.health);
            if old != self.settings {
                known.hurry(now);
            }
        }
        for (socket, flip) in flips {
            self.flipped(now, socket, flip);
        }
        if !probes {
            self.first_round_done = true;
            let told = self.pin.settle();
            self.pin_changed(told);
        }
    }

    /// The wanted endpoints; what stays keeps its addresses, and what the operator wanted of it.
    pub(super) fn set_endpoints(&mut self, now: Moment, endpoints: Vec<EndpointSpec>) {
        let shown: Vec<Arc<Endpoint>> = self
            .visible()
            .map(|held| Arc::clone(&held.endpoint))
            .collect();
        let mut old = std::mem::take(&mut self.held);
        for mut spec in endpoints {
            spec.host = spec.host.trim_end_matches('.').to_ascii_lowercase();
            let same = old.iter().position(|held| {
                let was = &held.endpoint.spec;
                was.name == spec.name && was.host == spec.host && was.port == spec.port
            });
            let fresh = |spec: EndpointSpec| {
                Arc::new(Endpoint {
                    upstream: self.upstream.clone(),
                    spec,
                })
            };
            let mut held = match same {
                Some(place) => old.swap_remove(place),
                None => Held {
                    endpoint: fresh(spec.clone()),
                    intent: Intent::Ready,
                    members: Vec::new(),
                    answered: false,
                },
            };
            if held.endpoint.spec != spec {
                held.endpoint = fresh(spec);
            }
            self.held.push(held);
        }
        let held = &self.held;
        self.names
            .retain(|name, _| held.iter().any(|held| held.endpoint.spec.host == *name));
        self.seed(now);
        for endpoint in shown {
            let spec = &endpoint.spec;
            let stays = |other: &EndpointSpec| other.name == spec.name && other.zone == spec.zone;
            if !self.held.iter().any(|held| stays(&held.endpoint.spec)) {
                self.changes
                    .push(Change::EndpointGone(Arc::clone(&endpoint)));
            }
            if !self
                .held
                .iter()
                .any(|held| held.endpoint.spec.host == spec.host)
            {
                self.changes.push(Change::NameGone(spec.host.clone()));
            }
        }
    }

    /// New endpoints start with what their name last answered; literal addresses are their own answer.
    fn seed(&mut self, now: Moment) {
        let mut empty: Vec<String> = self
            .held
            .iter()
            .filter(|held| held.members.is_empty())
            .map(|held| held.endpoint.spec.host.clone())
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
            for held in self
                .held
                .iter_mut()
                .filter(|held| held.endpoint.spec.host == host)
            {
                held.answered = true;
            }
            self.merge(now, &host, &ips);
        }
    }

    /// Our own listeners have changed: addresses that reach them leave the set.
    pub(super) fn drop_own(&mut self) {
        for held in &mut self.held {
            held.members
                .retain(|member| !dns::is_own(member.socket, &self.own_listeners));
        }
    }
}
