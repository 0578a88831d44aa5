//! A connected stream that nobody uses yet, for whichever thread takes it.

use std::fmt;
use std::io;
use std::net::TcpStream as StdStream;

use tokio::net::TcpStream;

use super::hop::Lease;
use crate::stream::{Stream, Wrapped};
use crate::sys::socket::{self, TcpOptions};

/// What a connect for a spare has brought.
#[derive(Debug)]
pub(super) struct NewSpare {
    pub(super) stream: SpareStream,
    pub(super) lease: Option<Lease>,
    /// The handshake had finished when `connect` returned, as it does where the other end is on this machine.
    pub(super) is_local: bool,
}

/// A stream that waits for the thread that takes it.
pub(super) enum SpareStream {
    /// Not registered with any event loop.
    Tcp(StdStream),
    /// Registered where it was made.
    Wrapped(Box<dyn Wrapped>),
}

// === impl SpareStream ===

impl SpareStream {
    pub(super) fn new(stream: Stream) -> io::Result<Self> {
        Ok(match stream {
            Stream::Tcp(tcp) => Self::Tcp(tcp.into_std()?),
            Stream::Wrapped(wrapped) => Self::Wrapped(wrapped),
        })
    }

    /// The stream, on the event loop of the calling thread.
    pub(super) fn take_here(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(tcp) => Stream::from(TcpStream::from_std(tcp)?),
            Self::Wrapped(mut wrapped) => {
                wrapped.move_here()?;
                Stream::Wrapped(wrapped)
            }
        })
    }

    pub(super) fn set_options(&self, options: &TcpOptions) {
        match self {
            Self::Tcp(tcp) => drop(socket::keepalive(tcp, options)),
            Self::Wrapped(wrapped) => wrapped.set_options(options),
        }
    }

    /// Whether, unused, it has received neither an end nor a reset. Bytes of a server that speaks first stay in the
    /// socket for the client that takes it.
    pub(super) fn is_alive(&self) -> bool {
        match self {
            Self::Tcp(tcp) => match tcp.peek(&mut [0]) {
                Ok(read) => read > 0,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            },
            Self::Wrapped(wrapped) => wrapped.is_open(),
        }
    }
}

impl fmt::Debug for SpareStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(tcp) => tcp.fmt(f),
            Self::Wrapped(_) => f.write_str("Wrapped"),
        }
    }
}
