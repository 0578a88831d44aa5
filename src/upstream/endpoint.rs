//! Endpoints and addresses: what can be dialled, and the numbers that belong to an address.
//!
//! An [`Endpoint`] is one configured or derived `HOST:PORT`; an [`Address`] is one IP:port that its name resolves to.
//! Health, probes and connect times belong to addresses. Both live behind an `Arc` whose identity lasts as long as the
//! upstream keeps them, so that a connection can hold on to the ones it uses.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::addr::HostPort;
use crate::clock::{self, Moment};
use crate::duration_window::DurationWindow;
use crate::types::{EndpointName, HopId, UpstreamName, Zone};

/// Where an endpoint comes from; decides how its DNS answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Given as `HOST:PORT`.
    Configured,
    /// The regional name of a VPC endpoint: holds only addresses that no zonal name answers with.
    Regional,
    /// A zonal name derived from the regional one: a candidate until it has answered once.
    Zonal,
    /// `entry-http.…`: the peered entry name of current releases.
    Peered,
    /// `entry.…`: the peered entry name of older systems; a candidate, used only while `entry-http.` has no address.
    PeeredOld,
}

/// What a target asks the upstream to keep: one endpoint, before DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its name, unique within the upstream.
    pub name: EndpointName,
    /// A DNS name or a literal IP, without brackets.
    pub host: String,
    pub port: u16,
    /// Its zone, where known.
    pub zone: Option<Zone>,
    /// Where it comes from.
    pub role: Role,
    /// How it is reached; `None`: directly.
    pub hop: Option<EndpointHop>,
}

/// The hop that an endpoint is reached through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointHop {
    pub id: HopId,
    /// The hop resolves the name: the endpoint has one address, `NAME:PORT`, and no DNS answer.
    pub remote_dns: bool,
}

/// What a hop is asked to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopTarget {
    pub hop: HopId,
    pub to: HostPort,
}

/// One endpoint of an upstream.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The upstream it belongs to.
    pub upstream: UpstreamName,
    /// What the target says.
    pub spec: EndpointSpec,
}

/// One IP:port of an endpoint, with the numbers that data threads write and the control thread reads.
#[derive(Debug)]
pub struct Address {
    /// Where to connect. Behind a hop it is only a key, from a block that is routed nowhere, see [`HopTarget::key`].
    pub socket: SocketAddr,
    /// The target behind a hop, where there is one.
    pub target: Option<HopTarget>,
    /// For people and logs: of the target, where there is a hop.
    host: String,
    /// Connect times of successful dials and probes (the stagger is 3 × their p99).
    pub connects: DurationWindow,
    /// First-answer times of requests in traffic (suspicion by silence is 4 × their median). Shared with the statistics
    /// of every connection to this address.
    pub answers: Arc<DurationWindow>,
    /// Times of successful probes, for the history.
    pub probes: DurationWindow,
    failed_probes: AtomicU64,
    /// When upstream bytes last arrived in traffic, in ms of [`Moment`], plus one; 0 = never.
    last_activity: AtomicU64,
    /// When it last answered a probe, in ms of [`Moment`], plus one; 0 = never.
    answered: AtomicU64,
    /// Successful dials ever; the actor reads it on its tick, so that a success sends no message.
    dialled: AtomicU64,
}

/// One address to try, with its endpoint.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub endpoint: Arc<Endpoint>,
    pub address: Arc<Address>,
}

// === impl Endpoint ===

impl Endpoint {
    /// The endpoint's name.
    pub fn name(&self) -> &EndpointName {
        &self.spec.name
    }

    /// The endpoint's zone, where known.
    pub fn zone(&self) -> Option<&Zone> {
        self.spec.zone.as_ref()
    }

    /// Its labels in metrics: upstream, endpoint, zone.
    pub fn labels(&self) -> [&str; 3] {
        [
            self.upstream.as_str(),
            self.name().as_str(),
            self.zone_label(),
        ]
    }

    /// The zone as a metric label: empty where it is not known.
    pub fn zone_label(&self) -> &str {
        self.zone().map_or("", Zone::as_str)
    }
}

// === impl Address ===

impl Address {
    /// An address that nothing is known about.
    pub fn new(socket: SocketAddr) -> Self {
        Self {
            socket,
            target: None,
            host: socket.ip().to_string(),
            connects: DurationWindow::default(),
            answers: Arc::default(),
            probes: DurationWindow::default(),
            failed_probes: AtomicU64::new(0),
            last_activity: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            dialled: AtomicU64::new(0),
        }
    }

    /// The same behind a hop.
    pub fn behind(target: HopTarget) -> Self {
        Self {
            host: target.to.host.clone(),
            target: Some(target.clone()),
            ..Self::new(target.key())
        }
    }

    /// Host and port, for people and logs: of the target, where there is a hop.
    pub fn host_port(&self) -> (&str, u16) {
        let target = self.target.as_ref();
        let port = target.map_or(self.socket.port(), |target| target.to.port);
        (&self.host, port)
    }

    /// Records a probe that has just succeeded.
    pub fn probe_succeeded(&self) {
        self.answered.store(clock::now().as_millis() + 1, Relaxed);
    }

    /// Whether it has answered a probe since then.
    pub fn answered_since(&self, since: Moment) -> bool {
        self.answered.load(Relaxed) > since.as_millis() + 1
    }

    /// Notes a successful dial of traffic.
    pub fn dialled(&self, took: Duration) {
        self.connects.record(took);
        self.dialled.fetch_add(1, Relaxed);
    }

    /// Records a probe that ended, for the history.
    pub fn probed(&self, succeeded: bool, took: Duration) {
        if succeeded {
            self.probes.record(took);
        } else {
            self.failed_probes.fetch_add(1, Relaxed);
        }
    }

    pub fn failed_probes(&self) -> u64 {
        self.failed_probes.load(Relaxed)
    }

    /// Successful dials of traffic so far.
    pub fn dials(&self) -> u64 {
        self.dialled.load(Relaxed)
    }

    /// The median connect time, from the first connect or probe on.
    pub fn round_trip(&self) -> Option<Duration> {
        self.connects.quantile(0.5)
    }

    /// Notes that upstream bytes arrived in traffic just now.
    pub fn record_activity(&self) {
        self.last_activity
            .store(clock::now().as_millis() + 1, Relaxed);
    }

    /// When upstream bytes last arrived in traffic.
    pub fn last_activity(&self) -> Option<Moment> {
        let millis = self.last_activity.load(Relaxed).checked_sub(1)?;
        Some(Moment::at(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Some(target) => target.to.fmt(f),
            None => self.socket.fmt(f),
        }
    }
}

// === impl HopTarget ===

impl HopTarget {
    pub fn of(hop: HopId, socket: SocketAddr) -> Self {
        let to = HostPort {
            host: socket.ip().to_string(),
            port: socket.port(),
        };
        Self { hop, to }
    }

    /// What stands for this target where addresses are told apart: an address of `100::/64`, a block that RFC 6666 sets
    /// aside for packets to be discarded, so that it can be no real address.
    pub fn key(&self) -> SocketAddr {
        let mut hasher = DefaultHasher::new();
        (self.hop, &self.to).hash(&mut hasher);
        let ip = Ipv6Addr::from((0x0100_u128 << 112) | u128::from(hasher.finish()));
        SocketAddr::from((ip, self.to.port))
    }
}

// === impl EndpointSpec ===

impl EndpointSpec {
    /// What its hop is asked for, where the hop resolves the name.
    pub fn remote_target(&self) -> Option<HopTarget> {
        let hop = self.hop.filter(|hop| hop.remote_dns)?;
        Some(HopTarget {
            hop: hop.id,
            to: HostPort {
                host: self.host.clone(),
                port: self.port,
            },
        })
    }

    /// Whether it is an endpoint only once it has answered.
    pub fn is_candidate(&self) -> bool {
        matches!(self.role, Role::Zonal | Role::PeeredOld)
    }
}

// === impl Candidate ===

impl PartialEq for Candidate {
    /// The same candidate: the same endpoint and the same IP:port.
    fn eq(&self, other: &Self) -> bool {
        self.endpoint.spec.name == other.endpoint.spec.name
            && self.address.socket == other.address.socket
    }
}
