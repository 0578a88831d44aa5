//! `[gateway]`: addresses, certificate files, limits of handshakes, and which client may reach which upstream.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::tls::ServerFiles;

/// Used by `entryway gateway` only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySettings {
    pub bind: Vec<String>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Authorities whose clients are accepted.
    pub client_ca: Option<PathBuf>,
    pub crl: Option<PathBuf>,
    #[serde(with = "crate::duration")]
    pub handshake_timeout: Duration,
    /// Peers without a request at once; above it the oldest that has sent nothing is closed, else the oldest.
    pub max_handshakes: usize,
    /// Empty: every client whose certificate is valid may reach every upstream.
    pub allow: Vec<Allow>,
}

/// One `[[gateway.allow]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// An identity, or the beginning of one followed by `*`.
    pub identity: String,
    pub upstreams: Vec<String>,
}

// === impl GatewaySettings ===

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            bind: Vec::new(),
            cert: None,
            key: None,
            client_ca: None,
            crl: None,
            handshake_timeout: Duration::from_secs(5),
            max_handshakes: 256,
            allow: Vec::new(),
        }
    }
}

impl GatewaySettings {
    /// The addresses to listen on. Validated before.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bind
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }

    /// The files, where all that are required are named.
    pub fn files(&self) -> Option<ServerFiles> {
        Some(ServerFiles {
            cert: self.cert.clone()?,
            key: self.key.clone()?,
            client_ca: self.client_ca.clone()?,
            crl: self.crl.clone(),
        })
    }

    /// What is wrong, as (key below `gateway`, message). `required`: the command is `gateway`.
    pub fn validate(&self, upstreams: &[&str], required: bool) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        if required {
            for (key, flag, is_set) in [
                ("bind", "--listen", !self.bind.is_empty()),
                ("cert", "--cert", self.cert.is_some()),
                ("key", "--key", self.key.is_some()),
                ("client_ca", "--client-ca", self.client_ca.is_some()),
            ] {
                if !is_set {
                    wrong.push((
                        key.to_owned(),
                        format!("a gateway needs {flag} or `gateway.{key}`; certificates are made by `entryway cert`"),
                    ));
                }
            }
        }
        for address in &self.bind {
            if address.parse::<SocketAddr>().is_err() {
                let shown = address.escape_debug();
                wrong.push((
                    "bind".to_owned(),
                    format!("`{shown}` is not an IP address with its port, such as 0.0.0.0:8443"),
                ));
            }
        }
        for allow in &self.allow {
            let stars = allow.identity.matches('*').count();
            if allow.identity.is_empty()
                || stars > 1
                || (stars == 1 && !allow.identity.ends_with('*'))
            {
                let shown = allow.identity.escape_debug();
                wrong.push((
                    "allow".to_owned(),
                    format!(
                        "identity `{shown}`: a name, or the beginning of one followed by one `*`"
                    ),
                ));
            }
            if allow.upstreams.is_empty() {
                let shown = allow.identity.escape_debug();
                wrong.push((
                    "allow".to_owned(),
                    format!("identity `{shown}` is allowed no upstream"),
                ));
            }
            for upstream in &allow.upstreams {
                if !upstreams.contains(&upstream.as_str()) {
                    wrong.push((
                        "allow".to_owned(),
                        format!(
                            "there is no upstream `{}`; configured upstreams: {}",
                            upstream.escape_debug(),
                            upstreams.join(", ")
                        ),
                    ));
                }
            }
        }
        wrong
    }
}
