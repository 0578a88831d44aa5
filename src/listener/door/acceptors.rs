//! The accept loops of one listener: the same sockets on two data threads, error classes, pauses.
//!
//! Every thread has copies of the sockets in its own event loop, so whichever is awake accepts, and hands over only
//! what the spreading asks for. Measured against one loop on the first thread: connects 1.02 (p99 0.87), 64 KiB round
//! trips and the split of few connections the same. Not on more than two threads: each loop is woken by each client.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep};

use super::{Door, FIRST};
use crate::connection;
use crate::events::Reason;
use crate::life::{Blocker, Trigger, Watch, trigger};
use crate::metrics::family;
use crate::sys::accept::{AcceptError, accept, classify};

/// Threads that accept.
const THREADS: usize = 2;

/// Connections accepted in one go before others get a turn.
const BATCH: usize = 64;

/// Pause after an error about resources: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// The running accept loops of one listener.
#[derive(Debug)]
pub(super) struct Acceptors {
    stop: Trigger,
    broken: Arc<Notify>,
}

// === impl Acceptors ===

impl Acceptors {
    /// Starts them, each with copies of the sockets.
    pub(super) fn start(door: &Arc<Door>, sockets: &[TcpListener]) -> io::Result<Self> {
        let (stop, watch) = trigger();
        let broken = Arc::new(Notify::new());
        for thread in 0..door.spread.threads().min(THREADS) {
            let copies = sockets
                .iter()
                .map(TcpListener::try_clone)
                .collect::<io::Result<Vec<_>>>()?;
            let (door, watch, broken) = (Arc::clone(door), watch.clone(), Arc::clone(&broken));
            let blocker = watch.blocker();
            door.spread.clone().run_on(thread, move || async move {
                door.accept_on(thread, copies, watch, blocker).await;
                broken.notify_one();
            });
        }
        Ok(Self { stop, broken })
    }

    /// Resolves when one of them has ended by itself.
    pub(super) async fn broken(&self) {
        self.broken.notified().await;
    }

    /// Ends them; resolves when the last has let go of its sockets.
    pub(super) async fn stop(mut self) {
        self.stop.fire();
        self.stop.finished().await;
    }
}

// === impl Door ===

impl Door {
    /// The accept loops of one thread, until they are to stop or one of the sockets is broken.
    async fn accept_on(
        self: Arc<Self>,
        thread: usize,
        sockets: Vec<TcpListener>,
        mut stop: Watch,
        _blocker: Blocker,
    ) {
        let mut loops = JoinSet::new();
        let registered: io::Result<Vec<_>> = sockets.into_iter().map(register).collect();
        match registered {
            Ok(sockets) => {
                for socket in sockets {
                    loops.spawn_local(Arc::clone(&self).accept_from(thread, socket));
                }
            }
            Err(error) => return self.log_short(&error),
        }
        tokio::select! {
            () = stop.fired() => {}
            _ended = loops.join_next() => {}
        }
        // A socket is closed only when its last copy is.
        loops.shutdown().await;
    }

    /// The accept loop. Ends only when the socket is broken.
    async fn accept_from(self: Arc<Self>, thread: usize, socket: AsyncFd<TcpListener>) {
        let mut pause = PAUSE.0;
        loop {
            let Ok(mut ready) = socket.readable().await else {
                return;
            };
            for turn in 1.. {
                if turn % BATCH == 0 {
                    yield_now().await;
                }
                if !self.has_patience() {
                    sleep(PAUSE.0).await;
                    continue;
                }
                let error = match accept(socket.get_ref()) {
                    Ok((stream, client)) => {
                        self.admit(thread, stream, client);
                        pause = PAUSE.0;
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
                    .inc();
                match class {
                    AcceptError::Skip => {}
                    AcceptError::Wait => {
                        self.tell_short(&error);
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSE.1);
                    }
                    AcceptError::Fatal => return self.log_short(&error),
                }
            }
        }
    }

    /// Whether one more may be accepted now, if only to be turned away: the descriptors for that are counted too.
    fn has_patience(&self) -> bool {
        self.turned_away.load(Relaxed) < self.budget.turned_away
            || self.route.has_room(self.budget.max_connections)
    }

    fn admit(&self, thread: usize, stream: TcpStream, client: SocketAddr) {
        let most = self.budget.max_connections;
        if let Some(open) = connection::admit(client, &self.route, most) {
            return self.spread.serve(thread, stream, open);
        }
        let (route, away) = (Arc::clone(&self.route), Arc::clone(&self.turned_away));
        away.fetch_add(1, Relaxed);
        tokio::task::spawn_local(async move {
            connection::turn_away(stream, client, route, Reason::MaxConnections).await;
            away.fetch_sub(1, Relaxed);
        });
    }

    /// Accepts what is in the queue; on the first thread.
    pub(super) fn empty(&self, socket: &TcpListener) {
        loop {
            match accept(socket) {
                Ok((stream, client)) => self.admit(FIRST, stream, client),
                Err(error)
                    if classify(&error) == AcceptError::Skip
                        && error.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// One line a second, however often it happens, on however many threads.
    fn tell_short(&self, error: &io::Error) {
        let mut told = self
            .told_short
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            *told = Some(Instant::now());
            self.log_short(error);
        }
    }
}

/// Registers a listening socket with this thread's event loop.
#[expect(
    deprecated,
    reason = "its successor asks for a promise that the descriptor never changes; a TcpListener keeps it"
)]
fn register(socket: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    AsyncFd::new(socket)
}
