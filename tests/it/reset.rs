//! A reset on one side is a reset on the other, after every byte that had been acknowledged, and soon.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::harness::client::{End, acknowledged, fill, ping, read_exactly, read_out};
use crate::harness::upstream::{Upstream, pattern, reset};
use crate::harness::{Conf, Entryway, Stage, no_leaks};
use entryway::sys::tcp_info::unsent;

#[tokio::test]
async fn a_slow_reader_gets_all_that_was_acknowledged_and_then_the_reset() {
    for splice in ["auto", "off"] {
        let stage = Stage::new().await;
        let (entryway, mut client, mut server) = stage.spliced_pair(splice).await;
        let from = client.local_addr().unwrap();
        ping_from(&mut server, &mut client).await;
        let sent = fill(&mut server, 0).await;
        let left = unsent(&server).unwrap() as usize;
        reset(server);
        let (got, end) = read_out(&mut client).await;
        assert_eq!(end, End::Reset, "{splice}");
        assert!(
            got.len() >= sent - left,
            "{splice}: {} of {} acknowledged",
            got.len(),
            sent - left
        );
        assert!(got == pattern(0, got.len()), "{splice}: wrong bytes");
        entryway.closes(from, "upstream_rst").await;
        no_leaks(entryway).await;
    }
}

async fn ping_from(server: &mut tokio::net::TcpStream, client: &mut tokio::net::TcpStream) {
    client.write_all(b"go").await.unwrap();
    assert_eq!(read_exactly(server, 2).await, b"go");
}

#[tokio::test]
async fn the_clients_reset_reaches_the_upstream() {
    for splice in ["auto", "off"] {
        let stage = Stage::new().await;
        let (entryway, mut client, mut server) = stage.spliced_pair(splice).await;
        let from = client.local_addr().unwrap();
        let sent = fill(&mut client, 0).await;
        let left = unsent(&client).unwrap() as usize;
        reset(client);
        let (got, end) = read_out(&mut server).await;
        assert_eq!(end, End::Reset, "{splice}");
        assert!(
            got.len() >= sent - left && got == pattern(0, got.len()),
            "{splice}: {} of {sent}",
            got.len()
        );
        entryway.closes(from, "client_rst").await;
        no_leaks(entryway).await;
    }
}

#[tokio::test]
async fn a_truncated_answer_never_looks_whole() {
    let upstream = Upstream::reset_after(100_000).await;
    let entryway = Entryway::start(&Conf::to(&[upstream.address])).await;
    for _ in 0..50 {
        let mut client = entryway.connect().await;
        let from = client.local_addr().unwrap();
        client.write_all(b"?").await.unwrap();
        let (got, end) = read_out(&mut client).await;
        assert_eq!(end, End::Reset, "after {} bytes", got.len());
        entryway.closes(from, "upstream_rst").await;
    }
    no_leaks(entryway).await;
}

#[tokio::test]
async fn resets_travel_within_milliseconds() {
    let stage = Stage::new().await;
    let entryway = Entryway::start(&Conf::to(&[stage.address()])).await;
    let mut times = Vec::new();
    for number in 0..100 {
        let (mut client, mut server) = stage.pair(entryway.address()).await;
        client.write_all(b"?").await.unwrap();
        read_exactly(&mut server, 1).await;
        server.write_all(&pattern(0, 1000)).await.unwrap();
        acknowledged(&server).await;
        let (gone, mut other) = if number % 2 == 0 {
            (server, client)
        } else {
            (client, server)
        };
        let began = Instant::now();
        reset(gone);
        assert_eq!(read_out(&mut other).await.1, End::Reset);
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!(
        "a reset travels: median {:?}, p99 {:?}",
        times[50], times[98]
    );
    // The goal is 10 ms at p99; a shared machine is given more there, not at the median.
    assert!(
        times[50] < Duration::from_millis(10) && times[98] < Duration::from_millis(100),
        "{times:?}"
    );
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_clean_path_sees_no_reset() {
    let echo = Upstream::echo().await;
    let entryway = Entryway::start(&Conf::to(&[echo.address])).await;
    for _ in 0..200 {
        let mut client = entryway.connect().await;
        ping(&mut client, b"clean").await;
        client.shutdown().await.unwrap();
        assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
    }
    no_leaks(entryway).await;
}
