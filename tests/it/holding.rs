//! When nothing can be dialled: hold, try, refuse.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::client::{End, ping, read_exactly, read_out};
use crate::harness::upstream::{self, Upstream, refused};
use crate::harness::{Conf, Entryway, eventually, no_leaks};

#[tokio::test]
async fn a_held_client_is_served_when_an_endpoint_returns() {
    let gone = refused().await;
    let entryway = Entryway::start(&Conf::to(&[gone])).await;
    let mut client = entryway.connect().await;
    let from = client.local_addr().unwrap();
    client.write_all(b"patient").await.unwrap();
    eventually("parked", || {
        entryway.sum("entryway_connections_parked") == 1.0
    })
    .await;
    let back = Upstream::start(&gone.to_string(), upstream::echo).await;
    let began = Instant::now();
    assert_eq!(read_exactly(&mut client, 7).await, b"patient");
    println!("served {:?} after the return", began.elapsed());
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(back.accepted(), 1);
    drop(client);
    let line = entryway.closes(from, "client_fin").await;
    assert!(line["conn.parked_ms"].as_u64().unwrap() > 0, "{line}");
    assert_eq!(entryway.sum("entryway_connections_parked"), 0.0);
    assert_eq!(entryway.sum("entryway_parked_seconds"), 1.0);
    no_leaks(entryway).await;
}

#[tokio::test]
async fn time_up_is_a_fin_however_much_the_client_has_sent() {
    let conf = Conf::to(&[refused().await]).listener(r#"hold_timeout = "700ms""#);
    let entryway = Entryway::start(&conf).await;
    let mut client = entryway.connect().await;
    let from = client.local_addr().unwrap();
    client.write_all(&vec![b'x'; 100_000]).await.unwrap();
    let began = Instant::now();
    assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(600) && took < Duration::from_secs(2),
        "{took:?}"
    );
    drop(client);
    entryway.closes(from, "hold_timeout").await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_client_that_resets_leaves_the_room_and_one_that_half_closes_stays() {
    let gone = refused().await;
    let entryway = Entryway::start(&Conf::to(&[gone])).await;
    let (leaves, mut stays) = (entryway.connect().await, entryway.connect().await);
    eventually("both are parked", || {
        entryway.sum("entryway_connections_parked") == 2.0
    })
    .await;
    let from = leaves.local_addr().unwrap();
    upstream::reset(leaves);
    stays.write_all(b"all of it").await.unwrap();
    stays.shutdown().await.unwrap();
    let line = entryway.closes(from, "client_gone").await;
    assert_eq!(line["conn.closed_by"], "client");
    assert_eq!(entryway.sum("entryway_connections_parked"), 1.0);
    let _back = Upstream::start(&gone.to_string(), upstream::echo).await;
    assert_eq!(
        read_out(&mut stays).await,
        (b"all of it".to_vec(), End::Fin)
    );
    no_leaks(entryway).await;
}

#[tokio::test]
async fn more_than_hold_max_are_not_held() {
    let conf = Conf::to(&[refused().await])
        .listener("hold_max = 3")
        .rest(r#"shutdown.max_delay = "300ms""#);
    let entryway = Entryway::start(&conf).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(entryway.connect().await);
    }
    eventually("all places taken", || {
        entryway.sum("entryway_connections_parked") == 3.0
    })
    .await;
    let began = Instant::now();
    let mut fourth = entryway.connect().await;
    assert_eq!(read_out(&mut fourth).await, (Vec::new(), End::Fin));
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let from = fourth.local_addr().unwrap();
    drop(fourth);
    entryway.closes(from, "connect_refused").await;
    assert_eq!(entryway.sum("entryway_connections_parked"), 3.0);
    drop(held);
    no_leaks(entryway).await;
}

#[tokio::test]
async fn five_hundred_are_let_go_one_after_the_other() {
    let gone = refused().await;
    let entryway = Entryway::start(&Conf::to(&[gone]).listener(r#"hold_timeout = "30s""#)).await;
    let mut clients = JoinSet::new();
    let address = entryway.address();
    for number in 0..500_u32 {
        clients.spawn(async move {
            let mut client = TcpStream::connect(address).await.unwrap();
            ping(&mut client, &number.to_be_bytes()).await;
        });
    }
    eventually("all parked", || {
        entryway.sum("entryway_connections_parked") == 500.0
    })
    .await;
    let before = entryway.sum("entryway_connect_attempts_total");
    let pause = Duration::from_millis(1500);
    crate::harness::stays("parked", pause, || {
        entryway.sum("entryway_connections_parked") == 500.0
    })
    .await;
    let dials = entryway.sum("entryway_connect_attempts_total") - before;
    // One canary at 0.1–1 s, not five hundred.
    assert!((1.0..=20.0).contains(&dials), "{dials} dials in {pause:?}");
    let listener = TcpListener::bind(gone).await.unwrap();
    let (mut times, mut echoes) = (Vec::new(), JoinSet::new());
    while times.len() < 500 {
        let (stream, _) = listener.accept().await.unwrap();
        times.push(Instant::now());
        echoes.spawn(upstream::echo(stream, upstream::Counter::default()));
    }
    clients.join_all().await;
    let mut buckets =
        vec![0_usize; 1 + times[499].duration_since(times[0]).as_millis() as usize / 100];
    for at in &times {
        buckets[at.duration_since(times[0]).as_millis() as usize / 100] += 1;
    }
    let mean = 500.0 / buckets.len() as f64;
    let peak = *buckets.iter().max().unwrap() as f64;
    println!(
        "500 let go: per 100 ms {buckets:?}, peak {:.1} × mean",
        peak / mean
    );
    // All at once they would fill one or two.
    assert!(peak <= 200.0 && buckets.len() >= 5, "{buckets:?}");
    no_leaks(entryway).await;
}

#[tokio::test]
async fn refuse_closes_the_port_and_opens_it_again() {
    let gone = refused().await;
    let conf = Conf::to(&[gone])
        .listener(r#"when_all_down = "refuse""#)
        .upstream(r#"health.kind = "tcp""#);
    let conf = conf
        .upstream(r#"health.down_interval = "300ms""#)
        .upstream(r#"health.interval = "300ms""#);
    let entryway = Entryway::start(&conf).await;
    let address = entryway.address();
    let up = [("listener", "datomic")];
    eventually("closed", || std::net::TcpStream::connect(address).is_err()).await;
    assert_eq!(entryway.metric("entryway_listener_up", &up), 0.0);
    let _back = Upstream::start(&gone.to_string(), upstream::echo).await;
    let took = eventually("bound again", || {
        entryway.metric("entryway_listener_up", &up) == 1.0
    })
    .await;
    println!("refuse: bound again {took:?} after the endpoint's return");
    ping(&mut TcpStream::connect(address).await.unwrap(), b"open").await;
    no_leaks(entryway).await;
}
