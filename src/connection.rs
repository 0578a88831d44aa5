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
use crate::relay::{self, Ended, Outcome};
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
pub use metrics::EndpointMetrics;
pub use registry::{ConnectionPhase, Entry, Registry};
use reject::CloseMode;
pub use shortage::Shortage;

mod context;
mod detour;
mod guard;
mod hold_queue;
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

async fn run(stream: std::net::TcpStream, mut guard: Box<ConnectionGuard>) {
    let Ok(stream) = TcpStream::from_std(stream) else {
        return guard.end(Reason::Resource, ClosedBy::Entryway);
    };
    // In boxes, what it needs while it dials and what it does when it fails: neither is carried through the whole life
    // of the connection.
    let dialling = Box::pin(dial_for(stream, &mut guard)).await;
    if let Some(ends) = dialling {
        carry(ends, guard).await;
    }
}

/// The two ends of a connection, once an upstream is reached. The client is turned away here where none is.
async fn dial_for(stream: TcpStream, guard: &mut ConnectionGuard) -> Option<Box<Ends>> {
    let mut down = Stream::from(stream);
    let mut tried = Vec::with_capacity(1);
    let context = Arc::clone(guard.context());
    match reach(&context, down.as_tcp(), guard, &mut tried, None).await {
        Ok(reached) => Some(Box::new(Ends::new(down, reached, tried, guard))),
        Err((reason, mode)) => {
            guard.rejected(reason);
            reject::close(&mut down, mode).await;
            None
        }
    }
}

/// What is relayed between. In one box, because a future keeps a place for each value that is handed from one to the next.
struct Ends {
    down: Stream,
    up: ReachedUpstream,
    tried: Vec<Candidate>,
}

/// An upstream that was reached.
struct ReachedUpstream {
    stream: Stream,
    candidate: Candidate,
    /// It was a spare.
    warm: bool,
    /// Untried candidates are left.
    may_retry: bool,
    /// What the stream goes through is kept until its end.
    _lease: Option<Lease>,
}

// === impl Ends ===

impl Ends {
    fn new(
        down: Stream,
        reached: (Dialed, bool),
        tried: Vec<Candidate>,
        guard: &mut ConnectionGuard,
    ) -> Self {
        Self {
            down,
            up: ReachedUpstream::of(reached, guard),
            tried,
        }
    }
}

// === impl ReachedUpstream ===

impl ReachedUpstream {
    /// Counts the connection as one to this upstream from here on.
    fn of((dialed, may_retry): (Dialed, bool), guard: &mut ConnectionGuard) -> Self {
        guard.reached(&dialed);
        Self {
            stream: dialed.stream,
            candidate: dialed.candidate,
            warm: dialed.warm,
            may_retry,
            _lease: dialed.lease,
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
            Some(down) => {
                let ends = Ends::new(down, reached, tried, &mut guard);
                carry(Box::new(ends), guard).await;
            }
            None => guard.end(Reason::ClientGone, ClosedBy::Client),
        },
        Err((reason, _)) => {
            guard.rejected(reason);
            reply.failed(reason).await;
        }
    }
}

/// Lets the detour carry a connection that was diverted, and the relay whenever the detour gives it back, to its end.
async fn divert(
    down: &mut Stream,
    up: &mut Stream,
    guard: &ConnectionGuard,
    candidate: &Candidate,
    connected: clock::Moment,
    mut ended: Ended,
) -> Ended {
    let answers = guard.answers(candidate);
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
                let mut args = guard.relay_args(&answers, false, Vec::new());
                args.resumed = Some(state);
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

/// Relays to the upstream that was reached; to the next untried one while it ends untouched.
async fn carry(mut ends: Box<Ends>, mut guard: Box<ConnectionGuard>) {
    let context = Arc::clone(guard.context());
    // Client bytes that were read for an upstream that accepted and sent nothing.
    let mut unsent = Vec::new();
    loop {
        let began = clock::now();
        let (candidate, warm) = (&ends.up.candidate, ends.up.warm);
        let answers = guard.answers(candidate);
        if let Some(detour) = context.detour() {
            detour.connected(guard.entry());
        }
        let args = guard.relay_args(&answers, ends.up.may_retry || warm, unsent);
        let mut ended = relay::relay(&mut ends.down, &mut ends.up.stream, args).await;
        if matches!(ended.outcome, Outcome::Diverted(_)) {
            // In a box: few connections need it, and all would carry it.
            let (down, up) = (&mut ends.down, &mut ends.up.stream);
            ended = Box::pin(divert(down, up, &guard, candidate, began, ended)).await;
        }
        if ended.was_untouched && !warm {
            context.suspect(candidate, Suspicion::Untouched, began);
        } else if let Some(since) = guard.entry().stats.waiting_since()
            && ended.outcome.is_by_upstream()
        {
            context.suspect(candidate, Suspicion::Unanswered, since);
        }
        let how = match ended.outcome {
            Outcome::Untouched {
                fault,
                unsent: rest,
            } => {
                unsent = rest;
                fault
            }
            outcome => {
                if ended.lost_full_segments {
                    guard.lost_full_segments();
                }
                let (reason, closed_by) = reason_of(&outcome);
                return guard.end(reason, closed_by);
            }
        };
        guard.retry_next();
        let untouched = Some(CloseMode::of(how));
        let next = Box::pin(reach(
            &context,
            ends.down.as_tcp(),
            &mut guard,
            &mut ends.tried,
            untouched,
        ))
        .await;
        match next {
            Ok(reached) => ends.up = ReachedUpstream::of(reached, &mut guard),
            Err((reason, mode)) => {
                guard.rejected(reason);
                return Box::pin(reject::close(&mut ends.down, mode)).await;
            }
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
            if !matches!(attempt.outcome, dial::ConnectOutcome::LostRace { .. }) {
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
                let left = candidates
                    .iter()
                    .any(|candidate| !tried.contains(candidate));
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
        guard.parked = waiter.waited();
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
        Outcome::Diverted(_) | Outcome::Internal(_) => Reason::Internal,
    };
    (reason, reason.closed_by())
}

#[cfg(test)]
pub(crate) mod tests;
