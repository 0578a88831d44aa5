//! The accept loops of one listener: the same sockets on two data threads, error classes, pauses.
//!
//! Every thread has copies of the sockets in its own event loop, so whichever is awake accepts, and passes on only
//! what the dispatcher asks for. Measured against one loop on the first thread: connects 1.02 (p99 0.87), 64 KiB round
//! trips and the distribution of few connections the same. Not on more than two threads: each client wakes each loop.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

use super::{FIRST, Listener};
use crate::connection;
use crate::drain::{self, DrainBlocker, DrainTrigger, DrainWatcher};
use crate::events::Reason;
use crate::metrics::family;
use crate::sys::accept::{AcceptError, accept, classify};
use crate::sys::limits::ACCEPTING;
use crate::sys::socket::reset_on_close;

/// Connections accepted in a row before the task yields.
const BATCH: usize = 64;

/// Pause after an error about resources: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// The running accept loops of one listener.
#[derive(Debug)]
pub(super) struct AcceptLoops {
    stop: DrainTrigger,
    failed: Arc<Notify>,
}

// === impl AcceptLoops ===

impl AcceptLoops {
    /// Starts them, each with copies of the sockets.
    pub(super) fn start(listener: &Arc<Listener>, sockets: &[TcpListener]) -> io::Result<Self> {
        let (stop, watch) = drain::channel();
        let failed = Arc::new(Notify::new());
        for thread in 0..listener.dispatcher.threads().min(ACCEPTING) {
            let copies = sockets
                .iter()
                .map(TcpListener::try_clone)
                .collect::<io::Result<Vec<_>>>()?;
            let (listener, watch, failed) =
                (Arc::clone(listener), watch.clone(), Arc::clone(&failed));
            let blocker = watch.blocker();
            listener
                .dispatcher
                .clone()
                .run_on(thread, move || async move {
                    listener.accept_on(thread, copies, watch, blocker).await;
                    failed.notify_one();
                });
        }
        Ok(Self { stop, failed })
    }

    /// Resolves when one of them has ended because of an error.
    pub(super) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Ends them; resolves when the last has closed its copies of the sockets.
    pub(super) async fn stop(mut self) {
        self.stop.fire();
        self.stop.finished().await;
    }
}

// === impl Listener ===

impl Listener {
    /// The accept loops of one thread, until they are to stop or one of the sockets fails.
    async fn accept_on(
        self: Arc<Self>,
        thread: usize,
        sockets: Vec<TcpListener>,
        mut stop: DrainWatcher,
        _blocker: DrainBlocker,
    ) {
        let mut loops = JoinSet::new();
        let registered: io::Result<Vec<_>> = sockets.into_iter().map(register).collect();
        match registered {
            Ok(sockets) => {
                for socket in sockets {
                    loops.spawn_local(Arc::clone(&self).accept_from(thread, socket));
                }
            }
            Err(error) => return self.route.accept_failed(&error),
        }
        tokio::select! {
            () = stop.fired() => {}
            _ended = loops.join_next() => {}
        }
        // A socket is closed only when its last copy is.
        loops.shutdown().await;
    }

    /// The accept loop. Ends only when the socket fails.
    async fn accept_from(self: Arc<Self>, thread: usize, socket: AsyncFd<TcpListener>) {
        let wildcard = is_wildcard(socket.get_ref());
        let mut pause = PAUSE.0;
        let mut skipped = 0;
        loop {
            let Ok(mut ready) = socket.readable().await else {
                return;
            };
            for turn in 1.. {
                if turn % BATCH == 0 {
                    yield_now().await;
                }
                let error = match accept(socket.get_ref()) {
                    Ok((stream, client)) => {
                        self.admit(thread, stream, client, wildcard);
                        (pause, skipped) = (PAUSE.0, 0);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) => error,
                };
                let class = classify(&error);
                self.metrics
                    .counter(&family::ACCEPT_ERRORS, &[class.as_str()])
                    .increment(1);
                match class {
                    // So many lost connections in a row are none: the error is permanent.
                    AcceptError::Skip if skipped < BATCH => skipped += 1,
                    AcceptError::Skip | AcceptError::Wait => {
                        self.route.accept_failed(&error);
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSE.1);
                    }
                    AcceptError::Fatal => return self.route.accept_failed(&error),
                }
            }
        }
    }

    fn admit(&self, thread: usize, stream: TcpStream, client: SocketAddr, wildcard: bool) {
        if wildcard {
            self.settings.load().apply(&stream, client.ip());
        }
        if self.is_shared() && self.route.is_refusing() {
            // As a closed port answers, which this one cannot be.
            let _ = reset_on_close(&stream);
            return;
        }
        let most = self.budget.max_connections;
        if let Some(open) = connection::admit(client, &self.route, most) {
            return self
                .dispatcher
                .serve(thread, stream, open, self.handler.as_ref());
        }
        self.log_limit();
        let route = Arc::clone(&self.route);
        let close_now = self.rejections.enter();
        tokio::task::spawn_local(async move {
            tokio::select! {
                // It is counted and logged even if its socket has to go at once.
                biased;
                () = connection::reject(stream, client, route, Reason::MaxConnections) => {}
                _ = close_now => {}
            }
        });
    }

    /// Accepts everything in the queue; on the first thread.
    pub(super) fn accept_queue(&self, socket: &TcpListener) {
        let wildcard = is_wildcard(socket);
        loop {
            match accept(socket) {
                Ok((stream, client)) => self.admit(FIRST, stream, client, wildcard),
                Err(error)
                    if classify(&error) == AcceptError::Skip
                        && error.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

fn is_wildcard(socket: &TcpListener) -> bool {
    socket
        .local_addr()
        .is_ok_and(|address| address.ip().is_unspecified())
}

/// Registers a listening socket with this thread's event loop.
#[expect(
    deprecated,
    reason = "its successor wants a guarantee that the descriptor never changes; a TcpListener gives it"
)]
fn register(socket: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    AsyncFd::new(socket)
}
