//! More connections than there is room for: refused in order, nothing lost, and it recovers.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::child::Process;
use crate::harness::client::{End, get, ping, read_out};
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, Entryway, eventually, no_leaks};

#[tokio::test]
async fn above_max_connections_a_client_gets_a_fin() {
    let echo = Upstream::echo().await;
    let entryway =
        Entryway::start(&Conf::to(&[echo.address]).listener("max_connections = 3")).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = entryway.connect().await;
        ping(&mut client, b"in").await;
        clients.push(client);
    }
    for _ in 0..5 {
        let mut client = entryway.connect().await;
        let from = client.local_addr().unwrap();
        client.write_all(&vec![b'x'; 50_000]).await.unwrap();
        assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
        drop(client);
        entryway.closes(from, "max_connections").await;
    }
    let rejected = [("listener", "datomic"), ("reason", "max_connections")];
    assert_eq!(
        entryway.metric("entryway_connections_rejected_total", &rejected),
        5.0
    );
    assert_eq!(echo.accepted(), 3);
    let gone = clients.pop().unwrap().local_addr().unwrap();
    entryway.closes(gone, "client_fin").await;
    ping(&mut entryway.connect().await, b"room again").await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_flood_on_64_descriptors() {
    let echo = Upstream::echo().await;
    let mut process = Process::with_limit(&Conf::to(&[echo.address]), Some(64)).await;
    let (address, admin) = (process.address(), process.admin().await);
    let mut flood = Vec::new();
    for _ in 0..300 {
        flood.push(TcpStream::connect(address).await.unwrap());
    }
    // Admin answers in the middle of it.
    get(admin, "/livez").await;
    get(admin, "/metrics").await;
    assert!(process.descriptors() <= 64, "{}", process.descriptors());
    drop(flood);
    let start = tokio::time::Instant::now();
    loop {
        let mut client = TcpStream::connect(address).await.unwrap();
        let _ = client.write_all(b"x").await;
        let (got, _) =
            crate::harness::client::read_for(&mut client, Duration::from_millis(200)).await;
        if got == b"x" {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "no recovery\n{}",
            process.err()
        );
    }
    println!(
        "64 descriptors, 300 clients: served again {:?} after they left",
        start.elapsed()
    );
    let settled = || process.descriptors() < 40;
    eventually("descriptors given back", settled).await;
    assert_eq!(process.term().await, 0);
    assert_eq!(process.events("stop").len(), 1, "{}", process.err());
}
