//! The watch over silent answers (contract 7.3): a request whose first answer byte is long overdue makes its address
//! suspect. It never marks one down: slow queries are normal, and fast probes will tell.
//!
//! How often one address may be accused is the pool's business. A single slow request counts once in 10 s there; an
//! address that is mute on every connection, with several requests overdue, counts at once, or a slow query shortly
//! before would hide a frozen process from everything but the next regular probe.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Moment;
use crate::connection::Entry;
use crate::upstream::endpoint::Candidate;
use crate::upstream::fact::{Fact, Suspicion};
use crate::upstream::snapshot::{AddressView, State};

/// The least wait that is suspicious.
const LEAST: Duration = Duration::from_millis(250);

/// How many times the address's median answer time a wait must be.
const TIMES: u32 = 4;

/// So many overdue requests, and not a byte from the address on any connection: it is mute.
const MUTE: u32 = 2;

/// The watch of one upstream.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Requests that have been told, by connection: one request once as slow, and once as part of a mute address.
    told: HashMap<u64, Told>,
    /// Those of `told` that still wait in this look.
    waiting: HashMap<u64, Told>,
    /// Overdue requests of each address, in the last look and in this one.
    overdue_before: HashMap<SocketAddr, u32>,
    overdue: HashMap<SocketAddr, u32>,
    /// Waits count from here at the earliest: we were late ourselves before.
    forgiven: Moment,
}

/// A request by the time it was sent, and as what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    asked: Moment,
    mute: bool,
}

// === impl Silence ===

impl Silence {
    /// Our own stall has just ended.
    pub(super) fn forgive(&mut self, now: Moment) {
        self.forgiven = now;
    }

    /// Looks at one connected pair; what the pool should be told.
    pub(super) fn look(
        &mut self,
        entry: &Entry,
        candidate: &Candidate,
        view: Option<&AddressView>,
        now: Moment,
    ) -> Option<Fact> {
        let asked = entry.tally.waiting_since()?;
        let since = asked.max(self.forgiven);
        let waited = now.since(since);
        if waited < LEAST {
            return None;
        }
        let usual = candidate.address.answers.quantile(0.5).unwrap_or_default();
        let limit = LEAST.max(TIMES * usual);
        if waited < limit {
            return None;
        }
        let socket = candidate.address.socket;
        *self.overdue.entry(socket).or_default() += 1;
        let silent = candidate
            .address
            .heard()
            .is_none_or(|heard| now.since(heard) >= limit);
        let many = self
            .overdue_before
            .get(&socket)
            .is_some_and(|count| *count >= MUTE);
        let mute = silent && many;
        if let Some(told) = self.told.get(&entry.id)
            && told.asked == asked
            && (told.mute || !mute)
        {
            self.waiting.insert(entry.id, *told);
            return None;
        }
        // In doubt already: nothing would be learned now, but this request may still speak later.
        let state = view?.state;
        if matches!(state, State::Suspect | State::Down) {
            return None;
        }
        self.waiting.insert(entry.id, Told { asked, mute });
        let why = if mute {
            Suspicion::Mute
        } else {
            Suspicion::SlowAnswer
        };
        let endpoint = candidate.endpoint.name().clone();
        Some(Fact::Suspect {
            endpoint,
            socket,
            why,
            started: since,
        })
    }

    /// The look is over: requests that have been answered are forgotten.
    pub(super) fn turn(&mut self) {
        std::mem::swap(&mut self.told, &mut self.waiting);
        self.waiting.clear();
        std::mem::swap(&mut self.overdue_before, &mut self.overdue);
        self.overdue.clear();
    }
}
