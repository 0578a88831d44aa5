//! Wiring: from settings to the running program and to its end. The only module that spawns the long-lived tasks, and
//! the only one that joins them.
//!
//! [`start`] takes the ports and starts every part on the control runtime; nothing in it waits for the network.
//! [`App::run`] waits until a stop is requested and takes the parts down in the order that ARCHITECTURE.md gives. While
//! it runs, [`Handles`] show and steer the parts, and [`Reloader`] applies changed settings for the signal handler and
//! for the admin API alike.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::admin::registration::Registered;
use crate::admin::{self, AdminBindError, AdminListeners, BindOptions};
use crate::clock::{self, Moment};
use crate::connection::{ListenerContext, Registry};
use crate::dial;
use crate::dns::ResolverHandle;
use crate::drain::{self, DrainTrigger, DrainWatcher};
use crate::events::{Events, Log, event};
use crate::listener::{
    self, BindError, Bound, Front, Listener as RunningListener, Shortage, SocketSettings,
};
use crate::metrics::emf::EmfWriter;
use crate::metrics::{Metrics, family};
use crate::readiness::Readiness;
use crate::relay::{RelayShared, TcpSettings};
use crate::settings::{Loaded, ShutdownSettings};
use crate::supervisor::{self, ShutdownControl};
use crate::suspend;
use crate::sys::limits::{self, DescriptorBudget};
use crate::sys::pipe::PipeLimits;
use crate::sys::process::PassedSocket;
use crate::types::{ListenerName, UpstreamName};
use crate::workers::{Dispatcher, Workers};
use backend::AdminBackend;
use systemd::Notifier;

pub use config::{Config, UpstreamConfig};
pub use reload::{ReloadError, Reloader};
pub use systemd::SocketError;
pub use upstream::{Shares, Upstream};

mod backend;
mod config;
#[cfg(feature = "gateway")]
mod gateway;
mod hops;
mod instance_metrics;
mod loops;
mod own_zone;
mod reload;
mod systemd;
mod upstream;
mod wake;

use hops::HopTasks;

/// How often the control runtime records that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How often a drain checks whether the last connection has ended.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// Time beyond `max_delay` for the workers to send the last resets.
const LAST_RESETS: Duration = Duration::from_millis(200);

/// How long admin answers under way may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Who asks for the end. A signal after a request counts as the first one; only a second signal ends the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `entryway shutdown` or the admin API: drain. Repeating it changes nothing.
    Request,
    /// A signal: drain; the second one ends the drain.
    Signal,
    /// End now.
    Now,
}

/// The outcome of [`App::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were reset because the drain was over.
    pub cut: u64,
}

/// A listener with its bound addresses.
#[derive(Clone, Debug)]
pub struct Listener {
    pub name: ListenerName,
    pub addresses: Vec<SocketAddr>,
    /// What its connections share.
    pub route: Arc<ListenerContext>,
    /// Whether it lacks what it needs to accept.
    pub shortage: Shortage,
    /// Of the URL to paste.
    pub scheme: &'static str,
}

/// The running parts: to read their state and to steer them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handles {
    /// In the order of the settings.
    pub listeners: Arc<[Listener]>,
    /// In the order of the settings.
    pub upstreams: Arc<[Upstream]>,
    pub registry: Registry,
    pub metrics: Metrics,
    pub events: Events,
    pub readiness: Readiness,
    /// Fires when the shutdown begins.
    pub draining: DrainWatcher,
    /// Connections at once, over all listeners.
    pub max_connections: usize,
    pub started: Moment,
    /// As last loaded.
    pub shutdown: Arc<ArcSwap<ShutdownSettings>>,
    #[cfg(feature = "gateway")]
    gateway: Option<crate::gateway::Gateway>,
    resolver: ResolverHandle,
    heartbeat: Arc<AtomicU64>,
    dispatcher: Dispatcher,
    stops: mpsc::UnboundedSender<Stop>,
    /// Where requested shutdowns go instead, if anywhere.
    diverted: Arc<OnceLock<mpsc::UnboundedSender<()>>>,
}

/// The running program. Dropping it without [`App::run`] ends everything at once.
#[derive(Debug)]
pub struct App {
    handles: Handles,
    reloader: Reloader,
    admin: AdminListeners,
    admin_settings: admin::AdminSettings,
    /// Connections to each admin listener.
    max_admin: usize,
    stops: mpsc::UnboundedReceiver<Stop>,
    draining: DrainTrigger,
    listeners: DrainTrigger,
    ending: ShutdownControl,
    workers: Workers,
    /// Probes, resolver, upstreams, supervisor, spares.
    core: JoinSet<()>,
    notifier: Notifier,
    /// Optional parts beside the core; they end after it.
    services: JoinSet<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Sockets passed by a service manager.
    #[error(transparent)]
    Sockets(#[from] SocketError),
    #[error("start the worker threads: {0}")]
    Workers(#[source] io::Error),
    /// Certificate files of the gateway that cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::Error),
    #[error(transparent)]
    Admin(#[from] AdminBindError),
}

/// Takes the ports and starts everything, on the runtime that calls it (the control runtime).
pub fn start(loaded: Loaded, log: Log) -> Result<App, Error> {
    start_with(loaded, log, Vec::new())
}

/// The same with sockets that a service manager has passed to this process.
pub fn start_with(loaded: Loaded, log: Log, passed: Vec<PassedSocket>) -> Result<App, Error> {
    let (metrics, events) = (Metrics::default(), Events::new(log));
    event!(
        events,
        INFO,
        "start",
        "entryway starts",
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
    );
    for warning in &loaded.warnings {
        event!(events, WARN, "start", "settings", warning = warning);
    }
    let config = Config::new(&loaded);
    for upstream in &config.upstreams {
        for note in &upstream.notes {
            event!(
                events,
                INFO,
                "start",
                "target note",
                upstream = upstream.settings.name.as_str(),
                note = note,
            );
        }
    }
    let bound = bind(&config, passed, &events)?;
    let listener_port = bound
        .iter()
        .flat_map(Bound::addresses)
        .next()
        .map_or(0, SocketAddr::port);
    let asked = BindOptions {
        bind: loaded.admin_asked_for,
        listener_port,
    };
    let admin = admin::open(&loaded.settings.admin, asked, &events)?;
    let own: Vec<SocketAddr> = bound
        .iter()
        .flat_map(Bound::addresses)
        .copied()
        .chain(admin.addresses())
        .collect();

    let settings = &config.settings;
    let workers = settings.runtime.worker_threads();
    let budget = DescriptorBudget::of_process(workers, settings.spares());
    warn_about_few_connections(&budget, &events);
    let workers = Workers::start(workers).map_err(Error::Workers)?;
    let readiness = Readiness::default();
    let listening = readiness.register("listeners");
    let registry = Registry::default();
    let counters = Arc::new(RelayShared::new(
        PipeLimits::of_this_machine().at_most(budget.pipes),
    ));

    let mut core = JoinSet::new();
    let (upstreams, resolver) = observe(
        &config,
        &own,
        &metrics,
        &events,
        &Shares::of(&budget),
        &mut core,
    );
    for upstream in upstreams.iter() {
        core.spawn(dial::keep_preconnected(
            Arc::clone(&upstream.dialer),
            upstream.view.clone(),
        ));
    }
    let swept = upstreams.iter().map(Upstream::swept).collect();
    let (sweep, ending) = supervisor::new(
        registry.clone(),
        swept,
        Arc::clone(&counters),
        &metrics,
        &events,
    );
    core.spawn(sweep.run());

    let (listener_trigger, listener_watcher) = drain::channel();
    let mut listeners: Vec<Listener> = Vec::new();
    let mut bound = bound.into_iter();
    for (listener, bound) in settings.listeners.iter().zip(bound.by_ref()) {
        let upstream = upstream_of(&upstreams, &listener.upstream);
        let route = upstream.route(listener, &registry, &counters, &metrics, &events);
        let addresses = bound.addresses().to_vec();
        let shortage = RunningListener::start(
            bound,
            Arc::clone(&route),
            workers.dispatcher(),
            budget,
            &metrics,
            Front::new(
                listener.front,
                &listener.front_allow,
                upstream.front_names(),
                &listener.name,
                &metrics,
            ),
            listener_watcher.clone(),
        );
        listeners.push(Listener {
            name: ListenerName::new(&listener.name),
            addresses,
            route,
            shortage,
            scheme: "http",
        });
    }
    #[cfg(feature = "gateway")]
    let gateway = match bound.next() {
        None => None,
        Some(bound) => {
            let ways = gateway::listeners(&upstreams, bound.addresses(), |upstream, settings| {
                upstream.route(settings, &registry, &counters, &metrics, &events)
            });
            listeners.extend(ways.iter().cloned());
            let shared = gateway::Shared {
                registry: &registry,
                max_connections: budget.max_connections,
                dispatcher: workers.dispatcher(),
                stop: listener_watcher.clone(),
                metrics: &metrics,
                events: &events,
            };
            let gateway = gateway::start(&config, bound, &ways, shared)?;
            core.spawn(gateway.clone().watch_files());
            Some(gateway)
        }
    };
    drop(listening);
    instance_metrics::init(&metrics, workers.dispatcher().threads());

    let (draining, draining_watcher) = drain::channel();
    let (stops_sender, stops) = mpsc::unbounded_channel();
    let heartbeat = Arc::new(AtomicU64::new(clock::now().as_millis()));
    core.spawn(keep_beating(
        Arc::clone(&heartbeat),
        workers.dispatcher().clone(),
    ));
    let handles = Handles {
        listeners: listeners.into(),
        upstreams,
        registry,
        metrics,
        events,
        readiness,
        draining: draining_watcher,
        max_connections: budget.max_connections,
        started: clock::now(),
        shutdown: Arc::new(ArcSwap::from_pointee(settings.shutdown.clone())),
        #[cfg(feature = "gateway")]
        gateway,
        resolver,
        heartbeat,
        dispatcher: workers.dispatcher().clone(),
        stops: stops_sender,
        diverted: Arc::default(),
    };

    let mut services = JoinSet::new();
    let woken = handles.clone();
    services.spawn(async move {
        match suspend::watch(|interruption| woken.woke(interruption)).await {}
    });
    let emf = config.settings.metrics.emf;
    if !emf.is_zero() {
        let upstreams = handles.upstreams.iter();
        let names = upstreams.map(|upstream| upstream.name.clone()).collect();
        services.spawn(EmfWriter::new(names).run(handles.metrics.clone(), emf));
    }
    for upstream in handles.upstreams.iter() {
        services.spawn(own_zone::keep(upstream.clone(), handles.events.clone()));
        services.spawn(loops::watch(
            upstream.clone(),
            own.clone(),
            handles.resolver.clone(),
            handles.events.clone(),
        ));
    }
    let registered = Registered {
        pid: std::process::id(),
        admin: admin.admin_address().map(|address| address.to_string()),
        control: admin.control_path().map(|path| path.display().to_string()),
        listeners: handles
            .listeners
            .iter()
            .flat_map(|listener| &listener.addresses)
            .map(ToString::to_string)
            .collect(),
    };
    let events = handles.events.clone();
    services.spawn(async move {
        if let Err(error) = admin::registration::register(registered).await {
            event!(
                events,
                DEBUG,
                "start",
                "not registered for client commands",
                error = %error,
            );
        }
    });
    let notifier = Notifier::from_env(|name| std::env::var_os(name));
    services.spawn(notifier.clone().keep_reporting(handles.clone()));
    Ok(App {
        reloader: Reloader::new(handles.clone(), loaded.clone(), notifier.clone()),
        notifier,
        handles,
        admin,
        admin_settings: loaded.settings.admin,
        max_admin: budget.admin,
        stops,
        draining,
        listeners: listener_trigger,
        ending,
        workers,
        core,
        services,
    })
}

/// Binds every listener; clients are queued from here on.
fn bind(config: &Config, passed: Vec<PassedSocket>, events: &Events) -> Result<Vec<Bound>, Error> {
    let settings = &config.settings;
    let passed = systemd::sockets(passed, &settings.listeners)?;
    let mut bound = Vec::new();
    for (listener, passed) in settings.listeners.iter().zip(passed) {
        let upstream = settings
            .upstreams
            .iter()
            .find(|upstream| upstream.name.as_str() == listener.upstream);
        let sockets = SocketSettings {
            tcp: upstream.map_or_else(
                || TcpSettings::default().options(),
                |upstream| upstream.tcp.options(),
            ),
            loopback_congestion: settings.runtime.loopback_congestion,
        };
        if !passed.is_empty() {
            let adopted = listener::adopt(passed, &sockets);
            bound.push(adopted.map_err(|error| SocketError::new(error.to_string()))?);
            continue;
        }
        let one = listener::bind(listener, config.binds_are_explicit, &sockets)?;
        for (address, error) in &one.missing {
            event!(
                events,
                WARN,
                "listener.up",
                "default address not available on this host; skipping it",
                name = listener.name,
                address = %address,
                error = %error,
            );
        }
        bound.push(one);
    }
    #[cfg(feature = "gateway")]
    if gateway::is_one(settings) {
        bound.push(gateway::bind(settings)?);
    }
    Ok(bound)
}

/// Starts what watches the upstreams (resolver, probes, health) and nothing that serves connections: for [`start`], and
/// for commands that only report. `own`: addresses of ours, which are never dialled.
pub fn observe(
    config: &Config,
    own: &[SocketAddr],
    metrics: &Metrics,
    events: &Events,
    shares: &Shares,
    tasks: &mut JoinSet<()>,
) -> (Arc<[Upstream]>, ResolverHandle) {
    let (hop_tasks, run_hops) = HopTasks::new();
    tasks.spawn(run_hops);
    let upstreams: Arc<[Upstream]> = config
        .upstreams
        .iter()
        .map(|upstream| {
            Upstream::start(
                upstream, config, own, metrics, events, shares, &hop_tasks, tasks,
            )
        })
        .collect();
    let resolver = upstream::resolve(
        &upstreams,
        config.settings.dns.clone(),
        metrics.clone(),
        events.clone(),
        tasks,
    );
    (upstreams, resolver)
}

fn upstream_of<'a>(upstreams: &'a [Upstream], name: &str) -> &'a Upstream {
    let name = UpstreamName::new(name);
    // Settings that name no upstream do not pass their validation.
    upstreams
        .iter()
        .find(|upstream| upstream.name == name)
        .unwrap_or(&upstreams[0])
}

/// A small limit is felt much later, as connections that are closed: it is said before.
fn warn_about_few_connections(budget: &DescriptorBudget, events: &Events) {
    if budget.max_connections >= limits::FEW_CONNECTIONS {
        return;
    }
    let text = format!(
        "{} open files allow {} connections at once",
        budget.descriptors, budget.max_connections
    );
    event!(
        events,
        WARN,
        "resource",
        text,
        connections = budget.max_connections,
        limit = budget.descriptors,
        hint = "raise the limit of open files (RLIMIT_NOFILE, LimitNOFILE, ulimits)",
    );
}

async fn keep_beating(heartbeat: Arc<AtomicU64>, dispatcher: Dispatcher) {
    loop {
        heartbeat.store(clock::now().as_millis(), Relaxed);
        dispatcher.ping();
        clock::aligned_sleep(HEARTBEAT).await;
    }
}

// === impl App ===

impl App {
    pub fn handles(&self) -> &Handles {
        &self.handles
    }

    /// Where admin HTTP listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.admin_address()
    }

    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    /// Serves until a stop is requested, then takes everything down in the order of ARCHITECTURE.md; the admin API ends
    /// last, so that the drain can be watched.
    pub async fn run(mut self) -> Ended {
        let (admin_stop, admin_watcher) = drain::channel();
        let backend = Arc::new(AdminBackend::new(
            self.handles.clone(),
            self.reloader.clone(),
        ));
        let (open, settings) = (std::mem::take(&mut self.admin), self.admin_settings.clone());
        let (admin_bus, most) = (self.handles.events.clone(), self.max_admin);
        let admin = tokio::spawn(async move {
            admin::serve(open, backend, admin_bus, &settings, most, admin_watcher).await
        });
        let events = self.handles.events.clone();
        let mut services = std::mem::take(&mut self.services);
        self.notifier.ready();
        let first = self.stops.recv().await.unwrap_or(Stop::Now);
        self.notifier.stopping();
        let ended = self.drain(first).await;
        admin_stop.fire();
        services.shutdown().await;
        // Answers under way may finish; one that hangs does not hold up the end.
        let _ = timeout(LAST_ANSWERS, admin).await;
        event!(events, INFO, "stop", "entryway ends", cut = ended.cut);
        ended
    }

    /// The shutdown of the core, after the first stop.
    async fn drain(mut self, first: Stop) -> Ended {
        let began = Instant::now();
        let Handles {
            events,
            metrics,
            registry,
            ..
        } = self.handles.clone();
        let shutdown = self.handles.shutdown.load_full();
        self.draining.fire();
        metrics.gauge(&family::DRAINING, &[]).set(1.0);
        event!(
            events,
            INFO,
            "drain.start",
            "shutting down",
            connections = registry.len(),
        );
        let cut_before = metrics.sum(family::DRAIN_CUT.name);

        let mut urgent = Urgency::new(first);
        let mut now = urgent.is_now();
        if !now && !shutdown.min_delay.is_zero() {
            now = timeout(shutdown.min_delay, urgent.wait(&mut self.stops))
                .await
                .is_ok();
        }
        self.listeners.fire();
        self.listeners.finished().await;
        let left = shutdown.max_delay.saturating_sub(began.elapsed());
        self.ending.drain(left);
        let until = Instant::now() + left + LAST_RESETS;
        while !now && !registry.is_empty() && Instant::now() < until {
            tokio::select! {
                () = sleep(DRAIN_POLL) => {}
                () = urgent.wait(&mut self.stops) => now = true,
            }
        }
        if !registry.is_empty() {
            self.ending.kill();
            let until = Instant::now() + LAST_RESETS;
            while !registry.is_empty() && Instant::now() < until {
                sleep(DRAIN_POLL).await;
            }
        }
        // A connection that is still there is dropped with its thread, and counted by its guard.
        self.workers.stop();
        registry.settle();
        if let Some(upstream) = self.handles.upstreams.first() {
            upstream.hop_tasks.end().await;
        }
        self.core.shutdown().await;
        let cut = (metrics.sum(family::DRAIN_CUT.name) - cut_before) as u64;
        event!(
            events,
            INFO,
            "drain.end",
            "stopped",
            cut = cut,
            duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
        Ended { cut }
    }
}

/// Decides which stop ends a drain that is under way.
#[derive(Debug)]
struct Urgency {
    signals: u32,
    now: bool,
}

// === impl Urgency ===

impl Urgency {
    fn new(first: Stop) -> Self {
        let mut urgency = Self {
            signals: 0,
            now: false,
        };
        urgency.record(first);
        urgency
    }

    fn record(&mut self, stop: Stop) {
        match stop {
            Stop::Request => {}
            Stop::Signal => self.signals += 1,
            Stop::Now => self.now = true,
        }
    }

    fn is_now(&self) -> bool {
        self.now || self.signals > 1
    }

    /// Resolves when the drain is to end now. Cancel-safe: what was received is kept.
    async fn wait(&mut self, stops: &mut mpsc::UnboundedReceiver<Stop>) {
        while !self.is_now() {
            match stops.recv().await {
                Some(stop) => self.record(stop),
                // The handles hold a sender for as long as the drain runs.
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_after_a_request_is_the_first_one() {
        let mut urgency = Urgency::new(Stop::Request);
        urgency.record(Stop::Request);
        urgency.record(Stop::Signal);
        assert!(!urgency.is_now());
        urgency.record(Stop::Signal);
        assert!(urgency.is_now());
        assert!(Urgency::new(Stop::Now).is_now());
        let mut signalled = Urgency::new(Stop::Signal);
        signalled.record(Stop::Request);
        assert!(!signalled.is_now());
        signalled.record(Stop::Signal);
        assert!(signalled.is_now());
    }
}
