//! The wall clock jumps: by a day forward, by two back, as after a sleep or a wrong battery clock that is set.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::SystemTime;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::harness::child::{Process, command};
use crate::harness::client::get;
use crate::harness::upstream::{datomic, entry_point};
use crate::harness::{Conf, eventually};

const DAY: i64 = 86_400;

/// Comes before the C library of a process, and adds to what the wall clock says.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long *seconds;
__attribute__((constructor)) static void look(void) {
    int file = open(getenv("WALL_CLOCK"), O_RDONLY);
    void *map = mmap(0, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED) abort();
    seconds = map;
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, clock, time);
    if (!failed && clock == CLOCK_REALTIME && seconds) time->tv_sec += *seconds;
    return failed;
}
"#;

/// The wall clock of a process.
struct WallClock {
    folder: tempfile::TempDir,
    seconds: File,
}

impl WallClock {
    /// `None` without a C compiler.
    async fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("clock.c");
        std::fs::write(&source, LIBRARY).unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&folder.path().join("clock.so"), &source])
            .stdin(Stdio::null())
            .status()
            .await;
        if !compiled.is_ok_and(|status| status.success()) {
            println!("no C compiler; this test was not run");
            return None;
        }
        let seconds = File::create(folder.path().join("seconds")).unwrap();
        let clock = Self { folder, seconds };
        clock.set(0);
        Some(clock)
    }

    /// How far it is ahead from now on.
    fn set(&self, seconds: i64) {
        self.seconds
            .write_all_at(&seconds.to_ne_bytes(), 0)
            .unwrap();
    }

    /// Gives it to a process.
    fn give(&self, command: &mut Command) {
        let file = |name: &str| self.folder.path().join(name);
        command
            .env("LD_PRELOAD", file("clock.so"))
            .env("WALL_CLOCK", file("seconds"));
    }
}

/// How far the newest line of a log is ahead of the real time, in seconds.
fn ahead(line: &Value) -> i64 {
    let time: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap();
    (time - now).get_seconds()
}

#[tokio::test]
async fn a_jump_by_a_day_disturbs_nothing() {
    let Some(clock) = WallClock::new().await else {
        return;
    };
    let entry = datomic("b/one").await;
    let conf = Conf::to(&[entry.address])
        .upstream("health.kind = \"datomic\"")
        .upstream("health.interval = \"200ms\"");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("entryway.toml");
    std::fs::write(&file, conf.text()).unwrap();
    let mut run = command(&["run", "--config", file.to_str().unwrap()]);
    clock.give(&mut run);
    let mut process = Process::spawn(run);
    let admin = process.admin().await;
    eventually("it listens", || process.out().contains("listening http://")).await;
    let mut client = TcpStream::connect(process.address()).await.unwrap();
    let ask = async |client: &mut TcpStream| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        client.write_all(b"GET").await.unwrap();
        let mut answer = vec![0; entry_point("b/one").len()];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, entry_point("b/one"));
    };
    ask(&mut client).await;
    for days in [1, -1, 0] {
        clock.set(days * DAY);
        let (probes, closed) = (entry.accepted(), process.events("conn.close").len());
        eventually("probes go on", || entry.accepted() >= probes + 3).await;
        ask(&mut client).await;
        ask(&mut TcpStream::connect(process.address()).await.unwrap()).await;
        let last = || process.events("conn.close").pop().unwrap();
        eventually("the record", || process.events("conn.close").len() > closed).await;
        let ahead = ahead(&last());
        assert!((ahead - days * DAY).abs() < 60, "{ahead} s: {}", last());
        let took = last()["conn.duration_ms"].as_f64().unwrap();
        assert!((0.0..60_000.0).contains(&took), "{}", last());
        for path in [
            "/v1/history?minutes=10",
            "/v1/incidents",
            "/v1/status",
            "/v1/endpoints",
            "/metrics",
            "/",
        ] {
            assert!(!get(admin, path).await.is_empty(), "{path}");
        }
        assert_eq!(get(admin, "/healthz").await.trim(), "ok");
    }
    let states = process.events("endpoint.state");
    assert!(states.iter().all(|line| line["to"] != "down"), "{states:?}");
    assert!(process.events("wake").is_empty(), "{}", process.err());
    ask(&mut client).await;
    drop(client);
    assert_eq!(process.term().await, 0, "{}", process.err());
}

/// A certificate is valid, or not, by the clock; whoever is in stays in.
#[cfg(feature = "gateway")]
#[tokio::test]
async fn certificates_follow_the_clock_and_those_who_are_in_stay() {
    use crate::harness::LONG;
    use crate::harness::gateway::{Gateway, Pki, client_config};
    use crate::harness::upstream::Upstream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Some(clock) = WallClock::new().await else {
        return;
    };
    let echo = Upstream::echo().await;
    let pki = Pki::new().await;
    let gateway = Gateway::prepared(pki, echo.address, &[], |run| clock.give(run)).await;
    let (mut stays, status) = gateway.connect("default:1").await;
    assert_eq!(status, 200);
    // Certificates of clients are good for 7 days, that of the gateway for 30, from an hour ago on.
    for (days, refused) in [
        (1, None),
        (-1, Some("not_yet_valid")),
        (0, None),
        (8, Some("expired")),
        (31, Some("expired")),
        (0, None),
    ] {
        clock.set(days * DAY);
        let before = gateway.refusals().len();
        match refused {
            None => assert_eq!(gateway.connect("default:1").await.1, 200, "{days}"),
            Some(result) => {
                let config = client_config(&gateway.pki, Some(gateway.pki.alice()));
                if let Ok(mut tls) = gateway.tls(config).await {
                    // A client of TLS 1.3 learns of the refusal when it reads.
                    let _ = tls.write_all(b"CONNECT default:1 HTTP/1.1\r\n\r\n").await;
                    let mut rest = Vec::new();
                    let read = tls.read_to_end(&mut rest);
                    tokio::time::timeout(LONG, read).await.unwrap().unwrap_err();
                }
                eventually("the refusal", || gateway.refusals().len() > before).await;
                assert_eq!(gateway.refusals().last().unwrap(), result, "{days}");
            }
        }
        stays.write_all(b"x").await.unwrap();
        assert_eq!(stays.read_u8().await.unwrap(), b'x');
    }
}
