//! Every kind, embedded, through the real program.

use serde_json::Value;

use super::{report, run};

fn embedded<'a>(kind: &'a str, length: &'a str) -> Vec<&'a str> {
    vec![
        kind,
        "--embedded",
        "--for",
        length,
        "--rate",
        "100",
        "--output",
        "json",
    ]
}

fn number(report: &Value, key: &str) -> f64 {
    report
        .pointer(key)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("{key}: {report}"))
}

/// Requests that were under way on a new connection when the fault came are lost with it, and a busy machine has some
/// under way at any time. Of those that came later none fails.
fn none_failed_but_under_way(report: &Value) {
    assert!(number(report, "/failed") <= 20.0, "{report}");
    for slice in report["timeline"].as_array().unwrap() {
        let later = slice["t_s"].as_f64().unwrap() > 0.5;
        assert!(!later || slice["failed"] == 0, "{report}");
    }
}

#[tokio::test]
async fn a_zone_that_is_lost_is_found_left_and_used_again() {
    for (kind, length) in [
        ("zone-down", "3s"),
        ("zone-silent", "4s"),
        ("zone-slow", "4s"),
    ] {
        let report = report(&embedded(kind, length)).await;
        assert_eq!(report["schema_version"], 1);
        assert_eq!(
            (report["kind"].as_str(), report["zone"].as_str()),
            (Some(kind), Some("a"))
        );
        none_failed_but_under_way(&report);
        assert_eq!(report["verdict"], "PASS");
        let (failover, detection) = (
            number(&report, "/failover_ms"),
            number(&report, "/detection_ms"),
        );
        // Another zone answers long before the state of this one is known.
        assert!(failover < 6_000.0 && detection < 6_000.0, "{report}");
        assert!(number(&report, "/failback_ms") > 0.0);
        let added = number(&report, "/added_ms/max");
        assert!(added >= number(&report, "/added_ms/p99"), "{report}");
        if kind == "zone-slow" {
            assert!((900.0..6_000.0).contains(&added), "{report}");
        }
    }
}

#[tokio::test]
async fn with_every_zone_down_clients_are_held() {
    let report = report(&embedded("all-down", "2s")).await;
    assert_eq!(report["zone"], Value::Null);
    assert!(number(&report, "/held") > 0.0, "{report}");
    assert_eq!(report["failover_ms"], Value::Null);
    none_failed_but_under_way(&report);
    assert!(number(&report, "/added_ms/max") > 1_000.0, "{report}");
}

#[tokio::test]
async fn a_zone_that_flaps_or_forgets_connections_costs_repeats() {
    let flap = report(&embedded("flap", "5s")).await;
    assert!(number(&flap, "/failover_ms") < 6_000.0, "{flap}");
    assert!(number(&flap, "/detection_ms") < 6_000.0, "{flap}");
    // It comes several times over, each time with requests under way.
    assert!(number(&flap, "/failed") <= 20.0, "{flap}");
    let forgets = report(&embedded("idle-cut", "4s")).await;
    assert!(number(&forgets, "/repeated") >= 1.0, "{forgets}");
    none_failed_but_under_way(&forgets);
    assert_eq!(forgets["detection_ms"], Value::Null);
}

#[tokio::test]
async fn names_that_fail_and_a_sleep_cost_nothing() {
    for kind in ["dns-fail", "dns-empty", "sleep"] {
        let report = report(&embedded(kind, "2s")).await;
        assert_eq!(report["zone"], Value::Null);
        for key in ["detection_ms", "failover_ms", "failback_ms"] {
            assert_eq!(report[key], Value::Null, "{kind}: {key}");
        }
        assert_eq!(
            (report["failed"].as_u64(), report["held"].as_u64()),
            (Some(0), Some(0))
        );
    }
}

#[tokio::test]
async fn assertions_decide_and_files_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [json, xml, html] = ["r.json", "r.xml", "r.html"].map(file);
    let mut args = embedded("zone-down", "1s");
    // A request that is under way when the zone goes is lost.
    args.extend([
        "--assert",
        "errors<50%",
        "--assert",
        "failover>1h,held>1000",
    ]);
    args.extend(["--out", &json, "--out", &xml, "--out", &html]);
    let (code, out, err) = run(&args).await;
    assert_eq!(code, 99, "{out}{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["verdict"], "FAIL");
    let asserts = report["asserts"].as_array().unwrap();
    let seen: Vec<_> = asserts
        .iter()
        .map(|one| (one["term"].as_str().unwrap(), one["ok"].as_bool().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            ("errors<50%", true),
            ("failover>1h", false),
            ("held>1000", false)
        ]
    );
    assert_eq!(asserts[0]["observed"], 0.0);
    let written: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(written, report);
    let xml = std::fs::read_to_string(xml).unwrap();
    assert!(
        xml.contains(
            "<testsuite name=\"entryway drill zone-down in zone a\" tests=\"3\" failures=\"2\""
        ),
        "{xml}"
    );
    assert_eq!(xml.matches("<testcase ").count(), 3);
    assert_eq!(xml.matches("<failure ").count(), 2);
    assert!(
        xml.contains("name=\"failover&gt;1h\"")
            && xml.contains("<property name=\"failed\" value=\"0\"/>")
    );
    let html = std::fs::read_to_string(html).unwrap();
    for text in [
        "Drill: zone-down in zone a",
        "class=\"FAIL\"",
        "<svg",
        "failover",
        "failback",
        "failover&gt;1h",
    ] {
        assert!(html.contains(text), "{text}");
    }
    assert!(!html.contains("<script") && !html.contains("href=") && !html.contains("src="));
}

/// HAProxy needs to be installed; where it is not, that is what the command says.
#[tokio::test]
async fn haproxy_meets_the_same_drill() {
    let is_there = std::process::Command::new("haproxy")
        .arg("-v")
        .output()
        .is_ok();
    let folder = tempfile::tempdir().unwrap();
    let html = folder.path().join("r.html").to_str().unwrap().to_owned();
    let mut args = embedded("zone-down", "2s");
    args.extend(["--compare", "haproxy", "--out", &html]);
    let (code, out, err) = run(&args).await;
    if !is_there {
        println!("haproxy is not installed: only the error was looked at");
        assert_eq!(code, 1, "{out}{err}");
        assert!(err.contains("haproxy cannot be run"), "{err}");
        return;
    }
    assert_eq!(code, 0, "{out}{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let other = &report["compare"];
    assert!(
        other["program"].as_str().unwrap().starts_with("HAProxy "),
        "{report}"
    );
    assert_eq!(
        (&other["kind"], &other["zone"]),
        (&report["kind"], &report["zone"])
    );
    for key in [
        "/detection_ms",
        "/failover_ms",
        "/failback_ms",
        "/added_ms/max",
    ] {
        assert!(number(other, key) >= 0.0);
    }
    assert!(number(other, "/requests") > 100.0);
    assert_eq!(other["held"], Value::Null, "it has no such thing");
    let html = std::fs::read_to_string(html).unwrap();
    let theirs = format!(
        "{}: of {} requests",
        other["program"].as_str().unwrap(),
        other["requests"]
    );
    assert!(html.contains(&theirs), "{theirs}: {html}");
}

/// Faults that entryway plays inside itself are played to HAProxy by the mocks and their DNS server.
#[tokio::test]
async fn haproxy_meets_forgotten_connections_and_failing_names() {
    if std::process::Command::new("haproxy")
        .arg("-v")
        .output()
        .is_err()
    {
        println!("haproxy is not installed: nothing was looked at");
        return;
    }
    let compare = ["--compare", "haproxy"];
    let forgets = report(&[&embedded("idle-cut", "3s")[..], &compare].concat()).await;
    let other = &forgets["compare"];
    assert!(number(other, "/repeated") >= 1.0, "{forgets}");
    assert!(number(other, "/requests") > 100.0, "{forgets}");
    assert_eq!(other["detection_ms"], Value::Null, "{forgets}");
    for kind in ["dns-fail", "dns-empty"] {
        let report = report(&[&embedded(kind, "3s")[..], &compare].concat()).await;
        let other = &report["compare"];
        // It keeps an address for 30 s.
        assert_eq!(other["failed"], 0, "{report}");
        assert!(number(other, "/requests") > 100.0, "{report}");
    }
}

/// Says so in the report, and drills entryway all the same.
#[tokio::test]
async fn a_sleep_is_not_compared_and_the_report_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let html = folder.path().join("r.html").to_str().unwrap().to_owned();
    let mut args = embedded("sleep", "1s");
    args.extend(["--compare", "haproxy", "--out", &html]);
    let report = report(&args).await;
    let why = report["not_compared"].as_str().unwrap();
    assert!(why.contains("HAProxy is not drilled beside it"), "{why}");
    assert_eq!(report["compare"], Value::Null);
    assert!(number(&report, "/requests") > 100.0, "{report}");
    assert!(std::fs::read_to_string(html).unwrap().contains(why));
}

#[tokio::test]
async fn what_cannot_be_compared_is_said_before_anything_starts() {
    for (args, said) in [
        (&["zone-down", "--compare", "haproxy"][..], "--embedded"),
        (
            &["zone-down", "--embedded", "--upstream", "default"],
            "--upstream",
        ),
        (
            &["zone-down", "--embedded", "--compare", "nginx"],
            "haproxy",
        ),
    ] {
        let (code, _, err) = run(args).await;
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains(said), "{err}");
    }
}
