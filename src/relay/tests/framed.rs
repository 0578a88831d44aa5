//! A relay that follows framing: rest behind a complete answer, commands that stand, times by request.

use super::closing::PAUSE;
use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Stands for as long as a test takes; the quiet is for connections without framing.
fn close() -> ConnectionCommand {
    ConnectionCommand::CloseAtRest {
        reason: Reason::DrainIdle,
        quiet: Duration::from_secs(3600),
        until: crate::clock::now() + Duration::from_secs(3600),
    }
}

async fn ask(rig: &mut Rig) {
    rig.client.write_all(GET).await.unwrap();
    rig.server.read_exact(&mut [0; GET.len()]).await.unwrap();
}

async fn answer(rig: &mut Rig) {
    rig.server.write_all(ANSWER).await.unwrap();
    rig.client.read_exact(&mut [0; ANSWER.len()]).await.unwrap();
}

#[tokio::test]
async fn a_command_stands_until_the_answer_is_complete() {
    let mut rig = Plan::framed().rig().await;
    ask(&mut rig).await;
    answer(&mut rig).await;
    ask(&mut rig).await;
    rig.commands.send(close());
    let (first, rest) = ANSWER.split_at(ANSWER.len() - 1);
    rig.server.write_all(first).await.unwrap();
    rig.client
        .read_exact(&mut vec![0; first.len()])
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!rig.done.is_finished());
    assert_eq!(rig.stats.phase(), Some(HttpPhase::Answer));
    rig.server.write_all(rest).await.unwrap();
    let mut end = Vec::new();
    rig.client.read_to_end(&mut end).await.unwrap();
    assert_eq!(end, rest, "a FIN right behind the answer");
    // A request that met it is not sent upstream, and is counted.
    rig.client.write_all(GET).await.unwrap();
    drop(rig.client);
    let outcome = (&mut rig.done).await.unwrap();
    assert!(
        matches!(outcome, Outcome::Commanded(Reason::DrainIdle)),
        "{outcome:?}"
    );
    assert!(rig.stats.request_dropped());
    let mut heard = Vec::new();
    rig.server.read_to_end(&mut heard).await.unwrap();
    assert!(heard.is_empty(), "{heard:?} went upstream");
    assert_eq!(rig.stats.requests(), 2);
    assert_eq!(rig.answers.complete.load(Relaxed), 2);
}

/// Tried anew where the machine stood still for longer than the close waits.
#[tokio::test]
async fn a_close_waits_for_a_pause_behind_an_answer() {
    for _ in 0..40 {
        let mut rig = Plan::framed().rig().await;
        ask(&mut rig).await;
        answer(&mut rig).await;
        let ordered = tokio::time::Instant::now();
        rig.commands.send(close());
        ask(&mut rig).await;
        let answered = tokio::time::Instant::now();
        if answered - ordered >= PAUSE {
            continue;
        }
        answer(&mut rig).await;
        let mut end = Vec::new();
        rig.client.read_to_end(&mut end).await.unwrap();
        assert!(end.is_empty(), "{end:?}");
        assert!(answered.elapsed() >= PAUSE, "{:?}", answered.elapsed());
        assert_eq!(rig.stats.requests(), 2);
        assert!(!rig.stats.request_dropped());
        return;
    }
    panic!("the machine always stood still");
}

#[tokio::test]
async fn one_that_never_pauses_is_closed_all_the_same() {
    let mut rig = Plan::framed().rig().await;
    ask(&mut rig).await;
    answer(&mut rig).await;
    rig.commands.send(close());
    let ordered = tokio::time::Instant::now();
    let (mut buffer, mut request) = ([0; ANSWER.len()], [0; GET.len()]);
    while rig.client.write_all(GET).await.is_ok() {
        tokio::select! {
            // It met the FIN.
            end = rig.client.read(&mut buffer) => {
                assert_eq!(end.unwrap(), 0);
                break;
            }
            asked = rig.server.read_exact(&mut request) => {
                asked.unwrap();
            }
        }
        rig.server.write_all(ANSWER).await.unwrap();
        rig.client.read_exact(&mut buffer).await.unwrap();
        assert!(ordered.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn without_a_next_request_a_close_comes_all_the_same() {
    let mut rig = Plan::framed().rig().await;
    ask(&mut rig).await;
    answer(&mut rig).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    rig.commands.send(close());
    let mut end = Vec::new();
    rig.client.read_to_end(&mut end).await.unwrap();
    assert!(end.is_empty(), "{end:?}");
    drop(rig.client);
    let outcome = (&mut rig.done).await.unwrap();
    assert!(
        matches!(outcome, Outcome::Commanded(Reason::DrainIdle)),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_command_whose_time_is_over_is_dropped() {
    let mut rig = Plan::framed().rig().await;
    ask(&mut rig).await;
    rig.commands.send(ConnectionCommand::CloseAtRest {
        reason: Reason::Rebalance,
        quiet: Duration::ZERO,
        until: crate::clock::now(),
    });
    // The relay looks at it before the answer is there.
    tokio::task::yield_now().await;
    answer(&mut rig).await;
    ask(&mut rig).await;
    answer(&mut rig).await;
    assert!(!rig.done.is_finished());
}

#[tokio::test]
async fn a_pair_without_a_request_is_at_rest_after_a_second() {
    let mut rig = Plan::framed().rig().await;
    rig.commands.send(close());
    tokio::time::sleep(Duration::from_millis(300)).await;
    ask(&mut rig).await;
    assert!(!rig.done.is_finished(), "its request was on its way");
    rig.server.write_all(ANSWER).await.unwrap();
    let mut end = Vec::new();
    rig.client.read_to_end(&mut end).await.unwrap();
    assert_eq!(end, ANSWER);
}

#[tokio::test]
async fn times_are_those_of_requests_pipelined_and_split_ones_too() {
    let mut rig = Plan::framed().rig().await;
    ask(&mut rig).await;
    let asked = rig.stats.waiting_since().unwrap();
    ask(&mut rig).await;
    assert_eq!(rig.stats.waiting_since(), Some(asked));
    // A first piece that does not even have the status.
    rig.server.write_all(b"HTTP/1.").await.unwrap();
    rig.client.read_exact(&mut [0; 7]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    rig.server.write_all(&ANSWER[7..]).await.unwrap();
    rig.client
        .read_exact(&mut vec![0; ANSWER.len() - 7])
        .await
        .unwrap();
    eventually("the second waits", || rig.stats.waiting_since().is_some()).await;
    assert!(rig.stats.waiting_since() > Some(asked));
    answer(&mut rig).await;
    eventually("none waits", || rig.stats.waiting_since().is_none()).await;
    assert_eq!(rig.answers.framed.load(Relaxed), 2);
    assert_eq!(rig.answers.first_bytes.count(), 2);
    assert_eq!(rig.stats.phase(), Some(HttpPhase::Idle));
}

#[tokio::test]
async fn bytes_that_are_not_http_are_carried_like_any_other() {
    let mut rig = Plan::framed().rig().await;
    rig.client.write_all(b"\x16\x03\x01").await.unwrap();
    rig.server.read_exact(&mut [0; 3]).await.unwrap();
    assert_eq!(rig.stats.phase(), Some(HttpPhase::Unknown));
    assert!(rig.stats.waiting_since().is_some());
    rig.server.write_all(b"hello").await.unwrap();
    rig.client.read_exact(&mut [0; 5]).await.unwrap();
    assert_eq!(rig.stats.waiting_since(), None);
    assert_eq!(rig.answers.framed.load(Relaxed), 0);
    assert_eq!(rig.answers.first_bytes.count(), 1);
}
