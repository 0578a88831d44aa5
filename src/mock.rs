//! Fake Datomic entry points: one per zone, each on its own loopback address, all on one port.
//!
//! The demo, the tests and users' experiments run against it where there is no Datomic system. [`start`] binds, serves
//! on a thread of its own (so that a paused clock or a busy runtime of the caller changes nothing) and returns a
//! handle; dropping the handle closes everything and joins the thread. Modes make a zone fail in the ways real ones
//! do. The mock does not speak the client protocol: it echoes a POST.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

mod admin;
mod answer;
mod config;
mod latency;
mod listener;
mod mode;
mod stream;
mod zone;

pub use config::{Behaviour, MockConfig};
pub use latency::{BadLatency, Latency};
pub use mode::{UnknownMode, ZoneMode};
pub use zone::{Zone, ZoneCounts};

/// Why the mock did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No zone asked for, one asked for twice, or one whose name would break the printed line.
    #[error("zones {0:?}: each needs a name of its own, of letters, digits, - and _")]
    Zones(Vec<String>),
    /// The addresses after the base address do not exist.
    #[error("base address {0}: no {1} addresses from there on")]
    BaseIp(IpAddr, usize),
    /// An address could not be bound.
    #[error("bind {0}: {1}")]
    Bind(SocketAddr, #[source] io::Error),
    /// The thread or its runtime could not be made.
    #[error("start the mock's thread: {0}")]
    Thread(#[source] io::Error),
}

/// Running fake entry points; dropping it ends them.
#[derive(Debug)]
pub struct Mock {
    zones: Vec<Arc<Zone>>,
    admin: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Binds all zones and serves them. Accepts when it returns.
pub fn start(config: MockConfig) -> Result<Mock, StartError> {
    let named = |name: &String| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let mut distinct = config.zones.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.is_empty() || distinct.len() < config.zones.len() || !config.zones.iter().all(named)
    {
        return Err(StartError::Zones(config.zones));
    }
    let sockets = bind_all(&config)?;
    let admin = match config.admin {
        Some(address) => {
            Some(listener::bind(address).map_err(|error| StartError::Bind(address, error))?)
        }
        None => None,
    };
    let admin_address = match &admin {
        Some(socket) => Some(socket.local_addr().map_err(StartError::Thread)?),
        None => None,
    };
    let mut zones = Vec::with_capacity(sockets.len());
    let mut listeners = Vec::with_capacity(sockets.len());
    for (name, socket) in config.zones.iter().zip(sockets) {
        let address = socket.local_addr().map_err(StartError::Thread)?;
        let (zone, changes) = Zone::new(name.clone(), address, &config);
        let zone = Arc::new(zone);
        zones.push(Arc::clone(&zone));
        listeners.push((zone, socket, changes));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let known = zones.clone();
    let thread = std::thread::Builder::new()
        .name("mock".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                for (zone, socket, changes) in listeners {
                    tokio::spawn(listener::run(zone, socket, changes));
                }
                if let Some(socket) = admin {
                    tokio::spawn(admin::serve(socket, known));
                }
                // An error is the dropped handle: the same end.
                let _ = stopped.await;
            });
        })
        .map_err(StartError::Thread)?;
    Ok(Mock {
        zones,
        admin: admin_address,
        stop: Some(stop),
        thread: Some(thread),
    })
}

/// One listening socket per zone on one port. With port 0 the first zone's choice is tried on the others.
fn bind_all(config: &MockConfig) -> Result<Vec<TcpListener>, StartError> {
    let count = config.zones.len();
    let ips: Vec<IpAddr> = (0..count)
        .map_while(|nth| nth_after(config.base_ip, nth))
        .collect();
    if ips.len() < count {
        return Err(StartError::BaseIp(config.base_ip, count));
    }
    let mut tries = if config.port == 0 { 100 } else { 1 };
    loop {
        tries -= 1;
        match bind_on(&ips, config.port) {
            Err(StartError::Bind(_, error))
                if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            other => return other,
        }
    }
}

fn bind_on(ips: &[IpAddr], mut port: u16) -> Result<Vec<TcpListener>, StartError> {
    let mut sockets = Vec::with_capacity(ips.len());
    for ip in ips {
        let address = SocketAddr::new(*ip, port);
        let socket = listener::bind(address).map_err(|error| StartError::Bind(address, error))?;
        port = socket
            .local_addr()
            .map_err(|error| StartError::Bind(address, error))?
            .port();
        sockets.push(socket);
    }
    Ok(sockets)
}

/// The address `nth` places after `base`. `::1` has no loopback neighbours, so IPv6 serves one zone only.
fn nth_after(base: IpAddr, nth: usize) -> Option<IpAddr> {
    let nth = u32::try_from(nth).ok()?;
    match base {
        IpAddr::V4(v4) => u32::from(v4)
            .checked_add(nth)
            .map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        IpAddr::V6(_) => (nth == 0).then_some(base),
    }
}

// === impl Mock ===

impl Mock {
    pub fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    pub fn zone(&self, name: &str) -> Option<&Arc<Zone>> {
        zone::find(&self.zones, name)
    }

    pub fn address(&self, zone: &str) -> Option<SocketAddr> {
        Some(self.zone(zone)?.address())
    }

    /// What a zone has seen so far; zeros for a zone that does not exist.
    pub fn counts(&self, zone: &str) -> ZoneCounts {
        self.zone(zone)
            .map(|zone| zone.counts())
            .unwrap_or_default()
    }

    /// Switches a zone; in force when it returns. An unknown zone is an error of kind `NotFound`.
    pub async fn set_mode(&self, zone: &str, mode: ZoneMode) -> io::Result<()> {
        match self.zone(zone) {
            Some(zone) => zone.set_mode(mode).await,
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no zone {zone}"),
            )),
        }
    }

    /// Where the HTTP port that switches zones listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// One line per zone, ready to paste behind `entryway run`.
    pub fn paste_lines(&self) -> Vec<String> {
        let line =
            |zone: &Arc<Zone>| format!("--endpoint '{}?zone={}'", zone.address(), zone.name());
        self.zones.iter().map(line).collect()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic on the mock's thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
