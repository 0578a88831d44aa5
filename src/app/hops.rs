//! The hops of one upstream: which endpoints are behind which, and the tasks that hops need.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::dial::Dialer;
use crate::dial::hop::{CommandSupervisor, Hop, HopNews, HopParts, HopSpec, HopState, Hops};
use crate::events::event;
use crate::metrics::{Metrics, family};
use crate::probe;
use crate::types::UpstreamName;
use crate::upstream::endpoint::{Address, EndpointSpec};
use crate::upstream::input::Input;
use crate::upstream::settings::HealthSettings;
use crate::upstream::{SnapshotReader, UpstreamHandle};

/// A candidate that has not answered is asked again after this, and sooner where the hop was at fault.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the files of hops are looked at.
const FILE_CHECK: Duration = Duration::from_secs(5);
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
    /// Read its files again when they change.
    Files(Weak<Hop>),
    /// Tell the upstream, and the metric of the upstream, about the hop.
    Follow {
        hop: Arc<Hop>,
        set: Arc<ArcSwap<Hops>>,
        upstream: UpstreamName,
        ends: HopEnds,
        metrics: Metrics,
    },
}

/// The upstream that hops lead to: told of their health, and asked for the addresses behind them. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct HopEnds {
    pub(super) handle: UpstreamHandle,
    pub(super) view: SnapshotReader,
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

    /// Hops for these specs, which `set` holds from then on. One that it holds already goes on, with its connections and
    /// its command; one that is no longer in it ends with its last connection.
    pub(super) fn build(
        &self,
        specs: Vec<HopSpec>,
        set: &Arc<ArcSwap<Hops>>,
        parts: &HopParts,
        ends: &HopEnds,
    ) -> Hops {
        let known = set.load_full();
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
        set.store(Arc::new(hops.clone()));
        if hops.iter().next().is_some() {
            let up = [parts.upstream.as_str()];
            parts.metrics.gauge(&family::HOP_UP, &up).set(0.0);
        }
        for hop in fresh {
            if hop.has_files() {
                let _ = self.jobs.send(HopJob::Files(Arc::downgrade(&hop)));
            }
            let _ = self.jobs.send(HopJob::Follow {
                hop,
                set: Arc::clone(set),
                upstream: parts.upstream.clone(),
                ends: ends.clone(),
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
            HopJob::Files(hop) => drop(tasks.spawn(watch_files(hop, stop))),
            HopJob::Follow {
                hop,
                set,
                upstream,
                ends,
                metrics,
            } => drop(tasks.spawn(follow(hop, set, upstream, ends, metrics, stop))),
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn follow(
    hop: Arc<Hop>,
    set: Arc<ArcSwap<Hops>>,
    upstream: UpstreamName,
    ends: HopEnds,
    metrics: Metrics,
    mut stop: watch::Receiver<bool>,
) {
    let mut state = hop.health().watch();
    let id = hop.spec().id;
    // A hop that a reload has taken away is followed no longer.
    drop(hop);
    let HopEnds { handle, mut view } = ends;
    let mut doubts = 0;
    loop {
        let HopNews {
            state: now,
            doubts: all,
            ..
        } = *state.borrow_and_update();
        handle.send(Input::HopHealth {
            hop: id,
            is_up: now != HopState::Down,
        });
        if std::mem::replace(&mut doubts, all) != all {
            handle.send(Input::HopDoubted { hop: id });
        }
        let all_up = set
            .load()
            .iter()
            .all(|hop| hop.health().status().state == HopState::Up);
        metrics
            .gauge(&family::HOP_UP, &[upstream.as_str()])
            .set(if all_up { 1.0 } else { 0.0 });
        loop {
            if let Some(hop) = set.load().get(id) {
                keep_addresses(hop, &view);
            }
            tokio::select! {
                changed = state.changed() => match changed {
                    Ok(()) => break,
                    Err(_gone) => return,
                },
                () = view.changed() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}

/// Until the hop is gone.
async fn watch_files(hop: Weak<Hop>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = clock::aligned_sleep(FILE_CHECK) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let Some(hop) = hop.upgrade() else { return };
        // Files may be slow (a network file system): nothing else waits for them.
        let read = tokio::task::spawn_blocking(move || hop.read_files_again());
        let _ = read.await;
    }
}

/// An address that has left no longer says whether the hop is silent, and has no command of its own.
fn keep_addresses(hop: &Hop, view: &SnapshotReader) {
    let id = hop.spec().id;
    let snapshot = view.load();
    let behind: Vec<_> = snapshot
        .all()
        .filter_map(|(_, view)| {
            let target = view.address.target.as_ref()?;
            (target.hop == id).then(|| (view.address.socket, target.to.clone()))
        })
        .collect();
    hop.keep(&behind);
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::addr::HostPort;
    use crate::dial::hop::{ProbeThrough, ViaSettings};
    use crate::events::{Events, Log};
    use crate::types::EndpointName;
    use crate::upstream::endpoint::{EndpointHop, Role};
    use crate::upstream::input::Intent;
    use crate::upstream::settings::UpstreamPolicy;
    use crate::upstream::{self, NamesInUse, UpstreamArgs};

    fn via(url: &str) -> HopSpec {
        let via = ViaSettings {
            url: url.to_owned(),
            ..ViaSettings::default()
        };
        via.hop().unwrap().unwrap()
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let began = tokio::time::Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// What is behind a hop is what its upstream has there now, and a hop that a reload takes away is let go.
    #[tokio::test]
    async fn departed_addresses_and_hops_are_forgotten() {
        let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = via(&format!("socks5://{}", proxy.local_addr().unwrap()));
        let id = spec.id;
        let endpoint = EndpointSpec {
            name: EndpointName::new("e"),
            host: "10.0.0.1".to_owned(),
            port: 8182,
            zone: None,
            role: Role::Configured,
            hop: Some(EndpointHop {
                id,
                remote_dns: false,
            }),
        };
        let (metrics, events) = (Metrics::default(), Events::new(Log::default()));
        let (handle, view, actor) = upstream::start(UpstreamArgs {
            upstream: UpstreamName::new("u"),
            endpoints: vec![endpoint],
            settings: UpstreamPolicy::default(),
            metrics: metrics.clone(),
            events: events.clone(),
            own_listeners: Vec::new(),
            names: NamesInUse::default(),
        });
        tokio::spawn(actor);
        let (tasks, run) = HopTasks::new();
        tokio::spawn(run);
        let parts = HopParts {
            upstream: UpstreamName::new("u"),
            own: Arc::default(),
            events,
            metrics,
        };
        let ends = HopEnds {
            handle: handle.clone(),
            view: view.clone(),
        };
        let set = Arc::new(ArcSwap::from_pointee(Hops::default()));
        tasks.build(vec![spec], &set, &parts, &ends);
        let hop = Arc::clone(set.load().get(id).unwrap());
        let health = hop.health();
        // It gets through once: only a hop that has been up can turn silent.
        let to = HostPort {
            host: "10.0.0.1".to_owned(),
            port: 8182,
        };
        let answers = async {
            let (mut stream, _) = proxy.accept().await.unwrap();
            for reply in [&[5, 0][..], &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]] {
                let _request = stream.read(&mut [0; 64]).await.unwrap();
                stream.write_all(reply).await.unwrap();
            }
        };
        let (opened, ()) = tokio::join!(hop.open(&to), answers);
        opened.unwrap();
        assert_eq!(health.status().state, HopState::Up);
        let behind: Vec<_> = view
            .load()
            .all()
            .map(|(_, view)| view.address.socket)
            .collect();
        let [here] = behind[..] else {
            panic!("one address is behind the hop: {behind:?}");
        };
        let departed = SocketAddr::from(([10, 0, 0, 2], 8182));
        // Both have answered once, and then only the one that is left is asked, in vain.
        let probed = |address, timed_out| {
            let sent = clock::now();
            health.probed(
                address,
                ProbeThrough {
                    timed_out,
                    broken: false,
                    sent,
                    heard: false,
                },
            )
        };
        assert!(probed(departed, false) && probed(here, false));
        let mut turn = 0;
        until("the departed address still speaks for the hop", || {
            turn += 1;
            // Each publishes a snapshot.
            let intent = [Intent::Drain, Intent::Ready][turn % 2];
            handle.send(Input::Intent {
                endpoint: EndpointName::new("e"),
                intent,
            });
            !probed(here, true)
        })
        .await;
        assert_eq!(health.status().state, HopState::Down);

        let gone = Arc::downgrade(&hop);
        drop(hop);
        tasks.build(Vec::new(), &set, &parts, &ends);
        until("the hop is held by nobody", || gone.upgrade().is_none()).await;
    }
}
