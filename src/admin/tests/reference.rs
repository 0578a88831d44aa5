//! The generated parts of `guide/reference-api.md`: every route, and an example of every document.

use std::fmt::Write as _;

use serde::Serialize;

use super::super::api_types::*;
use super::super::routes::{PATHS, PUBLIC_PATHS, ROUTES};
use crate::guide::check_generated;

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn status() -> StatusJson {
    StatusJson {
        version: "0.1.0".to_owned(),
        pid: 4711,
        generation: 1,
        uptime_s: 86_400.5,
        ready: true,
        control_socket: text("/run/user/1000/entryway/8183.sock"),
        faults: text("127.0.0.1:8474"),
        listeners: vec![ListenerJson {
            name: "datomic".to_owned(),
            addresses: vec!["127.0.0.1:8182".to_owned()],
            upstream: "default".to_owned(),
            scheme: "http".to_owned(),
            connections: 12,
            parked: 0,
        }],
        upstreams: vec![UpstreamJson {
            name: "default".to_owned(),
            system: text("prod"),
            region: text("us-east-1"),
            zone: text("us-east-1a"),
            identity: text("prod-storage-s3datomic-1x/prod"),
            healthy: 3,
            addresses: 3,
        }],
        ..StatusJson::default()
    }
}

fn endpoint() -> EndpointJson {
    EndpointJson {
        upstream: "default".to_owned(),
        name: "us-east-1a".to_owned(),
        host: "entry-http.prod.us-east-1.datomic.net".to_owned(),
        port: 8182,
        zone: text("us-east-1a"),
        healthy: true,
        intent: "ready".to_owned(),
        active: true,
        connections: 12,
        addresses: vec![AddressJson {
            address: "10.0.1.5:8182".to_owned(),
            state: "up".to_owned(),
            since: "2026-11-29T10:00:00.000Z".to_owned(),
            reason: "probe_ok".to_owned(),
            connect_ms: Some(0.412),
            last_probe: Some(Probe {
                at: "2026-11-29T10:05:00.000Z".to_owned(),
                result: "ok".to_owned(),
                detail: Some("a `blackhole` route of this machine".to_owned()),
                ms: 1.204,
            }),
            in_dns: true,
            identity: text("prod-storage-s3datomic-1x/prod"),
        }],
        ..EndpointJson::default()
    }
}

fn ranked() -> RankedAddress {
    RankedAddress {
        upstream: "default".to_owned(),
        endpoint: "us-east-1a".to_owned(),
        address: "10.0.1.5:8182".to_owned(),
        rank: Some(1),
        reasons: vec!["up".to_owned(), "own zone".to_owned()],
    }
}

fn example(page: &mut String, request: &str, value: impl Serialize) {
    let document = serde_json::to_string_pretty(&versioned(value)).unwrap();
    let _ = writeln!(page, "### `{request}`\n\n```json\n{document}\n```\n");
}

#[test]
fn the_reference_page_lists_every_route() {
    let mut page = String::from("| request | answer |\n| --- | --- |\n");
    for route in ROUTES {
        let _ = writeln!(page, "| `{}` | {} |", route.request, route.answer);
    }
    check_generated("reference-api.md", "routes", &page);
}

#[test]
fn every_path_is_in_the_list_of_routes() {
    for path in format!("{PUBLIC_PATHS} {PATHS}").split_whitespace() {
        let request = format!("GET {path}");
        assert!(
            ROUTES.iter().any(|route| route.request == request),
            "{request}"
        );
    }
}

#[test]
fn the_reference_page_has_an_example_of_every_document() {
    let mut page = String::new();
    example(&mut page, "GET /v1/status", status());
    let endpoints = vec![endpoint()];
    example(&mut page, "GET /v1/endpoints", Endpoints { endpoints });
    let connection = ConnectionJson {
        id: 17,
        listener: "datomic".to_owned(),
        client: "127.0.0.1:50312".to_owned(),
        endpoint: text("us-east-1a"),
        address: text("10.0.1.5:8182"),
        age_s: 30.2,
        idle_s: 0.4,
        at_rest: true,
        lane: "buffer".to_owned(),
        bytes: BytesJson {
            upload: 512,
            download: 2048,
        },
        ..ConnectionJson::default()
    };
    let connections = vec![connection];
    example(
        &mut page,
        "GET /v1/connections",
        ConnectionsJson { connections },
    );
    let names = vec![NameJson {
        name: "entry-http.prod.us-east-1.datomic.net".to_owned(),
        addresses: vec!["10.0.1.5".to_owned()],
        ttl_s: Some(60.0),
        age_s: Some(12.5),
        last_change: text("2026-11-29T10:00:00.000Z"),
        ..NameJson::default()
    }];
    example(&mut page, "GET /v1/dns", DnsJson { names });
    let explain = Explain {
        order: vec![ranked()],
        verdict: "a new connection goes to us-east-1a 10.0.1.5:8182".to_owned(),
    };
    example(&mut page, "GET /v1/explain", explain);
    let history = History {
        step_s: 60,
        end: "2026-11-29T10:05:12.000Z".to_owned(),
        series: vec![HistorySeries {
            endpoint: "us-east-1a".to_owned(),
            address: "10.0.1.5:8182".to_owned(),
            probe_ok: vec![None, Some(12)],
            probe_failed: vec![None, Some(0)],
            probe_p50_ms: vec![None, Some(1.2)],
            connect_p50_ms: vec![None, Some(0.4)],
            state: vec![None, text("up")],
        }],
    };
    example(
        &mut page,
        "GET /v1/history?endpoint=us-east-1a&minutes=2",
        history,
    );
    let slo = Slo {
        target: 99.9,
        window_s: 86_400.5,
        good: 99_950,
        bad: 50,
        ratio: 0.9995,
        budget_left: 0.5,
        by_endpoint: vec![EndpointSlo {
            upstream: "default".to_owned(),
            endpoint: "us-east-1a".to_owned(),
            good: 99_950,
            bad: 0,
            ratio: 1.0,
        }],
    };
    example(&mut page, "GET /v1/slo?target=99.9", slo);
    let incidents = vec![Incident {
        id: "all-down-1".to_owned(),
        at: "2026-11-29T10:00:00.000Z".to_owned(),
        kind: "all-down".to_owned(),
        upstream: "default".to_owned(),
        summary: "no healthy address; the last was us-east-1a".to_owned(),
    }];
    example(&mut page, "GET /v1/incidents", Incidents { incidents });
    let changed = Changed {
        endpoints: vec![ChangedEndpoint {
            upstream: "default".to_owned(),
            name: "us-east-1a".to_owned(),
            action: "drain".to_owned(),
        }],
    };
    example(&mut page, "POST /v1/endpoints/us-east-1a/drain", changed);
    let reloaded = Reloaded {
        changed: vec!["upstream.health.interval".to_owned()],
        restart_needed: vec!["admin.bind".to_owned()],
        ..Reloaded::default()
    };
    example(&mut page, "POST /v1/reload", reloaded);
    check_generated("reference-api.md", "examples", &page);
}
