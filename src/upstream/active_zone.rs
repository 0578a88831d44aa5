//! Which zone is active: where new connections go, and when a change counts as a move.
//!
//! A suspicion that is cleared at once is no move. Moves away from a nearer zone (failover) are distinguished from moves
//! back to it (failback). Where a zone is not known, its endpoint stands for it. Pure.

use crate::clock::Moment;
use crate::upstream::change::Change;
use crate::upstream::constants;
use crate::upstream::ranking::{HealthClass, SortKey};

/// A zone, or an endpoint whose zone is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneRank {
    pub name: String,
    /// The best key among its addresses that may be used; `None`: there is none.
    pub key: Option<SortKey>,
    /// How much it is wanted when all is well, least first.
    pub preference: (u8, usize, usize),
}

#[derive(Clone, Debug, Default)]
pub struct ActiveZone {
    zone: Option<String>,
    last_move: Option<Moment>,
    /// Another one leads since then, while ours is only suspect.
    leads: Option<(String, Moment)>,
    /// What we know of zones has changed: the next look is no move.
    starts_over: bool,
    changed: bool,
}

// === impl ActiveZone ===

impl ActiveZone {
    /// The active zone's name.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// When it last moved.
    pub fn last_move(&self) -> Option<Moment> {
        self.last_move
    }

    /// The next look starts afresh: what it finds is no move.
    pub fn reset(&mut self) {
        self.starts_over = true;
    }

    /// Whether it changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Looks at the zones, best first. `settled`: the first round is over, moves count.
    pub fn follow(&mut self, now: Moment, zones: &[ZoneRank], settled: bool) -> Option<Change> {
        let head = zones.first()?;
        let best = head.key?;
        let start = self.zone.is_none() || self.starts_over || !settled;
        if self.zone.as_deref() == Some(&head.name) || (best.health == HealthClass::Down && !start)
        {
            self.leads = None;
            self.starts_over = false;
            return None;
        }
        if start {
            self.starts_over = false;
            self.set(&head.name);
            return None;
        }
        let ours = zones
            .iter()
            .find(|zone| Some(zone.name.as_str()) == self.zone.as_deref());
        let usable = ours
            .and_then(|zone| zone.key)
            .is_some_and(|key| key.health < HealthClass::Down && key.drained == best.drained);
        // Ours is only suspect: the other must lead for a while.
        if usable
            && ours
                .and_then(|zone| zone.key)
                .is_some_and(|key| key.health == HealthClass::Suspect)
        {
            let since = match &self.leads {
                Some((name, since)) if *name == head.name => *since,
                _ => {
                    self.leads = Some((head.name.clone(), now));
                    now
                }
            };
            if now.since(since) < constants::MOVE_SETTLES {
                return None;
            }
        }
        let back = ours.is_some_and(|zone| head.preference < zone.preference);
        let from = self.zone.clone().unwrap_or_default();
        let to = head.name.clone();
        self.set(&head.name);
        self.last_move = Some(now);
        Some(if back {
            Change::Failback { from, to }
        } else {
            Change::Failover { from, to }
        })
    }

    fn set(&mut self, name: &str) {
        self.leads = None;
        self.changed |= self.zone.as_deref() != Some(name);
        self.zone = Some(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn zone(name: &str, preference: usize, health: HealthClass) -> ZoneRank {
        ZoneRank {
            name: name.to_owned(),
            key: Some(SortKey {
                drained: false,
                health,
                departed: false,
                tier: 0,
                latency_rank: 0,
                index: preference,
            }),
            preference: (0, preference, 0),
        }
    }

    #[test]
    fn moves() {
        use HealthClass::{Down, Healthy, Suspect};
        let mut active = ActiveZone::default();
        // ms, health of a and b, whether the first round is over, what is reported, and where it is after.
        for (ms, a, b, settled, told, expected) in [
            (0, Healthy, Healthy, false, "", "a"),
            (1, Down, Healthy, false, "", "b"),
            (2, Healthy, Healthy, false, "", "a"),
            (3, Suspect, Healthy, true, "", "a"),
            (4, Healthy, Healthy, true, "", "a"),
            (5, Suspect, Healthy, true, "", "a"),
            (1004, Suspect, Healthy, true, "", "a"),
            (1005, Suspect, Healthy, true, "failover", "b"),
            (2000, Healthy, Healthy, true, "failback", "a"),
            (3000, Down, Healthy, true, "failover", "b"),
            (4000, Down, Down, true, "", "b"),
            (5000, Down, Healthy, true, "", "b"),
        ] {
            let mut zones = vec![zone("a", 0, a), zone("b", 1, b)];
            zones.sort_by_key(|zone| zone.key);
            let change = active.follow(Moment::at(Duration::from_millis(ms)), &zones, settled);
            let got = match change {
                Some(Change::Failover { .. }) => "failover",
                Some(Change::Failback { .. }) => "failback",
                _ => "",
            };
            assert_eq!((got, active.zone()), (told, Some(expected)), "at {ms}");
        }
    }
}
