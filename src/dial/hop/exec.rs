//! A command per connection: its standard input and output are the stream.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::command::{self, HopPlaceholders, LastLines, RunningCommand};
use super::{HopFault, Opening, Reached, Refusal, Via};
use crate::addr::HostPort;
use crate::stream::{Stream, Wrapped};
use crate::sys::socket;

#[derive(Debug)]
pub(super) struct Exec {
    pub(super) words: Vec<String>,
    pub(super) output: LastLines,
}

/// Our end of a socket pair whose other end is the command's standard input and output. A socket pair, unlike two pipes,
/// is one descriptor here, and knows a half-close.
#[derive(Debug)]
struct ExecStream {
    socket: UnixStream,
    /// Dropped with the stream: ends the command.
    _closed: oneshot::Sender<()>,
}

// === impl Exec ===

impl Exec {
    fn start(&self, to: &HostPort) -> Result<ExecStream, HopFault> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let stdin = OwnedFd::from(theirs.try_clone()?);
        let stdout = OwnedFd::from(theirs);
        let places = HopPlaceholders {
            target: Some(to),
            local_port: None,
        };
        let running = command::start(&self.words, places, Some((stdin, stdout)), &self.output)?;
        ours.set_nonblocking(true)?;
        let (closed, is_closed) = oneshot::channel();
        tokio::spawn(reap(running, is_closed));
        Ok(ExecStream {
            socket: UnixStream::from_std(ours)?,
            _closed: closed,
        })
    }
}

/// Waits for the end of the command; ends it where the stream is closed before.
async fn reap(mut running: RunningCommand, is_closed: oneshot::Receiver<()>) {
    tokio::select! {
        _status = running.ended() => {}
        _dropped = is_closed => running.end().await,
    }
}

impl Via for Exec {
    fn open<'a>(&'a self, to: &'a HostPort, _limit: Duration) -> Opening<'a> {
        Box::pin(async move {
            let stream = self.start(to).map_err(Refusal::from)?;
            Ok(Reached {
                stream: Stream::Wrapped(Box::new(stream)),
                lease: None,
            })
        })
    }
}

// === impl ExecStream ===

impl AsyncRead for ExecStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for ExecStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Wrapped for ExecStream {
    /// A command knows no reset; it is ended when the stream is dropped.
    fn abort(&mut self) {}

    fn move_here(&mut self) -> io::Result<()> {
        let own = self.socket.as_fd().try_clone_to_owned()?;
        self.socket = UnixStream::from_std(own.into())?;
        Ok(())
    }

    fn is_open(&self) -> bool {
        socket::is_open(&self.socket)
    }
}
