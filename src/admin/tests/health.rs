use super::*;

#[tokio::test]
async fn health_on_both_ports_and_all_names() {
    let running = start(None).await;
    let names = [
        "/livez",
        "/live",
        "/liveness",
        "/startupz",
        "/startup",
        "/readyz",
        "/ready",
        "/readiness",
        "/healthz",
    ];
    for path in names {
        assert_eq!(running.get(path).await.0, 200, "{path}");
        let foreign =
            format!("GET {path} HTTP/1.1\r\nHost: pod.example\r\nConnection: close\r\n\r\n");
        assert_eq!(
            raw(running.metrics, foreign.as_bytes()).await.0,
            200,
            "{path}"
        );
    }
    assert_eq!(running.get("/readyz?upstream=any").await.0, 503);
    assert_eq!(running.get("/readyz?upstream=0").await.0, 200);
    assert_eq!(running.get("/readyz?upstream=most").await.0, 400);
    running.backend.health.lock().unwrap().draining = true;
    let (code, problem) = running.get("/readyz").await;
    assert_eq!(
        (code, &problem["detail"]),
        (503, &Json::from("draining: shutting down"))
    );
    assert_eq!(keys(&problem), ["detail", "hint", "title", "type"]);
    let verbose = client::get(
        &HttpTarget::Tcp(running.admin.to_string()),
        "/readyz?verbose",
        BOUNDS,
    )
    .await
    .unwrap();
    assert_eq!(verbose.status, 503);
    assert!(
        verbose
            .text()
            .contains("[+]startup ok: done\n[-]draining failed: shutting down\n")
    );
    assert_eq!(running.get("/livez").await.0, 200);
    for listener in [running.admin, running.metrics] {
        let metrics = client::get(&HttpTarget::Tcp(listener.to_string()), "/metrics", BOUNDS).await;
        assert!(
            metrics
                .unwrap()
                .text()
                .contains("# TYPE entryway_stalls_total counter\n")
        );
    }
}
