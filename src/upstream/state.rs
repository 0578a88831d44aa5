//! All endpoints of one upstream, as a pure state machine: inputs in, changes out.
//!
//! Decides which addresses there are (with `membership`), how healthy each is (with `health`), which system they are (with
//! `identity`), where new connections go (`active_zone`), and which inputs are void because this process was late. Has no
//! clock and does no I/O: `now` is an argument, and successful dials are read from the addresses' own counters on
//! [`UpstreamState::tick`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::types::{HopId, UpstreamName, Zone};
use crate::upstream::active_zone::ActiveZone;
use crate::upstream::address::AddressState;
use crate::upstream::change::Change;
use crate::upstream::constants;
use crate::upstream::endpoint::{Endpoint, EndpointSpec, HopTarget, Role};
use crate::upstream::health::TimeoutMarkdownLimit;
use crate::upstream::identity::Pin;
use crate::upstream::input::{DialFailure, Input, Intent, Suspicion, SuspicionKind};
use crate::upstream::latency::LatencyRanking;
use crate::upstream::membership::{Membership, NameRecord};
use crate::upstream::settings::UpstreamPolicy;
use crate::upstream::snapshot::{HealthState, ProbeMode};

pub(in crate::upstream) use ranking::zone_or_endpoint_name;

mod dns;
mod health;
mod hops;
mod ranking;
mod reconfigure;

/// One endpoint and what it holds.
#[derive(Clone, Debug)]
pub struct EndpointState {
    pub endpoint: Arc<Endpoint>,
    /// What the operator wants of it.
    pub intent: Intent,
    pub members: Vec<Membership>,
    /// Its name has answered once: a candidate becomes an endpoint.
    pub answered: bool,
    /// Addresses of the last answer for which there was no room.
    pub left_out: usize,
}

/// The state of one upstream.
#[derive(Clone, Debug)]
pub struct UpstreamState {
    upstream: UpstreamName,
    settings: UpstreamPolicy,
    endpoints: Vec<EndpointState>,
    /// Every address of the set, and for an hour those that were in it.
    addresses: BTreeMap<SocketAddr, AddressState>,
    names: BTreeMap<String, NameRecord>,
    pin: Pin,
    latency: LatencyRanking,
    latency_ranked_at: Option<Moment>,
    silence: TimeoutMarkdownLimit,
    /// When we were late, from and to.
    stalls: VecDeque<(Moment, Moment)>,
    /// When the actor is to tick next, at the latest; a later one means that we were late.
    tick_due: Option<Moment>,
    /// Our own zone as it was detected, by name and by id; the setting wins.
    own_zone: Option<Zone>,
    own_zone_id: Option<Zone>,
    own_listeners: Vec<SocketAddr>,
    /// What the keys of addresses behind hops stand for.
    hop_targets: BTreeMap<SocketAddr, HopTarget>,
    hops_down: BTreeSet<HopId>,
    first_answer: Option<Moment>,
    /// Nothing can be reached since then, and when that was last said.
    unreachable_since: Option<Moment>,
    unreachable_said: Option<Moment>,
    /// Whether there were farther zones to leave when last looked.
    rebalances: bool,
    first_round_done: bool,
    active: ActiveZone,
    /// Counts draws: jitter without a random source.
    draws: u64,
    /// Something in the snapshot has changed.
    dirty: bool,
    changes: Vec<Change>,
}

/// How often the state ticks while nothing is in doubt.
const QUIET_TICK: Duration = Duration::from_secs(1);

// === impl UpstreamState ===

impl UpstreamState {
    /// The upstream before anything has happened. Literal addresses need no answer. `seed` is for jitter.
    pub fn new(
        upstream: UpstreamName,
        endpoints: Vec<EndpointSpec>,
        settings: UpstreamPolicy,
        own_listeners: Vec<SocketAddr>,
        now: Moment,
        seed: u64,
    ) -> Self {
        let mut upstream = Self {
            pin: Pin::new(settings.health.expect_s3_auth_path.clone()),
            upstream,
            settings,
            endpoints: Vec::new(),
            addresses: BTreeMap::new(),
            names: BTreeMap::new(),
            latency: LatencyRanking::default(),
            latency_ranked_at: None,
            silence: TimeoutMarkdownLimit::default(),
            stalls: VecDeque::new(),
            tick_due: None,
            own_zone: None,
            own_zone_id: None,
            own_listeners,
            hop_targets: BTreeMap::new(),
            hops_down: BTreeSet::new(),
            first_answer: None,
            unreachable_since: None,
            unreachable_said: None,
            rebalances: false,
            first_round_done: false,
            active: ActiveZone::default(),
            draws: seed,
            dirty: true,
            changes: Vec::new(),
        };
        upstream.first_round_done = !upstream.settings.health.probes();
        upstream.set_endpoints(now, endpoints);
        upstream.recompute(now);
        upstream.changes.clear();
        upstream
    }

    /// Applies one input.
    pub fn apply(&mut self, now: Moment, input: Input) -> Vec<Change> {
        match input {
            Input::Answer(answer) => self.answer(now, &answer),
            Input::Probed {
                socket,
                sent,
                outcome,
                took,
            } => self.probed(now, socket, sent, outcome, took),
            Input::Dialled {
                socket,
                failure,
                started,
                ..
            } => {
                let void = failure == DialFailure::Timeout && self.is_void(started, now);
                if failure != DialFailure::Local && !void {
                    self.mark_suspect(now, socket, failure.as_str(), SuspicionKind::Immediate);
                }
            }
            Input::Suspect {
                socket,
                why,
                started,
                ..
            } => {
                // Ends are facts, whenever they were seen; only waits can be void.
                let is_end = matches!(why, Suspicion::Untouched | Suspicion::Unanswered);
                if is_end {
                    self.ended_unanswered(now, socket, started);
                }
                if is_end || !self.is_void(started, now) {
                    self.mark_suspect(now, socket, why.as_str(), why.kind());
                }
            }
            Input::Intent { endpoint, intent } => {
                for endpoint_state in self
                    .endpoints
                    .iter_mut()
                    .filter(|endpoint_state| *endpoint_state.endpoint.name() == endpoint)
                {
                    endpoint_state.intent = intent;
                }
            }
            Input::OwnZone(zone) => {
                self.own_zone = zone;
                self.active.reset();
            }
            Input::OwnZoneId(zone) => {
                self.own_zone_id = zone;
                self.active.reset();
            }
            Input::HopAnswered { endpoint } => self.hop_answered(now, &endpoint),
            Input::HopHealth { hop, is_up } => self.hop_health(now, hop, is_up),
            Input::HopDoubted { hop } => self.hop_doubted(now, hop),
            Input::Resumed => self.resumed(now),
            Input::Stalled { from, to } => self.stalled(from, to),
            Input::ReprobeNow { endpoint } => self.reprobe(now, endpoint.as_ref()),
            Input::OwnListeners(own) => {
                self.own_listeners = own;
                self.drop_own();
            }
            Input::Reconfigure {
                endpoints,
                settings,
            } => self.reconfigure(now, endpoints, settings),
        }
        self.dirty = true;
        self.recompute(now);
        std::mem::take(&mut self.changes)
    }

    /// Time has passed: what happens by itself.
    pub fn tick(&mut self, now: Moment) -> Vec<Change> {
        let sockets: Vec<SocketAddr> = self.set().map(|(socket, _)| socket).collect();
        for socket in sockets {
            let timeout_may_mark_down = self.timeout_may_mark_down(now, socket);
            let draw = self.draw();
            let last_move = self.active.last_move();
            let Some(address_state) = self.addresses.get_mut(&socket) else {
                continue;
            };
            let (health, failback) = (&self.settings.health, &self.settings.failback);
            let transition =
                address_state
                    .health
                    .tick(now, timeout_may_mark_down, last_move, health, failback);
            if transition.is_some() {
                address_state.schedule_next(now, draw, health);
            } else if address_state.traffic_stands_in(now, draw, health) {
                self.dirty = true;
            }
            self.record_transition(now, socket, transition);
        }
        self.expire(now);
        self.update_latency_ranking(now);
        self.recompute(now);
        self.watch_reachability(now);
        std::mem::take(&mut self.changes)
    }

    /// To be called whenever the actor wakes, before the inputs that wait are applied: tells whether we were late.
    pub fn check_stall(&mut self, now: Moment) -> Vec<Change> {
        if let Some(due) = self.tick_due.replace(now + constants::TICK)
            && now.since(due) > constants::STALL
        {
            let late = now.since(due) + constants::TICK;
            let from = Moment::at(now.since_start().saturating_sub(late));
            self.stalled(from, now);
            self.changes.push(Change::Stall(late));
        }
        std::mem::take(&mut self.changes)
    }

    /// When to tick next after a tick at `last`: [`constants::TICK`] later while anything is in doubt, under way or
    /// (`is_watched`) looked at from outside, so that a stall of our own is noticed; else when time alone changes
    /// something, or at the next whole second.
    pub fn next_tick(&mut self, last: Moment, is_watched: bool) -> Moment {
        let soon = last + constants::TICK;
        let due = if is_watched || self.is_in_doubt() {
            soon
        } else {
            let (health, failback) = (&self.settings.health, &self.settings.failback);
            let by_itself = self
                .set()
                .filter_map(|(_, address_state)| address_state.next_tick(last, health, failback))
                .min();
            let second = last.next_aligned(QUIET_TICK);
            by_itself.map_or(second, |due| due.min(second)).max(soon)
        };
        self.tick_due = Some(due);
        due
    }

    /// Whether something is going on that time decides: a first round, a suspicion, an address that comes back, a set
    /// without an address that is up.
    fn is_in_doubt(&self) -> bool {
        let is_up = |address_state: &AddressState| address_state.health.state() == HealthState::Up;
        !self.first_round_done
            || self.unreachable_since.is_some()
            || !self.set().any(|(_, address_state)| is_up(address_state))
            || self.set().any(|(_, address_state)| {
                let is_steady = is_up(address_state)
                    && address_state.health.failures() == 0
                    && !matches!(address_state.pace, ProbeMode::Fast(_))
                    || address_state.pace == ProbeMode::Down;
                !is_steady
            })
    }

    /// Whether the snapshot has to be made anew; asking resets it.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// What follows from any change: who is in the set, whether the first round is over, where new connections go.
    fn recompute(&mut self, now: Moment) {
        self.refresh_set(now);
        if !self.first_round_done {
            let all = self
                .visible()
                .all(|endpoint_state| !endpoint_state.members.is_empty())
                && self
                    .set()
                    .all(|(_, address_state)| address_state.answered(&self.settings.health));
            // Without probes there is no answer, and nothing is waited for.
            let over = match self.first_answer {
                Some(first) => all || now.since(first) >= constants::FIRST_ROUND,
                None => all && !self.settings.health.probes(),
            };
            if over {
                self.first_round_done = true;
                self.dirty = true;
                let changes = self.pin.end_first_round();
                self.pin_changed(changes);
            }
        }
        let zones = self.rank_zones();
        let moved = self.active.follow(now, &zones, self.first_round_done);
        self.dirty |= moved.is_some() || self.active.take_changed();
        self.changes.extend(moved);
        // Time alone decides when rebalancing begins: no other change would publish it.
        let rebalances = self.rebalance_candidates(now).is_some();
        self.dirty |= std::mem::replace(&mut self.rebalances, rebalances) != rebalances;
    }

    /// The addresses of the set.
    pub(in crate::upstream) fn set(&self) -> impl Iterator<Item = (SocketAddr, &AddressState)> {
        self.addresses
            .iter()
            .filter(|(_, address_state)| address_state.gone.is_none())
            .map(|(socket, address_state)| (*socket, address_state))
    }

    /// The endpoints that are ones: candidates have answered, stand-ins are needed.
    pub(in crate::upstream) fn visible(&self) -> impl Iterator<Item = &EndpointState> {
        self.endpoints
            .iter()
            .filter(|endpoint_state| self.is_visible(endpoint_state))
    }

    fn is_visible(&self, endpoint_state: &EndpointState) -> bool {
        let any = |role| {
            self.endpoints
                .iter()
                .any(|other| other.endpoint.spec.role == role && !other.members.is_empty())
        };
        match endpoint_state.endpoint.spec.role {
            Role::Configured => true,
            Role::Zonal => endpoint_state.answered,
            // Empty because its addresses belong to zones: no endpoint of its own.
            Role::Regional => !endpoint_state.members.is_empty() || !any(Role::Zonal),
            Role::Peered => !endpoint_state.members.is_empty() || !any(Role::PeeredOld),
            // Behind a hop the current name always has an address, and its health decides.
            Role::PeeredOld if endpoint_state.endpoint.spec.remote_target().is_some() => {
                endpoint_state.answered && !self.is_healthy(Role::Peered)
            }
            Role::PeeredOld => endpoint_state.answered && !any(Role::Peered),
        }
    }

    fn holders(&self, socket: SocketAddr) -> Vec<Arc<Endpoint>> {
        self.visible()
            .filter(|endpoint_state| {
                endpoint_state
                    .members
                    .iter()
                    .any(|member| member.socket == socket)
            })
            .map(|endpoint_state| Arc::clone(&endpoint_state.endpoint))
            .collect()
    }

    pub fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    pub fn settings(&self) -> &UpstreamPolicy {
        &self.settings
    }

    /// What is known of the upstream's identity.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// The active zone (or endpoint).
    pub fn active(&self) -> Option<&str> {
        self.active.zone()
    }

    /// Whether the first round is over.
    pub fn first_round_done(&self) -> bool {
        self.first_round_done
    }

    /// What is known of an address.
    pub fn address(&self, socket: SocketAddr) -> Option<&AddressState> {
        self.addresses.get(&socket)
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
