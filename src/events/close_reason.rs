//! Why a connection ended: the closed list behind `conn.reason` and the metric label `reason`.

use std::time::Duration;

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    Client,
    /// The endpoint.
    Upstream,
    /// We did.
    Entryway,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal by $by:ident,)*) => {
        /// Why a connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Reason] = &[$(Reason::$name),*];

            /// What happened, in a sentence.
            pub const fn about(self) -> &'static str {
                match self {
                    $(Reason::$name => concat!($($doc),*),)*
                }
            }

            /// The code in logs and metric labels.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Reason::$name => $code,)*
                }
            }

            /// Who ended it.
            pub const fn closed_by(self) -> ClosedBy {
                match self {
                    $(Reason::$name => ClosedBy::$by,)*
                }
            }
        }
    };
}

reasons! {
    /// Both directions ended in order, the client first.
    ClientFin = "client_fin" by Client,
    /// Both directions ended in order, the endpoint first.
    UpstreamFin = "upstream_fin" by Upstream,
    /// The client reset.
    ClientRst = "client_rst" by Client,
    /// The endpoint reset.
    UpstreamRst = "upstream_rst" by Upstream,
    /// The client left before anything could be dialled.
    ClientGone = "client_gone" by Client,
    /// Nothing to dial; the last attempt was refused.
    ConnectRefused = "connect_refused" by Upstream,
    /// Nothing to dial; the last attempt timed out.
    ConnectTimeout = "connect_timeout" by Upstream,
    /// Nothing to dial; the last attempt found no route.
    Unreachable = "unreachable" by Upstream,
    /// Nothing to dial: no address is known or allowed.
    NoEndpoint = "no_endpoint" by Entryway,
    /// Held for `hold_timeout` without an endpoint coming back.
    HoldTimeout = "hold_timeout" by Entryway,
    /// Above the connection limit.
    MaxConnections = "max_connections" by Entryway,
    /// Fully open and silent for `idle_timeout`.
    IdleTimeout = "idle_timeout" by Entryway,
    /// Half open and silent for `half_open_timeout`.
    HalfOpenTimeout = "half_open_timeout" by Entryway,
    /// Sent bytes were not acknowledged, or not read, for `user_timeout`.
    UserTimeout = "user_timeout" by Upstream,
    /// Keepalive probes were not answered.
    KeepaliveDead = "keepalive_dead" by Upstream,
    /// Older than `max_age`, closed at rest.
    MaxAge = "max_age" by Entryway,
    /// Closed at rest for a shutdown or an endpoint's drain.
    DrainIdle = "drain_idle" by Entryway,
    /// Still busy at the end of a shutdown; reset.
    DrainDeadline = "drain_deadline" by Entryway,
    /// Closed at rest because a nearer zone is back.
    Rebalance = "rebalance" by Entryway,
    /// Its address is down because it did not answer.
    EndpointSilent = "endpoint_silent" by Entryway,
    /// Its address is down, but not silent (errors, wrong answers, refused); closed at rest.
    EndpointUnhealthy = "endpoint_unhealthy" by Entryway,
    /// Its address answers as another system; closed at rest.
    IdentityMismatch = "identity_mismatch" by Entryway,
    /// Ended by the second signal.
    Killed = "killed" by Entryway,
    /// New authorities or revocations refuse the certificate of the gateway's client.
    Revoked = "revoked" by Entryway,
    /// A front was asked for a name or a command that is not served, or not in its protocol.
    FrontRejected = "front_rejected" by Entryway,
    /// A front got no complete request in time.
    FrontTimeout = "front_timeout" by Entryway,
    /// We ran out of something (file descriptors, ports, memory).
    Resource = "resource" by Entryway,
    /// A bug of ours.
    Internal = "internal" by Entryway,
}

/// What it means when an address answers probes, and segments of full size do not get through on a connection to it.
pub const MTU_HINT: &str = "small packets pass and full-size ones do not: a path MTU black hole; \
    try `ping -M do -s 1472 ADDRESS`, then lower the MTU or let ICMP \"fragmentation needed\" through";

// === impl ClosedBy ===

impl ClosedBy {
    /// As it stands in a log line.
    pub const fn as_str(self) -> &'static str {
        match self {
            ClosedBy::Client => "client",
            ClosedBy::Upstream => "upstream",
            ClosedBy::Entryway => "entryway",
        }
    }
}

// === impl Reason ===

impl Reason {
    /// Both sides were served, or the connection was closed at rest as planned: what `log.connections = "errors"`
    /// leaves out. A client's reset is how many load generators close; an endpoint's reset is not expected.
    pub fn is_expected(self) -> bool {
        use Reason::{ClientFin, ClientRst, DrainIdle, MaxAge, Rebalance, UpstreamFin};
        matches!(
            self,
            ClientFin | UpstreamFin | ClientRst | MaxAge | DrainIdle | Rebalance
        )
    }

    /// What this end usually means, where it means something. `idle` is how long nothing had moved.
    ///
    /// Sources: ALB idle timeout 60 s by default; NLB, NAT gateway and VPC endpoint drop idle flows after 350 s
    /// (AWS load balancer and PrivateLink guides).
    pub fn hint(self, idle: Duration) -> Option<&'static str> {
        let near = |seconds: u64| idle.as_millis().abs_diff(u128::from(seconds) * 1000) <= 2500;
        match self {
            Reason::UpstreamFin if near(60) => Some(
                "idle for 60 s, then closed: this is the ALB's idle timeout; harmless for pooled connections",
            ),
            Reason::UpstreamRst if idle >= Duration::from_secs(345) => Some(
                "idle for 350 s or more: NLB, NAT and VPC endpoints forget idle flows then; keep keepalive below it",
            ),
            Reason::ConnectTimeout => Some(
                "no answer at all: security group, endpoint not accepted, wrong port or a zone without targets; see `entryway doctor`",
            ),
            Reason::ConnectRefused => {
                Some("the host answers but nothing listens on the port; see `entryway doctor`")
            }
            Reason::Unreachable => {
                Some("no route: VPN down or a missing route; see `entryway doctor`")
            }
            Reason::NoEndpoint => {
                Some("no address known or allowed; see `entryway status` and `entryway doctor`")
            }
            Reason::HoldTimeout => {
                Some("no endpoint came back within hold_timeout; see `entryway status`")
            }
            Reason::MaxConnections => {
                Some("more connections than --max-connections; see RLIMIT_NOFILE")
            }
            Reason::UserTimeout => {
                Some("the network or the endpoint went silent while data was under way")
            }
            Reason::Revoked => {
                Some("the gateway's authorities or revocations no longer accept this certificate")
            }
            Reason::KeepaliveDead => Some("the other end vanished without closing"),
            Reason::EndpointSilent => {
                Some("the address stopped answering probes while this connection waited")
            }
            Reason::EndpointUnhealthy => Some(
                "the address answers with errors; other addresses are healthy; see `entryway status`",
            ),
            Reason::IdentityMismatch => {
                Some("the address answers as another Datomic system; see `entryway status`")
            }
            Reason::Internal => Some("a bug of entryway; please report it with this line"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_know_the_idle_limits_of_aws() {
        assert!(
            Reason::UpstreamFin
                .hint(Duration::from_millis(60_100))
                .is_some_and(|hint| hint.contains("ALB"))
        );
        assert!(Reason::UpstreamFin.hint(Duration::from_secs(10)).is_none());
        assert!(Reason::UpstreamRst.hint(Duration::from_secs(351)).is_some());
    }

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert_eq!(codes.len(), 28);
    }
}
