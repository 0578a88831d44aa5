//! An instance with several upstreams, and one that takes TLS.

use serde_json::Value;

use super::{Ground, report, run};
use crate::harness::no_leaks;

/// A second upstream with zones of its own, whose listener stands behind the first.
fn two(zones: &[String]) -> String {
    let endpoints: String = zones
        .iter()
        .map(|zone| {
            let (address, name) = zone.split_once('=').unwrap();
            format!(
                "[[upstream.endpoint]]\naddress = \"{address}\"\nzone = \"{name}\"\nname = \"e-{name}\"\n"
            )
        })
        .collect();
    format!(
        "[[listener]]\nname = \"reports\"\nbind = [\"127.0.0.1:0\"]\nupstream = \"reports\"\n\
         [[upstream]]\nname = \"reports\"\nzone = \"x\"\nhealth.kind = \"datomic\"\n\
         health.interval = \"500ms\"\nhealth.down_interval = \"200ms\"\nfailback.after = \"500ms\"\n\
         failback.ramp = \"0s\"\n{endpoints}"
    )
}

#[tokio::test]
async fn the_upstream_that_is_named_gets_the_requests_and_is_watched() {
    let other = entryway::mock::start(entryway::mock::MockConfig {
        zones: vec!["x".to_owned(), "y".to_owned()],
        ..Default::default()
    })
    .unwrap();
    let zones = other.zones().iter();
    let zones: Vec<String> = zones
        .map(|zone| format!("{}={}", zone.address(), zone.name()))
        .collect();
    let ground = Ground::with(|conf| {
        conf.upstream(r#"name = "default""#)
            .listener(r#"upstream = "default""#)
            .tail(&two(&zones))
    })
    .await;
    let posts = || ground.mock.counts("a").requests;
    let admin = ground.admin();
    let args = |more: &[&str]| {
        let all = [
            &["zone-down", "--admin", &admin, "--output", "json"][..],
            &["--for", "2s", "--rate", "50"],
            more,
        ];
        all.concat()
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let named = args(&["--upstream", "reports"]);
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    let before = posts();
    let found = report(&named).await;
    assert_eq!(found["zone"], "x", "the zone in use of that upstream");
    for key in ["detection_ms", "failover_ms", "failback_ms"] {
        assert!(found[key].as_f64().is_some(), "{key}: {found}");
    }
    // Probes only, two a second at most.
    assert!(posts() - before < 60, "{} requests", posts() - before);
    // Without a name it is that of the first listener, and the choice is said.
    let first = args(&[]);
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    let (code, out, err) = run(&first).await;
    assert_eq!(code, 0, "{out}{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["zone"], "a");
    assert!(
        err.contains("requests go to upstream default") && err.contains("another: reports"),
        "{err}"
    );
    let events = ground.events();
    for (more, said) in [
        (
            &["--upstream", "gone"][..],
            "no listener leads to an upstream `gone`; they lead to default, reports",
        ),
        (
            &["--upstream", "reports", "--zone", "a"],
            "no endpoint is in zone `a`; there are x, y",
        ),
    ] {
        let wrong = args(more);
        let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
        let (code, _, err) = run(&wrong).await;
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(said), "{err}");
    }
    assert_eq!(ground.events(), events, "nothing was touched");
    no_leaks(ground.entryway).await;
}
