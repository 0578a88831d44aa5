//! When to probe what: follows the upstream's snapshots and sends the probes that they ask for.
//!
//! A snapshot says for each address when its next probe is due and in which mode. One probe at a time, except that fast
//! ones may overlap; two probes of one IP:port are never sent less than 200 ms apart, whatever the snapshot says. All
//! upstreams together have no more probes under way than the descriptor budget allows; a probe that is due beyond that
//! waits for one to end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::run::{host_header, through};
use crate::clock::{self, Moment};
use crate::dial::Dialer;
use crate::upstream::SnapshotReader;
use crate::upstream::constants;
use crate::upstream::endpoint::Address;
use crate::upstream::input::Input;
use crate::upstream::settings::HealthSettings;
use crate::upstream::snapshot::{ProbeMode, Snapshot};

/// Fast probes of one address that may be under way together; with usual deadlines it is never reached.
const MAX_IN_FLIGHT: usize = 16;

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
pub(super) struct DueProbe {
    pub(super) address: Arc<Address>,
    /// The Host header of the (first) endpoint that has it.
    pub(super) host: String,
    pub(super) probe_at: Moment,
    pub(super) pace: ProbeMode,
}

/// Where probes come from: a snapshot reader, or a test.
pub(super) trait ProbeSource: Send + 'static {
    /// The present ones, one per IP:port.
    fn load(&self) -> Vec<DueProbe>;
    /// Resolves when they may have changed.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// What was sent where.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: HashMap<SocketAddr, SentProbes>,
}

#[derive(Debug, Default)]
struct SentProbes {
    sent: Option<Moment>,
    in_flight: usize,
    /// One of those in flight is not sent yet: there are as many under way as there may be.
    waiting: bool,
}

// === impl Prober ===

impl Prober {
    /// Follows `view` once the future is spawned (on the control runtime); every outcome goes to `send`, which must not
    /// block.
    pub fn start(
        view: SnapshotReader,
        settings: HealthSettings,
        dialer: Arc<ArcSwap<Dialer>>,
        limit: Arc<Semaphore>,
        send: impl Fn(Input) + Send + Sync + 'static,
    ) -> (ProberHandle, impl Future<Output = ()> + Send + 'static) {
        let (settings, wanted) = watch::channel(settings);
        let handle = ProberHandle {
            settings: Arc::new(settings),
        };
        (handle, run(view, wanted, dialer, limit, Arc::new(send)))
    }
}

// === impl SnapshotReader ===

impl ProbeSource for SnapshotReader {
    fn load(&self) -> Vec<DueProbe> {
        probes(&SnapshotReader::load(self))
    }

    async fn changed(&mut self) {
        SnapshotReader::changed(self).await;
    }
}

// === impl ProberHandle ===

impl ProberHandle {
    /// Takes other settings, for probes sent from now on. When they are sent is decided by the upstream.
    pub fn set(&self, settings: HealthSettings) {
        self.settings.send_replace(settings);
    }
}

pub(super) async fn run(
    mut view: impl ProbeSource,
    mut wanted: watch::Receiver<HealthSettings>,
    dialer: Arc<ArcSwap<Dialer>>,
    limit: Arc<Semaphore>,
    send: Arc<dyn Fn(Input) + Send + Sync>,
) {
    let mut schedule = Schedule::default();
    let mut tasks = JoinSet::new();
    let mut sockets: HashMap<Id, SocketAddr> = HashMap::new();
    loop {
        let settings = wanted.borrow_and_update().clone();
        let now = clock::now();
        let (due, next) = schedule.take_due(view.load(), now, &settings);
        for probe in due {
            let socket = probe.address.socket;
            let (settings, send) = (settings.clone(), Arc::clone(&send));
            let (dialer, limit) = (dialer.load_full(), Arc::clone(&limit));
            let permit = Arc::clone(&limit).try_acquire_owned().ok();
            if permit.is_none() {
                schedule.waits(socket);
            }
            let task = tasks.spawn(async move {
                let (_permit, sent) = match permit {
                    Some(permit) => (Some(permit), now),
                    // Never closed.
                    None => (limit.acquire_owned().await.ok(), clock::now()),
                };
                run_probe(probe, sent, settings, dialer, send).await;
                sent
            });
            sockets.insert(task.id(), socket);
        }
        tokio::select! {
            () = view.changed() => {}
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            Some(ended) = tasks.join_next_with_id() => {
                let (id, sent) = match ended {
                    Ok((id, sent)) => (id, sent),
                    Err(error) => (error.id(), now),
                };
                if let Some(socket) = sockets.remove(&id) {
                    schedule.finished(socket, sent);
                }
            }
            () = sleep_until(instant(next)) => {}
        }
    }
}

async fn run_probe(
    probe: DueProbe,
    sent: Moment,
    settings: HealthSettings,
    dialer: Arc<Dialer>,
    send: Arc<dyn Fn(Input) + Send + Sync>,
) {
    let socket = probe.address.socket;
    let report = through(&settings, &dialer, &probe.address, &probe.host).await;
    if report.outcome.is_success() {
        probe.address.probe_succeeded();
    }
    if let Some(took) = report.connect {
        probe.address.connects.record(took);
    }
    send(Input::Probed {
        socket,
        sent,
        outcome: report.outcome,
        took: report.took,
    });
}

/// One probe per IP:port: endpoints that share one share its probes.
fn probes(snapshot: &Snapshot) -> Vec<DueProbe> {
    let mut probes: Vec<DueProbe> = Vec::new();
    for (endpoint, view) in snapshot.all() {
        let socket = view.address.socket;
        if probes.iter().any(|probe| probe.address.socket == socket) {
            continue;
        }
        let spec = &endpoint.endpoint.spec;
        probes.push(DueProbe {
            address: Arc::clone(&view.address),
            host: host_header(&spec.host, spec.port),
            probe_at: view.probe_at,
            pace: view.pace,
        });
    }
    probes
}

/// When to look again; a minute hence where nothing is planned.
fn instant(next: Option<Moment>) -> Instant {
    let pause = next.map_or(Duration::from_secs(60), |next| next.since(clock::now()));
    // Rounded up: the timer's resolution is a millisecond, and too early would only mean another round.
    Instant::now() + pause + Duration::from_micros(500)
}

// === impl Schedule ===

impl Schedule {
    /// Takes the probes that are due, and says when the next of the others will be.
    pub(super) fn take_due(
        &mut self,
        probes: Vec<DueProbe>,
        now: Moment,
        settings: &HealthSettings,
    ) -> (Vec<DueProbe>, Option<Moment>) {
        self.entries.retain(|socket, entry| {
            let recent = entry
                .sent
                .is_some_and(|sent| now < sent + constants::PROBE_GAP);
            let wished = || probes.iter().any(|probe| probe.address.socket == *socket);
            recent || entry.in_flight > 0 || wished()
        });
        let mut next: Option<Moment> = None;
        let due = probes.into_iter().filter(|probe| {
            let entry = self.entries.entry(probe.address.socket).or_default();
            let Some(at) = entry.due(probe, settings) else {
                return false;
            };
            let is_due = at <= now;
            if is_due {
                entry.sent = Some(now);
                entry.in_flight += 1;
            }
            // Of one just sent, the landing or a new snapshot says more; a fast one has its next turn.
            if let Some(at) = entry.due(probe, settings) {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            is_due
        });
        (due.collect(), next)
    }

    /// The probe just taken waits for others to end. No other of its address is due before it has ended, so that the gap
    /// can be kept to when it was sent.
    pub(super) fn waits(&mut self, socket: SocketAddr) {
        if let Some(entry) = self.entries.get_mut(&socket) {
            entry.waiting = true;
        }
    }

    pub(super) fn finished(&mut self, socket: SocketAddr, sent: Moment) {
        if let Some(entry) = self.entries.get_mut(&socket) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
            // One that waited was sent after it was taken, and nothing of its address was taken since.
            if entry.sent.is_none_or(|taken| sent >= taken) {
                entry.sent = Some(sent);
                entry.waiting = false;
            }
        }
    }
}

// === impl SentProbes ===

impl SentProbes {
    /// When the next probe may go; none while one under way must land first, or none is wanted.
    fn due(&self, probe: &DueProbe, settings: &HealthSettings) -> Option<Moment> {
        let wanted = match (probe.pace, self.sent) {
            (ProbeMode::Off, _) => return None,
            _ if self.waiting => return None,
            (ProbeMode::Fast(_), _) if self.in_flight >= MAX_IN_FLIGHT => return None,
            (ProbeMode::Regular | ProbeMode::Down, _) if self.in_flight > 0 => return None,
            (_, None) => probe.probe_at,
            // A time that was not there when the last probe was sent: a new due time: probe again.
            (_, Some(sent)) if probe.probe_at > sent => probe.probe_at,
            (ProbeMode::Fast(every), Some(sent)) => sent + every,
            // The outcome is with the upstream, whose next snapshot sets a new time. Should it have lost it: go on.
            (ProbeMode::Regular | ProbeMode::Down, Some(sent)) => {
                sent + settings.interval + settings.timeout
            }
        };
        Some(match self.sent {
            Some(sent) => wanted.max(sent + constants::PROBE_GAP),
            None => wanted,
        })
    }
}
