//! What is examined: listen addresses, targets (upstreams with their endpoints), DNS, and the running instance if any.

use std::net::SocketAddr;
use std::time::Duration;

use crate::addr::is_own_listener;
use crate::dial::hop::HopSpec;
use crate::dns::{DnsSettings, SystemFiles};
use crate::listener::ListenerSettings;
use crate::settings::{Settings, assign_hops};
use crate::sys::limits::DescriptorBudget;
use crate::sys::local_address::is_local_address;
use crate::target::ResolvedTarget;
use crate::upstream::endpoint::EndpointSpec;
use crate::upstream::settings::HealthSettings;

/// Everything that is examined.
#[derive(Clone, Debug, Default)]
pub struct DoctorInput {
    /// Where clients connect.
    pub listen: Vec<SocketAddr>,
    /// Whether the listen addresses were asked for; a missing `::1` is no fault otherwise.
    pub listen_asked: bool,
    /// One for each upstream.
    pub targets: Vec<UpstreamTarget>,
    /// How names are resolved.
    pub dns: DnsSettings,
    /// The system's files about names.
    pub files: SystemFiles,
    /// Who runs here already.
    pub instance: Option<RunningInstance>,
    /// What is odd about the settings, in one line each.
    pub odd: Vec<String>,
    /// What is wrong with the settings, in one line each.
    pub wrong: Vec<String>,
    /// What the limit of open files allows.
    pub budget: DescriptorBudget,
    /// The timers and counts that can hurt.
    pub timers: Timers,
}

/// One upstream.
#[derive(Clone, Debug, Default)]
pub struct UpstreamTarget {
    /// The upstream's name.
    pub name: String,
    /// Its endpoints; candidates among them may not exist.
    pub endpoints: Vec<EndpointSpec>,
    /// The Datomic system, where known.
    pub system: Option<String>,
    /// The region, where known.
    pub region: Option<String>,
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// How it is probed.
    pub health: HealthSettings,
    /// After how much silence keepalive begins; zero: never.
    pub keepalive: Duration,
    /// The hops of its endpoints, each once.
    pub hops: Vec<HopSpec>,
}

/// A hop, as a running entryway tells of it.
#[derive(Clone, Debug, Default)]
pub struct InstanceHop {
    pub upstream: String,
    pub via: String,
    pub state: String,
    pub last_error: Option<String>,
    pub last_output: Vec<String>,
}

/// A running entryway.
#[derive(Clone, Debug, Default)]
pub struct RunningInstance {
    /// Its process.
    pub pid: u32,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Its addresses that are down, and why it thinks so.
    pub down: Vec<(SocketAddr, String)>,
    pub hops: Vec<InstanceHop>,
    /// Whether the targets are its own (no target was given), so that it must lead where they lead.
    pub examined: bool,
}

/// What `limits` looks at.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    /// `shutdown.max_delay`.
    pub max_drain: Duration,
    /// The longest `listener.hold_timeout`.
    pub hold: Duration,
    /// `listener.max_connections`, where set.
    pub max_connections: Option<usize>,
}

// === impl Input ===

impl DoctorInput {
    /// The subject of settings, with the resolved targets of their upstreams.
    pub fn new(settings: &Settings, resolved: &[ResolvedTarget]) -> Self {
        let targets = settings
            .upstreams
            .iter()
            .zip(resolved)
            .map(|(upstream, target)| {
                let mut endpoints = target.endpoints.clone();
                let hops = assign_hops(upstream, &mut endpoints);
                (upstream, target, endpoints, hops)
            })
            .map(|(upstream, target, endpoints, hops)| UpstreamTarget {
                name: upstream.name.as_str().to_owned(),
                endpoints,
                hops,
                system: target.system.clone(),
                region: target.region.clone(),
                connect_timeout: upstream.connect_timeout,
                health: upstream.health.clone(),
                keepalive: upstream.tcp.keepalive,
            });
        let listeners = &settings.listeners;
        let binds = listeners.iter().flat_map(|listener| &listener.bind);
        Self {
            listen: binds.filter_map(|bind| bind.parse().ok()).collect(),
            listen_asked: listeners
                .iter()
                .any(|listener| listener.bind != ListenerSettings::default().bind),
            targets: targets.collect(),
            dns: settings.dns.clone(),
            budget: settings.planned_budget(),
            timers: Timers {
                max_drain: settings.shutdown.max_delay,
                hold: listeners
                    .iter()
                    .map(|listener| listener.hold_timeout)
                    .max()
                    .unwrap_or_default(),
                max_connections: listeners
                    .iter()
                    .filter_map(|listener| listener.max_connections)
                    .max(),
            },
            ..Self::default()
        }
    }

    /// Whether a connect to this address would come to one of our own listeners.
    pub fn is_own_listener(&self, socket: SocketAddr) -> bool {
        is_own_listener(socket, &self.listen, is_local_address)
    }
}
