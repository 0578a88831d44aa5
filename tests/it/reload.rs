//! A reload by SIGHUP and by command: valid settings hold for new work, invalid ones change nothing.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::harness::child::{Process, run};
use crate::harness::client::{get, ping, read_exactly};
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
    for (keys, lines) in [(3, 3), (60, 51), (20_000, 51)] {
        std::fs::write(process.config(), wrong(keys)).unwrap();
        process.signal(Signal::HUP);
        let began = Instant::now();
        loop {
            let asked = Instant::now();
            get(admin, "/livez").await;
            let took = asked.elapsed();
            assert!(took < Duration::from_secs(1), "/livez took {took:?}");
            if process.events("config.reload").len() >= before + lines {
                break;
            }
            let waited = began.elapsed();
            assert!(waited < LONG, "{keys} keys: {}", process.err());
            sleep(Duration::from_millis(20)).await;
        }
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
