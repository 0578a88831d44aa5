//! The supervisor: one pass over all live connections every 100 ms, on the control thread; none while nothing moves,
//! waits or is in doubt, so that idle connections cost nothing ([`Activity`]).
//!
//! [`Activity`]: crate::activity::Activity
//!
//! Does to established connections what no byte asks for: watches for overdue answers, closes connections at rest
//! early, cuts connections that wait on a silent address, wakes all when one has urgent data, and ends everything at a
//! shutdown. It only sends commands;
//! the relay checks once more on its own thread. Never touches a socket.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock::{self, Moment};
use crate::connection::{ConnectionPhase, Entry, Registry};
use crate::events::{Events, Reason};
use crate::metrics::Metrics;
use crate::relay::{ConnectionCommand, RelayShared};
use crate::types::{Direction, UpstreamName};
use crate::upstream::constants;
use crate::upstream::endpoint::Candidate;
use crate::upstream::snapshot::Snapshot;
use crate::upstream::{SnapshotReader, UpstreamHandle};
use export::Export;
pub use idle_close::CloseRules;
use idle_close::{IdleCloser, Pair, QUIET, delivery_check};
use outlier::OutlierDetector;

mod export;
mod idle_close;
mod outlier;

/// Quiet that is enough in the last fifth of a shutdown.
const LAST_QUIET: Duration = Duration::from_secs(1);

/// A connection that has moved nothing for this long, and waits for nothing, needs no look. Longer than the delivery of
/// its last bytes is watched.
const QUIETNESS: Duration = Duration::from_secs(2);

/// How often the age of connections is checked while nothing else happens.
const AGE_CHECK: Duration = Duration::from_secs(1);

/// Signals of urgent data that are passed on; one client can send any number, and each wakes every connection.
const URGENT_MAX: u32 = 100;

/// One upstream, as far as the supervisor is concerned.
#[derive(Clone, Debug)]
pub struct UpstreamEntry {
    pub upstream: UpstreamName,
    /// What is known of it.
    pub view: SnapshotReader,
    /// Where suspicions go.
    pub feed: UpstreamHandle,
    /// What its settings say; a reload swaps it.
    pub rules: Arc<ArcSwap<CloseRules>>,
}

/// Begins the end of all connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShutdownControl {
    phase: Arc<watch::Sender<ShutdownPhase>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShutdownPhase {
    Serving,
    Draining { since: Moment, until: Moment },
    Killed,
}

/// The supervisor, before it runs.
#[derive(Debug)]
pub struct Supervisor {
    registry: Registry,
    upstreams: Vec<SupervisedUpstream>,
    phase: watch::Receiver<ShutdownPhase>,
    counters: Arc<RelayShared>,
    export: Export,
}

#[derive(Debug)]
struct SupervisedUpstream {
    upstream: UpstreamEntry,
    silence: OutlierDetector,
    rest: IdleCloser,
}

/// The supervisor of all upstreams, and the handle that ends everything.
pub fn new(
    registry: Registry,
    upstreams: Vec<UpstreamEntry>,
    counters: Arc<RelayShared>,
    metrics: &Metrics,
    events: &Events,
) -> (Supervisor, ShutdownControl) {
    let (phase, seen) = watch::channel(ShutdownPhase::Serving);
    let watched = |upstream: UpstreamEntry| SupervisedUpstream {
        silence: OutlierDetector::default(),
        rest: IdleCloser::default(),
        upstream,
    };
    let supervisor = Supervisor {
        registry,
        upstreams: upstreams.into_iter().map(watched).collect(),
        phase: seen,
        counters: Arc::clone(&counters),
        export: Export::new(counters, metrics, events),
    };
    let control = ShutdownControl {
        phase: Arc::new(phase),
    };
    (supervisor, control)
}

// === impl ShutdownControl ===

impl ShutdownControl {
    /// A shutdown: connections at rest are closed as they come to rest; what is left after `max_delay` is reset.
    pub fn drain(&self, max_delay: Duration) {
        let since = clock::now();
        self.phase.send_if_modified(|phase| {
            let first = *phase == ShutdownPhase::Serving;
            if first {
                *phase = ShutdownPhase::Draining {
                    since,
                    until: since + max_delay,
                };
            }
            first
        });
    }

    /// The second signal: everything is reset now.
    pub fn kill(&self) {
        self.phase.send_replace(ShutdownPhase::Killed);
    }
}

// === impl Supervisor ===

impl Supervisor {
    /// Runs until dropped.
    pub async fn run(self) {
        let urgent = report_urgent(self.registry.clone(), Arc::clone(&self.counters));
        tokio::join!(urgent, self.run_passes());
    }

    async fn run_passes(mut self) {
        let mut phase = self.phase.clone();
        let mut watched = true;
        let mut last = clock::now();
        let mut is_asleep = false;
        loop {
            // The moment this pass was to be made.
            let due = tokio::select! {
                due = self.next_pass(last, is_asleep) => due,
                changed = phase.changed(), if watched => {
                    watched = changed.is_ok();
                    clock::now()
                }
            };
            let now = clock::now();
            if now.since(due) > constants::STALL {
                // Silence seen during a stall of our own is no evidence.
                for watched in &mut self.upstreams {
                    watched.silence.discount_until(now);
                }
            }
            last = now;
            let is_quiet = self.pass(now);
            // Asleep after two quiet passes with nothing recorded in between: see `Activity`.
            is_asleep = is_quiet && self.counters.activity.arm();
            if is_asleep {
                self.export.export(&self.registry);
            }
        }
    }

    /// Waits for the next pass: the tick, or while asleep whatever ends the sleep. Returns when it was due.
    async fn next_pass(&self, last: Moment, is_asleep: bool) -> Moment {
        if !is_asleep {
            let due = last + constants::TICK;
            tokio::time::sleep(due.since(clock::now())).await;
            return due;
        }
        let mut unsettled: Vec<_> = self
            .upstreams
            .iter()
            .filter(|_| !self.registry.is_empty())
            .map(|watched| Box::pin(unsettled(watched.upstream.view.clone())))
            .collect();
        let unsettled = std::future::poll_fn(|context| {
            let mut all = unsettled.iter_mut();
            match all.any(|one| one.as_mut().poll(context).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        let grows_old = |watched: &SupervisedUpstream| {
            let rules = watched.upstream.rules.load();
            rules.max_age.is_some() && !self.registry.is_empty()
        };
        tokio::select! {
            at = self.counters.activity.recorded() => at.max(last),
            () = unsettled => clock::now(),
            () = clock::aligned_sleep(AGE_CHECK), if self.upstreams.iter().any(grows_old) => {
                clock::now()
            }
        }
    }

    /// Looks at everything once. Says whether nothing needs another look before something happens.
    fn pass(&mut self, now: Moment) -> bool {
        let phase = *self.phase.borrow();
        let snapshots: Vec<_> = self
            .upstreams
            .iter()
            .map(|watched| watched.upstream.view.load())
            .collect();
        for (watched, snapshot) in self.upstreams.iter_mut().zip(&snapshots) {
            watched.rest.begin_pass(snapshot, now);
        }
        let registry = self.registry.clone();
        // Before the commands: a connection that ends at once must know that a shutdown ended it.
        match phase {
            ShutdownPhase::Killed => registry.set_ending(Reason::Killed),
            ShutdownPhase::Draining { until, .. } if now >= until => {
                registry.set_ending(Reason::DrainDeadline)
            }
            _ => {}
        }
        let mut is_quiet = phase == ShutdownPhase::Serving
            && (registry.is_empty() || snapshots.iter().all(|snapshot| snapshot.is_settled()));
        registry.each(|entry| {
            is_quiet &= is_entry_quiet(entry, now);
            let found = self.upstreams.iter_mut().zip(&snapshots);
            let found = found
                .into_iter()
                .find(|(watched, _)| watched.upstream.upstream == entry.upstream);
            if let Some((watched, snapshot)) = found {
                watched.inspect(entry, snapshot, now);
            }
            end(entry, phase, now);
        });
        for watched in &mut self.upstreams {
            watched.silence.end_pass();
        }
        self.export.tick(&registry, now);
        is_quiet
    }
}

impl Drop for Supervisor {
    /// What was counted since the last export is not lost at the end.
    fn drop(&mut self) {
        self.export.export(&self.registry);
    }
}

/// Passes on that some socket has urgent data, at most once in a tick. Where the signal cannot be had, relays ask for
/// themselves; so they do after [`URGENT_MAX`], because each signal wakes every connection, and one client can go on
/// sending urgent data.
async fn report_urgent(registry: Registry, counters: Arc<RelayShared>) {
    let Ok(mut signals) = signal(SignalKind::from_raw(libc::SIGURG)) else {
        return;
    };
    counters.urgent.begin();
    for _ in 0..URGENT_MAX {
        if signals.recv().await.is_none() {
            break;
        }
        counters.urgent.record();
        registry.each(|entry| entry.commands.look());
        tokio::time::sleep(constants::TICK).await;
    }
    counters.urgent.end();
    registry.each(|entry| entry.commands.look());
}

/// Resolves when an upstream asks something of established connections.
async fn unsettled(mut view: SnapshotReader) {
    while view.load().is_settled() {
        view.changed().await;
    }
}

/// Whether nothing is under way on a connection, and nothing was for a while.
fn is_entry_quiet(entry: &Entry, now: Moment) -> bool {
    let relays = entry.relaying(|_, _| {
        entry.commands.has_options()
            && !may_wait(entry)
            && entry.stats.waiting_since().is_none()
            && entry.idle(now) >= QUIETNESS
    });
    relays.unwrap_or_else(|| matches!(entry.phase(), ConnectionPhase::Leaving))
}

/// Whether a peer may still owe something: an answer, or the acknowledgement of bytes.
fn may_wait(entry: &Entry) -> bool {
    let stats = &entry.stats;
    stats.last_direction() == Some(Direction::Upload)
        || stats.pending() > 0
        || stats.is_unacknowledged()
}

/// What a shutdown wants of a connection. One that waits for an upstream keeps its hold until the end.
fn end(entry: &Entry, phase: ShutdownPhase, now: Moment) {
    let command = match phase {
        ShutdownPhase::Serving => return,
        ShutdownPhase::Killed => ConnectionCommand::Cut(Reason::Killed),
        ShutdownPhase::Draining { until, .. } if now >= until => {
            ConnectionCommand::Cut(Reason::DrainDeadline)
        }
        ShutdownPhase::Draining { since, until } => {
            let last_fifth = until.since(now) * 5 <= until.since(since);
            let quiet = if last_fifth { LAST_QUIET } else { QUIET };
            let close =
                |connected| Pair::of(entry, connected, now).close(Reason::DrainIdle, now, quiet);
            let Some(command) = entry.relaying(|_, connected| close(connected)).flatten() else {
                return;
            };
            command
        }
    };
    entry.commands.send(command);
}

// === impl SupervisedUpstream ===

impl SupervisedUpstream {
    fn inspect(&mut self, entry: &Entry, snapshot: &Snapshot, now: Moment) {
        let rules = **self.upstream.rules.load();
        let relays = entry.relaying(|candidate, since| {
            let found = snapshot.all().find(|(endpoint, address)| {
                address.address.socket == candidate.address.socket
                    && endpoint.endpoint.name() == candidate.endpoint.name()
            });
            record_activity(entry, candidate, now);
            let view = found.map(|(_, view)| view);
            if let Some(fact) = self.silence.inspect(entry, candidate, view, now) {
                self.upstream.feed.send(fact);
            }
            let pair = Pair::of(entry, since, now);
            if now.since(since) >= rules.options_after() {
                entry.commands.set_options();
            }
            if let Some(user_timeout) = rules.user_timeout {
                check_delivery(entry, user_timeout, now);
            }
            if let Some(order) = self.rest.evaluate(&pair, found, snapshot, rules, now) {
                entry.commands.send(order);
            }
        });
        if relays.is_none() {
            self.upstream.feed.watch_dials();
        }
    }
}

/// Asks a connection that has moved nothing for a while, and may have bytes that a peer does not acknowledge, to look.
fn check_delivery(entry: &Entry, user_timeout: Duration, now: Moment) {
    let every = delivery_check(user_timeout);
    let quiet = entry.idle(now);
    if quiet < every {
        return;
    }
    // The kernel takes the last bytes of an answer off our hands; only those for a client beyond this machine can stay
    // unacknowledged.
    let just_quiet = quiet < every + 3 * constants::TICK && !entry.client.ip().is_loopback();
    if may_wait(entry) || just_quiet {
        entry.commands.check_delivery(now, every);
    }
}

/// Bytes from the upstream may stand in for a TCP probe; the upstream reads the address's own time of activity.
fn record_activity(entry: &Entry, candidate: &Candidate, now: Moment) {
    let Some(heard) = entry.stats.last_download() else {
        return;
    };
    // Heard since the last look; a look that came late misses nothing that matters for seconds.
    if now.since(heard) <= 2 * constants::TICK {
        candidate.address.record_activity();
    }
}

#[cfg(test)]
mod tests;
