//! What enters an upstream: DNS answers, probe results, failed dials, suspicions, operator actions.
//!
//! Plain data; what an input changes is decided in `state`. A timeout whose interval (from `sent` or `started` to its
//! arrival) overlaps a stall of this process is void.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::Moment;
use crate::types::{EndpointName, HopId, Zone};
use crate::upstream::endpoint::EndpointSpec;
use crate::upstream::identity::SystemId;
use crate::upstream::settings::UpstreamPolicy;

/// One thing that was seen, or ordered.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A lookup of a name ended.
    Answer(DnsAnswer),
    /// A probe of an address ended.
    Probed {
        socket: SocketAddr,
        /// When it was sent (its connect began).
        sent: Moment,
        /// What came of it.
        outcome: ProbeOutcome,
        /// How long it took.
        took: Duration,
    },
    /// A dial of traffic failed.
    Dialled {
        endpoint: EndpointName,
        socket: SocketAddr,
        /// How it failed.
        failure: DialFailure,
        /// When the attempt began.
        started: Moment,
    },
    /// Something in traffic makes the address suspect.
    Suspect {
        endpoint: EndpointName,
        socket: SocketAddr,
        /// What it was.
        why: Suspicion,
        /// When the wait began that has been too long (the dial, the first byte of the request).
        started: Moment,
    },
    /// The operator drains an endpoint or makes it ready again.
    Intent {
        endpoint: EndpointName,
        /// What is wanted.
        intent: Intent,
    },
    /// Our own zone, by the name that endpoints use for theirs (or by id, where they use ids).
    OwnZone(Option<Zone>),
    /// Our own zone's id, where both are known; an endpoint is near when either matches.
    OwnZoneId(Option<Zone>),
    /// We slept or were stopped: everything is probed at once, and nothing counts against an address.
    Resumed,
    /// We were late ourselves from `from` to `to`: timeouts that fell into it are void.
    Stalled {
        /// The last moment at which we were on time.
        from: Moment,
        /// When we were back.
        to: Moment,
    },
    /// Probe now: one endpoint, or all.
    ReprobeNow {
        /// Which; all when absent.
        endpoint: Option<EndpointName>,
    },
    /// A candidate behind a hop has answered a probe.
    HopAnswered { endpoint: EndpointName },
    /// A hop went down, or is up again.
    HopHealth { hop: HopId, is_up: bool },
    /// Something takes too long behind this hop: whoever is behind it is asked at once.
    HopDoubted { hop: HopId },
    /// Our own listening sockets: addresses that are never used.
    OwnListeners(Vec<SocketAddr>),
    /// A reload: the wanted endpoints and settings. Pins the identity anew.
    Reconfigure {
        /// All endpoints of the upstream.
        endpoints: Vec<EndpointSpec>,
        /// All settings of the upstream.
        settings: UpstreamPolicy,
    },
}

/// What a lookup (A + AAAA) of one name gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The host as asked: lower case, no final dot.
    pub name: String,
    /// When it arrived.
    pub at: Moment,
    /// The addresses, or why there are none.
    pub result: Result<Addresses, LookupError>,
}

/// A good answer: at least one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The addresses that may be used.
    pub ips: Vec<IpAddr>,
    /// How long they hold, clamped.
    pub ttl: Duration,
    /// Where they come from.
    pub source: AnswerSource,
    /// What the rule on local answers dropped.
    pub refused: Vec<IpAddr>,
}

/// Where addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerSource {
    Dns,
    /// The hosts file, or `localhost`.
    Hosts,
    /// The host is an IP itself.
    Literal,
}

/// Why a lookup gave no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The name exists, without addresses.
    NoData,
    /// There is no such name.
    NxDomain,
    ServFail,
    Refused,
    /// Nobody answered in time.
    Timeout,
    /// The answer could not be read.
    Garbage(String),
    /// Only addresses that the rule on local answers drops.
    OnlyRefused(Vec<IpAddr>),
    /// There is no server to ask.
    NoResolver(String),
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It answered as it should; a Datomic probe also says as which system.
    Success {
        /// The system, where the probe's kind reads it.
        identity: Option<SystemId>,
    },
    /// The connection was refused.
    Refused,
    /// With the reason, for people.
    Unreachable(Cow<'static, str>),
    /// Nothing within the deadline.
    Timeout,
    /// The connection was reset, or ended before an answer.
    Reset,
    /// It answered, but not as it should.
    BadAnswer(BadAnswer),
    /// We could not probe; does not count against the address.
    Local(String),
    /// Our own stall; does not count against the address.
    Void,
}

/// An answer that is not the wanted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAnswer {
    /// A short code for logs and metrics, for example `http_503`, `not_http`, `not_datomic`, `tls`.
    pub code: String,
    /// What was seen, for people.
    pub detail: String,
}

/// How a dial of traffic failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialFailure {
    Refused,
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Reset while connecting.
    Reset,
    /// Our own fault (out of ports, buffers, file descriptors); does not count against the address.
    Local,
}

/// What in traffic makes an address suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suspicion {
    /// A later candidate won the race.
    LostHedge,
    /// It accepted and ended within 1 s, with no byte moved.
    Untouched,
    /// It ended a connection on which a request waited for its answer.
    Unanswered,
    /// A request waits too long for its first answer byte.
    SlowAnswer,
    /// Several requests do, and not a byte has come from it on any connection meanwhile.
    Mute,
}

/// How often a suspicion may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspicionKind {
    Immediate,
    /// Once in 10 s, unless a probe has failed since.
    SlowAnswer,
    /// Every time, but after a suspicion of this kind that a probe has cleared only like `SlowAnswer` for a while:
    /// 10 s at first, doubling to 5 min. Queries that are slow for good would else make the address suspect in a loop.
    Mute,
}

/// What the operator wants of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Intent {
    /// Use it.
    #[default]
    Ready,
    /// Use it last, and close its connections at rest.
    Drain,
}

// === impl LookupError ===

impl LookupError {
    /// The code in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            LookupError::NoData => "nodata",
            LookupError::NxDomain => "nxdomain",
            LookupError::ServFail => "servfail",
            LookupError::Refused => "refused",
            LookupError::Timeout => "timeout",
            LookupError::Garbage(_) => "garbage",
            LookupError::OnlyRefused(_) => "only_refused",
            LookupError::NoResolver(_) => "no_resolver",
        }
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookupError::NoData => f.write_str("the name has no addresses (NODATA)"),
            LookupError::NxDomain => f.write_str("no such name (NXDOMAIN)"),
            LookupError::ServFail => f.write_str("the server failed (SERVFAIL)"),
            LookupError::Refused => f.write_str("the server refused (REFUSED)"),
            LookupError::Timeout => f.write_str("no answer in time"),
            LookupError::Garbage(what) => write!(f, "unreadable answer: {what}"),
            LookupError::OnlyRefused(ips) => {
                f.write_str("only local addresses, refused (--allow-local-answers takes them):")?;
                ips.iter().try_for_each(|ip| write!(f, " {ip}"))
            }
            LookupError::NoResolver(why) => write!(f, "no server to ask: {why}"),
        }
    }
}

// === impl ProbeOutcome ===

impl ProbeOutcome {
    /// The code in `probes_total{result}` and in the log: one of a closed list, but for the HTTP status.
    pub fn code(&self) -> &str {
        match self {
            ProbeOutcome::Success { .. } => "ok",
            ProbeOutcome::Refused => "refused",
            ProbeOutcome::Unreachable(_) => "unreachable",
            ProbeOutcome::Timeout => "timeout",
            ProbeOutcome::Reset => "reset",
            ProbeOutcome::BadAnswer(bad) => &bad.code,
            ProbeOutcome::Local(_) => "local",
            ProbeOutcome::Void => "void",
        }
    }

    /// What was seen beyond the code, where there is something.
    pub fn detail(&self) -> Option<&str> {
        match self {
            ProbeOutcome::BadAnswer(bad) if !bad.detail.is_empty() => Some(&bad.detail),
            ProbeOutcome::Local(why) => Some(why),
            ProbeOutcome::Unreachable(why) if !why.is_empty() => Some(why),
            _ => None,
        }
    }

    /// Whether it speaks for the address.
    pub fn is_success(&self) -> bool {
        matches!(self, ProbeOutcome::Success { .. })
    }

    /// Whether it says nothing about the address.
    pub fn is_void(&self) -> bool {
        matches!(self, ProbeOutcome::Local(_) | ProbeOutcome::Void)
    }
}

// === impl DialFailure, Suspicion, Intent ===

impl DialFailure {
    /// The code in `connect_attempts_total{result}`, and the reason of a suspicion.
    pub const fn as_str(self) -> &'static str {
        match self {
            DialFailure::Refused => "refused",
            DialFailure::Unreachable => "unreachable",
            DialFailure::Timeout => "timeout",
            DialFailure::Reset => "reset",
            DialFailure::Local => "local",
        }
    }
}

impl Suspicion {
    /// The reason of a suspicion.
    pub const fn as_str(self) -> &'static str {
        match self {
            Suspicion::LostHedge => "lost_hedge",
            Suspicion::Untouched => "untouched",
            Suspicion::Unanswered => "unanswered",
            Suspicion::SlowAnswer => "slow_answer",
            Suspicion::Mute => "mute",
        }
    }

    /// How often it may be repeated.
    pub const fn kind(self) -> SuspicionKind {
        match self {
            Suspicion::SlowAnswer => SuspicionKind::SlowAnswer,
            Suspicion::Mute => SuspicionKind::Mute,
            Suspicion::LostHedge | Suspicion::Untouched | Suspicion::Unanswered => {
                SuspicionKind::Immediate
            }
        }
    }
}

impl Intent {
    /// As it stands in `/v1/endpoints`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Intent::Ready => "ready",
            Intent::Drain => "drain",
        }
    }
}
