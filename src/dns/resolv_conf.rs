//! Reads `resolv.conf` as tolerantly as the C library does: a line that cannot be used is skipped and does not take the
//! others with it. Only `nameserver`, `domain` and `search` matter here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

/// Where a DNS server listens.
const PORT: u16 = 53;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// In order, each once; this machine where none is named, as resolv.conf(5) has it.
    pub(crate) servers: Vec<SocketAddr>,
    /// Search domains, without final dots.
    pub(crate) search: Vec<String>,
    /// What was skipped, each with its line's number.
    pub(crate) skipped: Vec<String>,
}

// === impl ResolvConf ===

impl ResolvConf {
    /// Reads the text. `scope_id` gives the index of a network interface by its name.
    pub(crate) fn parse(text: &[u8], scope_id: impl Fn(&str) -> Option<u32>) -> Self {
        let mut conf = Self::default();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = String::from_utf8_lossy(line);
            let mut words = line.split_whitespace();
            let mut skip = |what: &str| {
                let shown: String = what.escape_debug().take(80).collect();
                conf.skipped.push(format!("line {}: `{shown}`", index + 1));
            };
            match words.next() {
                Some("nameserver") => {
                    let word = words.next().unwrap_or_default();
                    match server(word, &scope_id) {
                        Some(server) if !conf.servers.contains(&server) => {
                            conf.servers.push(server);
                        }
                        Some(_) => {}
                        None => skip(&format!("nameserver {word}")),
                    }
                }
                // The last of several lines counts.
                Some("domain" | "search") => {
                    let (good, bad): (Vec<&str>, Vec<&str>) = words
                        .map(|domain| domain.trim_end_matches('.'))
                        .filter(|domain| !domain.is_empty())
                        .partition(|domain| is_domain(domain));
                    bad.into_iter().for_each(&mut skip);
                    conf.search = good.into_iter().map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)];
        }
        conf
    }
}

/// `10.0.0.2`, `fd00::53`, `fe80::53%eth0`.
fn server(text: &str, scope_id: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, scope)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, PORT));
    };
    let scope = scope.parse().ok().or_else(|| scope_id(scope))?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

fn is_domain(text: &str) -> bool {
    text.len() <= 253
        && text
            .split('.')
            .all(|label| (1..=63).contains(&label.len()) && label.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> ResolvConf {
        ResolvConf::parse(text, |name| (name == "eth0").then_some(7))
    }

    fn servers(text: &str) -> Vec<String> {
        let servers = parse(text.as_bytes()).servers;
        servers.iter().map(ToString::to_string).collect()
    }

    /// Lines that glibc lets pass, or skips alone.
    #[test]
    fn a_line_that_cannot_be_used_is_skipped_alone() {
        for (text, skipped) in [
            ("search .home\nnameserver 10.0.0.2\n", 1),
            ("search .corp.example x\nnameserver 10.0.0.2\n", 1),
            ("search ok.example corp..example\nnameserver 10.0.0.2\n", 1),
            ("domain .lan\nnameserver 10.0.0.2\n", 1),
            ("search b\u{e4}d.example\nnameserver 10.0.0.2\n", 1),
            ("search .\nnameserver 10.0.0.2\n", 0),
            ("search --\nnameserver 10.0.0.2\n", 0),
            ("nameserver nonsense\nnameserver 10.0.0.2 # comment\n", 1),
            ("nameserver\nnameserver\t10.0.0.2\r\n", 1),
            ("nameserver fe80::1%nope\nnameserver 10.0.0.2", 1),
            (
                "# nameserver 10.0.0.9\n;x\noptions ndots:5 unknown\nsortlist x\nwhat\nnameserver 10.0.0.2",
                0,
            ),
            ("nameserver 10.0.0.2\nnameserver 10.0.0.2\n", 0),
        ] {
            let conf = parse(text.as_bytes());
            assert_eq!(servers(text), ["10.0.0.2:53"], "{text}");
            assert_eq!(conf.skipped.len(), skipped, "{text}: {:?}", conf.skipped);
        }
        let long = format!("search {} a.example\nnameserver 10.0.0.2\n", "x".repeat(70));
        let conf = parse(long.as_bytes());
        assert_eq!(conf.search, ["a.example"]);
        assert!(
            conf.skipped[0].starts_with("line 1: `xxx"),
            "{:?}",
            conf.skipped
        );
        let conf = parse(b"search \xff.example\nnameserver 10.0.0.2\n");
        assert_eq!(conf.servers.len(), 1);
    }

    #[test]
    fn without_a_nameserver_this_machine_is_asked() {
        for text in ["", "\n", "# nameserver 10.0.0.2\n", "search a.example\n"] {
            assert_eq!(servers(text), ["127.0.0.1:53"], "{text}");
        }
    }

    #[test]
    fn a_scope_is_kept() {
        assert_eq!(servers("nameserver fe80::53%eth0\n"), ["[fe80::53%7]:53"]);
        assert_eq!(servers("nameserver fe80::53%3\n"), ["[fe80::53%3]:53"]);
        assert_eq!(servers("nameserver fd00::53\n"), ["[fd00::53]:53"]);
    }

    #[test]
    fn the_last_search_list_counts() {
        let conf = parse(b"domain a.example\nsearch b.example. c.example\n");
        assert_eq!(conf.search, ["b.example", "c.example"]);
    }
}
