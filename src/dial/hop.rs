//! Hops: how an upstream is reached that cannot be reached directly.
//!
//! A hop is a proxy (SOCKS5, HTTP CONNECT, the same over TLS), a command per connection, or a command that is kept alive
//! and opens a local port. All of them implement [`Via`]: one host and port in, one stream out. [`Hop`] adds what they
//! have in common: a deadline, and a health of its own, so that a hop that fails is blamed itself and the addresses
//! behind it are not.
//!
//! Usually the hop resolves the name. Then the endpoint has one address, `NAME:PORT`, whose health is probed through the
//! hop like any other's.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::ConnectOutcome;
use crate::addr::HostPort;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::stream::Stream;
use crate::types::{HopId, UpstreamName};
use crate::upstream::endpoint::{Address, HopTarget};

use command::LastLines;
pub use credentials::Credentials;
use exec::Exec;
pub use health::{HopHealth, HopNews, HopState, HopStatus, ProbeThrough};
pub use hints::meaning;
use proxy::ProxyHop;
use settings::HopRoute;
pub use settings::{Dns, HopKind, HopSpec, Speaks, ViaSettings};
pub use supervise::CommandSupervisor;

mod command;
mod connect;
mod credentials;
mod exec;
mod health;
mod hints;
mod proxy;
mod settings;
mod socks5;
mod supervise;

/// How a stream to a host is opened.
pub trait Via: fmt::Debug + Send + Sync {
    /// Opens one stream to `to`, whose name the other side may resolve. `limit` is for each of the two steps: reaching
    /// the hop, and its answer about the target.
    fn open<'a>(&'a self, to: &'a HostPort, limit: Duration) -> Opening<'a>;

    /// Somebody will ask for `to` soon: what takes a while to start may begin.
    fn prepare(&self, _to: &HostPort) {}

    /// Whether it has files that may change.
    fn has_files(&self) -> bool {
        false
    }

    /// Reads its files again where they have changed since they were last read; blocks. On an error what was read before
    /// stays in use.
    fn read_files_again(&self) -> Option<Result<(), String>> {
        None
    }

    /// No other target is behind the hop any more: what is kept for others may end.
    fn keep_targets(&self, _is_kept: &dyn Fn(&HostPort) -> bool) {}
}

/// The future of [`Via::open`].
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Reached, Refusal>> + Send + 'a>>;

/// A stream through a hop.
#[derive(Debug)]
pub struct Reached {
    pub stream: Stream,
    /// Kept as long as the stream is in use: a supervised command ends after its last connection.
    pub lease: Option<Lease>,
}

/// Says that something is in use, until it is dropped.
#[derive(Clone, Debug)]
pub struct Lease(#[expect(dead_code, reason = "only its count matters")] Arc<()>);

/// Whose fault it is that there is no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The hop's own.
    Hop,
    /// The hop's rules, or the address: the hop's while no address behind it has got through.
    Rules,
    /// The address's.
    Address,
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    about: About,
    outcome: ConnectOutcome,
    text: String,
}

/// A fault of the hop itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HopFault(String);

/// One configured hop.
#[derive(Debug)]
pub struct Hop {
    spec: HopSpec,
    via: Box<dyn Via>,
    health: HopHealth,
}

/// The hops of one upstream. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hops {
    by_id: Arc<BTreeMap<HopId, Arc<Hop>>>,
}

/// What hops need from outside.
#[derive(Clone, Debug)]
pub struct HopParts {
    pub upstream: UpstreamName,
    /// Addresses we listen on, which are never dialled.
    pub own: Arc<[SocketAddr]>,
    pub events: Events,
    pub metrics: Metrics,
}

// === impl Hops ===

impl Hops {
    pub fn new(hops: impl IntoIterator<Item = Arc<Hop>>) -> Self {
        let by_id = hops.into_iter().map(|hop| (hop.spec.id, hop)).collect();
        Self {
            by_id: Arc::new(by_id),
        }
    }

    pub fn get(&self, id: HopId) -> Option<&Arc<Hop>> {
        self.by_id.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Hop>> {
        self.by_id.values()
    }

    pub(super) async fn open(&self, target: &HopTarget) -> Result<Reached, ConnectOutcome> {
        match self.get(target.hop) {
            Some(hop) => hop.open(&target.to).await,
            // A reload has taken it away; addresses behind it follow.
            None => Err(ConnectOutcome::Hop(
                "this hop is no longer configured".to_owned(),
            )),
        }
    }

    /// As [`Hops::open`], for a client: given up while the hop is silent. A dead tunnel would keep it until the limit.
    /// (Probes are not given up: their answers say whether it is back.)
    pub(super) async fn open_unless_silent(
        &self,
        target: &HopTarget,
    ) -> Result<Reached, ConnectOutcome> {
        let Some(hop) = self.get(target.hop) else {
            return self.open(target).await;
        };
        tokio::select! {
            biased;
            () = hop.health.is_silent() => Err(ConnectOutcome::Hop(
                "not waited for: no address behind the hop answers".to_owned(),
            )),
            opened = hop.open(&target.to) => opened,
        }
    }

    /// When an attempt has surely ended by itself: two steps, each with the hop's own limit.
    pub(super) fn limit(&self, target: &HopTarget) -> Duration {
        let hop = self.get(target.hop);
        hop.map_or(Duration::ZERO, |hop| 2 * hop.spec.connect_timeout) + Duration::from_secs(1)
    }

    pub(super) fn probed(&self, address: &Address, probe: ProbeThrough) -> bool {
        let target = address.target.as_ref();
        let hop = target.and_then(|target| self.get(target.hop));
        hop.is_none_or(|hop| hop.health.probed(address.socket, probe))
    }

    pub(super) fn doubt(&self, target: &HopTarget) {
        if let Some(hop) = self.get(target.hop) {
            hop.health.doubt();
        }
    }
}

// === impl Reached ===

impl Reached {
    pub(super) fn directly(stream: TcpStream) -> Self {
        Self {
            stream: Stream::from(stream),
            lease: None,
        }
    }
}

// === impl Lease ===

impl Lease {
    fn of(count: &Arc<()>) -> Self {
        Self(Arc::clone(count))
    }
}

// === impl HopFault ===

impl HopFault {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What TLS has against the hop, or the hop against our certificate. In TLS 1.3 a client learns of the latter with
    /// the first read, when the handshake has long succeeded.
    #[cfg(feature = "tls")]
    fn of_tls(error: &io::Error) -> Option<Self> {
        use rustls::{AlertDescription as Alert, Error};
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        let refused = match error {
            Error::AlertReceived(Alert::CertificateRequired) => {
                "it wants one, and no `cert` and `key` are given"
            }
            Error::AlertReceived(Alert::CertificateExpired) => {
                "it is not valid now: expired, or not valid yet"
            }
            Error::AlertReceived(Alert::CertificateRevoked) => "it has been revoked",
            Error::AlertReceived(Alert::UnknownCA) => "its authority is not known there",
            Error::AlertReceived(
                Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateUnknown
                | Alert::AccessDenied,
            ) => "the proxy's log says why",
            other => return Some(Self(format!("TLS: {other}"))),
        };
        let text = format!("TLS: the proxy refuses our certificate: {refused} ({error})");
        Some(Self(text))
    }

    fn not_the_protocol(what: &str, seen: &[u8]) -> Self {
        let seen: String = seen
            .iter()
            .take(40)
            .flat_map(|byte| std::ascii::escape_default(*byte))
            .map(char::from)
            .collect();
        Self(format!("the hop does not answer like {what}: \"{seen}\""))
    }
}

impl From<io::Error> for HopFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::new("the hop closed the connection"),
            _ => Self(error.to_string()),
        }
    }
}

// === impl Refusal ===

impl Refusal {
    fn new(about: About, outcome: ConnectOutcome, text: impl Into<String>) -> Self {
        Self {
            about,
            outcome,
            text: text.into(),
        }
    }

    fn rules(text: impl Into<String>) -> Self {
        let text = text.into();
        let outcome = ConnectOutcome::Unreachable(text.clone().into());
        Self::new(About::Rules, outcome, text)
    }

    fn unreachable(text: impl Into<String>) -> Self {
        let text = text.into();
        let outcome = ConnectOutcome::Unreachable(text.clone().into());
        Self::new(About::Address, outcome, text)
    }

    fn refused(text: impl Into<String>) -> Self {
        Self::new(About::Address, ConnectOutcome::Refused, text)
    }

    fn timed_out(text: impl Into<String>) -> Self {
        Self::new(About::Address, ConnectOutcome::Timeout, text)
    }

    /// The hop works, and says nothing about the target; where its TLS was ended with an alert, it does not work.
    fn no_answer(error: &io::Error) -> Self {
        #[cfg(feature = "tls")]
        if let Some(fault) = HopFault::of_tls(error) {
            return fault.into();
        }
        let text = format!("the hop gives no answer about the target: {error}");
        Self::new(About::Address, ConnectOutcome::Reset, text)
    }

    #[cfg(test)]
    fn about(&self) -> About {
        self.about
    }
}

impl From<HopFault> for Refusal {
    fn from(fault: HopFault) -> Self {
        Self::new(About::Hop, ConnectOutcome::Hop(fault.0.clone()), fault.0)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl Hop ===

impl Hop {
    /// The hop of a `via`, and what has to run for it. Reads the files that it names; an error says which and why.
    pub fn build(
        spec: HopSpec,
        parts: &HopParts,
    ) -> Result<(Arc<Self>, Option<CommandSupervisor>), String> {
        let output = LastLines::default();
        let health = HopHealth::new(
            parts.upstream.clone(),
            spec.to_string(),
            matches!(spec.route, HopRoute::Supervised(_)),
            output.clone(),
            parts.events.clone(),
            parts.metrics.clone(),
        );
        let (via, supervisor): (Box<dyn Via>, _) = match &spec.route {
            HopRoute::Proxy(route) => (
                Box::new(ProxyHop::new(spec.kind, route, Arc::clone(&parts.own))?),
                None,
            ),
            HopRoute::Exec(words) => {
                let words = words.clone();
                (Box::new(Exec { words, output }), None)
            }
            HopRoute::Supervised(plan) => {
                let (via, supervisor) = supervise::supervise(plan.clone(), health.clone(), output);
                (Box::new(via), Some(supervisor))
            }
        };
        let hop = Arc::new(Self { spec, via, health });
        Ok((hop, supervisor))
    }

    pub fn spec(&self) -> &HopSpec {
        &self.spec
    }

    pub fn health(&self) -> &HopHealth {
        &self.health
    }

    /// Whether it has files that may change: certificates, a key, a password.
    pub fn has_files(&self) -> bool {
        self.via.has_files()
    }

    /// Reads its files again where they have changed; blocks.
    pub fn read_files_again(&self) {
        if let Some(outcome) = self.via.read_files_again() {
            self.health.files_read(outcome);
        }
    }

    /// These addresses are behind the hop now, each with what the hop is asked for.
    pub fn keep(&self, behind: &[(SocketAddr, HostPort)]) {
        self.health
            .keep_addresses(|address| behind.iter().any(|(kept, _)| kept == address));
        self.via
            .keep_targets(&|target| behind.iter().any(|(_, kept)| kept == target));
    }

    /// Somebody will ask for `to` soon.
    pub fn prepare(&self, to: &HostPort) {
        self.via.prepare(to);
    }

    /// One attempt to reach `to` through this hop.
    pub async fn open(&self, to: &HostPort) -> Result<Reached, ConnectOutcome> {
        let started = tokio::time::Instant::now();
        let opened = self.via.open(to, self.spec.connect_timeout).await;
        match opened {
            Ok(reached) => {
                self.health.got_through(started.elapsed());
                Ok(reached)
            }
            Err(refusal) => Err(self.judge(refusal)),
        }
    }

    /// What a refusal says about the hop and, returned, about the address.
    fn judge(&self, refusal: Refusal) -> ConnectOutcome {
        let is_fault = match refusal.about {
            About::Hop => true,
            About::Rules => !self.health.has_got_through(),
            About::Address => false,
        };
        if is_fault {
            self.health.failed(&refusal.text);
            return ConnectOutcome::Hop(refusal.text);
        }
        self.health.answered();
        refusal.outcome
    }
}
