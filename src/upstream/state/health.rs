//! Probe results and suspicions, and which of them are void.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::UpstreamState;
use crate::clock::Moment;
use crate::types::EndpointName;
use crate::upstream::address;
use crate::upstream::change::Change;
use crate::upstream::constants;
use crate::upstream::health::{ProbeVerdict, Transition};
use crate::upstream::identity::{PinChange, SystemId};
use crate::upstream::input::{ProbeOutcome, SuspicionKind};
use crate::upstream::snapshot::HealthState;

/// Stalls are remembered as long as a probe can take.
const STALLS_KEPT: Duration = Duration::from_secs(120);

// === impl UpstreamState ===

impl UpstreamState {
    pub(super) fn probed(
        &mut self,
        now: Moment,
        socket: SocketAddr,
        sent: Moment,
        outcome: ProbeOutcome,
        took: Duration,
    ) {
        let late = outcome == ProbeOutcome::Timeout && self.is_void(sent, now);
        let outcome = if late { ProbeOutcome::Void } else { outcome };
        let address = self.shown(socket);
        for endpoint in self.holders(socket) {
            self.changes.push(Change::Probed {
                endpoint,
                address: address.clone(),
                result: outcome.code().to_owned(),
                detail: outcome.detail().map(str::to_owned),
                took,
            });
        }
        let timeout_may_mark_down = self.timeout_may_mark_down(now, socket);
        let draw = self.draw();
        let Some(address_state) = address::living(&mut self.addresses, socket) else {
            return;
        };
        let Some(verdict) = address::verdict(&outcome) else {
            address_state.retry(now, sent, matches!(outcome, ProbeOutcome::Local(_)));
            return;
        };
        self.first_answer.get_or_insert(now);
        let succeeded = matches!(outcome, ProbeOutcome::Success { .. });
        address_state.address.probed(succeeded, took);
        address_state.record(sent, &outcome, took);
        let health = &self.settings.health;
        address_state
            .health
            .answered(address_state.address.answers.count());
        let transition =
            address_state
                .health
                .probed(now, sent, &verdict, timeout_may_mark_down, health);
        address_state.schedule_next(now, draw, health);
        let is_first_timeout =
            verdict == ProbeVerdict::Timeout && address_state.health.failures() == 1;
        self.record_transition(now, socket, transition);
        if is_first_timeout {
            self.doubt_hop_of(now, socket);
        }
        if let ProbeOutcome::Success { identity } = outcome {
            if let Some(got) = identity {
                self.observe_identity(socket, got);
            }
            for member in self
                .endpoints
                .iter_mut()
                .flat_map(|endpoint_state| &mut endpoint_state.members)
            {
                if member.socket == socket {
                    member.proven();
                }
            }
        }
    }

    pub(super) fn observe_identity(&mut self, socket: SocketAddr, got: SystemId) {
        let changes = self.pin.observe(socket, got);
        self.pin_changed(changes);
    }

    pub(super) fn pin_changed(&mut self, changes: Vec<PinChange>) {
        for change in changes {
            match change {
                PinChange::Mismatch {
                    socket,
                    got,
                    pinned,
                } => {
                    let address = self.shown(socket);
                    for endpoint in self.holders(socket) {
                        let (got, pinned) = (got.clone(), pinned.clone());
                        self.changes.push(Change::Mismatch {
                            endpoint,
                            address: address.clone(),
                            got,
                            pinned,
                        });
                    }
                }
                other => {
                    if !matches!(other, PinChange::Pinned(_)) {
                        let endpoints: Vec<_> = self
                            .visible()
                            .map(|endpoint_state| Arc::clone(&endpoint_state.endpoint))
                            .collect();
                        self.changes.extend(
                            endpoints
                                .into_iter()
                                .map(|endpoint| Change::Conflict { endpoint }),
                        );
                    }
                    self.changes.push(Change::Pin(other));
                }
            }
        }
    }

    /// A connection that was used from `started` on has ended without an answer.
    pub(super) fn ended_unanswered(&mut self, now: Moment, socket: SocketAddr, started: Moment) {
        if let Some(address_state) = address::living(&mut self.addresses, socket) {
            let answers = address_state.address.answers.count();
            address_state.health.answered(answers);
            address_state.health.ended_unanswered(now, started);
        }
    }

    pub(super) fn mark_suspect(
        &mut self,
        now: Moment,
        socket: SocketAddr,
        reason: &'static str,
        kind: SuspicionKind,
    ) {
        let draw = self.draw();
        let Some(address_state) = address::living(&mut self.addresses, socket) else {
            return;
        };
        let transition = address_state.health.suspect(now, reason, kind);
        let is_news = transition.is_some();
        if is_news {
            address_state.schedule_next(now, draw, &self.settings.health);
        }
        self.record_transition(now, socket, transition);
        if is_news {
            self.doubt_hop_of(now, socket);
        }
    }

    /// Notes a change of state; one by silence counts against the limit.
    pub(super) fn record_transition(
        &mut self,
        now: Moment,
        socket: SocketAddr,
        transition: Option<Transition>,
    ) {
        let Some(transition) = transition else { return };
        self.dirty = true;
        if transition.silent {
            let place = self.zone_of(socket);
            self.silence.marked(now, &place);
        }
        let last = self.addresses.get(&socket);
        let last = last.and_then(|address_state| address_state.last_probe.as_ref());
        let detail = last
            .filter(|probe| probe.result == transition.reason)
            .and_then(|probe| probe.detail.clone());
        let address = self.shown(socket);
        for endpoint in self.holders(socket) {
            let (transition, detail) = (transition.clone(), detail.clone());
            self.changes.push(Change::Transition {
                endpoint,
                address: address.clone(),
                transition,
                detail,
            });
        }
    }

    pub(super) fn timeout_may_mark_down(&self, now: Moment, socket: SocketAddr) -> bool {
        let place = self.zone_of(socket);
        let another_up = self.set().any(|(other, address_state)| {
            address_state.health.state() == HealthState::Up
                && !self.pin.forbids(other)
                && self.zone_of(other) != place
        });
        self.silence.allows(now, &place, another_up)
    }

    pub(super) fn resumed(&mut self, now: Moment) {
        self.stalled(Moment::default(), now);
        for address_state in self
            .addresses
            .values_mut()
            .filter(|address_state| address_state.gone.is_none())
        {
            address_state.health.reset_failures();
            address_state.schedule_next(now, 0.5, &self.settings.health);
            address_state.probe_now(now);
        }
    }

    pub(super) fn reprobe(&mut self, now: Moment, endpoint: Option<&EndpointName>) {
        for endpoint_state in &self.endpoints {
            if endpoint.is_none_or(|name| name == endpoint_state.endpoint.name()) {
                for member in &endpoint_state.members {
                    if let Some(address_state) = self.addresses.get_mut(&member.socket) {
                        address_state.probe_now(now);
                    }
                }
            }
        }
    }

    /// Says when nothing can be reached: soon after it began, and again while it lasts.
    pub(super) fn watch_reachability(&mut self, now: Moment) {
        let Some((why, failed)) = self.unreachable() else {
            self.unreachable_since = None;
            self.unreachable_said = None;
            return;
        };
        let since = *self.unreachable_since.get_or_insert(now);
        let lasting = now.since(since);
        let patience = if failed {
            constants::UNREACHABLE_AFTER
        } else {
            constants::UNANSWERED_AFTER
        };
        let said_lately = self
            .unreachable_said
            .is_some_and(|said| now.since(said) < constants::UNREACHABLE_EVERY);
        if lasting < patience || said_lately {
            return;
        }
        self.unreachable_said = Some(now);
        let meanwhile = self.settings.while_unreachable.clone();
        self.changes.push(Change::Unreachable {
            why,
            meanwhile,
            lasting,
        });
    }

    /// Why nothing can be reached, and whether anything has failed yet; `None` while something can.
    fn unreachable(&self) -> Option<(String, bool)> {
        let probes = self.settings.health.probes();
        let mut failed = Vec::new();
        for (socket, address_state) in self.set() {
            let health = &address_state.health;
            let lost = match health.state() {
                HealthState::Down => true,
                HealthState::Unknown => health.failures() > 0,
                HealthState::Suspect => !probes,
                HealthState::Up | HealthState::Returning => false,
            };
            if !lost && !self.pin.forbids(socket) {
                // Not probed yet counts as reachable: the first answer is under way.
                return None;
            }
            let reason = match lost {
                true => address_state
                    .last_probe
                    .as_ref()
                    .map_or_else(|| health.reason().to_string(), |last| last.result.clone()),
                false => "answers as another system".to_owned(),
            };
            failed.push(format!("{} {reason}", self.shown(socket)));
        }
        if failed.is_empty() {
            let errors: Vec<String> = self
                .name_views()
                .into_iter()
                .filter(|view| !view.candidate)
                .filter_map(|view| Some(format!("{}: {}", view.name, view.last_error?)))
                .collect();
            let any = !errors.is_empty();
            let why = if any {
                shortened(errors)
            } else {
                "no name has been resolved yet".to_owned()
            };
            return Some((why, any));
        }
        Some((shortened(failed), true))
    }

    pub(super) fn stalled(&mut self, from: Moment, to: Moment) {
        self.stalls.push_back((from, to));
        self.stalls
            .retain(|(_, until)| to.since(*until) < STALLS_KEPT);
        while self.stalls.len() > 64 {
            self.stalls.pop_front();
        }
    }

    pub(super) fn is_void(&self, from: Moment, to: Moment) -> bool {
        self.stalls
            .iter()
            .any(|(began, ended)| *began < to && from < *ended)
    }
}

/// The first three, and how many more there are.
fn shortened(mut items: Vec<String>) -> String {
    let more = items.len().saturating_sub(3);
    items.truncate(3);
    let mut text = items.join(", ");
    if more > 0 {
        text.push_str(&format!(", and {more} more"));
    }
    text
}
