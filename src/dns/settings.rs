//! What is set about names: `dns.*`, and which names to follow.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsSettings {
    /// Servers to ask, in order; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// No answer is asked for again sooner.
    #[serde(with = "crate::duration")]
    pub min_ttl: Duration,
    /// No answer is trusted for longer.
    #[serde(with = "crate::duration")]
    pub max_ttl: Duration,
    /// The longest wait for one lookup.
    #[serde(with = "crate::duration")]
    pub timeout: Duration,
    /// Who is asked.
    pub resolver: ResolverKind,
    /// Whether loopback, link-local, multicast and unspecified addresses are taken from DNS.
    pub allow_local_answers: bool,
}

/// `dns.resolver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResolverKind {
    /// DNS servers, asked directly.
    #[default]
    Stub,
    /// The system's resolver, `getaddrinfo`.
    System,
}

/// A name to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSpec {
    /// A DNS name, a name of the hosts file, or a literal IP.
    pub host: String,
    /// A derived name that may not exist: asked rarely until it has answered once.
    pub candidate: bool,
}

// === impl DnsSettings ===

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(60),
            timeout: Duration::from_secs(2),
            resolver: ResolverKind::default(),
            allow_local_answers: false,
        }
    }
}

impl DnsSettings {
    /// How long an answer of the system's resolver holds, which says nothing about it: 10 s by default.
    pub(crate) fn system_ttl(&self) -> Duration {
        self.max_ttl / 6
    }

    /// What is wrong, as (key below `dns`, message).
    pub fn validate(&self) -> Vec<(String, String)> {
        let secs = Duration::from_secs;
        let rules = [
            (
                self.min_ttl >= secs(1),
                "min_ttl",
                "must be at least 1s: no name is looked up more than once a second",
            ),
            (
                self.min_ttl <= self.max_ttl,
                "max_ttl",
                "must not be shorter than dns.min_ttl",
            ),
            (
                self.max_ttl <= secs(24 * 3600),
                "max_ttl",
                "must be at most 24h",
            ),
            (
                self.timeout >= Duration::from_millis(50) && self.timeout <= secs(60),
                "timeout",
                "must be between 50ms and 1m",
            ),
        ];
        let broken = rules.into_iter().filter(|(kept, ..)| !kept);
        broken
            .map(|(_, key, message)| (key.to_owned(), message.to_owned()))
            .collect()
    }
}
