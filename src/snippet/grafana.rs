//! The dashboard: one row of what is wrong, one of where traffic goes, one of how fast, one of the machine.

use serde_json::{Value, json};

/// A panel: title, kind, unit, width in 24ths, and its queries with their legends.
type Panel = (
    &'static str,
    &'static str,
    &'static str,
    u32,
    &'static [(&'static str, &'static str)],
);

const HEIGHT: u32 = 7;

const PANELS: &[Panel] = &[
    (
        "Healthy addresses",
        "stat",
        "none",
        6,
        &[(
            "sum by (upstream) (entryway_upstream_healthy_addresses{SELECTED})",
            "{{upstream}}",
        )],
    ),
    (
        "Known addresses",
        "stat",
        "none",
        6,
        &[(
            "sum by (upstream) (entryway_upstream_addresses{SELECTED})",
            "{{upstream}}",
        )],
    ),
    (
        "Parked connections",
        "stat",
        "none",
        6,
        &[(
            "sum by (listener) (entryway_connections_parked{INSTANCE})",
            "{{listener}}",
        )],
    ),
    (
        "Failovers and failbacks, last hour",
        "stat",
        "none",
        6,
        &[
            (
                "sum(increase(entryway_failovers_total{SELECTED}[1h]))",
                "away",
            ),
            (
                "sum(increase(entryway_failbacks_total{SELECTED}[1h]))",
                "back",
            ),
        ],
    ),
    (
        "Healthy endpoints",
        "state-timeline",
        "none",
        12,
        &[(
            "min by (upstream, endpoint) (entryway_endpoint_healthy{SELECTED})",
            "{{upstream}} {{endpoint}}",
        )],
    ),
    (
        "Active endpoints",
        "state-timeline",
        "none",
        12,
        &[(
            "max by (upstream, endpoint) (entryway_endpoint_active{SELECTED})",
            "{{upstream}} {{endpoint}}",
        )],
    ),
    (
        "Open connections",
        "timeseries",
        "none",
        12,
        &[(
            "sum by (upstream, endpoint) (entryway_connections{SELECTED})",
            "{{upstream}} {{endpoint}}",
        )],
    ),
    (
        "Connections a second",
        "timeseries",
        "cps",
        12,
        &[
            (
                "sum by (listener) (rate(entryway_connections_accepted_total{INSTANCE}[$__rate_interval]))",
                "accepted {{listener}}",
            ),
            (
                "sum by (reason) (rate(entryway_connections_rejected_total{INSTANCE}[$__rate_interval]))",
                "rejected {{reason}}",
            ),
        ],
    ),
    (
        "Bytes a second",
        "timeseries",
        "Bps",
        12,
        &[(
            "sum by (direction, endpoint) (rate(entryway_bytes_total{SELECTED}[$__rate_interval]))",
            "{{direction}} {{endpoint}}",
        )],
    ),
    (
        "How connections end",
        "timeseries",
        "cps",
        12,
        &[(
            "sum by (reason) (rate(entryway_connections_closed_total{SELECTED}[$__rate_interval]))",
            "{{reason}}",
        )],
    ),
    (
        "Connect time",
        "timeseries",
        "s",
        8,
        &[
            (
                "histogram_quantile(0.5, sum by (le, endpoint) (rate(entryway_connect_seconds_bucket{SELECTED}[$__rate_interval])))",
                "p50 {{endpoint}}",
            ),
            (
                "histogram_quantile(0.99, sum by (le, endpoint) (rate(entryway_connect_seconds_bucket{SELECTED}[$__rate_interval])))",
                "p99 {{endpoint}}",
            ),
        ],
    ),
    (
        "Accept to upstream ready",
        "timeseries",
        "s",
        8,
        &[
            (
                "histogram_quantile(0.5, sum by (le) (rate(entryway_setup_seconds_bucket{INSTANCE}[$__rate_interval])))",
                "p50",
            ),
            (
                "histogram_quantile(0.99, sum by (le) (rate(entryway_setup_seconds_bucket{INSTANCE}[$__rate_interval])))",
                "p99",
            ),
        ],
    ),
    (
        "Probe time, p99",
        "timeseries",
        "s",
        8,
        &[(
            "histogram_quantile(0.99, sum by (le, endpoint) (rate(entryway_probe_duration_seconds_bucket{SELECTED}[$__rate_interval])))",
            "{{endpoint}}",
        )],
    ),
    (
        "Dial attempts that failed",
        "timeseries",
        "cps",
        8,
        &[(
            "sum by (endpoint, result) (rate(entryway_connect_attempts_total{SELECTED,result!=\"ok\"}[$__rate_interval]))",
            "{{endpoint}} {{result}}",
        )],
    ),
    (
        "Probes that failed",
        "timeseries",
        "cps",
        8,
        &[(
            "sum by (endpoint, result) (rate(entryway_probes_total{SELECTED,result!~\"ok|success\"}[$__rate_interval]))",
            "{{endpoint}} {{result}}",
        )],
    ),
    (
        "Age of DNS answers",
        "timeseries",
        "s",
        8,
        &[
            (
                "max by (name) (entryway_dns_age_seconds{INSTANCE})",
                "{{name}}",
            ),
            (
                "max by (name) (entryway_dns_stale{INSTANCE}) > 0",
                "stale {{name}}",
            ),
        ],
    ),
    (
        "CPU",
        "timeseries",
        "percentunit",
        8,
        &[(
            "rate(process_cpu_seconds_total{INSTANCE}[$__rate_interval])",
            "{{instance}}",
        )],
    ),
    (
        "Memory",
        "timeseries",
        "bytes",
        8,
        &[("process_resident_memory_bytes{INSTANCE}", "{{instance}}")],
    ),
    (
        "File descriptors in use",
        "timeseries",
        "percentunit",
        8,
        &[(
            "process_open_fds{INSTANCE} / process_max_fds{INSTANCE}",
            "{{instance}}",
        )],
    ),
];

/// The dashboard's JSON.
pub(super) fn dashboard() -> String {
    let dashboard = json!({
        "title": "entryway",
        "uid": "entryway",
        "tags": ["entryway", "datomic"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": { "from": "now-6h", "to": "now" },
        "timezone": "browser",
        "templating": { "list": variables() },
        "panels": panels(),
    });
    // A Value of ours is always JSON; the alternate form of its Display is the indented one.
    format!("{dashboard:#}\n")
}

fn variables() -> Value {
    let source = json!({ "type": "prometheus", "uid": "${source}" });
    let variable = |name: &str, query: &str| {
        json!({
            "name": name, "type": "query", "datasource": source, "query": query, "definition": query,
            "refresh": 2, "includeAll": true, "multi": true, "allValue": ".*", "sort": 1,
            "current": { "text": "All", "value": "$__all" },
        })
    };
    json!([
        { "name": "source", "label": "Data source", "type": "datasource", "query": "prometheus" },
        variable("instance", "label_values(entryway_build_info, instance)"),
        variable("upstream", "label_values(entryway_upstream_addresses, upstream)"),
    ])
}

fn panels() -> Vec<Value> {
    let (mut x, mut y) = (0, 0);
    let mut placed = Vec::with_capacity(PANELS.len());
    for (number, panel) in PANELS.iter().enumerate() {
        let width = panel.3;
        if x + width > 24 {
            (x, y) = (0, y + HEIGHT);
        }
        placed.push(panel_at(number + 1, panel, x, y));
        x += width;
    }
    placed
}

fn panel_at(id: usize, (title, kind, unit, width, queries): &Panel, x: u32, y: u32) -> Value {
    let target = |(place, (expr, legend)): (usize, &(&str, &str))| {
        let selected = "instance=~\"$instance\",upstream=~\"$upstream\"";
        json!({
            "refId": char::from(b'A' + u8::try_from(place).unwrap_or_default()).to_string(),
            "expr": expr.replace("SELECTED", selected).replace("INSTANCE", "instance=~\"$instance\""),
            "legendFormat": legend,
        })
    };
    let targets: Vec<Value> = queries.iter().enumerate().map(target).collect();
    json!({
        "id": id,
        "title": title,
        "type": kind,
        "datasource": { "type": "prometheus", "uid": "${source}" },
        "gridPos": { "h": HEIGHT, "w": width, "x": x, "y": y },
        "fieldConfig": { "defaults": { "unit": unit, "min": 0 }, "overrides": [] },
        "targets": targets,
    })
}
