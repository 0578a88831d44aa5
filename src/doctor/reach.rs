//! Going to every address: one probe each, all at once, and a second look at answers that were not Datomic's.
//!
//! Looks only; what it means is `judge`'s business. Everything ends within [`PROBE`] plus [`GLIMPSE`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::names::{self, Names};
use super::route::{self, Route};
use super::subject::{Subject, Way};
use crate::probe::{self, ProbeReport, host_header};
use crate::types::Zone;
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::{HealthSettings, ProbeKind};

/// For one probe: a lost SYN, a slow node and a slow way fit in.
pub(super) const PROBE: Duration = Duration::from_secs(4);
/// For the second look.
const GLIMPSE: Duration = Duration::from_secs(1);
/// What is read of an answer at the second look.
const GLIMPSE_BYTES: u64 = 2048;
/// Addresses of all ways together; more is not a diagnosis but a scan.
const MAX_SPOTS: usize = 64;

/// One address of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// Index of its way.
    pub(super) way: usize,
    /// The endpoint's name.
    pub(super) endpoint: String,
    pub(super) host: String,
    pub(super) zone: Option<String>,
    pub(super) socket: SocketAddr,
}

/// What was found there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) spot: Spot,
    /// The way this machine takes, or why there is none.
    pub(super) route: Result<Route, String>,
    pub(super) report: ProbeReport,
    /// The first bytes of the answer, where it was not Datomic's.
    pub(super) glimpse: Option<String>,
}

/// Every address of every endpoint in use, each once per way. An address that two names of a way share goes to the
/// name whose zone is known.
pub(super) fn spots(subject: &Subject, names: &Names) -> Vec<Spot> {
    let mut spots = Vec::new();
    for (index, way) in subject.ways.iter().enumerate() {
        let mut seen = BTreeSet::new();
        let mut endpoints = names::in_use(names, way);
        endpoints.sort_by_key(|endpoint| endpoint.zone.is_none());
        for endpoint in endpoints {
            for ip in names::addresses(names, endpoint) {
                let socket = SocketAddr::new(*ip, endpoint.port);
                if seen.insert(socket) && spots.len() < MAX_SPOTS {
                    spots.push(Spot {
                        way: index,
                        endpoint: endpoint.name.as_str().to_owned(),
                        host: endpoint.host.clone(),
                        zone: endpoint.zone.as_ref().map(Zone::as_str).map(str::to_owned),
                        socket,
                    });
                }
            }
        }
    }
    spots
}

/// Goes to all of them at once; the results in the order of the spots.
pub(super) async fn go(spots: Vec<Spot>, ways: &[Way]) -> Vec<Found> {
    let mut going = JoinSet::new();
    for (place, spot) in spots.into_iter().enumerate() {
        let settings = patient(&ways[spot.way].health);
        going.spawn(async move { (place, look(spot, settings).await) });
    }
    let mut found = Vec::new();
    while let Some(Ok(one)) = going.join_next().await {
        found.push(one);
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, found)| found).collect()
}

/// The probe of these settings, but with our patience: that it is slower than a probe may be is for us to say.
pub(super) fn patient(health: &HealthSettings) -> HealthSettings {
    HealthSettings {
        timeout: PROBE,
        ..health.clone()
    }
}

async fn look(spot: Spot, settings: HealthSettings) -> Found {
    let route = route::to(spot.socket).map_err(|error| error.to_string());
    let host = host_header(&spot.host, spot.socket.port());
    let report = probe::once(&settings, spot.socket, &host).await;
    let odd = matches!(report.outcome, ProbeOutcome::BadAnswer(_)) && report.status.is_some();
    let glimpse = match odd && settings.kind != ProbeKind::Tcp {
        true => timeout(GLIMPSE, glimpse(spot.socket, &settings.path, &host))
            .await
            .ok()
            .flatten(),
        false => None,
    };
    Found {
        spot,
        route,
        report,
        glimpse,
    }
}

/// The first bytes of an answer, as they came.
async fn glimpse(socket: SocketAddr, path: &str, host: &str) -> Option<String> {
    let mut stream = TcpStream::connect(socket).await.ok()?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: entryway\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut bytes = Vec::new();
    // A reset after some bytes leaves those bytes.
    let _ = stream.take(GLIMPSE_BYTES).read_to_end(&mut bytes).await;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

// === impl Spot ===

impl Spot {
    /// Endpoint and address, in a word.
    pub(super) fn label(&self) -> String {
        match self.endpoint == self.socket.ip().to_string() {
            true => self.socket.to_string(),
            false => format!("{} {}", self.endpoint, self.socket),
        }
    }
}

// === impl Found ===

impl Found {
    /// Whether the connect succeeded.
    pub(super) fn connected(&self) -> bool {
        self.report.connect.is_some()
    }

    /// The system it answered as.
    pub(super) fn identity(&self) -> Option<&str> {
        match &self.report.outcome {
            ProbeOutcome::Success { identity } => {
                identity.as_ref().map(|identity| identity.as_str())
            }
            _ => None,
        }
    }

    /// What followed the head of the answer.
    pub(super) fn body(&self) -> Option<&str> {
        let (_, body) = self.glimpse.as_deref()?.split_once("\r\n\r\n")?;
        Some(body)
    }

    /// A header of the answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let head = self.glimpse.as_deref()?.split("\r\n\r\n").next()?;
        head.lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then(|| value.trim()))
    }
}
