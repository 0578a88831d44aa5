//! What a state machine reports to its actor: changes worth a log line or a metric.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::addr::HostPort;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::health::Transition;
use crate::upstream::identity::{PinChange, SystemId};

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An address changed its state. Reported for each endpoint that has it.
    Transition {
        endpoint: Arc<Endpoint>,
        /// As people know it: behind a hop, the target.
        address: HostPort,
        /// From what to what, and why.
        transition: Transition,
        /// What the probe saw beyond the reason.
        detail: Option<String>,
    },
    /// A probe ended. Reported for each endpoint that has the address.
    Probed {
        endpoint: Arc<Endpoint>,
        /// As people know it: behind a hop, the target.
        address: HostPort,
        /// Its result code, and what was seen beyond it.
        result: String,
        /// What was seen beyond the code.
        detail: Option<String>,
        /// How long it took.
        took: Duration,
    },
    /// The pin was made, lost, or an address does not fit it.
    Pin(PinChange),
    /// An address answers as another system than its endpoint's upstream, reported with its endpoint.
    Mismatch {
        endpoint: Arc<Endpoint>,
        /// As people know it: behind a hop, the target.
        address: HostPort,
        /// What it answers as.
        got: SystemId,
        /// What the upstream is pinned to.
        pinned: SystemId,
    },
    /// The active zone moved to a farther one.
    Failover {
        /// From which zone (or endpoint).
        from: String,
        to: String,
    },
    /// The active zone moved to a nearer one.
    Failback {
        /// From which zone (or endpoint).
        from: String,
        to: String,
    },
    /// The set of an endpoint's addresses changed.
    Dns {
        name: String,
        endpoint: Arc<Endpoint>,
        added: Vec<IpAddr>,
        /// No longer answered; behind the others.
        departed: Vec<IpAddr>,
        /// No longer in the set.
        removed: Vec<IpAddr>,
    },
    /// A lookup went wrong (reported at most once a minute for the same error).
    DnsError {
        name: String,
        /// What went wrong.
        error: String,
        /// Addresses that are kept meanwhile.
        kept: usize,
    },
    /// A name has more addresses than are kept.
    AddressesLeftOut {
        name: String,
        kept: usize,
        left_out: usize,
    },
    /// Nothing of this upstream can be reached: why, what connections do meanwhile, and for how long it has lasted.
    Unreachable {
        why: String,
        meanwhile: String,
        lasting: Duration,
    },
    /// The upstream is not used because of an identity conflict; for each of its endpoints.
    Conflict { endpoint: Arc<Endpoint> },
    /// An endpoint is no longer one.
    EndpointGone(Arc<Endpoint>),
    /// We were late ourselves.
    Stall(Duration),
}
