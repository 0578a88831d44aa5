//! `entryway incident`: what was known when an upstream had no healthy address, another identity, or flapped.

use std::io::Write;

use super::args::OutputFormat;
use super::client::{InstanceAddress, clean};
use super::error::{CliError, code};
use super::status::print_json;
use crate::admin::api_types::{IncidentReport, Incidents, Versioned, versioned};
use crate::doctor::Redactor;
use crate::http::query::encode;

pub async fn list(
    instance: &InstanceAddress,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let all: Incidents = instance.read("/v1/incidents").await?;
    if output == OutputFormat::Json {
        print_json(to, &versioned(all))?;
        return Ok(0);
    }
    if all.incidents.is_empty() {
        writeln!(to, "no incident since the start")?;
    }
    for one in &all.incidents {
        writeln!(
            to,
            "{}  {}  {}",
            clean(&one.id),
            clean(&one.at),
            clean(&one.upstream)
        )?;
        writeln!(to, "    {}", clean(&one.summary))?;
    }
    Ok(0)
}

/// For people: the summary, the addresses as they were, and the events around it.
pub async fn show(
    instance: &InstanceAddress,
    id: &str,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let report = read(instance, id).await?;
    if output == OutputFormat::Json {
        print_json(to, &report)?;
        return Ok(0);
    }
    let IncidentReport {
        incident,
        endpoints,
        events,
        ..
    } = report.value;
    writeln!(
        to,
        "{} · {} · upstream {}\n{}\n",
        clean(&incident.id),
        clean(&incident.at),
        clean(&incident.upstream),
        clean(&incident.summary)
    )?;
    for endpoint in endpoints
        .iter()
        .filter(|one| one.upstream == incident.upstream)
    {
        for address in &endpoint.addresses {
            let line = format!(
                "  {} {} {} ({})",
                endpoint.name, address.address, address.state, address.reason
            );
            writeln!(to, "{}", clean(&line))?;
        }
    }
    writeln!(to)?;
    for event in &events {
        let part = |key: &str| event[key].as_str().unwrap_or("");
        let line = format!(
            "  {} {:<5} {} {} {}",
            part("timestamp"),
            part("level"),
            part("event"),
            part("message"),
            part("endpoint")
        );
        writeln!(to, "{}", clean(line.trim_end()))?;
    }
    Ok(0)
}

/// One JSON document that can be attached to a ticket.
pub async fn export(
    instance: &InstanceAddress,
    id: &str,
    redact: bool,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let report = read(instance, id).await?;
    let mut document = serde_json::to_value(&report)
        .map_err(|error| CliError::new(code::INTERNAL, error.to_string()))?;
    if redact {
        redactor(&report.value).json(&mut document);
    }
    print_json(to, &document)?;
    Ok(0)
}

/// Knows the hosts, systems, buckets and people of a report. Addresses and host names that stand elsewhere in it are
/// found as such.
fn redactor(report: &IncidentReport) -> Redactor {
    let mut redactor = Redactor::default();
    for endpoint in &report.endpoints {
        redactor.host(&endpoint.host);
        for address in &endpoint.addresses {
            address
                .identity
                .iter()
                .for_each(|path| redactor.bucket(path));
        }
    }
    for name in &report.dns {
        redactor.host(&name.name);
    }
    let status = &report.status;
    for upstream in &status.upstreams {
        upstream
            .system
            .iter()
            .for_each(|system| redactor.system(system));
        upstream
            .identity
            .iter()
            .for_each(|path| redactor.bucket(path));
    }
    let peers = report.events.iter();
    for peer in peers.filter_map(|event| event["tls.identity"].as_str()) {
        redactor.peer(peer);
    }
    redactor
}

async fn read(instance: &InstanceAddress, id: &str) -> Result<Versioned<IncidentReport>, CliError> {
    instance
        .read(&format!("/v1/incidents/{}", encode(id)))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api_types::{
        AddressJson, EndpointJson, History, HistorySeries, NameJson, Probe, RankedAddress,
        StatusJson, UpstreamJson,
    };
    use serde_json::json;

    /// What nobody outside may read.
    const SECRETS: [&str; 30] = [
        "entry-http.acmeprod.us-east-1.datomic.net",
        "acmeprod.us-east-1.datomic.net",
        "acmeprod",
        "acme-storagef7f305e7-s3datomic-1xyz",
        "acme-storagef7f305e7-s3datomic-1xyz/acmeprod",
        "stage-storage-s3datomic-9abc",
        "vpce-0a1b2c3d4e5f60718-abcd1234",
        "vpce-0a1b2c3d4e5f60718",
        "vpce-svc-0123456789abcdef0",
        "acme-orders-0123456789abcdef.elb.us-east-1.amazonaws.com",
        "bastion",
        "db1.acme.internal",
        "ip-10-20-30-40.ec2.internal",
        "resolver.acme.io",
        "proxy.acme.com",
        "printer.local",
        "10.20.30.40",
        "10.20.30.41",
        "192.168.77.5",
        "172.31.9.9",
        "203.0.113.77",
        "fd00:ac3e::17",
        "fd00:ac3e::18",
        "fe80::acce:55ed",
        "2001:db8:77::1",
        "/home/alice/run/entryway.sock",
        "alice",
        "CN=billing.acme",
        "spiffe://acme/ns/pay/sa/api",
        "build-agent-7.acme.dev",
    ];

    fn report() -> IncidentReport {
        let text = |text: &str| text.to_owned();
        let address = |at: &str, identity: &str, result: &str| AddressJson {
            address: text(at),
            identity: Some(text(identity)),
            last_probe: Some(Probe {
                result: text(result),
                ..Probe::default()
            }),
            ..AddressJson::default()
        };
        let endpoint = |name: &str, host: &str, addresses: Vec<AddressJson>| EndpointJson {
            name: text(name),
            host: text(host),
            addresses,
            ..EndpointJson::default()
        };
        let bucket = "acme-storagef7f305e7-s3datomic-1xyz/acmeprod";
        let service = "vpce-0a1b2c3d4e5f60718-abcd1234.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com";
        let mut report = IncidentReport::default();
        report.incident.summary =
            text("10.20.30.40:8182 answers as stage-storage-s3datomic-9abc/stage");
        report.status = StatusJson {
            upstreams: vec![UpstreamJson {
                name: text("acmeprod"),
                system: Some(text("acmeprod")),
                identity: Some(text(bucket)),
                ..UpstreamJson::default()
            }],
            ..StatusJson::default()
        };
        report.endpoints = vec![
            endpoint(
                "entry-http.acmeprod.us-east-1.datomic.net",
                "entry-http.acmeprod.us-east-1.datomic.net",
                vec![address(
                    "10.20.30.40:8182",
                    bucket,
                    "connection refused by 10.20.30.40",
                )],
            ),
            endpoint(
                "service",
                service,
                vec![address("[fd00:ac3e::17]:8182", bucket, "timeout")],
            ),
            endpoint(
                "b",
                "bastion",
                vec![address("10.20.30.41:22", bucket, "no route")],
            ),
        ];
        report.dns = vec![NameJson {
            name: text("acme-orders-0123456789abcdef.elb.us-east-1.amazonaws.com"),
            addresses: vec![
                text("172.31.9.9"),
                text("fd00:ac3e::18"),
                text("2001:db8:77::1"),
            ],
            last_error: Some(text("SERVFAIL from resolver.acme.io (203.0.113.77)")),
            ..NameJson::default()
        }];
        report.explain.order = vec![RankedAddress {
            upstream: text("acmeprod"),
            endpoint: text("bastion"),
            address: text("192.168.77.5:8182"),
            reasons: vec![text("named ip-10-20-30-40.ec2.internal")],
            ..RankedAddress::default()
        }];
        report.explain.verdict = text("db1.acme.internal, then [fe80::acce:55ed%eth0]:8182");
        report.history = History {
            series: vec![HistorySeries {
                endpoint: text("vpce-0a1b2c3d4e5f60718"),
                address: text("printer.local:9100"),
                ..HistorySeries::default()
            }],
            ..History::default()
        };
        report.events = vec![
            json!({"event": "conn.close", "client.address": "fe80::acce:55ed", "tls.identity": "CN=billing.acme"}),
            json!({"event": "conn.close", "client.address": "192.168.77.5", "tls.identity": "spiffe://acme/ns/pay/sa/api"}),
            // An instance's own status names no socket: its events do.
            json!({"event": "listener.up", "name": "control", "path": "/home/alice/run/entryway.sock"}),
            json!({"event": "hop.state", "hop": "alice@proxy.acme.com:1080", "error": "login refused for alice at build-agent-7.acme.dev"}),
            json!({"event": "dns.change", "message": "acmeprod.us-east-1.datomic.net is now 10.20.30.41; service vpce-svc-0123456789abcdef0 of acme-storagef7f305e7-s3datomic-1xyz"}),
        ];
        report
    }

    #[test]
    fn nothing_that_identifies_leaves_in_a_redacted_export() {
        let report = report();
        let mut document = serde_json::to_value(&report).unwrap();
        let plain = document.to_string();
        let missing: Vec<_> = SECRETS.iter().filter(|one| !plain.contains(*one)).collect();
        assert!(missing.is_empty(), "not in the report at all: {missing:?}");
        redactor(&report).json(&mut document);
        let hidden = document.to_string().to_ascii_lowercase();
        let left: Vec<_> = SECRETS
            .iter()
            .filter(|one| hidden.contains(&one.to_ascii_lowercase()))
            .collect();
        assert!(left.is_empty(), "{left:?} in {hidden}");
        // What it is for stays: the kinds of things, ports and reasons.
        for kept in [
            "address-5:8182",
            "host-1",
            "system-1",
            "refused",
            "conn.close",
        ] {
            assert!(hidden.contains(kept), "{kept} in {hidden}");
        }
    }
}
