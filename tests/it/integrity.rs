//! Random sequences of lengths, pauses and ends over many connections: every byte that arrives is the right one, and
//! what was promised arrives. `ENTRYWAY_IT_SEED` replays a run, `ENTRYWAY_IT_SEQUENCES` asks for more.

use std::time::Duration;

use fastrand::Rng;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::client::{End, read_out};
use crate::harness::upstream::{pattern, reset};
use crate::harness::{Conf, Entryway, Stage, no_leaks};

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How one direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    Fin,
    Reset,
}

/// Sends random pieces of a stream that belongs to `key`; how many bytes.
async fn send(
    stream: &mut tokio::net::tcp::OwnedWriteHalf,
    key: usize,
    rng: &mut Rng,
) -> Option<usize> {
    let mut sent = 0;
    for _ in 0..rng.usize(0..6) {
        let most = [1, 100, 5_000, 70_000, 400_000][rng.usize(0..5)];
        let count = rng.usize(1..=most);
        // A reset by the other side ends the sending; that is its business.
        stream.write_all(&pattern(key + sent, count)).await.ok()?;
        sent += count;
        match rng.u8(0..4) {
            0 => tokio::time::sleep(Duration::from_millis(rng.u64(0..5))).await,
            1 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    Some(sent)
}

/// One side of one connection: sends its stream, reads the other's, ends as it is told.
async fn side(
    stream: TcpStream,
    mine: usize,
    theirs: usize,
    close: Close,
    mut rng: Rng,
) -> (Option<usize>, usize, End) {
    let (mut from, mut to) = stream.into_split();
    if close == Close::Reset {
        let sent = send(&mut to, mine, &mut rng).await;
        reset(from.reunite(to).unwrap());
        return (sent.and(None), 0, End::Open);
    }
    let reads = async {
        let mut got = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match tokio::io::AsyncReadExt::read(&mut from, &mut chunk).await {
                Ok(0) => break (got, End::Fin),
                Ok(count) => got.extend_from_slice(&chunk[..count]),
                Err(_) => break (got, End::Reset),
            }
        }
    };
    let sends = async {
        let sent = send(&mut to, mine, &mut rng).await;
        let _ = to.shutdown().await;
        sent
    };
    let (sent, (got, end)) = tokio::join!(sends, reads);
    assert!(
        got == pattern(theirs, got.len()),
        "wrong bytes among {} of stream {theirs}",
        got.len()
    );
    (sent, got.len(), end)
}

async fn sequence(client: TcpStream, server: TcpStream, mut rng: Rng) {
    let (up, down) = (rng.usize(0..1 << 24), rng.usize(0..1 << 24));
    let close = |rng: &mut Rng| {
        if rng.u8(0..6) == 0 {
            Close::Reset
        } else {
            Close::Fin
        }
    };
    let (client_close, server_close) = (close(&mut rng), close(&mut rng));
    let (at_client, at_server) = tokio::join!(
        side(client, up, down, client_close, rng.fork()),
        side(server, down, up, server_close, rng.fork())
    );
    if (client_close, server_close) == (Close::Fin, Close::Fin) {
        // Nobody reset: both streams are whole and end in order.
        assert_eq!((at_client.2, at_server.2), (End::Fin, End::Fin));
        assert_eq!(
            (Some(at_server.1), Some(at_client.1)),
            (at_client.0, at_server.0)
        );
    } else {
        // A reset never looks like an end in order. (But to one whose write met it first: that takes the error away
        // from its next read, with a direct connection too.)
        for (seen, other) in [(&at_client, server_close), (&at_server, client_close)] {
            assert!(
                seen.0.is_none() || seen.2 != End::Fin || other == Close::Fin,
                "{close:?} {seen:?}",
                close = (client_close, server_close)
            );
        }
    }
}

#[tokio::test]
async fn random_sequences() {
    let seed = from_env("ENTRYWAY_IT_SEED").unwrap_or_else(|| fastrand::u64(..));
    let count = from_env("ENTRYWAY_IT_SEQUENCES").unwrap_or(1000);
    println!("ENTRYWAY_IT_SEED={seed}, {count} sequences");
    let mut rng = Rng::with_seed(seed);
    for splice in ["auto", "off"] {
        let stage = Stage::new().await;
        let conf = Conf::to(&[stage.address()]).upstream(&format!("splice = \"{splice}\""));
        let entryway = Entryway::start(&conf).await;
        let mut running = JoinSet::new();
        for _ in 0..count / 2 {
            let (client, server) = stage.pair(entryway.address()).await;
            running.spawn(sequence(client, server, rng.fork()));
            while running.len() >= 32 {
                running.join_next().await.unwrap().unwrap();
            }
        }
        while let Some(result) = running.join_next().await {
            result.unwrap();
        }
        no_leaks(entryway).await;
    }
}

#[tokio::test]
async fn streams_do_not_mix() {
    let echo = crate::harness::upstream::Upstream::echo().await;
    let entryway = Entryway::start(&Conf::to(&[echo.address])).await;
    let mut running = JoinSet::new();
    for number in 0..40_usize {
        let mut client = entryway.connect().await;
        running.spawn(async move {
            let bytes = pattern(number * 100_003, 300_000);
            let (mut from, mut to) = client.split();
            let sends = async {
                to.write_all(&bytes).await.unwrap();
                to.shutdown().await.unwrap()
            };
            let mut got = Vec::new();
            let (_, read) = tokio::join!(
                sends,
                tokio::io::AsyncReadExt::read_to_end(&mut from, &mut got)
            );
            read.unwrap();
            assert!(got == bytes, "connection {number}");
            assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
        });
    }
    while let Some(result) = running.join_next().await {
        result.unwrap();
    }
    no_leaks(entryway).await;
}
