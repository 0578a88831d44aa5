//! Outlier detection: a request whose first answer byte is long overdue makes its address suspect.
//!
//! It never marks an address down: slow queries are normal, and fast probes decide. How often one address may be
//! suspected is limited by its health: one slow request once in 10 s; an address that is mute on every connection, with
//! several requests overdue, at once, because a slow query shortly before would else hide a frozen process until the
//! next regular probe. Requests that were overdue when the address last spoke do not make it mute.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Moment;
use crate::connection::Entry;
use crate::upstream::constants;
use crate::upstream::endpoint::Candidate;
use crate::upstream::input::{Input, Suspicion};
use crate::upstream::snapshot::{AddressView, HealthState};

/// The least wait that is suspicious, on a path whose round trip does not ask for more.
pub(super) const MIN_WAIT: Duration = constants::SILENCE_FLOOR;

/// How many times the address's median answer time a wait must be.
const MEDIAN_FACTOR: u32 = 4;

/// So much later than it was heard the activity of an address may be recorded.
pub(super) const HEARD_LATE: Duration = Duration::from_millis(200);

/// So many overdue requests, and not a byte from the address on any connection: it is mute.
const MUTE_REQUESTS: u32 = 2;

/// The watch of one upstream.
#[derive(Debug, Default)]
pub(super) struct OutlierDetector {
    /// Requests that have been reported, by connection: one request once as slow, and once as part of a mute address.
    reported: HashMap<u64, Reported>,
    /// Those of `reported` that still wait in this look.
    waiting: HashMap<u64, Reported>,
    /// Overdue requests of each address, in the last look and in this one.
    overdue_before: HashMap<SocketAddr, u32>,
    overdue: HashMap<SocketAddr, u32>,
    /// Waits count from here at the earliest: we were late ourselves before.
    discounted_until: Moment,
}

/// A request by the time it was sent, and as what it was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reported {
    sent: Moment,
    mute: bool,
}

// === impl OutlierDetector ===

impl OutlierDetector {
    /// Our own stall has just ended.
    pub(super) fn discount_until(&mut self, now: Moment) {
        self.discounted_until = now;
    }

    /// Looks at one established connection; what the upstream is to be sent.
    pub(super) fn inspect(
        &mut self,
        entry: &Entry,
        candidate: &Candidate,
        view: Option<&AddressView>,
        now: Moment,
    ) -> Option<Input> {
        let sent = entry.stats.waiting_since()?;
        let since = sent.max(self.discounted_until);
        let waited = now.since(since);
        if waited < MIN_WAIT {
            return None;
        }
        let usual = candidate.address.answers.quantile(0.5).unwrap_or_default();
        let round_trip = candidate.address.round_trip().unwrap_or_default();
        let limit = MIN_WAIT
            .max(MEDIAN_FACTOR * usual)
            .max(constants::ROUND_TRIPS * round_trip);
        if waited < limit {
            return None;
        }
        let socket = candidate.address.socket;
        let heard = candidate.address.last_activity();
        // The address has answered others while this one was overdue already: it is slow, and says nothing about the
        // silence since. Else a few slow queries alone, while their application pauses, would look like a mute address.
        let is_slow = heard.is_some_and(|heard| heard.since(since) >= limit + HEARD_LATE);
        if !is_slow {
            *self.overdue.entry(socket).or_default() += 1;
        }
        let silent = heard.is_none_or(|heard| now.since(heard) >= limit);
        let many = self
            .overdue_before
            .get(&socket)
            .is_some_and(|count| *count >= MUTE_REQUESTS);
        let mute = silent && many;
        if let Some(reported) = self.reported.get(&entry.id)
            && reported.sent == sent
            && (reported.mute || !mute)
        {
            self.waiting.insert(entry.id, *reported);
            return None;
        }
        // In doubt already: nothing would be learned now, but this request may still speak later.
        let state = view?.state;
        if matches!(state, HealthState::Suspect | HealthState::Down) {
            return None;
        }
        self.waiting.insert(entry.id, Reported { sent, mute });
        let why = if mute {
            Suspicion::Mute
        } else {
            Suspicion::SlowAnswer
        };
        let endpoint = candidate.endpoint.name().clone();
        Some(Input::Suspect {
            endpoint,
            socket,
            why,
            started: since,
        })
    }

    /// The look is over: requests that have been answered are forgotten.
    pub(super) fn end_pass(&mut self) {
        std::mem::swap(&mut self.reported, &mut self.waiting);
        self.waiting.clear();
        std::mem::swap(&mut self.overdue_before, &mut self.overdue);
        self.overdue.clear();
    }
}
