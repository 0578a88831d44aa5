//! A side that has sent everything still gets everything, in both directions and both lanes.

use tokio::io::AsyncWriteExt;

use crate::harness::client::{End, fill, read_exactly, read_out};
use crate::harness::upstream::{Upstream, pattern};
use crate::harness::{Conf, Entryway, Stage, no_leaks, stays};
use std::time::Duration;

const MANY: usize = 8 << 20;

#[tokio::test]
async fn the_answer_after_the_clients_fin() {
    let sink = Upstream::sink().await;
    let entryway = Entryway::start(&Conf::to(&[sink.address])).await;
    let mut client = entryway.connect().await;
    let from = client.local_addr().unwrap();
    client.write_all(&pattern(0, MANY)).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(
        read_out(&mut client).await,
        (MANY.to_string().into_bytes(), End::Fin)
    );
    entryway.closes(from, "client_fin").await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_large_answer_after_the_clients_fin_to_a_slow_reader() {
    for splice in ["auto", "off"] {
        let stage = Stage::new().await;
        let (entryway, mut client, mut server) = stage.spliced_pair(splice).await;
        client.shutdown().await.unwrap();
        assert_eq!(read_out(&mut server).await, (Vec::new(), End::Fin));
        let sent = fill(&mut server, 0).await;
        server.shutdown().await.unwrap();
        let (got, end) = read_out(&mut client).await;
        assert!(
            got == pattern(0, sent) && end == End::Fin,
            "{splice}: {} of {sent}",
            got.len()
        );
        no_leaks(entryway).await;
    }
}

#[tokio::test]
async fn the_request_goes_on_after_the_upstreams_fin() {
    for splice in ["auto", "off"] {
        let stage = Stage::new().await;
        let (entryway, mut client, mut server) = stage.spliced_pair(splice).await;
        let from = client.local_addr().unwrap();
        server.write_all(b"enough").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read_out(&mut client).await, (b"enough".to_vec(), End::Fin));
        let sent = fill(&mut client, 0).await;
        client.shutdown().await.unwrap();
        let (got, end) = read_out(&mut server).await;
        assert!(
            got == pattern(0, sent) && end == End::Fin,
            "{splice}: {} of {sent}",
            got.len()
        );
        entryway.closes(from, "upstream_fin").await;
        no_leaks(entryway).await;
    }
}

#[tokio::test]
async fn a_half_closed_pair_stays_as_long_as_it_is_used() {
    let stage = Stage::new().await;
    let conf = Conf::to(&[stage.address()]).upstream(r#"tcp.half_open_timeout = "600ms""#);
    let entryway = Entryway::start(&conf).await;
    let (mut client, mut server) = stage.pair(entryway.address()).await;
    let from = client.local_addr().unwrap();
    client.write_all(b"q").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_out(&mut server).await, (b"q".to_vec(), End::Fin));
    for _ in 0..8 {
        stays("half-closed pair", Duration::from_millis(200), || {
            entryway.handles.registry.len() == 1
        })
        .await;
        server.write_all(b"part").await.unwrap();
        assert_eq!(read_exactly(&mut client, 4).await, b"part");
    }
    // Now nothing more moves: it is reaped, and nobody mistakes that for an end in order.
    assert_eq!(read_out(&mut client).await.1, End::Reset);
    entryway.closes(from, "half_open_timeout").await;
    no_leaks(entryway).await;
}
