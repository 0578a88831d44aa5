//! The drill of an instance: set, kept alive, in force, ended. There is one at a time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Engine, Inner, lock};
use crate::clock;
use crate::connection::Entry;
use crate::events::event;
use crate::faults::drill::{DEADMAN, DrillClaim, DrillFault, DrillKind, LiveFault};
use crate::faults::proxy::EngineError;
use crate::faults::toxic::seconds;
use crate::interference::Disturbance;

/// Quiet after which a connection without framing counts as at rest.
const QUIET: Duration = Duration::from_secs(1);

// === impl Engine ===

impl Engine {
    /// One drives a drill, from its first request to the return of its zone: others are refused, also while no fault of
    /// it stands. Is to be said again within [`DEADMAN`].
    pub fn claim_drill(&self, by: &str) -> Result<(), EngineError> {
        let mut claim = lock(&self.inner.claim);
        self.refuse_others(&mut claim, Some(by))?;
        if claim.is_none()
            && let Some(drill) = &*lock(&self.inner.drill)
        {
            return Err(runs(Some(drill)));
        }
        *claim = Some(DrillClaim::new(by));
        Ok(())
    }

    /// That drill is over.
    pub fn release_drill(&self, by: &str) {
        lock(&self.inner.claim).take_if(|claim| claim.is_of(Some(by)));
    }

    fn refuse_others(
        &self,
        claim: &mut Option<DrillClaim>,
        by: Option<&str>,
    ) -> Result<(), EngineError> {
        claim.take_if(|claim| claim.is_over(Instant::now()));
        match claim {
            Some(claim) if !claim.is_of(by) => Err(runs(lock(&self.inner.drill).as_ref())),
            _ => Ok(()),
        }
    }

    /// Sets the fault of a drill, in the zone in use where none is given; for `ttl` at most, and only as long as
    /// [`Engine::keep_drill`] is called in time. Refused while a drill is claimed that is not `by`'s.
    pub fn set_drill(
        &self,
        kind: DrillKind,
        zone: Option<&str>,
        ttl: Option<Duration>,
        by: Option<&str>,
    ) -> Result<Value, EngineError> {
        let inner = &self.inner;
        self.refuse_others(&mut lock(&inner.claim), by)?;
        let all = inner.zones.addresses();
        let zone = match (kind.has_zone(), zone) {
            (false, None) => None,
            (false, Some(_)) => {
                return Err(EngineError::Unknown(format!(
                    "{kind} does not happen to one zone"
                )));
            }
            (true, zone) => {
                let zone = zone.map(str::to_owned).or_else(|| inner.zones.in_use());
                let zone =
                    zone.ok_or_else(|| EngineError::Unknown("no zone is in use".to_owned()))?;
                if !all.iter().any(|(known, _)| *known == zone) {
                    return Err(EngineError::Unknown(format!(
                        "no endpoint is in zone {zone}"
                    )));
                }
                Some(zone)
            }
        };
        let ttl = ttl.unwrap_or(inner.max_ttl).min(inner.max_ttl);
        let at_rest = inner.at_rest();
        let mut under_way = BTreeSet::new();
        inner.registry.each(|entry| {
            if !at_rest.contains(&entry.id) {
                under_way.insert(entry.id);
            }
        });
        {
            let mut drill = lock(&inner.drill);
            if let Some(drill) = &*drill {
                return Err(runs(Some(drill)));
            }
            let mut new = DrillFault::new(kind, zone.clone(), ttl, at_rest, under_way);
            new.take_addresses(all);
            *drill = Some(new);
        }
        inner.has_drill.store(true, Relaxed);
        event!(
            inner.events,
            INFO,
            "fault.set",
            "the fault of a drill is set",
            "type" = kind.as_str(),
            zone = zone.as_deref(),
        );
        inner.put_in_force();
        inner.drill_changed(kind);
        Ok(json!({
            "type": kind.as_str(),
            "zone": zone,
            "ttl_s": seconds(ttl),
            "deadman_s": seconds(DEADMAN),
        }))
    }

    /// Somebody drives the drill, and will say so again within this time.
    pub fn keep_drill(&self, within: Duration) -> Result<(), EngineError> {
        let mut drill = lock(&self.inner.drill);
        let drill = drill.as_mut().ok_or(EngineError::NoDrill)?;
        drill.keep_alive(within);
        Ok(())
    }

    /// Takes back the fault of the drill.
    pub fn end_drill(&self) -> Result<(), EngineError> {
        let drill = lock(&self.inner.drill).take();
        let drill = drill.ok_or(EngineError::NoDrill)?;
        self.inner
            .drill_ended(&drill, "the fault of a drill is removed");
        Ok(())
    }

    /// Ends a drill whose time is over, lets one that flaps come and go; when to look again.
    pub(super) fn keep_up_drill(&self) -> Option<Instant> {
        let inner = &self.inner;
        let now = Instant::now();
        let over = {
            let mut drill = lock(&inner.drill);
            let why = drill.as_ref()?.over(now);
            why.and_then(|why| Some((drill.take()?, why)))
        };
        if let Some((drill, why)) = over {
            inner.drill_ended(&drill, why);
            return None;
        }
        let all = inner.zones.addresses();
        let waits_for_rest = {
            let mut drill = lock(&inner.drill);
            let drill = drill.as_mut()?;
            drill.take_addresses(all);
            drill.waits_for_rest()
        };
        let at_rest = match waits_for_rest {
            true => inner.at_rest(),
            false => BTreeSet::new(),
        };
        let forgets = lock(&inner.drill).as_mut()?.forget(&at_rest);
        if inner.put_in_force() || forgets {
            inner.changed();
        }
        lock(&inner.drill)
            .as_ref()
            .map(|drill| drill.next_look(now))
    }
}

fn runs(drill: Option<&DrillFault>) -> EngineError {
    EngineError::DrillRuns(match drill {
        Some(drill) => format!("there is one already, {}", drill.name()),
        None => "there is one already, before or after its fault".to_owned(),
    })
}

// === impl Inner ===

impl Inner {
    /// The connections without a request under way.
    fn at_rest(&self) -> BTreeSet<u64> {
        let now = clock::now();
        let mut at_rest = BTreeSet::new();
        self.registry.each(|entry| {
            if entry.at_rest(now, QUIET) {
                at_rest.insert(entry.id);
            }
        });
        at_rest
    }

    /// Lets connects and lookups meet what the drill does now; whether that has changed.
    fn put_in_force(&self) -> bool {
        let mut drill = lock(&self.drill);
        let change = drill
            .as_mut()
            .and_then(|drill| drill.change(Instant::now()));
        let has_changed = change.is_some();
        if let Some(disturbance) = change {
            self.interference.set(disturbance);
        }
        has_changed
    }

    fn drill_ended(&self, drill: &DrillFault, why: &'static str) {
        self.has_drill.store(false, Relaxed);
        self.interference.set(Disturbance::default());
        event!(
            self.events,
            INFO,
            "fault.clear",
            why,
            "type" = drill.kind.as_str(),
            zone = drill.zone.as_deref(),
        );
        self.drill_changed(drill.kind);
    }

    fn drill_changed(&self, kind: DrillKind) {
        for proxy in self.lock().values() {
            self.count(proxy);
        }
        self.changed();
        if kind.is_about_names() {
            // Names are asked for once a minute at most otherwise: the drill would be over before.
            self.zones.look_up();
        }
    }

    /// What the drill does to a live connection.
    pub(super) fn live_fault(&self, entry: &Entry) -> Option<LiveFault> {
        if !self.has_drill.load(Relaxed) {
            return None;
        }
        let to = entry.relaying(|candidate, _| candidate.address.socket)?;
        lock(&self.drill).as_ref()?.on_live(entry.id, to)
    }

    /// The connections that have an upstream, and where they lead.
    pub(super) fn live(&self) -> Vec<(u64, SocketAddr)> {
        let mut live = Vec::new();
        self.registry.each(|entry| {
            let to = entry.relaying(|candidate, _| candidate.address.socket);
            live.extend(to.map(|to| (entry.id, to)));
        });
        live.sort_unstable();
        live
    }
}
