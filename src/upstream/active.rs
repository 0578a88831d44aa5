//! Which zone is active: where new connections go, and when that counts as a move (contract 6, 7.9).
//!
//! Promises that a doubt which is cleared at once is no move, and that moves are told apart: away from a nearer zone
//! (failover) or back to it (failback). Where a zone is not known its endpoint stands for it. Pure.

use crate::clock::Moment;
use crate::upstream::change::Change;
use crate::upstream::rank::{Key, Rank};
use crate::upstream::timing::Timing;

/// A zone, or an endpoint whose zone is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// The best key among its addresses that may be used; `None`: there is none.
    pub key: Option<Key>,
    /// How much it is wanted when all is well, least first.
    pub preference: (u8, usize, usize),
}

/// The active zone.
#[derive(Clone, Debug, Default)]
pub struct Active {
    place: Option<String>,
    last_move: Option<Moment>,
    /// Another one leads since then, while ours is only in doubt.
    leads: Option<(String, Moment)>,
    /// What we know of zones has changed: the next look is no move.
    anew: bool,
    changed: bool,
}

// === impl Active ===

impl Active {
    /// The active zone's name.
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// When it last moved.
    pub fn last_move(&self) -> Option<Moment> {
        self.last_move
    }

    /// The next look starts afresh: what it finds is no move.
    pub fn set_anew(&mut self) {
        self.anew = true;
    }

    /// Whether it changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Looks at the places, best first. `settled`: the first round is over, moves count.
    pub fn follow(&mut self, now: Moment, places: &[Place], settled: bool) -> Option<Change> {
        let head = places.first()?;
        let best = head.key?;
        let start = self.place.is_none() || self.anew || !settled;
        if self.place.as_deref() == Some(&head.name) || (best.health == Rank::Down && !start) {
            self.leads = None;
            self.anew = false;
            return None;
        }
        if start {
            self.anew = false;
            self.set(&head.name);
            return None;
        }
        let ours = places
            .iter()
            .find(|place| Some(place.name.as_str()) == self.place.as_deref());
        let usable = ours
            .and_then(|place| place.key)
            .is_some_and(|key| key.health < Rank::Down && key.drained == best.drained);
        // Ours is only in doubt: the other must lead for a while.
        if usable
            && ours
                .and_then(|place| place.key)
                .is_some_and(|key| key.health == Rank::Suspect)
        {
            let since = match &self.leads {
                Some((name, since)) if *name == head.name => *since,
                _ => {
                    self.leads = Some((head.name.clone(), now));
                    now
                }
            };
            if now.since(since) < Timing::MOVE_SETTLES {
                return None;
            }
        }
        let back = ours.is_some_and(|place| head.preference < place.preference);
        let from = self.place.clone().unwrap_or_default();
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
        self.changed |= self.place.as_deref() != Some(name);
        self.place = Some(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn place(name: &str, preference: usize, health: Rank) -> Place {
        Place {
            name: name.to_owned(),
            key: Some(Key {
                drained: false,
                health,
                departed: false,
                tier: 0,
                near: 0,
                place: preference,
            }),
            preference: (0, preference, 0),
        }
    }

    #[test]
    fn moves() {
        use Rank::{Down, Suspect, Well};
        let mut active = Active::default();
        // ms, health of a and b, whether the first round is over, what is told, and where it is after.
        for (ms, a, b, settled, told, expected) in [
            (0, Well, Well, false, "", "a"),
            (1, Down, Well, false, "", "b"),
            (2, Well, Well, false, "", "a"),
            (3, Suspect, Well, true, "", "a"),
            (4, Well, Well, true, "", "a"),
            (5, Suspect, Well, true, "", "a"),
            (1004, Suspect, Well, true, "", "a"),
            (1005, Suspect, Well, true, "failover", "b"),
            (2000, Well, Well, true, "failback", "a"),
            (3000, Down, Well, true, "failover", "b"),
            (4000, Down, Down, true, "", "b"),
            (5000, Down, Well, true, "", "b"),
        ] {
            let mut places = vec![place("a", 0, a), place("b", 1, b)];
            places.sort_by_key(|place| place.key);
            let change = active.follow(Moment::at(Duration::from_millis(ms)), &places, settled);
            let got = match change {
                Some(Change::Failover { .. }) => "failover",
                Some(Change::Failback { .. }) => "failback",
                _ => "",
            };
            assert_eq!((got, active.place()), (told, Some(expected)), "at {ms}");
        }
    }
}
