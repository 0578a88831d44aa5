//! Accepting: one call, and what its errors mean.
//!
//! accept(2) reports three different things as errors: a connection that died in the queue (go on), a shortage of this
//! process (wait a little), a listening socket that cannot work any more. Confusing them has killed listeners and kept
//! CPUs busy in other proxies (tokio#3529). An error that is not known is waited out like a shortage, because going on
//! at once would be a busy loop if it is permanent.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::SocketAddrAny;

/// What an error of accept asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// Only this connection is lost; go on at once.
    Skip,
    /// Go on after a pause: the process lacks something, or the error is not known.
    Wait,
    /// This socket cannot accept any more.
    Fatal,
}

/// Takes one connection off the queue, ready for an event loop; `WouldBlock` when the queue is empty.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match take(listener) {
            Ok((fd, peer)) => {
                let peer = peer
                    .and_then(|peer| SocketAddr::try_from(peer).ok())
                    // A socket for both families, which only a service manager passes, has IPv4 clients in IPv6's form.
                    .map(|peer| match peer.ip().to_canonical() {
                        IpAddr::V4(ip) => SocketAddr::from((ip, peer.port())),
                        IpAddr::V6(_) => peer,
                    })
                    // The peer is gone already; the first read will say so.
                    .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
                return Ok((TcpStream::from(fd), peer));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(all(target_os = "linux", not(entryway_portable)))]
fn take(listener: &TcpListener) -> Result<(OwnedFd, Option<SocketAddrAny>), Errno> {
    use rustix::net::{SocketFlags, acceptfrom_with};
    acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// Without accept4 the flags take a call each.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
fn take(listener: &TcpListener) -> Result<(OwnedFd, Option<SocketAddrAny>), Errno> {
    let (fd, peer) = rustix::net::acceptfrom(listener)?;
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok((fd, peer))
}

/// The class of an error of [`accept`].
pub fn classify(error: &io::Error) -> AcceptError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::BADF | Errno::NOTSOCK | Errno::INVAL | Errno::OPNOTSUPP) => AcceptError::Fatal,
        // EPERM: a firewall rule. The others are errors of the new connection that Linux passes on, see accept(2).
        Some(
            Errno::CONNABORTED
            | Errno::AGAIN
            | Errno::PROTO
            | Errno::PERM
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::TIMEDOUT,
        ) => AcceptError::Skip,
        // EMFILE, ENFILE, ENOBUFS, ENOMEM, and anything unknown.
        _ => AcceptError::Wait,
    }
}

// === impl AcceptError ===

impl AcceptError {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            AcceptError::Skip => "connection",
            AcceptError::Wait => "resource",
            AcceptError::Fatal => "fatal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let class = |errno: Errno| classify(&errno.into());
        assert_eq!(class(Errno::CONNABORTED), AcceptError::Skip);
        assert_eq!(class(Errno::PROTO), AcceptError::Skip);
        assert_eq!(class(Errno::MFILE), AcceptError::Wait);
        assert_eq!(class(Errno::NOBUFS), AcceptError::Wait);
        // A seccomp filter may answer with any number; it must not become a busy loop.
        assert_eq!(class(Errno::NOSYS), AcceptError::Wait);
        assert_eq!(class(Errno::ACCESS), AcceptError::Wait);
        assert_eq!(class(Errno::BADF), AcceptError::Fatal);
    }

    #[test]
    fn accepts_and_runs_dry() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_stream, peer) = accept(&listener).unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!(
            accept(&listener).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
