//! FIN and half-close, both ways, both lanes (L2, L5).

use super::*;

/// Both lanes: the same rules.
fn plans() -> [Plan; 2] {
    [Plan::default(), Plan::buffer_only()]
}

#[tokio::test]
async fn l5_a_client_that_only_listens_gets_the_whole_reply() {
    for plan in plans() {
        let mut rig = plan.rig().await;
        rig.client.write_all(b"query").await.unwrap();
        rig.client.shutdown().await.unwrap();
        let mut query = Vec::new();
        rig.server.read_to_end(&mut query).await.unwrap();
        assert_eq!(query, b"query");
        let total = 16 << 20;
        let send = async {
            send_pattern(&mut rig.server, 5, total).await;
            rig.server.shutdown().await.unwrap();
        };
        let ((), (bytes, end)) = tokio::join!(send, check_pattern(&mut rig.client, 5));
        end.unwrap();
        assert_eq!(bytes, total);
        assert!(matches!(
            (&mut rig.done).await.unwrap(),
            Outcome::Finished {
                first: Side::Downstream
            }
        ));
        assert_clean(&rig.shared, &rig.stats);
    }
}

#[tokio::test]
async fn l5_an_upstream_that_only_listens_gets_everything() {
    for plan in plans() {
        let mut rig = plan.rig().await;
        rig.server.shutdown().await.unwrap();
        assert_eq!(rig.client.read(&mut [0; 1]).await.unwrap(), 0);
        let total = 16 << 20;
        let send = async {
            send_pattern(&mut rig.client, 6, total).await;
            rig.client.shutdown().await.unwrap();
        };
        let ((), (bytes, end)) = tokio::join!(send, check_pattern(&mut rig.server, 6));
        end.unwrap();
        assert_eq!(bytes, total);
        assert!(matches!(
            (&mut rig.done).await.unwrap(),
            Outcome::Finished {
                first: Side::Upstream
            }
        ));
        assert_clean(&rig.shared, &rig.stats);
    }
}

#[tokio::test]
async fn l2_a_fin_waits_for_a_full_lane() {
    for mut plan in plans() {
        plan.client_buffers = Some(4096);
        let mut rig = plan.rig().await;
        let total = 6 << 20;
        let mut server = rig.server;
        let sent = tokio::spawn(async move {
            send_pattern(&mut server, 9, total).await;
            server.shutdown().await.unwrap();
            server
        });
        // The reader stands still until the buffer is full and nothing moves any more.
        eventually("the buffer is full", || rig.stats.pending() > 0).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(rig.stats.pending() > 0);
        let (bytes, end) = check_pattern(&mut rig.client, 9).await;
        end.unwrap();
        assert_eq!(bytes, total);
        drop(rig.client);
        drop(sent.await.unwrap());
        assert!(matches!(
            rig.done.await.unwrap(),
            Outcome::Finished {
                first: Side::Upstream
            }
        ));
    }
}

#[tokio::test]
async fn an_empty_connection_ends_as_it_should() {
    for client_first in [true, false] {
        let mut rig = Plan::default().rig().await;
        let (first, second) = if client_first {
            (&mut rig.client, &mut rig.server)
        } else {
            (&mut rig.server, &mut rig.client)
        };
        first.shutdown().await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0);
        second.shutdown().await.unwrap();
        assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0);
        let side = if client_first {
            Side::Downstream
        } else {
            Side::Upstream
        };
        assert!(
            matches!((&mut rig.done).await.unwrap(), Outcome::Finished { first } if first == side)
        );
        assert_clean(&rig.shared, &rig.stats);
    }
}

#[tokio::test]
async fn untouched_upstream_ends_come_back_only_while_another_can_be_tried() {
    for reset in [false, true] {
        for may_retry in [true, false] {
            let mut rig = Plan {
                may_retry,
                ..Plan::default()
            }
            .rig()
            .await;
            if reset {
                rig.server.set_zero_linger().unwrap();
            }
            drop(rig.server);
            if may_retry {
                let outcome = (&mut rig.done).await.unwrap();
                match outcome {
                    Outcome::Untouched { fault: None, .. } => assert!(!reset),
                    Outcome::Untouched {
                        fault: Some(Fault::Reset),
                        ..
                    } => assert!(reset),
                    other => panic!("{other:?}"),
                }
                continue;
            }
            let end = rig.client.read(&mut [0; 1]).await;
            match end {
                Ok(0) => assert!(!reset),
                Err(error) => assert!(reset && error.kind() == io::ErrorKind::ConnectionReset),
                Ok(_) => panic!("a byte from nowhere"),
            }
        }
    }
}

#[tokio::test]
async fn once_a_byte_has_moved_an_upstream_end_is_passed_on() {
    let mut rig = Plan {
        may_retry: true,
        ..Plan::default()
    }
    .rig()
    .await;
    rig.client.write_all(b"x").await.unwrap();
    rig.server.read_exact(&mut [0; 1]).await.unwrap();
    rig.server.shutdown().await.unwrap();
    assert_eq!(rig.client.read(&mut [0; 1]).await.unwrap(), 0);
    drop(rig.client);
    assert!(matches!(
        rig.done.await.unwrap(),
        Outcome::Finished {
            first: Side::Upstream
        }
    ));

    // The same when the client's end was passed on first.
    let mut rig = Plan {
        may_retry: true,
        ..Plan::default()
    }
    .rig()
    .await;
    rig.client.shutdown().await.unwrap();
    assert_eq!(rig.server.read(&mut [0; 1]).await.unwrap(), 0);
    drop(rig.server);
    assert_eq!(rig.client.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(matches!(
        rig.done.await.unwrap(),
        Outcome::Finished {
            first: Side::Downstream
        }
    ));
}

#[tokio::test]
async fn bytes_read_for_an_upstream_that_was_gone_go_to_the_next() {
    let (mut client, down) = pair(None).await;
    let mut down = Stream::from(down);
    let (stats, commands) = (ConnStats::default(), CommandChannel::default());
    let (answers, plan) = (Answers::default(), Plan::default());

    // The first upstream is reset already; forced write-first order: the client's bytes are there, the reactor has
    // said nothing, and the error of the socket was taken.
    let (server, up) = pair(None).await;
    client.write_all(b"precious").await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    eventually("the reset is there", || crate::sys::socket::is_over(&up)).await;
    let _ = crate::sys::socket::take_error(&up);
    let mut up = Stream::from(up);
    let first = RelayArgs {
        began: crate::clock::now(),
        may_retry: true,
        ..args(&plan, &stats, &commands, &answers)
    };
    let ended = relay(&mut down, &mut up, first).await;
    assert!(ended.was_untouched);
    let Outcome::Untouched { unsent, .. } = ended.outcome else {
        panic!("{ended:?}");
    };
    // Read for the first upstream or still in the client's socket: the next one gets them either way.
    assert!(unsent.is_empty() || unsent == b"precious", "{unsent:?}");

    let (mut server, up) = pair(None).await;
    let mut up = Stream::from(up);
    client.shutdown().await.unwrap();
    let serve = async {
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"precious");
        drop(server);
    };
    let second = RelayArgs {
        began: crate::clock::now(),
        unsent,
        ..args(&plan, &stats, &commands, &answers)
    };
    let (ended, ()) = tokio::join!(relay(&mut down, &mut up, second), serve);
    assert!(
        matches!(
            ended.outcome,
            Outcome::Finished {
                first: Side::Downstream
            }
        ),
        "{ended:?}"
    );
    assert_eq!(plan.shared.leftover_bytes(), 0);
}
