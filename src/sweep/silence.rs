//! The watch over silent answers (contract 7.3): a request whose first answer byte is long overdue makes its address
//! suspect. It never marks one down: slow queries are normal, and fast probes will tell.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Moment;
use crate::connection::Entry;
use crate::pool::endpoint::Candidate;
use crate::pool::fact::{Fact, Suspicion};
use crate::pool::snapshot::{AddressView, State};

/// The least wait that is suspicious.
const LEAST: Duration = Duration::from_millis(250);

/// How many times the address's median answer time a wait must be.
const TIMES: u32 = 4;

/// An address is accused at most once in this time, unless a probe fails.
const AGAIN: Duration = Duration::from_secs(10);

/// The watch of one upstream.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Requests that have been told, by connection: one request once.
    told: HashMap<u64, Moment>,
    /// Those of `told` that still wait in this look.
    waiting: HashMap<u64, Moment>,
    accused: HashMap<SocketAddr, Moment>,
    /// Waits count from here at the earliest: we were late ourselves before.
    forgiven: Moment,
}

// === impl Silence ===

impl Silence {
    /// Our own stall has just ended.
    pub(super) fn forgive(&mut self, now: Moment) {
        self.forgiven = now;
    }

    /// Looks at one connected pair; what the pool should be told.
    #[must_use]
    pub(super) fn look(
        &mut self,
        entry: &Entry,
        candidate: &Candidate,
        view: Option<&AddressView>,
        now: Moment,
    ) -> Option<Fact> {
        let asked = entry.tally.waiting_since()?;
        if self.told.get(&entry.id) == Some(&asked) {
            self.waiting.insert(entry.id, asked);
            return None;
        }
        let since = asked.max(self.forgiven);
        let waited = now.since(since);
        if waited < LEAST {
            return None;
        }
        let usual = candidate.address.answers.quantile(0.5).unwrap_or_default();
        if waited < TIMES * usual {
            return None;
        }
        let socket = candidate.address.socket;
        if !self.may_accuse(socket, view, now) {
            return None;
        }
        // Only now: one that came too soon after another is told later, if it still waits.
        self.waiting.insert(entry.id, asked);
        self.accused.insert(socket, now);
        Some(Fact::Suspect {
            endpoint: candidate.endpoint.name().clone(),
            socket,
            why: Suspicion::SlowAnswer,
            started: since,
        })
    }

    /// The look is over: requests that have been answered are forgotten.
    pub(super) fn turn(&mut self) {
        std::mem::swap(&mut self.told, &mut self.waiting);
        self.waiting.clear();
    }

    fn may_accuse(&self, socket: SocketAddr, view: Option<&AddressView>, now: Moment) -> bool {
        let Some(view) = view else {
            return false;
        };
        if matches!(view.state, State::Suspect | State::Down) {
            // In doubt already: nothing would be learned.
            return false;
        }
        let Some(accused) = self.accused.get(&socket) else {
            return true;
        };
        let probe_failed = view
            .last_probe
            .as_ref()
            .is_some_and(|probe| probe.at > *accused && probe.result != "ok");
        probe_failed || now.since(*accused) >= AGAIN
    }
}
