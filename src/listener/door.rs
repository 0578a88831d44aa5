//! One listener at work: opening and closing of its sockets (drain, `refuse`), limits. The accept loops are in
//! [`acceptors`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use acceptors::Acceptors;

use super::bind::{Bound, SocketSettings, listen};
use super::threads::Spread;
use crate::connection::{Route, WhenAllDown};
use crate::events::Event;
use crate::life::Watch;
use crate::metrics::{Gauge, Metrics, family};
use crate::sys::limits::Budget;
use crate::sys::socket::hold_newcomers;
use crate::upstream::snapshot::Pace;

/// The data thread of the door itself.
const FIRST: usize = 0;

/// Before the queues are emptied for the last time at drain: handshakes under way can finish. Nothing tells when they
/// have; between processes of one machine they take microseconds. Not in mode `refuse`: who comes in this time would be
/// refused a second later, and could not be served anyway.
const HANDSHAKE: Duration = Duration::from_millis(5);

/// How often the pool is looked at in mode `refuse`.
const LOOK: Duration = Duration::from_millis(100);

/// How often, in other modes, whether a reload has made it that.
const LOOK_AT_MODE: Duration = Duration::from_secs(1);

/// Looks without hope in a row before the sockets are closed.
const HOPELESS_LOOKS: u32 = 3;

/// Between two attempts to bind again.
const REBIND: Duration = Duration::from_secs(1);

/// One listener. Runs on the first data thread, its accept loops on the first two.
#[derive(Debug)]
pub struct Door {
    route: Arc<Route>,
    spread: Spread,
    budget: Budget,
    metrics: Metrics,
    up: Gauge,
    addresses: Vec<SocketAddr>,
    settings: SocketSettings,
    /// Connections being told that there are too many.
    turned_away: Arc<AtomicUsize>,
    /// When a shortage was told last.
    told_short: Mutex<Option<Instant>>,
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

// === impl Door ===

impl Door {
    /// Starts accepting on the first data thread, until `stop` fires. A blocker holds up the trigger's end until the
    /// queues have been accepted empty and the sockets are closed.
    pub fn open(
        bound: Bound,
        route: Arc<Route>,
        spread: &Spread,
        budget: Budget,
        metrics: &Metrics,
        stop: Watch,
    ) {
        let door = Self {
            up: metrics.gauge(&family::LISTENER_UP, &[route.listener.as_str()]),
            metrics: metrics.clone(),
            route,
            spread: spread.clone(),
            budget,
            addresses: bound.addresses,
            settings: bound.settings,
            turned_away: Arc::default(),
            told_short: Mutex::default(),
        };
        let blocker = stop.blocker();
        spread.run_on(FIRST, move || async move {
            let _blocker = blocker;
            door.run(bound.sockets, stop).await;
        });
    }

    async fn run(self, mut sockets: Vec<TcpListener>, mut stop: Watch) {
        let door = Arc::new(self);
        loop {
            let close = door.accept_all(sockets, &mut stop).await;
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
    async fn accept_all(self: &Arc<Self>, sockets: Vec<TcpListener>, stop: &mut Watch) -> Close {
        let acceptors = match Acceptors::start(self, &sockets) {
            Ok(acceptors) => acceptors,
            Err(error) => {
                self.log_short(&error);
                return Close::Broken;
            }
        };
        self.up.set(1.0);
        self.log_up();
        let close = tokio::select! {
            biased;
            () = stop.fired() => Close::Drain,
            () = self.hopeless() => Close::Hopeless,
            () = acceptors.broken() => Close::Broken,
        };
        acceptors.stop().await;
        if close == Close::Drain {
            for socket in &sockets {
                // Where it cannot be done, only who comes in the very last moment is reset.
                let _ = hold_newcomers(socket);
            }
            sleep(HANDSHAKE).await;
        }
        // Whoever connected already is served (contract 7.5): closing a socket resets what is in its queue.
        for socket in &sockets {
            self.empty(socket);
        }
        close
    }

    /// Resolves when mode `refuse` wants the sockets closed.
    async fn hopeless(&self) {
        let mut looks = 0;
        while looks < HOPELESS_LOOKS {
            if !self.refuses() {
                looks = 0;
                sleep(LOOK_AT_MODE).await;
                continue;
            }
            sleep(LOOK).await;
            looks = if self.refuses() && !self.has_hope() {
                looks + 1
            } else {
                0
            };
        }
    }

    fn refuses(&self) -> bool {
        self.route.policy.load().when_all_down == WhenAllDown::Refuse
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
            if self.refuses() && !self.has_hope() {
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
            self.route.events.emit(
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
        self.route.events.emit(event.with("name", name));
    }

    fn log_unbound(&self, error: &io::Error) {
        let name = self.route.listener.as_str().to_owned();
        self.route.events.emit(
            Event::error("listener.down", "cannot bind again; trying every second")
                .with("name", name)
                .with("error", error.to_string()),
        );
    }

    fn log_short(&self, error: &io::Error) {
        let name = self.route.listener.as_str().to_owned();
        self.route.events.emit(
            Event::warn("resource", "cannot accept")
                .with("listener", name)
                .with("error", error.to_string()),
        );
    }
}

mod acceptors;
#[cfg(test)]
mod tests;
