//! A TLS connection as a [`Wrapped`] stream: a clean end is close_notify and FIN, an abort is a reset of the socket.
//!
//! An end of the socket without close_notify is an error when read (`UnexpectedEof`), so that a truncated stream never
//! passes for a complete one.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::stream::Wrapped;
use crate::sys::socket::{self, TcpOptions};

/// One TLS connection, either role. Bytes that a handshake inside TLS has read too far come first.
///
/// A write is reported once the records it became are in the socket, not when TLS has buffered them: a relay that waits
/// for the next bytes to send would never flush what is left. A caller whose write is pending must therefore offer the
/// same bytes again, as every copy loop does.
#[derive(Debug)]
pub struct TlsStream {
    early: Bytes,
    /// Bytes of a pending write that TLS has taken and the socket has not.
    unflushed: Option<usize>,
    tls: tokio_rustls::TlsStream<TcpStream>,
}

// === impl TlsStream ===

impl TlsStream {
    pub fn new(tls: impl Into<tokio_rustls::TlsStream<TcpStream>>, early: Bytes) -> Self {
        Self {
            early,
            unflushed: None,
            tls: tls.into(),
        }
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        self.tls.get_ref().0
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.has_remaining() {
            let length = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(length));
            return Poll::Ready(Ok(()));
        }
        match Pin::new(&mut self.tls).poll_read(cx, buf) {
            // Truncated or damaged: to the other side this connection was reset.
            Poll::Ready(Err(error)) if is_broken_tls(&error) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)))
            }
            other => other,
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = match this.unflushed.take() {
            Some(taken) => taken,
            None => ready!(Pin::new(&mut this.tls).poll_write(cx, buf))?,
        };
        match Pin::new(&mut this.tls).poll_flush(cx) {
            Poll::Ready(flushed) => Poll::Ready(flushed.map(|()| taken)),
            Poll::Pending => {
                this.unflushed = Some(taken);
                Poll::Pending
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

impl Wrapped for TlsStream {
    fn abort(&mut self) {
        // Refused only where the connection is over already.
        drop(socket::reset_on_close(self.socket()));
    }

    fn move_here(&mut self) -> io::Result<()> {
        let (tcp, _) = self.tls.get_mut();
        let own = tcp.as_fd().try_clone_to_owned()?;
        *tcp = TcpStream::from_std(own.into())?;
        Ok(())
    }

    fn set_options(&self, options: &TcpOptions) {
        let _ = socket::keepalive(self.socket(), options);
    }

    fn is_open(&self) -> bool {
        socket::is_open(self.socket())
    }
}

fn is_broken_tls(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
    )
}
