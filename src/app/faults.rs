//! The HTTP API that sets faults, and the listeners that it adds at run time.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::hops::HopTasks;
use super::upstream::{self, Shares, Upstream};
use super::{BoundListener, Config, UpstreamConfig};
use crate::admin::AdminBindError;
use crate::connection::{Registry, WhenAllDown};
use crate::dns::ResolverHandle;
use crate::drain::{self, DrainTrigger, DrainWatcher};
use crate::events::{Events, event};
use crate::faults::{Api, Engine, Listeners, Opened, Zones};
use crate::http::{self, HttpListener};
use crate::interference::Interference;
use crate::listener::{self, Accepting, Front, ListenerSettings, SocketSettings};
use crate::metrics::Metrics;
use crate::relay::RelayShared;
use crate::sandbox;
use crate::sandbox::port_owner;
use crate::settings::{FaultsSettings, Settings, UpstreamSettings};
use crate::sys::limits::DescriptorBudget;
use crate::types::{EndpointName, UpstreamName};
use crate::upstream::endpoint::{EndpointSpec, Role};
use crate::upstream::settings::ProbeKind;
use crate::workers::Dispatcher;

/// The longest body of a request: test suites populate many proxies at once.
const BODY_MAX: usize = 8 * 1024 * 1024;

/// How often the port is tried while the process that is replaced has it.
const REBIND: Duration = Duration::from_millis(100);

/// A port that is not let go for this long is said to be missing.
const SAID_AFTER: Duration = Duration::from_secs(5);

/// How long a listener that is closed may take to accept its queue empty.
const ENDING: Duration = Duration::from_secs(1);

/// The API, bound and not yet served.
#[derive(Debug)]
pub(super) struct BoundFaultsApi {
    /// `None` while the process that is replaced has the port.
    listener: Option<tokio::net::TcpListener>,
    address: SocketAddr,
}

/// The faults of a running instance. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub address: SocketAddr,
    pub engine: Engine,
}

/// What a drill is about.
pub(super) struct DrillGround {
    pub upstreams: Arc<[Upstream]>,
    pub resolver: ResolverHandle,
    pub interference: Interference,
}

/// Listeners that were added, each with an upstream of its own.
pub(super) struct AddedListeners {
    pub registry: Registry,
    pub metrics: Metrics,
    pub events: Events,
    pub dispatcher: Dispatcher,
    pub settings: Settings,
    pub relay: Arc<RelayShared>,
    pub budget: DescriptorBudget,
    pub added: Mutex<HashMap<String, AddedListener>>,
}

pub(super) struct AddedListener {
    /// The upstream with its tasks, which end with it.
    _upstream: (Arc<[Upstream]>, ResolverHandle, JoinSet<()>),
    stop: DrainTrigger,
}

/// Takes the port, where there is to be one. A process that replaces another one gets it when that one lets it go.
pub(super) fn bind(
    settings: &FaultsSettings,
    replaces: bool,
) -> Result<Option<BoundFaultsApi>, AdminBindError> {
    let bound = settings.bind.map(|address| match listen(address) {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            Ok(BoundFaultsApi {
                listener: Some(listener),
                address,
            })
        }
        Err(error) if replaces && error.kind() == std::io::ErrorKind::AddrInUse => {
            Ok(BoundFaultsApi {
                listener: None,
                address,
            })
        }
        Err(error) => Err(AdminBindError {
            what: "faults",
            address,
            error,
            holder: sandbox::port_owner(address),
        }),
    });
    bound.transpose()
}

fn say_listening(events: &Events, address: SocketAddr) {
    event!(
        events,
        INFO,
        "listener.up",
        "listening",
        name = "faults",
        address = %address,
    );
}

/// Takes the port when the process that is replaced lets it go: as soon as that one begins to drain. Where it does not,
/// that is said.
async fn take_over(address: SocketAddr, events: &Events) -> tokio::net::TcpListener {
    let began = Instant::now();
    let mut is_said = false;
    loop {
        let error = match listen(address) {
            Ok(listener) => return listener,
            Err(error) => error,
        };
        if began.elapsed() > SAID_AFTER && !is_said {
            is_said = true;
            let holder = port_owner(address).map(|holder| holder.to_string());
            event!(
                events,
                WARN,
                "listener.down",
                "the process that is replaced still holds the port of the faults API, which waits for it",
                name = "faults",
                error = %error,
                hint = holder,
            );
        }
        sleep(REBIND).await;
    }
}

fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

// === impl BoundFaultsApi ===

impl BoundFaultsApi {
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes every listener a proxy, and serves the API until the shutdown begins.
    pub(super) fn start(
        self,
        added: AddedListeners,
        drills: DrillGround,
        listeners: &[BoundListener],
        draining: DrainWatcher,
        tasks: &mut JoinSet<()>,
    ) -> Faults {
        let events = added.events.clone();
        if self.listener.is_some() {
            say_listening(&events, self.address);
        }
        let max_connections = added.budget.admin;
        let engine = Engine::new(
            added.registry.clone(),
            added.metrics.clone(),
            added.events.clone(),
            added.settings.faults.max_ttl,
            drills.interference.clone(),
            Box::new(added),
            Box::new(drills),
        );
        // A gateway opens no listener.
        for listener in listeners.iter().filter(|one| one.scheme == "http") {
            let listen = listener.addresses.first().map(SocketAddr::to_string);
            engine.add_configured(
                listener.name.as_str(),
                listen.unwrap_or_default(),
                listener.route.upstream.as_str(),
                &listener.route,
            );
        }
        tasks.spawn(engine.clone().run());
        let api = Api::new(engine.clone());
        let (listener, address) = (self.listener, self.address);
        tasks.spawn(async move {
            let listener = match listener {
                Some(listener) => listener,
                None => {
                    let listener = take_over(address, &events).await;
                    say_listening(&events, address);
                    listener
                }
            };
            let handler = move |request| {
                let api = api.clone();
                async move { api.answer(request).await }
            };
            let listener = HttpListener::Tcp(listener);
            http::serve(listener, max_connections, BODY_MAX, draining, handler).await;
        });
        Faults {
            address: self.address,
            engine,
        }
    }
}

// === impl DrillGround ===

impl Zones for DrillGround {
    fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let mut found = Vec::new();
        for upstream in self.upstreams.iter() {
            let snapshot = upstream.view.load();
            found.extend(snapshot.all().map(|(view, address)| {
                let endpoint = &view.endpoint;
                let zone = endpoint.zone().map(|zone| zone.to_string());
                let zone = zone.unwrap_or_else(|| endpoint.name().to_string());
                (zone, address.address.socket)
            }));
        }
        found
    }

    fn in_use(&self) -> Option<String> {
        let mut upstreams = self.upstreams.iter();
        upstreams.find_map(|upstream| upstream.view.load().active_zone.clone())
    }

    fn look_up(&self) {
        self.resolver.refresh_now();
    }
}

// === impl AddedListeners ===

impl Listeners for AddedListeners {
    fn open(&self, name: &str, listen: &str, target: &str) -> Result<Opened, String> {
        // Like Toxiproxy this accepts any target; connections to one that is not HOST:PORT find nothing to dial.
        let endpoint = target
            .rsplit_once(':')
            .and_then(|(host, port)| {
                Some((host, port.parse::<u16>().ok().filter(|port| *port > 0)?))
            })
            .map(|(host, port)| EndpointSpec {
                name: EndpointName::new(target),
                host: match host.trim_matches(['[', ']']) {
                    "" => "localhost".to_owned(),
                    host => host.to_owned(),
                },
                port,
                zone: None,
                role: Role::Configured,
                hop: None,
            });
        if endpoint.is_none() {
            event!(
                self.events,
                WARN,
                "fault.set",
                "the upstream of a proxy is not HOST:PORT: its connections will be closed",
                listener = name,
            );
        }
        let mut settings = UpstreamSettings {
            name: UpstreamName::new(name),
            ..UpstreamSettings::default()
        };
        settings.health.kind = ProbeKind::Off;
        let listener = ListenerSettings {
            name: name.to_owned(),
            bind: vec![listen.to_owned()],
            upstream: name.to_owned(),
            allow_remote: self.settings.listeners.iter().any(|one| one.allow_remote),
            when_all_down: WhenAllDown::Try,
            ..ListenerSettings::default()
        };
        let mut config = Config {
            settings: self.settings.clone(),
            upstreams: vec![UpstreamConfig {
                settings: settings.clone(),
                endpoints: endpoint.into_iter().collect(),
                system: None,
                region: None,
                notes: Vec::new(),
            }],
            binds_are_explicit: true,
        };
        config.settings.listeners = vec![listener.clone()];
        let sockets = SocketSettings {
            tcp: settings.tcp.options(),
            loopback_congestion: self.settings.runtime.loopback_congestion,
        };
        let bound = listener::bind(&listener, true, &sockets).map_err(|error| error.to_string())?;
        let address = bound.addresses().first().map(SocketAddr::to_string);
        let mut tasks = JoinSet::new();
        let (hop_tasks, run_hops) = HopTasks::new();
        tasks.spawn(run_hops);
        let shares = Shares::of(&self.budget);
        let upstream = Upstream::start(
            &config.upstreams[0],
            &config,
            bound.addresses(),
            &self.metrics,
            &self.events,
            &shares,
            &hop_tasks,
            // A drill is about the upstreams of the settings.
            &Interference::default(),
            &mut tasks,
        );
        let upstreams: Arc<[Upstream]> = Arc::new([upstream]);
        let resolver = upstream::resolve(
            &upstreams,
            config.settings.dns.clone(),
            &shares,
            self.metrics.clone(),
            self.events.clone(),
            Interference::default(),
            &mut tasks,
        );
        let context = upstreams[0].route(
            &listener,
            &self.registry,
            &self.relay,
            &self.metrics,
            &self.events,
        );
        let (stop, stopped) = drain::channel();
        let (accepts, begin) = drain::channel();
        accepts.fire();
        listener::Listener::start(
            bound,
            Arc::clone(&context),
            &self.dispatcher,
            self.budget,
            &self.metrics,
            Front::new(
                listener.front,
                &listener.front_allow,
                upstreams[0].front_names(),
                name,
                &self.metrics,
            ),
            Accepting {
                begin,
                stop: stopped,
            },
        );
        let added = AddedListener {
            _upstream: (upstreams, resolver, tasks),
            stop,
        };
        lock(&self.added).insert(name.to_owned(), added);
        Ok(Opened {
            listen: address.unwrap_or_default(),
            context,
        })
    }

    fn close<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let Some(mut added) = lock(&self.added).remove(name) else {
                return;
            };
            added.stop.fire();
            let _ = timeout(ENDING, added.stop.finished()).await;
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
