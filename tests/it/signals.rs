//! INT and TERM end every command, within a second, with an exit code and a last line that say so.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::child::{Process, command};
use crate::harness::eventually;
use crate::harness::namespace::{as_process_one, first_child};
use crate::harness::upstream::datomic;
use crate::harness::{Conf, Entryway, no_leaks};

/// How an interrupted command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As what it is: not done, 128 + the signal's number.
    NotDone,
    /// With a report of what was done, 128 + the signal's number.
    #[cfg(feature = "load")]
    Report,
    /// It is meant to be ended so: 0.
    Done,
}

/// Whether the process has installed handlers for both.
fn handles_signals(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let both = [Signal::INT, Signal::TERM].map(|signal| 1 << (signal.as_raw() - 1));
    caught.is_some_and(|mask| both.iter().all(|bit| mask & bit != 0))
}

/// Starts the command, sends the signal once it is handled, and looks at the end.
async fn ends(mut process: Process, pid: Option<u32>, words: String, signal: Signal, end: End) {
    let pid = pid.unwrap_or_else(|| process.pid());
    eventually(&words, || handles_signals(pid)).await;
    let sent = Instant::now();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    let status = process.wait().await;
    let took = sent.elapsed();
    // A second is the promise; the rest is for a busy machine. By themselves they would end after ten, or never.
    assert!(took < Duration::from_secs(5), "{words}: {took:?}");
    let code = match end {
        End::Done => 0,
        _ => 128 + signal.as_raw(),
    };
    let said = format!("{words}, {signal:?}: {status}\n{}", process.err());
    assert_eq!(status.code(), Some(code), "{said}");
    if end == End::NotDone {
        let name = if signal == Signal::INT {
            "SIGINT"
        } else {
            "SIGTERM"
        };
        let last = format!("ended by {name} before it was done");
        eventually(&said, || process.err().lines().last() == Some(&last)).await;
    }
}

#[tokio::test]
async fn every_command_ends_on_a_signal() {
    let entry = datomic("b/one").await;
    let entryway = Entryway::start(&Conf::to(&[entry.address])).await;
    let running = entryway.admin.unwrap();
    // Take a question and never answer it.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute: SocketAddr = silent.local_addr().unwrap();
    let dns = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = dns.local_addr().unwrap();
    let doctor = format!(
        "doctor --peering --system s --region us-east-1 --dns-server {server} --listen 127.0.0.1:0 --admin {mute}"
    );
    let mut all = JoinSet::new();
    for (words, end) in [
        (doctor, End::NotDone),
        (format!("wait --timeout 60s --admin {mute}"), End::NotDone),
        (format!("explain --admin {mute}"), End::NotDone),
        (format!("status --admin {mute}"), End::NotDone),
        (format!("reload --admin {mute}"), End::NotDone),
        (format!("status --watch --admin {running}"), End::Done),
        (format!("status --watch --admin {mute}"), End::Done),
        ("mock".to_owned(), End::Done),
        #[cfg(feature = "load")]
        (
            format!("load {} --rate 20 --duration 60s", entry.address),
            End::Report,
        ),
    ] {
        for signal in [Signal::INT, Signal::TERM] {
            let args: Vec<&str> = words.split(' ').collect();
            let process = Process::spawn(command(&args));
            all.spawn(ends(process, None, words.clone(), signal, end));
        }
    }
    // The first process of a container, which the default action of a signal does not end.
    for signal in [Signal::INT, Signal::TERM] {
        let words = format!("wait --timeout 60s --admin {mute}");
        let args: Vec<&str> = words.split(' ').collect();
        let Some(command) = as_process_one(&args).await else {
            break;
        };
        let process = Process::spawn(command);
        let parent = process.pid();
        eventually("a process 1", || first_child(parent).is_some()).await;
        let pid = first_child(parent);
        all.spawn(ends(process, pid, words, signal, End::NotDone));
    }
    while let Some(one) = all.join_next().await {
        one.unwrap();
    }
    no_leaks(entryway).await;
}
