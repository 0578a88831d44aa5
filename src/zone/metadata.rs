//! What both metadata services have in common: where they are, what an answer may look like.

use crate::addr::aws::region_of_zone;
use crate::http::client::HttpTarget;
use crate::types::Zone;

/// The base URL of a metadata service, `http://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataUrl {
    /// Whom to connect to.
    pub(super) target: HttpTarget,
    /// What stands before every path, without a final slash.
    pub(super) prefix: String,
}

/// A base URL that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no http:// URL of a metadata service")]
pub struct InvalidUrl(pub String);

/// An answer longer than this is none.
pub(super) const LARGEST: usize = 64 << 10;

/// Reads a zone's name out of an answer.
pub(super) fn read_zone(text: &str) -> Result<Zone, String> {
    let text = text.trim();
    if region_of_zone(text).is_some() {
        return Ok(Zone::new(text));
    }
    let shown: String = text
        .chars()
        .take(40)
        .flat_map(char::escape_default)
        .collect();
    Err(format!("answered `{shown}`, which is no zone"))
}

// === impl MetadataUrl ===

impl MetadataUrl {
    /// Where EC2 has it.
    pub fn imds() -> Self {
        Self {
            target: HttpTarget::Tcp("169.254.169.254:80".to_owned()),
            prefix: String::new(),
        }
    }

    /// Where EC2 has it on IPv6.
    pub fn imds_ipv6() -> Self {
        Self {
            target: HttpTarget::Tcp("[fd00:ec2::254]:80".to_owned()),
            prefix: String::new(),
        }
    }

    /// Reads a URL.
    pub fn parse(url: &str) -> Result<Self, InvalidUrl> {
        let bad = || InvalidUrl(url.chars().take(80).flat_map(char::escape_debug).collect());
        let rest = url.trim().strip_prefix("http://").ok_or_else(bad)?;
        let (host, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if host.is_empty() || !plain(host) || !plain(path) {
            return Err(bad());
        }
        let port = match host.rsplit_once(':') {
            // The colon of an address in brackets is no port's.
            Some((_, port)) if !port.contains(']') => {
                port.parse::<u16>().map_err(|_| bad())?;
                ""
            }
            _ => ":80",
        };
        Ok(Self {
            target: HttpTarget::Tcp(format!("{host}{port}")),
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }
}
