//! Connecting without waiting: start, and ask how it stands.
//!
//! `connect` is called a second time right away: on loopback, and often inside one host, the handshake has finished
//! by then and no event loop is needed (measured: 1.06 × connects). Asking is also done by `connect`, which tells
//! and takes the error, mostly without an SO_ERROR round.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// How a connect stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The handshake has finished.
    Connected,
    /// Not yet; ask again when the socket is writable.
    Waiting,
}

/// Starts a connect from a fresh non-blocking socket; `prepare` sets its options before the first packet.
pub fn start(
    to: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<(TcpStream, Standing)> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    prepare(&socket)?;
    let standing = match ask(&socket, to)? {
        Standing::Connected => Standing::Connected,
        Standing::Waiting => ask(&socket, to)?,
    };
    Ok((socket.into(), standing))
}

/// How the connect of this socket stands, once the event loop says that something has happened to it; an error is the
/// end of it.
pub fn standing(stream: &impl AsFd, to: SocketAddr) -> io::Result<Standing> {
    let socket = SockRef::from(stream);
    match ask(&socket, to)? {
        Standing::Connected => Ok(Standing::Connected),
        // An ICMP "unreachable" that comes while the socket is inside a call (a router on this host answers as quickly
        // as that) leaves it connecting, with the error in SO_ERROR alone. Not asked for, the attempt would go on, and
        // the event loop would say "error" again at once, for as long as it lasts.
        Standing::Waiting => match socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(Standing::Waiting),
        },
    }
}

/// Whether a connection reached itself: a connect to a local port that nobody holds may be given that very port as
/// its own, and then succeeds (reliability B30).
pub fn is_to_itself(stream: &impl AsFd, to: SocketAddr) -> bool {
    // Only possible on our own machine; asked for loopback alone to spare everybody else the call.
    let own = || SockRef::from(stream).local_addr().ok()?.as_socket();
    to.ip().is_loopback() && own() == Some(to)
}

fn ask(socket: &Socket, to: SocketAddr) -> io::Result<Standing> {
    loop {
        let Err(error) = socket.connect(&to.into()) else {
            return Ok(Standing::Connected);
        };
        return match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ISCONN) => Ok(Standing::Connected),
            Some(Errno::INPROGRESS | Errno::ALREADY) => Ok(Standing::Waiting),
            Some(Errno::INTR) => continue,
            _ => Err(error),
        };
    }
}
