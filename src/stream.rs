//! A connected byte stream: a plain TCP socket, or anything else that reads, writes and can be aborted.
//!
//! An enum rather than a trait object throughout, so that the relay can ask "may this side be spliced?".

use std::fmt;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::sys::socket;

/// A stream that is not plain TCP: a duplex in tests; TLS or a pipe to a process later.
pub trait Wrapped: AsyncRead + AsyncWrite + Unpin + Send {
    /// Makes the end of this stream a reset: the peer must not take it for a clean end. It is dropped right after.
    fn abort(&mut self);
}

/// One side of a connection.
pub enum Stream {
    /// Plain TCP: may be spliced.
    Tcp(TcpStream),
    /// Anything else.
    Wrapped(Box<dyn Wrapped>),
}

// === impl Stream ===

impl Stream {
    /// The socket, where this is plain TCP.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(tcp) => Some(tcp),
            Stream::Wrapped(_) => None,
        }
    }

    /// Makes the end of this stream a reset; it goes out when the stream is dropped, which should be at once.
    pub fn abort(&mut self) {
        match self {
            // A refusal (the connection is over) leaves an ordinary close.
            Stream::Tcp(tcp) => drop(socket::reset_on_close(tcp)),
            Stream::Wrapped(wrapped) => wrapped.abort(),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Stream::Tcp(tcp)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stream::Tcp(tcp) => tcp.fmt(f),
            Stream::Wrapped(_) => f.write_str("Wrapped"),
        }
    }
}

impl Wrapped for tokio::io::DuplexStream {
    /// A duplex knows no reset; its end is all there is.
    fn abort(&mut self) {}
}
