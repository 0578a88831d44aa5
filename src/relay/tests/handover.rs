//! A relay that goes on elsewhere: bulk beside small connections, and back.

use super::*;

/// An answer that is bulk, whatever a poll finds of it.
const LONG: usize = 256 << 20;

/// A connection that asks and is answered without end, so that others on its thread have company.
async fn chat(mut rig: Rig) {
    loop {
        rig.client.write_all(b"ping").await.unwrap();
        rig.server.read_exact(&mut [0; 4]).await.unwrap();
        rig.server.write_all(b"pong").await.unwrap();
        rig.client.read_exact(&mut [0; 4]).await.unwrap();
    }
}

async fn exchange(rig: &mut Rig, answer: &[u8]) {
    rig.client
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    rig.server.read_exact(&mut [0; 18]).await.unwrap();
    rig.server.write_all(answer).await.unwrap();
    let mut heard = vec![0; answer.len()];
    rig.client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, answer);
}

/// Asks for an answer of [`LONG`] bytes and reads all of it.
async fn download(rig: &mut Rig) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n");
    exchange(rig, head.as_bytes()).await;
    let Rig { client, server, .. } = rig;
    let send = send_pattern(server, 3, LONG);
    let receive = async {
        let mut body = (&mut *client).take(LONG as u64);
        let (bytes, end) = check_pattern(&mut body, 3).await;
        end.unwrap();
        assert_eq!(bytes, LONG);
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn bulk_leaves_the_small_ones_and_comes_back_when_it_is_small() {
    let plan = Plan {
        placement: Placement::Shared,
        ..Plan::framed()
    };
    let moves = Arc::clone(&plan.moves);
    let mut rig = plan.rig().await;
    let company = tokio::spawn(chat(Plan::default().rig().await));
    download(&mut rig).await;
    eventually("the answer's end is seen", || {
        rig.stats.phase() == Some(HttpPhase::Idle)
    })
    .await;
    let there = moves.load(Relaxed);
    assert_eq!(there % 2, 1, "{there} moves");
    // Small again: back within twice as many polls as it took.
    for _ in 0..64 {
        exchange(&mut rig, b"HTTP/1.1 204 No\r\n\r\n").await;
    }
    assert_eq!(moves.load(Relaxed), there + 1);
    // Framing has missed nothing.
    assert_eq!(rig.stats.requests(), 65);
    assert_eq!(rig.answers.complete.load(Relaxed), 65);
    drop(rig.client);
    assert_eq!(rig.server.read(&mut [0; 1]).await.unwrap(), 0);
    drop(rig.server);
    let outcome = rig.done.await.unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    assert_clean(&rig.shared, &rig.stats);
    company.abort();
}

#[tokio::test]
async fn bulk_alone_stays_where_it_is() {
    let plan = Plan {
        placement: Placement::Shared,
        ..Plan::framed()
    };
    let moves = Arc::clone(&plan.moves);
    let mut rig = plan.rig().await;
    download(&mut rig).await;
    assert_eq!(moves.load(Relaxed), 0);
}

/// Whoever sends a command finds the relay wherever it is.
#[tokio::test]
async fn commands_reach_a_relay_that_has_moved() {
    let plan = Plan {
        pauses: Some(1),
        ..Plan::framed()
    };
    let moves = Arc::clone(&plan.moves);
    let mut rig = plan.rig().await;
    for _ in 0..20 {
        exchange(&mut rig, b"HTTP/1.1 204 No\r\n\r\n").await;
    }
    assert!(moves.load(Relaxed) > 5);
    rig.commands.send(ConnectionCommand::Cut(Reason::Killed));
    let outcome = rig.done.await.unwrap();
    assert!(
        matches!(outcome, Outcome::Commanded(Reason::Killed)),
        "{outcome:?}"
    );
    let error = rig.client.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
