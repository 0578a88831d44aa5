//! The immutable view of one upstream: what everything but the actor sees.
//!
//! A snapshot is consistent: every part of it is of the same generation.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::types::{EndpointName, UpstreamName, Zone};
use crate::upstream::endpoint::{Address, Endpoint};
use crate::upstream::identity::SystemId;
use crate::upstream::input::{AnswerSource, Intent};
use crate::upstream::ranking::Ranked;

/// The state of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HealthState {
    /// Not probed yet, or not again since it was away.
    #[default]
    Unknown,
    Up,
    /// Suspect: fast probes decide.
    Suspect,
    /// Answers again, and must go on for a while.
    Returning,
    /// Does not answer as it should.
    Down,
}

/// One upstream, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub upstream: UpstreamName,
    pub generation: u64,
    /// The endpoints, in the order of the settings; candidates that have not answered are not among them.
    pub endpoints: Vec<EndpointView>,
    /// The system this upstream is pinned to.
    pub identity: Option<SystemId>,
    /// Two systems that both claim to be this upstream (the pinned one first, where there is one): it is not used.
    pub identity_conflict: Option<(SystemId, SystemId)>,
    /// The pinned system is the one that the settings name: then a conflict means that no address answers as it.
    pub identity_configured: bool,
    /// Every address that may be used is down, so that all are tried.
    pub fail_open: bool,
    /// The zone (the endpoint's name, where its zone is not known) that new connections go to.
    pub active_zone: Option<String>,
    /// Our own zone, where it is known.
    pub own_zone: Option<Zone>,
    /// The names behind the endpoints, for `/v1/dns`; literal addresses are not among them.
    pub names: Vec<NameView>,
    /// Addresses that are up, suspect or returning and may be used.
    pub healthy: usize,
    /// Addresses in all.
    pub addresses: usize,
    /// The first round of probes is over.
    pub first_round_done: bool,
    /// Every address was probed at least once (its first probe has answered or failed).
    pub all_probed: bool,
    /// Which connections at rest may be closed because a nearer zone is well again.
    pub rebalance: Option<RebalanceCandidates>,
    /// What `order` reads: every address that may be used, best first while no ramp runs.
    pub(in crate::upstream) entries: Vec<Ranked>,
}

/// Connections that may move back: those on these addresses, at rest, at a limited pace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebalanceCandidates {
    pub since: Moment,
    /// The endpoints all of whose addresses are farther.
    pub endpoints: Vec<EndpointName>,
    pub sockets: Vec<SocketAddr>,
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// The endpoint; the same `Arc` for as long as it is configured.
    pub endpoint: Arc<Endpoint>,
    /// What the operator wants of it.
    pub intent: Intent,
    /// 0 near, 1 farther, 2 a peered name.
    pub tier: u8,
    /// One of its addresses is up, suspect or returning and may be used.
    pub healthy: bool,
    /// New connections go here (its zone is the active one).
    pub active: bool,
    pub addresses: Vec<AddressView>,
}

/// One address of an endpoint. Endpoints that share an IP:port share the `Arc<Address>`, its health and its probes.
#[derive(Clone, Debug)]
pub struct AddressView {
    /// The address; the same `Arc` for as long as the upstream knows it.
    pub address: Arc<Address>,
    pub state: HealthState,
    pub since: Moment,
    /// Why it is in this state.
    pub reason: Cow<'static, str>,
    /// The last probe that ended.
    pub last_probe: Option<LastProbe>,
    /// Whether its name (with `--vpce` the regional name too) answers with it.
    pub in_dns: bool,
    /// As which system it last answered.
    pub identity: Option<SystemId>,
    /// Never offered: it answers as another system, or the upstream is in conflict.
    pub forbidden: bool,
    /// It answers as another system than the pinned one.
    pub mismatch: bool,
    /// The hop before it is down.
    pub hop_down: bool,
    /// Down because it is silent: when the first of its failed probes was sent.
    pub down_by_silence: Option<Moment>,
    /// When the next probe is due. A change of the snapshot may move it, either way.
    pub probe_at: Moment,
    /// How it is probed.
    pub pace: ProbeMode,
    /// While it shifts back: since when.
    pub ramp_from: Option<Moment>,
    /// 0 near, 1 farther, 2 a peered name; by measured connect time where zones do not say.
    pub tier: u8,
}

/// How an address is probed. Whatever it says, two probes of one IP:port are never sent less than
/// `constants::PROBE_GAP` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMode {
    /// Not at all.
    Off,
    /// One at a time, when `probe_at` has come.
    Regular,
    /// Send at `probe_at` and again every so often, without waiting for the one before, until the pace changes.
    Fast(Duration),
    /// As `Regular`, at the pace of what is down.
    Down,
}

/// A probe that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastProbe {
    /// When it was sent.
    pub at: Moment,
    /// Its result code (`ok`, `refused`, `http_503`, …).
    pub result: String,
    /// What was seen beyond the code.
    pub detail: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// One name, for `/v1/dns` and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameView {
    pub name: String,
    /// The addresses of its last good answer.
    pub addresses: Vec<IpAddr>,
    /// How long that answer holds.
    pub ttl: Duration,
    /// When it came; absent while there was none.
    pub answered: Option<Moment>,
    /// Where it came from.
    pub source: Option<AnswerSource>,
    /// Whether later answers were bad.
    pub stale: bool,
    /// The last thing that went wrong, until an answer without fault.
    pub last_error: Option<String>,
    /// When the set last changed.
    pub last_change: Option<Moment>,
    /// A derived name that has not answered yet: no endpoint, no series.
    pub candidate: bool,
}

// === impl HealthState ===

impl HealthState {
    /// All of them, in the order of the reference.
    pub const ALL: [HealthState; 5] = [
        HealthState::Unknown,
        HealthState::Up,
        HealthState::Suspect,
        HealthState::Returning,
        HealthState::Down,
    ];

    /// As it stands in `/v1/endpoints` and `endpoint_addresses{state}`.
    pub const fn as_str(self) -> &'static str {
        match self {
            HealthState::Unknown => "unknown",
            HealthState::Up => "up",
            HealthState::Suspect => "suspect",
            HealthState::Returning => "returning",
            HealthState::Down => "down",
        }
    }

    /// Up, suspect or returning.
    pub const fn is_healthy(self) -> bool {
        matches!(
            self,
            HealthState::Up | HealthState::Suspect | HealthState::Returning
        )
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Every address of every endpoint, with its endpoint.
    pub fn all(&self) -> impl Iterator<Item = (&EndpointView, &AddressView)> {
        self.endpoints.iter().flat_map(|endpoint| {
            endpoint
                .addresses
                .iter()
                .map(move |address| (endpoint, address))
        })
    }

    /// The view of one IP:port (of the first endpoint that has it).
    pub fn address(&self, socket: SocketAddr) -> Option<&AddressView> {
        self.all()
            .map(|(_, address)| address)
            .find(|view| view.address.socket == socket)
    }

    /// Whether another address than this one is up and may be used.
    pub fn other_up(&self, socket: SocketAddr) -> bool {
        self.all().any(|(_, view)| {
            view.address.socket != socket && view.state == HealthState::Up && !view.forbidden
        })
    }

    /// Whether nothing is asked of established connections: every address is up as the right system, no endpoint is
    /// drained, no connection is to move back.
    pub fn is_settled(&self) -> bool {
        self.rebalance.is_none()
            && self.all().all(|(endpoint, view)| {
                endpoint.intent != Intent::Drain && view.state == HealthState::Up && !view.mismatch
            })
    }

    /// Whether anything may be dialled with hope: an address that may be used and is not down.
    pub fn any_usable(&self) -> bool {
        self.all()
            .any(|(_, view)| !view.forbidden && !view.hop_down && view.state != HealthState::Down)
    }
}
