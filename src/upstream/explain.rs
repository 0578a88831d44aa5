//! Why new connections go where they go: the selection of [`Snapshot::order`], address by address, in words.
//!
//! Sorts by the same keys as the selection, so that the explanation cannot differ from what happens.

use std::time::Duration;

use crate::clock::Moment;
use crate::types::{EndpointName, Zone};
use crate::upstream::ranking::{HealthClass, Ranked, SortKey};
use crate::upstream::snapshot::{AddressView, HealthState, Snapshot};

/// A question to `explain`: what if.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhatIf {
    /// Every address of this zone (or of the endpoint of this name) were down: `zone-down=Z`.
    ZoneDown(Zone),
}

/// Why the next connection goes where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Every address: first those that would be tried, in order, then those that may not be used.
    pub order: Vec<Explained>,
    pub verdict: String,
}

/// One address of an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    pub endpoint: EndpointName,
    /// The endpoint's zone.
    pub zone: Option<Zone>,
    pub address: String,
    /// Its rank, from 1; `None`: never offered.
    pub rank: Option<usize>,
    /// What decided, most important first.
    pub reasons: Vec<String>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Why [`Snapshot::order`] says what it says (for a connection that goes with the shift), address by address.
    pub fn explain(&self, now: Moment, what_if: &[WhatIf]) -> Explanation {
        let mut address_state = Vec::new();
        for asked in what_if {
            let WhatIf::ZoneDown(zone) = asked;
            if !self
                .endpoints
                .iter()
                .any(|view| asked.hits(view.endpoint.zone(), view.endpoint.name()))
            {
                address_state.push(format!("no endpoint is in zone {zone}"));
            }
        }
        let mut sorted: Vec<(SortKey, &Ranked, bool)> = self
            .entries
            .iter()
            .map(|entry| {
                let endpoint = &entry.candidate.endpoint;
                let hit = what_if
                    .iter()
                    .any(|asked| asked.hits(endpoint.zone(), endpoint.name()));
                let mut key = entry.key_at(now, 0.0);
                if hit {
                    key.health = HealthClass::Down;
                }
                (key, entry, hit)
            })
            .collect();
        sorted.sort_by_key(|(key, _, _)| *key);
        let mut order: Vec<Explained> = sorted
            .iter()
            .enumerate()
            .map(|(index, (key, entry, hit))| self.explain_one(now, index + 1, key, entry, *hit))
            .collect();
        let all_down = sorted
            .iter()
            .all(|(key, _, _)| key.health == HealthClass::Down);
        let verdict = self.verdict(order.first(), all_down, &address_state);
        for (endpoint, view) in self.all().filter(|(_, view)| view.forbidden) {
            order.push(Explained {
                endpoint: endpoint.endpoint.name().clone(),
                zone: endpoint.endpoint.zone().cloned(),
                address: view.address.to_string(),
                rank: None,
                reasons: vec![self.forbidden_reason(view)],
            });
        }
        Explanation { order, verdict }
    }

    fn explain_one(
        &self,
        now: Moment,
        rank: usize,
        key: &SortKey,
        entry: &Ranked,
        hit: bool,
    ) -> Explained {
        let endpoint = &entry.candidate.endpoint;
        let mut reasons = Vec::new();
        if key.drained {
            reasons.push("drained by the operator: last".to_owned());
        }
        let view = self
            .endpoints
            .iter()
            .filter(|view| view.endpoint.name() == endpoint.name())
            .flat_map(|view| &view.addresses)
            .find(|view| view.address.socket == entry.candidate.address.socket);
        if hit {
            reasons.push("down (what if)".to_owned());
        } else if let Some(view) = view {
            reasons.push(self.health_reason(now, view, entry));
        }
        if key.departed {
            reasons.push("no longer in DNS: behind those of its health".to_owned());
        }
        reasons.push(self.tier_reason(endpoint.zone(), key.tier));
        if let Some(median) = entry.candidate.address.connects.quantile(0.5) {
            reasons.push(format!(
                "connects in {:.1} ms",
                median.as_secs_f64() * 1000.0
            ));
        }
        Explained {
            endpoint: endpoint.name().clone(),
            zone: endpoint.zone().cloned(),
            address: entry.candidate.address.to_string(),
            rank: Some(rank),
            reasons,
        }
    }

    fn health_reason(&self, now: Moment, view: &AddressView, entry: &Ranked) -> String {
        let ago =
            |since: Moment| crate::duration::show(Duration::from_secs(now.since(since).as_secs()));
        let mut text = format!("{} for {}", view.state.as_str(), ago(view.since));
        if !view.reason.is_empty() {
            text.push_str(&format!(" ({})", view.reason));
        }
        if let Some(share) = entry.share(now) {
            text.push_str(&format!(
                ", shifting back: {:.0} % of new connections",
                share * 100.0
            ));
        } else if view.state == HealthState::Unknown && !self.first_round_done {
            text.push_str(", counts as up during the first round");
        }
        text
    }

    fn tier_reason(&self, zone: Option<&Zone>, tier: u8) -> String {
        match (tier, zone, &self.own_zone) {
            (2, _, _) => "peered name".to_owned(),
            (0, Some(zone), Some(_)) => format!("own zone {zone}"),
            (_, Some(zone), Some(own)) => format!("other zone {zone} (own zone {own})"),
            (0, _, _) => "near (own zone not known: ranked by connect time)".to_owned(),
            _ => "farther (own zone not known: ranked by connect time)".to_owned(),
        }
    }

    fn forbidden_reason(&self, view: &AddressView) -> String {
        match (&self.identity_conflict, &view.identity, &self.identity) {
            (Some((expected, other)), _, _) if self.identity_configured => format!(
                "never used: answers as {other}, but health.expect_s3_auth_path asks for {expected}"
            ),
            (Some((one, other)), _, _) => {
                format!(
                    "never used: the upstream's addresses answer as two systems, {one} and {other}; reload once that is settled"
                )
            }
            (None, Some(got), Some(pinned)) => {
                format!("never used: answers as {got}, this upstream is {pinned}")
            }
            _ => "not used before the first round has told which system this is".to_owned(),
        }
    }

    fn verdict(
        &self,
        first: Option<&Explained>,
        all_down: bool,
        address_state: &[String],
    ) -> String {
        let mut text = match first {
            None if self.identity_conflict.is_some() && self.identity_configured => {
                "nowhere: no address answers as the system of health.expect_s3_auth_path".to_owned()
            }
            None if self.identity_conflict.is_some() => {
                "nowhere: two systems behind one upstream".to_owned()
            }
            None if self.addresses == 0 => "nowhere: no address is known".to_owned(),
            None => "nowhere: no address may be used".to_owned(),
            Some(first) if all_down => format!(
                "everything is down, so all are tried; {} at {} first",
                first.endpoint, first.address
            ),
            Some(first) => format!(
                "the next connection goes to {} at {}",
                first.endpoint, first.address
            ),
        };
        for note in address_state {
            text.push_str("; ");
            text.push_str(note);
        }
        text
    }
}

// === impl WhatIf ===

impl WhatIf {
    /// Reads `zone-down=Z`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("zone-down", zone)) if !zone.is_empty() => Ok(WhatIf::ZoneDown(Zone::new(zone))),
            _ => Err(format!(
                "`{}` is not understood; use zone-down=ZONE",
                text.escape_debug()
            )),
        }
    }

    fn hits(&self, zone: Option<&Zone>, name: &EndpointName) -> bool {
        let WhatIf::ZoneDown(down) = self;
        zone == Some(down) || name.as_str() == down.as_str()
    }
}
