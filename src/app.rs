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
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::admin::registration::Registered;
use crate::admin::{self, AdminBindError, AdminListeners, BindOptions};
use crate::clock::{self, Moment};
use crate::connection::{ListenerContext, Registry};
use crate::dial;
use crate::dns::ResolverHandle;
use crate::drain::{self, DrainTrigger, DrainWatcher};
use crate::events::{Events, Log, event};
use crate::interference::Interference;
use crate::listener::{
    Accepting, BindError, Bound, Front, Listener as RunningListener, SocketControl,
};
use crate::metrics::Metrics;
use crate::metrics::emf::EmfWriter;
use crate::network;
use crate::readiness::Readiness;
use crate::relay::RelayShared;
use crate::sandbox;
use crate::settings::{Loaded, ShutdownSettings};
use crate::supervisor::{self, ShutdownControl};
use crate::suspend;
use crate::sys::limits::DescriptorBudget;
use crate::sys::pipe::PipeLimits;
use crate::sys::process::{Inherited, PassedSocket};
use crate::types::{ListenerName, UpstreamName};
use crate::workers::{Dispatcher, Workers};
use backend::AdminBackend;
use hops::HopTasks;
use shutdown::DRAIN_POLL;
use systemd::Notifier;
use upgrade::{Lineage, Promise};

pub use config::{Config, UpstreamConfig};
#[cfg(feature = "gateway")]
pub use gateway::wrong_gateway_files;
pub use reload::{ReloadError, Reloader};
pub use systemd::SocketError;
pub use upgrade::{Handover, News, UpgradeRequest, Upgrader};
pub use upstream::{Shares, TargetNames, Upstream};

mod backend;
mod bind;
mod config;
mod descriptors;
#[cfg(feature = "faults")]
mod faults;
#[cfg(feature = "gateway")]
mod gateway;
mod hops;
mod instance_metrics;
mod loops;
mod own_zone;
mod reload;
mod shutdown;
mod systemd;
mod upgrade;
mod upstream;
mod wake;

/// How often the control runtime records that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A process that replaces another waits this long for its first probes.
const FIRST_ROUND: Duration = Duration::from_secs(1);

/// How long admin answers under way may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Who asks for the end. A signal after a request counts as the first one; only a second signal ends the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopRequest {
    /// `entryway shutdown` or the admin API: drain. Repeating it changes nothing.
    Request,
    /// A signal: drain; the second one ends the drain.
    Signal,
    /// End now.
    Now,
    /// Another process has taken over: drain, for as long as it takes or for this long.
    Replaced { max_drain: Option<Duration> },
}

/// The outcome of [`App::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownOutcome {
    /// Connections that were reset because the drain was over.
    pub cut: u64,
    /// Another process has taken over.
    pub is_replaced: bool,
}

/// What this process gets from whoever has started it.
#[derive(Debug, Default)]
pub struct StartContext {
    /// From a service manager.
    pub passed: Vec<PassedSocket>,
    /// From the process that this one replaces.
    pub handover: Option<Handover>,
    /// The state that a process started by us is to get back.
    pub process: Option<Inherited>,
    /// Client commands are not to find it: it belongs to the command that has started it.
    pub is_private: bool,
}

/// A listener with its bound addresses.
#[derive(Clone, Debug)]
pub struct BoundListener {
    pub name: ListenerName,
    pub addresses: Vec<SocketAddr>,
    /// What its connections share.
    pub route: Arc<ListenerContext>,
    /// Its sockets' options; a gateway's are its own.
    pub options: Option<SocketControl>,
    /// Of the URL to paste.
    pub scheme: &'static str,
}

/// The running parts: to read their state and to steer them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handles {
    /// In the order of the settings, as the upstreams.
    pub listeners: Arc<[BoundListener]>,
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
    /// Replaces this process by another one.
    pub upgrader: Upgrader,
    #[cfg(feature = "gateway")]
    gateway: Option<crate::gateway::Gateway>,
    #[cfg(feature = "faults")]
    faults: Option<faults::Faults>,
    resolver: ResolverHandle,
    heartbeat: Arc<AtomicU64>,
    dispatcher: Dispatcher,
    stops: mpsc::UnboundedSender<StopRequest>,
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
    max_admin: usize,
    stops: mpsc::UnboundedReceiver<StopRequest>,
    draining: DrainTrigger,
    listeners: DrainTrigger,
    ending: ShutdownControl,
    workers: Workers,
    /// Probes, resolver, upstreams, supervisor, spares.
    core: JoinSet<()>,
    notifier: Notifier,
    /// Where this process replaces another one.
    promise: Option<Promise>,
    /// Lets the listeners begin.
    accepting: DrainTrigger,
    /// Services that end when another process has taken over.
    until_replaced: Vec<AbortHandle>,
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
    /// The settings want other listen addresses than the process that is replaced has.
    #[error("{0}")]
    OtherPorts(String),
    #[error("take over from the old process: {0}")]
    Handover(#[source] io::Error),
    #[error("keep copies of the admin sockets for an upgrade: {0}")]
    AdminCopies(#[source] io::Error),
    #[error("start the worker threads: {0}")]
    Workers(#[source] io::Error),
    #[cfg(feature = "gateway")]
    #[error(transparent)]
    Tls(#[from] crate::tls::Error),
    #[error(transparent)]
    Admin(#[from] AdminBindError),
}

/// Takes the ports and starts everything, on the runtime that calls it (the control runtime).
pub fn start(loaded: Loaded, log: Log) -> Result<App, Error> {
    start_with(loaded, log, StartContext::default())
}

/// The same with what this process got from whoever has started it.
pub fn start_with(loaded: Loaded, log: Log, origin: StartContext) -> Result<App, Error> {
    let StartContext {
        passed,
        mut handover,
        process,
        is_private,
    } = origin;
    let (metrics, events) = (Metrics::default(), Events::new(log));
    event!(
        events,
        INFO,
        "start",
        "entryway starts",
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
    );
    let sandbox = sandbox::status();
    event!(
        events,
        INFO,
        "sandbox",
        match sandbox.on {
            true => "this process reads and starts what its settings name, and no more",
            false => "this process is not restricted",
        },
        on = sandbox.on,
        reason = sandbox.reason,
        landlock = sandbox.landlock,
        files = sandbox.files.len(),
        programs = sandbox.programs.len(),
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
    let bound = bind::bind(&config, passed, handover.as_mut(), &events)?;
    let listener_port = bound
        .iter()
        .flat_map(Bound::addresses)
        .next()
        .map_or(0, SocketAddr::port);
    let asked = BindOptions {
        bind: loaded.admin_asked_for,
        listener_port,
    };
    let inherited = handover.as_mut().map(Handover::admin).unwrap_or_default();
    let admin = admin::open(&loaded.settings.admin, asked, inherited, &events)?;
    // Before the threads, which take what descriptors there are.
    let admin_copies = admin.copies().map_err(Error::AdminCopies)?;
    let (lineage, promise) = match handover {
        None => (Lineage::first(), None),
        Some(handover) => {
            let (lineage, promise) = handover.split().map_err(Error::Handover)?;
            (lineage, Some(promise))
        }
    };
    #[cfg(feature = "faults")]
    let faults = faults::bind(&loaded.settings.faults, promise.is_some())?;
    let own = bound
        .iter()
        .flat_map(Bound::addresses)
        .copied()
        .chain(admin.addresses());
    #[cfg(feature = "faults")]
    let own = own.chain(faults.as_ref().map(faults::BoundFaultsApi::address));
    let own: Vec<SocketAddr> = own.collect();
    let settings = &config.settings;
    let workers = settings.runtime.worker_threads();
    let budget = DescriptorBudget::of_process(&settings.descriptor_use());
    descriptors::warn_about_few_connections(&budget, &events);
    let workers = Workers::start(workers).map_err(Error::Workers)?;
    let readiness = Readiness::default();
    let listening = readiness.register("listeners");
    let registry = Registry::default();
    let counters = Arc::new(RelayShared::new(
        PipeLimits::of_this_machine().at_most(budget.pipes),
    ));
    let mut core = JoinSet::new();
    let interference = Interference::default();
    let (upstreams, resolver) = observe(
        &config,
        &own,
        &metrics,
        &events,
        &Shares::of(&budget),
        &interference,
        &mut core,
    );
    for upstream in upstreams.iter() {
        core.spawn(dial::keep_preconnected(
            Arc::clone(&upstream.dialer),
            upstream.view.clone(),
        ));
    }
    let supervised = upstreams.iter().map(Upstream::supervised).collect();
    let (sweep, ending) = supervisor::new(
        registry.clone(),
        supervised,
        Arc::clone(&counters),
        &metrics,
        &events,
    );
    core.spawn(sweep.run());
    let (listener_trigger, listener_watcher) = drain::channel();
    let (accepting, accept_watcher) = drain::channel();
    if promise.is_none() {
        accepting.fire();
    }
    let mut open_sockets = Vec::new();
    let mut listeners: Vec<BoundListener> = Vec::new();
    let mut bound = bound.into_iter();
    for (listener, bound) in settings.listeners.iter().zip(bound.by_ref()) {
        let upstream = upstream_of(&upstreams, &listener.upstream);
        let route = upstream.route(listener, &registry, &counters, &metrics, &events);
        let addresses = bound.addresses().to_vec();
        let is_managed = bound.is_managed();
        let running = RunningListener::start(
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
            Accepting {
                begin: accept_watcher.clone(),
                stop: listener_watcher.clone(),
            },
        );
        open_sockets.push((listener.name.clone(), is_managed, running.sockets));
        listeners.push(BoundListener {
            name: ListenerName::new(&listener.name),
            addresses,
            route,
            options: Some(running.options),
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
                budget,
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
    for listener in &listeners {
        core.spawn(Arc::clone(&listener.route).show_endpoints());
    }
    drop(listening);
    instance_metrics::init(&metrics, workers.dispatcher().threads());
    let (draining, draining_watcher) = drain::channel();
    let (stops_sender, stops) = mpsc::unbounded_channel();
    #[cfg(feature = "gateway")]
    let is_gateway = gateway.is_some();
    #[cfg(not(feature = "gateway"))]
    let is_gateway = false;
    let upgrader = Upgrader::new(upgrade::Parts {
        lineage,
        listeners: open_sockets,
        admin: admin_copies,
        inherited: process,
        stops: stops_sender.clone(),
        draining: draining_watcher.clone(),
        events: events.clone(),
        unsupported: is_gateway.then_some("a gateway cannot be replaced in place; restart it"),
    });
    let heartbeat = Arc::new(AtomicU64::new(clock::now().as_millis()));
    core.spawn(keep_beating(
        Arc::clone(&heartbeat),
        workers.dispatcher().clone(),
    ));
    let mut services = JoinSet::new();
    #[cfg(feature = "faults")]
    let faults = faults.map(|bound| {
        let added = faults::AddedListeners {
            registry: registry.clone(),
            metrics: metrics.clone(),
            events: events.clone(),
            dispatcher: workers.dispatcher().clone(),
            settings: settings.clone(),
            relay: Arc::clone(&counters),
            budget,
            added: Default::default(),
        };
        let drills = faults::DrillGround {
            upstreams: Arc::clone(&upstreams),
            resolver: resolver.clone(),
            interference: interference.clone(),
        };
        bound.start(
            added,
            drills,
            &listeners,
            draining_watcher.clone(),
            &mut services,
        )
    });
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
        upgrader,
        #[cfg(feature = "gateway")]
        gateway,
        #[cfg(feature = "faults")]
        faults,
        resolver,
        heartbeat,
        dispatcher: workers.dispatcher().clone(),
        stops: stops_sender,
        diverted: Arc::default(),
    };

    let woken = handles.clone();
    services.spawn(async move {
        match suspend::watch(&interference, |interruption| woken.woke(interruption)).await {}
    });
    let moved = handles.clone();
    services.spawn(async move {
        // Where the system does not tell, regular probes find out.
        let _ = network::watch(|| moved.network_changed()).await;
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
    let mut until_replaced = Vec::new();
    until_replaced.push(services.spawn(async move {
        if !is_private && let Err(error) = admin::registration::register(registered).await {
            event!(
                events,
                DEBUG,
                "start",
                "not registered for client commands",
                error = %error,
            );
        }
    }));
    let notifier = Notifier::from_env(|name| std::env::var_os(name));
    until_replaced.push(services.spawn(notifier.clone().keep_reporting(handles.clone())));
    Ok(App {
        reloader: Reloader::new(handles.clone(), loaded.clone(), notifier.clone()),
        notifier,
        promise,
        accepting,
        until_replaced,
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

/// Starts what watches the upstreams (resolver, probes, health) and nothing that serves connections: for [`start`], and
/// for commands that only report. `own`: addresses of ours, which are never dialled.
pub fn observe(
    config: &Config,
    own: &[SocketAddr],
    metrics: &Metrics,
    events: &Events,
    shares: &Shares,
    interference: &Interference,
    tasks: &mut JoinSet<()>,
) -> (Arc<[Upstream]>, ResolverHandle) {
    let (hop_tasks, run_hops) = HopTasks::new();
    tasks.spawn(run_hops);
    let upstreams: Arc<[Upstream]> = config
        .upstreams
        .iter()
        .map(|upstream| {
            Upstream::start(
                upstream,
                config,
                own,
                metrics,
                events,
                shares,
                &hop_tasks,
                interference,
                tasks,
            )
        })
        .collect();
    let resolver = upstream::resolve(
        &upstreams,
        config.settings.dns.clone(),
        shares,
        metrics.clone(),
        events.clone(),
        interference.clone(),
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
    pub async fn run(mut self) -> ShutdownOutcome {
        let upgrader = self.handles.upgrader.clone();
        let mut promise = self.promise.take();
        if let Some(promise) = &mut promise {
            self.get_ready(promise).await;
        }
        self.accepting.fire();
        let (admin_stop, admin_watcher) = drain::channel();
        upgrader.set_admin_stop(admin_stop);
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
        match promise {
            Some(promise) => self.take_over(promise).await,
            None => self.notifier.ready(),
        }
        let first = self.stops.recv().await.unwrap_or(StopRequest::Now);
        if matches!(first, StopRequest::Replaced { .. }) {
            self.until_replaced.iter().for_each(AbortHandle::abort);
        } else {
            self.notifier.stopping();
        }
        let ended = self.drain(first).await;
        upgrader.stop_admin();
        services.shutdown().await;
        // Answers under way may finish; one that hangs does not hold up the end.
        let _ = timeout(LAST_ANSWERS, admin).await;
        upgrader.drained();
        event!(events, INFO, "stop", "entryway ends", cut = ended.cut);
        ended
    }

    /// Waits for the first probes, and for the permission of the process that this one replaces.
    async fn get_ready(&self, promise: &mut Promise) {
        let probed = async {
            let is_done = |upstream: &Upstream| upstream.view.load().first_round_done;
            while !self.handles.upstreams.iter().all(is_done) {
                sleep(DRAIN_POLL).await;
            }
        };
        let _ = timeout(FIRST_ROUND, probed).await;
        if let Err(error) = promise.ready().await {
            event!(
                self.handles.events,
                WARN,
                "upgrade",
                "the process that this one replaces does not answer; taking over without it",
                error = %error,
            );
        }
    }

    /// This process serves from now on.
    async fn take_over(&self, promise: Promise) {
        let upgrader = &self.handles.upgrader;
        self.notifier.ready_instead();
        upgrader.tell_first(&News::Serves(std::process::id()));
        let settings = self.reloader.current().effective().clone();
        let changed = promise.serving(&settings).await.join(" ");
        let changed = Some(changed).filter(|changed| !changed.is_empty());
        event!(
            self.handles.events,
            INFO,
            "upgrade",
            "this process has taken over",
            generation = upgrader.generation(),
            changed = changed,
        );
    }
}
