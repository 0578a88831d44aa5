//! The gateway at work: listening sockets, accepted peers, and files that change.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::authority::Routes;
use super::handshake::{HandshakeRefused, Handshakes, Peer};
use super::metrics::GatewayMetrics;
use super::peers::Peers;
use super::request;
use super::settings::GatewaySettings;
use super::shared::Shared;
use crate::connection::{Home, ListenerContext, Registry};
use crate::drain::DrainWatcher;
use crate::events::{Events, event};
use crate::metrics::Metrics;
use crate::tls::reload::CertificateReloader;
use crate::tls::{self, ServerFiles};
use crate::workers::Dispatcher;

/// How often the files are looked at; a change is in force, and refused clients closed, within 5 s.
const FILE_CHECK: Duration = Duration::from_secs(1);

/// Pause after an error of accept: the first, and the longest.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What a gateway is started with.
#[derive(Debug)]
pub struct GatewayConfig {
    pub settings: GatewaySettings,
    pub files: ServerFiles,
    pub sockets: Vec<TcpListener>,
    /// One per upstream, in the order of `routes`.
    pub contexts: Vec<Arc<ListenerContext>>,
    pub routes: Routes,
    pub registry: Registry,
    pub max_connections: usize,
    /// What the limit of open files allows, whatever the settings ask for.
    pub max_handshakes: usize,
    pub dispatcher: Dispatcher,
    /// Fires when the gateway must stop listening. A blocker holds it up until the sockets are closed.
    pub stop: DrainWatcher,
}

/// A running gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
}

/// Reads the certificate files and starts accepting. The tasks end when `stop` fires; connections go on.
pub fn start(
    config: GatewayConfig,
    metrics: &Metrics,
    events: &Events,
) -> Result<Gateway, tls::Error> {
    let tls = CertificateReloader::new(config.files)?;
    let shared = Arc::new(Shared {
        settings: ArcSwap::from_pointee(config.settings),
        routes: ArcSwap::from_pointee(config.routes),
        contexts: config.contexts,
        registry: config.registry,
        max_connections: config.max_connections,
        max_handshakes: config.max_handshakes,
        metrics: GatewayMetrics::new(metrics),
        events: events.clone(),
        peers: Peers::default(),
        stop: config.stop,
        tls,
        handshakes: Handshakes::default(),
        dispatcher: config.dispatcher,
        next_thread: AtomicUsize::new(0),
    });
    shared.show_expiries();
    for socket in config.sockets {
        let shared = Arc::clone(&shared);
        let blocker = shared.stop.blocker();
        shared.dispatcher.clone().run_on(FIRST, move || async move {
            let _blocker = blocker;
            shared.accept_from(socket).await;
        });
    }
    Ok(Gateway { shared })
}

/// The data thread of the accept loops.
const FIRST: usize = 0;

// === impl Gateway ===

impl Gateway {
    /// Looks after the files until the gateway ends: reads them again when they change.
    pub async fn watch_files(self) {
        let mut ticks = interval(FILE_CHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.in_background(CertificateReloader::reload_if_changed)
                .await;
        }
    }

    /// Reads the files again, changed or not, and takes over settings and routes that a reload may change.
    pub async fn reload(&self, settings: GatewaySettings, routes: Routes) {
        self.shared.settings.store(Arc::new(settings));
        self.shared.routes.store(Arc::new(routes));
        self.in_background(|tls| Some(tls.reload())).await;
    }

    /// Files may be slow (a network file system): they are read on a thread that nothing else waits for.
    async fn in_background(
        &self,
        read: impl FnOnce(&CertificateReloader) -> Option<Result<(), tls::Error>> + Send + 'static,
    ) {
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || {
            if let Some(outcome) = read(&shared.tls) {
                shared.files_read(outcome);
            }
        });
        // It is only cancelled when the process ends.
        let _ = read.await;
    }
}

// === impl Shared ===

impl Shared {
    fn files_read(&self, outcome: Result<(), tls::Error>) {
        if let Err(error) = outcome {
            event!(
                self.events,
                ERROR,
                "config.reload",
                "certificate files are invalid; the previous ones stay in use",
                error = %error,
            );
            return;
        }
        self.show_expiries();
        let closed = self.peers.recheck(&self.tls.current(), &self.registry);
        event!(
            self.events,
            INFO,
            "config.reload",
            "certificate files read again",
            revoked_connections = closed,
        );
    }

    fn show_expiries(&self) {
        for (file, at) in &self.tls.current().expiries {
            self.metrics.expiry(file, *at);
        }
    }

    async fn accept_from(self: Arc<Self>, socket: TcpListener) {
        let registered = socket
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(socket));
        let listener = match registered {
            Ok(listener) => listener,
            Err(error) => return self.accept_failed(&error),
        };
        let mut stop = self.stop.clone();
        let mut pause = ACCEPT_PAUSE.0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.fired() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted.and_then(|(stream, client)| Ok((stream.into_std()?, client))) {
                Ok((stream, client)) => {
                    pause = ACCEPT_PAUSE.0;
                    self.spread(stream, client);
                }
                Err(error) => {
                    self.accept_failed(&error);
                    tokio::select! {
                        () = stop.fired() => return,
                        () = sleep(pause) => {}
                    }
                    pause = (pause * 2).min(ACCEPT_PAUSE.1);
                }
            }
        }
    }

    /// Each peer is served on the next data thread: handshakes are the larger part of the work.
    fn spread(self: &Arc<Self>, stream: std::net::TcpStream, client: SocketAddr) {
        let turn = self.next_thread.fetch_add(1, Relaxed);
        let thread = self.dispatcher.responsive_from(turn);
        let (shared, home) = (Arc::clone(self), self.dispatcher.home(thread));
        self.dispatcher.run_on(thread, move || async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                shared.serve(stream, client, home).await;
            }
        });
    }

    /// `home`: the thread that it runs on.
    async fn serve(self: Arc<Self>, stream: TcpStream, client: SocketAddr, home: Arc<Home>) {
        let _ = stream.set_nodelay(true);
        let (limit, time) = {
            let settings = self.settings.load();
            let most = settings.max_handshakes.min(self.max_handshakes);
            (most, settings.handshake_timeout)
        };
        let tls = self.tls.current();
        let ticket = self.handshakes.enter(limit);
        let Some(outcome) = ticket.accept(stream, &tls, time).await else {
            return;
        };
        self.log_handshake(&outcome, client);
        if let Ok(peer) = outcome {
            request::serve(peer, ticket, tls, client, home, Arc::clone(&self)).await;
        }
    }

    fn log_handshake(&self, outcome: &Result<Peer, HandshakeRefused>, client: SocketAddr) {
        match outcome {
            Ok(peer) => {
                self.metrics.handshake("ok");
                event!(
                    self.events,
                    DEBUG,
                    "gateway.handshake",
                    "accepted",
                    result = "ok",
                    tls.identity = peer.identity.as_str(),
                    client.address = %client.ip(),
                    client.port = client.port(),
                );
            }
            Err(refused) => {
                self.metrics.handshake(refused.label);
                event!(
                    self.events,
                    INFO,
                    "gateway.handshake",
                    "refused",
                    result = refused.label,
                    error = refused.error.as_str(),
                    client.address = %client.ip(),
                    client.port = client.port(),
                );
            }
        }
    }

    /// The ways to all upstreams lack the same, so that one of them says it.
    fn accept_failed(&self, error: &io::Error) {
        if let Some(way) = self.contexts.first() {
            way.accept_failed(error);
        }
    }
}
