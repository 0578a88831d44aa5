//! What becomes of a command, and of the proxy, when nobody reads its output or the disk is full.

use std::fs::File;
use std::io::{PipeWriter, Write as _};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::child::command;
use crate::harness::client::{get, ping};
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, Entryway, LONG, events_in, eventually, no_leaks};

/// Runs a command with this as its standard output; exit code and standard error.
async fn with_output(args: Vec<String>, out: impl Into<Stdio>) -> (Vec<String>, i32, String) {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = command(&words);
    let child = command.stdout(out).stderr(Stdio::piped()).spawn().unwrap();
    let output = timeout(LONG, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{args:?} hangs")).unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    (args, output.status.code().unwrap_or(-1), err)
}

/// A pipe that nobody reads and that takes no more.
fn full_pipe() -> (std::io::PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while (&writer).write(&[b'x'; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

/// A reader that has had enough changes no answer; a full disk is an error of the system, and never "a setting is wrong".
#[tokio::test]
async fn a_reader_that_has_gone_and_a_full_disk() {
    const TARGET: &str = "-e 127.0.0.1:1";
    let echo = Upstream::echo().await;
    let entryway = Entryway::start(&Conf::to(&[echo.address])).await;
    let at = format!("--admin {}", entryway.admin.unwrap());
    let dead = Conf::to(&["127.0.0.1:1"]).upstream(r#"health.kind = "tcp""#);
    let dead = Entryway::start(&dead).await;
    let troubled = format!("--admin {}", dead.admin.unwrap());
    dead.logged("upstream.unreachable").await;
    while !get(dead.admin.unwrap(), "/v1/incidents")
        .await
        .contains("all-down-1")
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let nobody = "--admin 127.0.0.1:1";
    let mut all = JoinSet::new();
    // Command, its code without a reader, its code with a full disk.
    for (words, gone, full) in [
        (format!("healthcheck {nobody}"), 1, 71),
        (
            format!("doctor {TARGET} {nobody} --listen 127.0.0.1:0"),
            1,
            71,
        ),
        (format!("snippet edn {TARGET}"), 0, 71),
        (format!("snippet k8s {TARGET}"), 0, 71),
        (format!("check {TARGET}"), 0, 71),
        (format!("plan {TARGET}"), 0, 71),
        (format!("status {at}"), 0, 71),
        (format!("slo --target 99.9 {at}"), 0, 71),
        (format!("incident list {troubled}"), 0, 71),
        (format!("incident show all-down-1 {troubled}"), 0, 71),
        (
            format!("incident export all-down-1 --redact {troubled}"),
            0,
            71,
        ),
        ("guide".to_owned(), 0, 71),
        ("completions bash".to_owned(), 0, 71),
        ("version".to_owned(), 0, 71),
        ("--version".to_owned(), 0, 71),
        ("--help".to_owned(), 0, 71),
        ("run --help".to_owned(), 0, 71),
    ] {
        let args: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let disk = File::options().write(true).open("/dev/full").unwrap();
        let (_, pipe) = std::io::pipe().unwrap();
        all.spawn(async move {
            let (args, code, err) = with_output(args, pipe).await;
            assert_eq!(code, gone, "{args:?} without a reader: {err}");
            assert!(!err.contains("Broken pipe"), "{args:?}: {err}");
            let (args, code, err) = with_output(args, disk).await;
            assert_eq!(code, full, "{args:?} on a full disk: {err}");
            assert!(err.contains("No space left"), "{args:?}: {err}");
        });
    }
    while let Some(one) = all.join_next().await {
        one.unwrap();
    }
    no_leaks(dead).await;
    no_leaks(entryway).await;
}

/// A full standard output of `run`: connections, health and the end by TERM go on without it.
#[tokio::test]
async fn a_full_standard_output_stalls_nothing() {
    let echo = Upstream::echo().await;
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for (name, metrics) in [("plain", "0s"), ("emf", "1s")] {
        let (reader, writer) = full_pipe();
        let settings = folder.path().join(format!("{name}.toml"));
        let conf = Conf::to(&[echo.address]).upstream(r#"health.kind = "tcp""#);
        let conf = conf.upstream(r#"health.interval = "200ms""#);
        let conf = conf.rest(&format!("metrics.emf = \"{metrics}\""));
        std::fs::write(&settings, conf.text()).unwrap();
        let log = folder.path().join(format!("{name}.log"));
        let words = ["run", "--config", settings.to_str().unwrap()];
        let child = command(&words)
            .stdout(writer)
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        all.push((reader, log, child));
    }
    for (_reader, log, child) in &mut all {
        let events = |name: &str| {
            let text = std::fs::read_to_string(&*log).unwrap();
            // The last line may be under way.
            events_in(&text[..text.rfind('\n').map_or(0, |end| end + 1)], name)
        };
        let place = |name: &str| -> Option<std::net::SocketAddr> {
            let up = events("listener.up");
            let line = up.iter().find(|line| line["name"] == name)?;
            line["address"].as_str()?.parse().ok()
        };
        eventually("it serves", || {
            place("admin").is_some() && place("datomic").is_some()
        })
        .await;
        let admin = place("admin").unwrap();
        let mut client = TcpStream::connect(place("datomic").unwrap()).await.unwrap();
        let began = tokio::time::Instant::now();
        // Longer than from one report to the next.
        while began.elapsed() < Duration::from_millis(1500) {
            get(admin, "/livez").await;
            ping(&mut client, b"goes on").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let endpoints = get(admin, "/v1/endpoints").await;
        assert!(endpoints.contains(r#""state":"up""#), "{endpoints}");
        drop(client);
        let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = timeout(LONG, child.wait()).await.expect("TERM ends it");
        assert_eq!(status.unwrap().code(), Some(0));
    }
}
