//! The endpoints of one upstream: an actor that is the only writer of their state, [`UpstreamHandle`] to send it inputs,
//! [`SnapshotReader`] to read what it knows.
//!
//! The actor applies all inputs that wait, then publishes one immutable snapshot. What time alone brings about it does
//! every 100 ms while anything is in doubt, and about once a second otherwise, so that an idle process sleeps. Sending never blocks: a full queue drops observations, never DNS answers or operator actions. Data
//! threads go on with the last snapshot when the actor stalls. What an input means is decided in `state`, which has no
//! clock.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use crate::activity::Activity;
use crate::clock;
use crate::events::Events;
use crate::metrics::{Counter, Metrics, family};
use crate::types::UpstreamName;

use endpoint::EndpointSpec;
use input::Input;
use settings::UpstreamPolicy;
use snapshot::Snapshot;
use state::UpstreamState;
pub use telemetry::NamesInUse;
use telemetry::Telemetry;

pub mod active_zone;
pub mod address;
pub mod change;
pub mod constants;
pub mod endpoint;
pub mod explain;
pub mod health;
pub mod identity;
pub mod input;
pub mod latency;
pub mod membership;
pub mod plan;
pub mod publish;
pub mod ranking;
pub mod selection;
pub mod settings;
pub mod snapshot;
pub mod state;
mod telemetry;

/// Observations that may wait.
const QUEUE: usize = 1024;

/// What an upstream starts with.
#[derive(Debug)]
pub struct UpstreamArgs {
    pub upstream: UpstreamName,
    /// Its endpoints, candidates among them.
    pub endpoints: Vec<EndpointSpec>,
    pub settings: UpstreamPolicy,
    /// Where the numbers go.
    pub metrics: Metrics,
    /// Where the events go.
    pub events: Events,
    /// Our own listening sockets: never used as addresses.
    pub own_listeners: Vec<SocketAddr>,
    /// Who else follows which name.
    pub names: NamesInUse,
}

/// The way in. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct UpstreamHandle {
    observations: mpsc::Sender<Input>,
    settling: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Answers and orders: few, and none may be lost.
    orders: mpsc::UnboundedSender<Input>,
    dropped: Counter,
    /// Connections are being dialled: the actor has to notice a stall of ours.
    dials: Arc<Activity>,
}

/// The way out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    current: Arc<ArcSwap<Snapshot>>,
    changes: watch::Receiver<u64>,
}

/// Everything the actor owns.
struct Actor {
    upstream: UpstreamState,
    telemetry: Telemetry,
    observations: mpsc::Receiver<Input>,
    settling: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    orders: mpsc::UnboundedReceiver<Input>,
    current: Arc<ArcSwap<Snapshot>>,
    changes: watch::Sender<u64>,
    dials: Arc<Activity>,
}

/// How long the actor ticks every 100 ms after it was told of dials.
const DIALS_WATCHED: Duration = Duration::from_secs(1);

/// The two ends of an upstream, and the actor, to be run on the control thread. The actor ends when the
/// last [`UpstreamHandle`] is gone.
pub fn start(
    config: UpstreamArgs,
) -> (
    UpstreamHandle,
    SnapshotReader,
    impl Future<Output = ()> + use<>,
) {
    let now = clock::now();
    let upstream = UpstreamState::new(
        config.upstream.clone(),
        config.endpoints,
        config.settings,
        config.own_listeners,
        now,
        fastrand::u64(..),
    );
    let first = Arc::new(publish::snapshot(&upstream, now, 0));
    let labels = [config.upstream.as_str()];
    let dropped = config.metrics.counter(&family::INPUTS_DROPPED, &labels);
    let mut telemetry =
        Telemetry::new(config.upstream, config.metrics, config.events, config.names);
    telemetry.snapshot(&first, now);
    let current = Arc::new(ArcSwap::new(first));
    let (observations, seen) = mpsc::channel(QUEUE);
    let (orders, ordered) = mpsc::unbounded_channel();
    let (settling, settle) = mpsc::unbounded_channel();
    let (changes, changed) = watch::channel(0);
    let actor = Actor {
        upstream,
        telemetry,
        observations: seen,
        settling: settle,
        orders: ordered,
        current: Arc::clone(&current),
        changes,
        dials: Arc::default(),
    };
    let feed = UpstreamHandle {
        observations,
        settling,
        orders,
        dropped,
        dials: Arc::clone(&actor.dials),
    };
    let view = SnapshotReader {
        current,
        changes: changed,
    };
    (feed, view, actor.run())
}

// === impl Actor ===

impl Actor {
    async fn run(mut self) {
        let mut last_tick = clock::now();
        let mut dials_watched_until = last_tick;
        loop {
            let due = self
                .upstream
                .next_tick(last_tick, last_tick < dials_watched_until);
            let asleep = due > last_tick + constants::TICK;
            if asleep {
                self.dials.arm();
            }
            let input = tokio::select! {
                biased;
                input = self.orders.recv() => match input {
                    Some(input) => Some(input),
                    None => return,
                },
                // The orders before it are in the snapshot.
                Some(waiting) = self.settling.recv() => {
                    let _ = waiting.send(());
                    continue;
                }
                input = self.observations.recv() => input,
                at = self.dials.recorded() => {
                    dials_watched_until = at + DIALS_WATCHED;
                    // From here on a tick counts as late.
                    last_tick = last_tick.max(at);
                    continue;
                }
                () = tokio::time::sleep(due.since(clock::now())) => None,
            };
            let now = clock::now();
            // First of all: were we late? Then the timeouts that wait in the queue are void.
            let mut changes = self.upstream.check_stall(now);
            let mut next = input;
            for _ in 0..QUEUE {
                let Some(input) = next.take() else { break };
                changes.extend(self.upstream.apply(now, input));
                next = self
                    .orders
                    .try_recv()
                    .or_else(|_| self.observations.try_recv())
                    .ok();
            }
            // One taken beyond the measure must not be lost.
            if let Some(input) = next {
                changes.extend(self.upstream.apply(now, input));
            }
            // A flood of inputs does not hold up what happens by itself.
            let ticked = now >= due;
            if ticked {
                last_tick = now;
                changes.extend(self.upstream.tick(now));
            } else if asleep {
                // An input ended the sleep: what it puts in doubt is ticked from here on, and nothing was late.
                last_tick = now;
            }
            let snapshot = self.upstream.take_dirty().then(|| self.publish(now));
            self.telemetry.changes(&changes, now);
            match snapshot {
                Some(snapshot) => self.telemetry.snapshot(&snapshot, now),
                None if ticked => self.telemetry.update_name_ages(&self.current.load(), now),
                None => {}
            }
        }
    }

    fn publish(&mut self, now: clock::Moment) -> Arc<Snapshot> {
        let generation = self.current.load().generation + 1;
        let snapshot = Arc::new(publish::snapshot(&self.upstream, now, generation));
        self.current.store(Arc::clone(&snapshot));
        self.changes.send_replace(generation);
        snapshot
    }
}

// === impl UpstreamHandle ===

impl UpstreamHandle {
    /// Sends an input. Never blocks: a full queue drops an observation (a probe, a dial, a suspicion) and counts it.
    pub fn send(&self, input: Input) {
        let told = match input {
            Input::Probed { .. } | Input::Dialled { .. } | Input::Suspect { .. } => {
                self.observations.try_send(input).is_ok()
            }
            _ => self.orders.send(input).is_ok(),
        };
        if !told {
            self.dropped.increment(1);
        }
    }

    /// Resolves once the orders sent so far are in the snapshot that connections are made by.
    pub async fn settled(&self) {
        let (sender, settled) = oneshot::channel();
        // Without an actor nothing is to be waited for.
        if self.settling.send(sender).is_ok() {
            let _ = settled.await;
        }
    }

    /// Dials are under way. Cheap; to be repeated while they are.
    pub fn watch_dials(&self) {
        self.dials.record();
    }
}

// === impl SnapshotReader ===

impl SnapshotReader {
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Resolves when a newer snapshot than the last one this view was told of is published; pending for ever once the
    /// actor is gone.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
