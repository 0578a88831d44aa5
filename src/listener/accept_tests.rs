use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream as Client;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use super::*;
use crate::connection::Policy;
use crate::connection::tests::rig::{Later, Rig, echo, end_of, eventually, listen, policy, says};
use crate::drain::{self, DrainTrigger};
use crate::events::Reason;
use crate::listener::{ListenerSettings, bind};
use crate::relay::TcpSettings;
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::limits::DescriptorUse;
use crate::workers::Workers;

/// A listener with a test upstream behind it.
struct Open {
    rig: Rig,
    front: SocketAddr,
    stop: DrainTrigger,
    workers: Workers,
}

impl Open {
    async fn new(endpoints: &[SocketAddr], policy: Policy, budget: DescriptorBudget) -> Self {
        let rig = Rig::new(endpoints, policy).await;
        let settings = ListenerSettings {
            bind: vec!["127.0.0.1:0".to_owned()],
            ..ListenerSettings::default()
        };
        let sockets = SocketSettings {
            tcp: TcpSettings::default().options(),
            loopback_congestion: LoopbackCongestion::default(),
        };
        let bound = bind(&settings, true, &sockets).unwrap();
        let front = bound.addresses()[0];
        let workers = Workers::start(2).unwrap();
        let (stop, watch) = drain::channel();
        let route = Arc::clone(&rig.context);
        Listener::start(
            bound,
            route,
            workers.dispatcher(),
            budget,
            &rig.metrics,
            Front::new(
                settings.front,
                &[],
                FrontNames::new(Vec::new),
                &settings.name,
                &rig.metrics,
            ),
            Accepting {
                // Dropped, the trigger counts as fired.
                begin: drain::channel().1,
                stop: watch,
            },
        );
        Self {
            rig,
            front,
            stop,
            workers,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(self.front).await.unwrap()
    }

    fn is_up(&self) -> bool {
        self.rig.metrics.value("listener_up", &[]) == Some(1.0)
    }
}

fn budget() -> DescriptorBudget {
    DescriptorBudget::from_limit(1024, &DescriptorUse::default())
}

#[tokio::test]
async fn spreads_connections_evenly() {
    LocalSet::new()
        .run_until(async {
            let (listener, to) = listen().await;
            spawn_local(echo(listener));
            let open = Open::new(&[to], policy(WhenAllDown::Hold, 1000), budget()).await;
            let mut clients = Vec::new();
            for _ in 0..8 {
                let mut client = open.client().await;
                says(&mut client, b"hello").await;
                clients.push(client);
            }
            assert_eq!(open.workers.dispatcher().loads(), [4, 4]);
            drop(clients);
            eventually(|| open.rig.context.registry.is_empty()).await;
            eventually(|| open.workers.dispatcher().loads() == [0, 0]).await;
            open.rig.assert_settled();
            open.workers.stop();
        })
        .await;
}

#[tokio::test]
async fn above_the_limit_clients_get_a_fin() {
    LocalSet::new()
        .run_until(async {
            let (listener, to) = listen().await;
            spawn_local(echo(listener));
            let limited = Policy {
                max_connections: Some(2),
                ..policy(WhenAllDown::Hold, 1000)
            };
            let open = Open::new(&[to], limited, budget()).await;
            let (mut one, mut two) = (open.client().await, open.client().await);
            says(&mut one, b"1").await;
            says(&mut two, b"2").await;
            for _ in 0..5 {
                let mut more = open.client().await;
                let _ = more.write_all(b"3").await;
                assert!(end_of(&mut more).await.unwrap().is_empty());
            }
            drop(one);
            eventually(|| open.rig.context.admitted() == 1).await;
            let mut again = open.client().await;
            says(&mut again, b"4").await;
            let rejected = [("reason", "max_connections")];
            assert_eq!(
                open.rig
                    .metrics
                    .value("connections_rejected_total", &rejected),
                Some(5.0)
            );
            open.workers.stop();
        })
        .await;
}

#[tokio::test]
async fn the_queue_is_served_before_the_sockets_close() {
    LocalSet::new()
        .run_until(async {
            let (listener, to) = listen().await;
            spawn_local(echo(listener));
            let mut open = Open::new(&[to], policy(WhenAllDown::Hold, 1000), budget()).await;
            let mut clients = Vec::new();
            for _ in 0..100 {
                clients.push(open.client().await);
            }
            open.stop.fire();
            open.stop.finished().await;
            assert!(Client::connect(open.front).await.is_err());
            assert!(!open.is_up());
            for client in &mut clients {
                says(client, b"still here").await;
            }
            // Connections that the threads drop at the end say why they ended.
            open.rig.context.registry.set_ending(Reason::Killed);
            open.workers.stop();
            assert_eq!(open.rig.closed().await.text("conn.reason"), Some("killed"));
            open.rig.assert_settled();
        })
        .await;
}

#[tokio::test]
async fn refuse_closes_the_sockets_until_an_address_is_usable() {
    LocalSet::new()
        .run_until(async {
            let (later, to) = Later::new();
            let open = Open::new(&[to], policy(WhenAllDown::Refuse, 1000), budget()).await;
            eventually(|| open.is_up()).await;
            let mut first = open.client().await;
            assert!(
                end_of(&mut first).await.unwrap().is_empty(),
                "accepted before it was known"
            );
            let began = Instant::now();
            eventually(|| !open.is_up()).await;
            assert!(began.elapsed() < Duration::from_secs(1));
            assert!(Client::connect(open.front).await.is_err());
            spawn_local(echo(later.listen()));
            let began = Instant::now();
            eventually(|| open.is_up()).await;
            assert!(began.elapsed() < Duration::from_secs(1));
            let mut second = open.client().await;
            says(&mut second, b"back").await;
            open.workers.stop();
        })
        .await;
}
