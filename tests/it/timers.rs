//! Idle and half-open limits, where asked for; without them a quiet connection stays.

use std::time::Duration;

use entryway::suspend::Interruption;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::harness::client::{End, ping, read_out};
use crate::harness::upstream::{Upstream, datomic};
use crate::harness::{Conf, Entryway, Stage, eventually, no_leaks, stays};

#[tokio::test]
async fn an_idle_pair_is_ended_when_asked_for() {
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[echo.address]).upstream(r#"tcp.idle_timeout = "700ms""#);
    let entryway = Entryway::start(&conf).await;
    let mut client = entryway.connect().await;
    let from = client.local_addr().unwrap();
    // Used, it lives longer than the limit.
    for _ in 0..5 {
        ping(&mut client, b"busy").await;
        stays("used", Duration::from_millis(300), || {
            entryway.handles.registry.len() == 1
        })
        .await;
    }
    let began = Instant::now();
    let (rest, _) = read_out(&mut client).await;
    assert!(rest.is_empty());
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(300) && took < Duration::from_millis(1500),
        "{took:?}"
    );
    let line = entryway.closes(from, "idle_timeout").await;
    assert!(line["conn.idle_ms"].as_u64().unwrap() >= 690, "{line}");
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_quiet_pair_stays_by_default() {
    let echo = Upstream::echo().await;
    let entryway = Entryway::start(&Conf::to(&[echo.address])).await;
    let mut client = entryway.connect().await;
    ping(&mut client, b"then nothing").await;
    stays("quiet", Duration::from_secs(4), || {
        entryway.handles.registry.len() == 1
    })
    .await;
    ping(&mut client, b"still here").await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_silent_half_open_pair_is_reaped_from_either_side() {
    let stage = Stage::new().await;
    let conf = Conf::to(&[stage.address()]).upstream(r#"tcp.half_open_timeout = "500ms""#);
    let entryway = Entryway::start(&conf).await;
    for by_client in [true, false] {
        let (mut client, mut server) = stage.pair(entryway.address()).await;
        let from = client.local_addr().unwrap();
        ping_through(&mut client, &mut server).await;
        let (first, second) = if by_client {
            (&mut client, &mut server)
        } else {
            (&mut server, &mut client)
        };
        first.shutdown().await.unwrap();
        assert_eq!(read_out(second).await.1, End::Fin);
        assert_eq!(read_out(first).await.1, End::Reset);
        entryway.closes(from, "half_open_timeout").await;
    }
    no_leaks(entryway).await;
}

async fn ping_through(client: &mut tokio::net::TcpStream, server: &mut tokio::net::TcpStream) {
    client.write_all(b"q").await.unwrap();
    crate::harness::client::read_exactly(server, 1).await;
    server.write_all(b"a").await.unwrap();
    crate::harness::client::read_exactly(client, 1).await;
}

#[tokio::test]
async fn after_a_sleep_one_line_says_what_it_did() {
    let entry = datomic("prod/x").await;
    let conf = Conf::to(&[entry.address])
        .upstream("health.kind = \"datomic\"")
        .upstream("health.interval = \"500ms\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    let slept = Interruption::Suspended(Duration::from_secs(8000));
    entryway.handles.woke(slept);
    let said = |part: &str| {
        let lines = entryway.events("wake");
        let mut texts = lines.iter().filter_map(|line| line["message"].as_str());
        texts.any(|text| text.contains(part))
    };
    eventually("the line", || said("back in")).await;
    assert!(said("slept 2 h 13 min: no connection closed, back in "));
    no_leaks(entryway).await;
}
