//! `via`: how an upstream or an endpoint is reached, as it is written, and what it means.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::command;
use super::proxy::{ProxyHop, ProxyRoute};
use super::supervise::SupervisedCommand;
use crate::addr::HostPort;
use crate::sandbox::Need;
use crate::types::HopId;

/// `[upstream.via]`. In its short form, a text, it is the `url` alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ViaSettings {
    /// `direct`, `socks5://…`, `http://…`, `https://…`, `ssh://…`, `ssm://…`, `exec:…` or `supervise:…`.
    pub url: String,
    /// The words of a command that is kept alive, instead of a URL.
    pub supervise: Vec<String>,
    /// What the supervised command speaks on its local port.
    pub speaks: Speaks,
    /// The longest time until a supervised command answers.
    #[serde(with = "crate::duration")]
    pub ready_timeout: Duration,
    /// Age at which a supervised command is replaced, the new one first; 0 = never.
    #[serde(with = "crate::duration")]
    pub renew_after: Duration,
    /// Certificate authorities of an `https` proxy; the system's where absent.
    pub ca: Option<PathBuf>,
    /// Our certificate for an `https` proxy.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The name in the certificate of an `https` proxy, where it is not the host of the URL.
    pub server_name: Option<String>,
    /// A file with `USER:PASSWORD`, mode 0600 or stricter.
    pub credentials_file: Option<PathBuf>,
    /// Limit of reaching the hop, and again of its answer about the target.
    #[serde(with = "crate::duration")]
    pub connect_timeout: Duration,
    /// Who resolves the names of endpoints.
    pub dns: Dns,
}

/// What a supervised command speaks on its local port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaks {
    #[default]
    Socks5,
    /// Every connection leads to the target.
    Forward,
}

/// Who resolves the names of endpoints behind a hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dns {
    /// The hop.
    #[default]
    Remote,
    /// We do, as without a hop.
    Local,
}

/// The kind of a hop, as `/v1/hops` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    Socks5,
    Http,
    Https,
    Exec,
    Ssh,
    Ssm,
    Supervise,
}

/// A `via` that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopSpec {
    /// Equal for equal settings, and for no others.
    pub id: HopId,
    pub kind: HopKind,
    pub(super) route: HopRoute,
    /// Without secrets: commands are shown by their program.
    name: String,
    pub connect_timeout: Duration,
    pub dns: Dns,
}

/// How it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HopRoute {
    Proxy(ProxyRoute),
    Exec(Vec<String>),
    Supervised(SupervisedCommand),
}

/// What is wrong with a `via`: the key below it, and the sentence.
pub(crate) type Wrong = (&'static str, String);

// === impl ViaSettings ===

impl Default for ViaSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            supervise: Vec::new(),
            speaks: Speaks::default(),
            ready_timeout: Duration::from_secs(20),
            renew_after: Duration::ZERO,
            ca: None,
            cert: None,
            key: None,
            server_name: None,
            credentials_file: None,
            connect_timeout: Duration::from_secs(5),
            dns: Dns::default(),
        }
    }
}

impl ViaSettings {
    /// The hop; `None`: no hop is wanted.
    pub fn hop(&self) -> Result<Option<HopSpec>, Wrong> {
        let url = self.url.trim();
        let (kind, route, name) = match (url, self.supervise.as_slice()) {
            ("" | "direct", []) => return self.nothing_else().map(|()| None),
            ("", words) => self.supervised(words.to_vec(), self.speaks)?,
            (_, []) => self.parse(url)?,
            (_, _) => {
                let text = "a via has either a URL or a `supervise` command";
                return Err(("supervise", text.to_owned()));
            }
        };
        if kind != HopKind::Https {
            let tls_keys = [
                ("ca", self.ca.is_some()),
                ("cert", self.cert.is_some()),
                ("key", self.key.is_some()),
                ("server_name", self.server_name.is_some()),
            ];
            if let Some((key, _)) = tls_keys.into_iter().find(|(_, set)| *set) {
                return Err((key, format!("`{key}` is for https:// only")));
            }
        }
        if self.cert.is_some() != self.key.is_some() {
            let text = "`cert` and `key` belong together: set both";
            return Err(("cert", text.to_owned()));
        }
        if self.connect_timeout.is_zero() {
            return Err((
                "connect_timeout",
                "`connect_timeout` cannot be 0".to_owned(),
            ));
        }
        Ok(Some(HopSpec {
            id: HopId::of(self),
            kind,
            route,
            name,
            connect_timeout: self.connect_timeout,
            dns: self.dns,
        }))
    }

    /// What is wrong with the files that it names. Reads them.
    pub fn check_files(&self) -> Result<(), Wrong> {
        let Some(HopSpec {
            route: HopRoute::Proxy(route),
            kind,
            ..
        }) = self.hop()?
        else {
            return Ok(());
        };
        let checked = ProxyHop::new(kind, &route, Arc::default());
        let key = match self.credentials_file {
            Some(_) => "credentials_file",
            None => "url",
        };
        checked.map(drop).map_err(|error| (key, error))
    }

    fn nothing_else(&self) -> Result<(), Wrong> {
        let plain = Self {
            url: self.url.clone(),
            ..Self::default()
        };
        if *self == plain {
            return Ok(());
        }
        let text = "keys of a hop without a hop: set its URL (--via)";
        Err(("url", text.to_owned()))
    }

    fn parse(&self, url: &str) -> Result<(HopKind, HopRoute, String), Wrong> {
        let wrong = |text: String| Err(("url", text));
        if let Some(text) = url.strip_prefix("exec:") {
            let words = command::split(text).map_err(|error| ("url", error))?;
            let name = format!("exec:{}", words[0]);
            return Ok((HopKind::Exec, HopRoute::Exec(words), name));
        }
        if let Some(text) = url.strip_prefix("supervise:") {
            let words = command::split(text).map_err(|error| ("url", error))?;
            return self.supervised(words, self.speaks);
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong(format!(
                "`{}` is not a hop: it looks like socks5://HOST:PORT, http://HOST:PORT, https://HOST:PORT, \
                 ssh://[USER@]HOST, ssm://TARGET, exec:COMMAND or supervise:COMMAND",
                shown(url)
            ));
        };
        match scheme {
            "socks5" | "socks5h" => self.proxy(HopKind::Socks5, rest),
            "http" => self.proxy(HopKind::Http, rest),
            "https" => self.proxy(HopKind::Https, rest),
            "ssh" => self.ssh(rest),
            "ssm" => self.ssm(rest),
            "socks4" | "socks4a" | "socks" => wrong(format!(
                "`{scheme}` is not a scheme of a hop: use socks5://HOST:PORT"
            )),
            _ => wrong(format!(
                "`{}` is not a scheme of a hop: socks5, http, https, ssh, ssm, exec, supervise",
                shown(scheme)
            )),
        }
    }

    fn proxy(&self, kind: HopKind, rest: &str) -> Result<(HopKind, HopRoute, String), Wrong> {
        let (user, host) = user_and_host(rest)?;
        let address = host_port(host, None)?;
        if user.is_some() && self.credentials_file.is_none() {
            let text = "a user in `via` needs a password: set credentials_file (--via-credentials FILE with USER:PASSWORD)";
            return Err(("credentials_file", text.to_owned()));
        }
        let login = user
            .as_deref()
            .map_or_else(String::new, |user| format!("{user}@"));
        let name = format!("{}://{login}{address}", kind.as_str());
        let route = HopRoute::Proxy(ProxyRoute {
            address,
            user,
            credentials_file: self.credentials_file.clone(),
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            server_name: self.server_name.clone(),
        });
        Ok((kind, route, name))
    }

    fn ssh(&self, rest: &str) -> Result<(HopKind, HopRoute, String), Wrong> {
        let (user, host) = user_and_host(rest)?;
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.ends_with(':') => {
                let port: u16 = port
                    .parse()
                    .map_err(|_bad| ("url", format!("`{}` is not a port", shown(port))))?;
                (host, Some(port))
            }
            _ => (host, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_option = |text: &str| text.starts_with('-');
        if host.is_empty() || is_option(host) || user.as_deref().is_some_and(is_option) {
            return Err((
                "url",
                "ssh:// needs a host: ssh://[USER@]HOST[:PORT]".to_owned(),
            ));
        }
        let target = user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
        let mut words: Vec<String> = [
            "ssh",
            "-N",
            "-T",
            "-D",
            "127.0.0.1:%l",
            "-o",
            "BatchMode=yes",
            "-o",
            "ServerAliveInterval=5",
            "-o",
            "ServerAliveCountMax=2",
            "-o",
            "ExitOnForwardFailure=yes",
        ]
        .map(str::to_owned)
        .to_vec();
        if let Some(port) = port {
            words.extend(["-p".to_owned(), port.to_string()]);
        }
        words.extend(["--".to_owned(), target.replace('%', "%%")]);
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        let (_, route, _) = self.supervised(words, Speaks::Socks5)?;
        Ok((HopKind::Ssh, route, format!("ssh://{target}{port}")))
    }

    fn ssm(&self, rest: &str) -> Result<(HopKind, HopRoute, String), Wrong> {
        let (target, query) = rest.split_once('?').unwrap_or((rest, ""));
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
        if target.is_empty() || target.starts_with('-') || !target.chars().all(fine) {
            let text = "ssm:// needs a target such as i-0123456789abcdef0: ssm://TARGET[?region=R&profile=P]";
            return Err(("url", text.to_owned()));
        }
        let parameters = r#"{"host":["%h"],"portNumber":["%p"],"localPortNumber":["%l"]}"#;
        let mut words: Vec<String> = [
            "aws",
            "ssm",
            "start-session",
            "--target",
            target,
            "--document-name",
            "AWS-StartPortForwardingSessionToRemoteHost",
            "--parameters",
            parameters,
        ]
        .map(str::to_owned)
        .to_vec();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "region" | "profile" if !value.is_empty() && !value.starts_with('-') => {
                    words.extend([format!("--{key}"), value.replace('%', "%%")]);
                }
                _ => {
                    let text = format!(
                        "`{}` after the ? is neither region= nor profile=",
                        shown(&key)
                    );
                    return Err(("url", text));
                }
            }
        }
        let (_, route, _) = self.supervised(words, Speaks::Forward)?;
        Ok((HopKind::Ssm, route, format!("ssm://{target}")))
    }

    fn supervised(
        &self,
        words: Vec<String>,
        speaks: Speaks,
    ) -> Result<(HopKind, HopRoute, String), Wrong> {
        if !command::uses(&words, 'l') {
            let text =
                "a supervised command in `via` needs %l, the local port that is chosen for it";
            return Err(("supervise", text.to_owned()));
        }
        if self.ready_timeout.is_zero() {
            return Err(("ready_timeout", "`ready_timeout` cannot be 0".to_owned()));
        }
        let name = format!("supervise:{}", words[0]);
        let route = HopRoute::Supervised(SupervisedCommand {
            words,
            speaks,
            ready_timeout: self.ready_timeout,
            renew_after: (!self.renew_after.is_zero()).then_some(self.renew_after),
        });
        Ok((HopKind::Supervise, route, name))
    }
}

/// A URL that cannot be read may hold a password: only what stands behind the last `@` is shown.
fn shown(text: &str) -> String {
    let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    text.escape_debug().take(100).collect()
}

fn user_and_host(rest: &str) -> Result<(Option<String>, &str), Wrong> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let Some((user, host)) = rest.rsplit_once('@') else {
        return Ok((None, rest));
    };
    if user.contains(':') {
        let text = "no password in a URL, where others can read it: USER@ and a credentials file (--via-credentials)";
        return Err(("url", text.to_owned()));
    }
    let user = percent_decode_str(user)
        .decode_utf8()
        .map_err(|_bad| ("url", "the user in the URL is not UTF-8".to_owned()))?;
    if user.is_empty() {
        return Err(("url", "the user before the @ is empty".to_owned()));
    }
    Ok((Some(user.into_owned()), host))
}

fn host_port(text: &str, default: Option<u16>) -> Result<HostPort, Wrong> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port))
            if !host.contains(':') || host.starts_with('[') && host.ends_with(']') =>
        {
            let port = port.parse().ok().filter(|port| *port > 0);
            let port: u16 =
                port.ok_or_else(|| ("url", format!("`{}` has no valid port", shown(text))))?;
            (host, Some(port))
        }
        _ => (text, None),
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
    if host.is_empty() || !host.chars().all(fine) {
        return Err(("url", format!("`{}` is not HOST:PORT", shown(text))));
    }
    match port.or(default) {
        Some(port) => Ok(HostPort {
            host: host.to_owned(),
            port,
        }),
        None => Err(("url", format!("`{}` has no port: HOST:PORT", shown(text)))),
    }
}

// === impl HopKind ===

impl HopKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            HopKind::Socks5 => "socks5",
            HopKind::Http => "http",
            HopKind::Https => "https",
            HopKind::Exec => "exec",
            HopKind::Ssh => "ssh",
            HopKind::Ssm => "ssm",
            HopKind::Supervise => "supervise",
        }
    }
}

// === impl HopSpec ===

impl HopSpec {
    /// Whether it is a command that is kept alive.
    pub fn is_supervised(&self) -> bool {
        matches!(self.route, HopRoute::Supervised(_))
    }

    /// What it needs of the machine: the program that it starts, or the system's resolver for the name of a proxy. Its
    /// files are settings of their own.
    pub fn need(&self) -> Option<Need> {
        match &self.route {
            HopRoute::Exec(words) => Some(Need::Command(words.clone())),
            HopRoute::Supervised(plan) => Some(Need::Command(plan.words.clone())),
            HopRoute::Proxy(proxy) if proxy.address.host.parse::<IpAddr>().is_ok() => None,
            HopRoute::Proxy(_) => Some(Need::SystemResolver),
        }
    }

    /// Descriptors that one connection through it holds on our side.
    pub fn descriptors(&self) -> usize {
        match &self.route {
            // Our end of the socket pair, the command's standard error, and what tells of its end.
            HopRoute::Exec(_) => 3,
            HopRoute::Proxy(_) | HopRoute::Supervised(_) => 1,
        }
    }

    /// The proxy that is connected to, where it is one.
    pub fn proxy(&self) -> Option<&HostPort> {
        match &self.route {
            HopRoute::Proxy(route) => Some(&route.address),
            HopRoute::Exec(_) | HopRoute::Supervised(_) => None,
        }
    }

    /// The host of its URL, where it has one.
    pub fn host(&self) -> Option<&str> {
        let (_, rest) = self.name.split_once("://")?;
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let end = rest.find([':', '/', '?']).unwrap_or(rest.len());
        Some(&rest[..end])
    }
}

impl fmt::Display for HopSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(url: &str) -> ViaSettings {
        ViaSettings {
            url: url.to_owned(),
            ..ViaSettings::default()
        }
    }

    #[test]
    fn every_form_is_understood() {
        for (url, kind, name) in [
            (
                "socks5://bastion:1080",
                HopKind::Socks5,
                "socks5://bastion:1080",
            ),
            (
                "socks5://[::1]:1080",
                HopKind::Socks5,
                "socks5://[::1]:1080",
            ),
            (
                "http://proxy.corp:3128/",
                HopKind::Http,
                "http://proxy.corp:3128",
            ),
            (
                "https://gateway:8443",
                HopKind::Https,
                "https://gateway:8443",
            ),
            (
                "exec:ssh -W %h:%p bastion --token=x",
                HopKind::Exec,
                "exec:ssh",
            ),
            (
                "ssh://me@bastion:2222",
                HopKind::Ssh,
                "ssh://me@bastion:2222",
            ),
            ("ssh://bastion", HopKind::Ssh, "ssh://bastion"),
            (
                "ssm://i-0123?region=us-east-1&profile=dev",
                HopKind::Ssm,
                "ssm://i-0123",
            ),
            (
                "supervise:ssh -N -D %l bastion",
                HopKind::Supervise,
                "supervise:ssh",
            ),
        ] {
            let hop = via(url).hop().unwrap().unwrap();
            assert_eq!((hop.kind, hop.to_string().as_str()), (kind, name));
        }
        for none in ["", "direct"] {
            assert_eq!(via(none).hop(), Ok(None));
        }
    }

    #[test]
    fn ssh_keeps_the_users_own_configuration() {
        let hop = via("ssh://me@bastion:2222").hop().unwrap().unwrap();
        let HopRoute::Supervised(plan) = &hop.route else {
            panic!("{hop:?}");
        };
        let line = plan.words.join(" ");
        assert!(
            line.starts_with("ssh -N -T -D 127.0.0.1:%l -o BatchMode=yes"),
            "{line}"
        );
        assert!(
            line.ends_with("-o ExitOnForwardFailure=yes -p 2222 -- me@bastion"),
            "{line}"
        );
        assert_eq!(plan.speaks, Speaks::Socks5);
        let hop = via("ssm://i-1?region=r").hop().unwrap().unwrap();
        assert!(
            matches!(&hop.route, HopRoute::Supervised(plan) if plan.speaks == Speaks::Forward
                && plan.words.join(" ").contains(r#""localPortNumber":["%l"]} --region r"#))
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        for (url, key, part) in [
            ("bastion:1080", "url", "looks like socks5://"),
            ("ftp://h:1", "url", "not a scheme"),
            ("socks4://h:1", "url", "use socks5://"),
            ("socks5://h", "url", "no port"),
            ("socks5://h:0", "url", "no valid port"),
            ("socks5://h:x", "url", "no valid port"),
            ("socks5://:1080", "url", "not HOST:PORT"),
            ("socks5://me:secret@h:1", "url", "no password in a URL"),
            ("me:secret@h:1", "url", "looks like"),
            ("socks5://me@h:1", "credentials_file", "needs a password"),
            ("exec:", "url", "empty"),
            ("exec:a 'b", "url", "quote"),
            ("supervise:ssh -N -D 1080 h", "supervise", "%l"),
            ("ssh://", "url", "needs a host"),
            ("ssh://-oProxyCommand=x", "url", "needs a host"),
            ("ssm://", "url", "needs a target"),
            ("ssm://i-1?zone=x", "url", "neither region"),
        ] {
            let (found, text) = via(url).hop().unwrap_err();
            assert_eq!(found, key, "{url}: {text}");
            assert!(text.contains(part), "{url}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
        let both = ViaSettings {
            supervise: vec!["x".to_owned()],
            ..via("socks5://h:1")
        };
        assert!(both.hop().unwrap_err().1.contains("either"));
        let tls = ViaSettings {
            ca: Some("ca.pem".into()),
            ..via("http://h:1")
        };
        assert_eq!(tls.hop().unwrap_err().0, "ca");
        let alone = ViaSettings {
            dns: Dns::Local,
            ..via("")
        };
        assert!(alone.hop().unwrap_err().1.contains("without a hop"));
    }
}
