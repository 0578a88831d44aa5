//! Names that need no lookup (literal addresses, `localhost`, the hosts file), and the addresses that DNS may not name.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::upstream::input::AnswerSource;

/// The hosts file, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosts(HashMap<String, Vec<IpAddr>>);

// === impl Hosts ===

impl Hosts {
    /// Reads the text of a hosts file; lines that are none are skipped, as every resolver does.
    pub(crate) fn parse(text: &str) -> Self {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else {
                continue;
            };
            let ip = ip.to_canonical();
            for name in words {
                let ips = names.entry(normalize(name)).or_default();
                if !ips.contains(&ip) {
                    ips.push(ip);
                }
            }
        }
        Self(names)
    }

    /// What a host is without DNS, if it is anything. The host is as [`plain`] makes it.
    pub(crate) fn find(&self, host: &str) -> Option<(AnswerSource, Vec<IpAddr>)> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Some((AnswerSource::Literal, vec![ip.to_canonical()]));
        }
        if let Some(ips) = self.0.get(host) {
            return Some((AnswerSource::Hosts, ips.clone()));
        }
        // RFC 6761: never asked of a server.
        (host == "localhost" || host.ends_with(".localhost")).then(|| {
            let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            (AnswerSource::Hosts, both.to_vec())
        })
    }
}

/// A host as it stands in an `DnsAnswer`: lower case, no final dot, no brackets.
pub(crate) fn normalize(host: &str) -> String {
    let host = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Whether an address (canonical: no v4-mapped) is one that only this machine or link can mean. A DNS answer that
/// names one would make us forward clients' requests to ourselves or to a neighbour.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.octets()[0] == 0
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_hosts_file_is_read_as_other_resolvers_read_it() {
        let hosts = Hosts::parse(
            "\u{feff}# comment\n10.0.0.1 One one.test. # tail\nnonsense\n\nfd00::1\tone\n10.0.0.1 one\n::ffff:10.0.0.1 one\n10.0.0.2\n",
        );
        let both = ips(&["10.0.0.1", "fd00::1"]);
        assert_eq!(hosts.find("one"), Some((AnswerSource::Hosts, both)));
        let first = ips(&["10.0.0.1"]);
        assert_eq!(hosts.find("one.test"), Some((AnswerSource::Hosts, first)));
        assert_eq!(hosts.find("two"), None);
    }

    #[test]
    fn literals_and_localhost_need_no_server() {
        let hosts = Hosts::default();
        for (host, source, expected) in [
            ("10.1.2.3", AnswerSource::Literal, &["10.1.2.3"][..]),
            ("[fd00::5]", AnswerSource::Literal, &["fd00::5"]),
            ("::ffff:10.1.2.3", AnswerSource::Literal, &["10.1.2.3"]),
            ("LOCALHOST.", AnswerSource::Hosts, &["127.0.0.1", "::1"]),
            ("a.localhost", AnswerSource::Hosts, &["127.0.0.1", "::1"]),
        ] {
            let found = hosts.find(&normalize(host));
            assert_eq!(found, Some((source, ips(expected))), "{host}");
        }
        let own = Hosts::parse("127.0.0.5 localhost");
        assert_eq!(
            own.find("localhost"),
            Some((AnswerSource::Hosts, ips(&["127.0.0.5"])))
        );
    }

    #[test]
    fn local_addresses_are_known() {
        for local in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
        ] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for far in [
            "10.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::1",
            "2600::1",
        ] {
            assert!(!is_local(far.parse().unwrap()), "{far}");
        }
    }
}
