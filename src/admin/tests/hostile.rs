use std::time::Duration;

use super::{raw, start};

/// Requests that a browser, a forged page or a broken client would send, and how each is refused.
fn hostile() -> Vec<(u16, String)> {
    let mut list: Vec<(u16, String)> = Vec::new();
    for host in [
        "evil.example",
        "evil.example:8183",
        "localhost.evil.example",
        "localhost@evil.example",
        "127.0.0.1.nip.io",
        "169.254.169.254",
        "0.0.0.0:8183",
        "[::ffff:127.0.0.1]",
        "localhost:80@evil",
        "127.1",
        "",
    ] {
        list.push((421, format!("GET /v1/status HTTP/1.1\r\nHost: {host}\r\n")));
    }
    list.push((
        421,
        "POST /v1/shutdown HTTP/1.1\r\nHost: evil.example\r\nX-Entryway-Token: s3cret\r\n".into(),
    ));
    list.push((421, "GET /v1/config HTTP/1.1\r\n".into()));
    list.push((
        421,
        "GET http://evil.example/v1/config HTTP/1.1\r\nHost: localhost\r\n".into(),
    ));
    list.push((
        421,
        "GET /v1/config HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n".into(),
    ));
    for path in [
        "/v1/shutdown",
        "/v1/reload",
        "/v1/probe",
        "/v1/loglevel?level=error",
        "/v1/endpoints/a/drain",
        "/v1/endpoints/a/ready",
        "/v1/endpoints/a/probe",
    ] {
        list.push((405, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n")));
        list.push((403, format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n")));
    }
    for extra in [
        "X-Entryway-Token: s3cret\r\nOrigin: http://evil.example",
        "X-Entryway-Token: s3cret\r\nOrigin: null",
        "X-Entryway-Token: s3cret\r\nOrigin: http://localhost:8183",
        "X-Entryway-Token: s3cret\r\nSec-Fetch-Site: cross-site",
        "X-Entryway-Token: s3cret\r\nSec-Fetch-Site: same-site",
        "X-Entryway-Token: wrong",
        "X-Entryway-Token: s3cre",
        "X-Entryway-Token:",
        "Content-Type: text/plain",
        "Content-Type: application/x-www-form-urlencoded",
    ] {
        list.push((
            403,
            format!("POST /v1/shutdown HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n"),
        ));
    }
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"] {
        list.push((
            405,
            format!("{method} /v1/shutdown HTTP/1.1\r\nHost: localhost\r\n"),
        ));
    }
    list.push((
        405,
        "POST /v1/status HTTP/1.1\r\nHost: localhost\r\n".into(),
    ));
    list.push((
        405,
        "OPTIONS /v1/status HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n".into(),
    ));
    for path in [
        "/index.html",
        "/v1",
        "/v1/../v1/shutdown",
        "/v1/endpoints/a/kill",
        "//v1/status",
        "/env.json",
        "/quitquitquit",
    ] {
        list.push((404, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n")));
    }
    list
}

#[tokio::test]
async fn hostile_requests_have_no_effect() {
    let running = start(Some("s3cret\n")).await;
    let list = hostile();
    assert!(list.len() >= 30);
    for (code, request) in list {
        let request = format!("{request}Connection: close\r\nContent-Length: 0\r\n\r\n");
        let (got, answer) = raw(running.admin, request.as_bytes()).await;
        assert_eq!(got, code, "{request}\n{answer}");
        assert!(
            !answer.to_ascii_lowercase().contains("access-control"),
            "{answer}"
        );
    }
    for broken in [
        "\0\0\0",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}",
        "GET / HTTP/1.1\r\nHost: a b\r\n: x\r\n\r\n",
    ] {
        let (got, answer) = raw(running.admin, broken.as_bytes()).await;
        assert!(matches!(got, 0 | 400 | 421), "{broken:?} {answer}");
    }
    let mut long = b"POST /v1/shutdown HTTP/1.1\r\nHost: localhost\r\nX-Entryway-Token: ".to_vec();
    long.resize(1 << 20, b'x');
    assert!(matches!(raw(running.admin, &long).await.0, 0 | 431));
    for path in ["/v1/status", "/v1/shutdown", "/v1/connections"] {
        for method in ["GET", "POST"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
            assert_eq!(raw(running.metrics, request.as_bytes()).await.0, 404);
        }
    }
    assert!(running.backend.done().is_empty());
    // Still well, and the token is good for something.
    let right = "POST /v1/probe HTTP/1.1\r\nHost: localhost\r\nX-Entryway-Token: s3cret\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(running.admin, right.as_bytes()).await.0, 200);
    assert_eq!(running.backend.done(), ["probe None None"]);
    assert!(running.log.flush(Duration::from_secs(5)));
    // Refusals are logged, but cannot flood the log.
    let refused = running
        .lines
        .text()
        .matches("\"message\":\"refused\"")
        .count();
    assert!((1..=11).contains(&refused), "{refused}");
}
