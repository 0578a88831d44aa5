//! One running upstream: its health state, its probes and its dialer; and the resolver that all upstreams share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::hops::{Candidates, HopEnds, HopTasks};
use super::{Config, UpstreamConfig};
use crate::connection::{ContextParts, ListenerContext, Registry, WhenAllDown};
use crate::dial::hop::{HopParts, HopSpec, Hops};
use crate::dial::{DialSettings, Dialer, Preconnected, SpareLimit};
use crate::dns::{DnsSettings, NameSpec, Resolver, ResolverHandle};
use crate::events::{Events, event};
use crate::interference::Interference;
use crate::listener::{FrontNames, ListenerSettings};
use crate::metrics::Metrics;
use crate::probe::{Prober, ProberHandle};
use crate::relay::{Limits, RelayShared};
use crate::settings::{Splice, UpstreamSettings, ZoneSetting, assign_hops};
use crate::supervisor::{CloseRules, UpstreamEntry};
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::limits::DescriptorBudget;
use crate::types::{ListenerName, UpstreamName};
use crate::upstream::endpoint::{EndpointSpec, Role};
use crate::upstream::input::Input;
use crate::upstream::settings::{HealthSettings, UpstreamPolicy};
use crate::upstream::{self, NamesInUse, SnapshotReader, UpstreamArgs, UpstreamHandle};

/// What all upstreams share: what they may have open together, and the names that they follow.
#[derive(Clone, Debug)]
pub struct Shares {
    spares: SpareLimit,
    probes: Arc<Semaphore>,
    dns: Arc<Semaphore>,
    names: NamesInUse,
}

/// What the target of an upstream is called.
#[derive(Clone, Debug, Default)]
pub struct TargetNames {
    /// The Datomic system, where told.
    pub system: Option<String>,
    /// The region, where told.
    pub region: Option<String>,
}

/// One upstream, running.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub name: UpstreamName,
    /// System and region; a reload swaps them.
    pub(super) target: Arc<ArcSwap<TargetNames>>,
    /// What is known of it.
    pub view: SnapshotReader,
    /// Where facts go.
    pub feed: UpstreamHandle,
    pub(super) prober: ProberHandle,
    pub(super) rules: Arc<ArcSwap<CloseRules>>,
    pub(super) hosts: Arc<ArcSwap<Vec<NameSpec>>>,
    pub(super) dialer: Arc<ArcSwap<Dialer>>,
    pub(super) limits: Limits,
    /// `upstream.zone`; a change starts the search for our own zone anew.
    pub(super) zone: Arc<watch::Sender<ZoneSetting>>,
    shares: Shares,
    pub(super) hop_tasks: HopTasks,
    hop_parts: HopParts,
    interference: Interference,
    /// Those that are configured now.
    hop_set: Arc<ArcSwap<Hops>>,
    pub(super) candidates: Arc<ArcSwap<Vec<EndpointSpec>>>,
    pub(super) health: Arc<ArcSwap<HealthSettings>>,
    own: Arc<[SocketAddr]>,
}

/// The names of these endpoints; derived ones are candidates.
pub(super) fn names_of(endpoints: &[EndpointSpec]) -> Vec<NameSpec> {
    let mut names: BTreeMap<String, bool> = BTreeMap::new();
    // The names of others are resolved by their hops.
    for endpoint in endpoints
        .iter()
        .filter(|endpoint| endpoint.remote_target().is_none())
    {
        let candidate = matches!(endpoint.role, Role::Zonal | Role::PeeredOld);
        let host = endpoint.host.trim_end_matches('.').to_ascii_lowercase();
        names
            .entry(host)
            .and_modify(|known| *known &= candidate)
            .or_insert(candidate);
    }
    names
        .into_iter()
        .map(|(host, candidate)| NameSpec { host, candidate })
        .collect()
}

/// Every name of every upstream, once.
pub(super) fn all_names(upstreams: &[Upstream]) -> Vec<NameSpec> {
    let mut names: BTreeMap<String, bool> = BTreeMap::new();
    for upstream in upstreams {
        for name in upstream.hosts.load().iter() {
            names
                .entry(name.host.clone())
                .and_modify(|known| *known &= name.candidate)
                .or_insert(name.candidate);
        }
    }
    names
        .into_iter()
        .map(|(host, candidate)| NameSpec { host, candidate })
        .collect()
}

/// The resolver of the process: each answer goes to the upstreams that use the name.
pub(super) fn resolve(
    upstreams: &Arc<[Upstream]>,
    settings: DnsSettings,
    shares: &Shares,
    metrics: Metrics,
    events: Events,
    interference: Interference,
    tasks: &mut JoinSet<()>,
) -> ResolverHandle {
    let told = Arc::clone(upstreams);
    let tell = move |fact: Input| {
        let Input::Answer(answer) = &fact else { return };
        for upstream in told.iter() {
            if upstream
                .hosts
                .load()
                .iter()
                .any(|name| name.host == answer.name)
            {
                upstream.feed.send(fact.clone());
            }
        }
    };
    let notice = move |line: &str| {
        event!(
            events,
            WARN,
            "dns.error",
            "a line of the system's resolver configuration cannot be used and is skipped",
            error = line,
        );
    };
    let names = all_names(upstreams);
    let sockets = Arc::clone(&shares.dns);
    let (handle, future) = Resolver::start(
        settings,
        sockets,
        names,
        metrics,
        interference,
        notice,
        tell,
    );
    tasks.spawn(future);
    handle
}

pub(super) fn policy_of(
    settings: &UpstreamSettings,
    listeners: &[ListenerSettings],
) -> UpstreamPolicy {
    UpstreamPolicy {
        health: settings.health.clone(),
        failback: settings.failback.clone(),
        own_zone: match &settings.zone {
            ZoneSetting::Named(zone) => Some(zone.clone()),
            ZoneSetting::Auto | ZoneSetting::None => None,
        },
        while_unreachable: while_unreachable(listeners, settings.name.as_str()),
    }
}

/// What new connections do while nothing of this upstream can be reached.
fn while_unreachable(listeners: &[ListenerSettings], upstream: &str) -> String {
    let mut texts: Vec<String> = Vec::new();
    for listener in listeners.iter().filter(|one| one.upstream == upstream) {
        let policy = listener.policy();
        let text = match policy.when_all_down {
            WhenAllDown::Hold => format!(
                "new connections wait up to {}",
                crate::duration::show(policy.hold_timeout)
            ),
            WhenAllDown::Try => "new connections are tried once and closed".to_owned(),
            WhenAllDown::Refuse => "new connections are refused".to_owned(),
        };
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.is_empty() {
        return "no listener leads there".to_owned();
    }
    texts.join(" or ")
}

pub(super) fn dial_settings(
    settings: &UpstreamSettings,
    loopback_congestion: LoopbackCongestion,
) -> DialSettings {
    DialSettings {
        connect_timeout: settings.connect_timeout,
        hedge_after: settings.hedge_after,
        tcp: settings.tcp.options(),
        loopback_congestion,
    }
}

pub(super) fn limits_of(settings: &UpstreamSettings) -> Limits {
    settings.tcp.limits(
        settings.splice == Splice::Auto,
        settings.pipe_size.0,
        settings.is_framed(),
    )
}

pub(super) fn rules_of(settings: &UpstreamSettings) -> CloseRules {
    CloseRules {
        on_down: settings.health.on_down,
        max_age: settings.tcp.max_age(),
        user_timeout: settings.tcp.options().user_timeout,
    }
}

// === impl Shares ===

impl Shares {
    pub fn of(budget: &DescriptorBudget) -> Self {
        Self {
            spares: SpareLimit::new(budget.spares),
            probes: Arc::new(Semaphore::new(budget.probes)),
            dns: Arc::new(Semaphore::new(budget.dns)),
            names: NamesInUse::default(),
        }
    }
}

// === impl TargetNames ===

impl TargetNames {
    pub(super) fn of(upstream: &UpstreamConfig) -> Self {
        Self {
            system: upstream.system.clone(),
            region: upstream.region.clone(),
        }
    }

    /// The entry names of the system.
    fn entries(&self) -> Vec<String> {
        let (Some(system), Some(region)) = (&self.system, &self.region) else {
            return Vec::new();
        };
        let names = ["entry", "entry-http"];
        names
            .map(|name| format!("{name}.{system}.{region}.datomic.net"))
            .into()
    }
}

// === impl Upstream ===

impl Upstream {
    /// Names that a client of a front may ask for: those of the endpoints, as typed and as labels, and the entry names
    /// of the system.
    pub(super) fn front_names(&self) -> FrontNames {
        let (endpoints, target) = (Arc::clone(&self.candidates), Arc::clone(&self.target));
        FrontNames::new(move || {
            let endpoints = endpoints.load();
            let names = endpoints
                .iter()
                .flat_map(|endpoint| [endpoint.host.clone(), endpoint.name.to_string()]);
            names.chain(target.load().entries()).collect()
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of the program that it is joined to"
    )]
    pub(super) fn start(
        upstream: &UpstreamConfig,
        config: &Config,
        own: &[SocketAddr],
        metrics: &Metrics,
        events: &Events,
        shares: &Shares,
        hop_tasks: &HopTasks,
        interference: &Interference,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let settings = &upstream.settings;
        let mut endpoints = upstream.endpoints.clone();
        let hop_specs = assign_hops(settings, &mut endpoints);
        let (feed, view, actor) = upstream::start(UpstreamArgs {
            upstream: settings.name.clone(),
            endpoints: endpoints.clone(),
            settings: policy_of(settings, &config.settings.listeners),
            metrics: metrics.clone(),
            events: events.clone(),
            own_listeners: own.to_vec(),
            names: shares.names.clone(),
        });
        tasks.spawn(actor);
        let warm = Preconnected::new(
            settings.warm.clone(),
            metrics.clone(),
            shares.spares.clone(),
        );
        let dial = dial_settings(settings, config.settings.runtime.loopback_congestion);
        let hop_parts = HopParts {
            upstream: settings.name.clone(),
            own: own.into(),
            events: events.clone(),
            metrics: metrics.clone(),
        };
        let hop_set = Arc::new(ArcSwap::from_pointee(Hops::default()));
        let ends = HopEnds {
            handle: feed.clone(),
            view: view.clone(),
        };
        let hops = hop_tasks.build(hop_specs, &hop_set, &hop_parts, &ends);
        let dialer = Dialer::through(
            dial,
            own.to_vec(),
            warm,
            hops,
            events.clone(),
            interference.clone(),
        );
        let dialer = Arc::new(ArcSwap::from_pointee(dialer));
        let send = feed.clone();
        let (prober, probes) = Prober::start(
            view.clone(),
            settings.health.clone(),
            Arc::clone(&dialer),
            Arc::clone(&shares.probes),
            move |fact| send.send(fact),
        );
        tasks.spawn(probes);
        let candidates = Arc::new(ArcSwap::from_pointee(endpoints.clone()));
        let health = Arc::new(ArcSwap::from_pointee(settings.health.clone()));
        tasks.spawn(
            Candidates {
                endpoints: Arc::clone(&candidates),
                dialer: Arc::clone(&dialer),
                health: Arc::clone(&health),
                handle: feed.clone(),
            }
            .ask(),
        );
        Self {
            name: settings.name.clone(),
            target: Arc::new(ArcSwap::from_pointee(TargetNames::of(upstream))),
            view,
            feed,
            prober,
            rules: Arc::new(ArcSwap::from_pointee(rules_of(settings))),
            hosts: Arc::new(ArcSwap::from_pointee(names_of(&endpoints))),
            dialer,
            limits: limits_of(settings),
            zone: Arc::new(watch::Sender::new(settings.zone.clone())),
            shares: shares.clone(),
            hop_tasks: hop_tasks.clone(),
            hop_parts,
            interference: interference.clone(),
            hop_set,
            candidates,
            health,
            own: own.into(),
        }
    }

    /// What its target is called now.
    pub fn target_names(&self) -> Arc<TargetNames> {
        self.target.load_full()
    }

    pub(super) fn supervised(&self) -> UpstreamEntry {
        UpstreamEntry {
            upstream: self.name.clone(),
            view: self.view.clone(),
            feed: self.feed.clone(),
            rules: Arc::clone(&self.rules),
        }
    }

    pub(super) fn route(
        &self,
        listener: &ListenerSettings,
        registry: &Registry,
        counters: &Arc<RelayShared>,
        metrics: &Metrics,
        events: &Events,
    ) -> Arc<ListenerContext> {
        ListenerContext::new(ContextParts {
            listener: ListenerName::new(&listener.name),
            upstream: self.name.clone(),
            view: self.view.clone(),
            feed: self.feed.clone(),
            registry: registry.clone(),
            events: events.clone(),
            dialer: self.dialer.load().as_ref().clone(),
            limits: self.limits.clone(),
            relay: Arc::clone(counters),
            policy: listener.policy(),
            metrics: metrics.clone(),
        })
    }

    /// A dialer of other settings; spares stay where they are wanted as before.
    pub(super) fn redial(
        &self,
        settings: &UpstreamSettings,
        hop_specs: Vec<HopSpec>,
        loopback: LoopbackCongestion,
        metrics: &Metrics,
    ) -> Dialer {
        let known = self.dialer.load();
        let warm = if known.preconnected().settings() == &settings.warm {
            known.preconnected().clone()
        } else {
            Preconnected::new(
                settings.warm.clone(),
                metrics.clone(),
                self.shares.spares.clone(),
            )
        };
        let ends = HopEnds {
            handle: self.feed.clone(),
            view: self.view.clone(),
        };
        let hops = self
            .hop_tasks
            .build(hop_specs, &self.hop_set, &self.hop_parts, &ends);
        let dialer = Dialer::through(
            dial_settings(settings, loopback),
            self.own.to_vec(),
            warm,
            hops,
            self.hop_parts.events.clone(),
            self.interference.clone(),
        );
        self.dialer.store(Arc::new(dialer.clone()));
        dialer
    }
}
