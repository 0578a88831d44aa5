//! All endpoints of one upstream, pure: facts in, changes out.
//!
//! Owns which addresses there are (with `dns`), how each is (with `health`), which system they are (with `identity`),
//! where new connections go (`active`) and which facts are void because we were late ourselves (contract 7.12). Knows
//! no clock and no I/O: `now` is an argument, successes are read from the addresses' own numbers on [`Pool::tick`].

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::clock::Moment;
use crate::types::{UpstreamName, Zone};
use crate::upstream::active::Active;
use crate::upstream::change::Change;
use crate::upstream::dns::{Member, Name};
use crate::upstream::endpoint::{Endpoint, EndpointSpec, Role};
use crate::upstream::fact::{DialFailure, Fact, Intent, Suspicion};
use crate::upstream::health::SilenceLimit;
use crate::upstream::identity::Pin;
use crate::upstream::known::Known;
use crate::upstream::near::Nearness;
use crate::upstream::timing::{PoolSettings, Timing};

pub(in crate::upstream) use place::place_name;

mod answers;
mod evidence;
mod place;
mod reload;

/// One endpoint and what it holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// What the operator wants of it.
    pub intent: Intent,
    /// Its addresses.
    pub members: Vec<Member>,
    /// Its name has answered once: a candidate becomes an endpoint.
    pub answered: bool,
}

/// Everything the pool of one upstream knows.
#[derive(Clone, Debug)]
pub struct Pool {
    upstream: UpstreamName,
    settings: PoolSettings,
    held: Vec<Held>,
    /// Every address of the set, and for an hour those that were in it.
    known: BTreeMap<SocketAddr, Known>,
    names: BTreeMap<String, Name>,
    pin: Pin,
    near: Nearness,
    near_looked: Option<Moment>,
    silence: SilenceLimit,
    /// When we were late, from and to.
    stalls: VecDeque<(Moment, Moment)>,
    last_beat: Option<Moment>,
    /// Our own zone as it was detected, by name and by id; the setting wins.
    own_zone: Option<Zone>,
    own_zone_id: Option<Zone>,
    own_listeners: Vec<SocketAddr>,
    first_answer: Option<Moment>,
    /// Whether there were farther places to leave when last looked.
    rebalances: bool,
    first_round_done: bool,
    active: Active,
    /// Counts draws: jitter without a random source.
    draws: u64,
    /// Something in the snapshot has changed.
    dirty: bool,
    changes: Vec<Change>,
}

// === impl Pool ===

impl Pool {
    /// The pool before anything has happened. Literal addresses need no answer. `seed` is for jitter.
    pub fn new(
        upstream: UpstreamName,
        endpoints: Vec<EndpointSpec>,
        settings: PoolSettings,
        own_listeners: Vec<SocketAddr>,
        now: Moment,
        seed: u64,
    ) -> Self {
        let mut pool = Self {
            pin: Pin::new(settings.health.expect_s3_auth_path.clone()),
            upstream,
            settings,
            held: Vec::new(),
            known: BTreeMap::new(),
            names: BTreeMap::new(),
            near: Nearness::default(),
            near_looked: None,
            silence: SilenceLimit::default(),
            stalls: VecDeque::new(),
            last_beat: None,
            own_zone: None,
            own_zone_id: None,
            own_listeners,
            first_answer: None,
            rebalances: false,
            first_round_done: false,
            active: Active::default(),
            draws: seed,
            dirty: true,
            changes: Vec::new(),
        };
        pool.first_round_done = !pool.settings.health.probes();
        pool.set_endpoints(now, endpoints);
        pool.settle(now);
        pool.changes.clear();
        pool
    }

    /// Applies one fact.
    pub fn apply(&mut self, now: Moment, fact: Fact) -> Vec<Change> {
        match fact {
            Fact::Answer(answer) => self.answer(now, &answer),
            Fact::Probed {
                socket,
                sent,
                outcome,
                took,
            } => self.probed(now, socket, sent, outcome, took),
            Fact::Dialled {
                socket,
                failure,
                started,
                ..
            } => {
                let void = failure == DialFailure::Timeout && self.is_void(started, now);
                if failure != DialFailure::Local && !void {
                    self.doubt(now, socket, failure.as_str(), false);
                }
            }
            Fact::Suspect {
                socket,
                why,
                started,
                ..
            } => {
                if why == Suspicion::Untouched || !self.is_void(started, now) {
                    self.doubt(now, socket, why.as_str(), why == Suspicion::SlowAnswer);
                }
            }
            Fact::Intent { endpoint, intent } => {
                for held in self
                    .held
                    .iter_mut()
                    .filter(|held| *held.endpoint.name() == endpoint)
                {
                    held.intent = intent;
                }
            }
            Fact::OwnZone(zone) => {
                self.own_zone = zone;
                self.active.set_anew();
            }
            Fact::OwnZoneId(zone) => {
                self.own_zone_id = zone;
                self.active.set_anew();
            }
            Fact::Woke => self.woke(now),
            Fact::Stalled { from, to } => self.stalled(from, to),
            Fact::ReprobeNow { endpoint } => self.reprobe(now, endpoint.as_ref()),
            Fact::OwnListeners(own) => {
                self.own_listeners = own;
                self.drop_own();
            }
            Fact::Reconfigure {
                endpoints,
                settings,
            } => self.reconfigure(now, endpoints, settings),
        }
        self.dirty = true;
        self.settle(now);
        std::mem::take(&mut self.changes)
    }

    /// Time has passed: what happens by itself.
    pub fn tick(&mut self, now: Moment) -> Vec<Change> {
        let sockets: Vec<SocketAddr> = self.set().map(|(socket, _)| socket).collect();
        for socket in sockets {
            let may_mark = self.may_mark(now, socket);
            let draw = self.draw();
            let last_move = self.active.last_move();
            let Some(known) = self.known.get_mut(&socket) else {
                continue;
            };
            let (health, failback) = (&self.settings.health, &self.settings.failback);
            let flip = known
                .health
                .tick(now, may_mark, last_move, health, failback);
            if flip.is_some() {
                known.plan(now, draw, health);
            } else if known.traffic_stands_in(now, draw, health) {
                self.dirty = true;
            }
            self.flipped(now, socket, flip);
        }
        self.expire(now);
        self.look_near(now);
        self.settle(now);
        std::mem::take(&mut self.changes)
    }

    /// To be called whenever the actor wakes, before the facts that wait are applied: tells whether we were late.
    pub fn beat(&mut self, now: Moment) -> Vec<Change> {
        if let Some(last) = self.last_beat.replace(now) {
            let late = now.since(last);
            if late > Timing::TICK + Timing::STALL {
                self.stalled(last, now);
                self.changes.push(Change::Stall(late));
            }
        }
        std::mem::take(&mut self.changes)
    }

    /// Whether the snapshot has to be made anew; asking resets it.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// What follows from any change: who is in the set, whether the first round is over, where new connections go.
    fn settle(&mut self, now: Moment) {
        self.refresh_set(now);
        if !self.first_round_done {
            let all = self.visible().all(|held| !held.members.is_empty())
                && self
                    .set()
                    .all(|(_, known)| known.answered(&self.settings.health));
            // Without probes nobody answers, and nothing is waited for.
            let over = match self.first_answer {
                Some(first) => all || now.since(first) >= Timing::FIRST_ROUND,
                None => all && !self.settings.health.probes(),
            };
            if over {
                self.first_round_done = true;
                self.dirty = true;
                let told = self.pin.settle();
                self.pin_changed(told);
            }
        }
        let places = self.ranked_places();
        let moved = self.active.follow(now, &places, self.first_round_done);
        self.dirty |= moved.is_some() || self.active.take_changed();
        self.changes.extend(moved);
        // Time alone decides when rebalancing begins: no other change would publish it.
        let rebalances = self.farther(now).is_some();
        self.dirty |= std::mem::replace(&mut self.rebalances, rebalances) != rebalances;
    }

    /// The addresses of the set.
    pub(in crate::upstream) fn set(&self) -> impl Iterator<Item = (SocketAddr, &Known)> {
        self.known
            .iter()
            .filter(|(_, known)| known.gone.is_none())
            .map(|(socket, known)| (*socket, known))
    }

    /// The endpoints that are ones: candidates have answered, stand-ins are needed.
    pub(in crate::upstream) fn visible(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(|held| self.is_visible(held))
    }

    fn is_visible(&self, held: &Held) -> bool {
        let any = |role| {
            self.held
                .iter()
                .any(|other| other.endpoint.spec.role == role && !other.members.is_empty())
        };
        match held.endpoint.spec.role {
            Role::Configured => true,
            Role::Zonal => held.answered,
            // Empty because its addresses belong to zones: no endpoint of its own.
            Role::Regional => !held.members.is_empty() || !any(Role::Zonal),
            Role::Peered => !held.members.is_empty() || !any(Role::PeeredOld),
            Role::PeeredOld => held.answered && !any(Role::Peered),
        }
    }

    fn holders(&self, socket: SocketAddr) -> Vec<Arc<Endpoint>> {
        self.visible()
            .filter(|held| held.members.iter().any(|member| member.socket == socket))
            .map(|held| Arc::clone(&held.endpoint))
            .collect()
    }

    /// The upstream.
    pub fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// The settings.
    pub fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    /// What is known of the upstream's identity.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// The active zone (or endpoint).
    pub fn active(&self) -> Option<&str> {
        self.active.place()
    }

    /// Whether the first round is over.
    pub fn first_round_done(&self) -> bool {
        self.first_round_done
    }

    /// What is known of an address.
    pub fn known(&self, socket: SocketAddr) -> Option<&Known> {
        self.known.get(&socket)
    }

    /// A number from 0 to 1, other each time (splitmix64).
    fn draw(&mut self) -> f64 {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.draws;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
