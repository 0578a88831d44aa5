//! Who answers for a name: the hosts file, then DNS servers or the system's resolver, as set.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::hosts::Hosts;
use super::resolv_conf::ResolvConf;
use super::server::{AddressFamily, Records, Server};
use super::settings::{DnsSettings, ResolverKind};
use super::stub;
use super::system::SystemResolver;
use crate::interference::{Interference, LookupFault};
use crate::sandbox;
use crate::sys::file_stamp::FileStamp;
use crate::sys::local_address::interface_index;
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
    fn refresh(&self) -> impl Future<Output = bool> + Send;
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
    /// What may be open at once, over all names and servers.
    sockets: Arc<Semaphore>,
    /// [`FileReading::of`], or a script in a test.
    read: fn(&SystemFiles, Option<&[FileStamp; 2]>) -> Option<FileReading>,
    /// A thread is still reading; it may hang for ever.
    reading: Arc<AtomicBool>,
    system: SystemResolver,
    interference: Interference,
    state: Mutex<AskState>,
}

#[derive(Debug)]
struct AskState {
    settings: DnsSettings,
    files: FileReading,
    config: Arc<ResolverConfig>,
}

/// What the system's files said, and their stamps when they were read.
#[derive(Clone, Debug)]
struct FileReading {
    stamps: [FileStamp; 2],
    system: Result<ResolvConf, String>,
    /// Named in what of it could not be used.
    path: PathBuf,
    hosts: Hosts,
}

/// Reading the system's files may take this long; then what they said before stays.
const READ_LIMIT: Duration = Duration::from_secs(2);

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
        [&self.resolv_conf, &self.hosts].map(|file| FileStamp::of(file))
    }
}

/// For who has the process for itself.
pub(super) fn unbounded() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))
}

// === impl ResolverConfig ===

impl ResolverConfig {
    /// Reads the files; blocks as long as they do.
    pub(crate) fn read(settings: &DnsSettings, files: &SystemFiles) -> Self {
        let reading = FileReading::new(files, files.stamps());
        Self::new(settings, &reading, &unbounded())
    }

    fn new(settings: &DnsSettings, files: &FileReading, sockets: &Arc<Semaphore>) -> Self {
        let system = &files.system;
        let addresses: Result<Vec<SocketAddr>, String> = match &settings.servers[..] {
            [] => system.clone().map(|conf| conf.servers),
            set => Ok(set.to_vec()),
        };
        let server = |address| Arc::new(Server::new(address, Arc::clone(sockets)));
        let conf = system.clone().unwrap_or_default();
        let path = files.path.display();
        Self {
            servers: addresses.map(|addresses| addresses.into_iter().map(server).collect()),
            search: conf.search,
            hosts: files.hosts.clone(),
            skipped: conf
                .skipped
                .iter()
                .map(|skipped| format!("{path}: {skipped}"))
                .collect(),
            settings: settings.clone(),
        }
    }
}

// === impl FileReading ===

impl FileReading {
    /// Reads the files where their stamps are not these.
    fn of(files: &SystemFiles, known: Option<&[FileStamp; 2]>) -> Option<Self> {
        let stamps = files.stamps();
        (known != Some(&stamps)).then(|| Self::new(files, stamps))
    }

    fn new(files: &SystemFiles, stamps: [FileStamp; 2]) -> Self {
        let system = match read_regular(&files.resolv_conf) {
            Ok(text) => Ok(ResolvConf::parse(&text, interface_index)),
            // resolv.conf(5): without the file this machine is asked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(ResolvConf::parse(b"", interface_index))
            }
            Err(error) => Err(format!("{}: {error}", files.resolv_conf.display())),
        };
        let hosts = read_regular(&files.hosts).unwrap_or_default();
        Self {
            stamps,
            system,
            path: files.resolv_conf.clone(),
            hosts: Hosts::parse(&String::from_utf8_lossy(&hosts)),
        }
    }
}

/// Anything else (a pipe) may never end.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = sandbox::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

// === impl Configured ===

impl Configured {
    pub(crate) fn new(
        settings: DnsSettings,
        files: SystemFiles,
        interference: Interference,
        sockets: Arc<Semaphore>,
    ) -> Self {
        let reading = FileReading::new(&files, files.stamps());
        let config = Arc::new(ResolverConfig::new(&settings, &reading, &sockets));
        Self {
            files,
            sockets,
            read: FileReading::of,
            reading: Arc::default(),
            system: SystemResolver::default(),
            interference,
            state: Mutex::new(AskState {
                settings,
                files: reading,
                config,
            }),
        }
    }

    pub(crate) fn config(&self) -> Arc<ResolverConfig> {
        Arc::clone(&self.lock().config)
    }

    fn lock(&self) -> MutexGuard<'_, AskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the files on a thread of its own, for at most [`READ_LIMIT`]: a file system that hangs must not stall
    /// who asks. `None`: nothing has changed, or nothing can be said.
    async fn read_if_changed(&self) -> Option<FileReading> {
        if self.reading.swap(true, Relaxed) {
            // An earlier thread has not come back.
            return None;
        }
        let (sender, read) = oneshot::channel();
        let known = self.lock().files.stamps;
        let (files, look, reading) = (self.files.clone(), self.read, Arc::clone(&self.reading));
        let started = std::thread::Builder::new()
            .name("dns-files".to_owned())
            .spawn(move || {
                let found = look(&files, Some(&known));
                reading.store(false, Relaxed);
                // Nobody waits any more where it took too long; then the next look finds it.
                let _ = sender.send(found);
            });
        if started.is_err() {
            self.reading.store(false, Relaxed);
            return None;
        }
        timeout(READ_LIMIT, read).await.ok()?.ok()?
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

    async fn refresh(&self) -> bool {
        let Some(found) = self.read_if_changed().await else {
            return false;
        };
        let mut state = self.lock();
        state.config = Arc::new(ResolverConfig::new(&state.settings, &found, &self.sockets));
        state.files = found;
        true
    }

    /// The files are looked at every two seconds anyway, and not here, on the control thread.
    fn set(&self, settings: DnsSettings) {
        let mut state = self.lock();
        state.config = Arc::new(ResolverConfig::new(&settings, &state.files, &self.sockets));
        state.settings = settings;
    }

    fn skipped(&self) -> Vec<String> {
        self.config().skipped.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> SystemFiles {
        SystemFiles {
            resolv_conf: folder.join("resolv.conf"),
            hosts: folder.join("hosts"),
        }
    }

    /// A pipe that nobody writes would never be read to its end.
    #[tokio::test]
    async fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        for path in [&files.resolv_conf, &files.hosts] {
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        }
        let resolver = Configured::new(
            DnsSettings::default(),
            files.clone(),
            Interference::default(),
            unbounded(),
        );
        let why = resolver.config().servers.as_ref().unwrap_err().clone();
        assert!(why.contains("not a regular file"), "{why}");
        assert!(!resolver.refresh().await);
        std::fs::remove_file(&files.resolv_conf).unwrap();
        std::fs::write(&files.resolv_conf, "nameserver 10.0.0.2\n").unwrap();
        assert!(resolver.refresh().await);
        assert_eq!(resolver.config().servers.as_ref().unwrap().len(), 1);
    }

    /// A file system that hangs keeps one thread, never who asks: what the files said before stays in use.
    #[tokio::test(start_paused = true)]
    async fn files_that_hang_stall_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        std::fs::write(&files.resolv_conf, "nameserver 10.0.0.2\n").unwrap();
        let interference = Interference::default();
        let mut resolver =
            Configured::new(DnsSettings::default(), files, interference, unbounded());
        resolver.read = |_, _| {
            loop {
                std::thread::park();
            }
        };
        let began = tokio::time::Instant::now();
        assert!(!resolver.refresh().await);
        assert!(began.elapsed() <= READ_LIMIT + Duration::from_millis(10));
        // Further looks do not wait for it, nor do settings.
        let again = tokio::time::Instant::now();
        assert!(!resolver.refresh().await);
        resolver.set(DnsSettings {
            timeout: Duration::from_secs(7),
            ..DnsSettings::default()
        });
        assert_eq!(again.elapsed(), Duration::ZERO);
        let config = resolver.config();
        assert_eq!(config.settings.timeout, Duration::from_secs(7));
        assert_eq!(config.servers.as_ref().unwrap().len(), 1);
    }
}
