//! The rules, each with its symptom made for real: on loopback, with scripted DNS, mock zones and rude servers.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::dns::DnsSettings;
use crate::mock::{self, Mock, MockConfig, ZoneMode};
use crate::target::Target;
use crate::types::{EndpointName, Zone};
use crate::upstream::endpoint::{EndpointSpec, Role};
use crate::upstream::settings::HealthSettings;

mod answers;
mod dns;
mod here;
mod hops;
mod names;
mod silence;
mod table;

/// A way of explicit endpoints, `HOST:PORT` and perhaps a zone.
fn explicit(endpoints: &[(&str, u16, Option<&str>)]) -> UpstreamTarget {
    let spec = |(host, port, zone): &(&str, u16, Option<&str>)| EndpointSpec {
        name: EndpointName::new(zone.unwrap_or(host)),
        host: (*host).to_owned(),
        port: *port,
        zone: zone.map(Zone::new),
        role: Role::Configured,
        hop: None,
    };
    UpstreamTarget {
        name: "default".to_owned(),
        endpoints: endpoints.iter().map(spec).collect(),
        connect_timeout: Duration::from_millis(1500),
        keepalive: Duration::from_secs(15),
        ..UpstreamTarget::default()
    }
}

/// A way as a target is resolved.
fn resolved(target: Target<'_>) -> UpstreamTarget {
    let resolved = target.resolve().unwrap();
    UpstreamTarget {
        endpoints: resolved.endpoints,
        system: resolved.system,
        region: resolved.region,
        ..explicit(&[])
    }
}

fn subject(target: UpstreamTarget) -> DoctorInput {
    DoctorInput {
        targets: vec![target],
        ..DoctorInput::default()
    }
}

fn subject_at(socket: SocketAddr) -> DoctorInput {
    subject(explicit(&[(&socket.ip().to_string(), socket.port(), None)]))
}

async fn report(subject: &DoctorInput) -> Diagnosis {
    let started = Instant::now();
    let report = examine(subject, &|_| ()).await;
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    // Every stage has its line, whatever happened.
    for stage in Stage::ALL {
        assert!(
            report.checks.iter().any(|check| check.stage == stage),
            "{stage} is missing:\n{}",
            report.text(false)
        );
    }
    report
}

/// Asserts that the rule spoke, with this verdict, and that its causes and steps hold these words.
fn assert_rule<'r>(
    report: &'r Diagnosis,
    rule: &'static Rule,
    verdict: CheckVerdict,
    cause: &str,
    step: &str,
) -> &'r Check {
    let text = report.text(false);
    let Some(check) = report
        .checks
        .iter()
        .find(|check| check.rule == Some(rule.id))
    else {
        panic!("{} did not speak:\n{text}", rule.id);
    };
    assert_eq!(check.verdict, verdict, "{text}");
    assert!(
        check.causes.iter().any(|line| line.contains(cause)),
        "cause `{cause}` is missing:\n{text}"
    );
    assert!(
        check.steps.iter().any(|line| line.contains(step)),
        "step `{step}` is missing:\n{text}"
    );
    check
}

/// A server that does this with every connection.
async fn server<F, Fut>(script: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(stream));
        }
    });
    address
}

/// A server that reads a request and says this.
async fn says(answer: &'static str) -> SocketAddr {
    server(move |mut stream| async move {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    })
    .await
}

/// An address where nothing listens.
async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

fn mock_zones(base: [u8; 4]) -> Mock {
    mock::start(MockConfig {
        base_ip: IpAddr::from(base),
        ..MockConfig::default()
    })
    .unwrap()
}

/// The three zones of a mock as a way.
fn way_of(mock: &Mock) -> UpstreamTarget {
    let zones = mock.zones();
    let endpoints: Vec<(String, u16, String)> = zones
        .iter()
        .map(|zone| {
            (
                zone.address().ip().to_string(),
                zone.address().port(),
                zone.name().to_owned(),
            )
        })
        .collect();
    let endpoints: Vec<(&str, u16, Option<&str>)> = endpoints
        .iter()
        .map(|(host, port, zone)| (host.as_str(), *port, Some(zone.as_str())))
        .collect();
    explicit(&endpoints)
}
