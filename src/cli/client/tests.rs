use std::time::Duration;

use serde_json::Value as Json;

use crate::admin::EndpointAction;
use crate::admin::tests::{Running, start};
use crate::cli::args::{OutputFormat, WaitFor};
use crate::cli::{endpoint, explain, healthcheck, reload, shutdown, status, wait};

use super::*;

const SOON: Duration = Duration::from_millis(300);

fn at(running: &Running) -> InstanceAddress {
    InstanceAddress {
        admin: running.admin.to_string(),
        control: None,
    }
}

fn text(out: &[u8]) -> String {
    String::from_utf8(out.to_vec()).unwrap()
}

fn json(out: &[u8]) -> Json {
    let json: Json = serde_json::from_slice(out).unwrap();
    assert_eq!(json["schema_version"], 1);
    json
}

#[tokio::test]
async fn status_on_one_screen_and_as_a_document() {
    let running = start(None).await;
    let mut out = Vec::new();
    assert_eq!(
        status::run(&at(&running), OutputFormat::Text, &mut out).await,
        Ok(0)
    );
    let screen = text(&out);
    assert!(
        screen.contains("listener datomic · 127.0.0.1:8182 · 0 connections"),
        "{screen}"
    );
    assert!(screen.lines().count() < 25, "{screen}");
    let mut out = Vec::new();
    assert_eq!(
        status::run(&at(&running), OutputFormat::Json, &mut out).await,
        Ok(0)
    );
    let document = json(&out);
    assert_eq!(document["listeners"][0]["name"], "datomic");
    assert_eq!(document["endpoints"].as_array().unwrap().len(), 1);
    // Through the control socket alone, where admin HTTP is off.
    let control = InstanceAddress {
        admin: "127.0.0.1:1".into(),
        control: Some(running.control.clone()),
    };
    assert_eq!(
        status::run(&control, OutputFormat::Text, &mut Vec::new()).await,
        Ok(0)
    );
}

#[tokio::test]
async fn wait_and_healthcheck_follow_the_health() {
    let running = start(None).await;
    let instance = at(&running);
    for goal in [WaitFor::Startup, WaitFor::Ready] {
        let mut out = Vec::new();
        assert_eq!(
            wait::run(&instance, goal, SOON, OutputFormat::Json, &mut out).await,
            Ok(0)
        );
        json(&out);
    }
    let late = wait::run(
        &instance,
        WaitFor::Healthy(1),
        SOON,
        OutputFormat::Text,
        &mut Vec::new(),
    )
    .await;
    assert_eq!(late.unwrap_err().code, 75);
    let check = async |ready| {
        let mut out = Vec::new();
        (
            healthcheck::run(&instance, ready, &mut out).await.unwrap(),
            text(&out),
        )
    };
    assert_eq!(check(true).await, (0, "ready\n".to_owned()));
    running.backend.health.lock().unwrap().draining = true;
    assert_eq!(check(true).await, (1, "unready\n".to_owned()));
    assert_eq!(check(false).await, (0, "alive\n".to_owned()));
}

#[tokio::test]
async fn changes_find_the_control_socket() {
    let running = start(None).await;
    let instance = at(&running);
    let mut out = Vec::new();
    let names = ["u/a".to_owned(), "nobody".to_owned(), "b".to_owned()];
    let failed = endpoint::order(
        &instance,
        EndpointAction::Drain,
        &names,
        OutputFormat::Text,
        &mut out,
    )
    .await
    .unwrap_err();
    assert_eq!((failed.code, text(&out).as_str()), (69, "drain u/a\n"));
    assert_eq!(
        reload::run(&instance, false, OutputFormat::Text, &mut Vec::new()).await,
        Ok(0)
    );
    let wrong = reload::run(&instance, true, OutputFormat::Text, &mut Vec::new())
        .await
        .unwrap_err();
    assert_eq!(
        (wrong.code, wrong.what.as_str()),
        (
            78,
            "settings are wrong; nothing was changed\nentryway.toml:3:1 unknown key"
        )
    );
    assert_eq!(
        shutdown::run(&instance, false, OutputFormat::Json, &mut Vec::new()).await,
        Ok(0)
    );
    assert_eq!(
        running.backend.done(),
        [
            "drain Some(\"u\") Some(\"a\")",
            "reload false",
            "reload true",
            "shutdown"
        ]
    );
    let mut out = Vec::new();
    assert_eq!(
        endpoint::list(&instance, OutputFormat::Json, &mut out).await,
        Ok(0)
    );
    json(&out);
    let mut out = Vec::new();
    let what_if = ["zone-down=a b".to_owned()];
    assert_eq!(
        explain::run(&instance, &what_if, OutputFormat::Text, &mut out).await,
        Ok(0)
    );
    assert!(
        text(&out).ends_with("None [\"zone-down=a b\"]\n"),
        "{}",
        text(&out)
    );
}

#[tokio::test]
async fn nobody_there_is_69_and_a_stranger_too() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stranger = InstanceAddress {
        admin: address.clone(),
        control: None,
    };
    let (_trigger, watch) = crate::drain::channel();
    let task = tokio::spawn(crate::http::serve(
        crate::http::HttpListener::Tcp(listener),
        8,
        crate::http::BODY_MAX,
        watch,
        async |_request| crate::http::text(StatusCode::OK, "hello"),
    ));
    let failed = status::run(&stranger, OutputFormat::Text, &mut Vec::new())
        .await
        .unwrap_err();
    assert_eq!(failed.code, 69, "{failed}");
    task.abort();
    let _ = task.await;
    let failed = status::run(&stranger, OutputFormat::Text, &mut Vec::new())
        .await
        .unwrap_err();
    assert_eq!(failed.code, 69);
    assert!(
        failed.to_string().contains(&address) && failed.to_string().contains("\n  next:   "),
        "{failed}"
    );
    let mut out = Vec::new();
    assert_eq!(healthcheck::run(&stranger, false, &mut out).await, Ok(1));
    assert_eq!(text(&out), "unreachable\n");
    let none = wait::run(
        &stranger,
        WaitFor::Startup,
        SOON,
        OutputFormat::Text,
        &mut Vec::new(),
    )
    .await;
    assert_eq!(none.unwrap_err().code, 75);
}

#[test]
fn spans_and_clean_text() {
    let shown: Vec<String> = [0.25, 3.9, 62.0, 3700.0, 90_000.0, -1.0].map(span).to_vec();
    assert_eq!(shown, ["250ms", "3s", "1m2s", "1h1m", "1d1h", "0ms"]);
    assert_eq!(clean("a\u{1b}[31m"), "a?[31m");
}
