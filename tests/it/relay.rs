//! Bytes arrive as they were sent, in both lanes, and are counted and told as what they are.

use entryway::types::Direction;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::client::{End, get, ping, read_exactly, read_out};
use crate::harness::upstream::{Upstream, pattern};
use crate::harness::{BULK_LANE, Conf, Entryway, PIPES, Stage, eventually, no_leaks};

const MIB: usize = 1 << 20;

/// Sends `count` pattern bytes while the other direction runs as well; checks what comes.
async fn both_ways(client: TcpStream, server: TcpStream, count: usize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let send = async |to: &mut tokio::net::tcp::OwnedWriteHalf| {
        for offset in (0..count).step_by(MIB) {
            to.write_all(&pattern(offset, MIB.min(count - offset)))
                .await
                .unwrap();
        }
        to.shutdown().await.unwrap();
    };
    let check = async |from: &mut tokio::net::tcp::OwnedReadHalf| {
        let mut got = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(from, &mut got)
            .await
            .unwrap();
        assert!(got == pattern(0, count), "wrong bytes among {}", got.len());
    };
    tokio::join!(
        send(&mut to_client),
        send(&mut to_server),
        check(&mut from_client),
        check(&mut from_server)
    );
}

async fn bulk_in(splice: &str, lane: &str) {
    let stage = Stage::new().await;
    let conf = Conf::to(&[stage.address()]).upstream(&format!("splice = \"{splice}\""));
    let entryway = Entryway::start(&conf).await;
    let (client, server) = stage.pair(entryway.address()).await;
    let from = client.local_addr().unwrap();
    both_ways(client, server, 16 * MIB).await;
    let line = entryway.close_of(from).await;
    assert_eq!(line["bytes.upload"], 16 * MIB, "{line}");
    assert_eq!(line["bytes.download"], 16 * MIB, "{line}");
    assert_eq!(line["conn.lane"], lane, "{line}");
    for direction in Direction::BOTH {
        let labels = [
            ("upstream", "default"),
            ("endpoint", "e0"),
            ("direction", direction.as_str()),
        ];
        assert_eq!(
            entryway.metric("entryway_bytes_total", &labels),
            16.0 * MIB as f64
        );
    }
    no_leaks(entryway).await;
}

#[tokio::test]
async fn bulk_both_ways_through_pipes() {
    bulk_in("auto", BULK_LANE).await;
}

#[tokio::test]
async fn bulk_both_ways_through_the_buffer() {
    bulk_in("off", "buffer").await;
}

#[tokio::test]
async fn bulk_is_spliced() {
    let source = Upstream::source(256 * MIB).await;
    let entryway = Entryway::start(&Conf::to(&[source.address])).await;
    let mut client = entryway.connect().await;
    let count = tokio::io::copy(&mut client, &mut tokio::io::sink())
        .await
        .unwrap();
    assert_eq!(count, 256 * MIB as u64);
    drop(client);
    eventually("closed", || {
        entryway.sum("entryway_connections_closed_total") == 1.0
    })
    .await;
    let metrics = get(entryway.admin.unwrap(), "/metrics").await;
    let value = |start: &str| -> f64 {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let spliced = value("entryway_bytes_spliced_total{direction=\"download\"}");
    let share = spliced / count as f64;
    println!("spliced: {share:.4} of {count} bytes");
    if PIPES {
        assert!(share >= 0.99, "{share}");
    } else {
        assert_eq!(share, 0.0);
    }
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_small_request_and_its_line() {
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[format!("{}?zone=us-east-1a&name=one", echo.address)]);
    let entryway = Entryway::start(&conf).await;
    let mut client = entryway.connect().await;
    let from = client.local_addr().unwrap();
    ping(&mut client, b"hello").await;
    let labels = [
        ("listener", "datomic"),
        ("upstream", "default"),
        ("endpoint", "one"),
        ("zone", "us-east-1a"),
    ];
    assert_eq!(entryway.metric("entryway_connections", &labels), 1.0);
    // Counted while it lives, not at its end.
    eventually("10 bytes", || entryway.sum("entryway_bytes_total") == 10.0).await;
    client.shutdown().await.unwrap();
    assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
    let line = entryway.closes(from, "client_fin").await;
    let expected = [
        ("level", "info"),
        ("event", "conn.close"),
        ("message", "closed"),
        ("listener", "datomic"),
        ("upstream", "default"),
        ("endpoint", "one"),
        ("zone", "us-east-1a"),
        ("client.address", "127.0.0.1"),
        ("server.address", "127.0.0.1"),
        ("conn.closed_by", "client"),
        ("conn.lane", "buffer"),
    ];
    for (key, value) in expected {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert_eq!(line["server.port"], echo.address.port());
    for (key, value) in [
        ("conn.attempts", 1),
        ("bytes.upload", 5),
        ("bytes.download", 5),
        ("conn.parked_ms", 0),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert_eq!(line["conn.hedged"], false);
    assert!(
        line["connect.duration_ms"].is_number()
            && line["conn.id"].is_number()
            && line["timestamp"].is_string()
    );
    let mut labels = labels.to_vec();
    labels.push(("reason", "client_fin"));
    assert_eq!(
        entryway.metric("entryway_connections_closed_total", &labels),
        1.0
    );
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_server_that_speaks_first() {
    let server = Upstream::speaks_first("220 ready\r\n").await;
    let entryway = Entryway::start(&Conf::to(&[server.address])).await;
    let mut client = entryway.connect().await;
    assert_eq!(read_exactly(&mut client, 11).await, b"220 ready\r\n");
    ping(&mut client, b"quit").await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_client_that_connects_and_leaves() {
    let echo = Upstream::echo().await;
    let entryway = Entryway::start(&Conf::to(&[echo.address])).await;
    for _ in 0..20 {
        drop(entryway.connect().await);
    }
    eventually("all closed", || {
        entryway.sum("entryway_connections_closed_total") == 20.0
    })
    .await;
    for line in entryway.events("conn.close") {
        assert_eq!(line["conn.reason"], "client_fin", "{line}");
    }
    ping(&mut entryway.connect().await, b"still here").await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_thousand_connects_at_once() {
    let echo = Upstream::echo().await;
    let entryway = Entryway::start(&Conf::to(&[echo.address])).await;
    let mut clients = JoinSet::new();
    for number in 0..1000_u32 {
        let address = entryway.address();
        clients.spawn(async move {
            let mut client = TcpStream::connect(address).await.unwrap();
            ping(&mut client, &number.to_be_bytes()).await;
            client
        });
    }
    let clients = clients.join_all().await;
    assert_eq!(entryway.sum("entryway_connections"), 1000.0);
    drop(clients);
    eventually("all closed", || {
        entryway.sum("entryway_connections_closed_total") == 1000.0
    })
    .await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    let stage = Stage::new().await;
    let entryway = Entryway::start(&Conf::to(&[stage.address()])).await;
    let (mut client, mut server) = stage.pair(entryway.address()).await;
    let sent = crate::harness::client::fill(&mut server, 0).await;
    let carried = entryway.sum("entryway_bytes_total") as usize;
    assert!(carried <= sent, "{carried} of {sent}");
    // Socket buffers are a few MiB each; what is ours is a pipe at most.
    assert!(
        sent < 48 * MIB,
        "{sent} bytes taken for a client that reads nothing"
    );
    server.shutdown().await.unwrap();
    let (got, end) = read_out(&mut client).await;
    assert!(
        got == pattern(0, sent) && end == End::Fin,
        "{} of {sent}, {end:?}",
        got.len()
    );
    drop((client, server));
    no_leaks(entryway).await;
}

/// Urgent data stops a receive short. On connections that have carried some messages it is known by a signal, so that
/// no receive has to ask.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_behind_urgent_data_arrive_on_a_connection_that_does_not_ask_any_more() {
    let stage = Stage::new().await;
    let entryway = Entryway::start(&Conf::to(&[stage.address()])).await;
    let (mut client, mut server) = stage.pair(entryway.address()).await;
    let mut message = vec![b'm'; 1024];
    for _ in 0..100 {
        for way in 0..2 {
            let (from, to) = match way {
                0 => (&mut client, &mut server),
                _ => (&mut server, &mut client),
            };
            from.write_all(&message).await.unwrap();
            message = read_exactly(to, 1024).await;
        }
    }
    for round in 0..20 {
        let (from, to) = match round % 2 {
            0 => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        let urgent = || socket2::SockRef::from(&*from).send_out_of_band(b"!");
        from.try_write(&[b'a'; 4000]).unwrap();
        from.try_io(tokio::io::Interest::WRITABLE, urgent).unwrap();
        from.try_write(&[b'b'; 4000]).unwrap();
        let all = read_exactly(to, 8000).await;
        assert!(all[..4000] == [b'a'; 4000] && all[4000..] == [b'b'; 4000]);
    }
}
