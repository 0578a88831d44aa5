//! One probe, from connect to verdict.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};

use super::failure::ProbeEnd;
use super::{datomic, http, tcp};
use crate::clock;
use crate::dial::Dialer;
use crate::dial::hop::ProbeThrough;
use crate::upstream::endpoint::Address;
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::{HealthSettings, ProbeKind};

/// The wait for the body of an answer that is bad already.
const WRONG_BODY: Duration = Duration::from_millis(50);

/// One probe.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// What came of it.
    pub outcome: ProbeOutcome,
    /// How long the connect took, where it succeeded.
    pub connect: Option<Duration>,
    /// How long all of it took.
    pub took: Duration,
    /// The HTTP status, where one came.
    pub status: Option<u16>,
    /// The `Server` header, where one came; escaped.
    pub server: Option<String>,
}

/// Probes an address once, as `settings` say and within `settings.timeout`. `host` is the Host header, see
/// [`host_header`]. With kind `off` (only `doctor` asks then) it is a connect.
pub async fn once(settings: &HealthSettings, socket: SocketAddr, host: &str) -> ProbeReport {
    let connecting = async {
        let connected = tcp::connect(socket).await;
        connected.map_err(|error| tcp::outcome(&error))
    };
    over(settings, host, connecting).await
}

/// The same, as traffic of an upstream reaches the address: through its hop, where there is one.
pub async fn through(
    settings: &HealthSettings,
    dialer: &Dialer,
    address: &Address,
    host: &str,
) -> ProbeReport {
    let sent = clock::now();
    let connecting = async {
        let connected = dialer.connect(address, settings.timeout).await;
        connected.map_err(tcp::dial_outcome)
    };
    let mut report = over(settings, host, connecting).await;
    // What never got as far as the address says nothing about it.
    let probe = ProbeThrough {
        timed_out: report.outcome == ProbeOutcome::Timeout,
        broken: report.outcome == ProbeOutcome::Reset,
        sent,
        heard: address.last_activity().is_some_and(|heard| heard >= sent),
    };
    if !report.outcome.is_void() && !dialer.probed(address, probe) {
        report.outcome = ProbeOutcome::Local("the hop does not answer".to_owned());
    }
    report
}

/// The same over a connection that somebody else makes.
async fn over<S>(
    settings: &HealthSettings,
    host: &str,
    connecting: impl Future<Output = Result<S, ProbeOutcome>>,
) -> ProbeReport
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let started = Instant::now();
    let mut report = ProbeReport {
        outcome: ProbeOutcome::Timeout,
        connect: None,
        took: Duration::ZERO,
        status: None,
        server: None,
    };
    let probing = exchange(settings, connecting, host, &mut report);
    let ended = timeout_at(started + settings.timeout, probing).await;
    if let Ok(outcome) = ended {
        report.outcome = outcome;
    }
    report.took = started.elapsed();
    report
}

async fn exchange<S>(
    settings: &HealthSettings,
    connecting: impl Future<Output = Result<S, ProbeOutcome>>,
    host: &str,
    report: &mut ProbeReport,
) -> ProbeOutcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let started = Instant::now();
    let mut stream = match connecting.await {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    report.connect = Some(started.elapsed());
    if matches!(settings.kind, ProbeKind::Tcp | ProbeKind::Off) {
        return ProbeOutcome::Success { identity: None };
    }
    match ask(settings, &mut stream, host, report).await {
        Ok(outcome) | Err(ProbeEnd::Outcome(outcome)) => outcome,
        Err(ProbeEnd::Io(error)) => tcp::outcome(&error),
    }
}

async fn ask<S>(
    settings: &HealthSettings,
    stream: &mut S,
    host: &str,
    report: &mut ProbeReport,
) -> Result<ProbeOutcome, ProbeEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut response, body) = http::get(stream, &settings.path, host).await?;
    report.status = Some(response.status);
    report.server.clone_from(&response.server);
    if !response.is_wanted(settings.kind) {
        // The body may say who it was that answered so, but whatever becomes of it, the status stands.
        let _ = timeout(WRONG_BODY, body.read(&mut response)).await;
        return Ok(response.wrong_status());
    }
    if settings.kind == ProbeKind::Datomic {
        body.read(&mut response).await?;
        return Ok(datomic::evaluate(&response));
    }
    if !settings.expect_body.is_empty() {
        body.read(&mut response).await?;
    }
    Ok(http::evaluate(&response, settings))
}

/// The Host header for an endpoint, as a client that was given its address would send it.
pub fn host_header(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
