//! An accepted connection: cuts it after idle time, as load balancers do, and can end it by a reset.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::zone::Zone;

pub(super) struct MockStream {
    inner: TcpStream,
    zone: Arc<Zone>,
    /// When the last byte went either way.
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// Nothing was read since the last byte of an answer.
    at_rest: bool,
    /// How often the zone had forgotten its connections when this one was made.
    made_after: u64,
    /// Whether closing this connection resets it.
    reset: Arc<AtomicBool>,
}

// === impl MockStream ===

impl MockStream {
    pub(super) fn new(inner: TcpStream, zone: Arc<Zone>, reset: Arc<AtomicBool>) -> Self {
        Self {
            inner,
            last: Instant::now(),
            timer: None,
            at_rest: true,
            made_after: zone.forgotten.load(Relaxed),
            zone,
            reset,
        }
    }

    /// An error once the connection has been forgotten; the reset follows when it is dropped.
    fn check_forgotten(&self, is_lost: bool) -> io::Result<()> {
        let limit = self.zone.behaviour.load().idle_cut_silent;
        if is_lost || limit.is_some_and(|limit| self.last.elapsed() >= limit) {
            self.reset.store(true, Relaxed);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    fn before_write(&mut self) -> io::Result<()> {
        self.check_forgotten(false)?;
        self.record_activity();
        self.at_rest = true;
        Ok(())
    }

    fn record_activity(&mut self) {
        let behaviour = self.zone.behaviour.load();
        if behaviour.idle_cut.is_some() || behaviour.idle_cut_silent.is_some() {
            self.last = Instant::now();
        }
    }

    fn poll_idle(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.last + limit;
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }
}

impl AsyncRead for MockStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, buf) {
            if buf.filled().len() > before {
                let is_lost = this.at_rest && this.made_after != this.zone.forgotten.load(Relaxed);
                this.check_forgotten(is_lost)?;
                this.record_activity();
                this.at_rest = false;
            }
            return Poll::Ready(read);
        }
        let limit = this.zone.behaviour.load().idle_cut;
        match limit {
            Some(limit) => this
                .poll_idle(limit, cx)
                .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "idle"))),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for MockStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.before_write()?;
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.before_write()?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A FIN sent now would hide the reset that follows.
        if self.reset.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Drop for MockStream {
    fn drop(&mut self) {
        if self.reset.load(Relaxed) {
            // If it fails the connection is gone already.
            let _ = SockRef::from(&self.inner).set_linger(Some(Duration::ZERO));
        }
    }
}
