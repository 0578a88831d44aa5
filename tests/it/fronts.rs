//! SOCKS and HTTP CONNECT in front of a listener: what is reached, what is refused, and that bytes stay bytes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use entryway::connection::Entry;
use entryway::events::Reason;
use entryway::relay::ConnectionCommand;

use crate::harness::client::{End, ping, read_out};
use crate::harness::upstream::{Upstream, refused, reset};
use crate::harness::{Conf, Entryway, eventually, no_leaks};

/// A listener with this front before an echo, whose endpoint has the name `entry`.
async fn start(front: &str) -> (Entryway, Upstream) {
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[format!("{}?name=entry", echo.address)])
        .listener(&format!("front = \"{front}\""))
        .listener("front_allow = [\"other.example:8182\"]");
    (Entryway::start(&conf).await, echo)
}

async fn asks(client: &mut TcpStream, request: &[u8], answer: &[u8]) {
    client.write_all(request).await.unwrap();
    let mut got = vec![0; answer.len()];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, answer, "{}", String::from_utf8_lossy(&got));
}

const SOCKS5_ENTRY: &[u8] = b"\x05\x01\0\x03\x05entry\x1f\xf6";
const SOCKS5_OK: &[u8] = b"\x05\0\0\x01\0\0\0\0\0\0";

#[tokio::test]
async fn every_protocol_leads_to_the_upstream() {
    for front in ["socks", "auto"] {
        let (entryway, _echo) = start(front).await;
        let mut client = entryway.connect().await;
        asks(&mut client, b"\x05\x01\0", b"\x05\0").await;
        asks(&mut client, SOCKS5_ENTRY, SOCKS5_OK).await;
        ping(&mut client, b"socks5").await;

        let mut client = entryway.connect().await;
        asks(
            &mut client,
            b"\x04\x01\x1f\xf6\0\0\0\x01me\0ENTRY.\0",
            b"\0\x5a\0\0\0\0\0\0",
        )
        .await;
        ping(&mut client, b"socks4a").await;

        // Bytes that come with the request are the upstream's.
        let mut client = entryway.connect().await;
        let request = b"CONNECT other.example:8182 HTTP/1.1\r\nHost: x\r\n\r\nearly";
        asks(&mut client, request, b"HTTP/1.1 200 OK\r\n\r\nearly").await;
        client.shutdown().await.unwrap();
        assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
        no_leaks(entryway).await;
    }
}

#[tokio::test]
async fn requests_may_come_byte_by_byte() {
    let (entryway, _echo) = start("auto").await;
    let mut client = entryway.connect().await;
    client.set_nodelay(true).unwrap();
    for byte in b"\x05\x01\0" {
        client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    client.read_exact(&mut [0; 2]).await.unwrap();
    for byte in SOCKS5_ENTRY {
        client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut got = [0; 10];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, SOCKS5_OK);
    ping(&mut client, b"at last").await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn other_names_and_commands_are_refused() {
    let (entryway, echo) = start("socks").await;
    for (greeting, request, answer, reason) in [
        (
            &b"\x05\x01\0"[..],
            &b"\x05\x01\0\x03\x03foo\x1f\xf6"[..],
            &b"\x05\x02\0\x01\0\0\0\0\0\0"[..],
            "name",
        ),
        (
            b"\x05\x01\0",
            b"\x05\x01\0\x01\x7f\0\0\x09\x1f\xf6",
            b"\x05\x02\0\x01\0\0\0\0\0\0",
            "name",
        ),
        (
            b"\x05\x01\0",
            b"\x05\x02\0\x03\x05entry\x1f\xf6",
            b"\x05\x07\0\x01\0\0\0\0\0\0",
            "command",
        ),
        (b"", b"\x05\x01\x02", b"\x05\xff", "method"),
        (
            b"",
            b"\x04\x01\x1f\xf6\x7f\0\0\x09\0",
            b"\0\x5b\0\0\0\0\0\0",
            "name",
        ),
        (
            b"",
            b"CONNECT evil:8182 HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 403",
            "name",
        ),
        (
            b"",
            b"CONNECT other.example:80 HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 403",
            "name",
        ),
        (
            b"",
            b"GET http://entry:8182/ HTTP/1.1\r\n\r\n",
            b"",
            "protocol",
        ),
    ] {
        let labels = [("listener", "datomic"), ("reason", reason)];
        let before = entryway.metric("entryway_front_rejected_total", &labels);
        let mut client = entryway.connect().await;
        let from = client.local_addr().unwrap();
        if !greeting.is_empty() {
            asks(&mut client, greeting, b"\x05\0").await;
        }
        client.write_all(request).await.unwrap();
        let (got, _end) = read_out(&mut client).await;
        assert!(got.starts_with(answer), "{got:?}");
        drop(client);
        entryway.closes(from, "front_rejected").await;
        let after = entryway.metric("entryway_front_rejected_total", &labels);
        assert_eq!(after, before + 1.0, "{reason}");
    }
    assert_eq!(echo.accepted(), 0);
    no_leaks(entryway).await;
}

#[tokio::test]
async fn plain_bytes_pass_through_auto() {
    let (entryway, _echo) = start("auto").await;
    for bytes in [
        &b"GET http://entry:8182/ HTTP/1.1\r\n\r\n"[..],
        b"COPY /",
        b"\x16\x03\x01",
    ] {
        let mut client = entryway.connect().await;
        ping(&mut client, bytes).await;
    }
    no_leaks(entryway).await;
}

#[tokio::test]
async fn with_nothing_to_dial_the_client_is_told() {
    let address = refused().await;
    let conf = Conf::to(&[format!("{address}?name=entry")])
        .listener("front = \"auto\"")
        .listener("when_all_down = \"try\"");
    let entryway = Entryway::start(&conf).await;
    let mut client = entryway.connect().await;
    asks(&mut client, b"\x05\x01\0", b"\x05\0").await;
    asks(&mut client, SOCKS5_ENTRY, b"\x05\x04\0\x01\0\0\0\0\0\0").await;
    assert_eq!(read_out(&mut client).await.1, End::Fin);
    let mut client = entryway.connect().await;
    asks(
        &mut client,
        b"CONNECT entry:1 HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 503",
    )
    .await;
    drop(client);
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_hold_up_a_drain() {
    let (entryway, echo) = start("auto").await;
    let mut client = entryway.connect().await;
    let ended = tokio::spawn(async move { read_out(&mut client).await });
    let (ended_as, _took, past) = entryway.drain().await;
    assert_eq!(ended_as.cut, 0);
    assert_eq!(ended.await.unwrap(), (Vec::new(), End::Fin));
    assert_eq!(echo.accepted(), 0);
    assert_eq!(past.events("conn.close")[0]["conn.reason"], "drain_idle");
    past.check();
}

#[tokio::test]
async fn a_client_that_gives_up_while_it_is_held_is_seen() {
    let address = refused().await;
    let conf = Conf::to(&[format!("{address}?name=entry")])
        .listener("front = \"socks\"")
        .listener("hold_timeout = \"10m\"");
    let entryway = Entryway::start(&conf).await;
    let mut client = entryway.connect().await;
    let from = client.local_addr().unwrap();
    asks(&mut client, b"\x05\x01\0", b"\x05\0").await;
    client.write_all(SOCKS5_ENTRY).await.unwrap();
    eventually("held", || {
        entryway.metric("entryway_connections_parked", &[]) == 1.0
    })
    .await;
    reset(client);
    entryway.closes(from, "client_gone").await;
    no_leaks(entryway).await;
}

/// With `socks` from accept on, with `auto` from the first byte on.
#[tokio::test]
async fn a_request_that_does_not_come_in_time_is_a_front_timeout() {
    for (front, sent) in [
        ("socks", &b""[..]),
        ("socks", b"\x05\x01"),
        ("auto", b"CONN"),
    ] {
        let (entryway, echo) = start(front).await;
        let mut client = entryway.connect().await;
        let from = client.local_addr().unwrap();
        client.write_all(sent).await.unwrap();
        assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
        drop(client);
        entryway.closes(from, "front_timeout").await;
        let refused = [("reason", "timeout")];
        let count = entryway.metric("entryway_front_rejected_total", &refused);
        assert_eq!(count, 1.0, "{front}");
        assert_eq!(echo.accepted(), 0);
        no_leaks(entryway).await;
    }
}

#[tokio::test]
async fn a_request_that_is_never_finished_does_not_outlive_a_kill() {
    let (entryway, _echo) = start("auto").await;
    let mut client = entryway.connect().await;
    let from = client.local_addr().unwrap();
    client.write_all(b"\x05").await.unwrap();
    let kill = |entry: &std::sync::Arc<Entry>| {
        entry.commands.send(ConnectionCommand::Cut(Reason::Killed));
    };
    eventually("accepted", || entryway.handles.registry.len() == 1).await;
    entryway.handles.registry.each(kill);
    entryway.closes(from, "killed").await;
    assert_eq!(read_out(&mut client).await, (Vec::new(), End::Reset));
    no_leaks(entryway).await;
}
