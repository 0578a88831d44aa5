//! Commands that are kept alive: replaced before their time, and Session Manager's with a stand-in for `aws`.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::harness::child::{BINARY, Process, command, mock_command};
use crate::harness::{Conf, Entryway, LONG, eventually, no_leaks};

/// A name that no resolver knows.
const NAME: &str = "entry.prod.internal:8182";

/// The status line of one answer, all of which is read.
async fn ask(client: &mut TcpStream) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(request).await.unwrap();
    let answer = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.lines().next().unwrap().parse().unwrap();
        client.read_exact(&mut vec![0; length]).await.unwrap();
        head.lines().next().unwrap().to_owned()
    };
    timeout(LONG, answer).await.expect("no answer")
}

const OK: &str = "http/1.1 200 ok";

fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// The new one is ready before the old one goes, which waits for its last connection: no client notices.
#[tokio::test]
async fn a_command_is_renewed_before_its_time() {
    let mock = mock_command();
    let conf = Conf::to(&[NAME])
        .upstream(&format!(
            "via = {{ supervise = {mock}, speaks = \"forward\", renew_after = \"2s\" }}"
        ))
        .upstream("health.kind = \"datomic\"")
        .listener("when_all_down = \"refuse\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    let hop = || entryway.handles.hops()[0].1.health().status();
    let mut old = entryway.connect().await;
    assert_eq!(ask(&mut old).await, OK);
    let first = hop().pid.unwrap();
    // With nothing to dial a client would be refused at once.
    while hop().pid == Some(first) {
        let mut client = entryway.connect().await;
        assert_eq!(ask(&mut client).await, OK);
        sleep(Duration::from_millis(5)).await;
    }
    let renewed = entryway.metric(
        "entryway_hop_restarts_total",
        &[("upstream", "default"), ("reason", "renew")],
    );
    assert!(renewed >= 1.0, "{renewed}");
    let mut client = entryway.connect().await;
    assert_eq!(ask(&mut client).await, OK);
    assert!(lives(first), "it has a connection still");
    assert_eq!(ask(&mut old).await, OK);
    drop(old);
    eventually("the old one ends", || !lives(first)).await;
    assert_eq!(ask(&mut client).await, OK);
    assert!(entryway.events("hop.down").is_empty(), "{}", entryway.log());
    drop(client);
    no_leaks(entryway).await;
}

/// Says what the AWS CLI says, and where it would start a session, forwards to a mock.
const AWS: &str = r#"#!/bin/sh
echo "$*" >> "$(dirname "$0")/asked"
case "$4" in
  i-good)
    port=$(printf %s "$8" | sed 's/.*"localPortNumber":\["\([0-9]*\)"\].*/\1/')
    exec "$MOCK" mock --zones a --base-ip 127.0.0.1 --listen "127.0.0.1:$port" ;;
  i-expired)
    echo 'Error when retrieving token from sso: Token has expired and refresh failed' >&2; exit 255 ;;
  i-gone)
    echo 'An error occurred (TargetNotConnected) when calling the StartSession operation: i-gone is not connected.' >&2
    exit 254 ;;
  i-bare)
    echo 'SessionManagerPlugin is not found. Please refer to SessionManager Documentation here: https://docs.aws.amazon.com' >&2
    exit 255 ;;
esac
"#;

/// Adds the stand-in to what a command finds on its PATH.
fn with_aws(command: &mut Command, folder: &Path) {
    let path = std::env::var("PATH").unwrap();
    command
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("MOCK", BINARY);
}

#[tokio::test]
async fn a_session_of_ssm_is_kept_or_its_failure_is_explained() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let aws = folder.path().join("aws");
    std::fs::write(&aws, AWS).unwrap();
    std::fs::set_permissions(&aws, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (target, meaning) in [
        ("i-good?region=eu-west-1&profile=dev", ""),
        ("i-expired", "aws sso login"),
        ("i-gone", "is not connected to SSM"),
        ("i-bare", "install the Session Manager plugin"),
    ] {
        let conf = Conf::to(&[NAME])
            .upstream(&format!("via = \"ssm://{target}\""))
            .upstream("health.kind = \"datomic\"");
        let config = folder.path().join("entryway.toml").display().to_string();
        std::fs::write(&config, conf.text()).unwrap();
        let mut run = command(&["run", "--config", &config]);
        with_aws(&mut run, folder.path());
        let mut process = Process::spawn(run);
        let admin = process.admin().await;
        eventually("it listens", || process.out().contains("listening http://")).await;
        let hop = async || {
            let answer = crate::harness::client::get(admin, "/v1/hops").await;
            let answer: Value = serde_json::from_str(&answer).unwrap();
            answer["hops"][0].clone()
        };
        if meaning.is_empty() {
            let mut client = TcpStream::connect(process.address()).await.unwrap();
            assert_eq!(ask(&mut client).await, OK);
            let hop = hop().await;
            assert_eq!((&hop["kind"], &hop["state"]), (&"ssm".into(), &"up".into()));
            let asked = std::fs::read_to_string(folder.path().join("asked")).unwrap();
            for part in [
                "ssm start-session --target i-good --document-name AWS-StartPortForwardingSessionToRemoteHost",
                "\"host\":[\"entry.prod.internal\"]",
                "\"portNumber\":[\"8182\"]",
                "--region eu-west-1 --profile dev",
            ] {
                assert!(asked.contains(part), "{part}: {asked}");
            }
            let pid = u32::try_from(hop["pid"].as_u64().unwrap()).unwrap();
            assert_eq!(process.term().await, 0, "{}", process.err());
            assert!(!lives(pid), "it has outlived us");
            continue;
        }
        eventually("the hop is down", || !process.events("hop.down").is_empty()).await;
        let hop = hop().await;
        let error = hop["last_error"].as_str().unwrap();
        assert!(error.contains(meaning), "{target}: {hop}");
        let said = hop["last_output"].to_string();
        assert!(
            said.contains("SessionManager") || said.contains("rror"),
            "{hop}"
        );
        process.term().await;
        // The texts are the same ones; each run takes 10 s.
        if target == "i-expired" {
            let mut doctor = command(&["doctor", "--config", &config]);
            with_aws(&mut doctor, folder.path());
            let output = timeout(2 * LONG, doctor.output()).await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(meaning), "{text}");
        }
    }
}
