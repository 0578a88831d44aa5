//! What cannot be drilled, and that nothing is touched then.

use entryway::mock::ZoneMode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Ground, run, start};
use crate::harness::client::http;
use crate::harness::{Conf, Entryway, eventually, no_leaks};

#[tokio::test]
async fn a_command_line_that_is_not_understood_touches_nothing() {
    let ground = Ground::new().await;
    let admin = ground.admin();
    for (args, said) in [
        (&["zone-gone"][..], "invalid value 'zone-gone'"),
        (
            &["zone-down", "--assert", "p98<1s"],
            "nothing is called `p98`",
        ),
        (&["zone-down", "--assert", "failover<soon"], "failover<soon"),
        (&["zone-down", "--assert", "failover<100"], "is a time"),
        (
            &["zone-down", "--out", "/no/such/r.xml"],
            "folder does not exist",
        ),
        (
            &["zone-down", "--zone", "c"],
            "no endpoint is in zone `c`; there are a, b",
        ),
        (&["all-down", "--zone", "a"], "does not happen to one zone"),
        (&["zone-down", "--for", "1ms"], "too short"),
        (&["zone-down", "--out", "report.txt"], "ends in .json"),
    ] {
        let (code, out, err) = run(&[args, &["--admin", &admin]].concat()).await;
        assert_eq!(code, 2, "{args:?}: {out}{err}");
        assert!(err.contains(said), "{args:?}: {err}");
    }
    assert_eq!(ground.events(), (0, 0));
    assert_eq!(
        ground.entryway.sum("entryway_connections_accepted_total"),
        0.0
    );
    no_leaks(ground.entryway).await;
}

#[tokio::test]
async fn an_instance_that_takes_no_faults_says_what_to_do() {
    let entryway = Entryway::start(&Conf::to(&["127.0.0.1:9"])).await;
    let admin = entryway.admin.unwrap().to_string();
    let (code, _, err) = run(&["zone-down", "--admin", &admin]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("faults.bind") && err.contains("--faults"),
        "{err}"
    );
    no_leaks(entryway).await;
    let (code, _, err) = run(&["zone-down", "--admin", &admin]).await;
    assert_eq!(code, 69, "{err}");
    assert!(err.contains("no instance answers"), "{err}");
}

#[tokio::test]
async fn a_dead_listener_is_said_before_a_fault_is_set() {
    let ground = Ground::with(|conf| conf.listener("max_connections = 1")).await;
    let _only = ground.entryway.connect().await;
    let (code, _, err) = run(&["zone-down", "--admin", &ground.admin()]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("even without a fault"), "{err}");
    assert_eq!(ground.events(), (0, 0));
}

#[tokio::test]
async fn there_is_one_drill_at_a_time() {
    let ground = Ground::new().await;
    let admin = ground.admin();
    let mut first = start(&[
        "zone-slow",
        "--admin",
        &admin,
        "--for",
        "20s",
        "--rate",
        "0",
    ]);
    ground.wait_until_set(true).await;
    let (code, _, err) = run(&["zone-down", "--admin", &admin, "--rate", "0"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("another drill runs") && err.contains("zone-slow"),
        "{err}"
    );
    let list = ground.list().await;
    assert_eq!(
        list["faults"][0]["type"], "zone-slow",
        "the first one stands"
    );
    assert_eq!(list["faults"][0]["zone"], "a", "the zone in use");
    for key in ["proxy", "stream", "toxic"] {
        assert_eq!(list["faults"][0][key], Value::Null, "{key}");
    }
    assert!(list["deadman_s"].as_f64().is_some_and(|left| left <= 5.0));
    assert!(
        list["faults"][0]["ttl_left_s"]
            .as_f64()
            .is_some_and(|left| (20.0..=30.0).contains(&left))
    );
    let proxies = http(ground.faults, "GET", "/proxies").await.1;
    assert!(!proxies.contains("zone-slow"), "{proxies}");
    let active = ground
        .entryway
        .metric("entryway_faults_active", &[("listener", "datomic")]);
    assert_eq!(active, 1.0);
    let ready = http(admin.parse().unwrap(), "GET", "/readyz?verbose")
        .await
        .1;
    assert!(ready.contains("drill: zone-slow (zone a)"), "{ready}");
    first.signal(rustix::process::Signal::INT);
    assert_eq!(first.wait().await.code(), Some(130));
    assert!(!ground.is_set().await);
    let active = ground
        .entryway
        .metric("entryway_faults_active", &[("listener", "datomic")]);
    assert_eq!(active, 0.0);
    no_leaks(ground.entryway).await;
}

/// Before its fault is set, and after it has gone.
#[tokio::test]
async fn a_drill_keeps_others_away_from_its_beginning_to_its_end() {
    let ground = Ground::new().await;
    let admin = ground.admin();
    let mut first = start(&["zone-down", "--admin", &admin, "--for", "1s"]);
    let refused = async || {
        let (code, _, err) = run(&["zone-slow", "--admin", &admin, "--rate", "0"]).await;
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("another drill runs"), "{err}");
        let (status, body) = http(ground.faults, "POST", "/faults/drill?kind=sleep").await;
        assert_eq!(status, 409, "{body}");
        body
    };
    eventually("it sends", || first.err().contains("requests a second")).await;
    let body = refused().await;
    // A machine that stands still for two seconds may have come to the fault.
    if ground.events() == (0, 0) {
        assert!(body.contains("before or after its fault"), "{body}");
    }
    ground.wait_until_set(true).await;
    // So that its zone does not return.
    ground.mock.set_mode("a", ZoneMode::Dead).await.unwrap();
    eventually("it waits", || {
        first.err().contains("waiting for the return")
    })
    .await;
    assert_eq!(ground.events(), (1, 1));
    let body = refused().await;
    assert!(body.contains("before or after its fault"), "{body}");
    first.signal(rustix::process::Signal::INT);
    assert_eq!(first.wait().await.code(), Some(130), "{}", first.err());
    let next = http(ground.faults, "POST", "/faults/drill?kind=sleep").await;
    assert_eq!(next.0, 200, "it is over: {}", next.1);
    assert_eq!(http(ground.faults, "POST", "/reset").await.0, 204);
    no_leaks(ground.entryway).await;
}

/// Reading needs no token, and faults take none: what is left is an instance that is not for us.
#[tokio::test]
async fn an_instance_that_is_not_for_us_ends_it_with_77() {
    for status in ["403 Forbidden", "421 Misdirected Request"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let (code, out, err) = run(&["zone-down", "--admin", &admin]).await;
        assert_eq!(code, 77, "{status}: {out}{err}");
        assert!(err.contains("another user"), "{err}");
    }
}

/// Its requests are plain HTTP.
#[tokio::test]
async fn a_gateway_is_not_sent_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut request).await {
                    let is = |path: &[u8]| request[..read].starts_with(path);
                    let body = match () {
                        () if is(b"GET /v1/status ") => {
                            r#"{"faults":"127.0.0.1:9","listeners":[{"name":"gateway","addresses":["127.0.0.1:9"],"upstream":"default","scheme":"https"}]}"#
                        }
                        () if is(b"GET /v1/endpoints ") => {
                            r#"{"endpoints":[{"upstream":"default","name":"a","zone":"a","active":true}]}"#
                        }
                        () => "{}",
                    };
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let (code, _, err) = run(&["zone-down", "--admin", &admin]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("this is a gateway") && err.contains("--rate 0"),
        "{err}"
    );
}

#[tokio::test]
async fn the_api_refuses_what_it_does_not_know() {
    let ground = Ground::new().await;
    for (method, path, status) in [
        ("POST", "/faults/drill", 400),
        ("POST", "/faults/drill?kind=zone-gone", 400),
        ("POST", "/faults/drill?kind=zone-down&zone=c", 400),
        ("POST", "/faults/drill?kind=dns-fail&zone=a", 400),
        ("POST", "/faults/drill?kind=zone-down&ttl=soon", 400),
        ("GET", "/faults/drill", 405),
        ("DELETE", "/faults/drill", 404),
        ("POST", "/faults/drill/alive", 404),
        ("POST", "/faults/drill/claim", 400),
        ("GET", "/faults/drill/claim", 405),
    ] {
        let (answer, body) = http(ground.faults, method, path).await;
        assert_eq!(answer, status, "{method} {path}: {body}");
    }
    assert_eq!(ground.events(), (0, 0));
    // What a test suite does between two tests ends a drill as well.
    assert_eq!(
        http(
            ground.faults,
            "POST",
            "/faults/drill?kind=zone-down&ttl=20s"
        )
        .await
        .0,
        200
    );
    assert_eq!(
        http(ground.faults, "POST", "/faults/drill?kind=sleep")
            .await
            .0,
        409
    );
    assert_eq!(http(ground.faults, "POST", "/reset").await.0, 204);
    assert!(!ground.is_set().await);
    no_leaks(ground.entryway).await;
}
