//! `--redact`: host names, addresses, systems and buckets become placeholders, the same thing always the same one, so
//! that a report can be shown to others and still be reasoned about. Pure.
//!
//! What was examined is known and replaced wherever it stands. Evidence may hold text from the network as well: there
//! every IP address and everything that looks like a host's or a bucket's name is replaced, too.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::report::Diagnosis;
use crate::addr::aws;

/// What is replaced, and by what.
#[derive(Debug, Default)]
pub struct Redactor {
    /// From the text to its placeholder.
    known: BTreeMap<String, String>,
    counts: BTreeMap<&'static str, usize>,
}

// === impl Redactor ===

impl Redactor {
    /// Remembers a host name, its system and ids included.
    pub fn host(&mut self, host: &str) {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host.is_empty() || host == "localhost" {
            return;
        }
        if host.parse::<IpAddr>().is_ok() {
            self.learn("address", &host);
            return;
        }
        if let Some(name) = aws::entry_name(&host) {
            self.learn(
                "zone",
                &format!("{}.{}.datomic.net", name.group, name.region),
            );
            self.learn("system", &name.group);
        }
        if let Some(name) = aws::vpce_name(&host) {
            self.learn("service", &name.service);
            self.learn("endpoint", &name.id);
            if let Some((id, _)) = name.id.rsplit_once('-') {
                self.learn("endpoint", id);
            }
        }
        self.learn("host", &host);
    }

    /// Remembers a Datomic system's name.
    pub fn system(&mut self, system: &str) {
        self.learn("system", system);
    }

    /// Remembers an `:s3-auth-path`.
    pub fn bucket(&mut self, path: &str) {
        self.learn("bucket", path);
        if let Some((bucket, _)) = path.split_once('/') {
            self.learn("bucket", bucket);
        }
    }

    /// Remembers a path, and the user whose home it is in.
    pub fn path(&mut self, path: &str) {
        self.learn("path", path);
        let home = path.strip_prefix("/home/").or(path.strip_prefix("/Users/"));
        if let Some(user) = home.and_then(|rest| rest.split('/').next())
            && !user.is_empty()
        {
            self.learn("user", user);
        }
    }

    /// Remembers the name in a peer's certificate.
    pub fn peer(&mut self, name: &str) {
        self.learn("peer", name);
    }

    /// Remembers an address.
    pub fn address(&mut self, ip: IpAddr) {
        self.learn("address", &ip.to_string());
    }

    fn learn(&mut self, kind: &'static str, text: &str) -> String {
        if let Some(placeholder) = self.known.get(text) {
            return placeholder.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let placeholder = format!("{kind}-{count}");
        if !text.is_empty() {
            self.known.insert(text.to_owned(), placeholder.clone());
        }
        placeholder
    }

    /// Replaces everything in a report.
    pub fn apply(&mut self, report: &mut Diagnosis) {
        for check in &mut report.checks {
            check.subject = self.scan(&check.subject);
            check.evidence = self.scan(&check.evidence);
        }
        for check in &mut report.checks {
            for text in check.causes.iter_mut().chain(&mut check.steps) {
                *text = self.replace(text);
            }
        }
    }

    /// Replaces everything in the texts of a document; its keys stay.
    pub fn json(&mut self, document: &mut serde_json::Value) {
        // A path names a user, who may stand in an earlier text.
        for_each_text(document, &mut |text| self.find_paths(text));
        for_each_text(document, &mut |text| *text = self.scan(text));
    }

    /// Replaces what is known, and what looks like a path, an address, a host or a bucket.
    fn scan(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        self.find_paths(text);
        let replaced = self.replace(text);
        let is_part = |c: char| c.is_ascii_alphanumeric() || ".-_:[]%".contains(c);
        let mut rest = replaced.as_str();
        while !rest.is_empty() {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            out.push_str(&self.word(word));
            let next = after.chars().next().map_or(0, char::len_utf8);
            out.push_str(&after[..next]);
            rest = &after[next..];
        }
        out
    }

    /// Remembers absolute paths of files: at least two parts, and no route of the admin port.
    fn find_paths(&mut self, text: &str) {
        let ends = |c: char| c.is_whitespace() || c.is_control() || "\"'`,;()<>".contains(c);
        let mut before = ' ';
        for (at, character) in text.char_indices() {
            if character == '/' && !before.is_alphanumeric() && !"/:.-_~".contains(before) {
                let path = text[at..].split(ends).next().unwrap_or_default();
                let path = path.trim_end_matches(['.', ':', '/']);
                let parts = path.split('/').filter(|part| !part.is_empty()).count();
                if parts >= 2 && !path.starts_with("/v1/") && !path.starts_with("//") {
                    self.path(path);
                }
            }
            before = character;
        }
    }

    /// A word of the evidence.
    fn word(&mut self, word: &str) -> String {
        // Punctuation of the sentence around it is not part of it.
        let bare = word.trim_end_matches(['.', ':', ',']);
        let tail = &word[bare.len()..];
        let hidden = if let Ok(socket) = bare.parse::<SocketAddr>() {
            let placeholder = self.learn("address", &socket.ip().to_string());
            format!("{placeholder}:{}", socket.port())
        } else if let Ok(ip) = bare.trim_matches(['[', ']']).parse::<IpAddr>() {
            self.learn("address", &ip.to_string())
        } else if let Some((ip, rest)) = zoned(bare) {
            self.learn("address", &ip.to_string()) + rest
        } else if let Some((host, port)) = bare.rsplit_once(':')
            && looks_like_a_host(host)
        {
            format!("{}:{port}", self.learn("host", &host.to_ascii_lowercase()))
        } else if looks_like_a_host(bare) {
            self.learn("host", &bare.to_ascii_lowercase())
        } else if bare.contains("s3datomic") {
            self.learn("bucket", bare)
        } else {
            bare.to_owned()
        };
        hidden + tail
    }

    /// Replaces what is known, longer things first, whole words only.
    fn replace(&self, text: &str) -> String {
        let mut known: Vec<(&String, &String)> = self.known.iter().collect();
        known.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let lower = text.to_ascii_lowercase();
        let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            let before = text[..at].chars().next_back();
            let hit = known.iter().find(|(word, _)| {
                lower[at..].starts_with(&word.to_ascii_lowercase())
                    && !before.is_some_and(inside)
                    && !text[at + word.len()..]
                        .chars()
                        .next()
                        .is_some_and(|c| c.is_ascii_alphanumeric())
            });
            match hit {
                Some((word, placeholder)) => {
                    out.push_str(placeholder);
                    at += word.len();
                }
                None => {
                    let c = text[at..].chars().next().map_or(1, char::len_utf8);
                    out.push_str(&text[at..at + c]);
                    at += c;
                }
            }
        }
        out
    }
}

/// An IPv6 address with the name of an interface, which the standard library does not read; and what follows.
fn zoned(word: &str) -> Option<(IpAddr, &str)> {
    let (ip, zone) = word.split_once('%')?;
    let ip = ip.trim_start_matches('[').parse().ok()?;
    let end = zone.find(']').map_or(zone.len(), |at| at + 1);
    Some((ip, &zone[end..]))
}

/// Whether a word is probably a host's name: three labels or more (or two that end in a well-known way), the last of
/// letters.
fn looks_like_a_host(word: &str) -> bool {
    let labels: Vec<&str> = word.split('.').collect();
    let fine = |label: &&str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = labels.last().copied().unwrap_or_default();
    labels.iter().all(fine)
        && last.len() >= 2
        && last.bytes().all(|b| b.is_ascii_alphabetic())
        && (labels.len() >= 3
            || labels.len() == 2
                && [
                    "com", "net", "org", "io", "dev", "internal", "local", "test",
                ]
                .contains(&last))
}

/// Every text of a document, but not its keys.
fn for_each_text(value: &mut serde_json::Value, see: &mut impl FnMut(&mut String)) {
    match value {
        serde_json::Value::String(text) => see(text),
        serde_json::Value::Array(items) => {
            items.iter_mut().for_each(|item| for_each_text(item, see));
        }
        serde_json::Value::Object(fields) => {
            fields
                .values_mut()
                .for_each(|field| for_each_text(field, see));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Check;
    use super::super::types::Stage;
    use super::*;

    #[test]
    fn the_same_thing_is_the_same_placeholder_everywhere() {
        let mut redactor = Redactor::default();
        redactor.host("entry-http.prod.eu-west-1.datomic.net");
        redactor.bucket("prod-storage-s3datomic-x1/prod");
        let mut check = Check::pass(
            Stage::Http,
            "entry-http.prod.eu-west-1.datomic.net 10.0.1.5:8182",
            "prod-storage-s3datomic-x1/prod at 10.0.1.5 and 10.0.1.55, from [fd00::7]:81 via ip-1-2.eu.internal: fine, 2.0",
        );
        check.steps =
            vec!["Name=prod-nodes in prod.eu-west-1.datomic.net, not production".to_owned()];
        let mut report = Diagnosis {
            checks: vec![check],
            ..Diagnosis::default()
        };
        redactor.apply(&mut report);
        let check = &report.checks[0];
        assert_eq!(check.subject, "host-1 address-1:8182");
        assert_eq!(
            check.evidence,
            "bucket-1 at address-1 and address-2, from address-3:81 via host-2: fine, 2.0"
        );
        assert_eq!(
            check.steps[0],
            "Name=system-1-nodes in zone-1, not production"
        );
    }

    #[test]
    fn paths_are_hidden_and_routes_are_not() {
        let mut redactor = Redactor::default();
        let text = "control /run/user/1000/entryway/8182.sock, settings `/home/alice/prod.toml`: \
                    GET /livez and /v1/status at http://localhost:8182/ answer; alice reads /home/alice/prod.toml";
        assert_eq!(
            redactor.scan(text),
            "control path-1, settings `path-2`: GET /livez and /v1/status at http://localhost:8182/ answer; \
             user-1 reads path-2"
        );
    }
}
