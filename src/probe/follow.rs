//! When to probe what: follows the pool's snapshots and sends the probes they ask for.
//!
//! A snapshot says per address when the next probe is due and how (`Pace`). One probe at a time, but fast ones may
//! overlap; two probes of one IP:port are never sent less than 200 ms apart, whatever the snapshot says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::exchange::{host_header, once};
use crate::clock::{self, Moment};
use crate::upstream::View;
use crate::upstream::endpoint::Address;
use crate::upstream::fact::Fact;
use crate::upstream::snapshot::{Pace, Snapshot};
use crate::upstream::timing::{HealthSettings, Timing};

/// Fast probes of one address that may be under way together; with usual deadlines it is never reached.
const MAX_FLYING: usize = 16;

/// Sends probes.
#[derive(Debug)]
pub struct Prober;

/// Steers a prober; it ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct ProberHandle {
    settings: Arc<watch::Sender<HealthSettings>>,
}

/// What a snapshot says about one IP:port.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) address: Arc<Address>,
    /// The Host header of the (first) endpoint that has it.
    pub(super) host: String,
    pub(super) probe_at: Moment,
    pub(super) pace: Pace,
}

/// Where wishes come from: the pool's view, or a test.
pub(super) trait Wishes: Send + 'static {
    /// The present ones, one per IP:port.
    fn load(&self) -> Vec<Wish>;
    /// Resolves when they may have changed.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// What was sent where.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: HashMap<SocketAddr, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    sent: Option<Moment>,
    flying: usize,
}

// === impl Prober ===

impl Prober {
    /// Follows `view` once the future is spawned (on the control runtime); every outcome goes to `tell`, which must not
    /// block.
    pub fn start(
        view: View,
        settings: HealthSettings,
        tell: impl Fn(Fact) + Send + Sync + 'static,
    ) -> (ProberHandle, impl Future<Output = ()> + Send + 'static) {
        let (settings, wanted) = watch::channel(settings);
        let handle = ProberHandle {
            settings: Arc::new(settings),
        };
        (handle, run(view, wanted, Arc::new(tell)))
    }
}

// === impl View ===

impl Wishes for View {
    fn load(&self) -> Vec<Wish> {
        wishes(&View::load(self))
    }

    async fn changed(&mut self) {
        View::changed(self).await;
    }
}

// === impl ProberHandle ===

impl ProberHandle {
    /// Takes other settings, for probes sent from now on. When they are sent is the pool's business.
    pub fn set(&self, settings: HealthSettings) {
        self.settings.send_replace(settings);
    }
}

pub(super) async fn run(
    mut view: impl Wishes,
    mut wanted: watch::Receiver<HealthSettings>,
    tell: Arc<dyn Fn(Fact) + Send + Sync>,
) {
    let mut book = Book::default();
    let mut tasks = JoinSet::new();
    let mut places: HashMap<Id, SocketAddr> = HashMap::new();
    loop {
        let settings = wanted.borrow_and_update().clone();
        let now = clock::now();
        let (due, next) = book.take_due(view.load(), now, &settings);
        for wish in due {
            let socket = wish.address.socket;
            let (settings, tell) = (settings.clone(), Arc::clone(&tell));
            let task = tasks.spawn(probe(wish, now, settings, tell));
            places.insert(task.id(), socket);
        }
        tokio::select! {
            () = view.changed() => {}
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            Some(ended) = tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                if let Some(socket) = places.remove(&id) {
                    book.landed(socket);
                }
            }
            () = sleep_until(instant(next)) => {}
        }
    }
}

async fn probe(
    wish: Wish,
    sent: Moment,
    settings: HealthSettings,
    tell: Arc<dyn Fn(Fact) + Send + Sync>,
) {
    let socket = wish.address.socket;
    let report = once(&settings, socket, &wish.host).await;
    if let Some(took) = report.connect {
        wish.address.connects.record(took);
    }
    tell(Fact::Probed {
        socket,
        sent,
        outcome: report.outcome,
        took: report.took,
    });
}

/// One wish per IP:port: endpoints that share one share its probes.
fn wishes(snapshot: &Snapshot) -> Vec<Wish> {
    let mut wishes: Vec<Wish> = Vec::new();
    for (endpoint, view) in snapshot.all() {
        let socket = view.address.socket;
        if wishes.iter().any(|wish| wish.address.socket == socket) {
            continue;
        }
        let spec = &endpoint.endpoint.spec;
        wishes.push(Wish {
            address: Arc::clone(&view.address),
            host: host_header(&spec.host, spec.port),
            probe_at: view.probe_at,
            pace: view.pace,
        });
    }
    wishes
}

/// When to look again; a minute hence where nothing is planned.
fn instant(next: Option<Moment>) -> Instant {
    let pause = next.map_or(Duration::from_secs(60), |next| next.since(clock::now()));
    // Rounded up: the timer's resolution is a millisecond, and too early would only mean another round.
    Instant::now() + pause + Duration::from_micros(500)
}

// === impl Book ===

impl Book {
    /// Takes the wishes that are due, and says when the next of the others will be.
    pub(super) fn take_due(
        &mut self,
        wishes: Vec<Wish>,
        now: Moment,
        settings: &HealthSettings,
    ) -> (Vec<Wish>, Option<Moment>) {
        self.entries.retain(|socket, entry| {
            let recent = entry
                .sent
                .is_some_and(|sent| now < sent + Timing::PROBE_GAP);
            let wished = || wishes.iter().any(|wish| wish.address.socket == *socket);
            recent || entry.flying > 0 || wished()
        });
        let mut next: Option<Moment> = None;
        let due = wishes.into_iter().filter(|wish| {
            let entry = self.entries.entry(wish.address.socket).or_default();
            let Some(at) = entry.due(wish, settings) else {
                return false;
            };
            let is_due = at <= now;
            if is_due {
                entry.sent = Some(now);
                entry.flying += 1;
            }
            // Of one just sent, the landing or a new snapshot says more; a fast one has its next turn.
            if let Some(at) = entry.due(wish, settings) {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            is_due
        });
        (due.collect(), next)
    }

    pub(super) fn landed(&mut self, socket: SocketAddr) {
        if let Some(entry) = self.entries.get_mut(&socket) {
            entry.flying = entry.flying.saturating_sub(1);
        }
    }
}

// === impl Entry ===

impl Entry {
    /// When the next probe may go; none while one under way must land first, or none is wanted.
    fn due(&self, wish: &Wish, settings: &HealthSettings) -> Option<Moment> {
        let wanted = match (wish.pace, self.sent) {
            (Pace::Off, _) => return None,
            (Pace::Fast(_), _) if self.flying >= MAX_FLYING => return None,
            (Pace::Regular | Pace::Down, _) if self.flying > 0 => return None,
            (_, None) => wish.probe_at,
            // A time that was not there when the last probe was sent: asked for anew.
            (_, Some(sent)) if wish.probe_at > sent => wish.probe_at,
            (Pace::Fast(every), Some(sent)) => sent + every,
            // The outcome is with the pool, whose next snapshot sets a new time. Should it have lost it: go on.
            (Pace::Regular | Pace::Down, Some(sent)) => sent + settings.interval + settings.timeout,
        };
        Some(match self.sent {
            Some(sent) => wanted.max(sent + Timing::PROBE_GAP),
            None => wanted,
        })
    }
}
