//! The queue in which clients are held while nothing can be dialled.
//!
//! Owns who is held, who is the canary and how the rest is let go. One of those held is the canary: it dials every 0.1
//! to 1 s, for itself. Its success, or an address that comes back, lets the others go one by one over a moment, so that
//! an endpoint that has just come back is not overrun. What clients send stays in their sockets: nothing is read here.
//!
//! A client that ends its side while it is held has given up where the upstream speaks HTTP: what it sent is not
//! delivered later, because a write must not run after its client took it for failed.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::events::Reason;
use crate::metrics::{Gauge, Histogram};
use crate::relay::{CommandChannel, ConnectionCommand};
use crate::upstream::SnapshotReader;
use crate::upstream::snapshot::Snapshot;

/// Between two dials of the canary: at first, and at most.
const CANARY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1000));

/// Those let go are spread over this much each, and over `SPREAD_MOST` in all.
const SPREAD_EACH: Duration = Duration::from_millis(2);
const SPREAD_MOST: Duration = Duration::from_secs(1);

/// `listener.when_all_down`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenAllDown {
    /// Park, and end with a FIN at `hold_timeout`.
    #[default]
    Hold,
    /// One round, then a FIN.
    Try,
    /// Close the listening sockets, so that connects are refused.
    Refuse,
}

/// What a listener does when nothing can be dialled, or when there are too many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Hold, try or refuse.
    pub when_all_down: WhenAllDown,
    /// How long one is parked.
    pub hold_timeout: Duration,
    /// How many are parked at once; more are treated like `try`.
    pub hold_max: usize,
    /// Connections of this listener at once.
    pub max_connections: Option<usize>,
}

/// The held connections of one listener.
#[derive(Debug)]
pub(super) struct HoldQueue {
    /// By waiter number: first come, first let go.
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Duration>>>,
    next: AtomicU64,
    parked: AtomicUsize,
    /// Held by the canary; fair, so that the role goes to the one that has waited longest.
    canary: tokio::sync::Mutex<Duration>,
    gauge: Gauge,
    seconds: Histogram,
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    queue: &'a HoldQueue,
    number: u64,
    since: Instant,
    until: Instant,
    /// Held while this one is the canary.
    role: Option<tokio::sync::MutexGuard<'a, Duration>>,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Dial again.
    Dial,
    /// `hold_timeout` is over.
    TimeUp,
    /// The client reset.
    ClientGone,
    /// Somebody wants it ended now.
    Cut(Reason),
}

// === impl HoldQueue ===

impl HoldQueue {
    pub(super) fn new(gauge: Gauge, seconds: Histogram) -> Self {
        Self {
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
            parked: AtomicUsize::new(0),
            canary: tokio::sync::Mutex::new(CANARY.0),
            gauge,
            seconds,
        }
    }

    /// How many are parked.
    pub(super) fn parked(&self) -> usize {
        self.parked.load(Relaxed)
    }

    /// Adds one to the queue; `None` when it is full.
    pub(super) fn enter(&self, policy: &Policy) -> Option<Waiter<'_>> {
        let admitted = self.parked.fetch_update(Relaxed, Relaxed, |parked| {
            (parked < policy.hold_max).then_some(parked + 1)
        });
        admitted.ok()?;
        self.gauge.increment(1.0);
        let now = Instant::now();
        Some(Waiter {
            queue: self,
            number: self.next.fetch_add(1, Relaxed),
            since: now,
            until: now + policy.hold_timeout,
            role: None,
        })
    }

    /// Lets all go, in the order in which they came, spread evenly.
    pub(super) fn release(&self) {
        if self.parked() == 0 {
            return;
        }
        let waiting = std::mem::take(&mut *self.lock());
        let Ok(count) = u32::try_from(waiting.len()) else {
            return;
        };
        let spread = (SPREAD_EACH * count).min(SPREAD_MOST);
        for (place, sender) in (1..).zip(waiting.into_values()) {
            // One that has just left does not receive it.
            let _ = sender.send(spread * place / count.max(1));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Duration>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Waiter ===

impl Waiter<'_> {
    /// How long it has waited.
    pub(super) fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// Waits until there is a reason to dial, or to give up. The client's bytes are left where they are.
    pub(super) async fn wait(
        &mut self,
        client: Option<&TcpStream>,
        fin_counts: bool,
        commands: &CommandChannel,
        view: &SnapshotReader,
    ) -> Wake {
        tokio::select! {
            biased;
            reason = cut(commands) => Wake::Cut(reason),
            () = client_gone(client, fin_counts) => Wake::ClientGone,
            () = sleep_until(self.until) => Wake::TimeUp,
            () = self.turn(view) => Wake::Dial,
        }
    }

    /// Resolves when it is this one's turn to dial: let go, or canary and due.
    async fn turn(&mut self, view: &SnapshotReader) {
        let (sender, released) = oneshot::channel();
        let queue = self.queue;
        queue.lock().insert(self.number, sender);
        let due = async {
            if self.role.is_none() {
                self.role = Some(queue.canary.lock().await);
            }
            if let Some(pause) = self.role.as_deref_mut() {
                canary(pause, queue, view).await;
            }
        };
        tokio::select! {
            biased;
            delay = released => sleep(delay.unwrap_or_default()).await,
            () = due => {}
        }
        queue.lock().remove(&self.number);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.queue.lock().remove(&self.number);
        self.queue.gauge.decrement(1.0);
        self.queue.seconds.record(self.waited().as_secs_f64());
        self.role = None;
        if self.queue.parked.fetch_sub(1, Relaxed) == 1
            && let Ok(mut pause) = self.queue.canary.try_lock()
        {
            // The last one out: the next outage starts with quick dials again.
            *pause = CANARY.0;
        }
    }
}

/// The canary's pause: grows from 0.1 s to 1 s, jittered, and ends early on a flip, which lets the others go too.
async fn canary(pause: &mut Duration, queue: &HoldQueue, view: &SnapshotReader) {
    let jittered = pause
        .mul_f64(0.8 + 0.4 * fastrand::f64())
        .clamp(CANARY.0, CANARY.1);
    *pause = (*pause * 3 / 2).min(CANARY.1);
    let mut view = view.clone();
    let before = hope(&view.load());
    let flip = async {
        loop {
            view.changed().await;
            if hope(&view.load()) > before {
                return;
            }
        }
    };
    tokio::select! {
        () = sleep(jittered) => {}
        () = flip => queue.release(),
    }
}

/// Rises when an address came back, or when one appeared at all.
fn hope(snapshot: &Snapshot) -> (usize, usize) {
    (snapshot.healthy, snapshot.addresses)
}

/// Resolves when the client has reset, or, where `fin_counts`, has ended its side in order. Elsewhere a half-closed
/// client is waiting for its answer.
pub(super) async fn client_gone(client: Option<&TcpStream>, fin_counts: bool) {
    let Some(client) = client else {
        return std::future::pending().await;
    };
    if !fin_counts {
        // Never fails but when the runtime ends.
        _ = client.ready(Interest::ERROR).await;
        return;
    }
    while let Ok(ready) = client.ready(Interest::READABLE | Interest::ERROR).await {
        if ready.is_error() || ready.is_read_closed() {
            return;
        }
        // Bytes that stay where they are: wait for the next event. The relay's first receive asks the socket itself.
        let not_now = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        _ = client.try_io(Interest::READABLE, not_now);
    }
}

/// Resolves when this connection is to be ended at once. Commands to close at rest are for those that have an upstream.
pub(super) async fn cut(commands: &CommandChannel) -> Reason {
    loop {
        if let ConnectionCommand::Cut(reason) = commands.receive().await {
            return reason;
        }
    }
}
