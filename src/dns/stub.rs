//! The stub resolver: which servers there are, and how one question is put to them.
//!
//! Servers stand in order. The next is asked as well when the ones before have been silent for a moment or gave no
//! sensible answer; that a name does not exist, or has no such address, is believed (as every libc does: behind a VPN
//! the first server knows names that the second does not).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::hosts::Hosts;
use super::server::{Family, Records, Server};
use super::settings::DnsSettings;
use crate::upstream::input::{AnswerSource, LookupError};

/// How long a server may be silent before the next is asked as well.
const STAGGER: Duration = Duration::from_millis(300);

/// Whoever answers the refresh loops: the stub, or a script in a test without sockets.
pub(crate) trait Ask: Send + Sync + 'static {
    /// What a host is without DNS.
    fn known(&self, host: &str) -> Option<(AnswerSource, Vec<IpAddr>)>;
    /// Asks for one family of a name.
    fn ask(
        &self,
        host: &str,
        family: Family,
    ) -> impl Future<Output = Result<Records, LookupError>> + Send;
    /// Looks whether the system's files have changed, and reads them again where they have; whether they had.
    fn refresh(&self) -> bool;
    /// Takes other settings.
    fn set(&self, settings: DnsSettings);
}

/// The files of the system that say how names are resolved.
#[derive(Clone, Debug)]
pub struct SystemFiles {
    /// Usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Usually `/etc/hosts`.
    pub hosts: PathBuf,
}

/// Asks servers; its configuration can change under it.
#[derive(Debug)]
pub(crate) struct Stub {
    files: SystemFiles,
    now: Mutex<State>,
}

#[derive(Debug)]
struct State {
    settings: DnsSettings,
    /// What the files looked like when they were read.
    seen: [FileStamp; 2],
    config: Arc<ResolverConfig>,
}

/// One reading of settings and files.
#[derive(Debug)]
pub(crate) struct ResolverConfig {
    /// Or why there are none.
    pub(crate) servers: Result<Vec<Arc<Server>>, String>,
    /// The system's search domains: not used, but `doctor` tells when a name would need them.
    pub(crate) search: Vec<String>,
    pub(crate) hosts: Hosts,
    timeout: Duration,
}

/// What a change of a file is seen by.
type FileStamp = Option<(SystemTime, u64, u64)>;

// === impl SystemFiles ===

impl Default for SystemFiles {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }
}

impl SystemFiles {
    fn stamps(&self) -> [FileStamp; 2] {
        use std::os::unix::fs::MetadataExt;
        [&self.resolv_conf, &self.hosts].map(|path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len(), meta.ino()))
        })
    }
}

// === impl ResolverConfig ===

impl ResolverConfig {
    pub(crate) fn read(settings: &DnsSettings, files: &SystemFiles) -> Self {
        let (system, search) = match std::fs::read(&files.resolv_conf) {
            Ok(text) => read_resolv_conf(&text),
            Err(error) => (
                Err(format!("{}: {error}", files.resolv_conf.display())),
                Vec::new(),
            ),
        };
        let servers = if settings.servers.is_empty() {
            system
        } else {
            Ok(settings.servers.clone())
        };
        let hosts = std::fs::read(&files.hosts).unwrap_or_default();
        Self {
            servers: servers.map(|addrs| {
                addrs
                    .into_iter()
                    .map(|a| Arc::new(Server::new(a)))
                    .collect()
            }),
            search,
            hosts: Hosts::parse(&String::from_utf8_lossy(&hosts)),
            timeout: settings.timeout,
        }
    }

    /// Puts one question to the servers.
    async fn ask(&self, host: &str, family: Family) -> Result<Records, LookupError> {
        let servers = match &self.servers {
            Ok(servers) => servers,
            Err(why) => return Err(LookupError::NoResolver(why.clone())),
        };
        let name = absolute(host)?;
        let deadline = Instant::now() + self.timeout;
        let mut waiting = servers.iter();
        let mut asked = JoinSet::new();
        let mut worst = LookupError::Timeout;
        let mut next_at = Instant::now();
        loop {
            if Instant::now() >= next_at
                && let Some(server) = waiting.next()
            {
                let (server, name) = (Arc::clone(server), name.clone());
                let within = deadline.saturating_duration_since(Instant::now());
                asked.spawn(async move { server.ask(&name, family, within).await });
                next_at = Instant::now() + STAGGER;
            }
            let more = waiting.len() > 0;
            let reply = tokio::select! {
                Some(reply) = asked.join_next() => reply,
                () = sleep_until(next_at), if more => continue,
                else => return Err(worst),
            };
            match reply.map(|reply| reply.result) {
                Ok(Ok(records)) => return Ok(records),
                Ok(Err(final_word @ (LookupError::NoData | LookupError::NxDomain))) => {
                    return Err(final_word);
                }
                Ok(Err(why)) if matches!(worst, LookupError::Timeout) => worst = why,
                // A second poor answer adds nothing; a task that panicked or was cancelled says nothing.
                Ok(Err(_)) | Err(_) => {}
            }
            next_at = Instant::now();
        }
    }
}

// === impl Stub ===

impl Stub {
    pub(crate) fn new(settings: DnsSettings, files: SystemFiles) -> Self {
        let seen = files.stamps();
        let config = Arc::new(ResolverConfig::read(&settings, &files));
        Self {
            files,
            now: Mutex::new(State {
                settings,
                seen,
                config,
            }),
        }
    }

    pub(crate) fn config(&self) -> Arc<ResolverConfig> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&now.config)
    }
}

impl Ask for Stub {
    fn known(&self, host: &str) -> Option<(AnswerSource, Vec<IpAddr>)> {
        self.config().hosts.find(host)
    }

    async fn ask(&self, host: &str, family: Family) -> Result<Records, LookupError> {
        self.config().ask(host, family).await
    }

    fn refresh(&self) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        let changed = stamps != now.seen;
        if changed {
            now.seen = stamps;
            now.config = Arc::new(ResolverConfig::read(&now.settings, &self.files));
        }
        changed
    }

    fn set(&self, settings: DnsSettings) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.seen = self.files.stamps();
        now.config = Arc::new(ResolverConfig::read(&settings, &self.files));
        now.settings = settings;
    }
}

/// A host as an absolute name, so that no search domain is ever tried.
pub(crate) fn absolute(host: &str) -> Result<Name, LookupError> {
    Name::from_ascii(format!("{host}."))
        .map_err(|error| LookupError::Garbage(format!("not a DNS name: {error}")))
}

fn read_resolv_conf(text: &[u8]) -> (Result<Vec<SocketAddr>, String>, Vec<String>) {
    match parse_resolv_conf(text) {
        Ok((config, _)) => {
            let mut servers: Vec<SocketAddr> = Vec::new();
            for server in config.name_servers() {
                let addr = SocketAddr::new(server.ip, 53);
                if !servers.contains(&addr) {
                    servers.push(addr);
                }
            }
            let search = config.search().iter().map(plain_name);
            (Ok(servers), search.collect())
        }
        Err(error) => (Err(error.to_string()), Vec::new()),
    }
}

fn plain_name(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}
