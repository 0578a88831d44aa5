//! One side of a pair, as a half sees it: receive, send, splice, finish; the sticky reset flag; the watch for errors.
//!
//! Owns the dealings with readiness. A receive or send that comes back short has proved that there is no more (no
//! more room), so it clears readiness at once and saves the second call that would say so: inside `try_io` the count is
//! kept aside and WouldBlock answered; tokio clears with the tick it had read, so an edge in between is kept, and an
//! end is never cleared. Never for splice: a short splice may only mean that the pipe was out of slots.
//! Urgent data is carried in line at best: a receive also stops short at the urgent mark, and what lies behind it
//! then waits for the next segment.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{Interest, ReadBuf, Ready};
use tokio::net::TcpStream;

use crate::stream::{Stream, Wrapped};
use crate::sys::pipe::{self, Moved, Pipe};
use crate::sys::socket::{self, Fault};
use crate::sys::tcp_info;

/// One side of a pair.
pub(super) struct Port<'a> {
    link: Link<'a>,
    /// Sticky: set by the first call on this side that reports a fault, never cleared. SO_ERROR is read-once, so the
    /// calls after it may show a clean end (bug 13).
    pub(super) reset: Option<Fault>,
    /// The first receive goes to the socket itself: the reactor has said nothing about a fresh socket yet.
    read_fresh: bool,
    /// The same for the first send.
    write_fresh: bool,
    /// Our own end was sent.
    finished: bool,
    watch: Watch<'a>,
}

enum Link<'a> {
    Tcp(&'a TcpStream),
    Wrapped(&'a mut dyn Wrapped),
}

/// Waits for an error on a side that nobody reads: half-closed, or its half waits for the other side.
enum Watch<'a> {
    Off,
    On(Pin<Box<dyn Future<Output = io::Result<Ready>> + Send + 'a>>),
    /// It has spoken; it would go on for ever.
    Done,
}

// === impl Port ===

impl<'a> Port<'a> {
    pub(super) fn new(stream: &'a mut Stream) -> Self {
        let link = match stream {
            Stream::Tcp(tcp) => Link::Tcp(tcp),
            Stream::Wrapped(wrapped) => Link::Wrapped(&mut **wrapped),
        };
        Self {
            link,
            reset: None,
            read_fresh: true,
            write_fresh: true,
            finished: false,
            watch: Watch::Off,
        }
    }

    pub(super) fn as_tcp(&self) -> Option<&'a TcpStream> {
        match self.link {
            Link::Tcp(tcp) => Some(tcp),
            Link::Wrapped(_) => None,
        }
    }

    /// Keeps a fault; the first one stands. `None`: the error says nothing about the peer.
    pub(super) fn flag(&mut self, error: &io::Error) -> Option<Fault> {
        let fault = match self.link {
            Link::Tcp(tcp) => socket::fault_on(tcp, error),
            Link::Wrapped(_) => socket::fault_of(error),
        }?;
        Some(*self.reset.get_or_insert(fault))
    }

    /// Whether the end that was just read is one: a connection that is over although we have not ended our half was
    /// reset, and somebody had taken its error before (bug 13). Sets the flag.
    pub(super) fn is_reset_after_all(&mut self) -> bool {
        if let Link::Tcp(tcp) = self.link
            && !self.finished
            && self.reset.is_none()
            && tcp_info::query(tcp).is_ok_and(|info| info.closed)
        {
            self.reset = Some(Fault::Reset);
        }
        self.reset.is_some()
    }

    /// Receives; 0 is the end.
    pub(super) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let tcp = match &mut self.link {
            Link::Tcp(tcp) => *tcp,
            Link::Wrapped(wrapped) => {
                let mut buf = ReadBuf::new(buf);
                ready!(Pin::new(&mut **wrapped).poll_read(cx, &mut buf))?;
                return Poll::Ready(Ok(buf.filled().len()));
            }
        };
        if std::mem::take(&mut self.read_fresh) {
            match socket::recv(tcp, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let mut short = None;
            let done = tcp.try_io(Interest::READABLE, || match socket::recv(tcp, buf) {
                Ok(bytes) if bytes > 0 && bytes < buf.len() => {
                    short = Some(bytes);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                other => other,
            });
            if let Some(done) = settled(done, short) {
                return Poll::Ready(done);
            }
        }
    }

    /// Sends what the peer takes; never `Ok(0)` for bytes.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let tcp = match &mut self.link {
            Link::Tcp(tcp) => *tcp,
            Link::Wrapped(wrapped) => {
                return match ready!(Pin::new(&mut **wrapped).poll_write(cx, buf)) {
                    Ok(0) if !buf.is_empty() => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                    other => Poll::Ready(other),
                };
            }
        };
        if std::mem::take(&mut self.write_fresh) {
            match socket::send(tcp, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            let mut short = None;
            let done = tcp.try_io(Interest::WRITABLE, || match socket::send(tcp, buf) {
                Ok(bytes) if bytes < buf.len() => {
                    short = Some(bytes);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                other => other,
            });
            if let Some(done) = settled(done, short) {
                return Poll::Ready(done);
            }
        }
    }

    /// Splices into an empty pipe. Pending means the source is dry (L1).
    pub(super) fn poll_splice_in(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<Moved>> {
        let Link::Tcp(tcp) = self.link else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let done = tcp.try_io(Interest::READABLE, || {
                pipe::splice_in(tcp, pipe, pipe::MOST)
            });
            if let Some(done) = settled(done, None) {
                return Poll::Ready(done);
            }
        }
    }

    /// Splices out of a pipe that holds bytes. Pending means the destination takes no more (L1).
    pub(super) fn poll_splice_out(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<NonZeroUsize>> {
        let Link::Tcp(tcp) = self.link else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            let done = tcp.try_io(Interest::WRITABLE, || pipe::splice_out(pipe, tcp));
            if let Some(done) = settled(done, None) {
                return Poll::Ready(done);
            }
        }
    }

    /// Lets a stream with buffers of its own send them; nothing to do for a socket.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.link {
            Link::Tcp(_) => Poll::Ready(Ok(())),
            Link::Wrapped(wrapped) => Pin::new(&mut **wrapped).poll_flush(cx),
        }
    }

    /// Sends our end.
    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.link {
            Link::Tcp(tcp) => {
                self.finished = true;
                Poll::Ready(socket::finish(*tcp))
            }
            Link::Wrapped(wrapped) => Pin::new(&mut **wrapped).poll_shutdown(cx),
        }
    }

    /// Looks for an error on a side that nobody reads now. True when this set the reset flag.
    pub(super) fn poll_watch(&mut self, cx: &mut Context<'_>) -> bool {
        let Link::Tcp(tcp) = self.link else {
            return false;
        };
        if self.reset.is_some() {
            return false;
        }
        if matches!(self.watch, Watch::Off) {
            // Boxed on first need and then kept: few connections ever come here.
            self.watch = Watch::On(Box::pin(tcp.ready(Interest::ERROR)));
        }
        let Watch::On(watch) = &mut self.watch else {
            return false;
        };
        if watch.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.watch = Watch::Done;
        // The one place that reads SO_ERROR, and it keeps what it says. A queue that is read on after this ends as if
        // clean; the flag says what that end is.
        socket::take_error(tcp).is_some_and(|error| self.flag(&error).is_some())
    }

    /// Whether nothing is left to be delivered: all sent bytes acknowledged, or nobody there any more.
    /// Where the kernel tells nothing (`None`), time must do.
    pub(super) fn is_delivered(&self) -> Option<bool> {
        let Link::Tcp(tcp) = self.link else {
            return Some(true);
        };
        match tcp_info::unsent(tcp) {
            Ok(0) => Some(true),
            Ok(_) => Some(tcp_info::query(tcp).is_ok_and(|info| info.closed)),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
            Err(_) => Some(true),
        }
    }

    /// Whether the kernel holds nothing for this side: neither unsent nor unread.
    pub(super) fn is_quiet(&self) -> bool {
        let Link::Tcp(tcp) = self.link else {
            return true;
        };
        tcp_info::unsent(tcp).unwrap_or(0) == 0 && tcp_info::unread(tcp).unwrap_or(0) == 0
    }

    /// Whether a send would be taken now, asked of the kernel.
    pub(super) fn is_writable(&self) -> bool {
        self.as_tcp().is_some_and(socket::is_writable)
    }

    /// The next send goes to the socket itself, whatever the reactor said.
    pub(super) fn distrust_reactor(&mut self) {
        self.write_fresh = true;
    }

    /// Makes the end of this side a reset; it goes out when the stream is dropped.
    pub(super) fn abort(&mut self) {
        match &mut self.link {
            Link::Tcp(tcp) => drop(socket::reset_on_close(*tcp)),
            Link::Wrapped(wrapped) => wrapped.abort(),
        }
    }
}

/// What a `try_io` came to: a short count that was kept aside, or its result; `None` when it is to be tried again
/// once the reactor has spoken.
fn settled<T>(done: io::Result<T>, short: Option<T>) -> Option<io::Result<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => short.map(Ok),
        done => Some(done),
    }
}

#[cfg(test)]
impl Port<'_> {
    /// Plays a lost wake-up: the reactor is made to believe that there is no room.
    pub(super) fn lose_writability(&mut self) {
        self.write_fresh = false;
        let Link::Tcp(tcp) = self.link else { return };
        let lost = |_| Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
        let _ = tcp.try_io(Interest::WRITABLE, || lost(()));
    }
}
