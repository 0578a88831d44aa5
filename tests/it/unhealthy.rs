//! Addresses that answer errors, or nothing, and what becomes of connections and of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::harness::child::Process;
use crate::harness::dns::FakeDns;
use crate::harness::upstream::{Upstream, answering, datomic, entry_point, refused};
use crate::harness::{Conf, Entryway, eventually, no_leaks};

/// A keep-alive connection whose zone turns to errors, or answers as another system, is closed between two requests, so
/// that the client's next one goes to a zone that is well; bytes that move are no sign of health.
#[tokio::test]
async fn keep_alive_clients_leave_an_address_that_answers_wrongly() {
    let errors = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec();
    // An interval for each of the three probes that mark it down, and a second; half as much again on a busy machine.
    let down = leaves(errors, "endpoint_unhealthy", Duration::from_millis(3750));
    // One probe is enough here.
    let other = leaves(
        entry_point("b/two"),
        "identity_mismatch",
        Duration::from_millis(2500),
    );
    tokio::join!(down, other);
}

/// What the address answers from a moment on, why its connection is closed then, and how soon.
async fn leaves(turned_to: Vec<u8>, reason: &str, within: Duration) {
    let failing = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&failing);
    let turns = answering(Arc::new(move || match now.load(Relaxed) {
        true => turned_to.clone(),
        false => entry_point("b/one"),
    }))
    .await;
    let well = datomic("b/one").await;
    let endpoints = [
        format!("{}?zone=a&name=turns", turns.address),
        format!("{}?zone=b&name=well", well.address),
    ];
    let conf = Conf::to(&endpoints)
        .upstream(r#"zone = "a""#)
        .upstream(r#"health.kind = "datomic""#)
        .upstream(r#"health.interval = "500ms""#);
    let entryway = Entryway::start(&conf).await;
    entryway.ready(2).await;
    let mut client = entryway.connect().await;
    let local = client.local_addr().unwrap();
    let mut answer = vec![0; 4096];
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(request).await.unwrap();
    assert!(client.read(&mut answer).await.unwrap() > 0);
    failing.store(true, Relaxed);
    let turned = Instant::now();
    // It goes on asking, with pauses, as a pooled connection does.
    let mut asked = 0;
    loop {
        sleep(Duration::from_millis(350)).await;
        if client.write_all(request).await.is_err()
            || client.read(&mut answer).await.map_or(0, |count| count) == 0
        {
            break;
        }
        asked += 1;
        assert!(asked < 40, "still on the failing address");
    }
    let took = turned.elapsed();
    assert!(took < within, "{reason}: {took:?}");
    let next = ask_once(&entryway).await;
    let next = String::from_utf8_lossy(&next);
    assert!(
        next.starts_with("HTTP/1.1 200") && next.contains("b/one"),
        "{next}"
    );
    entryway.closes(local, reason).await;
    no_leaks(entryway).await;
}

/// One request on a connection of its own: the first bytes of the answer.
async fn ask_once(entryway: &Entryway) -> Vec<u8> {
    let mut client = entryway.connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = Vec::with_capacity(4096);
    // A reset is no answer either.
    let _ = client.read_buf(&mut answer).await;
    answer
}

/// An own zone that accepts and then ends each request without an answer is left, whatever its probe says.
#[tokio::test]
async fn an_end_without_an_answer_counts_against_the_address() {
    let ends = Upstream::start("127.0.0.1:0", |mut stream, _| async move {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
    })
    .await;
    let well = datomic("b/one").await;
    let endpoints = [
        format!("{}?zone=a&name=ends", ends.address),
        format!("{}?zone=b&name=well", well.address),
    ];
    // The probe is a connect, which this address passes: only traffic shows what it does.
    let conf = Conf::to(&endpoints)
        .upstream(r#"zone = "a""#)
        .upstream(r#"health.kind = "tcp""#);
    let entryway = Entryway::start(&conf).await;
    entryway.ready(2).await;
    // Slowly enough for its probe, which passes, to clear it each time.
    let mut unanswered = 0;
    for _ in 0..16 {
        unanswered += usize::from(ask_once(&entryway).await.is_empty());
        sleep(Duration::from_millis(250)).await;
    }
    // Three, and what a busy machine notices late.
    assert!((1..=8).contains(&unanswered), "{unanswered} of 16");
    eventually("the address is suspected", || {
        entryway
            .events("endpoint.state")
            .iter()
            .any(|line| line["endpoint"] == "ends" && line["reason"] == "unanswered")
    })
    .await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn nothing_reachable_is_said_with_what_connections_do() {
    let endpoint = refused().await;
    let entryway = Entryway::start(&Conf::to(&[endpoint]).upstream(r#"health.kind = "tcp""#)).await;
    eventually("it is said", || {
        !entryway.events("upstream.unreachable").is_empty()
    })
    .await;
    let line = entryway.events("upstream.unreachable").remove(0);
    assert_eq!(line["level"], "warn");
    let text = line["message"].as_str().unwrap();
    for part in ["refused", "new connections wait up to", "entryway doctor"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    no_leaks(entryway).await;
    // A system that is not there: its entry name is not, either.
    let dns = FakeDns::start().await;
    let server = dns.addr().to_string();
    let target = ["--peering", "--system", "nosuch", "--region", "us-east-1"];
    let rest = [
        "--zone",
        "none",
        "--dns-server",
        &server,
        "--control",
        "off",
    ];
    let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let began = Instant::now();
    let mut process = Process::run(&[&target[..], &rest, &ports].concat()).await;
    eventually("the name's error is said", || {
        !process.events("upstream.unreachable").is_empty()
    })
    .await;
    // 2 s are the promise; by half a minute it would be said again.
    assert!(began.elapsed() < Duration::from_secs(8));
    let line = process.events("upstream.unreachable").remove(0);
    let text = line["message"].as_str().unwrap();
    for part in ["NXDOMAIN", "nosuch", "entryway doctor"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(process.term().await, 0);
}
