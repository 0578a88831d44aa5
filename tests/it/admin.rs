//! Admin end to end, through the built binary: access rules, answers and the commands that ask.

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::child::{Process, run};
use crate::harness::client::{get, http_raw, ping};
use crate::harness::namespace::in_a_namespace;
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, eventually};

#[tokio::test]
async fn the_access_rules() {
    let echo = Upstream::echo().await;
    let mut process = Process::with(&Conf::to(&[echo.address])).await;
    let admin = process.admin().await;
    for path in [
        "/livez",
        "/live",
        "/liveness",
        "/startupz",
        "/readyz",
        "/healthz",
        "/metrics",
        "/v1/version",
    ] {
        get(admin, path).await;
    }
    let request = |head: &str| {
        format!("{head}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").into_bytes()
    };
    let local = format!("Host: {admin}");
    let table = [
        (
            "GET /v1/status HTTP/1.1\r\nHost: evil.example".to_owned(),
            421,
        ),
        (
            "GET /v1/status HTTP/1.1\r\nHost: evil.example:8183".to_owned(),
            421,
        ),
        (
            "GET /v1/status HTTP/1.1\r\nHost: localhost:1".to_owned(),
            200,
        ),
        (format!("GET /v1/reload HTTP/1.1\r\n{local}"), 405),
        (format!("GET /v1/shutdown HTTP/1.1\r\n{local}"), 405),
        (format!("POST /v1/shutdown HTTP/1.1\r\n{local}"), 403),
        (
            format!("POST /v1/reload HTTP/1.1\r\n{local}\r\nOrigin: http://evil.example"),
            403,
        ),
        (
            format!("POST /v1/probe HTTP/1.1\r\n{local}\r\nSec-Fetch-Site: cross-site"),
            403,
        ),
        (format!("GET /no/such/path HTTP/1.1\r\n{local}"), 404),
    ];
    for (head, status) in table {
        let (got, answer) = http_raw(admin, &request(&head)).await;
        assert_eq!(got, status, "{head}: {answer}");
        assert!(
            answer.to_lowercase().contains("cache-control: no-store"),
            "{answer}"
        );
        if status >= 400 {
            assert!(answer.contains("application/problem+json"), "{answer}");
        }
    }
    let large = format!(
        "GET /livez HTTP/1.1\r\n{local}\r\nX: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let (status, _) = http_raw(admin, large.as_bytes()).await;
    assert!(status == 0 || status >= 400, "{status}");
    // Nothing of this disturbed anything.
    ping(
        &mut TcpStream::connect(process.address()).await.unwrap(),
        b"undisturbed",
    )
    .await;
    assert_eq!(process.term().await, 0);
}

/// More readers of the event stream than there are places for, and none of them takes a byte.
#[tokio::test]
async fn five_hundred_that_never_read_hold_up_nobody() {
    let echo = Upstream::echo().await;
    let process = Process::with(&Conf::to(&[echo.address])).await;
    let admin = process.admin().await;
    let before = process.descriptors();
    let mut readers = Vec::new();
    for _ in 0..500 {
        let mut reader = TcpStream::connect(admin).await.unwrap();
        let request =
            format!("GET /v1/events HTTP/1.1\r\nHost: {admin}\r\nLast-Event-ID: none\r\n\r\n");
        // The oldest give way, which resets them.
        let _ = reader.write_all(request.as_bytes()).await;
        readers.push(reader);
    }
    // Something to tell them.
    for _ in 0..50 {
        let mut client = TcpStream::connect(process.address()).await.unwrap();
        ping(&mut client, b"hello").await;
    }
    assert!(get(admin, "/").await.contains("Recent events"));
    assert!(get(admin, "/v1/status").await.contains("listeners"));
    let during = process.descriptors();
    assert!(
        during < before + 150,
        "{during} descriptors, {before} before"
    );
    drop(readers);
    eventually("their descriptors are closed", || {
        process.descriptors() <= before + 3
    })
    .await;
}

#[tokio::test]
async fn answers_and_commands() {
    let (one, two) = (Upstream::echo().await, Upstream::echo().await);
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let endpoints = [
        format!("{}?zone=a&name=one", one.address),
        format!("{}?zone=b&name=two", two.address),
    ];
    let conf =
        Conf::to(&endpoints).rest(&format!("admin.control = {:?}", control.to_str().unwrap()));
    let mut process = Process::with(
        &conf
            .upstream(r#"zone = "a""#)
            .upstream(r#"health.kind = "tcp""#),
    )
    .await;
    let admin = process.admin().await;
    let mut client = TcpStream::connect(process.address()).await.unwrap();
    ping(&mut client, b"hello").await;
    let json =
        async |path: &str| -> Value { serde_json::from_str(&get(admin, path).await).unwrap() };

    let status = json("/v1/status").await;
    assert_eq!(
        (&status["ready"], &status["draining"]),
        (&true.into(), &false.into()),
        "{status}"
    );
    assert_eq!(status["pid"], process.pid());
    assert_eq!(
        status["listeners"][0]["addresses"][0],
        process.address().to_string()
    );
    assert_eq!(
        (
            &status["listeners"][0]["connections"],
            &status["upstreams"][0]["addresses"]
        ),
        (&1.into(), &2.into())
    );
    let connections = json("/v1/connections").await;
    let connection = &connections["connections"][0];
    assert_eq!(
        connection["client"],
        client.local_addr().unwrap().to_string(),
        "{connections}"
    );
    assert_eq!(
        (&connection["endpoint"], &connection["bytes"]["upload"]),
        (&"one".into(), &5.into())
    );
    let endpoints = json("/v1/endpoints").await;
    assert_eq!(endpoints["endpoints"].as_array().unwrap().len(), 2);
    assert_eq!(
        endpoints["endpoints"][0]["addresses"][0]["address"],
        one.address.to_string()
    );
    let explain = json("/v1/explain").await;
    assert_eq!(
        (
            &explain["order"][0]["endpoint"],
            &explain["order"][0]["rank"]
        ),
        (&"one".into(), &1.into()),
        "{explain}"
    );
    let what_if = json("/v1/explain?what_if=zone-down=a").await;
    assert_eq!(what_if["order"][0]["endpoint"], "two", "{what_if}");
    let config = json("/v1/config").await.to_string();
    assert!(config.contains("entryway.toml:"), "{config}");

    let at = admin.to_string();
    let (code, _, err) = run(&["endpoint", "drain", "one", "--admin", &at]).await;
    assert_eq!(code, 0, "{err}");
    ping(
        &mut TcpStream::connect(process.address()).await.unwrap(),
        b"two",
    )
    .await;
    eventually("two is used", || two.accepted() >= 1).await;
    let (code, out, _) = run(&["endpoint", "list", "--admin", &at]).await;
    assert!(
        code == 0 && out.contains("one") && out.contains("drain"),
        "{out}"
    );
    assert_eq!(
        run(&["endpoint", "ready", "one", "--admin", &at]).await.0,
        0
    );
    assert_eq!(
        run(&["endpoint", "drain", "nobody", "--admin", &at])
            .await
            .0,
        69
    );
    for (args, expected) in [
        (&["wait", "--for", "healthy=2", "--timeout", "5s"][..], 0),
        (&["wait", "--for", "healthy=3", "--timeout", "300ms"], 75),
        (&["healthcheck"], 0),
        (&["healthcheck", "--ready"], 0),
        (&["status", "--output", "json"], 0),
        (&["explain"], 0),
    ] {
        let (code, out, err) = run(&[args, &["--admin", &at]].concat()).await;
        assert_eq!(code, expected, "{args:?}: {out}{err}");
    }
    drop(client);
    assert_eq!(run(&["shutdown", "--admin", &at]).await.0, 0);
    assert_eq!(process.wait().await.code(), Some(0));
    assert_eq!(run(&["status", "--admin", &at]).await.0, 69);
    assert_eq!(run(&["healthcheck", "--admin", &at]).await.0, 1);
}

/// A command that is not told where to go finds the one instance, lists several, and never asks a stranger at the default
/// address. In a network of its own, where no other instance runs.
#[tokio::test]
#[cfg_attr(
    any(not(target_os = "linux"), entryway_portable),
    ignore = "instances are registered on Linux only"
)]
async fn a_command_that_is_not_told_finds_the_only_instance() {
    let script = r#"
ip link set lo up
export XDG_RUNTIME_DIR=$PWD
chmod 700 .
start() {
    "$0" run -e 127.0.0.1:9 --probe off --zone none --listen 127.0.0.1:0 "$@" >run.$#.$1.out 2>&1 &
}
# What a command ends with, once it ends with what is expected; the instance may not be registered yet.
gives() {
    local want=$1; shift
    for i in $(seq 100); do
        "$0" "$@" >out 2>err; code=$?
        [ $code = $want ] && break
        sleep 0.05
    done
    echo "$code: $*"
}
echo "== none"; gives 69 status
start --admin 127.0.0.1:0 --control off; one=$!
echo "== one"; gives 0 status --output json
grep -q "\"pid\": *$one," out && echo "its pid"
start --admin 127.0.0.1:0; two=$!
echo "== two"; gives 78 status
grep -q "pid $one," err && grep -q "pid $two," err && grep -q -- "--admin 127" err && echo "both named"
kill $one; wait $one
echo "== the other"; gives 0 shutdown --wait
wait $two
# A stranger at the default address.
python3 -m http.server --bind 127.0.0.1 8183 >/dev/null 2>&1 & stranger=$!
for i in $(seq 200); do (: <>/dev/tcp/127.0.0.1/8183) 2>/dev/null && break; sleep 0.05; done
start --admin off --control off; mute=$!
for i in $(seq 200); do "$0" status >out 2>err; grep -q neither err && break; sleep 0.05; done
echo "== neither"; gives 69 status
grep -q "pid $mute has neither" err && echo "said"
kill $mute; wait $mute
start --admin off; quiet=$!
echo "== control"; gives 0 healthcheck
cat out
kill $quiet; wait $quiet
"#;
    let Some(out) = in_a_namespace(script).await else {
        return;
    };
    let expected = "== none\n69: status\n== one\n0: status --output json\nits pid\n== two\n78: status\nboth named\n\
        == the other\n0: shutdown --wait\n== neither\n69: status\nsaid\n== control\n0: healthcheck\nalive\n";
    assert_eq!(out, expected);
}
