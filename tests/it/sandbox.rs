//! The sandbox of the running program: what still works under it, and what it refuses. Which files the kernel lets such a
//! process open is tested beside the rules (`src/sandbox/landlock.rs`). Where the kernel has no Landlock there is nothing
//! to test, and the tests say so.

use std::net::SocketAddr;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::harness::child::{BINARY, Process, run};
use crate::harness::client::{get, ping};
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, eventually};

/// The state that the program reports.
async fn state(process: &Process) -> Value {
    let text = get(process.admin().await, "/v1/status").await;
    let status: Value = serde_json::from_str(&text).unwrap();
    status["sandbox"].clone()
}

/// Whether there is anything to test.
async fn is_on(process: &Process) -> bool {
    let state = state(process).await;
    if state["on"] == true {
        return true;
    }
    let reason = state["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("no Landlock"), "{state}");
    eprintln!("not run: {reason}");
    false
}

/// A field of `/proc/PID/task/*/status`, of every thread.
fn of_all_threads(pid: u32, field: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with(field))?;
            Some(line.split_whitespace().nth(1)?.to_owned())
        })
        .collect()
}

/// Of what is outside of the sandbox: as ours, which a service manager may have set for all.
fn no_new_privs_outside() -> String {
    of_all_threads(std::process::id(), "NoNewPrivs:").remove(0)
}

fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_each = threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let text: String = of_each.collect();
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

async fn leads_to(admin: SocketAddr) -> String {
    let endpoints: Value = serde_json::from_str(&get(admin, "/v1/endpoints").await).unwrap();
    endpoints["endpoints"][0]["host"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn every_thread_is_in_it_and_the_helper_ends_with_the_program() {
    let echo = Upstream::echo().await;
    let mut process = Process::with(&Conf::to(&[echo.address])).await;
    if !is_on(&process).await {
        return;
    }
    let start = process.logged("sandbox").await;
    assert_eq!(start[0]["on"], true, "{start:?}");
    let threads = of_all_threads(process.pid(), "NoNewPrivs:");
    assert!(threads.len() > 3, "{threads:?}");
    assert!(threads.iter().all(|value| value == "1"), "{threads:?}");
    // Root keeps five of its capabilities (bind, network, files of others, signals, pipes); others have none.
    const KEPT: u64 = 1 << 10 | 1 << 12 | 1 << 1 | 1 << 5 | RESOURCE;
    const RESOURCE: u64 = 1 << 24;
    // That of administration stands in for the one of resources where that is not to be had.
    const ADMIN: u64 = 1 << 21;
    let own = of_all_threads(std::process::id(), "CapPrm:").remove(0);
    let own = u64::from_str_radix(&own, 16).unwrap();
    let kept = KEPT | if own & RESOURCE == 0 { ADMIN } else { 0 };
    for set in ["CapPrm:", "CapEff:"] {
        for held in of_all_threads(process.pid(), set) {
            let held = u64::from_str_radix(&held, 16).unwrap();
            assert_eq!(held & !kept, 0, "{set} {held:x}");
        }
    }
    let helpers = children(process.pid());
    let [helper] = helpers[..] else {
        panic!("{helpers:?}")
    };
    assert_eq!(
        of_all_threads(helper, "NoNewPrivs:"),
        [no_new_privs_outside()]
    );
    assert_eq!(of_all_threads(helper, "Name:"), ["entryway-helper"]);
    // It holds the three standard descriptors and its socket, and no signal ends it.
    let open = std::fs::read_dir(format!("/proc/{helper}/fd")).unwrap();
    assert_eq!(open.count(), 4);
    let pid = rustix::process::Pid::from_raw(helper.cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    ping(
        &mut TcpStream::connect(process.address()).await.unwrap(),
        b"through",
    )
    .await;
    assert!(lives(helper));
    process.signal(Signal::KILL);
    process.wait().await;
    eventually("the helper has ended", || !lives(helper)).await;
}

#[tokio::test]
async fn commands_run_under_it_and_end_with_it() {
    let echo = Upstream::echo().await;
    let forward = format!(
        "supervise:sh -c 'sleep 1000 & exec {BINARY} run --endpoint {} --listen 127.0.0.1:%l --probe off --zone none \
         --admin off --control off'",
        echo.address
    );
    for (via, speaks) in [("exec:cat", "socks5"), (&*forward, "forward")] {
        let via = format!("via = {{ url = {via:?}, speaks = \"{speaks}\" }}");
        let mut process = Process::with(&Conf::to(&["db.internal:8182"]).upstream(&via)).await;
        if !is_on(&process).await {
            return;
        }
        let mut client = TcpStream::connect(process.address()).await.unwrap();
        ping(&mut client, b"there and back").await;
        let [helper] = children(process.pid())[..] else {
            panic!()
        };
        let commands = children(helper);
        let [command] = commands[..] else {
            panic!("{commands:?}")
        };
        // Neither the sandbox nor what the helper has set for itself is passed on.
        let expected = match speaks {
            "forward" => "1".to_owned(),
            _ => no_new_privs_outside(),
        };
        assert_eq!(of_all_threads(command, "NoNewPrivs:")[0], expected);
        assert!(
            of_all_threads(command, "SigBlk:")
                .iter()
                .all(|mask| mask == "0000000000000000")
        );
        // With what it has started, such as the plugin below `aws ssm`.
        let grandchildren = children(command);
        assert_eq!(grandchildren.is_empty(), speaks != "forward");
        process.signal(Signal::KILL);
        process.wait().await;
        for pid in [vec![command], grandchildren].concat() {
            eventually("the command has ended", || !lives(pid)).await;
        }
    }
}

#[tokio::test]
async fn files_of_the_settings_are_read_again_and_new_ones_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (map, other) = (
        folder.path().join("client.edn"),
        folder.path().join("b.edn"),
    );
    let control = folder.path().join("control.sock");
    let file = folder.path().join("entryway.toml");
    let to = |host: &str| format!("{{:endpoint \"http://{host}.internal:8182\"}}");
    let settings = |map: &Path, via: &str, more: &str| {
        format!(
            "admin.bind = \"127.0.0.1:0\"\nadmin.control = {control:?}\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n\
             [[upstream]]\nzone = \"none\"\nhealth.kind = \"off\"\nfrom_client = {map:?}\nvia = \"{via}\"\n{more}\n"
        )
    };
    std::fs::write(&map, to("one")).unwrap();
    std::fs::write(&other, to("three")).unwrap();
    std::fs::write(&file, settings(&map, "exec:cat", "")).unwrap();
    let config = file.to_str().unwrap();
    let process = Process::run(&["--config", config, "--log-format", "json"]).await;
    if !is_on(&process).await {
        return;
    }
    let reload = || async { run(&["reload", "--control", control.to_str().unwrap()]).await };
    let admin = process.admin().await;
    assert_eq!(leads_to(admin).await, "one.internal");
    // Both files replaced by others of their names.
    replace(&map, &to("two"));
    replace(
        &file,
        &settings(&map, "exec:cat", "connect_timeout = \"1s\""),
    );
    let (code, out, err) = reload().await;
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(leads_to(admin).await, "two.internal");

    // What no setting named at the start: said by the reload and by `check`; nothing changes.
    for (text, what) in [
        (settings(&other, "exec:cat", ""), "b.edn"),
        (settings(&map, "exec:sh -c cat", ""), "the command `sh`"),
        (
            settings(&map, "socks5://proxy.internal:1080", ""),
            "the system's resolver",
        ),
    ] {
        replace(&file, &text);
        let (code, _, err) = reload().await;
        assert_eq!(code, 78, "{err}");
        assert!(err.contains("sandbox") && err.contains(what), "{err}");
        let (code, _, err) = run(&["check", "--config", config]).await;
        assert_eq!(code, 0, "{err}");
        assert!(
            err.contains("sandbox of the running instance") && err.contains(what),
            "{err}"
        );
    }
    assert_eq!(leads_to(admin).await, "two.internal");

    // An upgrade takes it in.
    replace(&file, &settings(&other, "exec:cat", ""));
    let (code, out, err) = run(&["upgrade", "--control", control.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{out}{err}");
    let (code, _, err) = run(&["check", "--config", config]).await;
    assert!(code == 0 && !err.contains("sandbox"), "{err}");
    assert_eq!(leads_to(admin).await, "three.internal");
    let stop = ["shutdown", "--wait", "--control", control.to_str().unwrap()];
    assert_eq!(run(&stop).await.0, 0);
}

#[tokio::test]
async fn it_can_be_switched_off_and_is_off_beside_a_command() {
    let echo = Upstream::echo().await;
    let to = echo.address.to_string();
    let target = [
        "-e",
        &to,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--control",
        "off",
        "--probe",
        "off",
        "--zone",
        "none",
    ];
    let process =
        Process::run(&[&target[..], &["--sandbox", "off", "--log-format", "json"]].concat()).await;
    let state = state(&process).await;
    assert_eq!(state["on"], false);
    assert!(
        state["reason"].as_str().unwrap().contains("--sandbox off"),
        "{state}"
    );
    assert!(children(process.pid()).is_empty());
    let script = "grep -h NoNewPrivs /proc/$PPID/status; ls /proc/$PPID/task/$PPID/children";
    let words = [&["run"][..], &target, &["--", "sh", "-c", script]].concat();
    let (code, out, err) = run(&words).await;
    assert_eq!(code, 0, "{err}");
    let outside = format!("NoNewPrivs:\t{}", no_new_privs_outside());
    assert!(out.contains(&outside), "{out}");
    let (code, _, err) = run(&["run", "-e", &to, "--sandbox", "on"]).await;
    assert_eq!(code, 2, "{err}");
}
