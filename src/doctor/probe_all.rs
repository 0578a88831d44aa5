//! Probes every address at once. An answer that is not Datomic's is fetched once more to show its first bytes; where
//! the probe succeeds, a large request follows, because a path that loses large packets passes small probes.
//!
//! `address_checks` says what the results mean. Everything ends within [`PROBE`] plus [`LARGE_WITHIN`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::dns_lookup::{self, LookedUpNames};
use super::input::{DoctorInput, UpstreamTarget};
use super::ip_route::{self, IpRoute};
use crate::probe::{self, ProbeReport, host_header};
use crate::types::Zone;
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::{HealthSettings, ProbeKind};

/// Bound for one probe; a lost SYN, a slow node and a long path fit in.
pub(super) const PROBE: Duration = Duration::from_secs(4);
/// Bound for the second request.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(1);
/// Bytes that are read of the second answer.
const FIRST_BYTES_LIMIT: u64 = 2048;
/// A request of several full segments is answered within this time, as the small one before it was.
const LARGE_WITHIN: Duration = Duration::from_secs(2);
/// More than two segments of an Ethernet, less than the 8 KiB of headers that servers take.
const LARGE_HEADER: usize = 4000;
/// Addresses of all targets together; more is not a diagnosis but a scan.
const MAX_ADDRESSES: usize = 64;

/// One address of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct AddressTarget {
    /// Index of its upstream.
    pub(super) target: usize,
    /// The endpoint's name.
    pub(super) endpoint: String,
    pub(super) host: String,
    pub(super) zone: Option<String>,
    pub(super) socket: SocketAddr,
}

#[derive(Debug)]
pub(super) struct ProbeResult {
    pub(super) peer: AddressTarget,
    /// The route this machine takes, or why there is none.
    pub(super) route: Result<IpRoute, String>,
    pub(super) report: ProbeReport,
    /// The first bytes of the answer, where it was not Datomic's.
    pub(super) first_bytes: Option<String>,
    /// A small request was answered, one of several full segments was not.
    pub(super) large_lost: bool,
}

/// Every address of every endpoint in use, each once per way. An address that two names of a way share goes to the
/// name whose zone is known.
pub(super) fn targets_of(subject: &DoctorInput, names: &LookedUpNames) -> Vec<AddressTarget> {
    let mut peers = Vec::new();
    for (index, target) in subject.targets.iter().enumerate() {
        let mut seen = BTreeSet::new();
        let mut endpoints = dns_lookup::in_use(names, target);
        endpoints.sort_by_key(|endpoint| endpoint.zone.is_none());
        // Others are reached through their hops.
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.hop.is_none()) {
            for ip in dns_lookup::addresses(names, endpoint) {
                let socket = SocketAddr::new(*ip, endpoint.port);
                if seen.insert(socket) && peers.len() < MAX_ADDRESSES {
                    peers.push(AddressTarget {
                        target: index,
                        endpoint: endpoint.name.as_str().to_owned(),
                        host: endpoint.host.clone(),
                        zone: endpoint.zone.as_ref().map(Zone::as_str).map(str::to_owned),
                        socket,
                    });
                }
            }
        }
    }
    peers
}

/// Goes to all of them at once; the results in the order of the peers.
pub(super) async fn probe_all(
    peers: Vec<AddressTarget>,
    targets: &[UpstreamTarget],
) -> Vec<ProbeResult> {
    let mut going = JoinSet::new();
    for (place, peer) in peers.into_iter().enumerate() {
        let settings = patient(&targets[peer.target].health);
        going.spawn(async move { (place, inspect(peer, settings).await) });
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

async fn inspect(peer: AddressTarget, settings: HealthSettings) -> ProbeResult {
    let route = ip_route::to(peer.socket).map_err(|error| error.to_string());
    let host = host_header(&peer.host, peer.socket.port());
    let report = probe::once(&settings, peer.socket, &host).await;
    let odd = matches!(report.outcome, ProbeOutcome::BadAnswer(_)) && report.status.is_some();
    let first_bytes = match odd && settings.kind != ProbeKind::Tcp {
        true => timeout(
            FIRST_BYTES_WITHIN,
            first_bytes(peer.socket, &settings.path, &host),
        )
        .await
        .ok()
        .flatten(),
        false => None,
    };
    let answered = report.outcome.is_success() && settings.kind != ProbeKind::Tcp;
    let large_lost = answered && {
        let large = large_request(peer.socket, &settings.path, &host);
        timeout(LARGE_WITHIN, large).await.is_err()
    };
    ProbeResult {
        peer,
        route,
        report,
        first_bytes,
        large_lost,
    }
}

/// Ends when anything comes back for a request of several full segments, be it an end or an error.
async fn large_request(socket: SocketAddr, path: &str, host: &str) {
    let padding = "x".repeat(LARGE_HEADER);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: entryway\r\nX-Padding: {padding}\r\nConnection: close\r\n\r\n"
    );
    if let Ok(mut stream) = TcpStream::connect(socket).await
        && stream.write_all(request.as_bytes()).await.is_ok()
    {
        let _ = stream.read(&mut [0; 1]).await;
    }
}

/// The first bytes of an answer, as they came.
async fn first_bytes(socket: SocketAddr, path: &str, host: &str) -> Option<String> {
    let mut stream = TcpStream::connect(socket).await.ok()?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: entryway\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut bytes = Vec::new();
    // A reset after some bytes leaves those bytes.
    let _ = stream.take(FIRST_BYTES_LIMIT).read_to_end(&mut bytes).await;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

// === impl AddressTarget ===

impl AddressTarget {
    /// Endpoint and address, in a word.
    pub(super) fn label(&self) -> String {
        match self.endpoint == self.socket.ip().to_string() {
            true => self.socket.to_string(),
            false => format!("{} {}", self.endpoint, self.socket),
        }
    }
}

// === impl ProbeResult ===

impl ProbeResult {
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
        let (_, body) = self.first_bytes.as_deref()?.split_once("\r\n\r\n")?;
        Some(body)
    }

    /// A header of the answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let head = self.first_bytes.as_deref()?.split("\r\n\r\n").next()?;
        head.lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then(|| value.trim()))
    }
}
