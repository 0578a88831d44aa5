//! Commands: closing at rest and cutting, and what is never closed early.

use super::*;

const NO_QUIET: Duration = Duration::ZERO;

/// A command that does not stand: it is carried out now or never.
fn close(reason: Reason, quiet: Duration) -> ConnectionCommand {
    ConnectionCommand::CloseAtRest {
        reason,
        quiet,
        until: Moment::default(),
    }
}

async fn exchange(rig: &mut Rig) {
    rig.client.write_all(b"ask").await.unwrap();
    rig.server.read_exact(&mut [0; 3]).await.unwrap();
    rig.server.write_all(b"answer").await.unwrap();
    rig.client.read_exact(&mut [0; 6]).await.unwrap();
}

#[tokio::test]
async fn at_rest_the_client_gets_a_fin_and_late_bytes_never_go_upstream() {
    let mut rig = Plan::default().rig().await;
    exchange(&mut rig).await;
    rig.commands.send(close(Reason::DrainIdle, NO_QUIET));
    assert_eq!(
        rig.client.read(&mut [0; 1]).await.unwrap(),
        0,
        "FIN to the client first"
    );
    rig.client.write_all(b"too late").await.unwrap();
    drop(rig.client);
    let outcome = (&mut rig.done).await.unwrap();
    assert!(
        matches!(outcome, Outcome::Commanded(Reason::DrainIdle)),
        "{outcome:?}"
    );
    let mut heard = Vec::new();
    rig.server.read_to_end(&mut heard).await.unwrap();
    assert!(heard.is_empty(), "{heard:?} went upstream");
}

#[tokio::test]
async fn a_client_that_keeps_its_side_open_is_left_after_a_while() {
    let mut rig = Plan::default().rig().await;
    exchange(&mut rig).await;
    let begin = tokio::time::Instant::now();
    rig.commands.send(close(Reason::MaxAge, NO_QUIET));
    assert_eq!(rig.client.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(begin.elapsed() < Duration::from_millis(500));
    assert!(matches!(
        (&mut rig.done).await.unwrap(),
        Outcome::Commanded(Reason::MaxAge)
    ));
    assert!(begin.elapsed() < closing::LINGER + Duration::from_secs(1));
}

#[tokio::test]
async fn a_request_that_waits_is_not_closed_early() {
    let mut rig = Plan::default().rig().await;
    exchange(&mut rig).await;
    rig.client.write_all(b"slow").await.unwrap();
    rig.server.read_exact(&mut [0; 4]).await.unwrap();
    for _ in 0..10 {
        rig.commands.send(close(Reason::Rebalance, NO_QUIET));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(rig.stats.waiting_since().is_some());
    rig.server.write_all(b"answer").await.unwrap();
    rig.client.read_exact(&mut [0; 6]).await.unwrap();
    assert_eq!(rig.stats.waiting_since(), None);
    // Quiet is asked for too; an order that came too early is forgotten, not kept.
    rig.commands
        .send(close(Reason::Rebalance, Duration::from_secs(10)));
    exchange(&mut rig).await;
    assert!(!rig.done.is_finished());
}

#[tokio::test]
async fn a_request_already_in_our_queue_forbids_the_close() {
    // The order and the request arrive between two polls: the relay looks at the socket before it obeys.
    let mut rig = Plan::default().rig().await;
    exchange(&mut rig).await;
    for _ in 0..100 {
        rig.client.write_all(b"ask").await.unwrap();
        rig.commands.send(close(Reason::DrainIdle, NO_QUIET));
        rig.server.read_exact(&mut [0; 3]).await.unwrap();
        rig.server.write_all(b"answer").await.unwrap();
        rig.client.read_exact(&mut [0; 6]).await.unwrap();
    }
    assert!(!rig.done.is_finished());
}

#[tokio::test]
async fn unsent_bytes_forbid_the_close() {
    let mut rig = Plan {
        client_buffers: Some(4096),
        ..Plan::default()
    }
    .rig()
    .await;
    let mut server = rig.server;
    let total = 64 << 10;
    let sender = tokio::spawn(async move {
        send_pattern(&mut server, 1, total).await;
        server
    });
    eventually("all is in our send queue", || {
        rig.stats.bytes(Direction::Download) == total as u64
    })
    .await;
    rig.commands.send(close(Reason::DrainIdle, NO_QUIET));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!rig.done.is_finished());
    rig.client.read_exact(&mut vec![0; total]).await.unwrap();
    drop(sender.await.unwrap());
    assert_eq!(rig.client.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_cut_resets_both_sides() {
    let mut rig = Plan::default().rig().await;
    rig.client.write_all(b"ask").await.unwrap();
    rig.server.read_exact(&mut [0; 3]).await.unwrap();
    rig.commands
        .send(ConnectionCommand::Cut(Reason::EndpointSilent));
    for end in [&mut rig.client, &mut rig.server] {
        let error = end.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert!(matches!(
        rig.done.await.unwrap(),
        Outcome::Commanded(Reason::EndpointSilent)
    ));
}

#[tokio::test]
async fn a_cut_ends_a_close_under_way_and_a_relay_that_begins() {
    let mut rig = Plan::default().rig().await;
    exchange(&mut rig).await;
    rig.commands.send(close(Reason::DrainIdle, NO_QUIET));
    assert_eq!(rig.client.read(&mut [0; 1]).await.unwrap(), 0);
    rig.commands.send(ConnectionCommand::Cut(Reason::Killed));
    assert!(matches!(
        rig.done.await.unwrap(),
        Outcome::Commanded(Reason::Killed)
    ));
}
