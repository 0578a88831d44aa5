//! The hops of one upstream: which endpoints are behind which, and the tasks that hops need.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::dial::Dialer;
use crate::dial::hop::{CommandSupervisor, Hop, HopParts, HopSpec, HopState, Hops};
use crate::events::event;
use crate::metrics::{Metrics, family};
use crate::probe;
use crate::types::UpstreamName;
use crate::upstream::UpstreamHandle;
use crate::upstream::endpoint::{Address, EndpointSpec};
use crate::upstream::input::Input;
use crate::upstream::settings::HealthSettings;

/// A candidate that has not answered is asked again after this, and sooner where the hop was at fault.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What the commands of hops have to end, at shutdown.
const END_LIMIT: Duration = Duration::from_secs(6);

/// Gives hops their tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct HopTasks {
    jobs: mpsc::UnboundedSender<HopJob>,
    stop: Arc<watch::Sender<bool>>,
    ended: watch::Receiver<()>,
}

enum HopJob {
    Supervise(CommandSupervisor),
    /// Tell the upstream, and the metric of the upstream, about the hop.
    Follow {
        hop: Arc<Hop>,
        hops: Hops,
        upstream: UpstreamName,
        handle: UpstreamHandle,
        metrics: Metrics,
    },
}

/// Endpoints behind a hop whose names are only guesses.
#[derive(Debug)]
pub(super) struct Candidates {
    pub(super) endpoints: Arc<ArcSwap<Vec<EndpointSpec>>>,
    pub(super) dialer: Arc<ArcSwap<Dialer>>,
    pub(super) health: Arc<ArcSwap<HealthSettings>>,
    pub(super) handle: UpstreamHandle,
}

// === impl HopTasks ===

impl HopTasks {
    /// The handle, and the future that runs everything.
    pub(super) fn new() -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (jobs, wanted) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let (running, ended) = watch::channel(());
        let tasks = Self {
            jobs,
            stop: Arc::new(stop),
            ended,
        };
        let future = async move {
            let _running = running;
            run(wanted, stopped).await;
        };
        (tasks, future)
    }

    /// Hops for these specs. One that is known already goes on, with its connections and its command.
    pub(super) fn build(
        &self,
        specs: Vec<HopSpec>,
        known: &Hops,
        parts: &HopParts,
        handle: &UpstreamHandle,
    ) -> Hops {
        let mut fresh = Vec::new();
        let mut all = Vec::new();
        for spec in specs {
            if let Some(hop) = known.get(spec.id) {
                all.push(Arc::clone(hop));
                continue;
            }
            let name = spec.to_string();
            match Hop::build(spec, parts) {
                Ok((hop, supervisor)) => {
                    if let Some(supervisor) = supervisor {
                        let _ = self.jobs.send(HopJob::Supervise(supervisor));
                    }
                    fresh.push(Arc::clone(&hop));
                    all.push(hop);
                }
                Err(error) => {
                    event!(
                        parts.events,
                        ERROR,
                        "hop.down",
                        "the hop cannot be used",
                        upstream = parts.upstream.as_str(),
                        hop = name.as_str(),
                        error = %error,
                    );
                }
            }
        }
        let hops = Hops::new(all);
        if hops.iter().next().is_some() {
            let up = [parts.upstream.as_str()];
            parts.metrics.gauge(&family::HOP_UP, &up).set(0.0);
        }
        for hop in fresh {
            let _ = self.jobs.send(HopJob::Follow {
                hop,
                hops: hops.clone(),
                upstream: parts.upstream.clone(),
                handle: handle.clone(),
                metrics: parts.metrics.clone(),
            });
        }
        hops
    }

    /// Ends the commands, each after its last connection, and waits for them.
    pub(super) async fn end(&self) {
        self.stop.send_replace(true);
        let mut ended = self.ended.clone();
        let _ = timeout(END_LIMIT, async { while ended.changed().await.is_ok() {} }).await;
    }
}

async fn run(mut wanted: mpsc::UnboundedReceiver<HopJob>, mut stop: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    loop {
        let job = tokio::select! {
            job = wanted.recv() => job,
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_ended) = tasks.join_next() => continue,
        };
        let Some(job) = job else { break };
        let stop = stop.clone();
        match job {
            HopJob::Supervise(supervisor) => drop(tasks.spawn(supervisor.run(stop))),
            HopJob::Follow {
                hop,
                hops,
                upstream,
                handle,
                metrics,
            } => drop(tasks.spawn(follow(hop, hops, upstream, handle, metrics, stop))),
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn follow(
    hop: Arc<Hop>,
    hops: Hops,
    upstream: UpstreamName,
    handle: UpstreamHandle,
    metrics: Metrics,
    mut stop: watch::Receiver<bool>,
) {
    let mut state = hop.health().watch();
    let id = hop.spec().id;
    // A hop that a reload has taken away is followed no longer.
    drop(hop);
    loop {
        let now = *state.borrow_and_update();
        handle.send(Input::HopHealth {
            hop: id,
            is_up: now != HopState::Down,
        });
        let all_up = hops
            .iter()
            .all(|hop| hop.health().status().state == HopState::Up);
        metrics
            .gauge(&family::HOP_UP, &[upstream.as_str()])
            .set(if all_up { 1.0 } else { 0.0 });
        tokio::select! {
            changed = state.changed() => if changed.is_err() {
                return;
            },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

// === impl Candidates ===

impl Candidates {
    /// Asks every candidate until it has answered once. Runs until dropped.
    pub(super) async fn ask(self) {
        let mut answered: Vec<EndpointSpec> = Vec::new();
        loop {
            let mut pause = ASK_AGAIN.1;
            for spec in self.endpoints.load().iter() {
                let Some(target) = spec.remote_target().filter(|_| spec.is_candidate()) else {
                    continue;
                };
                if answered.contains(spec) {
                    continue;
                }
                let (dialer, health) = (self.dialer.load_full(), self.health.load_full());
                let host = probe::host_header(&spec.host, spec.port);
                let address = Address::behind(target);
                let report = probe::through(&health, &dialer, &address, &host).await;
                if report.outcome.is_success() {
                    answered.push(spec.clone());
                    let endpoint = spec.name.clone();
                    self.handle.send(Input::HopAnswered { endpoint });
                } else if report.outcome.is_void() {
                    pause = ASK_AGAIN.0;
                }
            }
            sleep(pause).await;
        }
    }
}
