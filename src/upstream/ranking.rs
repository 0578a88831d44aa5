//! What decides the rank of an address: one key, compared field by field.
//!
//! `state` makes the keys; `selection` sorts and `explain` explains by them. Pure.

use std::time::Duration;

use crate::clock::Moment;
use crate::upstream::endpoint::Candidate;

/// One address that may be used, with what decides its rank.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Ranked {
    pub(in crate::upstream) candidate: Candidate,
    pub(in crate::upstream) key: SortKey,
    /// While it shifts back: since when, and how long that takes.
    pub(in crate::upstream) ramp: Option<(Moment, Duration)>,
}

/// What decides an address's rank, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey {
    pub(in crate::upstream) drained: bool,
    pub(in crate::upstream) health: HealthClass,
    pub(in crate::upstream) departed: bool,
    pub(in crate::upstream) tier: u8,
    pub(in crate::upstream) latency_rank: usize,
    pub(in crate::upstream) index: usize,
}

/// Health as the sort key sees it, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthClass {
    /// Up, or unknown in the first round.
    Healthy,
    /// Returning, or shifting back.
    Returning,
    /// Not probed yet.
    Unprobed,
    Suspect,
    Down,
}

// === impl Ranked ===

impl Ranked {
    /// The share of new connections that already go there; `None`: no ramp (any more).
    pub(in crate::upstream) fn share(&self, now: Moment) -> Option<f64> {
        let (from, ramp) = self.ramp?;
        let gone = now.since(from);
        (gone < ramp).then(|| gone.as_secs_f64() / ramp.as_secs_f64())
    }

    /// The key for a connection with this draw.
    pub(in crate::upstream) fn key_at(&self, now: Moment, draw: f64) -> SortKey {
        let mut key = self.key;
        if key.health == HealthClass::Healthy && self.share(now).is_some_and(|share| draw > share) {
            key.health = HealthClass::Returning;
        }
        key
    }
}
