//! Listeners: where clients connect.
//!
//! A [`Listener`] owns its sockets from [`bind`] (apart from running, so that clients are queued before anything else
//! is known) to their closing for a drain or in mode `refuse`, and enforces the connection limits. It accepts on the
//! first two data threads ([`accept_loop`]) and hands each connection to the data thread that `workers` chooses. What
//! happens on a connection afterwards is decided in `connection`.
//!
//! Whoever is connected when the sockets are closed is served: the queues are accepted empty first.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;

use accept_loop::AcceptLoops;
pub use bind::{BindError, Bound, ListenerSettings, SocketSettings, adopt, bind};
use bind::{is_inherited, listen};
pub use front::{Front, FrontKind, FrontNames};
use rejections::Rejections;

use crate::connection::{ListenerContext, WhenAllDown};
use crate::drain::DrainWatcher;
use crate::events::event;
use crate::metrics::{Gauge, Metrics, family};
use crate::sys::limits::DescriptorBudget;
use crate::sys::socket::{self, TcpOptions, drop_new_syns};
use crate::upstream::snapshot::ProbeMode;
use crate::workers::{ConnectionHandler, Dispatcher};

pub mod front;

mod accept_loop;
mod bind;
mod rejections;

#[cfg(test)]
mod accept_tests;
#[cfg(test)]
mod tests;

/// The data thread that opens and closes the sockets.
const FIRST: usize = 0;

/// Pause at drain before the queues are emptied for the last time, so that handshakes under way can finish. The kernel
/// does not report when they have; between processes of one machine they take microseconds. Not used in mode `refuse`,
/// where clients of this moment could not be served anyway.
const HANDSHAKE_PAUSE: Duration = Duration::from_millis(5);

/// How often the upstream's health is checked in mode `refuse`.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Consecutive checks without a usable address before the sockets are closed.
const UNUSABLE_CHECKS: u32 = 3;

/// Pause after a listening socket has failed: the first, and the longest. One that works for the longest has recovered.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Pause between two attempts to bind again.
const REBIND_INTERVAL: Duration = Duration::from_secs(1);

/// One running listener.
#[derive(Debug)]
pub struct Listener {
    route: Arc<ListenerContext>,
    dispatcher: Dispatcher,
    budget: DescriptorBudget,
    metrics: Metrics,
    up: Gauge,
    addresses: Vec<SocketAddr>,
    /// A reload swaps them.
    settings: Arc<ArcSwap<SocketSettings>>,
    rejections: Rejections,
    /// What serves its connections, where not the relay alone.
    handler: Option<ConnectionHandler>,
    open: OpenSockets,
    /// Whether somebody else holds the sockets as well ([`adopt`]): they are never closed in mode `refuse`, and what is in
    /// their queues at drain is left to the next process.
    shared: bool,
}

/// The sockets that a listener accepts from now, for who hands them over to another process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OpenSockets {
    sockets: Arc<Mutex<Arc<Vec<TcpListener>>>>,
    /// Another process has copies: closing ours refuses and resets nobody.
    handed_over: Arc<AtomicBool>,
}

/// When a listener accepts.
#[derive(Clone, Debug)]
pub struct Accepting {
    /// From when this has fired.
    pub begin: DrainWatcher,
    /// Until this has.
    pub stop: DrainWatcher,
}

/// Changes the options of a running listener's sockets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SocketControl {
    settings: Arc<ArcSwap<SocketSettings>>,
    open: OpenSockets,
}

/// A running listener, seen from outside.
#[derive(Clone, Debug)]
pub struct Running {
    pub sockets: OpenSockets,
    pub options: SocketControl,
}

/// Why the sockets are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CloseCause {
    Drain,
    /// Mode `refuse`, and no address is usable.
    Unusable,
    /// A fault that is set on purpose.
    Refusing,
    /// A listening socket failed.
    Failed,
}

// === impl Listener ===

impl Listener {
    /// Starts accepting at the time given. A blocker delays the trigger's end until the queues have been accepted
    /// empty and the sockets are closed.
    pub fn start(
        bound: Bound,
        route: Arc<ListenerContext>,
        dispatcher: &Dispatcher,
        budget: DescriptorBudget,
        metrics: &Metrics,
        front: Front,
        accepting: Accepting,
    ) -> Running {
        let Accepting {
            mut begin,
            mut stop,
        } = accepting;
        let handler = (!front.is_plain()).then(|| front.handler(stop.clone()));
        let listener = Self {
            up: metrics.gauge(&family::LISTENER_UP, &[route.listener.as_str()]),
            metrics: metrics.clone(),
            route,
            dispatcher: dispatcher.clone(),
            budget,
            addresses: bound.addresses,
            settings: Arc::new(ArcSwap::from_pointee(bound.settings)),
            rejections: Rejections::new(budget.rejecting),
            handler,
            open: OpenSockets::of(bound.sockets),
            shared: bound.shared,
        };
        if listener.is_shared() {
            listener.route.set_shared();
        }
        let running = Running {
            sockets: listener.open.clone(),
            options: SocketControl {
                settings: Arc::clone(&listener.settings),
                open: listener.open.clone(),
            },
        };
        let blocker = stop.blocker();
        dispatcher.run_on(FIRST, move || async move {
            let _blocker = blocker;
            tokio::select! {
                biased;
                () = begin.fired() => {}
                () = stop.fired() => return,
            }
            listener.run(stop).await;
        });
        running
    }

    async fn run(self, mut stop: DrainWatcher) {
        let listener = Arc::new(self);
        // While it lasts: the pause before the next attempt.
        let mut failing: Option<Duration> = None;
        loop {
            let close = listener.accept_all(&mut failing, &mut stop).await;
            listener.set_up(false);
            // A failure that goes on is told by its `resource` lines.
            if close != CloseCause::Failed || failing.is_none() {
                listener.log_down(close);
            }
            match close {
                CloseCause::Drain => return,
                CloseCause::Unusable | CloseCause::Refusing => {}
                CloseCause::Failed => {
                    let pause = failing.map_or(RETRY.0, |last| (last * 2).min(RETRY.1));
                    failing = Some(pause);
                    tokio::select! {
                        () = stop.fired() => return,
                        () = sleep(pause) => {}
                    }
                }
            }
            tokio::select! {
                () = stop.fired() => return,
                sockets = listener.bind_again() => listener.open.set(sockets),
            }
        }
    }

    /// Accepts from all sockets until there is a reason to close them; then empties their queues and closes them.
    async fn accept_all(
        self: &Arc<Self>,
        failing: &mut Option<Duration>,
        stop: &mut DrainWatcher,
    ) -> CloseCause {
        let sockets = self.open.get();
        let loops = match AcceptLoops::start(self, &sockets) {
            Ok(loops) => loops,
            Err(error) => {
                self.open.set(Vec::new());
                self.route.accept_failed(&error);
                return CloseCause::Failed;
            }
        };
        let mut up = false;
        let close = loop {
            if !up && failing.is_none() {
                up = true;
                self.set_up(true);
                self.log_up();
            }
            tokio::select! {
                biased;
                () = stop.fired() => break CloseCause::Drain,
                () = self.unusable() => break CloseCause::Unusable,
                () = self.route.refusing(true), if !self.is_shared() => break CloseCause::Refusing,
                () = loops.failed() => break CloseCause::Failed,
                () = sleep(RETRY.1), if !up => *failing = None,
            }
        };
        loops.stop().await;
        self.open.set(Vec::new());
        if self.is_shared() && close == CloseCause::Drain {
            return close;
        }
        if close == CloseCause::Drain {
            for socket in sockets.iter() {
                // Where the kernel refuses, only clients of the very last moment are reset.
                let _ = drop_new_syns(socket);
            }
            sleep(HANDSHAKE_PAUSE).await;
        }
        // Closing a socket resets what is in its queue, so the queue is served first.
        for socket in sockets.iter() {
            self.accept_queue(socket);
        }
        close
    }

    /// Resolves when mode `refuse` wants the sockets closed.
    async fn unusable(&self) {
        let mut checks = 0;
        while checks < UNUSABLE_CHECKS {
            if !self.refuses() {
                checks = 0;
                self.route.policy_changed().await;
                continue;
            }
            sleep(CHECK_INTERVAL).await;
            checks = if self.refuses() && !self.is_usable() {
                checks + 1
            } else {
                0
            };
        }
    }

    fn set_up(&self, up: bool) {
        self.up.set(f64::from(u8::from(up)));
        self.route.set_accepting(up);
    }

    fn refuses(&self) -> bool {
        !self.is_shared() && self.route.policy.load().when_all_down == WhenAllDown::Refuse
    }

    fn is_shared(&self) -> bool {
        self.shared || self.open.handed_over.load(Relaxed)
    }

    /// Whether a new connection has a chance. Without probes nothing is ever known to be down; then a round of dials
    /// that all failed decides.
    fn is_usable(&self) -> bool {
        let snapshot = self.route.view.load();
        if self.is_unprobed() {
            return !self.route.round_failed();
        }
        snapshot.any_usable()
    }

    fn is_unprobed(&self) -> bool {
        let snapshot = self.route.view.load();
        let mut paces = snapshot.all().map(|(_, view)| view.pace).peekable();
        paces.peek().is_some() && paces.all(|pace| pace == ProbeMode::Off)
    }

    /// Waits until an address is usable, then binds the same addresses; retried every second.
    async fn bind_again(&self) -> Vec<TcpListener> {
        let mut failed = false;
        loop {
            self.route.refusing(false).await;
            if self.refuses() && !self.is_usable() {
                sleep(CHECK_INTERVAL.mul_f64(1.0 + fastrand::f64())).await;
                if self.is_unprobed() {
                    // No client is accepted whose dial would find out.
                    self.route.canary().await;
                }
                continue;
            }
            let bound: io::Result<Vec<_>> = self
                .addresses
                .iter()
                .map(|address| listen(*address, &self.settings.load()))
                .collect();
            match bound {
                Ok(sockets) => return sockets,
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        self.log_bind_failed(&error);
                    }
                    sleep(REBIND_INTERVAL).await;
                }
            }
        }
    }

    fn log_up(&self) {
        for address in &self.addresses {
            event!(
                self.route.events,
                INFO,
                "listener.up",
                "accepting",
                name = self.route.listener.as_str(),
                address = %address,
                upstream = self.route.upstream.as_str(),
            );
        }
    }

    fn log_down(&self, close: CloseCause) {
        let (events, name) = (&self.route.events, self.route.listener.as_str());
        match close {
            CloseCause::Drain => {
                event!(
                    events,
                    INFO,
                    "listener.down",
                    "closed for the drain",
                    name = name
                );
            }
            CloseCause::Unusable => {
                let text = "closed while no address is usable";
                event!(events, WARN, "listener.down", text, name = name);
            }
            CloseCause::Refusing => {
                let text = "closed by a fault that is set on purpose";
                event!(events, WARN, "listener.down", text, name = name);
            }
            CloseCause::Failed => {
                event!(
                    events,
                    ERROR,
                    "listener.down",
                    "a listening socket failed",
                    name = name
                );
            }
        }
    }

    fn log_bind_failed(&self, error: &io::Error) {
        event!(
            self.route.events,
            ERROR,
            "listener.down",
            "cannot bind again; retrying every second",
            name = self.route.listener.as_str(),
            error = %error,
        );
    }

    fn log_limit(&self) {
        self.route.log_resource(
            "connection limit reached; closing new connections",
            None,
            Some("raise the limit of open files (RLIMIT_NOFILE) or --max-connections"),
        );
    }
}

// === impl OpenSockets ===

impl OpenSockets {
    fn of(sockets: Vec<TcpListener>) -> Self {
        let open = Self::default();
        open.set(sockets);
        open
    }

    fn get(&self) -> Arc<Vec<TcpListener>> {
        Arc::clone(&self.lock())
    }

    fn set(&self, sockets: Vec<TcpListener>) {
        *self.lock() = Arc::new(sockets);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Vec<TcpListener>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies for another process. From here on they count as shared with it.
    pub fn hand_over(&self) -> io::Result<Vec<TcpListener>> {
        let sockets = self.lock();
        let copies = sockets.iter().map(TcpListener::try_clone).collect();
        self.handed_over.store(true, Relaxed);
        copies
    }

    /// The other process has not taken them.
    pub fn take_back(&self) {
        self.handed_over.store(false, Relaxed);
    }
}

// === impl SocketControl ===

impl SocketControl {
    /// Keepalive and user timeout of clients that are not on loopback, from the next accepted connection on.
    pub fn set_tcp(&self, tcp: TcpOptions) {
        let current = self.settings.load();
        if current.tcp == tcp {
            return;
        }
        self.settings.store(Arc::new(SocketSettings {
            tcp,
            loopback_congestion: current.loopback_congestion,
        }));
        for listening in self.open.get().iter() {
            if listening.local_addr().is_ok_and(|at| is_inherited(at.ip())) {
                // What it accepts inherits them, except what the kernel refuses: said where the upstream leg meets it.
                let _ = socket::keepalive(listening, &tcp);
            }
        }
    }
}
