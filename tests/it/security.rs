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

/// The ports that are off by default, opened: what a page in a browser, another program or another user could try there.
#[cfg(feature = "faults")]
#[tokio::test]
async fn what_is_off_by_default_is_no_way_in_either() {
    use crate::harness::client::read_out;
    use crate::harness::eventually;
    use std::os::unix::fs::MetadataExt;
    let echo = Upstream::echo().await;
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let token = folder.path().join("token");
    std::fs::write(&token, "correct-horse").unwrap();
    let conf = Conf::to(&[echo.address]).listener("front = \"auto\"");
    let conf = conf.rest("faults.bind = \"127.0.0.1:0\"");
    let conf = conf.rest(&format!("admin.control = {control:?}"));
    let conf = conf.rest(&format!("admin.token_file = {token:?}"));
    let mut process = Process::with(&conf).await;
    let admin = process.admin().await;
    let find = || {
        let up = process.events("listener.up");
        let line = up.into_iter().find(|line| line["name"] == "faults")?;
        line["address"].as_str()?.parse().ok()
    };
    eventually("the faults API is up", || find().is_some()).await;
    let faults: std::net::SocketAddr = find().unwrap();

    let page = "Origin: http://evil.example";
    let remote = r#"{"name":"open","listen":"0.0.0.0:0","upstream":"127.0.0.1:1"}"#;
    let of_listener = r#"[{"name":"datomic","listen":"127.0.0.1:1","upstream":"evil.example:1"}]"#;
    for (at, line, header, body, right) in [
        (faults, "POST /reset", page, "", &[403][..]),
        (faults, "POST /populate", "Origin: null", "[]", &[403]),
        (faults, "POST /proxies", page, remote, &[403]),
        (
            faults,
            "PATCH /proxies/datomic",
            page,
            "{\"enabled\":false}",
            &[403],
        ),
        (faults, "DELETE /proxies/datomic", page, "", &[403]),
        (faults, "POST /faults/deadman?within=1s", page, "", &[403]),
        (faults, "POST /faults/drill/claim", page, "", &[403]),
        (
            faults,
            "POST /faults/drill?kind=all-down&ttl=10s",
            page,
            "",
            &[403],
        ),
        // By GET, as an image tag would.
        (faults, "GET /reset", "", "", &[404, 405]),
        (
            faults,
            "GET /faults/drill?kind=all-down&ttl=10s",
            "",
            "",
            &[404, 405],
        ),
        // From this machine, and still not: a port for other machines, another way for the listener, no listener.
        (faults, "POST /proxies", "", remote, &[500]),
        (faults, "POST /populate", "", of_listener, &[403]),
        (faults, "DELETE /proxies/datomic", "", "", &[403]),
        // What the control socket alone may, with the token; and faults through the wrong port.
        (
            admin,
            "POST /v1/upgrade?binary=/bin/sh",
            "X-Entryway-Token: correct-horse",
            "",
            &[403, 404],
        ),
        (
            admin,
            "POST /faults/drill?kind=all-down&ttl=10s",
            "X-Entryway-Token: correct-horse",
            "",
            &[403, 404],
        ),
    ] {
        let header = match header {
            "" => String::new(),
            header => format!("{header}\r\n"),
        };
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {at}\r\n{header}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, answer) = http_raw(at, request.as_bytes()).await;
        assert!(
            right.contains(&status),
            "{line} {header}: {status}\n{answer}"
        );
    }
    let left = get(faults, "/faults").await;
    assert!(
        left.contains("\"faults\":[]") && left.contains("\"deadman_s\":null"),
        "{left}"
    );

    // Through the front to what listens beside it, and to the machine's metadata.
    let port = admin.port();
    for target in [
        format!("127.0.0.2:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        format!("0x7f000001:{port}"),
        "169.254.169.254:80".to_owned(),
        format!("entry.evil.example@127.0.0.1:{port}"),
    ] {
        let mut client = TcpStream::connect(process.address()).await.unwrap();
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let (answer, _) = read_out(&mut client).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{target}: {answer}"
        );
    }
    let [high, low] = port.to_be_bytes();
    for address in [[127, 0, 0, 2], [169, 254, 169, 254], [0, 0, 0, 0]] {
        let mut client = TcpStream::connect(process.address()).await.unwrap();
        let request = [&[5, 1, 0, 5, 1, 0, 1][..], &address, &[high, low]].concat();
        client.write_all(&request).await.unwrap();
        let (answer, _) = read_out(&mut client).await;
        assert_eq!(answer[..4], [5, 0, 5, 2], "{address:?}: {answer:?}");
    }
    assert_eq!(echo.accepted(), 0, "something was dialled");
    // The endpoint's own name with another port leads to the endpoint.
    let mut client = TcpStream::connect(process.address()).await.unwrap();
    let request = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 19];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK\r\n\r\n");
    ping(&mut client, b"GET /v1/config").await;
    drop(client);

    // Even in a folder that is open to others.
    let mode = std::fs::metadata(&control).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    ping(
        &mut TcpStream::connect(process.address()).await.unwrap(),
        b"undisturbed",
    )
    .await;
    assert_eq!(process.term().await, 0);
}

/// The page names a test for every attack: each is there.
#[test]
fn the_tests_that_the_guide_names_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("src/guide/security.md")).unwrap();
    let (_, table) = page.split_once("| attack |").unwrap();
    let mut rows = 0;
    for row in table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
    {
        rows += 1;
        let named: Vec<&str> = row
            .split('`')
            .filter(|text| text.contains(".rs "))
            .collect();
        assert!(!named.is_empty(), "no test: {row}");
        for one in named {
            let (file, function) = one.split_once(' ').unwrap();
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            assert!(text.contains(&format!("fn {function}()")), "{one}");
        }
    }
    assert!(rows >= 20, "{rows}");
}
