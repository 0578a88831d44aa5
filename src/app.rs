//! How the parts live and end: everything that runs is started here, and joined here, in one order.
//!
//! [`bind`] takes the ports, [`start`] gives everything its task, [`App::run`] waits for the stop and takes it all down
//! in the order of ARCHITECTURE.md. Which parts there are is `assemble`'s business.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::clock::{self, Moment};
use crate::connection::Registry;
use crate::dial::{self, SpareLimit};
use crate::dns::ResolverHandle;
use crate::events::Event;
use crate::events::Events;
use crate::life::{Startup, Trigger, Watch, trigger};
use crate::listener::{self, BindError, Bound, Listener as RunningListener, SocketSettings};
use crate::metrics::{Metrics, family};
use crate::relay::{Counters, TcpSettings};
use crate::settings::{Settings, UpstreamSettings};
use crate::supervisor::{self, Ending};
use crate::sys::limits::{self, DescriptorBudget};
use crate::sys::pipe::PipeLimits;
use crate::types::UpstreamName;
use crate::upstream::endpoint::EndpointSpec;
use crate::workers::{Dispatcher, Workers};

pub use upstream::Upstream;

mod listeners;
mod numbers;
mod reload;
mod upstream;

pub use listeners::Listener;

/// How often the control runtime shows that it is alive.
const BEAT: Duration = Duration::from_secs(1);

/// How often a drain looks whether it is over.
const LOOK: Duration = Duration::from_millis(10);

/// What the end of the last connections may take beyond `max_delay`: their resets are sent by the data threads.
const LAST_RESETS: Duration = Duration::from_millis(200);

/// One upstream, as a recipe made it.
#[derive(Clone, Debug)]
pub struct UpstreamPart {
    /// Its settings.
    pub settings: UpstreamSettings,
    /// Its endpoints.
    pub endpoints: Vec<EndpointSpec>,
    /// The Datomic system, where told.
    pub system: Option<String>,
    /// The region, where told.
    pub region: Option<String>,
    /// What is worth knowing about this way in.
    pub notes: Vec<String>,
}

/// Which parts there are.
#[derive(Clone, Debug)]
pub struct Parts {
    /// All settings.
    pub settings: Settings,
    /// One per upstream of the settings, in their order.
    pub upstreams: Vec<UpstreamPart>,
    /// Whether the bind addresses were asked for (else a missing `::1` is no error).
    pub listen_asked: bool,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Where everything is told.
    pub events: Events,
}

/// All listeners, bound: clients are queued from here on.
#[derive(Debug)]
pub struct Bindings {
    bound: Vec<Bound>,
}

/// What wants the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Drain; a second one is [`Stop::Now`].
    Drain,
    /// At once.
    Now,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Connections that had to be reset.
    pub cut: u64,
}

/// The running parts, to look at and to steer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handles {
    /// The listeners, in the order of the settings.
    pub listeners: Arc<[Listener]>,
    /// The upstreams, in the order of the settings.
    pub upstreams: Arc<[Upstream]>,
    /// All live connections.
    pub registry: Registry,
    /// Every series.
    pub metrics: Metrics,
    /// Every event.
    pub events: Events,
    /// Start-up tasks that are not done.
    pub startup: Startup,
    /// Fires when the shutdown begins.
    pub draining: Watch,
    /// Connections at once, over all listeners.
    pub max_connections: usize,
    /// When it was started.
    pub started: Moment,
    resolver: ResolverHandle,
    beat: Arc<AtomicU64>,
    dispatcher: Dispatcher,
    stops: mpsc::UnboundedSender<Stop>,
}

/// Everything that runs. Dropping it without [`App::run`] ends everything at once.
#[derive(Debug)]
pub struct App {
    handles: Handles,
    stops: mpsc::UnboundedReceiver<Stop>,
    shutdown: crate::settings::ShutdownSettings,
    draining: Trigger,
    listeners: Trigger,
    ending: Ending,
    workers: Workers,
    /// Probes, resolver, actors, sweep, spares.
    tasks: JoinSet<()>,
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No threads.
    #[error("start the data threads: {0}")]
    Workers(#[source] io::Error),
}

/// Binds every listener.
pub fn bind(parts: &Parts) -> Result<Bindings, Error> {
    let settings = &parts.settings;
    let mut bound = Vec::new();
    for listener in &settings.listeners {
        let tcp = settings
            .upstreams
            .iter()
            .find(|upstream| upstream.name.as_str() == listener.upstream);
        let sockets = SocketSettings {
            tcp: tcp.map_or_else(
                || TcpSettings::default().options(),
                |upstream| upstream.tcp.options(),
            ),
            loopback_congestion: settings.runtime.loopback_congestion,
        };
        let one = listener::bind(listener, parts.listen_asked, &sockets)?;
        for (address, error) in &one.missing {
            let event = Event::warn(
                "listener.up",
                "default address not available on this host; skipping it",
            )
            .with("error", error.to_string());
            parts.events.emit(
                event
                    .with("name", listener.name.clone())
                    .with("address", address.to_string()),
            );
        }
        bound.push(one);
    }
    Ok(Bindings { bound })
}

/// Starts everything, on the runtime that calls it (the control runtime). `own`: further addresses of ours, which are
/// never dialled.
pub fn start(parts: Parts, bindings: Bindings, own: &[SocketAddr]) -> Result<App, Error> {
    let Parts {
        settings,
        metrics,
        events,
        ..
    } = &parts;
    let workers = settings
        .runtime
        .workers
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, usize::from);
    let spares = settings
        .upstreams
        .iter()
        .map(|upstream| upstream.warm.spares);
    let budget = DescriptorBudget::of_process(workers, spares.sum());
    say_what_the_limit_allows(&budget, events);
    let workers = Workers::start(workers).map_err(Error::Workers)?;
    let startup = Startup::default();
    let pending = startup.register("listeners");
    let registry = Registry::default();
    let counters = Arc::new(Counters::new(
        PipeLimits::of_this_machine().at_most(budget.pipes),
    ));
    let own: Vec<SocketAddr> = bindings.addresses().chain(own.iter().copied()).collect();

    let mut tasks = JoinSet::new();
    let (upstreams, resolver) = observe(&parts, &own, &SpareLimit::new(budget.spares), &mut tasks);
    let swept = upstreams.iter().map(Upstream::swept).collect();
    for upstream in upstreams.iter() {
        tasks.spawn(dial::keep_preconnected(
            Arc::clone(&upstream.dialer),
            upstream.view.clone(),
        ));
    }
    let (sweep, ending) = supervisor::sweep(
        registry.clone(),
        swept,
        Arc::clone(&counters),
        metrics,
        events,
    );
    tasks.spawn(sweep.run());

    let (listener_trigger, listener_watch) = trigger();
    let mut listeners = Vec::new();
    for (bound, listener) in bindings.bound.into_iter().zip(&settings.listeners) {
        let upstream = upstream_of(&upstreams, &listener.upstream);
        let route = upstream.route(listener, &registry, &counters, metrics, events);
        let addresses = bound.addresses().to_vec();
        let shortage = RunningListener::start(
            bound,
            Arc::clone(&route),
            workers.dispatcher(),
            budget,
            metrics,
            listener_watch.clone(),
        );
        listeners.push(Listener {
            addresses,
            route,
            shortage,
        });
    }
    drop(pending);
    numbers::say_what_runs(metrics, workers.dispatcher().threads());

    let (draining_trigger, draining) = trigger();
    let (stops, wanted) = mpsc::unbounded_channel();
    let beat = Arc::new(AtomicU64::new(clock::now().as_millis()));
    tasks.spawn(keep_beating(
        Arc::clone(&beat),
        workers.dispatcher().clone(),
    ));
    let handles = Handles {
        listeners: listeners.into(),
        upstreams,
        registry,
        metrics: metrics.clone(),
        events: events.clone(),
        startup,
        draining,
        max_connections: budget.max_connections,
        started: clock::now(),
        resolver,
        beat,
        dispatcher: workers.dispatcher().clone(),
        stops,
    };
    Ok(App {
        handles,
        stops: wanted,
        shutdown: settings.shutdown.clone(),
        draining: draining_trigger,
        listeners: listener_trigger,
        ending,
        workers,
        tasks,
    })
}

/// Starts what looks at the upstreams (resolver, probes, pools) and nothing that serves: for [`start`], and for whoever
/// only wants to know.
pub fn observe(
    parts: &Parts,
    own: &[SocketAddr],
    spare_limit: &SpareLimit,
    tasks: &mut JoinSet<()>,
) -> (Arc<[Upstream]>, ResolverHandle) {
    let upstreams: Arc<[Upstream]> = parts
        .upstreams
        .iter()
        .map(|part| Upstream::start(part, parts, own, spare_limit, tasks))
        .collect();
    let resolver = upstream::resolve(&upstreams, parts.settings.dns.clone(), tasks);
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
fn say_what_the_limit_allows(budget: &DescriptorBudget, events: &Events) {
    if budget.max_connections >= limits::FEW_CONNECTIONS {
        return;
    }
    let text = format!(
        "{} open files allow {} connections at once",
        budget.descriptors, budget.max_connections
    );
    let hint = "raise the limit of open files (RLIMIT_NOFILE, LimitNOFILE, ulimits)";
    events.emit(Event::warn("resource", text).with("hint", hint));
}

async fn keep_beating(beat: Arc<AtomicU64>, dispatcher: Dispatcher) {
    loop {
        dispatcher.ping();
        beat.store(clock::now().as_millis(), Relaxed);
        sleep(BEAT).await;
    }
}

// === impl Bindings ===

impl Bindings {
    /// Every address that clients can connect to, listener by listener.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.bound
            .iter()
            .flat_map(|bound| bound.addresses().iter().copied())
    }
}

// === impl App ===

impl App {
    /// To look at it and to steer it.
    pub fn handles(&self) -> &Handles {
        &self.handles
    }

    /// Runs until a stop is wanted, then takes everything down in the order of ARCHITECTURE.md (contract sections 1
    /// and 7.7). Services that watch the end, admin above all, end after this.
    pub async fn run(mut self) -> Ended {
        let first = self.stops.recv().await.unwrap_or(Stop::Now);
        let began = Instant::now();
        let Handles {
            events,
            metrics,
            registry,
            ..
        } = self.handles.clone();
        self.draining.fire();
        metrics.gauge(&family::DRAINING, &[]).set(1.0);
        events
            .emit(Event::info("drain.start", "shutting down").with("connections", registry.len()));
        let cut = metrics.counter(&family::DRAIN_CUT, &[]);
        let cut_before = cut.get();

        let mut now = first == Stop::Now;
        if !now && !self.shutdown.min_delay.is_zero() {
            now = timeout(self.shutdown.min_delay, self.stops.recv())
                .await
                .is_ok();
        }
        self.listeners.fire();
        self.listeners.finished().await;
        let left = self.shutdown.max_delay.saturating_sub(began.elapsed());
        self.ending.drain(left);
        let until = Instant::now() + left + LAST_RESETS;
        while !now && !registry.is_empty() && Instant::now() < until {
            tokio::select! {
                () = sleep(LOOK) => {}
                _again = self.stops.recv() => now = true,
            }
        }
        if !registry.is_empty() {
            self.ending.kill();
            let until = Instant::now() + LAST_RESETS;
            while !registry.is_empty() && Instant::now() < until {
                sleep(LOOK).await;
            }
        }
        // A connection that is still there is dropped with its thread, and counted by its guard.
        self.workers.stop();
        registry.settle();
        self.tasks.shutdown().await;
        let cut = cut.get() - cut_before;
        let end = Event::info("drain.end", "stopped").with("cut", cut);
        events.emit(end.with(
            "duration_ms",
            u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        ));
        Ended { cut }
    }
}
