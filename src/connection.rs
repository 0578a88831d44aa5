//! The life of a connection, on one screen: order → dial → wait? → relay → closed.
//!
//! Where pool, dialer and relay meet. Owns the rule that failover happens only before the first byte (contract 7.4),
//! the waiting room, the registry of live connections and their records. Does not accept, and closes nothing early:
//! that is `sweep`'s business, by orders.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;

use crate::bus::Bus;
use crate::clock::{self, Moment};
use crate::dial::{self, Attempt, Dialed, Dialer};
use crate::event::{Event, Level, Reason};
use crate::meters::Meters;
use crate::names::{ListenerName, Side, UpstreamName};
use crate::pool::endpoint::Candidate;
use crate::pool::fact::{DialFailure, Fact, Suspicion};
use crate::pool::{Feed, View};
use crate::relay::{self, Counters, Limits, Outcome};
use crate::stream::Stream;
use crate::sys::socket::Fault;
pub use farewell::Manner;
pub use meters::EndpointMeters;
use meters::ListenerMeters;
use open::Open;
pub use registry::{Entry, Place, Registry};
pub use waiting_room::{Policy, WhenAllDown};
use waiting_room::{WaitingRoom, Wake};

mod farewell;
mod meters;
mod open;
mod registry;
mod waiting_room;

/// The way from one listener to its upstream: what all its connections share.
#[derive(Debug)]
pub struct Route {
    /// The listener.
    pub listener: ListenerName,
    /// The upstream it leads to.
    pub upstream: UpstreamName,
    /// What is known of the upstream.
    pub view: View,
    /// Where facts about it go.
    pub feed: Feed,
    /// All live connections of the instance.
    pub registry: Registry,
    /// Where events go.
    pub bus: Bus,
    /// How the upstream is dialled; a reload swaps it.
    pub dialer: ArcSwap<Dialer>,
    /// The relay's limits; a reload swaps them.
    pub limits: ArcSwap<Limits>,
    /// What to do when nothing can be dialled; a reload swaps it.
    pub policy: ArcSwap<Policy>,
    counters: Arc<Counters>,
    meters: ListenerMeters,
    room: WaitingRoom,
    /// Connections that count against the limits.
    admitted: AtomicIsize,
    /// The last round over all candidates failed, and nothing was connected since.
    round_failed: AtomicBool,
}

/// What a [`Route`] is made of.
#[derive(Debug)]
pub struct RouteParts {
    /// The listener.
    pub listener: ListenerName,
    /// The upstream.
    pub upstream: UpstreamName,
    /// What is known of it.
    pub view: View,
    /// Where facts go.
    pub feed: Feed,
    /// All live connections.
    pub registry: Registry,
    /// Where events go.
    pub bus: Bus,
    /// How it is dialled.
    pub dialer: Dialer,
    /// The relay's limits.
    pub limits: Limits,
    /// The relay's shared counts and bounds.
    pub counters: Arc<Counters>,
    /// When nothing can be dialled.
    pub policy: Policy,
    /// Where it is counted.
    pub meters: Meters,
}

/// Serves one accepted connection to its end.
pub async fn serve(stream: std::net::TcpStream, client: SocketAddr, route: Arc<Route>) {
    let mut open = Open::new(Arc::clone(&route), client, true);
    let Ok(stream) = TcpStream::from_std(stream) else {
        return open.end(Reason::Resource);
    };
    let mut down = Stream::from(stream);
    let mut tried = Vec::new();
    // How the last upstream ended that accepted and said nothing.
    let mut untouched = None;
    loop {
        let reached = route.reach(&down, &mut open, &mut tried, untouched).await;
        let (dialed, may_move) = match reached {
            Ok(reached) => reached,
            Err((reason, manner)) => {
                open.leaves(reason);
                return farewell::part(&mut down, manner).await;
            }
        };
        open.reached(&dialed);
        let began = clock::now();
        let mut up = Stream::from(dialed.stream);
        let terms = open.terms(&dialed.candidate, may_move || dialed.warm);
        let outcome = relay::relay(&mut down, &mut up, terms).await;
        if open.was_untouched(&outcome, began) && !dialed.warm {
            route.suspect(&dialed.candidate, Suspicion::Untouched, began);
        }
        let Outcome::Untouched(how) = outcome else {
            return open.end(reason_of(&outcome));
        };
        open.moves_on();
        untouched = Some(Manner::of(how));
    }
}

/// Ends one accepted connection that is above a limit: contract 7.5.
pub async fn turn_away(
    stream: std::net::TcpStream,
    client: SocketAddr,
    route: Arc<Route>,
    reason: Reason,
) {
    let mut open = Open::new(Arc::clone(&route), client, false);
    route.meters.rejected(reason);
    open.leaves(reason);
    if let Ok(stream) = TcpStream::from_std(stream) {
        farewell::part(&mut Stream::from(stream), Manner::Fin).await;
    }
}

// === impl Route ===

impl Route {
    /// A route on which nothing has happened yet.
    pub fn new(parts: RouteParts) -> Arc<Self> {
        let meters = ListenerMeters::new(&parts.meters, &parts.listener, &parts.upstream);
        Arc::new(Self {
            room: WaitingRoom::new(meters.parked.clone(), meters.parked_seconds.clone()),
            meters,
            listener: parts.listener,
            upstream: parts.upstream,
            view: parts.view,
            feed: parts.feed,
            registry: parts.registry,
            bus: parts.bus,
            counters: parts.counters,
            dialer: ArcSwap::from_pointee(parts.dialer),
            limits: ArcSwap::from_pointee(parts.limits),
            policy: ArcSwap::from_pointee(parts.policy),
            admitted: AtomicIsize::new(0),
            round_failed: AtomicBool::new(false),
        })
    }

    /// Connections that count against the listener's limit.
    pub fn admitted(&self) -> usize {
        self.admitted.load(Relaxed).try_into().unwrap_or(0)
    }

    /// Whether one more connection is within this listener's limit and the instance's.
    pub fn has_room(&self, most_in_all: usize) -> bool {
        let most = self.policy.load().max_connections.unwrap_or(usize::MAX);
        self.admitted() < most && self.registry.admitted() < most_in_all
    }

    /// Connections that wait for an upstream.
    pub fn parked(&self) -> usize {
        self.room.parked()
    }

    /// Whether the last round over all candidates failed and nothing was connected since.
    pub fn round_failed(&self) -> bool {
        self.round_failed.load(Relaxed)
    }

    /// Where a connection would be dialled now, best first.
    pub fn order(&self) -> Vec<Candidate> {
        self.view.load().order(clock::now(), fastrand::f64())
    }

    /// Dials once around without a connection, and closes what comes of it: tells the pool, and whoever is parked.
    pub async fn canary(&self) {
        let candidates = self.order();
        let dialer = self.dialer.load_full();
        let dialed = dialer
            .dial(&candidates, &mut |attempt| self.note(&attempt))
            .await;
        self.judge(dialed.is_ok());
    }

    /// Order → dial → wait?, until there is an upstream; with whether another would be left to try.
    async fn reach(
        &self,
        down: &Stream,
        open: &mut Open,
        tried: &mut Vec<Candidate>,
        untouched: Option<Manner>,
    ) -> Result<(Dialed, bool), (Reason, Manner)> {
        let mut ticket = None;
        loop {
            let mut candidates = self.order();
            candidates.retain(|candidate| !tried.contains(candidate));
            let dialer = self.dialer.load_full();
            let dialed = dialer
                .dial(&candidates, &mut |attempt| {
                    self.note(&attempt);
                    open.attempts += 1;
                    open.hedged |= attempt.hedge;
                    if !matches!(attempt.outcome, dial::Outcome::LostRace { .. }) {
                        tried.push(attempt.candidate);
                    }
                })
                .await;
            let error = match dialed {
                Ok(dialed) => {
                    self.judge(true);
                    let left = candidates
                        .iter()
                        .any(|candidate| !tried.contains(candidate));
                    return Ok((dialed, left));
                }
                Err(error) => error,
            };
            // Contract 7.4: with none left, the end of the last that accepted is passed on.
            if let Some(manner) = untouched {
                return Err((manner.reason(), manner));
            }
            self.judge(false);
            let policy = **self.policy.load();
            if policy.when_all_down == WhenAllDown::Hold && ticket.is_none() {
                ticket = self.room.enter(&policy);
            }
            let Some(ticket) = &mut ticket else {
                return Err((error.reason(), Manner::Fin));
            };
            open.waits();
            let woken = ticket
                .wait(down.as_tcp(), &open.entry().tally, &self.view)
                .await;
            open.parked = ticket.waited();
            match woken {
                Wake::Dial => tried.clear(),
                Wake::TimeUp => return Err((Reason::HoldTimeout, Manner::Fin)),
                Wake::ClientGone => return Err((Reason::ClientGone, Manner::Gone)),
                Wake::Cut(reason) => return Err((reason, Manner::Reset)),
            }
        }
    }

    /// Whether the upstream can be reached, as the last round shows it. A success lets go whoever is parked.
    fn judge(&self, reached: bool) {
        if self.round_failed.load(Relaxed) == reached {
            self.round_failed.store(!reached, Relaxed);
        }
        if reached {
            self.room.release();
        }
    }

    /// What an attempt says: counts, the address's own numbers, and a fact for the pool where it failed.
    fn note(&self, attempt: &Attempt) {
        let (candidate, outcome) = (&attempt.candidate, &attempt.outcome);
        let meters = self.meters.of(&candidate.endpoint);
        meters.attempt(outcome);
        if attempt.hedge {
            meters.hedge(outcome);
        }
        let failure = match outcome {
            dial::Outcome::Ok => {
                candidate.address.dialled(attempt.took);
                return meters.connected(attempt.took);
            }
            dial::Outcome::LostRace { later } => {
                if *later {
                    self.suspect(candidate, Suspicion::LostHedge, attempt.started);
                }
                return;
            }
            dial::Outcome::Refused => DialFailure::Refused,
            dial::Outcome::Timeout => DialFailure::Timeout,
            dial::Outcome::Unreachable => DialFailure::Unreachable,
            dial::Outcome::Reset => DialFailure::Reset,
            dial::Outcome::Local(_) => DialFailure::Local,
        };
        self.feed.tell(Fact::Dialled {
            endpoint: candidate.endpoint.name().clone(),
            socket: candidate.address.socket,
            failure,
            started: attempt.started,
        });
        if self.bus.wants(Level::Debug) {
            self.bus.emit(connect_fail(attempt));
        }
    }

    fn suspect(&self, candidate: &Candidate, why: Suspicion, started: Moment) {
        self.feed.tell(Fact::Suspect {
            endpoint: candidate.endpoint.name().clone(),
            socket: candidate.address.socket,
            why,
            started,
        });
    }
}

fn connect_fail(attempt: &Attempt) -> Event {
    let endpoint = &attempt.candidate.endpoint;
    let to = attempt.candidate.address.socket;
    Event::debug("connect.fail", attempt.outcome.to_string())
        .with("upstream", endpoint.upstream.as_str().to_owned())
        .with("endpoint", endpoint.name().as_str().to_owned())
        .with("server.address", to.ip().to_string())
        .with("server.port", to.port())
        .with("connect.result", attempt.outcome.as_str())
        .with("connect.duration_ms", attempt.took.as_secs_f64() * 1000.0)
}

/// The reason of a relay's end.
fn reason_of(outcome: &Outcome) -> Reason {
    match outcome {
        Outcome::Finished { first } => match first {
            Side::Downstream => Reason::ClientFin,
            Side::Upstream => Reason::UpstreamFin,
        },
        Outcome::Reset(side, fault) => match (side, fault) {
            (_, Fault::UserTimeout) => Reason::UserTimeout,
            (_, Fault::KeepaliveTimeout) => Reason::KeepaliveDead,
            (Side::Downstream, Fault::Reset | Fault::Unreachable) => Reason::ClientRst,
            (Side::Upstream, Fault::Unreachable) => Reason::Unreachable,
            (Side::Upstream, Fault::Reset) => Reason::UpstreamRst,
        },
        Outcome::IdleTimeout => Reason::IdleTimeout,
        Outcome::HalfOpenTimeout => Reason::HalfOpenTimeout,
        Outcome::Ordered(reason) => *reason,
        Outcome::Untouched(_) => Reason::UpstreamFin,
        Outcome::Internal(_) => Reason::Internal,
    }
}

#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;
