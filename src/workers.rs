//! The data threads: one current-thread runtime each, and the distribution of connections over them.
//!
//! A connection stays on the thread it was given to. Measured 8–15 % better on round trips than a runtime that moves
//! tasks between threads, and few connections are distributed exactly.

use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::clock::{self, Moment};
use crate::connection::{self, ConnectionGuard, ThreadLoad};

/// A data thread that has not answered a ping for this long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Serves a connection on the thread that it was given to. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ConnectionHandler(Arc<Serve>);

type Serve =
    dyn Fn(TcpStream, Box<ConnectionGuard>) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync;

type WorkerJob = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The data threads. They run until [`Workers::stop`].
#[derive(Debug)]
pub struct Workers {
    dispatcher: Dispatcher,
    handles: Vec<JoinHandle<()>>,
}

/// How often a data thread's timer fires for nothing. The runtime wakes itself, by a write to its own eventfd, for every
/// timer that is due before all others; with this one there, those of half-open connections (minutes) are not. Measured:
/// one system call less for each connection that the client ends first.
const EARLIER_TIMER: Duration = Duration::from_secs(60);

/// Gives work to the data threads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    workers: Arc<[Worker]>,
    /// [`STUCK_AFTER`], less in tests.
    stuck_after: Duration,
}

#[derive(Debug)]
struct Worker {
    work: mpsc::UnboundedSender<Work>,
    /// Connections it serves.
    load: Arc<AtomicUsize>,
    /// When the oldest ping was sent that is not answered, in ms of [`Moment`], plus one; 0 = none.
    unanswered: Arc<AtomicU64>,
    /// The thread sleeps and waits for events: it cannot be stuck, and need not be asked.
    parked: Arc<AtomicBool>,
}

enum Work {
    Run(WorkerJob),
    Ping,
    Serve(TcpStream, Box<ConnectionGuard>, Option<ConnectionHandler>),
    Stop,
}

// === impl Workers ===

impl Workers {
    pub fn start(count: usize) -> io::Result<Self> {
        let mut workers = Vec::new();
        let mut handles = Vec::new();
        for number in 0..count.max(1) {
            let (sender, work) = mpsc::unbounded_channel();
            let unanswered = Arc::new(AtomicU64::new(0));
            let answered = Arc::clone(&unanswered);
            let parked = Arc::new(AtomicBool::new(false));
            let (parks, unparks) = (Arc::clone(&parked), Arc::clone(&parked));
            // A runtime is built on the thread where it runs; whether that worked is reported back.
            let (report, built) = std::sync::mpsc::sync_channel(1);
            let handle = std::thread::Builder::new()
                .name(format!("data-{number}"))
                .spawn(move || {
                    let options = LocalOptions::default();
                    match Builder::new_current_thread()
                        .enable_all()
                        .on_thread_park(move || parks.store(true, Relaxed))
                        .on_thread_unpark(move || unparks.store(false, Relaxed))
                        .build_local(options)
                    {
                        Ok(runtime) => {
                            let _ = report.send(Ok(()));
                            runtime.block_on(run(work, answered));
                        }
                        Err(error) => drop(report.send(Err(error))),
                    }
                })?;
            built
                .recv()
                .unwrap_or_else(|gone| Err(io::Error::other(gone)))?;
            handles.push(handle);
            workers.push(Worker {
                work: sender,
                load: Arc::default(),
                unanswered,
                parked,
            });
        }
        let dispatcher = Dispatcher {
            workers: workers.into(),
            stuck_after: STUCK_AFTER,
        };
        Ok(Self {
            dispatcher,
            handles,
        })
    }

    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Drops the tasks that still run, connections included, and waits for the threads to end.
    pub fn stop(self) {
        for worker in self.dispatcher.workers.iter() {
            let _ = worker.work.send(Work::Stop);
        }
        for handle in self.handles {
            // A panic outside of a connection's task was reported on standard error.
            let _ = handle.join();
        }
    }
}

/// The main task of a data thread.
async fn run(mut work: mpsc::UnboundedReceiver<Work>, unanswered: Arc<AtomicU64>) {
    tokio::task::spawn_local(async {
        loop {
            tokio::time::sleep(EARLIER_TIMER).await;
        }
    });
    while let Some(work) = work.recv().await {
        match work {
            Work::Run(job) => drop(tokio::task::spawn_local(job())),
            Work::Ping => unanswered.store(0, Relaxed),
            Work::Serve(stream, open, handler) => serve(stream, open, handler),
            Work::Stop => return,
        }
    }
}

/// In a task of its own, so that a panic ends only this connection.
fn serve(stream: TcpStream, open: Box<ConnectionGuard>, handler: Option<ConnectionHandler>) {
    // Two kinds of task: one that could do either would keep a place for both.
    match handler {
        None => drop(tokio::task::spawn_local(connection::serve(stream, open))),
        Some(handler) => drop(tokio::task::spawn_local((handler.0)(stream, open))),
    }
}

// === impl Handler ===

impl ConnectionHandler {
    pub(crate) fn new<F>(
        serve: impl Fn(TcpStream, Box<ConnectionGuard>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self(Arc::new(move |stream, guard| {
            Box::pin(serve(stream, guard))
        }))
    }
}

impl std::fmt::Debug for ConnectionHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handler")
    }
}

// === impl Dispatcher ===

impl Dispatcher {
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// Connections on each thread.
    pub fn loads(&self) -> Vec<usize> {
        self.workers
            .iter()
            .map(|worker| worker.load.load(Relaxed))
            .collect()
    }

    /// Runs a future on this data thread, counted from 0.
    pub fn run_on<F>(&self, thread: usize, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        // The receiver is gone only when the process ends.
        let _ = self.workers[thread]
            .work
            .send(Work::Run(Box::new(|| Box::pin(make()))));
    }

    /// Serves a connection on the least loaded thread. Called on thread `accepted_on`, which keeps the connection unless
    /// it has more than a quarter above the least loaded one: waking another thread costs more than that is worth.
    /// `handler`: what serves it, where not the relay alone.
    pub(crate) fn serve(
        &self,
        accepted_on: usize,
        stream: TcpStream,
        mut open: Box<ConnectionGuard>,
        handler: Option<&ConnectionHandler>,
    ) {
        let handler = handler.cloned();
        let own = &self.workers[accepted_on];
        let least = self
            .workers
            .iter()
            .filter(|worker| self.is_responsive(worker))
            .min_by_key(|worker| worker.load())
            .unwrap_or(own);
        let lowest = least.load();
        if own.load() <= lowest + lowest / 4 {
            open.set_load(ThreadLoad::new(&own.load));
            return serve(stream, open, handler);
        }
        open.set_load(ThreadLoad::new(&least.load));
        if let Err(unsent) = least.work.send(Work::Serve(stream, open, handler))
            && let Work::Serve(stream, mut open, handler) = unsent.0
        {
            // The thread is gone.
            open.set_load(ThreadLoad::new(&own.load));
            serve(stream, open, handler);
        }
    }

    /// Asks every thread for a sign of life; to be called about once a second.
    pub fn ping(&self) {
        for worker in self.workers.iter() {
            if worker.parked.load(Relaxed) {
                continue;
            }
            let now = clock::now().as_millis() + 1;
            let is_first = worker
                .unanswered
                .compare_exchange(0, now, Relaxed, Relaxed)
                .is_ok();
            if is_first {
                // Where the thread is gone, the ping stays unanswered.
                let _ = worker.work.send(Work::Ping);
            }
        }
    }

    /// The first thread from this turn on, in turns, that is not stuck; the turn's own where all are.
    pub fn responsive_from(&self, turn: usize) -> usize {
        let count = self.workers.len();
        let in_turn = (0..count).map(|step| (turn % count + step) % count);
        let mut responsive = in_turn.filter(|thread| self.is_responsive(&self.workers[*thread]));
        responsive.next().unwrap_or(turn % count)
    }

    fn is_responsive(&self, worker: &Worker) -> bool {
        worker.unresponsive_for() < self.stuck_after
    }

    /// How long the least responsive thread has left a ping unanswered.
    pub fn unresponsive_for(&self) -> Duration {
        let all = self.workers.iter().map(Worker::unresponsive_for);
        all.max().unwrap_or_default()
    }
}

// === impl Worker ===

impl Worker {
    fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    fn unresponsive_for(&self) -> Duration {
        match self.unanswered.load(Relaxed).checked_sub(1) {
            // No clock is read where everything is in order.
            None => Duration::ZERO,
            Some(since) => clock::now().since(Moment::at(Duration::from_millis(since))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::WhenAllDown;
    use crate::connection::tests::rig::{Rig, policy};

    #[test]
    fn run_work_and_end() {
        let workers = Workers::start(2).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        workers.dispatcher().run_on(0, move || async move {
            tokio::task::spawn_local(async move { tell.send(7).unwrap() });
        });
        assert_eq!(told.recv().unwrap(), 7);
        assert_eq!(workers.dispatcher().loads(), [0, 0]);
        workers.stop();
    }

    #[tokio::test]
    async fn a_stuck_thread_is_seen_and_given_no_work() {
        let mut workers = Workers::start(2).unwrap();
        workers.dispatcher.stuck_after = Duration::from_millis(15);
        let dispatcher = workers.dispatcher();
        let (block, blocked) = std::sync::mpsc::channel::<()>();
        let (report, reported) = std::sync::mpsc::channel();
        dispatcher.run_on(1, move || async move {
            report.send(()).unwrap();
            // Blocks the thread itself, as a bug would.
            let _ = blocked.recv();
        });
        reported.recv().unwrap();
        dispatcher.ping();
        let began = tokio::time::Instant::now();
        while dispatcher.workers[0].unresponsive_for() > Duration::ZERO {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        while dispatcher.unresponsive_for() < Duration::from_millis(15) {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        assert_eq!(dispatcher.workers[0].unresponsive_for(), Duration::ZERO);
        // No connection goes there, although it has none and looks the least loaded; nor a gateway's handshake.
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                // Clients wait there, because there is nowhere to go.
                let rig = Rig::new(&[], policy(WhenAllDown::Hold, 1000)).await;
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let mut clients = Vec::new();
                for _ in 0..4 {
                    clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
                    let (stream, client) = listener.accept().unwrap();
                    stream.set_nonblocking(true).unwrap();
                    let open = connection::admit(client, &rig.context, 100).unwrap();
                    dispatcher.serve(0, stream, open, None);
                }
                assert_eq!(dispatcher.loads(), [4, 0]);
            })
            .await;
        assert_eq!(
            [0, 1, 2, 3].map(|turn| dispatcher.responsive_from(turn)),
            [0; 4]
        );
        drop(local);
        drop(block);
        while dispatcher.unresponsive_for() > Duration::ZERO {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        workers.stop();
    }
}
