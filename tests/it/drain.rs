//! How it ends: connections at rest soon, queries when they are answered, the rest at the deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use entryway::app::StopRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::client::{End, get, http, ping, read_exactly, read_out};
use crate::harness::upstream::{Upstream, answering, http_answer, pattern};
use crate::harness::{Conf, Entryway, Stage, eventually, stays};

#[tokio::test]
async fn pooled_connections_at_rest_end_within_two_seconds() {
    let answers = answering(Arc::new(|| http_answer("ok"))).await;
    let conf = Conf::to(&[answers.address]).upstream(r#"framing = "http""#);
    let entryway = Entryway::start(&conf).await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = entryway.connect().await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        read_exactly(&mut client, http_answer("ok").len()).await;
        clients.push(client);
    }
    // Some that never sent anything, as a pool opens them ahead.
    for _ in 0..16 {
        clients.push(entryway.connect().await);
    }
    eventually("all there", || entryway.sum("entryway_connections") == 80.0).await;
    let clients = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { read_out(&mut client).await }));
    let clients: Vec<_> = clients.collect();
    let began = Instant::now();
    let (ended, _, past) = entryway.drain().await;
    let took = began.elapsed();
    println!("drain of 80 pairs at rest: {took:?}");
    assert_eq!(ended.cut, 0);
    assert!(took < Duration::from_secs(2), "{took:?}");
    for client in clients {
        assert_eq!(client.await.unwrap(), (Vec::new(), End::Fin));
    }
    for line in past.events("conn.close") {
        assert_eq!(line["conn.reason"], "drain_idle", "{line}");
        assert_eq!(line["conn.closed_by"], "entryway");
    }
    past.check();
}

#[tokio::test]
async fn a_slow_query_holds_up_the_end_and_then_ends_it() {
    let slow = Upstream::start("127.0.0.1:0", |mut stream, read| async move {
        let got = stream.read(&mut [0; 4096]).await.unwrap();
        read.fetch_add(got, Relaxed);
        tokio::time::sleep(Duration::from_secs(3)).await;
        stream.write_all(&http_answer("late")).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let conf = Conf::to(&[slow.address]).upstream(r#"framing = "http""#);
    let entryway = Entryway::start(&conf).await;
    let mut client = entryway.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    eventually("the query has arrived", || slow.bytes() > 0).await;
    let began = Instant::now();
    let asked = tokio::spawn(async move {
        let answer = read_exactly(&mut client, http_answer("late").len()).await;
        (answer, read_out(&mut client).await)
    });
    let (ended, _, past) = entryway.drain().await;
    let took = began.elapsed();
    println!("drain with a 3 s query: {took:?}");
    assert_eq!(
        asked.await.unwrap(),
        (http_answer("late"), (Vec::new(), End::Fin))
    );
    assert_eq!(ended.cut, 0);
    assert!(
        took > Duration::from_millis(2800) && took < Duration::from_secs(5),
        "{took:?}"
    );
    past.check();
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_reset_and_counted() {
    let frozen = Upstream::frozen().await;
    let conf = Conf::to(&[frozen.address]).rest(r#"shutdown.max_delay = "1500ms""#);
    let entryway = Entryway::start(&conf).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = entryway.connect().await;
        client.write_all(b"never answered").await.unwrap();
        clients.push(client);
    }
    eventually("all arrived", || frozen.bytes() == 5 * 14).await;
    let began = Instant::now();
    let (ended, _, past) = entryway.drain().await;
    let took = began.elapsed();
    assert_eq!(ended.cut, 5);
    assert!(
        took >= Duration::from_millis(1500) && took < Duration::from_millis(2200),
        "{took:?}"
    );
    for client in &mut clients {
        assert_eq!(read_out(client).await.1, End::Reset);
    }
    let lines = past.events("conn.close");
    assert!(
        lines
            .iter()
            .all(|line| line["conn.reason"] == "drain_deadline"),
        "{lines:?}"
    );
    assert_eq!(past.handles.metrics.sum("entryway_drain_cut_total"), 5.0);
    assert_eq!(past.events("drain.end")[0]["cut"], 5);
    past.check();
}

#[tokio::test]
async fn a_second_signal_ends_it_now() {
    let frozen = Upstream::frozen().await;
    let entryway = Entryway::start(&Conf::to(&[frozen.address])).await;
    let mut client = entryway.connect().await;
    client.write_all(b"?").await.unwrap();
    eventually("arrived", || frozen.bytes() == 1).await;
    entryway.handles.stop(StopRequest::Signal);
    eventually("draining", || {
        entryway.metric("entryway_draining", &[]) == 1.0
    })
    .await;
    stays("it waits", Duration::from_millis(300), || {
        entryway.handles.registry.len() == 1
    })
    .await;
    let began = Instant::now();
    let (ended, _, past) = entryway.drain().await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(ended.cut, 1);
    assert_eq!(read_out(&mut client).await.1, End::Reset);
    assert_eq!(past.events("conn.close")[0]["conn.reason"], "killed");
    past.check();
}

#[tokio::test]
async fn busy_and_half_closed_pairs_are_finished() {
    let stage = Stage::new().await;
    // The last fifth, in which a second of quiet is enough, begins after all parts were sent.
    let conf = Conf::to(&[stage.address()]).rest(r#"shutdown.max_delay = "8s""#);
    let entryway = Entryway::start(&conf).await;
    let (mut half, mut half_server) = stage.pair(entryway.address()).await;
    half.write_all(b"q").await.unwrap();
    half.shutdown().await.unwrap();
    assert_eq!(read_out(&mut half_server).await, (b"q".to_vec(), End::Fin));
    let (mut busy, mut busy_server) = stage.pair(entryway.address()).await;
    busy.write_all(b"q").await.unwrap();
    read_exactly(&mut busy_server, 1).await;
    entryway.handles.stop(StopRequest::Signal);
    eventually("draining", || {
        entryway.metric("entryway_draining", &[]) == 1.0
    })
    .await;
    // A download in many parts with pauses below the time that counts as rest.
    for part in 0..6 {
        busy_server
            .write_all(&pattern(part * 1000, 1000))
            .await
            .unwrap();
        assert_eq!(
            read_exactly(&mut busy, 1000).await,
            pattern(part * 1000, 1000)
        );
        stays("open", Duration::from_millis(300), || {
            entryway.handles.registry.len() == 2
        })
        .await;
    }
    half_server.write_all(b"late answer").await.unwrap();
    half_server.shutdown().await.unwrap();
    assert_eq!(
        read_out(&mut half).await,
        (b"late answer".to_vec(), End::Fin)
    );
    assert_eq!(read_out(&mut busy).await, (Vec::new(), End::Fin));
    // A client that keeps its side open is lingered for, which would reach the deadline.
    drop(busy);
    let (ended, _, past) = entryway.end().await;
    assert_eq!(ended.cut, 0);
    past.check();
}

#[tokio::test]
async fn readiness_goes_first_and_accepting_goes_on_for_min_delay() {
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[echo.address]).rest(r#"shutdown.min_delay = "800ms""#);
    let entryway = Entryway::start(&conf).await;
    let (admin, address) = (entryway.admin.unwrap(), entryway.address());
    get(admin, "/readyz").await;
    get(admin, "/startupz").await;
    let began = Instant::now();
    entryway.handles.stop(StopRequest::Signal);
    eventually("draining", || {
        entryway.metric("entryway_draining", &[]) == 1.0
    })
    .await;
    assert_eq!(http(admin, "GET", "/readyz").await.0, 503);
    get(admin, "/startupz").await;
    get(admin, "/livez").await;
    ping(&mut entryway.connect().await, b"an app that stops with us").await;
    let (_, _, past) = entryway.end().await;
    assert!(began.elapsed() >= Duration::from_millis(800));
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the port is closed"
    );
    past.check();
}

#[tokio::test]
async fn what_was_queued_when_the_listener_closes_is_served() {
    let echo = Upstream::echo().await;
    let entryway = Entryway::start(&Conf::to(&[echo.address])).await;
    let address = entryway.address();
    let flood = tokio::spawn(async move {
        let (mut served, mut refused) = (0, 0);
        while refused < 3 {
            match TcpStream::connect(address).await {
                Ok(mut client) => {
                    // Whoever was accepted is answered, however close to the end.
                    client.write_all(b"x").await.unwrap();
                    assert_eq!(read_exactly(&mut client, 1).await, b"x");
                    served += 1;
                }
                Err(_) => refused += 1,
            }
        }
        served
    });
    eventually("under way", || {
        entryway.sum("entryway_connections_accepted_total") > 50.0
    })
    .await;
    let (ended, _, past) = entryway.drain().await;
    let served = flood.await.unwrap();
    assert_eq!(ended.cut, 0);
    assert_eq!(
        past.handles
            .metrics
            .sum("entryway_connections_accepted_total"),
        f64::from(served)
    );
    past.check();
}
