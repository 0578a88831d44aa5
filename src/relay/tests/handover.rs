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

/// On a thread with others, from which bulk is to leave.
fn shared() -> Plan {
    Plan {
        placement: Placement::Shared,
        ..Plan::framed()
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
    let mut rig = shared().rig().await;
    let company = tokio::spawn(chat(Plan::default().rig().await));
    download(&mut rig).await;
    eventually("the answer's end is seen", || {
        rig.stats.phase() == Some(HttpPhase::Idle)
    })
    .await;
    assert!(rig.moves.load(Relaxed) > 0);
    // Small again: back within twice as many polls as it took.
    for _ in 0..64 {
        exchange(&mut rig, b"HTTP/1.1 204 No\r\n\r\n").await;
    }
    let moves = rig.moves.load(Relaxed);
    assert_eq!(moves % 2, 0, "{moves} moves");
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
    let mut rig = shared().rig().await;
    download(&mut rig).await;
    assert_eq!(rig.moves.load(Relaxed), 0);
}

/// Answers that come in pieces larger than nothing and smaller than bulk: such a connection waits like a small one.
#[tokio::test]
async fn bulk_leaves_those_of_medium_size_too() {
    let mut rig = shared().rig().await;
    let mut other = Plan::default().rig().await;
    let company = tokio::spawn(async move {
        loop {
            other.client.write_all(b"ping").await.unwrap();
            other.server.read_exact(&mut [0; 4]).await.unwrap();
            for _ in 0..4 {
                other.server.write_all(&[0; 40 << 10]).await.unwrap();
                other.client.read_exact(&mut [0; 40 << 10]).await.unwrap();
            }
        }
    });
    download(&mut rig).await;
    assert!(rig.moves.load(Relaxed) > 0);
    company.abort();
}

/// A side that is found dead when the relay is about to leave is not forgotten.
#[tokio::test]
async fn a_reset_of_this_very_poll_stays_here() {
    let plan = Plan {
        placement: Placement::Bulk,
        ..Plan::default()
    };
    let ((_client, down), (_server, up)) = (pair(None).await, pair(None).await);
    let (stats, commands, answers) = (
        ConnStats::default(),
        CommandChannel::default(),
        Answers::default(),
    );
    let (mut down, mut up) = (Stream::from(down), Stream::from(up));
    let args = args(&plan, &stats, &commands, &answers);
    let mut relay = relay(&mut down, &mut up, args);
    let poll = |relay: &mut Relay<'_>| {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(relay).poll(&mut cx)
    };
    for _ in 0..31 {
        assert!(poll(&mut relay).is_pending());
    }
    // As a check of delivery does.
    relay.down.reset = Some(Fault::UserTimeout);
    assert!(poll(&mut relay).is_pending());
    let passed_on = relay.reset.as_ref().map(|reset| (reset.from, reset.fault));
    assert_eq!(passed_on, Some((Side::Downstream, Fault::UserTimeout)));
}

/// A move is no byte.
#[tokio::test(start_paused = true)]
async fn silence_counts_on_over_a_move() {
    let limit = Duration::from_secs(300);
    let plan = Plan {
        limits: Limits {
            idle_timeout: Some(limit),
            ..Limits::default()
        },
        ..Plan::default()
    };
    let ((_client, down), (_server, up)) = (tokio::io::duplex(9), tokio::io::duplex(9));
    let (stats, commands, answers) = (
        ConnStats::default(),
        CommandChannel::default(),
        Answers::default(),
    );
    let wrapped = |stream| Stream::Wrapped(Box::new(stream));
    let (mut down, mut up) = (wrapped(down), wrapped(up));
    let began = tokio::time::Instant::now();
    let mut first = relay(&mut down, &mut up, args(&plan, &stats, &commands, &answers));
    let waited = tokio::time::timeout(limit / 3, Pin::new(&mut first)).await;
    assert!(waited.is_err());
    let paused = first.pause();
    drop(first);
    let mut args = args(&plan, &stats, &commands, &answers);
    args.resumed = Some(Resumed::Paused(Box::new(paused)));
    let ended = relay(&mut down, &mut up, args).await;
    assert!(matches!(ended.outcome, Outcome::IdleTimeout), "{ended:?}");
    let took = began.elapsed();
    assert!((limit..limit + limit / 10).contains(&took), "{took:?}");
}

/// Whoever sends a command finds the relay wherever it is.
#[tokio::test]
async fn commands_reach_a_relay_that_has_moved() {
    let plan = Plan {
        pauses: Some(1),
        ..Plan::framed()
    };
    let mut rig = plan.rig().await;
    for _ in 0..20 {
        exchange(&mut rig, b"HTTP/1.1 204 No\r\n\r\n").await;
    }
    assert!(rig.moves.load(Relaxed) > 5);
    rig.commands.send(ConnectionCommand::Cut(Reason::Killed));
    let outcome = rig.done.await.unwrap();
    assert!(
        matches!(outcome, Outcome::Commanded(Reason::Killed)),
        "{outcome:?}"
    );
    let error = rig.client.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
