//! `[admin]`: what can be set about the listeners. Nothing but data and checks, so that `settings` can include it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The word that closes a listener.
const OFF: &str = "off";

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// Where admin HTTP listens, loopback only; `off`: nowhere.
    pub bind: Bind,
    /// The control socket's path; `off`: none; absent: a path from the environment (`control::default_path`).
    pub control: Option<ControlPath>,
    /// Where `/metrics` and health alone are served; may leave loopback.
    pub metrics_bind: Option<SocketAddr>,
    /// Hosts that a request on `bind` may name, without a port.
    pub allowed_hosts: Vec<String>,
    /// A file with the token that allows changes over TCP.
    pub token_file: Option<PathBuf>,
}

/// `admin.bind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Bind {
    /// No admin HTTP.
    Off,
    /// Here.
    At(SocketAddr),
}

/// `admin.control`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ControlPath {
    /// No control socket.
    Off,
    /// Here.
    At(PathBuf),
}

// === impl AdminSettings ===

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            bind: Bind::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 8183))),
            control: None,
            metrics_bind: None,
            allowed_hosts: default_hosts(),
            token_file: None,
        }
    }
}

impl AdminSettings {
    /// What no listener can be opened with, as `(key, what is wrong)`.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if let Bind::At(address) = self.bind
            && !address.ip().is_loopback()
        {
            found.push((
                "bind",
                format!(
                    "{address} is not a loopback address; only `metrics_bind` may leave loopback"
                ),
            ));
        }
        for host in &self.allowed_hosts {
            if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/@*".contains(c)) {
                found.push((
                    "allowed_hosts",
                    format!("`{host}` is not a host name or address"),
                ));
            }
        }
        found
    }

    /// The hosts that count: the bound address joins the default list, so that 127.0.0.5 can be asked by its own name.
    /// An address as `Host` cannot come from a rebound name.
    pub fn hosts(&self, bound: Option<SocketAddr>) -> Vec<String> {
        let mut hosts: Vec<String> = self
            .allowed_hosts
            .iter()
            .map(|host| host.to_ascii_lowercase())
            .collect();
        if let Some(bound) = bound
            && self.allowed_hosts == default_hosts()
        {
            hosts.push(match bound {
                SocketAddr::V4(v4) => v4.ip().to_string(),
                SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
            });
        }
        hosts
    }
}

fn default_hosts() -> Vec<String> {
    ["localhost", "127.0.0.1", "[::1]"]
        .map(str::to_owned)
        .to_vec()
}

// === impl Bind ===

impl TryFrom<String> for Bind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == OFF {
            return Ok(Bind::Off);
        }
        text.parse()
            .map(Bind::At)
            .map_err(|_| format!("`{text}` is not IP:PORT or `off`"))
    }
}

impl From<Bind> for String {
    fn from(bind: Bind) -> String {
        match bind {
            Bind::Off => OFF.to_owned(),
            Bind::At(address) => address.to_string(),
        }
    }
}

// === impl ControlPath ===

impl From<String> for ControlPath {
    fn from(text: String) -> Self {
        if text == OFF {
            ControlPath::Off
        } else {
            ControlPath::At(text.into())
        }
    }
}

impl From<ControlPath> for String {
    fn from(control: ControlPath) -> String {
        match control {
            ControlPath::Off => OFF.to_owned(),
            ControlPath::At(path) => path.to_string_lossy().into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_refuses() {
        let read: AdminSettings = toml::from_str(
            "bind = \"off\"\ncontrol = \"/run/e.sock\"\nmetrics_bind = \"0.0.0.0:9100\"",
        )
        .unwrap();
        assert_eq!(read.bind, Bind::Off);
        assert_eq!(read.control, Some(ControlPath::At("/run/e.sock".into())));
        assert!(toml::from_str::<AdminSettings>("bind = \"localhost\"").is_err());
        assert!(toml::from_str::<AdminSettings>("port = 1").is_err());
    }

    #[test]
    fn the_bound_address_joins_the_default_hosts_only() {
        let bound = Some(SocketAddr::from(([127, 0, 0, 5], 1)));
        let mut settings = AdminSettings::default();
        assert!(settings.hosts(bound).contains(&"127.0.0.5".to_owned()));
        settings.allowed_hosts = vec!["Ops.internal".to_owned()];
        assert_eq!(settings.hosts(bound), ["ops.internal"]);
    }
}
