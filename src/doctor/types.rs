//! The types of a diagnosis: stages, verdicts, rules, and the facts that fill a rule's text.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::addr::aws;

/// Characters of text from outside that are shown.
const SHOWN: usize = 200;

/// What is looked at, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Settings,
    Port,
    Resolver,
    Names,
    /// The way this machine takes to an address.
    Route,
    /// Whether the proxies and commands work that lead to the addresses.
    Hop,
    Tcp,
    /// Whether anything comes back.
    Bytes,
    Http,
    /// Which Datomic system says it.
    Identity,
    /// The same through a running entryway.
    Through,
    /// Descriptors, ports and timers that will hurt later.
    Limits,
}

/// What a check came to. Ordered by how bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckVerdict {
    /// Could not, or need not, be looked at.
    Skip,
    Pass,
    /// Works, but something will hurt.
    Warn,
    /// A connection made now would not reach this Datomic system.
    Fail,
}

/// One symptom, its causes in order of likelihood, and what to check. `{host}` and the like are filled from [`Facts`].
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, for programs and the guide.
    pub id: &'static str,
    /// Where it shows.
    pub stage: Stage,
    /// What it means when nothing else of the upstream works.
    pub verdict: CheckVerdict,
    /// What is seen.
    pub symptom: &'static str,
    /// Why that may be, the likeliest first.
    pub causes: &'static [&'static str],
    /// The AWS console or CLI step, or the command, that tells.
    pub steps: &'static [&'static str],
}

/// What is known about a subject, by the word that stands for it in a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<&'static str, String>);

/// Text from outside, escaped and cut.
pub(super) fn shown(text: &str) -> String {
    let mut safe: String = text.chars().take(SHOWN).collect::<String>();
    let cut = safe.len() < text.len();
    safe = safe
        .escape_debug()
        .to_string()
        .replace("\\\"", "\"")
        .replace("\\'", "'");
    if cut {
        safe.push('…');
    }
    safe
}

/// Whether an address belongs to a private network (or this machine): one that the internet does not carry.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]);
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || shared
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

// === impl Stage ===

impl Stage {
    pub const ALL: [Stage; 12] = [
        Stage::Settings,
        Stage::Port,
        Stage::Resolver,
        Stage::Names,
        Stage::Route,
        Stage::Hop,
        Stage::Tcp,
        Stage::Bytes,
        Stage::Http,
        Stage::Identity,
        Stage::Through,
        Stage::Limits,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Settings => "settings",
            Stage::Port => "port",
            Stage::Resolver => "resolver",
            Stage::Names => "names",
            Stage::Route => "route",
            Stage::Hop => "hop",
            Stage::Tcp => "tcp",
            Stage::Bytes => "bytes",
            Stage::Http => "http",
            Stage::Identity => "identity",
            Stage::Through => "through",
            Stage::Limits => "limits",
        }
    }

    /// Whether a failure here is only a warning while another address of the upstream works: entryway avoids it then.
    pub const fn is_covered(self) -> bool {
        matches!(
            self,
            Stage::Resolver
                | Stage::Names
                | Stage::Route
                | Stage::Hop
                | Stage::Tcp
                | Stage::Bytes
                | Stage::Http
        )
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Verdict ===

impl CheckVerdict {
    pub const fn as_str(self) -> &'static str {
        match self {
            CheckVerdict::Skip => "SKIP",
            CheckVerdict::Pass => "PASS",
            CheckVerdict::Warn => "WARN",
            CheckVerdict::Fail => "FAIL",
        }
    }
}

impl fmt::Display for CheckVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Facts ===

impl Facts {
    /// What a host and port tell by themselves: system, region, ids.
    pub fn of_host(host: &str, port: u16) -> Self {
        let mut facts = Self::default();
        facts.set("host", host);
        facts.set("port", port.to_string());
        let host = host.to_ascii_lowercase();
        if let Some(name) = aws::entry_name(&host) {
            facts.set(
                "zone",
                format!("{}.{}.datomic.net", name.group, name.region),
            );
            facts.set("system", name.group);
            facts.set("region", name.region);
        }
        if let Some(name) = aws::vpce_name(&host) {
            // The console and the CLI know the endpoint without the suffix of its DNS name.
            let id = name
                .id
                .rsplit_once('-')
                .map_or(name.id.as_str(), |(id, _)| id);
            facts.set("endpoint_id", id);
            facts.set("service", name.service);
            facts.set("region", name.region);
        }
        facts
    }

    pub fn set(&mut self, word: &'static str, value: impl Into<String>) {
        self.0.insert(word, value.into());
    }

    #[must_use]
    pub fn with(mut self, word: &'static str, value: impl Into<String>) -> Self {
        self.set(word, value);
        self
    }

    /// With one more, where it is known and was not.
    #[must_use]
    pub fn or(mut self, word: &'static str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.0.entry(word).or_insert_with(|| value.to_owned());
        }
        self
    }

    /// Puts the facts into a text. What is not known stays as a word in capitals, as manuals write it.
    pub fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let word = after.split('}').next().unwrap_or_default();
            let is_word =
                !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if is_word && after.len() > word.len() {
                match self.0.get(word) {
                    Some(value) => filled.push_str(value),
                    None => filled.push_str(&word.to_ascii_uppercase()),
                }
                rest = &after[word.len() + 1..];
            } else {
                filled.push('{');
                rest = after;
            }
        }
        filled.push_str(rest);
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_fill_what_is_known_and_leave_words_for_the_rest() {
        let vpce = "vpce-0123456789abcdef0-abcd1234.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com";
        let facts = Facts::of_host(vpce, 8182);
        let text = facts.fill("{endpoint_id} {service} {region} {system} {:s3-auth-path} {");
        let wanted =
            "vpce-0123456789abcdef0 vpce-svc-0123456789abcdef0 us-east-1 SYSTEM {:s3-auth-path} {";
        assert_eq!(text, wanted);
        let facts = Facts::of_host("entry-http.prod.eu-west-1.datomic.net", 8182);
        assert_eq!(
            facts.fill("{zone}/{system}"),
            "prod.eu-west-1.datomic.net/prod"
        );
    }

    #[test]
    fn text_from_outside_is_escaped_and_cut() {
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        let long = shown(&"x".repeat(500));
        assert_eq!(long.chars().count(), SHOWN + 1);
    }

    #[test]
    fn private_networks_are_known() {
        for private in [
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "fd00::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2600::1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }
}
