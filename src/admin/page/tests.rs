use super::*;
use crate::admin::api_types::{BytesJson, Probe, RankedAddress};

const EVIL: &str = "<img src=x onerror=alert(1)>\"'&</script>\u{1b}";

fn page(name: &str) -> Page {
    let name = name.to_owned();
    Page {
        status: StatusJson {
            version: name.clone(),
            ready: true,
            listeners: vec![ListenerJson {
                name: name.clone(),
                addresses: vec!["127.0.0.1:8182".to_owned()],
                upstream: name.clone(),
                scheme: name.clone(),
                connections: 2,
                parked: 1,
            }],
            upstreams: vec![UpstreamJson {
                name: name.clone(),
                system: Some(name.clone()),
                region: Some(name.clone()),
                zone: Some(name.clone()),
                identity: Some(name.clone()),
                healthy: 1,
                addresses: 2,
            }],
            ..StatusJson::default()
        },
        faults: vec![name.clone()],
        hops: vec![HopRow {
            upstream: name.clone(),
            via: format!("via {name}"),
            state: "down".to_owned(),
            since: name.clone(),
            restarts: 3,
            last_error: Some(format!("error {name}")),
            ..HopRow::default()
        }],
        endpoints: vec![EndpointJson {
            upstream: name.clone(),
            name: name.clone(),
            host: format!("host {name}"),
            zone: Some(name.clone()),
            intent: "drain".to_owned(),
            active: true,
            addresses: vec![AddressJson {
                address: name.clone(),
                state: name.clone(),
                since: name.clone(),
                reason: name.clone(),
                connect_ms: Some(1.0),
                last_probe: Some(Probe {
                    at: name.clone(),
                    result: name.clone(),
                    detail: None,
                ms: 1.0,
                }),
                in_dns: false,
                identity: Some(name.clone()),
            }],
            ..EndpointJson::default()
        }],
        explain: Explain {
            order: vec![RankedAddress {
                upstream: name.clone(),
                endpoint: name.clone(),
                address: name.clone(),
                rank: Some(1),
                reasons: vec![name.clone()],
            }],
            verdict: name.clone(),
        },
        connections: vec![ConnectionJson {
            client: name.clone(),
            endpoint: Some(name.clone()),
            address: Some(name.clone()),
            bytes: BytesJson::default(),
            ..ConnectionJson::default()
        }],
        history: History {
            series: vec![HistorySeries {
                endpoint: name.clone(),
                address: name.clone(),
                probe_ok: vec![Some(12), None],
                probe_failed: vec![Some(0), Some(3)],
                probe_p50_ms: vec![None, None],
                connect_p50_ms: vec![Some(1.5), None],
                state: vec![Some("up".to_owned()), None],
            }],
            ..History::default()
        },
        events: vec![Recorded {
            id: 1,
            line: serde_json::json!({"timestamp": name, "level": "warn", "event": name, "message": name, "x": name})
                .to_string(),
        }],
    }
}

#[test]
fn every_value_is_escaped() {
    let html = render(&page(EVIL));
    let without_script = html.replace(SCRIPT, "");
    assert!(!without_script.contains("<img") && !without_script.contains('\u{1b}'));
    assert_eq!(without_script.matches("</script>").count(), 1);
    assert!(
        without_script
            .matches("&lt;img src=x onerror=alert(1)&gt;&quot;")
            .count()
            >= 15
    );
    // Nothing but our own elements: the same page with a harmless name has as many.
    let plain = render(&page("prod"));
    assert_eq!(html.matches('<').count(), plain.matches('<').count());
    assert_eq!(html.matches('"').count(), plain.matches('"').count());
}

#[test]
fn the_page_says_what_there_is() {
    let html = render(&page("prod"));
    for part in [
        "<title>ready · entryway</title>",
        "Upstream prod <span class=\"badge warn\">1/2 healthy</span>",
        "The next connection goes to <strong>prod</strong>",
        "1 held until an address comes back",
        "Through <span class=\"mono\">via prod</span> <span class=\"badge bad\">down</span>",
        "restarts 3</span> <span class=\"bad\">error prod</span>",
        "aria-label=\"probes of the last 2 minutes: 12 succeeded, 3 failed\"",
        ":endpoint    &quot;http://localhost:8182&quot;}",
    ] {
        assert!(html.contains(part), "{part}\n{html}");
    }
}

#[test]
fn style_and_script_are_allowed_by_hash_alone() {
    let reply = reply(&page("prod"));
    let policy = reply.headers()["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"));
    // The known digest of the empty text shows that this is SHA-256 in base64.
    assert_eq!(digest(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}
