//! A reload by SIGHUP and by command: valid settings hold for new work, invalid ones change nothing.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::harness::child::{Process, run};
use crate::harness::client::{End, get, http, ping, read_exactly, read_out};
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, LONG, eventually};

#[tokio::test]
async fn sighup_applies_to_new_connections_only() {
    let (one, two) = (Upstream::echo().await, Upstream::echo().await);
    let mut process = Process::with(&Conf::to(&[one.address])).await;
    let admin = process.admin().await;
    let mut old = TcpStream::connect(process.address()).await.unwrap();
    ping(&mut old, b"before").await;
    assert_eq!(one.accepted(), 1);

    std::fs::write(process.config(), Conf::to(&[two.address]).text()).unwrap();
    process.signal(Signal::HUP);
    eventually("reloaded", || !process.events("config.reload").is_empty()).await;
    let mut new = TcpStream::connect(process.address()).await.unwrap();
    ping(&mut new, b"after").await;
    assert_eq!((one.accepted(), two.accepted()), (1, 1));
    old.write_all(b"untouched").await.unwrap();
    assert_eq!(read_exactly(&mut old, 9).await, b"untouched");

    // Broken: nothing changes, and it is told.
    std::fs::write(process.config(), "upstream = 7\nno_such_key = [").unwrap();
    process.signal(Signal::HUP);
    eventually("refused", || {
        process
            .events("config.reload")
            .iter()
            .any(|line| line["level"] == "error")
    })
    .await;
    ping(&mut new, b"still").await;
    ping(
        &mut TcpStream::connect(process.address()).await.unwrap(),
        b"as before",
    )
    .await;
    assert_eq!(two.accepted(), 2);
    let metrics = get(admin, "/metrics").await;
    assert!(
        metrics.contains("\nentryway_config_last_reload_successful 0\n"),
        "{metrics}"
    );

    std::fs::write(process.config(), Conf::to(&[two.address]).text()).unwrap();
    process.signal(Signal::HUP);
    eventually("applied again", || {
        process.events("config.reload").len() >= 3
    })
    .await;
    let metrics = get(admin, "/metrics").await;
    assert!(
        metrics.contains("\nentryway_config_last_reload_successful 1\n"),
        "{metrics}"
    );
    drop((old, new));
    assert_eq!(process.term().await, 0);
}

#[tokio::test]
async fn the_command_tells_what_is_wrong_and_ends_with_78() {
    let echo = Upstream::echo().await;
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let conf =
        Conf::to(&[echo.address]).rest(&format!("admin.control = {:?}", control.to_str().unwrap()));
    let mut process = Process::with(&conf).await;
    let admin = process.admin().await.to_string();
    let (code, out, err) = run(&["reload", "--admin", &admin]).await;
    assert_eq!(code, 0, "{out}{err}");
    std::fs::write(
        process.config(),
        conf.text().replace("zone = \"none\"", "zoen = \"none\""),
    )
    .unwrap();
    let (code, out, err) = run(&["reload", "--admin", &admin]).await;
    assert_eq!(code, 78, "{out}{err}");
    assert!(err.contains("zoen") && err.contains("zone"), "{err}");
    let (code, out, _) = run(&["status", "--admin", &admin]).await;
    assert_eq!(code, 0, "{out}");
    let (code, _, err) = run(&["shutdown", "--admin", &admin]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(process.wait().await.code(), Some(0));
}

/// Each error of a file is a line that names its place; beyond 50 they are counted. Meanwhile health is answered, however
/// long the file is.
#[tokio::test]
async fn every_error_is_a_line_and_a_huge_file_stalls_nothing() {
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[echo.address]);
    let mut process = Process::with(&conf).await;
    let admin = process.admin().await;
    let wrong = |count: usize| {
        let keys = (1..=count).map(|number| format!("wrong_{number} = 1\n"));
        format!("{}{}", keys.collect::<String>(), conf.text())
    };
    let mut before = 0;
    for (keys, lines) in [(3, 3), (60, 51), (5_000, 51)] {
        std::fs::write(process.config(), wrong(keys)).unwrap();
        process.signal(Signal::HUP);
        let began = Instant::now();
        let mut answered = 0;
        while process.events("config.reload").len() < before + lines {
            // The page as well, which the same loop makes.
            get(admin, if answered % 8 == 0 { "/" } else { "/livez" }).await;
            answered += 1;
            let waited = began.elapsed();
            assert!(waited < LONG, "{keys} keys: {}", process.err());
            sleep(Duration::from_millis(2)).await;
        }
        // Read where health is answered, only the question that is under way would be.
        assert!(keys < 1000 || answered > 5, "{answered} answers");
        let said = process.events("config.reload").split_off(before);
        assert_eq!(said.len(), lines, "{keys}: {}", process.err());
        let text = |line: &Value| line["error"].as_str().unwrap().to_owned();
        for (place, line) in said.iter().take(keys.min(50)).enumerate() {
            let (at, key) = (
                format!("entryway.toml:{}", place + 1),
                format!("wrong_{}", place + 1),
            );
            let text = text(line);
            assert!(text.contains(&at) && text.contains(&key), "{text}");
        }
        if keys > 50 {
            assert_eq!(text(&said[50]), format!("and {} more errors", keys - 50));
        }
        before += lines;
    }
    assert_eq!(process.term().await, 0);
}

/// What a reload reports as changed is in force when the command has ended: in new connections, in what is asked over
/// HTTP, in the next line of the log, and at the end.
#[tokio::test]
async fn what_a_reload_reports_is_in_force() {
    let echo = Upstream::echo().await;
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let control = control.to_str().unwrap();
    let conf = |settings: [&str; 8]| {
        let [delay, format, level, ready, most, zone, system, region] = settings;
        Conf::to(&[echo.address])
            .rest(&format!("admin.control = {control:?}"))
            .rest(&format!("shutdown.max_delay = {delay:?}"))
            .rest(&format!("log.format = {format:?}"))
            .rest(&format!("log.level = {level:?}"))
            .rest(&format!("readiness.upstream = {ready}"))
            .listener(&format!("max_connections = {most}"))
            .upstream(&format!("zone = {zone:?}"))
            .upstream(&format!("system = {system:?}"))
            .upstream(&format!("region = {region:?}"))
    };
    let old = [
        "60s",
        "json",
        "debug",
        "\"none\"",
        "10",
        "a",
        "one",
        "us-east-1",
    ];
    let new = ["1s", "logfmt", "info", "5", "3", "none", "two", "eu-west-1"];
    let keys = [
        "shutdown.max_delay",
        "log.format",
        "log.level",
        "readiness.upstream",
        "listener[datomic].max_connections",
        "upstream[default].zone",
        "upstream[default].system",
        "upstream[default].region",
    ];
    let mut process = Process::with(&conf(old)).await;
    let (address, admin) = (process.address(), process.admin().await);
    let status =
        async || -> Value { serde_json::from_str(&get(admin, "/v1/status").await).unwrap() };
    let target = |status: &Value| {
        let upstream = &status["upstreams"][0];
        ["zone", "system", "region"].map(|key| upstream[key].clone())
    };
    assert_eq!(target(&status().await), ["a", "one", "us-east-1"]);
    // Ready, as long as nobody asks for five healthy addresses of one.
    get(admin, "/readyz").await;
    std::fs::write(process.config(), conf(new).text()).unwrap();
    let (code, out, err) = run(&["reload", "--control", control, "--output", "json"]).await;
    assert_eq!(code, 0, "{out}{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    for key in keys {
        let list = report["changed"].as_array().unwrap();
        let named = |one: &Value| one.as_str().is_some_and(|one| one.starts_with(key));
        assert!(list.iter().any(named), "{key}: {report}");
    }
    assert_eq!(report["restart_needed"], serde_json::json!([]), "{report}");

    let [zone, system, region] = target(&status().await);
    assert_eq!(
        (zone, system, region),
        (Value::Null, "two".into(), "eu-west-1".into())
    );
    assert_eq!(http(admin, "GET", "/readyz").await.0, 503);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(address).await.unwrap();
        ping(&mut client, b"in").await;
        clients.push(client);
    }
    let mut fourth = TcpStream::connect(address).await.unwrap();
    assert_eq!(read_out(&mut fourth).await, (Vec::new(), End::Fin));
    drop(fourth);
    eventually("its line, in the new format", || {
        let err = process.err();
        let mut lines = err.lines().filter(|line| line.contains("max_connections"));
        lines.any(|line| line.starts_with("timestamp=") && line.contains("conn.close"))
    })
    .await;
    let after = process.err();
    let later = after.lines().skip_while(|line| line.starts_with('{'));
    assert!(
        !later.clone().any(|line| line.contains("level=debug")),
        "{after}"
    );
    // A request without an answer is given the new time, not the old one.
    clients[0].write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let began = Instant::now();
    assert_eq!(process.term().await, 0);
    assert!(began.elapsed() < Duration::from_secs(10));
}
