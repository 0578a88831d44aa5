//! Spares through a hop that is far away: a client that takes one pays one round trip, that of its own bytes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::client::ping;
use crate::harness::proxy::{Line, Proxy};
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, Entryway, eventually, no_leaks};

/// Half a round trip; far more than a busy machine adds to one.
const ONE_WAY: Duration = Duration::from_millis(100);

/// A name that no resolver knows.
const NAME: &str = "default:8182";

const CLIENTS: usize = 5;

/// What came through each connection.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Echoes, and remembers.
async fn remembering() -> (Upstream, Heard) {
    let heard = Heard::default();
    let all = Arc::clone(&heard);
    let upstream = Upstream::start("127.0.0.1:0", move |mut stream, _| {
        let all = Arc::clone(&all);
        async move {
            let number = {
                let mut all = all.lock().unwrap();
                all.push(Vec::new());
                all.len() - 1
            };
            let mut bytes = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                all.lock().unwrap()[number].extend_from_slice(&bytes[..read]);
                if stream.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (upstream, heard)
}

async fn through(line: &Line, via: &str, spares: usize) -> Entryway {
    let conf = Conf::to(&[NAME])
        .upstream(via)
        .upstream(&format!("warm.spares = {spares}"))
        .upstream("warm.max_age = \"0s\"");
    let entryway = Entryway::start(&conf).await;
    let here = || entryway.metric("entryway_warm_spares", &[]) == spares as f64;
    eventually("the spares", here).await;
    // What was opened for them is all that has crossed the line.
    assert_eq!(line.crossings().len(), spares);
    entryway
}

/// Clients one after the other, each of which says something of its own; the clients, and how long each took.
async fn come_and_speak(
    entryway: &Entryway,
    line: &Line,
    spares: usize,
) -> (Vec<TcpStream>, Vec<Duration>) {
    let (mut clients, mut times) = (Vec::new(), Vec::new());
    for number in 0..CLIENTS {
        let here = || entryway.metric("entryway_warm_spares", &[]) == spares as f64;
        eventually("the spares are there again", here).await;
        let opened = line.crossings().len();
        let began = Instant::now();
        let mut client = entryway.connect().await;
        ping(&mut client, format!("client {number}").as_bytes()).await;
        times.push(began.elapsed());
        clients.push(client);
        let crossed = |crossings: &[crate::harness::proxy::Crossings]| -> Vec<usize> {
            let since = crossings.iter().map(|connection| {
                let turns = connection.turns.iter();
                turns.filter(|turn| **turn >= began).count()
            });
            since.filter(|turns| *turns > 0).collect()
        };
        let crossings = line.crossings();
        match spares {
            // Nothing was open: it is opened first.
            0 => {
                let turns = crossed(&crossings[opened..]);
                assert!(turns.len() == 1 && turns[0] >= 4, "{turns:?}");
            }
            // Of those that were open one was used, and the line was crossed once each way.
            _ => assert_eq!(crossed(&crossings[..opened]), [2], "{crossings:?}"),
        }
    }
    (clients, times)
}

/// A spare costs a client one round trip, and belongs to it alone.
async fn a_spare_saves_all_round_trips_but_one(
    line: &Line,
    via: &str,
    upstream: &Upstream,
    heard: &Heard,
    spares: usize,
) {
    let entryway = through(line, via, spares).await;
    let (clients, mut times) = come_and_speak(&entryway, line, spares).await;
    times.sort_unstable();
    println!("{spares} spares, round trip {:?}: {times:?}", 2 * ONE_WAY);
    let used = entryway.metric("entryway_warm_total", &[("result", "used")]);
    if spares > 0 {
        assert_eq!(used, CLIENTS as f64);
        // Without one it is three round trips at least.
        assert!(times[CLIENTS / 2] < 4 * ONE_WAY, "{times:?}");
        let here = || entryway.metric("entryway_warm_spares", &[]) == spares as f64;
        eventually("the spares are there again", here).await;
    } else {
        assert_eq!(used, 0.0);
        assert!(times[0] >= 6 * ONE_WAY, "{times:?}");
    }
    // One connection for each client and each spare, and none has the bytes of two.
    let count = CLIENTS + spares;
    assert_eq!(line.crossings().len(), count);
    assert_eq!(upstream.accepted(), count);
    let mut said: Vec<_> = heard.lock().unwrap().clone();
    said.retain(|bytes| !bytes.is_empty());
    said.sort();
    let each = (0..CLIENTS).map(|number| format!("client {number}").into_bytes());
    assert_eq!(said, each.collect::<Vec<_>>());
    drop(clients);
    no_leaks(entryway).await;
}

#[tokio::test]
async fn through_a_proxy() {
    for scheme in ["socks5", "http"] {
        for spares in [2, 0] {
            let (upstream, heard) = remembering().await;
            let proxy = Proxy::start("127.0.0.1:0", upstream.address).await;
            let line = Line::to(proxy.address, ONE_WAY).await;
            let via = format!("via = \"{scheme}://{}\"", line.address);
            a_spare_saves_all_round_trips_but_one(&line, &via, &upstream, &heard, spares).await;
        }
    }
}

#[cfg(feature = "gateway")]
#[tokio::test]
async fn through_a_gateway_with_a_tls_connection_for_each() {
    use crate::harness::gateway::{Gateway, Pki};
    for spares in [2, 0] {
        let (upstream, heard) = remembering().await;
        let gateway = Gateway::start(Pki::new().await, upstream.address, &[]).await;
        let line = Line::to(gateway.address, ONE_WAY).await;
        let via = gateway.via_through(line.address);
        a_spare_saves_all_round_trips_but_one(&line, &via, &upstream, &heard, spares).await;
        let done = format!(
            "entryway_gateway_handshakes_total{{result=\"ok\"}} {}",
            CLIENTS + spares
        );
        let metrics = gateway.metrics().await;
        assert!(metrics.contains(&done), "{done}: {metrics}");
    }
}
