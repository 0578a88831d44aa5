//! Kinds of probes, what they make of answers, and what untrusted text becomes in the log.

use std::sync::Arc;

use crate::harness::upstream::{Upstream, answering, datomic, http_answer};
use crate::harness::{Conf, Entryway, eventually, no_leaks};

fn conf(endpoint: &Upstream, kind: &str) -> Conf {
    let conf = Conf::to(&[endpoint.address]).upstream(&format!("health.kind = \"{kind}\""));
    conf.upstream(r#"health.interval = "200ms""#)
        .upstream(r#"health.timeout = "200ms""#)
        .upstream("health.fall = 2")
}

async fn healthy(endpoint: &Upstream, kind: &str, extra: &str) -> bool {
    let entryway = Entryway::start(&conf(endpoint, kind).upstream(extra)).await;
    let decided = || {
        let snapshot = entryway.handles.upstreams[0].view.load();
        snapshot.all().all(|(_, view)| view.last_probe.is_some())
    };
    eventually("probed", decided).await;
    let down = || {
        entryway.metric(
            "entryway_endpoint_addresses",
            &[("endpoint", "e0"), ("state", "down")],
        ) == 1.0
    };
    let up = || {
        entryway.metric(
            "entryway_endpoint_addresses",
            &[("endpoint", "e0"), ("state", "up")],
        ) == 1.0
    };
    eventually(&format!("{kind}: decided"), || up() || down()).await;
    let up = up();
    assert_eq!(
        entryway.metric("entryway_endpoint_healthy", &[("endpoint", "e0")]),
        f64::from(u8::from(up))
    );
    assert_eq!(
        entryway.metric("entryway_probe_success", &[("endpoint", "e0")]),
        f64::from(u8::from(up))
    );
    no_leaks(entryway).await;
    up
}

#[tokio::test]
async fn what_each_kind_takes_for_healthy() {
    let entry = datomic("bucket/path").await;
    let html = answering(Arc::new(|| http_answer("<html>it works</html>"))).await;
    let busy = answering(Arc::new(|| {
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec()
    }))
    .await;
    let ssh = Upstream::speaks_first("SSH-2.0-OpenSSH_9\r\n").await;
    let frozen = Upstream::frozen().await;
    let table: [(&Upstream, &str, &str, bool); 11] = [
        (&entry, "datomic", "", true),
        (&html, "datomic", "", false),
        (&busy, "datomic", "", false),
        (&ssh, "datomic", "", false),
        (&frozen, "datomic", "", false),
        (&html, "http", "", true),
        (&html, "http", r#"health.expect_body = "works""#, true),
        (&html, "http", r#"health.expect_body = "absent""#, false),
        (&busy, "http", "", false),
        (&frozen, "tcp", "", true),
        (&ssh, "tcp", "", true),
    ];
    for (number, (endpoint, kind, extra, expected)) in table.into_iter().enumerate() {
        assert_eq!(
            healthy(endpoint, kind, extra).await,
            expected,
            "row {number}: {kind} {extra}"
        );
    }
}

#[tokio::test]
async fn control_bytes_from_the_network_never_reach_the_log() {
    let evil = answering(Arc::new(|| {
        b"HTTP/1.1 500 \x1b[31mred\x1b[0m\x07\0\xff\xfe${jndi:ldap://x}\r\nX: \x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n".to_vec()
    }))
    .await;
    let evil_body = answering(Arc::new(|| {
        http_answer("{:s3-auth-path \"\x1b[2Jx\\ny\u{0}\"}")
    }))
    .await;
    for endpoint in [&evil, &evil_body] {
        let entryway = Entryway::start(&conf(endpoint, "datomic")).await;
        eventually("probed", || entryway.sum("entryway_probes_total") >= 2.0).await;
        let log = entryway.log();
        for line in log.lines() {
            assert!(
                line.bytes().all(|byte| byte >= 0x20 && byte != 0x7f),
                "{line:?}"
            );
            serde_json::from_str::<serde_json::Value>(line).expect(line);
        }
        let metrics = crate::harness::client::get(entryway.admin.unwrap(), "/metrics").await;
        assert!(!metrics.contains('\x1b') && !metrics.contains("jndi"));
        crate::harness::client::get(entryway.admin.unwrap(), "/v1/endpoints").await;
        no_leaks(entryway).await;
    }
}
