//! Each number of a report beside what an observer of the test's own has seen.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entryway::app::Handles;
use entryway::upstream::snapshot::HealthState;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Ground, report};
use crate::harness::{eventually, no_leaks};

/// What both see differs by their looks and by what runs beside them on the machine, in milliseconds. A time counted from
/// the drill's beginning, or up to its end, would be off by twice as much.
const SLACK: f64 = 1000.0;

/// What the observer has seen, by its own clock.
#[derive(Clone, Debug, Default)]
struct Observed {
    set: Option<Instant>,
    cleared: Option<Instant>,
    down: Option<Instant>,
    other_zone: Option<Instant>,
    /// What zone b had been asked when the fault was set.
    posts: u64,
    back: Option<Instant>,
    has_left: bool,
    /// The longest time between two looks: a machine that does not let the observer look makes it late.
    blind: Duration,
    /// Requests of the observer: when they were sent, how long they took.
    requests: Vec<(Instant, Duration)>,
}

impl Observed {
    fn since(from: Option<Instant>, to: Option<Instant>) -> Option<f64> {
        Some((to? - from?).as_secs_f64() * 1000.0)
    }

    /// How far a report may be from what was seen, in milliseconds.
    fn slack(&self) -> f64 {
        SLACK + 2.0 * self.blind.as_secs_f64() * 1000.0
    }

    /// The longest request while the fault stood, beyond the usual one before it.
    fn added_max(&self) -> f64 {
        let (set, cleared) = (self.set.unwrap(), self.cleared.unwrap());
        let mut before: Vec<_> = self
            .requests
            .iter()
            .filter(|(at, _)| *at < set)
            .map(|(_, took)| *took)
            .collect();
        before.sort_unstable();
        let during = self
            .requests
            .iter()
            .filter(|(at, _)| *at >= set && *at < cleared);
        let longest = during.map(|(_, took)| *took).max().unwrap();
        longest
            .saturating_sub(before[before.len() / 2])
            .as_secs_f64()
            * 1000.0
    }
}

// === impl Observed ===

impl Observed {
    /// One look at the instance from inside.
    fn look(&mut self, ground: &Ground) {
        let Handles {
            metrics, upstreams, ..
        } = &ground.entryway.handles;
        let active = metrics.value("entryway_faults_active", &[("listener", "datomic")]);
        let (is_set, now) = (active == Some(1.0), Instant::now());
        let snapshot = upstreams[0].view.load();
        let posts = ground.mock.counts("b").posts;
        if is_set && self.set.is_none() {
            self.set = Some(now);
            self.posts = posts;
        }
        if self.set.is_none() {
            return;
        }
        if !is_set {
            self.cleared.get_or_insert(now);
        }
        let mut own = snapshot
            .all()
            .filter(|(endpoint, _)| endpoint.endpoint.zone_label() == "a");
        if own.any(|(_, view)| view.state == HealthState::Down) {
            self.down.get_or_insert(now);
        }
        // Only the observer's own client sends POST.
        if posts > self.posts {
            self.other_zone.get_or_insert(now);
        }
        let in_use = snapshot.active_zone.as_deref() == Some("a");
        self.has_left |= !in_use;
        if self.cleared.is_some() && self.has_left && in_use {
            self.back.get_or_insert(now);
        }
    }
}

async fn watch(ground: &Ground, seen: &Mutex<Observed>, done: &AtomicBool) {
    let mut looked = Instant::now();
    while !done.load(Relaxed) {
        {
            let mut seen = seen.lock().unwrap();
            seen.blind = seen.blind.max(looked.elapsed());
            looked = Instant::now();
            seen.look(ground);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A client of its own: a POST every 10 ms on a new connection, so that none is bound to a zone.
async fn client(address: SocketAddr, seen: Arc<Mutex<Observed>>, done: Arc<AtomicBool>) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let mut tasks = tokio::task::JoinSet::new();
    while !done.load(Relaxed) {
        tick.tick().await;
        let seen = Arc::clone(&seen);
        tasks.spawn(async move {
            let began = Instant::now();
            let mut stream = match TcpStream::connect(address).await {
                Ok(stream) => stream,
                // Accepted when the fault cut what was under way, before this task had noticed that it is connected.
                Err(error) => return assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            };
            let request = b"POST /api HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
            let mut answer = Vec::new();
            if stream.write_all(request).await.is_ok()
                && stream.read_to_end(&mut answer).await.is_ok()
                && answer.starts_with(b"HTTP/1.1 200")
            {
                seen.lock().unwrap().requests.push((began, began.elapsed()));
            }
        });
    }
    tasks.join_all().await;
}

/// Runs a drill beside the observer.
async fn observed(ground: &Ground, args: &[&str]) -> (Value, Observed) {
    let seen = Arc::new(Mutex::new(Observed::default()));
    let done = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(client(
        ground.entryway.address(),
        Arc::clone(&seen),
        Arc::clone(&done),
    ));
    let admin = ground.admin();
    let args = [
        args,
        &["--admin", &admin, "--output", "json", "--rate", "100"],
    ]
    .concat();
    let drilling = async {
        let report = report(&args).await;
        done.store(true, Relaxed);
        report
    };
    let (report, ()) = tokio::join!(drilling, watch(ground, &seen, &done));
    asking.await.unwrap();
    let seen = seen.lock().unwrap().clone();
    (report, seen)
}

fn close(report: &Value, key: &str, seen: &Observed, own: Option<f64>) {
    let said = report.pointer(key).and_then(Value::as_f64);
    println!("{key}: the report says {said:?} ms, the observer {own:?} ms");
    let (Some(said), Some(own)) = (said, own) else {
        panic!("{key}: {said:?} in the report, {own:?} seen: {report}");
    };
    assert!(
        (said - own).abs() < seen.slack(),
        "{key}: {said} in the report, {own} seen: {report}"
    );
}

#[tokio::test]
async fn times_and_latency_are_what_an_observer_sees() {
    let ground = Ground::new().await;
    for kind in ["zone-slow", "zone-down"] {
        let (report, seen) = observed(&ground, &[kind, "--for", "4s"]).await;
        close(
            &report,
            "/detection_ms",
            &seen,
            Observed::since(seen.set, seen.down),
        );
        close(
            &report,
            "/failover_ms",
            &seen,
            Observed::since(seen.set, seen.other_zone),
        );
        close(
            &report,
            "/failback_ms",
            &seen,
            Observed::since(seen.cleared, seen.back),
        );
        if kind == "zone-slow" {
            // The observer has a new connection each time, which waits for the hedge at most; the drill's are kept.
            let slowest = report
                .pointer("/added_ms/max")
                .and_then(Value::as_f64)
                .unwrap();
            assert!(
                slowest >= seen.added_max() - seen.slack(),
                "{slowest} {}",
                seen.added_max()
            );
        }
        let stood = Observed::since(seen.set, seen.cleared).unwrap();
        assert!((stood - 4_000.0).abs() < seen.slack(), "{stood}");
    }
    no_leaks(ground.entryway).await;
}

#[tokio::test]
async fn the_longest_wait_and_the_held_are_what_an_observer_sees() {
    let ground = Ground::new().await;
    let (report, seen) = observed(&ground, &["all-down", "--for", "2s"]).await;
    close(&report, "/added_ms/max", &seen, Some(seen.added_max()));
    let said = report["held"].as_u64().unwrap();
    let counted = || {
        let lines = ground.entryway.events("conn.close");
        let parked = |line: &&Value| line["conn.parked_ms"].as_u64().is_some_and(|ms| ms > 0);
        lines.iter().filter(parked).count() as u64
    };
    assert!(said > 0);
    // Those that the drill has kept open are logged a moment after its end. A hold of less than a millisecond is not seen.
    eventually("the log has as many", || {
        said.abs_diff(counted()) <= said / 20 + 2
    })
    .await;
    println!("held: the report says {said}, the log has {}", counted());
    no_leaks(ground.entryway).await;
}

/// Without a hold every request of the drill fails while nothing can be reached: each is a connection turned away.
#[tokio::test]
async fn the_failed_are_what_the_log_counts() {
    let ground = Ground::with(|conf| conf.listener(r#"when_all_down = "try""#)).await;
    let admin = ground.admin();
    let args = [
        "all-down", "--for", "2s", "--admin", &admin, "--output", "json", "--rate", "50",
    ];
    let report = report(&args).await;
    let (failed, requests) = (
        report["failed"].as_u64().unwrap(),
        report["requests"].as_u64().unwrap(),
    );
    let turned_away = || {
        let lines = ground.entryway.events("conn.close");
        let refused = lines
            .iter()
            .filter(|line| line["conn.reason"] == "connect_refused");
        refused.count() as u64
    };
    println!(
        "failed: the report says {failed} of {requests}, the log has {}",
        turned_away()
    );
    assert!(
        (40..=200).contains(&failed),
        "two seconds at 50 a second, more where the end comes late: {report}"
    );
    eventually("the log has as many", || turned_away() == failed).await;
    let ok: u64 = report["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slice| slice["ok"].as_u64().unwrap())
        .sum();
    assert_eq!(ok + failed, requests);
    no_leaks(ground.entryway).await;
}

/// Beside other load, without any of its own.
#[tokio::test]
async fn without_requests_of_its_own_it_watches_others() {
    let ground = Ground::new().await;
    let seen = Arc::new(Mutex::new(Observed::default()));
    let done = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(client(
        ground.entryway.address(),
        Arc::clone(&seen),
        Arc::clone(&done),
    ));
    let admin = ground.admin();
    let watching = async {
        let report = report(&[
            "zone-down",
            "--for",
            "2s",
            "--admin",
            &admin,
            "--output",
            "json",
            "--rate",
            "0",
        ])
        .await;
        done.store(true, Relaxed);
        report
    };
    let (report, ()) = tokio::join!(watching, watch(&ground, &seen, &done));
    asking.await.unwrap();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(report["failed"], Value::Null);
    assert_eq!(report["added_ms"]["p99"], Value::Null);
    close(
        &report,
        "/detection_ms",
        &seen,
        Observed::since(seen.set, seen.down),
    );
    close(
        &report,
        "/failover_ms",
        &seen,
        Observed::since(seen.set, seen.other_zone),
    );
    no_leaks(ground.entryway).await;
}
