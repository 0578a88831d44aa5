//! One listener at work: accept, limits, error classes, the closing and opening of `refuse`, the end at drain.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep};

use super::bind::{Bound, SocketSettings, listen};
use super::threads::Spread;
use crate::connection::{self, Route, WhenAllDown};
use crate::event::{Event, Reason};
use crate::life::Watch;
use crate::meters::{Gauge, Meters, family};
use crate::pool::snapshot::Pace;
use crate::sys::accept::{AcceptError, accept, classify};
use crate::sys::limits::Budget;

/// Connections accepted in one go before others get a turn.
const BATCH: usize = 64;

/// Pause after an error about resources: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// How often the pool is looked at in mode `refuse`.
const LOOK: Duration = Duration::from_millis(100);

/// Looks without hope in a row before the sockets are closed.
const HOPELESS_LOOKS: u32 = 3;

/// Between two attempts to bind again.
const REBIND: Duration = Duration::from_secs(1);

/// One listener. Runs on the first data thread.
#[derive(Debug)]
pub struct Door {
    route: Arc<Route>,
    spread: Spread,
    budget: Budget,
    meters: Meters,
    up: Gauge,
    addresses: Vec<SocketAddr>,
    settings: SocketSettings,
    /// Connections being told that there are too many.
    turned_away: Arc<AtomicUsize>,
}

/// Why the sockets are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    /// For good.
    Drain,
    /// Nothing is up.
    Hopeless,
    /// A socket broke.
    Broken,
}

type Socket = Rc<AsyncFd<TcpListener>>;

// === impl Door ===

impl Door {
    /// Starts accepting on the first data thread, until `stop` fires. A blocker holds up the trigger's end until the
    /// queues have been accepted empty and the sockets are closed.
    pub fn open(
        bound: Bound,
        route: Arc<Route>,
        spread: &Spread,
        budget: Budget,
        meters: &Meters,
        stop: Watch,
    ) {
        let door = Self {
            up: meters.gauge(&family::LISTENER_UP, &[route.listener.as_str()]),
            meters: meters.clone(),
            route,
            spread: spread.clone(),
            budget,
            addresses: bound.addresses,
            settings: bound.settings,
            turned_away: Arc::default(),
        };
        let blocker = stop.blocker();
        spread.run_on_first(move || async move {
            let _blocker = blocker;
            door.run(bound.sockets, stop).await;
        });
    }

    async fn run(self, mut sockets: Vec<TcpListener>, mut stop: Watch) {
        let door = Rc::new(self);
        loop {
            let close = Rc::clone(&door).accept_all(sockets, &mut stop).await;
            door.up.set(0.0);
            door.log_down(close);
            if close == Close::Drain {
                return;
            }
            sockets = tokio::select! {
                () = stop.fired() => return,
                sockets = door.bind_again() => sockets,
            };
        }
    }

    /// Accepts from all sockets until there is a reason to close them; then empties their queues and closes them.
    async fn accept_all(self: Rc<Self>, sockets: Vec<TcpListener>, stop: &mut Watch) -> Close {
        let mut loops = JoinSet::new();
        let mut open: Vec<Socket> = Vec::new();
        for socket in sockets {
            match register(socket) {
                Ok(socket) => open.push(Rc::new(socket)),
                Err(error) => {
                    self.log_short(&error);
                    return Close::Broken;
                }
            }
        }
        for socket in &open {
            loops.spawn_local(Rc::clone(&self).accept_from(Rc::clone(socket)));
        }
        self.up.set(1.0);
        self.log_up();
        let close = tokio::select! {
            biased;
            () = stop.fired() => Close::Drain,
            () = self.hopeless() => Close::Hopeless,
            _ended = loops.join_next() => Close::Broken,
        };
        loops.shutdown().await;
        // Whoever connected already is served (contract 7.5): closing a socket resets what is in its queue.
        for socket in &open {
            self.empty(socket.get_ref());
        }
        close
    }

    /// The accept loop. Ends only when the socket is broken.
    async fn accept_from(self: Rc<Self>, socket: Socket) {
        let mut pause = PAUSE.0;
        let mut logged: Option<Instant> = None;
        loop {
            let Ok(mut ready) = socket.readable().await else {
                return;
            };
            for turn in 1.. {
                if turn % BATCH == 0 {
                    yield_now().await;
                }
                if !self.has_patience() {
                    sleep(PAUSE.0).await;
                    continue;
                }
                let error = match accept(socket.get_ref()) {
                    Ok((stream, client)) => {
                        self.admit(stream, client);
                        pause = PAUSE.0;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) => error,
                };
                let class = classify(&error);
                self.meters
                    .counter(&family::ACCEPT_ERRORS, &[class.as_str()])
                    .inc();
                match class {
                    AcceptError::Skip => {}
                    AcceptError::Wait => {
                        // One line a second, however often it happens.
                        if logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                            logged = Some(Instant::now());
                            self.log_short(&error);
                        }
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSE.1);
                    }
                    AcceptError::Fatal => return self.log_short(&error),
                }
            }
        }
    }

    /// Whether one more may be accepted now, if only to be turned away: the descriptors for that are counted too.
    fn has_patience(&self) -> bool {
        self.turned_away.load(Relaxed) < self.budget.turned_away
            || self.route.has_room(self.budget.max_connections)
    }

    fn admit(&self, stream: TcpStream, client: SocketAddr) {
        let route = Arc::clone(&self.route);
        if route.has_room(self.budget.max_connections) {
            self.spread.serve(stream, connection::admit(client, route));
            return;
        }
        let away = Arc::clone(&self.turned_away);
        away.fetch_add(1, Relaxed);
        tokio::task::spawn_local(async move {
            connection::turn_away(stream, client, route, Reason::MaxConnections).await;
            away.fetch_sub(1, Relaxed);
        });
    }

    fn empty(&self, socket: &TcpListener) {
        loop {
            match accept(socket) {
                Ok((stream, client)) => self.admit(stream, client),
                Err(error)
                    if classify(&error) == AcceptError::Skip
                        && error.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Resolves when mode `refuse` wants the sockets closed.
    async fn hopeless(&self) {
        let mut looks = 0;
        while looks < HOPELESS_LOOKS {
            sleep(LOOK).await;
            let refuses = self.route.policy.load().when_all_down == WhenAllDown::Refuse;
            looks = if refuses && !self.has_hope() {
                looks + 1
            } else {
                0
            };
        }
    }

    /// Whether a new connection has a chance. With probes off nothing is ever known to be down: then a round of dials
    /// that all failed decides.
    fn has_hope(&self) -> bool {
        let snapshot = self.route.view.load();
        if self.is_unprobed() {
            return !self.route.round_failed();
        }
        snapshot.any_hope()
    }

    fn is_unprobed(&self) -> bool {
        let snapshot = self.route.view.load();
        let mut paces = snapshot.all().map(|(_, view)| view.pace).peekable();
        paces.peek().is_some() && paces.all(|pace| pace == Pace::Off)
    }

    /// Waits until there is hope, then binds the same addresses; retried every second.
    async fn bind_again(&self) -> Vec<TcpListener> {
        let mut failed = false;
        loop {
            let refuses = self.route.policy.load().when_all_down == WhenAllDown::Refuse;
            if refuses && !self.has_hope() {
                sleep(LOOK.mul_f64(1.0 + fastrand::f64())).await;
                if self.is_unprobed() {
                    // Nobody is accepted who could find out: contract 7.5.
                    self.route.canary().await;
                }
                continue;
            }
            let bound: io::Result<Vec<_>> = self
                .addresses
                .iter()
                .map(|address| listen(*address, &self.settings))
                .collect();
            match bound {
                Ok(sockets) => return sockets,
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        self.log_unbound(&error);
                    }
                    sleep(REBIND).await;
                }
            }
        }
    }

    fn log_up(&self) {
        for address in &self.addresses {
            self.route.bus.emit(
                Event::info("listener.up", "accepting")
                    .with("name", self.route.listener.as_str().to_owned())
                    .with("address", address.to_string())
                    .with("upstream", self.route.upstream.as_str().to_owned()),
            );
        }
    }

    fn log_down(&self, close: Close) {
        let event = match close {
            Close::Drain => Event::info("listener.down", "closed for the drain"),
            Close::Hopeless => Event::warn("listener.down", "closed while nothing can be dialled"),
            Close::Broken => Event::error("listener.down", "a listening socket broke"),
        };
        let name = self.route.listener.as_str().to_owned();
        self.route.bus.emit(event.with("name", name));
    }

    fn log_unbound(&self, error: &io::Error) {
        let name = self.route.listener.as_str().to_owned();
        self.route.bus.emit(
            Event::error("listener.down", "cannot bind again; trying every second")
                .with("name", name)
                .with("error", error.to_string()),
        );
    }

    fn log_short(&self, error: &io::Error) {
        let name = self.route.listener.as_str().to_owned();
        self.route.bus.emit(
            Event::warn("resource", "cannot accept")
                .with("listener", name)
                .with("error", error.to_string()),
        );
    }
}

/// Registers a listening socket with this thread's event loop.
#[expect(
    deprecated,
    reason = "its successor asks for a promise that the descriptor never changes; a TcpListener keeps it"
)]
fn register(socket: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    AsyncFd::new(socket)
}

#[cfg(test)]
mod tests;
