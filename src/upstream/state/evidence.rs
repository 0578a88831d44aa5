//! What probes and traffic say about addresses, and what is void. Part of `Pool`'s own methods, apart for their length.

use std::net::SocketAddr;
use std::time::Duration;

use super::Pool;
use crate::clock::Moment;
use crate::types::EndpointName;
use crate::upstream::change::Change;
use crate::upstream::fact::ProbeOutcome;
use crate::upstream::health::Flip;
use crate::upstream::identity::{PinChange, SystemId};
use crate::upstream::known;
use crate::upstream::snapshot::State;

/// Stalls are remembered as long as a probe can take.
const STALLS_KEPT: Duration = Duration::from_secs(120);

// === impl Pool ===

impl Pool {
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
        for endpoint in self.holders(socket) {
            self.changes.push(Change::Probed {
                endpoint,
                socket,
                result: outcome.code().to_owned(),
                detail: outcome.detail().map(str::to_owned),
                took,
            });
        }
        let may_mark = self.may_mark(now, socket);
        let draw = self.draw();
        let Some(known) = known::living(&mut self.known, socket) else {
            return;
        };
        let Some(evidence) = known::evidence(&outcome) else {
            known.again(now, sent, matches!(outcome, ProbeOutcome::Local(_)));
            return;
        };
        self.first_answer.get_or_insert(now);
        known.note(sent, &outcome, took);
        let health = &self.settings.health;
        let flip = known.health.probed(now, sent, &evidence, may_mark, health);
        known.plan(now, draw, health);
        self.flipped(now, socket, flip);
        if let ProbeOutcome::Success { identity } = outcome {
            if let Some(got) = identity {
                self.saw(socket, got);
            }
            for member in self.held.iter_mut().flat_map(|held| &mut held.members) {
                if member.socket == socket {
                    member.proven();
                }
            }
        }
    }

    pub(super) fn saw(&mut self, socket: SocketAddr, got: SystemId) {
        let told = self.pin.saw(socket, got);
        self.pin_changed(told);
    }

    pub(super) fn pin_changed(&mut self, told: Vec<PinChange>) {
        for change in told {
            match change {
                PinChange::Mismatch {
                    socket,
                    got,
                    pinned,
                } => {
                    for endpoint in self.holders(socket) {
                        let (got, pinned) = (got.clone(), pinned.clone());
                        self.changes.push(Change::Mismatch {
                            endpoint,
                            socket,
                            got,
                            pinned,
                        });
                    }
                }
                other => self.changes.push(Change::Pin(other)),
            }
        }
    }

    pub(super) fn doubt(
        &mut self,
        now: Moment,
        socket: SocketAddr,
        reason: &'static str,
        slow: bool,
    ) {
        let draw = self.draw();
        let Some(known) = known::living(&mut self.known, socket) else {
            return;
        };
        let flip = known.health.suspect(now, reason, slow);
        if flip.is_some() {
            known.plan(now, draw, &self.settings.health);
        }
        self.flipped(now, socket, flip);
    }

    /// Notes a change of state; one by silence counts against the limit.
    pub(super) fn flipped(&mut self, now: Moment, socket: SocketAddr, flip: Option<Flip>) {
        let Some(flip) = flip else { return };
        self.dirty = true;
        if flip.silent {
            let place = self.place_of(socket);
            self.silence.marked(now, &place);
        }
        for endpoint in self.holders(socket) {
            let flip = flip.clone();
            self.changes.push(Change::Flip {
                endpoint,
                socket,
                flip,
            });
        }
    }

    pub(super) fn may_mark(&self, now: Moment, socket: SocketAddr) -> bool {
        let place = self.place_of(socket);
        let another_up = self.set().any(|(other, known)| {
            known.health.state() == State::Up
                && !self.pin.forbids(other)
                && self.place_of(other) != place
        });
        self.silence.allows(now, &place, another_up)
    }

    pub(super) fn woke(&mut self, now: Moment) {
        self.stalled(Moment::default(), now);
        for known in self.known.values_mut().filter(|known| known.gone.is_none()) {
            known.health.forgive();
            known.plan(now, 0.5, &self.settings.health);
            known.hurry(now);
        }
    }

    pub(super) fn reprobe(&mut self, now: Moment, endpoint: Option<&EndpointName>) {
        for held in &self.held {
            if endpoint.is_none_or(|name| name == held.endpoint.name()) {
                for member in &held.members {
                    if let Some(known) = self.known.get_mut(&member.socket) {
                        known.hurry(now);
                    }
                }
            }
        }
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
