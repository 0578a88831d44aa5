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

use super::TlsSocket;
use crate::stream::{self, Wrapped};
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
    /// An error behind bytes that were handed out.
    failed: Option<io::Error>,
    tls: tokio_rustls::TlsStream<TlsSocket>,
}

// === impl TlsStream ===

impl TlsStream {
    pub fn new(tls: impl Into<tokio_rustls::TlsStream<TlsSocket>>, early: Bytes) -> Self {
        Self {
            early,
            unflushed: None,
            failed: None,
            tls: tls.into(),
        }
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        self.tls.get_ref().0.tcp()
    }

    /// What has arrived, in one step: TLS hands out one record at a time.
    fn poll_records(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        ready!(Pin::new(&mut self.tls).poll_read(cx, buf))?;
        while self.tls.get_ref().0.has_more() && buf.remaining() > 0 {
            let filled = buf.filled().len();
            match Pin::new(&mut self.tls).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() > filled => {}
                // The bytes before it go first.
                Poll::Ready(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
                Poll::Ready(Ok(())) | Poll::Pending => break,
            }
        }
        self.tls.get_mut().0.rest();
        Poll::Ready(Ok(()))
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
        match self.poll_records(cx, buf) {
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
        let tcp = self.tls.get_mut().0.tcp_mut();
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

    fn is_delivered(&self) -> Option<bool> {
        stream::is_delivered(self.socket())
    }
}

fn is_broken_tls(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
    )
}
