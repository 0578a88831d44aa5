//! I/O on one side of a connection: receive, send, splice, finish; the sticky reset flag; the watch for errors.
//!
//! Owns readiness. A receive or send that comes back short has proved that there is no more (no more room), so it
//! clears readiness at once and saves the second call that would say so: inside `try_io` the count is kept aside and
//! WouldBlock returned; tokio clears with the tick it had read, so an edge in between is kept, and an end is never
//! cleared. Never for splice: a short splice may only mean that the pipe was out of slots.
//!
//! Urgent data: a receive stops short at the urgent mark, which proves nothing (`relay/urgent.rs`), and the next one
//! steps over the urgent byte, as it does for a program that does not ask for urgent data. A splice never passes the mark: it
//! returns nothing, which looks like an end, or WouldBlock, which looks dry.

use std::future::{self, Future};
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{Interest, ReadBuf, Ready};
use tokio::net::TcpStream;

use crate::stream::{self, Stream, Wrapped};
use crate::sys::pipe::{self, Moved, Pipe};
use crate::sys::socket::{self, Fault, TcpOptions};
use crate::sys::tcp_info;

use super::urgent::{UrgentMark, UrgentNews};

/// One side of a connection.
pub(super) struct SideIo<'a> {
    transport: Transport<'a>,
    /// Sticky: set by the first call on this side that reports a fault, never cleared. SO_ERROR is read-once, so the
    /// calls after it may show a clean end.
    pub(super) reset: Option<Fault>,
    /// The next receive goes to the socket itself: the reactor has reported nothing about a fresh socket yet.
    read_fresh: bool,
    /// The same for the next send.
    write_fresh: bool,
    /// Our own end was sent.
    finished: bool,
    /// Waits for an error while this side is not read: half-closed, or its direction waits for the other side. Never
    /// ready again once it has reported one.
    watch: Option<ErrorWatch<'a>>,
    urgent: UrgentMark,
}

enum Transport<'a> {
    Tcp(&'a TcpStream),
    Wrapped(&'a mut dyn Wrapped),
}

type ErrorWatch<'a> = Pin<Box<dyn Future<Output = io::Result<Ready>> + Send + 'a>>;

/// What the kernel knows of sent bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeliveryState {
    /// Sent, or accepted for sending, and not acknowledged.
    pub(super) unsent: bool,
    /// Segments under way.
    pub(super) in_flight: bool,
    /// Probes of a closed window that were not answered.
    pub(super) probes: bool,
    /// Time since the last acknowledgement.
    pub(super) last_ack: Duration,
}

// === impl SideIo ===

impl<'a> SideIo<'a> {
    pub(super) fn new(stream: &'a mut Stream) -> Self {
        let transport = match stream {
            Stream::Tcp(tcp) => Transport::Tcp(tcp),
            Stream::Wrapped(wrapped) => Transport::Wrapped(&mut **wrapped),
        };
        Self {
            transport,
            reset: None,
            read_fresh: true,
            write_fresh: true,
            finished: false,
            watch: None,
            urgent: UrgentMark::new(),
        }
    }

    /// Our end was sent before this was made.
    pub(super) fn set_finished(&mut self) {
        self.finished = true;
    }

    pub(super) fn as_tcp(&self) -> Option<&'a TcpStream> {
        match self.transport {
            Transport::Tcp(tcp) => Some(tcp),
            Transport::Wrapped(_) => None,
        }
    }

    /// Keeps a fault; the first one stands. `None`: the error says nothing about the peer.
    pub(super) fn flag(&mut self, error: &io::Error) -> Option<Fault> {
        let fault = match self.transport {
            Transport::Tcp(tcp) => socket::fault_on(tcp, error),
            Transport::Wrapped(_) => socket::fault_of(error),
        }?;
        Some(*self.reset.get_or_insert(fault))
    }

    /// Whether the end that was just read is in truth a reset: a connection that is over although we have not ended our
    /// side was reset, and its error had been taken before. Sets the flag.
    pub(super) fn is_reset_after_all(&mut self) -> bool {
        if let Transport::Tcp(tcp) = self.transport
            && !self.finished
            && self.reset.is_none()
            && socket::is_over(tcp)
        {
            self.reset = Some(Fault::Reset);
        }
        self.reset.is_some()
    }

    /// Receives; 0 is the end. `news`: of urgent data, which ends a receive early.
    pub(super) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
        news: &UrgentNews,
    ) -> Poll<io::Result<usize>> {
        let tcp = match &mut self.transport {
            Transport::Tcp(tcp) => *tcp,
            Transport::Wrapped(wrapped) => {
                let mut buf = ReadBuf::new(buf);
                ready!(Pin::new(&mut **wrapped).poll_read(cx, &mut buf))?;
                return Poll::Ready(Ok(buf.filled().len()));
            }
        };
        if std::mem::take(&mut self.read_fresh) {
            match socket::recv(tcp, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(bytes) => {
                    // There may be more, of which the reactor says nothing new.
                    self.read_fresh = bytes == buf.len() || self.urgent.stopped(tcp, bytes, news);
                    return Poll::Ready(Ok(bytes));
                }
                done => return Poll::Ready(done),
            }
        }
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let mut short = None;
            let done = tcp.try_io(Interest::READABLE, || match socket::recv(tcp, buf) {
                Ok(bytes)
                    if bytes > 0 && bytes < buf.len() && !self.urgent.stopped(tcp, bytes, news) =>
                {
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
        let tcp = match &mut self.transport {
            Transport::Tcp(tcp) => *tcp,
            Transport::Wrapped(wrapped) => {
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

    /// Splices at most `most` bytes into an empty pipe. Pending means that the source is dry (L1) or at the urgent
    /// mark.
    pub(super) fn poll_splice_in(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: u64,
    ) -> Poll<io::Result<Moved>> {
        let Transport::Tcp(tcp) = self.transport else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let most = usize::try_from(most).map_or(pipe::MOST, |most| most.min(pipe::MOST));
        if std::mem::take(&mut self.read_fresh) {
            match pipe::splice_in(tcp, pipe, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    self.read_fresh = true;
                    return Poll::Ready(done);
                }
            }
        }
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let done = tcp.try_io(Interest::READABLE, || pipe::splice_in(tcp, pipe, most));
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
        let Transport::Tcp(tcp) = self.transport else {
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
        match &mut self.transport {
            Transport::Tcp(_) => Poll::Ready(Ok(())),
            Transport::Wrapped(wrapped) => Pin::new(&mut **wrapped).poll_flush(cx),
        }
    }

    /// Sends our end.
    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => {
                self.finished = true;
                Poll::Ready(socket::finish(*tcp))
            }
            Transport::Wrapped(wrapped) => Pin::new(&mut **wrapped).poll_shutdown(cx),
        }
    }

    /// Looks for an error on a side that is not read now. True when this set the reset flag.
    pub(super) fn poll_watch(&mut self, cx: &mut Context<'_>) -> bool {
        let Transport::Tcp(tcp) = self.transport else {
            return false;
        };
        if self.reset.is_some() {
            return false;
        }
        // Boxed on first need and then kept: few connections ever come here.
        let watch = self
            .watch
            .get_or_insert_with(|| Box::pin(tcp.ready(Interest::ERROR)));
        if watch.as_mut().poll(cx).is_pending() {
            return false;
        }
        // It would report the same for ever.
        *watch = Box::pin(future::pending());
        // The one place that reads SO_ERROR, and it keeps what it says. A queue that is read on after this ends as if
        // clean; the flag says what that end is.
        socket::take_error(tcp).is_some_and(|error| self.flag(&error).is_some())
    }

    /// Whether nothing is left to be delivered: all sent bytes are acknowledged, or the peer is gone. `None` where the
    /// kernel does not tell.
    pub(super) fn is_delivered(&self) -> Option<bool> {
        match &self.transport {
            Transport::Tcp(tcp) => stream::is_delivered(tcp),
            Transport::Wrapped(wrapped) => wrapped.is_delivered(),
        }
    }

    /// Whether bytes have arrived that were not read.
    pub(super) fn has_unread(&self) -> bool {
        self.as_tcp()
            .is_some_and(|tcp| tcp_info::unread(tcp).is_ok_and(|bytes| bytes > 0))
    }

    /// Whether bytes were sent that the peer's kernel has not acknowledged.
    pub(super) fn has_unsent(&self) -> bool {
        self.as_tcp()
            .is_some_and(|tcp| tcp_info::unsent(tcp).is_ok_and(|bytes| bytes > 0))
    }

    pub(super) fn is_at_urgent_mark(&self) -> bool {
        self.as_tcp().is_some_and(tcp_info::is_at_urgent_mark)
    }

    /// The next receive goes to the socket itself, whatever the reactor said.
    pub(super) fn force_next_receive(&mut self) {
        self.read_fresh = true;
    }

    /// What the kernel knows of sent bytes; `None` where there is nothing to know, or it does not tell.
    pub(super) fn delivery_state(&self) -> Option<DeliveryState> {
        let tcp = self.as_tcp()?;
        let unsent = tcp_info::unsent(tcp).ok()?;
        let info = tcp_info::query(tcp).ok()?;
        Some(DeliveryState {
            unsent: unsent > 0,
            in_flight: info.unacked > 0,
            probes: info.probes > 0,
            last_ack: info.last_ack,
        })
    }

    /// Whether segments of full size were lost again and again, ours or the peer's: they are stuck although small ones
    /// passed before.
    pub(super) fn loses_full_segments(&self) -> bool {
        let Some(tcp) = self.as_tcp() else {
            return false;
        };
        let is_stuck = tcp_info::query(tcp).is_ok_and(|info| {
            info.total_retransmits >= 2
                && tcp_info::unsent(tcp).is_ok_and(|unsent| unsent >= info.mss)
        });
        is_stuck || tcp_info::out_of_order_segments(tcp).is_ok_and(|segments| segments > 0)
    }

    /// Sets keepalive and user timeout. What the kernel refuses was said when the settings were taken.
    pub(super) fn set_options(&self, options: &TcpOptions) {
        match &self.transport {
            Transport::Tcp(tcp) => drop(socket::keepalive(*tcp, options)),
            Transport::Wrapped(wrapped) => wrapped.set_options(options),
        }
    }

    /// The kernel's own limit on unacknowledged bytes.
    pub(super) fn set_user_timeout(&self, timeout: Option<Duration>) {
        if let Some(tcp) = self.as_tcp() {
            // Refused, it stays as it is: a slow reader may be cut as before.
            let _ = socket::user_timeout(tcp, timeout);
        }
    }

    /// Whether a send would be taken now, asked of the kernel.
    pub(super) fn is_writable(&self) -> bool {
        self.as_tcp().is_some_and(socket::is_writable)
    }

    /// The next send goes to the socket itself, whatever the reactor said.
    pub(super) fn force_next_send(&mut self) {
        self.write_fresh = true;
    }

    /// Makes the end of this side a reset; it goes out when the stream is dropped.
    pub(super) fn abort(&mut self) {
        match &mut self.transport {
            Transport::Tcp(tcp) => drop(socket::reset_on_close(*tcp)),
            Transport::Wrapped(wrapped) => wrapped.abort(),
        }
    }
}

/// The result of a `try_io`: a short count that was kept aside, or its own; `None` when it is to be tried again once
/// the reactor has reported readiness.
fn settled<T>(done: io::Result<T>, short: Option<T>) -> Option<io::Result<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => short.map(Ok),
        done => Some(done),
    }
}

#[cfg(test)]
impl SideIo<'_> {
    /// Simulates a lost wake-up: the reactor is made to believe that there is no room.
    pub(super) fn lose_writability(&mut self) {
        self.write_fresh = false;
        let Transport::Tcp(tcp) = self.transport else {
            return;
        };
        let lost = |_| Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
        let _ = tcp.try_io(Interest::WRITABLE, || lost(()));
    }
}
