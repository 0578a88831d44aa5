//! `entryway demo` ends when it is told to, with a last line that tells what was done.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::child::BINARY;

async fn stopped_by(signal: &str) -> (Option<i32>, String) {
    let mut child = Command::new(BINARY)
        .arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = String::new();
    let limit = Duration::from_secs(30);
    while let Some(line) = timeout(limit, lines.next_line()).await.unwrap().unwrap() {
        if line.contains("all zones are healthy") {
            let pid = child.id().unwrap().to_string();
            let sent = Command::new("kill").args([signal, &pid]).status().await;
            assert!(sent.unwrap().success());
        }
        last = line;
    }
    // The promise is one second; a machine with both cores busy gets ten.
    let status = timeout(Duration::from_secs(10), child.wait())
        .await
        .unwrap();
    (status.unwrap().code(), last)
}

#[tokio::test]
async fn a_signal_ends_it_with_an_honest_last_line() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let (status, last) = stopped_by(signal).await;
        assert_eq!(status, Some(code), "{last}");
        assert!(
            last.contains("stopped before the end: ") && last.contains(" 0 failed"),
            "{last}"
        );
    }
}

#[cfg(feature = "gateway")]
#[tokio::test]
async fn the_laptop_tunnel_survives_what_it_shows() {
    let child = Command::new(BINARY)
        .args(["demo", "--laptop"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    // It takes 18 s; a machine with both cores busy gets more.
    let output = timeout(Duration::from_secs(90), child)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}{error}");
    let last = text.lines().last().unwrap();
    assert!(last.contains(" requests answered, 0 failed, "), "{text}");
    for said in [
        "the gateway is down",
        "the tunnel command is started again",
        "stopped for ",
        ", back in ",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
}
