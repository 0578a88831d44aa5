//! Who answers for a name: the hosts file, then DNS servers or the system's resolver, as set.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::hosts::Hosts;
use super::resolv_conf::ResolvConf;
use super::server::{AddressFamily, Records, Server};
use super::settings::{DnsSettings, ResolverKind};
use super::stub;
use super::system::SystemResolver;
use crate::interference::{Interference, LookupFault};
use crate::sandbox;
use crate::upstream::input::{AnswerSource, LookupError};

/// Answers questions about names: [`Configured`], or a script in a test without sockets.
pub(crate) trait Ask: Send + Sync + 'static {
    /// What a host is without DNS.
    fn known(&self, host: &str) -> Option<(AnswerSource, Vec<IpAddr>)>;
    /// Asks for one family of a name.
    fn ask(
        &self,
        host: &str,
        family: AddressFamily,
    ) -> impl Future<Output = Result<Records, LookupError>> + Send;
    /// Reads the system's files again where they have changed; whether they had.
    fn refresh(&self) -> bool;
    /// Takes other settings.
    fn set(&self, settings: DnsSettings);
    /// What of the system's files could not be used, in one line each.
    fn skipped(&self) -> Vec<String>;
}

/// The files of the system that say how names are resolved.
#[derive(Clone, Debug)]
pub struct SystemFiles {
    /// Usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Usually `/etc/hosts`.
    pub hosts: PathBuf,
}

/// Asks as settings and files say; both can change under it.
#[derive(Debug)]
pub(crate) struct Configured {
    files: SystemFiles,
    system: SystemResolver,
    interference: Interference,
    state: Mutex<AskState>,
}

#[derive(Debug)]
struct AskState {
    settings: DnsSettings,
    /// The files' stamps when they were read.
    stamps: [FileStamp; 2],
    config: Arc<ResolverConfig>,
}

/// One reading of settings and files.
#[derive(Debug)]
pub(crate) struct ResolverConfig {
    /// The servers to ask, or why there are none. Not used by the system's resolver.
    pub(crate) servers: Result<Vec<Arc<Server>>, String>,
    /// The system's search domains: not used, but `doctor` says when a name would need them.
    pub(crate) search: Vec<String>,
    pub(crate) hosts: Hosts,
    /// What of `resolv.conf` could not be used.
    pub(crate) skipped: Vec<String>,
    pub(crate) settings: DnsSettings,
}

/// What a change of a file is seen by: time, length, inode.
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
        let system = match read(&files.resolv_conf) {
            Ok(text) => Ok(ResolvConf::parse(&text, interface_index)),
            // resolv.conf(5): without the file this machine is asked.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(ResolvConf::parse(b"", interface_index))
            }
            Err(error) => Err(format!("{}: {error}", files.resolv_conf.display())),
        };
        let addresses: Result<Vec<SocketAddr>, String> = match &settings.servers[..] {
            [] => system.clone().map(|conf| conf.servers),
            set => Ok(set.to_vec()),
        };
        let server = |address| Arc::new(Server::new(address));
        let conf = system.unwrap_or_default();
        let hosts = read(&files.hosts).unwrap_or_default();
        let path = files.resolv_conf.display();
        Self {
            servers: addresses.map(|addresses| addresses.into_iter().map(server).collect()),
            search: conf.search,
            hosts: Hosts::parse(&String::from_utf8_lossy(&hosts)),
            skipped: conf
                .skipped
                .iter()
                .map(|skipped| format!("{path}: {skipped}"))
                .collect(),
            settings: settings.clone(),
        }
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    sandbox::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The index of a network interface by its name.
fn interface_index(name: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    netdevice::name_to_index(any, name).ok()
}

// === impl Configured ===

impl Configured {
    pub(crate) fn new(
        settings: DnsSettings,
        files: SystemFiles,
        interference: Interference,
    ) -> Self {
        let stamps = files.stamps();
        let config = Arc::new(ResolverConfig::read(&settings, &files));
        Self {
            files,
            system: SystemResolver::default(),
            interference,
            state: Mutex::new(AskState {
                settings,
                stamps,
                config,
            }),
        }
    }

    pub(crate) fn config(&self) -> Arc<ResolverConfig> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&state.config)
    }
}

impl Ask for Configured {
    fn known(&self, host: &str) -> Option<(AnswerSource, Vec<IpAddr>)> {
        self.config().hosts.find(host)
    }

    async fn ask(&self, host: &str, family: AddressFamily) -> Result<Records, LookupError> {
        match self.interference.on_lookup() {
            Some(LookupFault::Fails) => return Err(LookupError::ServFail),
            Some(LookupFault::Empty) => return Err(LookupError::NoData),
            None => {}
        }
        let config = self.config();
        let within = config.settings.timeout;
        match config.settings.resolver {
            ResolverKind::Stub => stub::ask(&config.servers, host, family, within).await,
            ResolverKind::System => {
                let ttl: Duration = config.settings.system_ttl();
                self.system.ask(host, family, within, ttl).await
            }
        }
    }

    fn refresh(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        let changed = stamps != state.stamps;
        if changed {
            state.stamps = stamps;
            state.config = Arc::new(ResolverConfig::read(&state.settings, &self.files));
        }
        changed
    }

    fn set(&self, settings: DnsSettings) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stamps = self.files.stamps();
        state.config = Arc::new(ResolverConfig::read(&settings, &self.files));
        state.settings = settings;
    }

    fn skipped(&self) -> Vec<String> {
        self.config().skipped.clone()
    }
}
