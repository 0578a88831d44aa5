//! Hostile answers: none is read beyond the limits, none outlasts the deadline.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{GOOD, Server, datomic, ok};
use crate::probe::http;
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::HealthSettings;

/// Hostile answers: each ends in time and has its name.
#[tokio::test]
async fn bombs_are_bounded() {
    let nines = "18446744073709551616";
    let bombs = [
        (
            "endless headers",
            Server::repeats("HTTP/1.1 200 OK\r\n", "a: b\r\n").await,
            "too_long",
        ),
        (
            "endless header line",
            Server::repeats("HTTP/1.1 200 OK\r\na: ", "bbbbbbbb").await,
            "too_long",
        ),
        (
            "endless body",
            Server::repeats(&ok("", ""), "xxxxxxxx").await,
            "too_long",
        ),
        (
            "endless interim",
            Server::repeats("", "HTTP/1.1 100 Continue\r\n\r\n").await,
            "too_long",
        ),
        (
            "endless chunks",
            Server::repeats(&ok("Transfer-Encoding: chunked\r\n", ""), "1\r\na\r\n").await,
            "too_long",
        ),
        (
            "chunk of 2^64-1",
            Server::says(
                ok("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n") + &"a".repeat(70_000),
            )
            .await,
            "too_long",
        ),
        (
            "chunk size of 2^64",
            Server::says(ok(
                "Transfer-Encoding: chunked\r\n",
                "10000000000000000\r\n",
            ))
            .await,
            "not_http",
        ),
        (
            "endless chunk extension",
            Server::repeats(&ok("Transfer-Encoding: chunked\r\n", "1;"), "aaaaaaaa").await,
            "too_long",
        ),
        (
            "length of 2^64",
            Server::says(ok(&format!("Content-Length: {nines}\r\n"), GOOD)).await,
            "not_http",
        ),
        (
            "length of 2^63",
            Server::repeats(&ok("Content-Length: 9223372036854775808\r\n", GOOD), " ").await,
            "too_long",
        ),
        (
            "two lengths",
            Server::says(ok("Content-Length: 5\r\nContent-Length: 6\r\n", GOOD)).await,
            "not_http",
        ),
        (
            "a thousand to one in gzip",
            Server::says(ok(
                "Content-Encoding: gzip\r\nContent-Length: 4\r\n",
                "\x1f\u{8}xx",
            ))
            .await,
            "encoded",
        ),
        (
            "no line end ever",
            Server::repeats("", "\0\0\0\0\0\0\0\0").await,
            "not_http",
        ),
        (
            "nested without end",
            Server::says(ok("", &"[".repeat(1000))).await,
            "bad_edn",
        ),
    ];
    for (what, server, code) in bombs {
        let report = server.probe(&datomic()).await;
        assert_eq!(report.outcome.code(), code, "{what}: {report:?}");
        assert!(
            report.outcome.detail().is_none_or(|text| text.len() < 400),
            "{what}"
        );
    }
    let redirect = Server::start(|mut stream| async move {
        let own = stream.local_addr()?;
        let text =
            format!("HTTP/1.1 302 Found\r\nLocation: http://{own}/\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(text.as_bytes()).await
    })
    .await;
    assert_eq!(redirect.probe(&datomic()).await.outcome.code(), "http_302");
    assert_eq!(redirect.connections.load(SeqCst), 1);
}

/// One deadline for the whole probe, whatever trickles in.
#[tokio::test]
async fn slow_answers_end_at_the_deadline() {
    let frozen = Server::start(|stream| async move {
        let _hold = stream;
        std::future::pending().await
    })
    .await;
    let trickle = Server::start(|mut stream| async move {
        for byte in ok("", GOOD).bytes() {
            stream.write_all(&[byte]).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    })
    .await;
    let settings = HealthSettings {
        timeout: Duration::from_millis(500),
        ..datomic()
    };
    for server in [frozen, trickle] {
        let report = server.probe(&settings).await;
        assert_eq!(report.outcome, ProbeOutcome::Timeout);
        assert!(report.connect.is_some());
        // All of the trickle takes more than four seconds.
        let range = Duration::from_millis(490)..Duration::from_secs(4);
        assert!(range.contains(&report.took), "{:?}", report.took);
    }
}

/// Gives the same bytes for ever and counts them.
struct Endless {
    first: Vec<u8>,
    then: u8,
    given: usize,
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        for n in self.given..self.given + room {
            let byte = self.first.get(n).copied().unwrap_or(self.then);
            buf.put_slice(&[byte]);
        }
        self.given += room;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn no_more_is_read_than_the_limits_say() {
    for (first, limit) in [
        ("HTTP/1.1 200 OK\r\na: ".to_owned(), 8 * 1024),
        (ok("", ""), 4096 + 64 * 1024),
        (ok("Content-Length: 1000000\r\n", ""), 4096 + 64 * 1024),
        (
            ok("Transfer-Encoding: chunked\r\n", "fffff\r\n"),
            4096 + 64 * 1024,
        ),
        (
            ok("Transfer-Encoding: chunked\r\n", "1;"),
            1024 + 128 * 1024,
        ),
    ] {
        let mut stream = Endless {
            first: first.clone().into_bytes(),
            then: b'a',
            given: 0,
        };
        if let Ok((mut response, body)) = http::get(&mut stream, "/", "h").await {
            let _ = body.read(&mut response).await;
        }
        assert!(stream.given <= limit, "{first}: {} bytes", stream.given);
    }
}
