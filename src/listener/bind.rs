//! Binding: from settings to listening sockets, and errors that say who holds a port.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::front::FrontKind;
use crate::connection::{Policy, WhenAllDown};
use crate::sandbox;
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::port_owner::PortOwner;
use crate::sys::socket::{self, ListenOptions, TcpOptions};

/// Connections that the kernel queues while we are busy. 2000 connects within one second of standstill are not lost.
const BACKLOG: i32 = 4096;

/// `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerSettings {
    /// A metric label.
    pub name: String,
    /// `IP:PORT`.
    pub bind: Vec<String>,
    pub upstream: String,
    /// Allows addresses that other machines can reach.
    pub allow_remote: bool,
    /// Connections at once; from RLIMIT_NOFILE where absent.
    pub max_connections: Option<usize>,
    /// What to do while nothing can be dialled.
    pub when_all_down: WhenAllDown,
    /// The longest time that a connection is parked.
    #[serde(with = "crate::duration")]
    pub hold_timeout: Duration,
    /// Connections parked at once; further ones are treated as with `try`.
    pub hold_max: usize,
    /// What clients may speak.
    pub front: FrontKind,
    /// Further names that clients of a front may ask for: `HOST[:PORT]`.
    pub front_allow: Vec<String>,
}

/// Options of the sockets of a listener.
#[derive(Clone, Debug)]
pub struct SocketSettings {
    /// Keepalive and user timeout of clients that are not on loopback.
    pub tcp: TcpOptions,
    pub loopback_congestion: LoopbackCongestion,
}

/// A listener whose sockets are bound and queue clients.
#[derive(Debug)]
pub struct Bound {
    pub(super) sockets: Vec<TcpListener>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) settings: SocketSettings,
    /// Default addresses that could not be bound, with the reason.
    pub missing: Vec<(SocketAddr, io::Error)>,
    /// Whether a service manager holds the sockets as well, so that closing ours neither refuses nor resets anybody.
    pub(super) shared: bool,
}

/// Why a listener cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("listen address `{0}` is not IP:PORT")]
    NotAnAddress(String),
    #[error(
        "listen address {0} is not on loopback: needs allow_remote (the data port has no encryption)"
    )]
    NotLoopback(SocketAddr),
    #[error("no listen address")]
    Nothing,
    #[error("listen on {address}: in use{}", .owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default())]
    InUse {
        address: SocketAddr,
        /// Absent where it cannot be seen.
        owner: Option<PortOwner>,
    },
    /// A port below 1024, for example.
    #[error("listen on {0}: permission denied")]
    Denied(SocketAddr),
    #[error("listen on {address}: {source}")]
    Other {
        address: SocketAddr,
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
            front: FrontKind::default(),
            front_allow: Vec::new(),
        }
    }
}

impl ListenerSettings {
    pub fn policy(&self) -> Policy {
        Policy {
            when_all_down: self.when_all_down,
            hold_timeout: self.hold_timeout,
            hold_max: self.hold_max,
            max_connections: self.max_connections,
        }
    }

    /// The addresses to bind, validated.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, BindError> {
        let parse = |text: &String| {
            let address: SocketAddr = text
                .trim()
                .parse()
                .map_err(|_bad| BindError::NotAnAddress(text.clone()))?;
            self.may_listen(address).map(|()| address)
        };
        let addresses: Vec<_> = self.bind.iter().map(parse).collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err(BindError::Nothing);
        }
        Ok(addresses)
    }

    /// Fails for an address that other machines reach, unless the settings allow it. `ListenStream=8182` in a socket unit
    /// is one: every address of the machine.
    pub fn may_listen(&self, address: SocketAddr) -> Result<(), BindError> {
        match address.ip().to_canonical().is_loopback() || self.allow_remote {
            true => Ok(()),
            false => Err(BindError::NotLoopback(address)),
        }
    }
}

// === impl Bound ===

/// Binds a listener; from here on clients are queued. `asked`: the addresses were configured, so that each must be
/// bound. Of the default addresses, `::1` may be missing, because many hosts have IPv6 disabled.
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
        shared: false,
    };
    for address in settings.addresses()? {
        match listen(address, sockets) {
            Ok(socket) => {
                let address = socket.local_addr().unwrap_or(address);
                bound.sockets.push(socket);
                bound.addresses.push(address);
            }
            Err(error) if !asked && may_be_missing(address, &error) => {
                bound.missing.push((address, error));
            }
            Err(error) => return Err(BindError::of(address, error)),
        }
    }
    if bound.sockets.is_empty() {
        return Err(BindError::Nothing);
    }
    Ok(bound)
}

/// Whether a default address that cannot be bound is skipped. Hosts without IPv6 answer with several errors; only a port
/// that is taken is worth an end.
fn may_be_missing(address: SocketAddr, error: &io::Error) -> bool {
    address.is_ipv6() && error.kind() != io::ErrorKind::AddrInUse
}

/// Whether what a socket at this address accepts inherits the options for clients from it. Clients on loopback need none;
/// behind a wildcard address, where they are few, theirs do no harm and cost no call.
pub(super) fn is_inherited(ip: IpAddr) -> bool {
    !ip.is_loopback()
}

/// Takes over bound sockets: from a service manager that keeps them (`shared`), so that clients are queued also while no
/// process accepts, or from the process that we replace.
pub fn adopt(
    sockets: Vec<TcpListener>,
    settings: &SocketSettings,
    shared: bool,
) -> io::Result<Bound> {
    let mut addresses = Vec::new();
    for socket in &sockets {
        let address = socket.local_addr()?;
        // Whoever has made it may have left them as they are, or set others.
        socket::set_inherited(socket, &settings.listen_options(address.ip()));
        addresses.push(address);
    }
    Ok(Bound {
        sockets,
        addresses,
        settings: settings.clone(),
        missing: Vec::new(),
        shared,
    })
}

impl Bound {
    /// The bound addresses, with the real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether a service manager holds the sockets as well.
    pub fn is_managed(&self) -> bool {
        self.shared
    }

    /// The sockets, for who accepts from them itself.
    pub fn into_sockets(self) -> Vec<TcpListener> {
        self.sockets
    }
}

pub(super) fn listen(address: SocketAddr, settings: &SocketSettings) -> io::Result<TcpListener> {
    socket::listen(address, BACKLOG, &settings.listen_options(address.ip()))
}

// === impl SocketSettings ===

impl SocketSettings {
    /// Of a listening socket at this address. Accepted sockets inherit these, which costs nothing per connection.
    fn listen_options(&self, ip: IpAddr) -> ListenOptions<'_> {
        ListenOptions {
            tcp: is_inherited(ip).then_some(&self.tcp),
            congestion: self.loopback_congestion.choice(ip),
        }
    }

    /// Sets the congestion control of a socket that was accepted behind a wildcard address.
    pub(super) fn apply(&self, accepted: &TcpStream, client: IpAddr) {
        if client.to_canonical().is_loopback() {
            self.loopback_congestion.apply(accepted, client);
        }
    }
}

// === impl BindError ===

impl BindError {
    fn of(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse {
                address,
                owner: sandbox::port_owner(address),
            },
            io::ErrorKind::PermissionDenied => BindError::Denied(address),
            _ => BindError::Other {
                address,
                source: error,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn a_host_without_ipv6_skips_the_default_address_whatever_the_error() {
        let loopback = "[::1]:8182".parse().unwrap();
        let error = io::Error::from_raw_os_error;
        for errno in [
            libc::EAFNOSUPPORT,
            libc::EADDRNOTAVAIL,
            libc::EACCES,
            libc::EPERM,
            libc::EPROTONOSUPPORT,
        ] {
            assert!(may_be_missing(loopback, &error(errno)), "{errno}");
            let v4 = "127.0.0.1:8182".parse().unwrap();
            assert!(!may_be_missing(v4, &error(errno)), "{errno}");
        }
        assert!(!may_be_missing(loopback, &error(libc::EADDRINUSE)));
    }

    /// Nothing is set for each accepted socket: what is inherited costs no call.
    #[test]
    fn behind_a_wildcard_address_options_are_inherited() {
        let settings = SocketSettings {
            tcp: TcpOptions {
                keepalive: Some(Duration::from_secs(15)),
                ..TcpOptions::default()
            },
            loopback_congestion: LoopbackCongestion::default(),
        };
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listener = listen(any, &settings).unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let accepted = loop {
            match listener.accept() {
                Ok((accepted, _)) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        let keepalive = accepted.tcp_keepalive_time().unwrap();
        assert_eq!(keepalive, Duration::from_secs(15));
        // Another machine cannot reach these, so they inherit nothing.
        let local = listen("127.0.0.1:0".parse().unwrap(), &settings).unwrap();
        assert!(!SockRef::from(&local).keepalive().unwrap());
    }
}
