//! Thirty edge states held for 5 s, all at once, by the built binary in a process of its own: it does not spin.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::child::Process;
use crate::harness::client::{fill, read_exactly};
use crate::harness::upstream::{hung, pattern, refused, reset};
use crate::harness::{Conf, Stage, stays};

/// What a connection holds in its hands while it is looked at.
type Held = (Option<TcpStream>, Option<TcpStream>);

/// One byte each way, and much more for the pipe lane.
async fn used(client: &mut TcpStream, server: &mut TcpStream, pipe: bool) {
    let bytes = pattern(0, if pipe { 2 << 20 } else { 1 });
    for _ in 0..2 {
        let (sent, _) = tokio::join!(client.write_all(&bytes), read_exactly(server, bytes.len()));
        sent.unwrap();
        let (sent, _) = tokio::join!(server.write_all(&bytes), read_exactly(client, bytes.len()));
        sent.unwrap();
    }
}

/// The states of an established connection; half of them are held in both lanes.
async fn state(number: usize, (mut client, mut server): (TcpStream, TcpStream)) -> Held {
    let pipe = number % 2 == 1;
    if number >= 2 {
        used(&mut client, &mut server, pipe).await;
    }
    match number {
        // 0, 1: nothing ever sent · 2, 3: idle after use.
        0..=3 => {}
        // The client waits for an answer.
        4 | 5 => client.write_all(b"?").await.unwrap(),
        // The upload is full; the download is full; both are.
        6 | 7 => drop(fill(&mut client, 0).await),
        8 | 9 => drop(fill(&mut server, 0).await),
        10 | 11 => drop((fill(&mut client, 0).await, fill(&mut server, 0).await)),
        // Half-closed by the client, by the upstream.
        12 | 13 => client.shutdown().await.unwrap(),
        14 | 15 => server.shutdown().await.unwrap(),
        // Half-closed behind a full lane, on the same side and on the other.
        16 | 17 => {
            fill(&mut client, 0).await;
            client.shutdown().await.unwrap();
        }
        18 | 19 => {
            fill(&mut server, 0).await;
            client.shutdown().await.unwrap();
        }
        // Half-closed with an unread end.
        20 | 21 => {
            server.write_all(b"unread").await.unwrap();
            server.shutdown().await.unwrap();
        }
        // Reset behind a full lane: it waits for the reader.
        22 | 23 => {
            fill(&mut server, 0).await;
            reset(server);
            return (Some(client), None);
        }
        24 | 25 => {
            fill(&mut client, 0).await;
            reset(client);
            return (None, Some(server));
        }
        // Closed, and the other side has not noticed yet.
        26 => return (None, Some(server)),
        _ => return (Some(client), None),
    }
    (Some(client), Some(server))
}

fn switches(pid: u32) -> u64 {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status =
            std::fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
        total += counts
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    total
}

#[tokio::test]
async fn thirty_states_cost_nothing() {
    let stage = Stage::new().await;
    let conf = Conf::to(&[stage.address()])
        .upstream(r#"tcp.user_timeout = "60s""#)
        .rest(r#"log.level = "info""#);
    let mut process = Process::with(&conf.rest(r#"shutdown.max_delay = "300ms""#)).await;
    // 28, 29 and two more: parked before refusing endpoints, and dialling into a black hole.
    let dead = Conf::to(&[refused().await, refused().await]).listener(r#"hold_timeout = "60s""#);
    let mut parking = Process::with(&dead.rest(r#"shutdown.max_delay = "300ms""#)).await;
    let black = hung();
    let hole = Conf::to(&[black.address])
        .upstream(r#"connect_timeout = "30s""#)
        .rest(r#"shutdown.max_delay = "300ms""#);
    let mut dialling = Process::with(&hole).await;

    let mut making = Vec::new();
    for number in (0..28).chain(0..28) {
        let pair = stage.pair(process.address()).await;
        making.push(tokio::spawn(state(number, pair)));
    }
    let mut held = Vec::new();
    for made in making {
        held.push(made.await.unwrap());
    }
    for _ in 0..20 {
        let mut parked = TcpStream::connect(parking.address()).await.unwrap();
        parked.write_all(b"waits").await.unwrap();
        held.push((
            Some(parked),
            Some(TcpStream::connect(dialling.address()).await.unwrap()),
        ));
    }
    let all = [
        ("pairs", &process),
        ("parked", &parking),
        ("dialling", &dialling),
    ];
    let settle = Instant::now();
    stays("settling", Duration::from_millis(1500), || {
        settle.elapsed() < Duration::from_secs(3)
    })
    .await;
    let before: Vec<_> = all
        .iter()
        .map(|(_, process)| (process.cpu(), switches(process.pid())))
        .collect();
    let began = Instant::now();
    stays("held", Duration::from_secs(5), || {
        began.elapsed() < Duration::from_secs(7)
    })
    .await;
    let wall = began.elapsed();
    for ((name, process), (cpu, switched)) in all.iter().zip(before) {
        let (cpu, switched) = (process.cpu() - cpu, switches(process.pid()) - switched);
        let share = 100.0 * cpu.as_secs_f64() / wall.as_secs_f64();
        println!(
            "{name}: {share:.2} % of a core, {:.0} switches a second",
            switched as f64 / wall.as_secs_f64()
        );
        // What spins takes a core; how often one at rest wakes up is bounded in `idle`.
        assert!(share < 30.0, "{name}: {share:.2} %");
        assert!(switched < 2_000, "{name}: {switched} switches in {wall:?}");
    }
    drop(held);
    for process in [&mut process, &mut parking, &mut dialling] {
        assert_eq!(process.term().await, 0);
    }
}
