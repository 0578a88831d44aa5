//! A fault is taken back, whatever becomes of the drill.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{Ground, start};
use crate::harness::child::Process;
use crate::harness::{Conf, eventually, no_leaks};

#[tokio::test]
async fn an_interrupted_drill_takes_its_fault_back_and_says_what_it_saw() {
    let ground = Ground::new().await;
    let admin = ground.admin();
    let mut drill = start(&[
        "zone-down",
        "--admin",
        &admin,
        "--for",
        "60s",
        "--output",
        "json",
    ]);
    ground.wait_until_set(true).await;
    eventually("the zone is marked down", || {
        drill.err().contains("marked down")
    })
    .await;
    drill.signal(Signal::INT);
    assert_eq!(drill.wait().await.code(), Some(130), "{}", drill.err());
    assert!(!ground.is_set().await);
    let report: Value = serde_json::from_str(&drill.out()).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(report["detection_ms"].as_f64().is_some(), "{report}");
    assert_eq!(report["failback_ms"], Value::Null);
    no_leaks(ground.entryway).await;
}

#[tokio::test]
async fn a_killed_drill_leaves_nothing_behind() {
    let ground = Ground::new().await;
    let admin = ground.admin();
    for kind in ["zone-silent", "dns-fail"] {
        let mut drill = start(&[kind, "--admin", &admin, "--for", "60s", "--rate", "0"]);
        ground.wait_until_set(true).await;
        drill.signal(Signal::KILL);
        drill.wait().await;
        ground.wait_until_set(false).await;
        let cleared = ground.entryway.events("fault.clear");
        let said = cleared.last().unwrap()["message"].as_str().unwrap();
        assert!(said.contains("dead-man"), "{said}");
    }
    ground.entryway.ready(2).await;
    no_leaks(ground.entryway).await;
}

#[tokio::test]
async fn a_stopped_drill_is_no_longer_obeyed_and_says_so_when_it_goes_on() {
    let ground = Ground::new().await;
    let admin = ground.admin();
    let mut drill = start(&[
        "zone-down",
        "--admin",
        &admin,
        "--for",
        "60s",
        "--rate",
        "0",
    ]);
    // It has the answer to its order: one that is stopped before that cannot tell what became of it.
    eventually("the fault stands", || {
        drill.err().contains("zone-down in zone ")
    })
    .await;
    drill.signal(Signal::STOP);
    ground.wait_until_set(false).await;
    drill.signal(Signal::CONT);
    assert_eq!(drill.wait().await.code(), Some(1), "{}", drill.err());
    assert!(
        drill
            .err()
            .contains("somebody else has taken the fault back"),
        "{}",
        drill.err()
    );
    no_leaks(ground.entryway).await;
}

#[tokio::test]
async fn an_instance_that_goes_away_ends_the_drill() {
    let conf = Conf::to(&["127.0.0.1:9?zone=a"]).rest(r#"faults.bind = "127.0.0.1:0""#);
    let mut instance = Process::with(&conf).await;
    let admin = instance.admin().await.to_string();
    let mut drill = start(&["all-down", "--admin", &admin, "--for", "60s", "--rate", "0"]);
    eventually("the fault is set", || {
        !instance.events("fault.set").is_empty()
    })
    .await;
    instance.signal(Signal::KILL);
    instance.wait().await;
    let began = tokio::time::Instant::now();
    assert_eq!(drill.wait().await.code(), Some(1), "{}", drill.err());
    assert!(
        drill.err().contains("the drill broke off"),
        "{}",
        drill.err()
    );
    assert!(began.elapsed() < Duration::from_secs(30));
}
