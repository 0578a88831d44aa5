//! `run -- CMD…`: the child's environment, its exit code, its signals.

use rustix::process::Signal;

use crate::harness::child::{Process, command, run};
use crate::harness::eventually;
use crate::harness::upstream::Upstream;

/// `run` in front of an endpoint, without probes, on free ports, with this shell script as the child.
fn words<'a>(endpoint: &'a str, script: &'a str) -> Vec<&'a str> {
    let target = [
        "run",
        "--endpoint",
        endpoint,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--control",
        "off",
    ];
    [
        &target[..],
        &["--zone", "none", "--probe", "off", "--", "sh", "-c", script],
    ]
    .concat()
}

#[tokio::test]
async fn the_childs_code_is_ours() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        let (got, _, err) = run(&words(&endpoint, script)).await;
        assert_eq!(got, code, "{script}: {err}");
    }
}

#[tokio::test]
async fn the_child_is_told_where_to_go() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let script = "echo url=$ENTRYWAY_URL port=$ENTRYWAY_PORT admin=$ENTRYWAY_ADMIN";
    let (code, out, err) = run(&words(&endpoint, script)).await;
    assert_eq!(code, 0, "{err}");
    let port = out
        .split("port=")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert!(
        out.contains(&format!("url=http://127.0.0.1:{port}")),
        "{out}"
    );
    assert!(out.contains("admin=127.0.0.1:"), "{out}");
    // Standard output is the child's; the line to paste goes to standard error.
    assert!(
        !out.contains("listening") && err.contains("listening http://"),
        "{out}\n{err}"
    );
}

#[tokio::test]
async fn signals_go_to_the_child() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let script = "trap 'echo got term; exit 5' TERM; trap 'echo got hup' HUP; echo up; while :; do sleep 0.05; done";
    let mut process = Process::spawn(command(&words(&endpoint, script)));
    eventually("the child is up", || process.out().contains("up")).await;
    process.signal(Signal::HUP);
    eventually("HUP", || process.out().contains("got hup")).await;
    assert_eq!(process.term().await, 5);
    eventually("TERM", || process.out().contains("got term")).await;
}

#[tokio::test]
async fn a_command_that_does_not_exist() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let mut words = words(&endpoint, "");
    words.truncate(words.len() - 3);
    words.push("no-such-program-here");
    let (code, _, err) = run(&words).await;
    assert_eq!(code, 71, "{err}");
    assert!(err.contains("no-such-program-here"), "{err}");
}
