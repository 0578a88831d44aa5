//! From the authority of a CONNECT request to an upstream: the only decision about where a client goes.
//!
//! An authority is compared with names, as text. It is never parsed as an address, resolved or dialled: whatever is not
//! the name of an upstream or of one of its endpoints leads nowhere.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::settings::Allow;
use crate::tls::identity::Identity;

/// The names that lead to each upstream, in the order of the settings.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    upstreams: Vec<String>,
    /// Lower-case name of an endpoint, and the upstreams that have one.
    endpoints: BTreeMap<String, Vec<usize>>,
    allow: Vec<Allow>,
}

/// Whether a client may reach what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Index of the upstream.
    Upstream(usize),
    NotAllowed,
    NoSuchUpstream,
    Malformed,
}

// === impl Routes ===

impl Routes {
    /// `upstreams`: each with the names of its endpoints (label and host as typed).
    pub fn new(upstreams: Vec<(String, Vec<String>)>, allow: Vec<Allow>) -> Self {
        let mut routes = Self {
            allow,
            ..Self::default()
        };
        for (index, (name, endpoints)) in upstreams.into_iter().enumerate() {
            routes.upstreams.push(name);
            for endpoint in endpoints {
                let endpoint = endpoint.trim_end_matches('.').to_ascii_lowercase();
                // A literal address would invite clients to name others.
                if endpoint.is_empty()
                    || endpoint.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
                {
                    continue;
                }
                let known = routes.endpoints.entry(endpoint).or_default();
                if !known.contains(&index) {
                    known.push(index);
                }
            }
        }
        routes
    }

    /// Names of endpoints that several upstreams have: which one is meant depends on what the client may reach.
    pub fn ambiguous(&self) -> Vec<(&str, Vec<&str>)> {
        let several = self
            .endpoints
            .iter()
            .filter(|(_, upstreams)| upstreams.len() > 1);
        several
            .map(|(name, indices)| {
                let upstreams = indices.iter().map(|index| self.upstreams[*index].as_str());
                (name.as_str(), upstreams.collect())
            })
            .collect()
    }

    /// Upstream names first, then names of endpoints; of several upstreams the first that the identity may reach. Any
    /// port.
    pub fn find(&self, authority: &str, identity: &Identity) -> Access {
        let Some(host) = host_of(authority) else {
            return Access::Malformed;
        };
        let candidates: Vec<usize> = match self.upstreams.iter().position(|name| name == host) {
            Some(index) => vec![index],
            None => {
                let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
                self.endpoints.get(&host).cloned().unwrap_or_default()
            }
        };
        let allowed = candidates
            .iter()
            .find(|index| self.allows(identity, **index));
        match (allowed, candidates.is_empty(), self.allow.is_empty()) {
            (Some(index), ..) => Access::Upstream(*index),
            (None, true, true) => Access::NoSuchUpstream,
            // With an allow list, a client does not learn which upstreams exist.
            (None, ..) => Access::NotAllowed,
        }
    }

    fn allows(&self, identity: &Identity, upstream: usize) -> bool {
        let name = &self.upstreams[upstream];
        self.allow.is_empty()
            || self
                .allow
                .iter()
                .any(|allow| identity.matches(&allow.identity) && allow.upstreams.contains(name))
    }
}

/// The host of `HOST:PORT` in authority form (RFC 9112 section 3.2.3): characters of a name, and a decimal port.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = authority.rsplit_once(':')?;
    let is_port = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    let in_name = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let is_name = (1..=253).contains(&host.len()) && host.bytes().all(in_name);
    (is_name && is_port && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(host)
}

#[cfg(test)]
mod tests;
