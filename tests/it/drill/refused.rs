//! What cannot be drilled, and that nothing is touched then.

use serde_json::Value;

use super::{Ground, run, start};
use crate::harness::client::http;
use crate::harness::{Conf, Entryway, no_leaks};

#[tokio::test]
async fn a_command_line_that_is_not_understood_touches_nothing() {
    let ground = Ground::new().await;
    let admin = ground.admin();
    for (args, said) in [
        (&["zone-gone"][..], "invalid value 'zone-gone'"),
        (
            &["zone-down", "--assert", "p98<1s"],
            "nothing is called `p98`",
        ),
        (&["zone-down", "--assert", "failover<soon"], "failover<soon"),
        (
            &["zone-down", "--zone", "c"],
            "no endpoint is in zone `c`; there are a, b",
        ),
        (&["all-down", "--zone", "a"], "does not happen to one zone"),
        (&["zone-down", "--for", "1ms"], "too short"),
        (&["zone-down", "--out", "report.txt"], "ends in .json"),
    ] {
        let (code, out, err) = run(&[args, &["--admin", &admin]].concat()).await;
        assert_eq!(code, 2, "{args:?}: {out}{err}");
        assert!(err.contains(said), "{args:?}: {err}");
    }
    assert_eq!(ground.events(), (0, 0));
    assert_eq!(
        ground.entryway.sum("entryway_connections_accepted_total"),
        0.0
    );
    no_leaks(ground.entryway).await;
}

#[tokio::test]
async fn an_instance_that_takes_no_faults_says_what_to_do() {
    let entryway = Entryway::start(&Conf::to(&["127.0.0.1:9"])).await;
    let admin = entryway.admin.unwrap().to_string();
    let (code, _, err) = run(&["zone-down", "--admin", &admin]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("faults.bind") && err.contains("--faults"),
        "{err}"
    );
    no_leaks(entryway).await;
    let (code, _, err) = run(&["zone-down", "--admin", &admin]).await;
    assert_eq!(code, 69, "{err}");
    assert!(err.contains("no instance answers"), "{err}");
}

#[tokio::test]
async fn a_dead_listener_is_said_before_a_fault_is_set() {
    let ground = Ground::with(|conf| conf.listener("max_connections = 1")).await;
    let _only = ground.entryway.connect().await;
    let (code, _, err) = run(&["zone-down", "--admin", &ground.admin()]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("even without a fault"), "{err}");
    assert_eq!(ground.events(), (0, 0));
}

#[tokio::test]
async fn there_is_one_drill_at_a_time() {
    let ground = Ground::new().await;
    let admin = ground.admin();
    let mut first = start(&[
        "zone-slow",
        "--admin",
        &admin,
        "--for",
        "20s",
        "--rate",
        "0",
    ]);
    ground.wait_until_set(true).await;
    let (code, _, err) = run(&["zone-down", "--admin", &admin, "--rate", "0"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("another drill runs") && err.contains("zone-slow"),
        "{err}"
    );
    let list = ground.list().await;
    assert_eq!(
        list["faults"][0]["type"], "zone-slow",
        "the first one stands"
    );
    assert_eq!(list["faults"][0]["zone"], "a", "the zone in use");
    for key in ["proxy", "stream", "toxic"] {
        assert_eq!(list["faults"][0][key], Value::Null, "{key}");
    }
    assert!(list["deadman_s"].as_f64().is_some_and(|left| left <= 5.0));
    assert!(
        list["faults"][0]["ttl_left_s"]
            .as_f64()
            .is_some_and(|left| (20.0..=30.0).contains(&left))
    );
    let proxies = http(ground.faults, "GET", "/proxies").await.1;
    assert!(!proxies.contains("zone-slow"), "{proxies}");
    let active = ground
        .entryway
        .metric("entryway_faults_active", &[("listener", "datomic")]);
    assert_eq!(active, 1.0);
    let ready = http(admin.parse().unwrap(), "GET", "/readyz?verbose")
        .await
        .1;
    assert!(ready.contains("drill: zone-slow (zone a)"), "{ready}");
    first.signal(rustix::process::Signal::INT);
    assert_eq!(first.wait().await.code(), Some(130));
    assert!(!ground.is_set().await);
    let active = ground
        .entryway
        .metric("entryway_faults_active", &[("listener", "datomic")]);
    assert_eq!(active, 0.0);
    no_leaks(ground.entryway).await;
}

#[tokio::test]
async fn the_api_refuses_what_it_does_not_know() {
    let ground = Ground::new().await;
    for (method, path, status) in [
        ("POST", "/faults/drill", 400),
        ("POST", "/faults/drill?kind=zone-gone", 400),
        ("POST", "/faults/drill?kind=zone-down&zone=c", 400),
        ("POST", "/faults/drill?kind=dns-fail&zone=a", 400),
        ("POST", "/faults/drill?kind=zone-down&ttl=soon", 400),
        ("GET", "/faults/drill", 405),
        ("DELETE", "/faults/drill", 404),
        ("POST", "/faults/drill/alive", 404),
    ] {
        let (answer, body) = http(ground.faults, method, path).await;
        assert_eq!(answer, status, "{method} {path}: {body}");
    }
    assert_eq!(ground.events(), (0, 0));
    // What a test suite does between two tests ends a drill as well.
    assert_eq!(
        http(
            ground.faults,
            "POST",
            "/faults/drill?kind=zone-down&ttl=20s"
        )
        .await
        .0,
        200
    );
    assert_eq!(
        http(ground.faults, "POST", "/faults/drill?kind=sleep")
            .await
            .0,
        409
    );
    assert_eq!(http(ground.faults, "POST", "/reset").await.0, 204);
    assert!(!ground.is_set().await);
    no_leaks(ground.entryway).await;
}
