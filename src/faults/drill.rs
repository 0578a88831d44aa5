//! The fault of a drill: what it disturbs, where, and until when.
//!
//! It is no toxic. Connects and lookups meet it through [`Interference`], live connections of its addresses through the
//! engine's detour, and health reacts to it as to a real one. It ends by its ttl, or when nobody says in time that the
//! drill is alive.
//!
//! [`Interference`]: crate::interference::Interference

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::toxic::{Effect, Toxic, seconds};
use crate::interference::{ConnectFault, Disturbance, LookupFault};

/// A drill that is not said to be alive for this long has lost whoever drives it.
pub const DEADMAN: Duration = Duration::from_secs(5);

/// What a slow zone takes longer, for a connect and for each answer.
pub const SLOW_BY: Duration = Duration::from_secs(1);

/// A zone that flaps is down for this long, then well for as long, and so on.
pub const FLAP: Duration = Duration::from_secs(2);

/// How long the machine is said to have slept.
pub const SLEPT: Duration = Duration::from_secs(3600);

/// How often it is looked whether other addresses belong to the zone by now.
const REFRESH: Duration = Duration::from_millis(100);

/// What goes wrong in a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrillKind {
    ZoneDown,
    ZoneSilent,
    ZoneSlow,
    AllDown,
    DnsFail,
    DnsEmpty,
    Flap,
    IdleCut,
    Sleep,
}

/// What the engine asks the program for.
pub trait Zones: Send + Sync {
    /// Every address of the configured upstreams with its zone, or with its endpoint's name where that has none.
    fn addresses(&self) -> Vec<(String, SocketAddr)>;
    /// The zone that new connections go to.
    fn in_use(&self) -> Option<String>;
    /// Asks for every name now.
    fn look_up(&self);
}

/// What happens to a live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LiveFault {
    /// Its upstream resets it.
    Reset,
    /// Nothing passes in either direction.
    Silent,
    /// Answers come later.
    Slow,
    /// Something on the way has forgotten it: its next bytes are answered by a reset.
    Forgotten,
}

/// Whose drill is under way, before and after its fault too. It ends when it is not said again in time.
#[derive(Debug)]
pub(super) struct DrillClaim {
    by: String,
    until: Instant,
}

/// A drill's fault that is set.
#[derive(Debug)]
pub(super) struct DrillFault {
    pub(super) kind: DrillKind,
    pub(super) zone: Option<String>,
    began: Instant,
    expires: Instant,
    deadman: Instant,
    addresses: Arc<BTreeSet<SocketAddr>>,
    /// Connections that something on the way has forgotten.
    forgotten: BTreeSet<u64>,
    /// Connections that were not at rest when it was set: they are forgotten once they are.
    under_way: BTreeSet<u64>,
    slow: Arc<Toxic>,
    /// What was last put in force.
    in_force: Option<Disturbance>,
}

// === impl DrillKind ===

impl DrillKind {
    pub const ALL: [Self; 9] = [
        Self::ZoneDown,
        Self::ZoneSilent,
        Self::ZoneSlow,
        Self::AllDown,
        Self::DnsFail,
        Self::DnsEmpty,
        Self::Flap,
        Self::IdleCut,
        Self::Sleep,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ZoneDown => "zone-down",
            Self::ZoneSilent => "zone-silent",
            Self::ZoneSlow => "zone-slow",
            Self::AllDown => "all-down",
            Self::DnsFail => "dns-fail",
            Self::DnsEmpty => "dns-empty",
            Self::Flap => "flap",
            Self::IdleCut => "idle-cut",
            Self::Sleep => "sleep",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether it happens to one zone.
    pub const fn has_zone(self) -> bool {
        matches!(
            self,
            Self::ZoneDown | Self::ZoneSilent | Self::ZoneSlow | Self::Flap | Self::IdleCut
        )
    }

    pub(super) const fn is_about_names(self) -> bool {
        matches!(self, Self::DnsFail | Self::DnsEmpty)
    }
}

impl std::fmt::Display for DrillKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl DrillClaim ===

impl DrillClaim {
    pub(super) fn new(by: &str) -> Self {
        Self {
            by: by.to_owned(),
            until: Instant::now() + DEADMAN,
        }
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }

    pub(super) fn is_of(&self, by: Option<&str>) -> bool {
        by == Some(self.by.as_str())
    }
}

// === impl DrillFault ===

impl DrillFault {
    pub(super) fn new(
        kind: DrillKind,
        zone: Option<String>,
        ttl: Duration,
        at_rest: BTreeSet<u64>,
        under_way: BTreeSet<u64>,
    ) -> Self {
        let now = Instant::now();
        Self {
            kind,
            zone,
            began: now,
            expires: now + ttl,
            deadman: now + DEADMAN,
            addresses: Arc::default(),
            forgotten: at_rest,
            under_way,
            slow: Arc::new(Toxic::of_drill(Effect::Latency {
                latency: i64::try_from(SLOW_BY.as_millis()).unwrap_or(i64::MAX),
                jitter: 0,
            })),
            in_force: None,
        }
    }

    /// Somebody still drives it.
    pub(super) fn keep_alive(&mut self, within: Duration) {
        self.deadman = Instant::now() + within;
    }

    /// Whether it is over by itself, and why.
    pub(super) fn over(&self, now: Instant) -> Option<&'static str> {
        if self.expires <= now {
            return Some("the time of a drill is over");
        }
        (self.deadman <= now)
            .then_some("nobody drives the drill any more (dead-man switch): its fault is removed")
    }

    /// When to look again.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        (now + REFRESH).min(self.expires).min(self.deadman)
    }

    pub(super) fn deadman_left(&self, now: Instant) -> Duration {
        self.deadman.saturating_duration_since(now)
    }

    /// Its addresses as they are now.
    pub(super) fn take_addresses(&mut self, all: Vec<(String, SocketAddr)>) {
        let wanted = |zone: &String| self.zone.as_ref().is_none_or(|wanted| wanted == zone);
        self.addresses = Arc::new(
            all.into_iter()
                .filter(|(zone, _)| wanted(zone))
                .map(|(_, address)| address)
                .collect(),
        );
    }

    /// Whether it is one that forgets connections, and some were under way so far.
    pub(super) fn waits_for_rest(&self) -> bool {
        self.kind == DrillKind::IdleCut && !self.under_way.is_empty()
    }

    /// Forgets what was under way when it was set and is among those that rest now; whether there was any.
    pub(super) fn forget(&mut self, at_rest: &BTreeSet<u64>) -> bool {
        let before = self.forgotten.len();
        let newly: BTreeSet<u64> = self.under_way.intersection(at_rest).copied().collect();
        self.under_way.retain(|id| !newly.contains(id));
        self.forgotten.extend(newly);
        self.forgotten.len() > before
    }

    /// Whether it acts at this moment: one that flaps does half of the time.
    fn acts(&self, now: Instant) -> bool {
        let halves = now.saturating_duration_since(self.began).as_millis() / FLAP.as_millis();
        self.kind != DrillKind::Flap || halves.is_multiple_of(2)
    }

    fn disturbance(&self, now: Instant) -> Disturbance {
        let connects = |fault| Disturbance {
            connects: Some(fault),
            addresses: Arc::clone(&self.addresses),
            ..Disturbance::default()
        };
        let lookups = |fault| Disturbance {
            lookups: Some(fault),
            ..Disturbance::default()
        };
        match self.kind {
            DrillKind::Flap if !self.acts(now) => Disturbance::default(),
            DrillKind::ZoneDown | DrillKind::AllDown | DrillKind::Flap => {
                connects(ConnectFault::Refused)
            }
            DrillKind::ZoneSilent => connects(ConnectFault::Silent),
            DrillKind::ZoneSlow => connects(ConnectFault::Late(SLOW_BY)),
            DrillKind::DnsFail => lookups(LookupFault::Fails),
            DrillKind::DnsEmpty => lookups(LookupFault::Empty),
            DrillKind::IdleCut => Disturbance::default(),
            DrillKind::Sleep => Disturbance {
                slept: SLEPT,
                ..Disturbance::default()
            },
        }
    }

    /// What is to be put in force now, where that is something else than before.
    pub(super) fn change(&mut self, now: Instant) -> Option<Disturbance> {
        let wanted = self.disturbance(now);
        if self.in_force.as_ref() == Some(&wanted) {
            return None;
        }
        self.in_force = Some(wanted.clone());
        Some(wanted)
    }

    /// What happens to this live connection.
    pub(super) fn on_live(&self, connection: u64, to: SocketAddr) -> Option<LiveFault> {
        if !self.addresses.contains(&to) {
            return None;
        }
        match self.kind {
            DrillKind::ZoneDown | DrillKind::AllDown => Some(LiveFault::Reset),
            DrillKind::Flap => self.acts(Instant::now()).then_some(LiveFault::Reset),
            DrillKind::ZoneSilent => Some(LiveFault::Silent),
            DrillKind::ZoneSlow => Some(LiveFault::Slow),
            DrillKind::IdleCut => self
                .forgotten
                .contains(&connection)
                .then_some(LiveFault::Forgotten),
            DrillKind::DnsFail | DrillKind::DnsEmpty | DrillKind::Sleep => None,
        }
    }

    /// The latency of a slow zone, as a toxic of the answers' direction.
    pub(super) fn slow(&self) -> &Arc<Toxic> {
        &self.slow
    }

    /// As one of `/faults`; `live`: connections by id, and where they lead.
    pub(super) fn to_json(&self, live: &[(u64, SocketAddr)]) -> Value {
        let met = live
            .iter()
            .filter(|(id, to)| self.on_live(*id, *to).is_some());
        let connections: Vec<u64> = met.map(|(id, _)| *id).collect();
        let left = self.expires.saturating_duration_since(Instant::now());
        json!({
            "proxy": Value::Null,
            "toxic": Value::Null,
            "type": self.kind.as_str(),
            "stream": Value::Null,
            "zone": self.zone,
            "ttl_left_s": seconds(left),
            "connections": connections,
        })
    }

    /// In one line, for people.
    pub(super) fn name(&self) -> String {
        match &self.zone {
            Some(zone) => format!("drill: {} (zone {zone})", self.kind),
            None => format!("drill: {}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 8182))
    }

    fn drill(kind: DrillKind) -> DrillFault {
        let zone = kind.has_zone().then(|| "a".to_owned());
        let ttl = Duration::from_secs(20);
        let (at_rest, under_way) = (BTreeSet::from([7]), BTreeSet::from([8]));
        let mut drill = DrillFault::new(kind, zone, ttl, at_rest, under_way);
        drill.take_addresses(vec![("a".to_owned(), at(1)), ("b".to_owned(), at(2))]);
        drill
    }

    #[tokio::test(start_paused = true)]
    async fn every_kind_disturbs_its_own() {
        for kind in DrillKind::ALL {
            assert_eq!(DrillKind::parse(kind.as_str()), Some(kind));
            let drill = drill(kind);
            let disturbed = drill.disturbance(Instant::now());
            let [own, other] = [1, 2].map(|last| drill.on_live(7, at(last)));
            assert_eq!(
                disturbed.addresses.contains(&at(2)) || other.is_some(),
                kind == DrillKind::AllDown,
                "{kind}"
            );
            let live = match kind {
                DrillKind::ZoneDown | DrillKind::AllDown | DrillKind::Flap => {
                    Some(LiveFault::Reset)
                }
                DrillKind::ZoneSilent => Some(LiveFault::Silent),
                DrillKind::ZoneSlow => Some(LiveFault::Slow),
                DrillKind::IdleCut => Some(LiveFault::Forgotten),
                _ => None,
            };
            assert_eq!(own, live, "{kind}");
            assert_eq!(disturbed.lookups.is_some(), kind.is_about_names());
            assert_eq!(!disturbed.slept.is_zero(), kind == DrillKind::Sleep);
        }
        // One whose request was under way is forgotten behind the answer; one that came later is not.
        let mut cut = drill(DrillKind::IdleCut);
        assert_eq!(cut.on_live(8, at(1)), None);
        assert!(cut.waits_for_rest() && !cut.forget(&BTreeSet::from([7])));
        assert!(cut.forget(&BTreeSet::from([7, 8, 9])));
        let live = [8, 9].map(|id| cut.on_live(id, at(1)));
        assert_eq!(live, [Some(LiveFault::Forgotten), None]);
        assert!(!cut.waits_for_rest());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flap_comes_and_goes_and_the_dead_man_ends_it() {
        let mut drill = drill(DrillKind::Flap);
        assert!(drill.change(Instant::now()).unwrap().connects.is_some());
        assert_eq!(drill.change(Instant::now()), None);
        tokio::time::advance(FLAP).await;
        assert_eq!(
            drill.change(Instant::now()),
            Some(Disturbance::default()),
            "well again"
        );
        assert_eq!(drill.on_live(1, at(1)), None);
        tokio::time::advance(FLAP).await;
        assert!(drill.change(Instant::now()).unwrap().connects.is_some());
        assert_eq!(drill.over(Instant::now()), None);
        drill.keep_alive(DEADMAN);
        tokio::time::advance(DEADMAN).await;
        assert!(drill.over(Instant::now()).unwrap().contains("dead-man"));
        drill.keep_alive(Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(drill.over(Instant::now()).unwrap().contains("time"));
    }
}
