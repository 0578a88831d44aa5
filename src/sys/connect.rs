//! Non-blocking connect: start it, and ask for its status.
//!
//! `connect` is called a second time right away: on loopback, and often inside one host, the handshake has finished
//! by then and no event loop is needed (measured: 1.06 × connects). The status is also asked for by `connect`, which
//! returns and clears the error, mostly without reading SO_ERROR.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// What an error of connect says: about the address, or about this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    Refused,
    TimedOut,
    /// With the reason, for people.
    Unreachable(&'static str),
    Reset,
    /// This process lacks something: a descriptor, a local port, memory. Says nothing about the address.
    Local(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectStatus {
    /// The handshake has finished.
    Connected,
    /// Ask again when the socket is writable.
    Waiting,
}

/// Starts a connect from a fresh non-blocking socket; `prepare` sets its options before the first packet.
pub fn start(
    to: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<(TcpStream, ConnectStatus)> {
    let socket = fresh(to)?;
    prepare(&socket)?;
    let status = match ask(&socket, to)? {
        ConnectStatus::Connected => ConnectStatus::Connected,
        ConnectStatus::Waiting => ask(&socket, to)?,
    };
    Ok((socket.into(), status))
}

#[cfg(all(target_os = "linux", not(entryway_portable)))]
fn fresh(to: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))
}

#[cfg(any(not(target_os = "linux"), entryway_portable))]
fn fresh(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The status of a started connect, to be asked for when the event loop reports the socket as ready. An error ends the
/// connect.
pub fn status(stream: &impl AsFd, to: SocketAddr) -> io::Result<ConnectStatus> {
    let socket = SockRef::from(stream);
    match ask(&socket, to)? {
        ConnectStatus::Connected => Ok(ConnectStatus::Connected),
        // An ICMP "unreachable" that comes while the socket is inside a call (a router on this host answers as quickly
        // as that) leaves it connecting, with the error in SO_ERROR alone. Without reading it the attempt would go on,
        // with the event loop reporting an error over and over.
        ConnectStatus::Waiting => match socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(ConnectStatus::Waiting),
        },
    }
}

/// Whether a connection reached itself: a connect to a local port that nobody holds may be given that very port as
/// its own, and then succeeds.
pub fn is_to_itself(stream: &impl AsFd, to: SocketAddr) -> bool {
    // Only possible on this machine, and with a port that the kernel gives out; others are spared the call.
    let own = || SockRef::from(stream).local_addr().ok()?.as_socket();
    to.ip().is_loopback() && given_ports().contains(&to.port()) && own() == Some(to)
}

/// The ports from which the kernel chooses, read once: all, where that cannot be read.
fn given_ports() -> &'static RangeInclusive<u16> {
    static PORTS: OnceLock<RangeInclusive<u16>> = OnceLock::new();
    PORTS.get_or_init(|| {
        let read = || {
            let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
            let mut words = text.split_ascii_whitespace().map(str::parse);
            Some(words.next()?.ok()?..=words.next()?.ok()?)
        };
        read().unwrap_or(0..=u16::MAX)
    })
}

// === impl ConnectError ===

impl ConnectError {
    /// Classifies an error of connect, or of the first read or write after it.
    pub fn classify(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::CONNREFUSED) => Self::Refused,
            Some(Errno::TIMEDOUT) => Self::TimedOut,
            Some(Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE | Errno::NOTCONN) => {
                Self::Reset
            }
            Some(Errno::HOSTUNREACH | Errno::HOSTDOWN) => Self::Unreachable("host unreachable"),
            Some(Errno::NETUNREACH) => Self::Unreachable("network unreachable"),
            Some(Errno::NETDOWN) => Self::Unreachable("network down"),
            Some(Errno::ACCESS | Errno::PERM) => {
                Self::Unreachable("forbidden by a `prohibit` route or a firewall of this machine")
            }
            // The kernel's answer for a `blackhole` route.
            Some(Errno::INVAL) => Self::Unreachable("a `blackhole` route of this machine"),
            Some(Errno::AFNOSUPPORT) => {
                Self::Unreachable("this machine has no support for the address family")
            }
            // ICMP errors that the kernel passes on.
            Some(Errno::PROTO | Errno::NOPROTOOPT) => Self::Unreachable("rejected by ICMP"),
            // Our sockets are bound to no address, so that there is only one reason for this.
            Some(Errno::ADDRNOTAVAIL) => {
                Self::Local(format!("no local port left for a connection ({error})"))
            }
            Some(_) => Self::Local(error.to_string()),
            // Streams that are no sockets.
            None => match error.kind() {
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::NotConnected
                | io::ErrorKind::UnexpectedEof => Self::Reset,
                io::ErrorKind::TimedOut => Self::TimedOut,
                _ => Self::Local(error.to_string()),
            },
        }
    }
}

fn ask(socket: &Socket, to: SocketAddr) -> io::Result<ConnectStatus> {
    loop {
        let Err(error) = socket.connect(&to.into()) else {
            return Ok(ConnectStatus::Connected);
        };
        return match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ISCONN) => Ok(ConnectStatus::Connected),
            Some(Errno::INPROGRESS | Errno::ALREADY) => Ok(ConnectStatus::Waiting),
            Some(Errno::INTR) => continue,
            // What kernels of the BSD family answer once a connect has failed; the reason is in SO_ERROR.
            Some(Errno::INVAL) => Err(socket.take_error()?.unwrap_or(error)),
            _ => Err(error),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_connect_is_about_the_address_or_about_us() {
        let class = |errno: Errno| ConnectError::classify(&errno.into());
        assert_eq!(class(Errno::CONNREFUSED), ConnectError::Refused);
        assert_eq!(class(Errno::TIMEDOUT), ConnectError::TimedOut);
        assert_eq!(class(Errno::CONNRESET), ConnectError::Reset);
        for errno in [
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::NETDOWN,
            Errno::ACCESS,
            Errno::PERM,
            Errno::INVAL,
            Errno::AFNOSUPPORT,
        ] {
            assert!(
                matches!(class(errno), ConnectError::Unreachable(_)),
                "{errno}"
            );
        }
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::ADDRNOTAVAIL,
            Errno::NOBUFS,
            Errno::NOMEM,
        ] {
            assert!(matches!(class(errno), ConnectError::Local(_)), "{errno}");
        }
        let end = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(ConnectError::classify(&end), ConnectError::Reset);
    }
}
