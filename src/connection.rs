//! The life of a connection, on one screen: order → dial → wait? → relay → closed.
//!
//! Where pool, dialer and relay meet. Owns the rule that failover happens only before the first byte (contract 7.4),
//! the waiting room, the registry of live connections and their records. Does not accept, and closes nothing early:
//! that is `sweep`'s business, by orders.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::clock;
use crate::dial::{self, ClientData, Dialed};
use crate::events::Reason;
use crate::relay::{self, Outcome};
use crate::stream::Stream;
use crate::sys::socket::Fault;
use crate::sys::tcp_info;
use crate::types::Side;
use crate::upstream::endpoint::Candidate;
use crate::upstream::input::Suspicion;
use farewell::Manner;
pub use metrics::EndpointMetrics;
pub use open::Open;
pub use registry::{Entry, Place, Registry};
pub use route::{Route, RouteParts};
use waiting_room::Wake;
pub use waiting_room::{Policy, WhenAllDown};

mod farewell;
mod metrics;
mod open;
mod registry;
mod route;
mod waiting_room;

/// Takes an accepted connection into the books, on the thread that accepted it: the limits hold and a drain waits for
/// it from here on, wherever it is served. `None`: the listener's limit or that of all (`most_in_all`) is reached. In a
/// box: it is handed on several times, and each future on the way would keep room for it.
pub fn admit(client: SocketAddr, route: &Arc<Route>, most_in_all: usize) -> Option<Box<Open>> {
    let admitted = route.admit(most_in_all);
    admitted.then(|| Box::new(Open::new(Arc::clone(route), client, true)))
}

/// Serves one accepted connection to its end.
pub async fn serve(stream: std::net::TcpStream, mut open: Box<Open>) {
    let route = Arc::clone(open.route());
    let Ok(stream) = TcpStream::from_std(stream) else {
        return open.end(Reason::Resource);
    };
    let mut down = Stream::from(stream);
    let mut tried = Vec::new();
    // How the last upstream ended that accepted and said nothing.
    let mut untouched = None;
    loop {
        // In a box: what it needs while it dials is not carried through the whole life of the connection.
        let reached = Box::pin(reach(&route, &down, &mut open, &mut tried, untouched)).await;
        let (dialed, may_move) = match reached {
            Ok(reached) => reached,
            Err((reason, manner)) => {
                open.leaves(reason);
                return farewell::part(&mut down, manner).await;
            }
        };
        open.reached(&dialed);
        let began = clock::now();
        let Dialed {
            stream,
            candidate,
            warm,
            ..
        } = dialed;
        let mut up = Stream::from(stream);
        let terms = open.terms(&candidate, may_move || warm);
        let outcome = relay::relay(&mut down, &mut up, terms).await;
        if open.was_untouched(&outcome, began) && !warm {
            route.suspect(&candidate, Suspicion::Untouched, began);
        } else if open.was_unanswered(&outcome) {
            route.suspect(&candidate, Suspicion::Unanswered, began);
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
    route.metrics.rejected(reason);
    open.leaves(reason);
    if let Ok(stream) = TcpStream::from_std(stream) {
        farewell::part(&mut Stream::from(stream), Manner::Fin).await;
    }
}

/// Order → dial → wait?, until there is an upstream; with whether another would be left to try.
async fn reach(
    route: &Route,
    down: &Stream,
    open: &mut Open,
    tried: &mut Vec<Candidate>,
    mut untouched: Option<Manner>,
) -> Result<(Dialed, bool), (Reason, Manner)> {
    let mut ticket = None;
    loop {
        let mut candidates = route.order();
        candidates.retain(|candidate| !tried.contains(candidate));
        let dialer = route.dialer.load_full();
        let dialed = dialer
            .dial(&candidates, opening(down), &mut |attempt| {
                route.note(&attempt);
                open.attempts += 1;
                open.hedged |= attempt.hedge;
                if attempt.outcome == dial::ConnectOutcome::Reset {
                    // It accepted, and was faster with its reset than we with our look: untouched as well.
                    untouched = Some(Manner::Reset);
                }
                if !matches!(attempt.outcome, dial::ConnectOutcome::LostRace { .. }) {
                    tried.push(attempt.candidate);
                }
            })
            .await;
        let error = match dialed {
            Ok(dialed) => {
                route.judge(true);
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
        route.judge(false);
        let policy = **route.policy.load();
        if policy.when_all_down == WhenAllDown::Hold && ticket.is_none() {
            ticket = route.room.enter(&policy);
        }
        let Some(ticket) = &mut ticket else {
            return Err((error.reason(), Manner::Fin));
        };
        open.waits();
        let woken = ticket
            .wait(down.as_tcp(), &open.entry().tally, &route.view)
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

fn opening(down: &Stream) -> ClientData {
    let has_spoken = |tcp| tcp_info::unread(tcp).is_ok_and(|bytes| bytes > 0);
    if down.as_tcp().is_some_and(has_spoken) {
        ClientData::Ready
    } else {
        ClientData::None
    }
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
pub(crate) mod tests;
