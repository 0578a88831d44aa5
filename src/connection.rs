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
use crate::clock;
use crate::dial::{self, Attempt, Dialed, Dialer};
use crate::event::{Event, Level, Reason};
use crate::meters::Meters;
use crate::names::{ListenerName, Side, UpstreamName};
use crate::pool::endpoint::Candidate;
use crate::pool::fact::{DialFailure, Fact, Suspicion};
use crate::pool::{Feed, View};
use crate::relay::{self, Limits, Outcome, Terms};
use crate::stream::Stream;
use crate::sys::socket::Fault;
pub use farewell::Manner;
use meters::ListenerMeters;
pub use meters::EndpointMeters;
use open::Open;
pub use registry::{Entry, Place, Registry};
use waiting_room::{WaitingRoom, Wake};
pub use waiting_room::{Policy, WhenAllDown};

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
    /// When nothing can be dialled.
    pub policy: Policy,
    /// Where it is counted.
    pub meters: Meters,
}

/// Serves one accepted connection to its end.
pub async fn serve(client_stream: TcpStream, client: SocketAddr, route: Arc<Route>) {
    let mut open = Open::new(Arc::clone(&route), client, true);
    let mut down = Stream::from(client_stream);
    let mut tried: Vec<Candidate> = Vec::new();
    // How the last upstream ended that accepted and said nothing.
    let mut untouched: Option<Manner> = None;
    loop {
        let dialed = match route.reach(&down, &mut open, &mut tried, untouched).await {
            Ok(dialed) => dialed,
            Err((reason, manner)) => {
                open.leaves(reason);
                return farewell::part(&mut down, manner).await;
            }
        };
        let warm = dialed.warm;
        let to = dialed.candidate;
        let mut up = Stream::from(dialed.stream);
        let may_move = warm || route.untried(&tried).next().is_some();
        let outcome = route.relay(&mut down, &mut up, &open, &to, may_move).await;
        let Outcome::Untouched(how) = outcome else {
            if let Some(reason) = route.reason_of(&outcome) {
                open.end(reason);
            }
            return;
        };
        drop(up);
        open.moves_on();
        untouched = Some(Manner::from(how));
        if warm {
            // A spare may have died of age: that says nothing about the address, and it was not dialled.
            tried.retain(|tried| *tried != to);
        } else {
            route.suspect(&to, Suspicion::Untouched, open.entry().accepted);
        }
    }
}
