//! A connected byte stream: a plain TCP socket, or anything else that reads, writes and can be aborted.
//!
//! An enum rather than a trait object throughout, so that the relay can ask "may this side be spliced?".

use std::fmt;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::sys::socket::{self, TcpOptions};
use crate::sys::tcp_info;

/// A stream that is not plain TCP: TLS, a pair of sockets to a command, a duplex in tests.
pub trait Wrapped: AsyncRead + AsyncWrite + Unpin + Send {
    /// Makes the end of this stream a reset: the peer must not take it for a clean end. It is dropped right after.
    fn abort(&mut self);

    /// Registers it with the event loop of the calling thread; it was made on another one and is used here from now on.
    fn move_here(&mut self) -> io::Result<()>;

    /// Sets keepalive and user timeout of the TCP connection below, where there is one.
    fn set_options(&self, _options: &TcpOptions) {}

    /// Whether the other side has neither ended nor reset it, as far as this machine knows.
    fn is_open(&self) -> bool;

    /// As [`is_delivered`], of the TCP connection below, where there is one.
    fn is_delivered(&self) -> Option<bool> {
        Some(true)
    }
}

/// Whether nothing is left to be delivered: all sent bytes are acknowledged, or the peer is gone. `None` where the kernel
/// does not tell.
pub fn is_delivered(tcp: &TcpStream) -> Option<bool> {
    match tcp_info::unsent(tcp) {
        Ok(0) => Some(true),
        Ok(_) => Some(socket::is_over(tcp)),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
        Err(_) => Some(true),
    }
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

    /// Sets keepalive and user timeout. A refusal leaves the stream without them.
    pub fn set_options(&self, options: &TcpOptions) {
        match self {
            Stream::Tcp(tcp) => drop(socket::keepalive(tcp, options)),
            Stream::Wrapped(wrapped) => wrapped.set_options(options),
        }
    }

    /// Registers it with the event loop of the calling thread, on which it is used from now on. Where that fails it goes
    /// on with the one that it had.
    pub fn move_here(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(tcp) => {
                let own = tcp.as_fd().try_clone_to_owned()?;
                *tcp = TcpStream::from_std(own.into())?;
                Ok(())
            }
            Stream::Wrapped(wrapped) => wrapped.move_here(),
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

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Wrapped(wrapped) => Pin::new(wrapped).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Wrapped(wrapped) => Pin::new(wrapped).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Wrapped(wrapped) => Pin::new(wrapped).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Wrapped(wrapped) => Pin::new(wrapped).poll_shutdown(cx),
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

    fn move_here(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn is_open(&self) -> bool {
        true
    }
}
