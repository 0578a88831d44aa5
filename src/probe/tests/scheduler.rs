//! The loop that sends probes: probes in, facts out, real sockets between.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use arc_swap::ArcSwap;

use super::{GOOD, Server, datomic, good_system, ok};
use crate::clock::{self, Moment};
use crate::dial::{DialSettings, Dialer, PreconnectSettings, Preconnected, SpareLimit};
use crate::metrics::Metrics;
use crate::probe::scheduler::{DueProbe, ProbeSource, run};
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::socket::TcpOptions;
use crate::upstream::endpoint::Address;
use crate::upstream::input::{Input, ProbeOutcome};
use crate::upstream::settings::{HealthSettings, ProbeKind};
use crate::upstream::snapshot::ProbeMode;

fn dialer() -> Arc<ArcSwap<Dialer>> {
    let settings = DialSettings {
        connect_timeout: Duration::from_secs(1),
        hedge_after: crate::dial::HedgeAfter::AtMost(Duration::ZERO),
        tcp: TcpOptions::default(),
        loopback_congestion: LoopbackCongestion::default(),
    };
    let spares = Preconnected::new(
        PreconnectSettings::default(),
        Metrics::default(),
        SpareLimit::default(),
    );
    Arc::new(ArcSwap::from_pointee(Dialer::new(
        settings,
        Vec::new(),
        spares,
    )))
}

impl ProbeSource for watch::Receiver<Vec<DueProbe>> {
    fn load(&self) -> Vec<DueProbe> {
        self.borrow().clone()
    }

    async fn changed(&mut self) {
        if watch::Receiver::changed(self).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct Rig {
    address: Arc<Address>,
    probes: watch::Sender<Vec<DueProbe>>,
    settings: watch::Sender<HealthSettings>,
    facts: mpsc::UnboundedReceiver<Input>,
    task: JoinHandle<()>,
}

impl Rig {
    fn start(server: &Server) -> Self {
        Self::limited(server, &Arc::new(Semaphore::new(64)))
    }

    fn limited(server: &Server, limit: &Arc<Semaphore>) -> Self {
        let (probes, view) = watch::channel(Vec::new());
        let (settings, wanted) = watch::channel(datomic());
        let (send, facts) = mpsc::unbounded_channel();
        let send = move |input| {
            let _ = send.send(input);
        };
        Self {
            address: Arc::new(Address::new(server.addr)),
            probes,
            settings,
            facts,
            task: tokio::spawn(run(
                view,
                wanted,
                dialer(),
                Arc::clone(limit),
                Arc::new(send),
            )),
        }
    }

    fn probe(&self, probe_at: Moment, pace: ProbeMode) {
        self.probes.send_replace(vec![DueProbe {
            address: Arc::clone(&self.address),
            host: "h:1".to_owned(),
            probe_at,
            pace,
        }]);
    }

    /// When the next outcome's probe was sent, and the outcome.
    async fn next(&mut self) -> (Moment, ProbeOutcome) {
        let input = timeout(Duration::from_secs(30), self.facts.recv()).await;
        match input.expect("an outcome in time").unwrap() {
            Input::Probed { sent, outcome, .. } => (sent, outcome),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn probes_follow_the_snapshot() {
    let server = Server::says(ok("", GOOD)).await;
    let mut rig = Rig::start(&server);
    rig.probe(clock::now(), ProbeMode::Regular);
    let (first, outcome) = rig.next().await;
    assert_eq!(outcome, good_system());
    assert_eq!(rig.address.connects.count(), 1);
    // The next is due at once: it keeps the gap all the same.
    rig.probe(clock::now(), ProbeMode::Regular);
    let (second, _) = rig.next().await;
    assert!(second.since(first) >= Duration::from_millis(200));
    rig.settings.send_replace(HealthSettings {
        kind: ProbeKind::Tcp,
        ..datomic()
    });
    rig.probe(clock::now(), ProbeMode::Down);
    let (_, outcome) = rig.next().await;
    assert_eq!(outcome, ProbeOutcome::Success { identity: None });
}

/// A frozen server: the third is sent long before the first one's deadline.
#[tokio::test]
async fn fast_probes_do_not_wait_for_each_other() {
    let frozen = Server::start(|stream| async move {
        let _hold = stream;
        std::future::pending().await
    })
    .await;
    let mut rig = Rig::start(&frozen);
    let deadline = Duration::from_secs(2);
    rig.settings.send_replace(HealthSettings {
        timeout: deadline,
        ..datomic()
    });
    rig.probe(clock::now(), ProbeMode::Fast(Duration::from_millis(200)));
    let mut sent = Vec::new();
    for _ in 0..3 {
        let (at, outcome) = rig.next().await;
        assert_eq!(outcome, ProbeOutcome::Timeout);
        sent.push(at);
    }
    assert!(sent[2].since(sent[0]) < deadline, "{sent:?}");
    assert!(frozen.connections.load(SeqCst) >= 3);
}

/// All upstreams together have no more probes under way than the limit; one that waited counts from when it was sent.
#[tokio::test]
async fn a_probe_beyond_the_limit_waits_for_its_turn() {
    let server = Server::says(ok("", GOOD)).await;
    let limit = Arc::new(Semaphore::new(1));
    let held = limit.acquire().await.unwrap();
    let mut rig = Rig::limited(&server, &limit);
    rig.probe(clock::now(), ProbeMode::Regular);
    let early = timeout(Duration::from_millis(50), rig.facts.recv()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(server.connections.load(SeqCst), 0);
    let released = clock::now();
    drop(held);
    let (sent, outcome) = rig.next().await;
    assert_eq!(outcome, good_system());
    assert!(sent >= released);
    // The next one's gap begins there.
    rig.probe(clock::now(), ProbeMode::Regular);
    let (next, _) = rig.next().await;
    assert!(next.since(sent) >= Duration::from_millis(200));
}

#[tokio::test]
async fn the_loop_ends_with_its_handle() {
    let server = Server::says("").await;
    let rig = Rig::start(&server);
    drop(rig.settings);
    timeout(Duration::from_secs(5), rig.task)
        .await
        .expect("it ends")
        .unwrap();
}
