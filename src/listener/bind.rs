//! Binding: settings and addresses to listening sockets, and what went wrong in words.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::connection::{Policy, WhenAllDown};
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::holder::{Holder, holder_of_port};
use crate::sys::socket::{self, ListenOptions, TcpOptions};

/// Connections that the kernel may keep for us while we are busy: 2000 connects within a stopped second are not lost.
const BACKLOG: i32 = 4096;

/// `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerSettings {
    /// Its name; a metric label.
    pub name: String,
    /// Where it listens: `IP:PORT`.
    pub bind: Vec<String>,
    /// The upstream it leads to.
    pub upstream: String,
    /// Allows addresses that other machines can reach.
    pub allow_remote: bool,
    /// Connections at once; from RLIMIT_NOFILE where absent.
    pub max_connections: Option<usize>,
    /// What to do while nothing can be dialled.
    pub when_all_down: WhenAllDown,
    /// How long a connection is parked.
    #[serde(with = "crate::duration")]
    pub hold_timeout: Duration,
    /// Connections parked at once; more are treated like `try`.
    pub hold_max: usize,
}

/// What the sockets of a listener are like.
#[derive(Clone, Debug)]
pub struct SocketSettings {
    /// Keepalive and user timeout of clients that are not on loopback.
    pub tcp: TcpOptions,
    /// What to do about congestion controls that pace loopback.
    pub loopback_congestion: LoopbackCongestion,
}

/// A listener that is bound and queues clients.
#[derive(Debug)]
pub struct Bound {
    pub(super) sockets: Vec<TcpListener>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) settings: SocketSettings,
    /// Addresses of the default that this machine does not have.
    pub missing: Vec<SocketAddr>,
}

/// Why a listener cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Not an address.
    #[error("listen address `{0}` is not IP:PORT")]
    NotAnAddress(String),
    /// Other machines could reach it.
    #[error(
        "listen address {0} is not on loopback: needs allow_remote (the data port has no encryption)"
    )]
    NotLoopback(SocketAddr),
    /// Nothing to listen on.
    #[error("no listen address")]
    Nothing,
    /// Another process has it.
    #[error("listen on {address}: in use{}", .holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    InUse {
        /// The address.
        address: SocketAddr,
        /// Who, where it can be seen.
        holder: Option<Holder>,
    },
    /// Not allowed: a port below 1024, for example.
    #[error("listen on {0}: permission denied")]
    Denied(SocketAddr),
    /// Anything else.
    #[error("listen on {address}: {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

// === impl ListenerSettings ===

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            name: "datomic".to_owned(),
            bind: vec!["127.0.0.1:8182".to_owned(), "[::1]:8182".to_owned()],
            upstream: "default".to_owned(),
            allow_remote: false,
            max_connections: None,
            when_all_down: WhenAllDown::Hold,
            hold_timeout: Duration::from_secs(10),
            hold_max: 1024,
        }
    }
}

impl ListenerSettings {
    /// What connections of this listener are promised while nothing can be dialled, and how many there may be.
    pub fn policy(&self) -> Policy {
        Policy {
            when_all_down: self.when_all_down,
            hold_timeout: self.hold_timeout,
            hold_max: self.hold_max,
            max_connections: self.max_connections,
        }
    }

    /// The addresses to bind, checked.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, BindError> {
        let parse = |text: &String| {
            let address: SocketAddr = text
                .trim()
                .parse()
                .map_err(|_bad| BindError::NotAnAddress(text.clone()))?;
            if address.ip().is_loopback() || self.allow_remote {
                Ok(address)
            } else {
                Err(BindError::NotLoopback(address))
            }
        };
        let addresses: Vec<_> = self.bind.iter().map(parse).collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err(BindError::Nothing);
        }
        Ok(addresses)
    }
}

// === impl Bound ===

/// Binds a listener; from here on clients are queued. `asked`: the addresses were asked for, so that one this machine
/// does not have is an error; of the defaults, `::1` may be missing.
pub fn bind(
    settings: &ListenerSettings,
    asked: bool,
    sockets: &SocketSettings,
) -> Result<Bound, BindError> {
    let mut bound = Bound {
        sockets: Vec::new(),
        addresses: Vec::new(),
        settings: sockets.clone(),
        missing: Vec::new(),
    };
    for address in settings.addresses()? {
        match listen(address, sockets) {
            Ok(socket) => {
                let address = socket.local_addr().unwrap_or(address);
                bound.sockets.push(socket);
                bound.addresses.push(address);
            }
            Err(error) if !asked && is_missing(&error) && address.is_ipv6() => {
                bound.missing.push(address);
            }
            Err(error) => return Err(BindError::of(address, error)),
        }
    }
    if bound.sockets.is_empty() {
        return Err(BindError::Nothing);
    }
    Ok(bound)
}

impl Bound {
    /// Where it listens, ports filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

pub(super) fn listen(address: SocketAddr, settings: &SocketSettings) -> io::Result<TcpListener> {
    let options = ListenOptions {
        tcp: (!address.ip().is_loopback()).then_some(&settings.tcp),
        congestion: settings.loopback_congestion.choice(address.ip()),
    };
    socket::listen(address, BACKLOG, &options)
}

/// This machine does not have the address (or the family).
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    )
}

// === impl BindError ===

impl BindError {
    fn of(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse {
                address,
                holder: holder_of_port(address),
            },
            io::ErrorKind::PermissionDenied => BindError::Denied(address),
            _ => BindError::Other {
                address,
                source: error,
            },
        }
    }
}
