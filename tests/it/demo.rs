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
