//! The life of one connection: order of candidates → dial → held? → relay → closed.
//!
//! Where upstream, dialer and relay meet. Owns the rule that failover happens only before the first byte, the hold
//! queue, the registry of live connections and their records. Does not accept. Closing early is the
//! supervisor's work, by commands.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tracing::instrument::{Instrument as _, WithSubscriber as _};
use tracing::{Level, trace_span};

use crate::clock;
use crate::dial::hop::Lease;
use crate::dial::{self, ClientData, Dialed};
use crate::events::{ClosedBy, Reason, TARGET};
use crate::relay::{self, Ended, Outcome, Placement, Resumed};
use crate::stream::Stream;
use crate::sys::socket::Fault;
use crate::sys::tcp_info;
use crate::types::Side;
use crate::upstream::endpoint::Candidate;
use crate::upstream::input::Suspicion;
pub use context::{ContextParts, ListenerContext};
pub use detour::{Detour, Diversion, DiversionEnd};
pub use guard::ConnectionGuard;
use hold_queue::Wake;
pub use hold_queue::{Policy, WhenAllDown};
pub use home::{AtHome, BulkThread, Home, ThreadJob};
pub use metrics::EndpointMetrics;
pub use registry::{ConnectionPhase, Entry, Registry};
use reject::CloseMode;
pub use shortage::Shortage;

mod context;
mod detour;
mod guard;
mod hold_queue;
mod home;
mod metrics;
mod registry;
mod reject;
mod shortage;

/// Registers an accepted connection and counts it against both limits, on the thread that accepted it: a drain waits
/// for it from here on. `None`: the listener's limit or that of all (`most_in_all`) is reached. Boxed so that the
/// futures it passes through stay small.
pub fn admit(
    client: SocketAddr,
    context: &Arc<ListenerContext>,
    most_in_all: usize,
) -> Option<Box<ConnectionGuard>> {
    let admitted = context.admit(most_in_all);
    admitted.then(|| Box::new(ConnectionGuard::new(Arc::clone(context), client, true)))
}

/// Serves one accepted connection to its end.
pub async fn serve(stream: std::net::TcpStream, guard: Box<ConnectionGuard>) {
    let events = &guard.context().events;
    if events.log().wants(Level::TRACE) {
        let id = guard.entry().id;
        let span = events.in_scope(|| trace_span!(target: TARGET, "conn", conn.id = id));
        let dispatch = events.dispatch().clone();
        let serving = run(stream, guard).instrument(span);
        return Box::pin(serving.with_subscriber(dispatch)).await;
    }
    run(stream, guard).await;
}

async fn run(stream: std::net::TcpStream, guard: Box<ConnectionGuard>) {
    // In a box, what it needs while it dials: it is not carried through the whole life of the connection.
    if let Some(ends) = Box::pin(dial_for(stream, guard)).await {
        carry(ends).await;
    }
}

/// The two ends of a connection, once an upstream is reached. The client is turned away here where none is.
async fn dial_for(
    stream: std::net::TcpStream,
    mut guard: Box<ConnectionGuard>,
) -> Option<Box<Ends>> {
    let Ok(stream) = TcpStream::from_std(stream) else {
        guard.end(Reason::Resource, ClosedBy::Entryway);
        return None;
    };
    let mut down = Stream::from(stream);
    let mut tried = Vec::new();
    let context = Arc::clone(guard.context());
    match reach(&context, down.as_tcp(), &mut guard, &mut tried, None).await {
        Ok(reached) => Some(Ends::new(guard, down, reached, tried)),
        Err((reason, mode)) => {
            guard.rejected(reason);
            reject::close(&mut down, mode).await;
            None
        }
    }
}

/// A connection and what is relayed between. In one box, because a future keeps a place for each value that is handed from
/// one to the next.
struct Ends {
    // First, so that the end is on record before the sockets are closed.
    guard: Box<ConnectionGuard>,
    down: Stream,
    up: Stream,
    /// What the upstream's stream goes through is kept until its end.
    lease: Option<Lease>,
    /// Candidates that are not asked again, beside the one that is connected.
    tried: Vec<Candidate>,
}

// === impl Ends ===

impl Ends {
    /// `may_retry`: untried candidates are left.
    fn new(
        mut guard: Box<ConnectionGuard>,
        down: Stream,
        (dialed, may_retry): (Dialed, bool),
        tried: Vec<Candidate>,
    ) -> Box<Self> {
        guard.reached(&dialed, may_retry);
        Box::new(Self {
            guard,
            down,
            up: dialed.stream,
            lease: dialed.lease,
            tried,
        })
    }

    /// Another upstream takes the place of the one that ended untouched. `end`: how that was. Where there is none, the
    /// client is turned away, and this returns false.
    async fn reach_next(&mut self, end: CloseMode) -> bool {
        let context = Arc::clone(self.guard.context());
        self.guard.retry_next();
        // A spare that had ended says nothing about the next attempt there.
        if !self.guard.warm
            && let Some(connected) = self.guard.candidate.clone()
        {
            self.tried.push(connected);
        }
        let down = self.down.as_tcp();
        match reach(&context, down, &mut self.guard, &mut self.tried, Some(end)).await {
            Ok((dialed, may_retry)) => {
                self.guard.reached(&dialed, may_retry);
                (self.up, self.lease) = (dialed.stream, dialed.lease);
                true
            }
            Err((reason, mode)) => {
                self.guard.rejected(reason);
                reject::close(&mut self.down, mode).await;
                false
            }
        }
    }

    /// Lets the detour carry a connection that was diverted, and the relay whenever the detour gives it back, to its end.
    async fn divert(&mut self, connected: clock::Moment, mut ended: Ended) -> Ended {
        let Self {
            guard, down, up, ..
        } = self;
        let context = guard.context();
        // The relay is not there to be asked for them.
        up.set_options(&guard.limits().tcp);
        loop {
            let (state, detour) = match (ended.outcome, context.detour()) {
                (Outcome::Diverted(state), Some(detour)) => (state, detour),
                (outcome, _) => return Ended { outcome, ..ended },
            };
            let diversion = Diversion {
                entry: guard.entry(),
                limits: guard.limits(),
                state,
                connected,
                activity: &context.relay.activity,
            };
            match detour.carry(down, up, diversion).await {
                DiversionEnd::Resume(state) => {
                    let mut args = guard.relay_args(clock::now(), false, Vec::new());
                    args.placement = Placement::Fixed;
                    args.resumed = Some(Resumed::Diverted(state));
                    ended = relay::relay(down, up, args).await;
                }
                DiversionEnd::Ended(outcome) => {
                    return Ended {
                        outcome,
                        was_untouched: false,
                        lost_full_segments: false,
                    };
                }
            }
        }
    }
}

/// A client that is answered before its bytes are relayed: once, with the outcome of the first round of attempts.
pub trait ClientReply {
    /// The client's socket where it can be watched while there is no upstream: it may give up meanwhile.
    fn client(&self) -> Option<&TcpStream> {
        None
    }

    /// An upstream was reached. Returns the client's stream; `None`: the client is gone.
    fn reached(&mut self) -> impl Future<Output = Option<Stream>>;

    /// None was.
    fn failed(&mut self, reason: Reason) -> impl Future<Output = ()>;
}

/// Serves a client that is answered first, to its end.
pub async fn serve_after_reply(mut guard: Box<ConnectionGuard>, mut reply: impl ClientReply) {
    let context = Arc::clone(guard.context());
    let mut tried = Vec::new();
    let reached = Box::pin(reach(
        &context,
        reply.client(),
        &mut guard,
        &mut tried,
        None,
    ))
    .await;
    match reached {
        Ok(reached) => match reply.reached().await {
            Some(down) => carry(Ends::new(guard, down, reached, tried)).await,
            None => guard.end(Reason::ClientGone, ClosedBy::Client),
        },
        Err((reason, _)) => {
            guard.rejected(reason);
            reply.failed(reason).await;
        }
    }
}

/// Relays to the upstream that was reached; to the next untried one while it ends untouched.
///
/// While it relays, this future holds the relay and next to nothing else, and what few connections come to is in boxes:
/// an idle connection keeps no more than that.
async fn carry(mut ends: Box<Ends>) {
    // Client bytes that were read for an upstream that accepted and sent nothing.
    let mut unsent = Vec::new();
    loop {
        let began = clock::now();
        let guard = &ends.guard;
        if let Some(detour) = guard.context().detour() {
            detour.connected(guard.entry());
        }
        let args = guard.relay_args(began, guard.may_retry || guard.warm, unsent);
        let mut ended = relay::relay(&mut ends.down, &mut ends.up, args).await;
        if matches!(ended.outcome, Outcome::Misplaced(_)) {
            match Box::pin(ends.relocate(ended)).await {
                Some(both) => (ends, ended) = both,
                None => return,
            }
        }
        if matches!(ended.outcome, Outcome::Diverted(_)) {
            ended = Box::pin(ends.divert(began, ended)).await;
        }
        let guard = &mut ends.guard;
        if ended.was_untouched && !guard.warm {
            guard.suspect(Suspicion::Untouched, began);
        } else if let Some(since) = guard.entry().stats.waiting_since()
            && ended.outcome.is_by_upstream()
        {
            guard.suspect(Suspicion::Unanswered, since);
        }
        let end = match ended.outcome {
            Outcome::Untouched {
                fault,
                unsent: rest,
            } => {
                unsent = rest;
                CloseMode::of(fault)
            }
            outcome => {
                if ended.lost_full_segments {
                    guard.lost_full_segments();
                }
                let (reason, closed_by) = reason_of(&outcome);
                return guard.end(reason, closed_by);
            }
        };
        if !Box::pin(ends.reach_next(end)).await {
            return;
        }
    }
}

/// Closes an accepted connection that is above a limit.
pub async fn reject(
    stream: std::net::TcpStream,
    client: SocketAddr,
    context: Arc<ListenerContext>,
    reason: Reason,
) {
    let mut guard = ConnectionGuard::new(Arc::clone(&context), client, false);
    guard.rejected(reason);
    if let Ok(stream) = TcpStream::from_std(stream) {
        reject::close(&mut Stream::from(stream), CloseMode::Fin).await;
    }
}

/// Order of candidates → dial → held?, until there is an upstream; with whether another would be left to try.
async fn reach(
    context: &ListenerContext,
    down: Option<&TcpStream>,
    guard: &mut ConnectionGuard,
    tried: &mut Vec<Candidate>,
    mut untouched: Option<CloseMode>,
) -> Result<(Dialed, bool), (Reason, CloseMode)> {
    let mut waiter = None;
    let fin_counts = guard.limits().framing;
    loop {
        let mut candidates = context.order();
        candidates.retain(|candidate| !tried.contains(candidate));
        let dialer = context.dialer.load_full();
        let mut record = |attempt: dial::Attempt| {
            context.note(&attempt);
            guard.attempts += 1;
            guard.hedged |= attempt.hedge;
            if attempt.outcome == dial::ConnectOutcome::Reset {
                // It accepted, and its reset came before the connect was noticed: untouched as well.
                untouched = Some(CloseMode::Reset);
            }
            if !matches!(
                attempt.outcome,
                dial::ConnectOutcome::Ok | dial::ConnectOutcome::LostRace { .. }
            ) {
                tried.push(attempt.candidate);
            }
        };
        let dial = dialer.dial(&candidates, opening(down), &mut record);
        let dialed = if waiter.is_some() {
            tokio::select! {
                biased;
                () = hold_queue::client_gone(down, fin_counts) => {
                    return Err((Reason::ClientGone, CloseMode::Gone));
                }
                dialed = dial => dialed,
            }
        } else {
            dial.await
        };
        let error = match dialed {
            Ok(dialed) => {
                context.judge(true);
                let left = candidates.iter().any(|candidate| {
                    (dialed.warm || *candidate != dialed.candidate) && !tried.contains(candidate)
                });
                return Ok((dialed, left));
            }
            Err(error) => error,
        };
        // With none left, the end of the last that accepted is passed on.
        if let Some(mode) = untouched {
            return Err((mode.reason(), mode));
        }
        context.judge(false);
        if error.is_local() {
            context.local_fault_round(&error);
        }
        let policy = **context.policy.load();
        if policy.when_all_down == WhenAllDown::Hold && waiter.is_none() {
            waiter = context.queue.enter(&policy);
        }
        let Some(waiter) = &mut waiter else {
            return Err((error.reason(), CloseMode::Fin));
        };
        guard.waits();
        let woken = waiter
            .wait(down, fin_counts, &guard.entry().commands, &context.view)
            .await;
        guard.has_waited(waiter.waited());
        match woken {
            Wake::Dial => tried.clear(),
            Wake::TimeUp => return Err((Reason::HoldTimeout, CloseMode::Fin)),
            Wake::ClientGone => return Err((Reason::ClientGone, CloseMode::Gone)),
            Wake::Cut(reason) => return Err((reason, CloseMode::Reset)),
        }
    }
}

fn opening(down: Option<&TcpStream>) -> ClientData {
    let has_spoken = |tcp| tcp_info::unread(tcp).is_ok_and(|bytes| bytes > 0);
    if down.is_some_and(has_spoken) {
        ClientData::Ready
    } else {
        ClientData::None
    }
}

/// Why a relay ended, and who ended it.
fn reason_of(outcome: &Outcome) -> (Reason, ClosedBy) {
    let reason = match outcome {
        Outcome::Finished { first } => match first {
            Side::Downstream => Reason::ClientFin,
            Side::Upstream => Reason::UpstreamFin,
        },
        Outcome::Reset(side, fault) => {
            let reason = match (side, fault) {
                (_, Fault::UserTimeout) => Reason::UserTimeout,
                (_, Fault::KeepaliveTimeout) => Reason::KeepaliveDead,
                (Side::Downstream, Fault::Reset | Fault::Unreachable) => Reason::ClientRst,
                (Side::Upstream, Fault::Unreachable) => Reason::Unreachable,
                (Side::Upstream, Fault::Reset) => Reason::UpstreamRst,
            };
            let closed_by = match side {
                Side::Downstream => ClosedBy::Client,
                Side::Upstream => ClosedBy::Upstream,
            };
            return (reason, closed_by);
        }
        Outcome::IdleTimeout => Reason::IdleTimeout,
        Outcome::HalfOpenTimeout => Reason::HalfOpenTimeout,
        Outcome::Commanded(reason) => *reason,
        Outcome::Untouched { .. } => Reason::UpstreamFin,
        Outcome::Diverted(_) | Outcome::Misplaced(_) | Outcome::Internal(_) => Reason::Internal,
    };
    (reason, reason.closed_by())
}

#[cfg(test)]
pub(crate) mod tests;
