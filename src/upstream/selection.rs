//! The candidates for a new connection, best first: failover, failback, zone preference and the ramp. Pure.

use crate::clock::Moment;
use crate::upstream::endpoint::Candidate;
use crate::upstream::snapshot::Snapshot;

// === impl Snapshot ===

impl Snapshot {
    /// Where a new connection goes, best first. `draw` (0 to 1, at random) decides, while an address shifts back,
    /// whether this connection is one of those that already go there.
    pub fn order(&self, now: Moment, draw: f64) -> Vec<Candidate> {
        if self.entries.iter().all(|entry| entry.ramp.is_none()) {
            return self
                .entries
                .iter()
                .map(|entry| entry.candidate.clone())
                .collect();
        }
        let mut sorted: Vec<_> = self
            .entries
            .iter()
            .map(|entry| (entry.key_at(now, draw), entry))
            .collect();
        sorted.sort_by_key(|(key, _)| *key);
        sorted
            .into_iter()
            .map(|(_, entry)| entry.candidate.clone())
            .collect()
    }
}
