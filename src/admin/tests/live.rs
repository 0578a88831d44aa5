//! The status page, the stream of events, history, service level and incidents over HTTP.

use super::*;
use crate::events::event;

/// Follows `/v1/events` until `count` events have come: their ids and names.
async fn follow(running: &Running, last: Option<String>, count: usize) -> Vec<(String, String)> {
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let target = HttpTarget::Tcp(running.admin.to_string());
    let following = tokio::spawn(async move {
        let headers = last.map(|last| ("last-event-id", last));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let _ = client::lines(&target, "/v1/events", &headers, |line| {
            let _ = sender.send(line.to_owned());
        })
        .await;
    });
    let mut seen = Vec::new();
    let mut id = String::new();
    while seen.len() < count {
        let line = lines.recv().await.expect("the stream goes on");
        if line == "retry: 1000" {
            event!(running.events, INFO, "wake", "after the reader has come");
        } else if let Some(text) = line.strip_prefix("id: ") {
            id = text.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Json = serde_json::from_str(data).unwrap();
            seen.push((id.clone(), data["message"].as_str().unwrap().to_owned()));
        }
    }
    following.abort();
    seen
}

#[tokio::test]
async fn events_are_streamed_from_where_a_reader_was() {
    let running = start(None).await;
    event!(running.events, INFO, "wake", "before");
    // Without an id: only what follows.
    let new = follow(&running, None, 1).await;
    assert_eq!(new[0].1, "after the reader has come");
    event!(running.events, INFO, "wake", "missed");
    let missed = follow(&running, Some(new[0].0.clone()), 2).await;
    let texts: Vec<&str> = missed.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["missed", "after the reader has come"]);
    // An id of another instance: everything that is kept, the listeners' own events first.
    let all = follow(&running, Some("1-1".to_owned()), 5).await;
    assert_eq!(all[0].1, "listening");
    let mut ids: Vec<&String> = all.iter().map(|(id, _)| id).collect();
    ids.dedup();
    assert_eq!(ids.len(), all.len());
}

#[tokio::test]
async fn streams_end_with_the_listeners() {
    let running = start(None).await;
    let target = HttpTarget::Tcp(running.admin.to_string());
    let (sender, mut connected) = tokio::sync::mpsc::unbounded_channel();
    let following = tokio::spawn(async move {
        client::lines(&target, "/v1/events", &[], |_| {
            let _ = sender.send(());
        })
        .await
    });
    connected.recv().await.unwrap();
    let began = tokio::time::Instant::now();
    running.trigger.fire();
    let _ = following.await.unwrap();
    running.task.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn the_page_is_there_for_our_hosts_alone() {
    let running = start(None).await;
    let get = |path: &'static str, host: &'static str| {
        let target = HttpTarget::Tcp(running.admin.to_string());
        async move {
            client::request(&target, http::Method::GET, path, &[("host", host)], BOUNDS)
                .await
                .unwrap()
        }
    };
    let page = get("/", "localhost").await;
    assert_eq!(page.status.as_u16(), 200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers["cache-control"], "no-store");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.text().contains("<h1>entryway</h1>"));
    assert_eq!(get("/", "evil.example").await.status.as_u16(), 421);
    let metrics = HttpTarget::Tcp(running.metrics.to_string());
    for path in ["/", "/v1/events", "/v1/history"] {
        let answer = client::get(&metrics, path, BOUNDS).await.unwrap();
        assert_eq!(answer.status.as_u16(), 404, "{path}");
    }
}

#[tokio::test]
async fn history_service_level_and_incidents() {
    let running = start(None).await;
    let (status, history) = running.get("/v1/history?minutes=5").await;
    assert_eq!((status, &history["step_s"]), (200, &Json::from(60)));
    for (path, expected) in [
        ("/v1/history?endpoint=nobody", 404),
        ("/v1/history?minutes=0", 400),
        ("/v1/history?minutes=1441", 400),
        ("/v1/history?minutes=many", 400),
        ("/v1/slo?target=0", 400),
        ("/v1/slo?target=101", 400),
        ("/v1/slo?target=NaN", 400),
        ("/v1/incidents/none-1", 404),
    ] {
        assert_eq!(running.get(path).await.0, expected, "{path}");
    }
    let (_, slo) = running.get("/v1/slo?target=99.5").await;
    assert_eq!(
        (&slo["target"], &slo["ratio"]),
        (&Json::from(99.5), &Json::from(1.0))
    );
    let (_, incidents) = running.get("/v1/incidents").await;
    assert_eq!(incidents["incidents"], Json::Array(Vec::new()));
}
