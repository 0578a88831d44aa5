//! Idle, half-open and the progress watchdog; between duplexes, with a paused clock.

use tokio::io::DuplexStream;
use tokio::time::Instant;

use super::*;

fn duplexes(
    plan: Plan,
) -> (
    DuplexStream,
    DuplexStream,
    JoinHandle<Outcome>,
    Arc<ConnStats>,
) {
    let (client, down) = tokio::io::duplex(1024);
    let (server, up) = tokio::io::duplex(1024);
    let stats = Arc::new(ConnStats::default());
    let (down, up) = (
        Stream::Wrapped(Box::new(down)),
        Stream::Wrapped(Box::new(up)),
    );
    let done = tokio::spawn(run(
        down,
        up,
        Arc::clone(&stats),
        Arc::default(),
        Arc::default(),
        plan,
    ));
    (client, server, done, stats)
}

fn plan(idle: Option<u64>, half_open: Option<u64>) -> Plan {
    let mut plan = Plan::default();
    plan.limits.idle_timeout = idle.map(Duration::from_secs);
    plan.limits.half_open_timeout = half_open.map(Duration::from_secs);
    plan
}

#[tokio::test(start_paused = true)]
async fn l5_a_fully_open_pair_has_no_idle_timer_by_default() {
    let (mut client, mut server, done, _) = duplexes(Plan::default());
    tokio::time::sleep(Duration::from_secs(7 * 24 * 3600)).await;
    assert!(!done.is_finished());
    client.write_all(b"still here").await.unwrap();
    server.read_exact(&mut [0; 10]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_counts_from_the_last_byte() {
    let (mut client, mut server, done, _) = duplexes(plan(Some(10), None));
    let begin = Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        server.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0; 1]).await.unwrap();
    }
    assert!(matches!(done.await.unwrap(), Outcome::IdleTimeout));
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_secs(55) && took < Duration::from_secs(56),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn l5_a_silent_half_open_pair_is_reaped_and_a_talking_one_is_not() {
    let (mut client, mut server, done, _) = duplexes(plan(None, Some(300)));
    client.shutdown().await.unwrap();
    let begin = Instant::now();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(299)).await;
        server.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0; 1]).await.unwrap();
    }
    assert!(matches!(done.await.unwrap(), Outcome::HalfOpenTimeout));
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_secs(3290) && took < Duration::from_secs(3292),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn half_open_time_starts_with_the_half_close() {
    let (_client, mut server, done, _) = duplexes(plan(None, Some(300)));
    tokio::time::sleep(Duration::from_secs(1000)).await;
    let begin = Instant::now();
    server.shutdown().await.unwrap();
    assert!(matches!(done.await.unwrap(), Outcome::HalfOpenTimeout));
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_secs(300) && took < Duration::from_secs(301),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_recorded_and_survives() {
    let (mut client, mut server, _done, stats) = duplexes(Plan::default());
    client.write_all(b"query").await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
    let asked = stats.waiting_since().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stats.waiting_since(), Some(asked));
    assert!(!stats.at_rest(crate::clock::now(), stats.created(), Duration::from_secs(1)));
    server.write_all(b"answer").await.unwrap();
    client.read_exact(&mut [0; 6]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stats.at_rest(crate::clock::now(), stats.created(), Duration::from_secs(1)));
}

#[tokio::test]
async fn the_watchdog_sees_a_lost_wake_up_and_goes_on() {
    // A defect is simulated: the direction has to drain, there is room, but the reactor does not report it. Real
    // sockets, real time: the one test here that takes six seconds.
    let (mut client, down) = pair(None).await;
    let (_server, up) = pair(None).await;
    let (mut down, mut up) = (Stream::from(down), Stream::from(up));
    let (stats, commands) = (ConnStats::default(), CommandChannel::default());
    let (answers, plan) = (Answers::default(), Plan::default());
    let args = super::args(&plan, &stats, &commands, &answers);
    let mut relay = relay(&mut down, &mut up, args);
    relay.download.preload(b"lost".to_vec(), &mut relay.ctx);
    relay.down.lose_writability();
    let mut heard = [0; 4];
    tokio::select! {
        outcome = &mut relay => panic!("{outcome:?}"),
        read = client.read_exact(&mut heard) => assert_eq!(read.unwrap(), 4),
    }
    assert_eq!(&heard, b"lost");
    drop(relay);
    assert_eq!(plan.shared.stalls(), 1);
    assert!(
        plan.shared
            .take_stall()
            .unwrap()
            .contains("download stalled with 4 bytes")
    );
}
