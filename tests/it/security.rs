//! The attacks that `src/guide/security.md` speaks of, against the built binary.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::Conf;
use crate::harness::child::{Process, run};
use crate::harness::client::{get, http_raw, ping};
use crate::harness::upstream::Upstream;

#[tokio::test]
async fn twenty_attacks_on_the_ports() {
    let echo = Upstream::echo().await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "correct-horse").unwrap();
    let mut permissions = std::fs::metadata(&token).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&token, permissions).unwrap();
    let conf = Conf::to(&[echo.address]).rest(&format!(
        "admin.token_file = {:?}\nadmin.metrics_bind = \"127.0.0.1:0\"",
        token.to_str().unwrap()
    ));
    let mut process = Process::with(&conf).await;
    let admin = process.admin().await;
    let local = format!("Host: {admin}");
    let long = "x".repeat(64 * 1024);
    // What is sent, and the statuses that are right; 0 is an end without an answer.
    let table: Vec<(String, &[u16])> = vec![
        // A name that was rebound to loopback, in four spellings.
        (
            "GET /v1/status HTTP/1.1\r\nHost: evil.example".to_owned(),
            &[421],
        ),
        (
            "GET /v1/config HTTP/1.1\r\nHost: localhost.evil.example".to_owned(),
            &[421],
        ),
        (
            "GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1.evil.example:8183".to_owned(),
            &[421],
        ),
        (
            "GET /v1/status HTTP/1.1\r\nHost: 169.254.169.254".to_owned(),
            &[421],
        ),
        // Changes without the token, with a wrong one, with half of it.
        (format!("POST /v1/shutdown HTTP/1.1\r\n{local}"), &[403]),
        (
            format!("POST /v1/reload HTTP/1.1\r\n{local}\r\nX-Entryway-Token: wrong"),
            &[403],
        ),
        (
            format!("POST /v1/shutdown HTTP/1.1\r\n{local}\r\nX-Entryway-Token: correct"),
            &[403],
        ),
        (
            format!("POST /v1/shutdown HTTP/1.1\r\n{local}\r\nX-Entryway-Token: "),
            &[403],
        ),
        // A web page that knows the token's name but not that it is refused anyhow.
        (
            format!(
                "POST /v1/shutdown HTTP/1.1\r\n{local}\r\nOrigin: http://evil.example\r\nX-Entryway-Token: correct-horse"
            ),
            &[403],
        ),
        (
            format!(
                "POST /v1/reload HTTP/1.1\r\n{local}\r\nSec-Fetch-Site: cross-site\r\nX-Entryway-Token: correct-horse"
            ),
            &[403],
        ),
        // Changes by GET: an image tag can send those.
        (format!("GET /v1/shutdown HTTP/1.1\r\n{local}"), &[405]),
        (
            format!("GET /v1/loglevel?level=debug HTTP/1.1\r\n{local}"),
            &[405],
        ),
        // Files through the path.
        (
            format!("GET /../../etc/passwd HTTP/1.1\r\n{local}"),
            &[400, 404],
        ),
        (
            format!("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n{local}"),
            &[400, 404],
        ),
        (
            format!("GET /v1/endpoints/..%2f..%2fetc/drain HTTP/1.1\r\n{local}"),
            &[404, 405],
        ),
        // Too much of something.
        (
            format!("GET /livez HTTP/1.1\r\n{local}\r\nX: {long}"),
            &[0, 400, 413, 431],
        ),
        (
            format!("GET /{long} HTTP/1.1\r\n{local}"),
            &[0, 400, 414, 431],
        ),
        // Two lengths, and methods that proxies take.
        (
            format!("POST /v1/shutdown HTTP/1.1\r\n{local}\r\nTransfer-Encoding: chunked"),
            &[0, 400, 403, 408],
        ),
        (format!("TRACE / HTTP/1.1\r\n{local}"), &[404, 405]),
    ];
    for (head, right) in table {
        let request = format!("{head}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let (status, answer) = http_raw(admin, request.as_bytes()).await;
        let head: String = head.chars().take(120).collect();
        assert!(right.contains(&status), "{head}: {status}\n{answer}");
        assert!(
            !answer.contains("root:") && !answer.contains("correct-horse"),
            "{head}: {answer}"
        );
    }
    // A header cannot be put into the answer through the query, and the configuration shows no secret.
    let request = format!(
        "GET /v1/connections?limit=1%0d%0aSet-Cookie:%20x HTTP/1.1\r\n{local}\r\nConnection: close\r\n\r\n"
    );
    let (_, answer) = http_raw(admin, request.as_bytes()).await;
    assert!(
        !answer.to_lowercase().contains("\r\nset-cookie"),
        "{answer}"
    );
    assert!(!get(admin, "/v1/config").await.contains("correct-horse"));
    // Nothing of this disturbed anything.
    ping(
        &mut TcpStream::connect(process.address()).await.unwrap(),
        b"undisturbed",
    )
    .await;
    assert_eq!(process.term().await, 0);
}

#[tokio::test]
async fn a_request_that_never_ends_is_closed_and_holds_up_no_other() {
    let echo = Upstream::echo().await;
    let mut process = Process::with(&Conf::to(&[echo.address])).await;
    let admin = process.admin().await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nHost: ")
            .await
            .unwrap();
        slow.push(stream);
    }
    get(admin, "/livez").await;
    // The promise is 5 s; a machine with both cores busy gets thirty.
    let limit = std::time::Duration::from_secs(30);
    for mut stream in slow {
        let mut rest = Vec::new();
        let _ = timeout(limit, stream.read_to_end(&mut rest))
            .await
            .expect("still open");
    }
    assert_eq!(process.term().await, 0);
}

#[tokio::test]
async fn leaving_loopback_is_refused_unless_it_is_asked_for() {
    for flag in ["--listen=0.0.0.0:0", "--listen=[::]:0"] {
        let (code, _, err) = run(&["run", "-e", "10.0.0.1:8182", flag]).await;
        assert_eq!(code, 78, "{flag}: {err}");
        assert!(err.contains("--allow-remote"), "{flag}: {err}");
    }
}
