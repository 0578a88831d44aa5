//! A reset on one side becomes a reset on the other, after every acknowledged byte (L2, bugs 11–13).

use super::*;
use crate::sys::{socket, tcp_info};

/// How fast the client reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    Fast,
    Slow,
    Late,
}

fn is_reset(end: &io::Result<()>) -> bool {
    end.as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// Sends until nothing is taken for a while or the total is reached, then resets. Acknowledged = sent − SIOCOUTQ: the
/// sender's own kernel throws the rest away. Sent on a thread of its own, with a blocking socket.
fn send_and_reset(
    server: TcpStream,
    total: usize,
    unhindered: bool,
) -> std::thread::JoinHandle<usize> {
    let server = server.into_std().unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        server.set_nonblocking(false).unwrap();
        server
            .set_write_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let mut buf = vec![0; 64 << 10];
        let mut sent = 0;
        while sent < total {
            let len = buf.len().min(total - sent);
            pattern(4, sent, &mut buf[..len]);
            match (&server).write(&buf[..len]) {
                Ok(bytes) => sent += bytes,
                Err(_) => break,
            }
        }
        if unhindered {
            while tcp_info::unsent(&server).unwrap() > 0 {
                std::thread::yield_now();
            }
        }
        socket::reset_on_close(&server).unwrap();
        // Between this look and the close more may be acknowledged: a bound from below is what is needed.
        sent - tcp_info::unsent(&server).unwrap() as usize
    })
}

#[tokio::test]
async fn bugs_11_12_an_upstream_reset_arrives_after_all_acknowledged_bytes() {
    for splice in [true, false] {
        for reader in [Reader::Fast, Reader::Slow, Reader::Late] {
            let mut plan = if splice {
                Plan::default()
            } else {
                Plan::buffer_only()
            };
            if reader != Reader::Fast {
                plan.client_buffers = Some(16 << 10);
            }
            let mut rig = plan.rig().await;
            let server = send_and_reset(rig.server, 4 << 20, reader == Reader::Fast);
            match reader {
                Reader::Fast => {}
                Reader::Slow => tokio::time::sleep(Duration::from_millis(50)).await,
                // The sender has given up and reset by then; what it was acknowledged is in our queues.
                Reader::Late => tokio::time::sleep(Duration::from_millis(600)).await,
            }
            let (bytes, end) = check_pattern(&mut rig.client, 4).await;
            let acknowledged = server.join().unwrap();
            assert!(
                bytes >= acknowledged,
                "{splice} {reader:?}: {bytes} of {acknowledged} acknowledged bytes"
            );
            assert!(
                is_reset(&end),
                "{splice} {reader:?}: {end:?} instead of a reset"
            );
            let outcome = (&mut rig.done).await.unwrap();
            assert!(
                matches!(outcome, Outcome::Reset(Side::Upstream, Fault::Reset)),
                "{outcome:?}"
            );
            assert_eq!(rig.shared.reset_gave_up(), 0);
            assert_clean(&rig.shared, &rig.stats);
        }
    }
}

#[tokio::test]
async fn a_client_reset_reaches_the_upstream_at_once() {
    for send in [0, 10, 1 << 20] {
        let mut rig = Plan::default().rig().await;
        let mut heard = 0;
        if send > 0 {
            let client = async { send_pattern(&mut rig.client, 2, send).await };
            let server = async {
                while heard < send {
                    heard += rig.server.read(&mut vec![0; 65536]).await.unwrap();
                }
            };
            tokio::join!(client, server);
        }
        let begin = tokio::time::Instant::now();
        rig.client.set_zero_linger().unwrap();
        drop(rig.client);
        let error = rig.server.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(
            begin.elapsed() < Duration::from_millis(100),
            "{:?}",
            begin.elapsed()
        );
        assert!(matches!(
            rig.done.await.unwrap(),
            Outcome::Reset(Side::Downstream, Fault::Reset)
        ));
    }
}

#[tokio::test]
async fn a_reset_whose_error_was_taken_is_still_a_reset() {
    // Forced write-first order: our write takes the error, so that the read that follows looks like a clean end.
    for _ in 0..50 {
        let (mut client, down) = pair(None).await;
        let (mut server, up) = pair(None).await;
        client.write_all(b"after the reset").await.unwrap();
        server.write_all(b"said before").await.unwrap();
        server.set_zero_linger().unwrap();
        drop(server);
        eventually("the reset is there", || socket::is_over(&up)).await;
        assert!(socket::send(&up, b"!").is_err(), "takes the error");
        let (stats, plan) = (Arc::default(), Plan::default());
        let done = tokio::spawn(run(
            down.into(),
            up.into(),
            stats,
            Arc::default(),
            Arc::default(),
            plan,
        ));
        let mut heard = Vec::new();
        let end = client.read_to_end(&mut heard).await;
        assert_eq!(heard, b"said before");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(matches!(
            done.await.unwrap(),
            Outcome::Reset(Side::Upstream, Fault::Reset)
        ));
    }
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_seen_though_nobody_reads_that_side() {
    // The client has ended its half and then dies while it waits for the answer.
    let mut rig = Plan::default().rig().await;
    rig.client.write_all(b"query").await.unwrap();
    rig.client.shutdown().await.unwrap();
    rig.server.read_to_end(&mut Vec::new()).await.unwrap();
    rig.client.set_zero_linger().unwrap();
    drop(rig.client);
    let error = rig.server.read(&mut [0; 1]).await;
    // A reader that has seen the end reads an end again or the error: the write tells.
    drop(error);
    eventually("the upstream is reset", || socket::is_over(&rig.server)).await;
    assert!(matches!(
        rig.done.await.unwrap(),
        Outcome::Reset(Side::Downstream, Fault::Reset)
    ));
}

#[tokio::test]
async fn an_upstream_that_closed_both_ways_resets_whoever_goes_on_writing() {
    let mut rig = Plan::default().rig().await;
    drop(rig.server);
    assert_eq!(
        rig.client.read(&mut [0; 1]).await.unwrap(),
        0,
        "the FIN first"
    );
    rig.client.write_all(b"x").await.unwrap();
    eventually("then the reset", || socket::is_over(&rig.client)).await;
    assert!(matches!(
        rig.done.await.unwrap(),
        Outcome::Reset(Side::Upstream, Fault::Reset)
    ));
}

#[tokio::test]
async fn l3_an_aborted_pipe_is_closed_and_the_next_connection_clean() {
    let shared = Plan::default().shared;
    for round in 0..20 {
        // Aborted with the pipe full.
        let plan = Plan {
            shared: Arc::clone(&shared),
            client_buffers: Some(4096),
            ..Plan::default()
        };
        let rig = plan.rig().await;
        let mut server = rig.server;
        let sender = tokio::spawn(async move {
            let secret = vec![0xee; 1 << 20];
            while server.write_all(&secret).await.is_ok() {}
        });
        eventually("the buffer is full", || rig.stats.pending() > 0).await;
        rig.client.set_zero_linger().unwrap();
        drop(rig.client);
        assert!(matches!(
            rig.done.await.unwrap(),
            Outcome::Reset(Side::Downstream, Fault::Reset)
        ));
        sender.await.unwrap();

        let plan = Plan {
            shared: Arc::clone(&shared),
            ..Plan::default()
        };
        let mut rig = plan.rig().await;
        let send = async {
            send_pattern(&mut rig.server, round, 1 << 20).await;
            rig.server.shutdown().await.unwrap();
        };
        let ((), (bytes, end)) = tokio::join!(send, check_pattern(&mut rig.client, round));
        end.unwrap();
        assert_eq!(bytes, 1 << 20);
    }
    eventually("no pipe in use", || shared.pipes_in_use() == 0).await;
}

#[tokio::test]
async fn a_reset_gives_up_on_a_client_that_never_reads_and_says_so() {
    let mut plan = Plan {
        client_buffers: Some(4096),
        ..Plan::default()
    };
    plan.limits.reset_deadline = Some(Duration::from_millis(200));
    let mut rig = plan.rig().await;
    let server = send_and_reset(rig.server, 8 << 20, false);
    let outcome = (&mut rig.done).await.unwrap();
    assert!(
        matches!(outcome, Outcome::Reset(Side::Upstream, Fault::Reset)),
        "{outcome:?}"
    );
    assert_eq!(rig.shared.reset_gave_up(), 1);
    server.join().unwrap();
    let (_, end) = check_pattern(&mut rig.client, 4).await;
    assert!(is_reset(&end), "{end:?}");
    assert_clean(&rig.shared, &rig.stats);
}

#[tokio::test]
async fn a_reset_without_a_deadline_waits_for_the_reader() {
    let mut plan = Plan {
        client_buffers: Some(4096),
        ..Plan::default()
    };
    plan.limits.reset_deadline = None;
    let mut rig = plan.rig().await;
    let server = send_and_reset(rig.server, 300_000, false);
    let joined = tokio::task::spawn_blocking(|| server.join().unwrap());
    let acknowledged = joined.await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!rig.done.is_finished());
    let (bytes, end) = check_pattern(&mut rig.client, 4).await;
    assert!(bytes >= acknowledged, "{bytes} of {acknowledged}");
    assert!(is_reset(&end), "{end:?}");
    assert_eq!(rig.shared.reset_gave_up(), 0);
}

/// The kernel's own timer would end it after a second: the window stays closed, and every probe of it is answered.
#[tokio::test]
async fn an_upstream_that_reads_nothing_and_answers_probes_outlives_user_timeout() {
    let (mut client, down) = pair(None).await;
    let (mut server, up) = pair(Some(4096)).await;
    let user_timeout = Some(Duration::from_secs(1));
    socket::user_timeout(&up, user_timeout).unwrap();
    let (stats, commands) = (Arc::default(), Arc::<CommandChannel>::default());
    let mut plan = Plan::default();
    plan.limits.tcp.user_timeout = user_timeout;
    let done = tokio::spawn(run(
        down.into(),
        up.into(),
        stats,
        Arc::clone(&commands),
        Arc::default(),
        plan,
    ));
    let total = 4 << 20;
    let sender = tokio::spawn(async move {
        send_pattern(&mut client, 5, total).await;
        client.shutdown().await.unwrap();
        client
    });
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        commands.check_delivery(crate::clock::now(), Duration::from_millis(100));
    }
    assert!(!done.is_finished());
    let (bytes, end) = check_pattern(&mut server, 5).await;
    end.unwrap();
    assert_eq!(bytes, total);
    drop(sender.await.unwrap());
}
