use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use super::*;
use rig::*;

pub(crate) mod rig;

#[tokio::test]
async fn a_connection_is_carried_counted_and_recorded() {
    LocalSet::new()
        .run_until(async {
            let (mut rig, to) = Rig::echoing().await;
            let mut client = rig.client().await;
            says(&mut client, b"hello").await;
            let live = rig.context.registry.oldest(10);
            assert_eq!(live.len(), 1);
            assert_eq!(live[0].candidate().unwrap().0.address.socket, to);
            rig.context.registry.settle();
            assert_eq!(
                rig.metrics.value("bytes_total", &[("direction", "upload")]),
                Some(5.0)
            );
            client.shutdown().await.unwrap();
            assert!(end_of(&mut client).await.unwrap().is_empty());
            let event = rig.closed().await;
            assert_eq!(event.text("conn.reason"), Some("client_fin"));
            assert_eq!(event.text("conn.closed_by"), Some("client"));
            assert_eq!(event.text("endpoint"), Some(&*format!("e{}", to.port())));
            assert_eq!(event.field("server.port"), Some(&to.port().into()));
            assert_eq!(event.field("bytes.upload"), Some(&5_u64.into()));
            assert_eq!(event.field("bytes.download"), Some(&5_u64.into()));
            assert_eq!(event.field("conn.attempts"), Some(&1_u32.into()));
            assert_eq!(event.field("hint"), None);
            rig.assert_settled();
            assert_eq!(rig.metrics.sum("bytes_total"), 10.0);
            assert_eq!(
                rig.metrics
                    .value("connect_attempts_total", &[("result", "ok")]),
                Some(1.0)
            );
        })
        .await;
}

#[tokio::test]
async fn a_refused_or_rude_upstream_is_not_noticed() {
    LocalSet::new()
        .run_until(async {
            for reset in [false, true] {
                let ((_held, refuses), (rudely, rude_to), (good, to)) =
                    (Later::new(), listen().await, listen().await);
                spawn_local(rude(rudely, reset));
                spawn_local(echo(good));
                let mut rig =
                    Rig::new(&[refuses, rude_to, to], policy(WhenAllDown::Hold, 1000)).await;
                let mut client = rig.client().await;
                // Before the first byte: what was sent to a rude one is never sent again.
                let settled = |entry: &Arc<Entry>| {
                    entry
                        .candidate()
                        .is_some_and(|(at, _)| at.address.socket == to)
                };
                eventually(|| rig.context.registry.oldest(1).iter().any(settled)).await;
                says(&mut client, b"once, and to one only").await;
                drop(client);
                let event = rig.closed().await;
                assert_eq!(event.text("endpoint"), Some(&*format!("e{}", to.port())));
                assert_eq!(event.field("conn.attempts"), Some(&3_u32.into()));
                rig.assert_settled();
            }
        })
        .await;
}

#[tokio::test]
async fn with_none_left_the_own_end_is_passed_on() {
    LocalSet::new()
        .run_until(async {
            for (reset, reason) in [(false, "upstream_fin"), (true, "upstream_rst")] {
                // Behind it one that refuses: tried, so none is left either.
                let ((rudely, rude_to), (_held, refuses)) = (listen().await, Later::new());
                spawn_local(rude(rudely, reset));
                for endpoints in [&[rude_to][..], &[rude_to, refuses]] {
                    let mut rig = Rig::new(endpoints, policy(WhenAllDown::Hold, 5000)).await;
                    let began = Instant::now();
                    let mut client = rig.client().await;
                    assert_eq!(end_of(&mut client).await.is_err(), reset);
                    assert!(began.elapsed() < Duration::from_millis(500), "at once");
                    drop(client);
                    assert_eq!(rig.closed().await.text("conn.reason"), Some(reason));
                    rig.assert_settled();
                }
            }
        })
        .await;
}

#[tokio::test]
async fn try_ends_with_a_fin_and_never_a_reset() {
    LocalSet::new()
        .run_until(async {
            let (_held, refuses) = Later::new();
            let mut rig = Rig::new(&[refuses], policy(WhenAllDown::Try, 0)).await;
            let mut client = rig.client().await;
            let began = Instant::now();
            client.write_all(&[7; 1000]).await.unwrap();
            assert!(end_of(&mut client).await.unwrap().is_empty());
            assert!(began.elapsed() < Duration::from_millis(100));
            drop(client);
            let event = rig.closed().await;
            assert_eq!(event.text("conn.reason"), Some("connect_refused"));
            assert_eq!(event.field("endpoint"), None);
            rig.assert_settled();
        })
        .await;
}

#[tokio::test]
async fn parked_until_the_upstream_is_back() {
    LocalSet::new()
        .run_until(async {
            let (later, to) = Later::new();
            let mut rig = Rig::new(&[to], policy(WhenAllDown::Hold, 10_000)).await;
            let mut clients = Vec::new();
            for _ in 0..20 {
                let mut client = rig.client().await;
                client.write_all(b"early").await.unwrap();
                clients.push(client);
            }
            eventually(|| rig.context.parked() == 20).await;
            assert_eq!(rig.metrics.sum("connections_parked"), 20.0);
            spawn_local(echo(later.listen()));
            for client in &mut clients {
                let mut back = [0; 5];
                timeout(SOON, client.read_exact(&mut back))
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(&back, b"early");
            }
            assert_eq!(rig.context.parked(), 0);
            drop(clients);
            for _ in 0..20 {
                let event = rig.closed().await;
                assert_eq!(event.text("conn.reason"), Some("client_fin"));
                assert_ne!(event.field("conn.parked_ms"), Some(&0_u64.into()));
            }
            rig.assert_settled();
            assert_eq!(rig.metrics.value("parked_seconds", &[]), Some(20.0));
        })
        .await;
}

#[tokio::test]
async fn an_upstream_that_is_back_is_not_run_over() {
    LocalSet::new()
        .run_until(async {
            let (later, to) = Later::new();
            let rig = Rig::new(&[to], policy(WhenAllDown::Hold, 30_000)).await;
            let mut clients = Vec::new();
            for _ in 0..500 {
                clients.push(rig.client().await);
            }
            eventually(|| rig.context.parked() == 500).await;
            let listener = later.listen();
            let mut arrivals = Vec::new();
            let mut held = Vec::new();
            while held.len() < 500 {
                held.push(timeout(SOON, listener.accept()).await.unwrap().unwrap());
                arrivals.push(Instant::now());
            }
            let span = arrivals[499] - arrivals[0];
            let peak = arrivals
                .iter()
                .map(|from| {
                    let until = *from + Duration::from_millis(100);
                    arrivals
                        .iter()
                        .filter(|at| (*from..until).contains(at))
                        .count()
                })
                .max()
                .unwrap_or_default();
            let mean = 500.0 / (span.as_secs_f64() * 10.0);
            assert!(peak as f64 <= 3.0 * mean, "peak {peak}, mean {mean}");
            assert!(span >= Duration::from_millis(800), "{span:?}");
        })
        .await;
}

#[tokio::test]
async fn a_hold_ends_in_time_with_a_fin() {
    LocalSet::new()
        .run_until(async {
            let (_held, refuses) = Later::new();
            let mut rig = Rig::new(&[refuses], policy(WhenAllDown::Hold, 300)).await;
            let mut client = rig.client().await;
            client.write_all(b"anybody?").await.unwrap();
            // A client that has ended its side may still be waiting for an answer.
            client.shutdown().await.unwrap();
            let began = Instant::now();
            assert!(end_of(&mut client).await.unwrap().is_empty());
            assert!(
                began.elapsed() >= Duration::from_millis(250),
                "{:?}",
                began.elapsed()
            );
            assert_eq!(rig.closed().await.text("conn.reason"), Some("hold_timeout"));
            rig.assert_settled();
        })
        .await;
}

#[tokio::test]
async fn a_parked_client_that_resets_leaves_at_once() {
    LocalSet::new()
        .run_until(async {
            let (_held, refuses) = Later::new();
            let mut rig = Rig::new(&[refuses], policy(WhenAllDown::Hold, 60_000)).await;
            let (one, two) = (rig.client().await, rig.client().await);
            eventually(|| rig.context.parked() == 2).await;
            crate::sys::socket::abort(one);
            assert_eq!(rig.closed().await.text("conn.reason"), Some("client_gone"));
            assert_eq!(rig.context.parked(), 1);
            // A command reaches one that is held as well.
            rig.context.registry.each(|entry| {
                entry
                    .commands
                    .send(crate::relay::ConnectionCommand::Cut(Reason::DrainDeadline))
            });
            assert_eq!(
                rig.closed().await.text("conn.reason"),
                Some("drain_deadline")
            );
            assert_eq!(rig.metrics.sum("drain_cut_total"), 1.0);
            drop(two);
            rig.assert_settled();
        })
        .await;
}

/// Its request must not run after it took it for failed. Without framing a half-closed client waits for its answer.
#[tokio::test]
async fn what_a_client_sent_that_gave_up_while_held_is_not_delivered_later() {
    LocalSet::new()
        .run_until(async {
            for framing in [true, false] {
                let (later, to) = Later::new();
                let mut rig = Rig::new(&[to], policy(WhenAllDown::Hold, 10_000)).await;
                rig.context.limits.store(Arc::new(relay::Limits {
                    framing,
                    ..relay::Limits::default()
                }));
                let mut gone = rig.client().await;
                let mut waits = rig.client().await;
                eventually(|| rig.context.parked() == 2).await;
                gone.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
                waits.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
                // Its bytes first, its end on its own: bytes alone are no end.
                tokio::time::sleep(Duration::from_millis(50)).await;
                assert_eq!(rig.context.parked(), 2);
                gone.shutdown().await.unwrap();
                if framing {
                    assert_eq!(rig.closed().await.text("conn.reason"), Some("client_gone"));
                }
                let listener = later.listen();
                let mut heard = Vec::new();
                for _ in 0..2 - usize::from(framing) {
                    let (mut server, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
                    let mut first = [0; 4];
                    timeout(SOON, server.read_exact(&mut first))
                        .await
                        .unwrap()
                        .unwrap();
                    heard.push(first);
                }
                assert_eq!(heard.contains(b"POST"), !framing, "framing: {framing}");
                assert!(heard.contains(b"GET "));
            }
        })
        .await;
}

/// What it sent is read off first: a close with unread bytes would be a reset.
#[tokio::test]
async fn a_held_client_gets_a_clean_end_also_when_it_has_sent_something() {
    LocalSet::new()
        .run_until(async {
            let (_held, refuses) = Later::new();
            let mut rig = Rig::new(&[refuses], policy(WhenAllDown::Hold, 300)).await;
            rig.context.limits.store(Arc::new(relay::Limits {
                framing: true,
                ..relay::Limits::default()
            }));
            let mut client = rig.client().await;
            eventually(|| rig.context.parked() == 1).await;
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
            // It keeps its side open for longer than it is waited for.
            assert_eq!(rig.closed().await.text("conn.reason"), Some("hold_timeout"));
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
            rig.assert_settled();
        })
        .await;
}

#[tokio::test]
async fn a_full_queue_is_like_try() {
    LocalSet::new()
        .run_until(async {
            let (_held, refuses) = Later::new();
            let policy = Policy {
                hold_max: 1,
                ..policy(WhenAllDown::Hold, 60_000)
            };
            let mut rig = Rig::new(&[refuses], policy).await;
            let _parked = rig.client().await;
            eventually(|| rig.context.parked() == 1).await;
            let mut second = rig.client().await;
            assert!(end_of(&mut second).await.unwrap().is_empty());
            drop(second);
            assert_eq!(
                rig.closed().await.text("conn.reason"),
                Some("connect_refused")
            );
        })
        .await;
}

#[tokio::test]
async fn a_dropped_task_is_counted_and_recorded_too() {
    LocalSet::new()
        .run_until(async {
            let (mut rig, _) = Rig::echoing().await;
            let mut client = rig.client().await;
            says(&mut client, b"x").await;
            rig.listener.abort();
            let event = rig.closed().await;
            assert_eq!(event.text("conn.reason"), Some("internal"));
            assert_eq!(event.field("bytes.upload"), Some(&1_u64.into()));
            rig.assert_settled();
        })
        .await;
}

#[tokio::test]
async fn a_panic_is_counted_too() {
    LocalSet::new()
        .run_until(async {
            let mut rig = Rig::new(&[], policy(WhenAllDown::Hold, 1000)).await;
            let context = Arc::clone(&rig.context);
            let task = spawn_local(async move {
                let _open = admit(([127, 0, 0, 1], 9).into(), &context, usize::MAX);
                panic!("a bug, on purpose");
            });
            assert!(task.await.unwrap_err().is_panic());
            assert_eq!(rig.closed().await.text("conn.reason"), Some("internal"));
            assert_eq!(rig.metrics.sum("panics_total"), 1.0);
            rig.assert_settled();
        })
        .await;
}

#[tokio::test]
async fn above_the_limit_is_a_fin_and_not_counted_against_it() {
    LocalSet::new()
        .run_until(async {
            let (mut rig, _) = Rig::echoing().await;
            let (listener, front) = listen().await;
            let mut client = TcpStream::connect(front).await.unwrap();
            client.write_all(b"hello").await.unwrap();
            let (stream, peer) = listener.accept().await.unwrap();
            let stream = stream.into_std().unwrap();
            let context = Arc::clone(&rig.context);
            spawn_local(reject(stream, peer, context, Reason::MaxConnections));
            assert!(end_of(&mut client).await.unwrap().is_empty());
            assert_eq!(rig.context.admitted(), 0);
            drop(client);
            assert_eq!(
                rig.closed().await.text("conn.reason"),
                Some("max_connections")
            );
            assert_eq!(rig.metrics.sum("connections_rejected_total"), 1.0);
            rig.assert_settled();
        })
        .await;
}

/// Whoever stopped answering ended the connection: a remote client that timed out is no fault of the upstream.
#[test]
fn who_ended_a_connection_follows_the_side() {
    for (side, closed_by) in [
        (Side::Downstream, ClosedBy::Client),
        (Side::Upstream, ClosedBy::Upstream),
    ] {
        for (fault, reason) in [
            (Fault::UserTimeout, Reason::UserTimeout),
            (Fault::KeepaliveTimeout, Reason::KeepaliveDead),
        ] {
            let outcome = Outcome::Reset(side, fault);
            assert_eq!(reason_of(&outcome), (reason, closed_by));
        }
    }
}

/// 50,000 connections at rest must not cost much; what is in here is most of what each keeps on the heap, beside two
/// sockets of the runtime. Guard and ends take 104 bytes each, so that glibc puts them where it would leave a gap of 112
/// between blocks that the runtime aligns to 128.
#[tokio::test]
async fn what_a_connection_keeps_is_small() {
    LocalSet::new()
        .run_until(async {
            let (rig, _) = Rig::echoing().await;
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, client) = listener.accept().unwrap();
            let guard = admit(client, &rig.context, 10).unwrap();
            let sizes = [
                ("guard", size_of::<ConnectionGuard>(), 104),
                ("ends", size_of::<Ends>(), 40 + 2 * size_of::<Stream>()),
                ("entry", size_of::<Entry>(), 328),
                // With what the runtime adds it is 640 bytes, in steps of 128.
                ("task", size_of_val(&serve(stream, guard)), 536),
            ];
            println!("{sizes:?}");
            for (what, size, most) in sizes {
                assert!(
                    size <= most,
                    "{what}: {size} bytes; at most {most} expected"
                );
            }
        })
        .await;
}
