//! Probes against whatever an address may answer with, on real sockets; and the loop that sends them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::dial::ConnectOutcome;
use crate::upstream::identity::SystemId;
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::{HealthSettings, ProbeKind};

mod bombs;
mod pace;
mod scheduler;

const GOOD: &str = "{:s3-auth-path \"bucket/path\"}";

/// A server that does the same to every connection once it has read the request's head.
struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut conns = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                conns.spawn(answer(stream));
            }
        });
        Self {
            addr,
            connections,
            _tasks: tasks,
        }
    }

    /// Says this and closes.
    async fn says(text: impl Into<Vec<u8>>) -> Self {
        let text = text.into();
        Self::start(move |mut stream| {
            let text = text.clone();
            async move { stream.write_all(&text).await }
        })
        .await
    }

    /// Says the first, then the second without end.
    async fn repeats(first: &str, then: &str) -> Self {
        let (first, then) = (first.to_owned(), then.to_owned());
        Self::start(move |mut stream| {
            let (first, then) = (first.clone(), then.clone());
            async move {
                stream.write_all(first.as_bytes()).await?;
                loop {
                    stream.write_all(then.as_bytes()).await?;
                }
            }
        })
        .await
    }

    async fn probe(&self, settings: &HealthSettings) -> ProbeReport {
        once(settings, self.addr, "entry.test:8182").await
    }
}

fn settings(kind: ProbeKind) -> HealthSettings {
    HealthSettings {
        kind,
        // Far from what any of them takes, on a busy machine too.
        timeout: Duration::from_secs(10),
        ..HealthSettings::default()
    }
}

fn datomic() -> HealthSettings {
    settings(ProbeKind::Datomic)
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}")
}

fn good_system() -> ProbeOutcome {
    ProbeOutcome::Success {
        identity: Some(SystemId::new("bucket/path")),
    }
}

#[tokio::test]
async fn entry_points_are_known_however_they_frame_their_answer() {
    let length = GOOD.len();
    for answer in [
        ok("Content-Type: text/plain\r\n", GOOD),
        ok(&format!("Content-Length: {length}\r\n"), GOOD),
        ok(
            &format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
            GOOD,
        ),
        ok(
            "Transfer-Encoding: chunked\r\n",
            &format!(
                "5\r\n{}\r\n{:x};x=y\r\n{}\r\n0\r\n\r\n",
                &GOOD[..5],
                length - 5,
                &GOOD[5..]
            ),
        ),
        format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{}",
            ok("", GOOD)
        ),
        format!("HTTP/1.0 200 OK\r\n\r\n{GOOD}\n"),
    ] {
        let server = Server::says(answer.clone()).await;
        let report = server.probe(&datomic()).await;
        assert_eq!(report.outcome, good_system(), "{answer}");
        assert_eq!(report.status, Some(200));
    }
    // A real one leaves the connection open; the answer's end is known before the connection's.
    let open = Server::start(move |mut stream| async move {
        let text = ok(&format!("Content-Length: {length}\r\n"), GOOD);
        stream.write_all(text.as_bytes()).await?;
        std::future::pending().await
    })
    .await;
    assert_eq!(open.probe(&datomic()).await.outcome, good_system());
}

#[tokio::test]
async fn what_is_no_entry_point_has_its_name() {
    let gateway =
        "HTTP/1.1 403 Forbidden\r\napigw-requestid: x=\r\n\r\n{\"message\":\"Forbidden\"}";
    for (answer, code, detail) in [
        (
            "HTTP/1.1 503 Service Temporarily Unavailable\r\nServer: awselb/2.0\r\n\r\n<html>"
                .into(),
            "http_503",
            "awselb/2.0",
        ),
        (gateway.into(), "http_403", "API Gateway"),
        ("HTTP/1.1 429 Too Many\r\n\r\n".into(), "http_429", ""),
        ("HTTP/1.1 101 Switching\r\n\r\n".into(), "http_101", ""),
        ("HTTP/1.1 204 No Content\r\n\r\n".into(), "http_204", ""),
        (
            ok("Content-Type: text/html\r\n", "<html>hello"),
            "html",
            "<html>",
        ),
        (ok("", "it works"), "bad_edn", "it works"),
        (ok("", "{:a 1}"), "no_auth_path", ":a 1"),
        (ok("Content-Length: 100\r\n", GOOD), "truncated", "body"),
        (
            ok("Transfer-Encoding: chunked\r\n", "1f\r\nabc"),
            "truncated",
            "body",
        ),
        (
            ok("Transfer-Encoding: gzip, chunked\r\n", ""),
            "not_http",
            "gzip",
        ),
        ("HTTP/1.1 200 OK\r\nServer".into(), "truncated", "head"),
        ("SSH-2.0-OpenSSH_9.9\r\n".into(), "not_http", "SSH-2.0"),
        ("\x15\x03\x01\x00\x02\x02\x46".into(), "tls", "TLS"),
        ("\0\0\x12\x04\0\0\0\0\0".into(), "not_http", ""),
        (String::new(), "empty", "without an answer"),
    ] {
        let server = Server::says(answer.clone()).await;
        let outcome = server.probe(&datomic()).await.outcome;
        assert_eq!(outcome.code(), code, "{answer:?}: {outcome:?}");
        assert!(
            outcome.detail().unwrap_or_default().contains(detail),
            "{outcome:?}"
        );
    }
}

/// A status that is bad already stands, though the body never comes.
#[tokio::test]
async fn a_bad_status_does_not_wait_for_its_body() {
    let hangs = Server::start(|mut stream| async move {
        let head = "HTTP/1.1 503 Down\r\nContent-Length: 10\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        std::future::pending().await
    })
    .await;
    let outcome = hangs.probe(&datomic()).await.outcome;
    assert_eq!(outcome.code(), "http_503");
}

#[tokio::test]
async fn the_connection_itself_tells_too() {
    let resets = Server::start(|stream| async move { stream.set_zero_linger() }).await;
    assert_eq!(resets.probe(&datomic()).await.outcome, ProbeOutcome::Reset);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = gone.local_addr().unwrap();
    drop(gone);
    for kind in [ProbeKind::Tcp, ProbeKind::Http, ProbeKind::Datomic] {
        let report = once(&settings(kind), addr, "h").await;
        assert_eq!(report.outcome, ProbeOutcome::Refused);
        assert_eq!(report.connect, None);
    }
    let emfile = io::Error::from_raw_os_error(libc::EMFILE);
    assert!(matches!(tcp::outcome(&emfile), ProbeOutcome::Local(_)));
    let no_route = io::Error::from_raw_os_error(libc::ENETUNREACH);
    let unreachable = |text: &'static str| ProbeOutcome::Unreachable(text.into());
    assert_eq!(tcp::outcome(&no_route), unreachable("network unreachable"));
    // The kernel's answer for a `blackhole` route: it is named, for the probe as for what a dialer made of it.
    let route = io::Error::from_raw_os_error(libc::EINVAL);
    let named = unreachable("a `blackhole` route of this machine");
    assert_eq!(tcp::outcome(&route), named);
    assert_eq!(named.code(), "unreachable");
    assert_eq!(named.detail(), Some("a `blackhole` route of this machine"));
    let dialled = ConnectOutcome::Unreachable("a `blackhole` route of this machine".into());
    assert_eq!(tcp::dial_outcome(dialled), named);
}

#[tokio::test]
async fn kinds_tcp_and_http_ask_for_less() {
    let plain = Server::says("HTTP/1.1 204 No Content\r\n\r\n").await;
    let success = ProbeOutcome::Success { identity: None };
    assert_eq!(
        plain.probe(&settings(ProbeKind::Tcp)).await.outcome,
        success
    );
    assert_eq!(
        plain.probe(&settings(ProbeKind::Http)).await.outcome,
        success
    );
    let long = "x".repeat(500) + "needle" + &"y".repeat(5000);
    let body = Server::says(ok("", &long)).await;
    let mut wanted = HealthSettings {
        expect_body: "needle".to_owned(),
        ..settings(ProbeKind::Http)
    };
    assert_eq!(body.probe(&wanted).await.outcome, success);
    wanted.expect_body = "thimble".to_owned();
    assert_eq!(body.probe(&wanted).await.outcome.code(), "body_mismatch");
}

#[tokio::test]
async fn the_request_is_what_a_client_would_send() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let settings = HealthSettings {
        path: "/health?x=1".to_owned(),
        ..datomic()
    };
    let host = host_header("fd00::5", 8182);
    let (report, request) = tokio::join!(once(&settings, addr, &host), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1000];
        let count = stream.read(&mut request).await.unwrap();
        stream.write_all(ok("", GOOD).as_bytes()).await.unwrap();
        String::from_utf8_lossy(&request[..count]).into_owned()
    });
    assert_eq!(report.outcome, good_system());
    assert!(
        request.starts_with("GET /health?x=1 HTTP/1.1\r\nHost: [fd00::5]:8182\r\n"),
        "{request}"
    );
    assert!(request.ends_with("\r\n\r\n"));
    assert_eq!(host_header("entry.test", 80), "entry.test:80");
}
