//! More connections than there is room for: refused in order, nothing lost, and it recovers.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::child::{BINARY, Process};
use crate::harness::client::{End, get, ping, read_exactly, read_out};
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
    // Those who ask for nothing keep no answer from others.
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(admin).await.unwrap());
    }
    let mut flood = Vec::new();
    for _ in 0..300 {
        flood.push(TcpStream::connect(address).await.unwrap());
    }
    // Admin answers in the middle of it.
    get(admin, "/livez").await;
    get(admin, "/metrics").await;
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

/// So few that a data thread cannot even hold its event loop and its copies of the sockets: it neither spins nor floods
/// its log, is not ready, and TERM ends it.
#[tokio::test]
async fn twenty_four_descriptors() {
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[echo.address]);
    let mut processes = Vec::new();
    for descriptors in [22, 24] {
        processes.push(Process::with_limit(&conf, Some(descriptors)).await);
    }
    let before: Vec<_> = processes.iter().map(Process::cpu).collect();
    let mut waiting = Vec::new();
    for process in &processes {
        for _ in 0..20 {
            // Refused where even the listening socket could not be kept.
            waiting.extend(TcpStream::connect(process.address()).await);
        }
    }
    let time = Duration::from_secs(3);
    tokio::time::sleep(time).await;
    for (process, cpu) in processes.iter_mut().zip(before) {
        // A loop that spins takes a core.
        let cpu = process.cpu() - cpu;
        assert!(cpu < time / 3, "{cpu:?} in {time:?}");
        let cannot_accept = || {
            let lines = process.events("resource").into_iter();
            let lines = lines.filter(|line| line["message"] == "cannot accept");
            lines.count()
        };
        eventually("it is said", || cannot_accept() > 0).await;
        // Once a second at most; a loop that says it each time says it thousands of times.
        let said = process.err();
        assert!(cannot_accept() <= 8, "{said}");
        assert!(said.lines().count() <= 60, "{said}");
    }
    drop(waiting);
    for process in &mut processes {
        assert_eq!(process.term().await, 0, "{}", process.err());
    }
}

/// One number: said at the start, by `status`, by `check` and by `doctor`, and that many connections are served. Those
/// above it are ended at once.
#[tokio::test]
async fn the_number_that_is_said_is_the_number_that_is_served() {
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[echo.address]);
    let mut process = Process::with_limit(&conf, Some(64)).await;
    let (address, admin) = (process.address(), process.admin().await);
    let start = process.logged("resource").await.remove(0);
    let most = start["connections"].as_u64().unwrap() as usize;
    let status: Value = serde_json::from_str(&get(admin, "/v1/status").await).unwrap();
    assert_eq!(status["max_connections"], most);
    let config = process.config().display().to_string();
    let command = async |words: &str| -> Value {
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", &format!("ulimit -n 64; exec \"$0\" {words}"), BINARY]);
        serde_json::from_slice(&shell.output().await.unwrap().stdout).unwrap()
    };
    let check = command(&format!("check --config {config} --output json")).await;
    assert_eq!(check["limits"]["max_connections"], most);
    let doctor = command(&format!(
        "doctor --config {config} --admin 127.0.0.1:1 --output json"
    ))
    .await;
    let checks = doctor["checks"].as_array().unwrap();
    let files = checks.iter().find(|check| check["rule"] == "LIMIT_FILES");
    let evidence = files.unwrap()["evidence"].as_str().unwrap();
    assert!(
        evidence.contains(&format!("allow {most} connections")),
        "{evidence}"
    );

    let mut clients = Vec::new();
    for _ in 0..most + 6 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    let began = tokio::time::Instant::now();
    let mut above = clients.split_off(most);
    for client in &mut above {
        assert_eq!(read_out(client).await, (Vec::new(), End::Fin));
    }
    assert!(began.elapsed() < Duration::from_secs(3), "at once");
    for client in &mut clients {
        ping(client, b"is served").await;
    }
    eventually("their lines", || process.events("conn.close").len() == 6).await;
    for line in process.events("conn.close") {
        assert_eq!(
            (&line["conn.reason"], &line["level"]),
            (&"max_connections".into(), &"info".into()),
            "{line}"
        );
    }
    let said = process.events("resource").len();
    assert!((2..=5).contains(&said), "{}", process.err());
    drop((clients, above));
    assert_eq!(process.term().await, 0);
}

/// Pipes and spares take only their share: whoever connects, asks or probes has descriptors left.
#[tokio::test]
async fn stalled_downloads_and_spares_leave_room_for_others() {
    // For ever, and without holding it all: there are many of them.
    let streams = Upstream::start("127.0.0.1:0", |mut stream, _| async move {
        let chunk = [b'x'; 16 * 1024];
        while stream.write_all(&chunk).await.is_ok() {}
    })
    .await;
    let conf = Conf::to(&[streams.address]);
    let conf = conf
        .upstream(r#"health.kind = "tcp""#)
        .upstream(r#"health.interval = "200ms""#);
    let mut stalling = Process::with_limit(&conf, Some(256)).await;
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[echo.address]).upstream("warm.spares = 1000");
    let mut sparing = Process::with_limit(&conf, Some(128)).await;

    let mut stalled = Vec::new();
    for _ in 0..60 {
        let mut client = TcpStream::connect(stalling.address()).await.unwrap();
        // Enough to be carried in pipes; then it reads no more.
        read_exactly(&mut client, 1 << 20).await;
        stalled.push(client);
    }
    let spares = async || -> f64 {
        let text = get(sparing.admin().await, "/metrics").await;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("entryway_warm_spares"));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    };
    let began = tokio::time::Instant::now();
    while spares().await == 0.0 {
        assert!(began.elapsed() < Duration::from_secs(20), "no spares");
    }
    let admin = stalling.admin().await;
    for _ in 0..5 {
        get(admin, "/livez").await;
        let asked = get(admin, "/v1/endpoints").await;
        assert!(asked.contains(r#""state":"up""#), "{asked}");
        ping(
            &mut TcpStream::connect(sparing.address()).await.unwrap(),
            b"served",
        )
        .await;
        assert!(stalling.descriptors() < 256 && sparing.descriptors() < 128);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let kept = spares().await;
    assert!((1.0..=30.0).contains(&kept), "{kept} spares");
    // One more than those that stand still is served.
    let mut client = TcpStream::connect(stalling.address()).await.unwrap();
    read_exactly(&mut client, 1 << 20).await;
    drop((stalled, client));
    for process in [&mut stalling, &mut sparing] {
        assert_eq!(process.term().await, 0);
        let said = process.err();
        assert!(!said.contains("Too many open files"), "{said}");
    }
}
