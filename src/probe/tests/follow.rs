//! The loop that sends probes: wishes in, facts out, real sockets between.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{GOOD, Server, datomic, good_system, ok};
use crate::clock::{self, Moment};
use crate::probe::follow::{Wish, Wishes, run};
use crate::upstream::endpoint::Address;
use crate::upstream::fact::{Fact, ProbeOutcome};
use crate::upstream::snapshot::Pace;
use crate::upstream::timing::{HealthSettings, ProbeKind};

impl Wishes for watch::Receiver<Vec<Wish>> {
    fn load(&self) -> Vec<Wish> {
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
    wishes: watch::Sender<Vec<Wish>>,
    settings: watch::Sender<HealthSettings>,
    facts: mpsc::UnboundedReceiver<Fact>,
    task: JoinHandle<()>,
}

impl Rig {
    fn start(server: &Server) -> Self {
        let (wishes, view) = watch::channel(Vec::new());
        let (settings, wanted) = watch::channel(datomic());
        let (tell, facts) = mpsc::unbounded_channel();
        let tell = move |fact| {
            let _ = tell.send(fact);
        };
        Self {
            address: Arc::new(Address::new(server.addr)),
            wishes,
            settings,
            facts,
            task: tokio::spawn(run(view, wanted, Arc::new(tell))),
        }
    }

    fn wish(&self, probe_at: Moment, pace: Pace) {
        self.wishes.send_replace(vec![Wish {
            address: Arc::clone(&self.address),
            host: "h:1".to_owned(),
            probe_at,
            pace,
        }]);
    }

    /// When the next outcome's probe was sent, and the outcome.
    async fn next(&mut self) -> (Moment, ProbeOutcome) {
        let fact = timeout(Duration::from_secs(10), self.facts.recv()).await;
        match fact.expect("an outcome in time").unwrap() {
            Fact::Probed { sent, outcome, .. } => (sent, outcome),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn probes_follow_the_snapshot() {
    let server = Server::says(ok("", GOOD)).await;
    let mut rig = Rig::start(&server);
    rig.wish(clock::now(), Pace::Regular);
    let (first, outcome) = rig.next().await;
    assert_eq!(outcome, good_system());
    assert_eq!(rig.address.connects.count(), 1);
    // The next is due at once: it keeps the gap all the same.
    rig.wish(clock::now(), Pace::Regular);
    let (second, _) = rig.next().await;
    assert!(second.since(first) >= Duration::from_millis(200));
    rig.settings.send_replace(HealthSettings {
        kind: ProbeKind::Tcp,
        ..datomic()
    });
    rig.wish(clock::now(), Pace::Down);
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
    rig.wish(clock::now(), Pace::Fast(Duration::from_millis(200)));
    let mut sent = Vec::new();
    for _ in 0..3 {
        let (at, outcome) = rig.next().await;
        assert_eq!(outcome, ProbeOutcome::Timeout);
        sent.push(at);
    }
    assert!(sent[2].since(sent[0]) < deadline, "{sent:?}");
    assert!(frozen.connections.load(SeqCst) >= 3);
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
