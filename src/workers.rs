//! The data threads: one current-thread runtime each, and the distribution of connections over them.
//!
//! A connection stays on the thread it was given to. Measured 8–15 % better on round trips than a runtime that moves
//! tasks between threads, and few connections are distributed exactly. Bulk that keeps small connections waiting is the
//! exception: a second thread beside the one that serves it carries it meanwhile. The scheduler lets the thread of the
//! small ones go first, because it has used less of its time.

use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::clock::{self, Moment};
use crate::connection::{self, AtHome, BulkThread, ConnectionGuard, Home, ThreadJob};
use crate::sys::priority;

/// A data thread that has not answered a ping for this long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Serves a connection on the thread that it was given to. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ConnectionHandler(Arc<Serve>);

type Serve =
    dyn Fn(TcpStream, Box<ConnectionGuard>) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync;

/// The data threads. They run until [`Workers::stop`].
#[derive(Debug)]
pub struct Workers {
    dispatcher: Dispatcher,
}

/// How often a data thread's timer fires for nothing. The runtime wakes itself, by a write to its own eventfd, for every
/// timer that is due before all others; with this one there, those of half-open connections (minutes) are not. Measured:
/// one system call less for each connection that the client ends first.
const EARLIER_TIMER: Duration = Duration::from_secs(60);

/// Added to the nice value of threads for bulk: where cores are short, they get a third of what others get. Small
/// connections beside one download wait 3.5 ms at the 99th percentile, without it 4.6; the download is as fast
/// (`benches/README.md`).
const BULK_GIVES_WAY: i32 = 5;

/// Gives work to the data threads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    workers: Arc<[Worker]>,
    /// [`STUCK_AFTER`], less in tests.
    stuck_after: Duration,
}

/// A data thread with what it serves.
#[derive(Debug)]
struct Worker {
    thread: Thread,
    home: Arc<Home>,
    bulk: Bulk,
}

/// The thread for bulk beside a data thread. Cheap to clone.
#[derive(Clone, Debug)]
struct Bulk {
    /// Of the data thread.
    number: usize,
    /// `None`: it could not be started.
    thread: Arc<OnceLock<Option<Thread>>>,
}

/// A thread with an event loop, as others see it.
#[derive(Debug)]
struct Thread {
    work: mpsc::UnboundedSender<Work>,
    /// When the oldest ping was sent that is not answered, in ms of [`Moment`], plus one; 0 = none.
    unanswered: Arc<AtomicU64>,
    /// It sleeps and waits for events: it cannot be stuck, and need not be asked.
    parked: Arc<AtomicBool>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

enum Work {
    Run(ThreadJob),
    Ping,
    Serve(TcpStream, Box<ConnectionGuard>, Option<ConnectionHandler>),
    Stop,
}

// === impl Workers ===

impl Workers {
    pub fn start(count: usize) -> io::Result<Self> {
        let start = |number| {
            let bulk = Bulk {
                number,
                thread: Arc::default(),
            };
            Ok(Worker {
                thread: Thread::start(format!("data-{number}"), 0)?,
                home: Arc::new(Home::new(bulk.clone())),
                bulk,
            })
        };
        let workers: io::Result<Vec<_>> = (0..count.max(1)).map(start).collect();
        let dispatcher = Dispatcher {
            workers: workers?.into(),
            stuck_after: STUCK_AFTER,
        };
        Ok(Self { dispatcher })
    }

    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Drops the tasks that still run, connections included, and waits for the threads to end.
    pub fn stop(self) {
        let workers = &self.dispatcher.workers;
        for worker in workers.iter() {
            worker.thread.stop();
        }
        for worker in workers.iter() {
            worker.thread.join();
            // Nobody is left who could start one.
            if let Some(bulk) = worker.bulk.if_started() {
                bulk.stop();
                bulk.join();
            }
        }
    }
}

/// The main task of a thread.
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
            .map(|worker| worker.home.load())
            .collect()
    }

    /// This data thread, counted from 0, for connections that are served there and not by [`Dispatcher::serve`].
    pub fn home(&self, thread: usize) -> Arc<Home> {
        Arc::clone(&self.workers[thread].home)
    }

    /// Runs a future on this data thread, counted from 0.
    pub fn run_on<F>(&self, thread: usize, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        self.workers[thread]
            .thread
            .run(Box::new(|| Box::pin(make())));
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
            .filter(|worker| self.is_responsive(&worker.thread))
            .min_by_key(|worker| worker.home.load())
            .unwrap_or(own);
        let lowest = least.home.load();
        if own.home.load() <= lowest + lowest / 4 {
            open.set_home(AtHome::new(&own.home));
            return serve(stream, open, handler);
        }
        open.set_home(AtHome::new(&least.home));
        if let Err(unsent) = least.thread.work.send(Work::Serve(stream, open, handler))
            && let Work::Serve(stream, mut open, handler) = unsent.0
        {
            // The thread is gone.
            open.set_home(AtHome::new(&own.home));
            serve(stream, open, handler);
        }
    }

    /// Asks every thread for a sign of life; to be called about once a second.
    pub fn ping(&self) {
        for thread in self.all_threads() {
            if thread.parked.load(Relaxed) {
                continue;
            }
            let now = clock::now().as_millis() + 1;
            let is_first = thread
                .unanswered
                .compare_exchange(0, now, Relaxed, Relaxed)
                .is_ok();
            if is_first {
                // Where the thread is gone, the ping stays unanswered.
                let _ = thread.work.send(Work::Ping);
            }
        }
    }

    /// Those for bulk included.
    fn all_threads(&self) -> impl Iterator<Item = &Thread> {
        self.workers.iter().flat_map(|worker| {
            [Some(&worker.thread), worker.bulk.if_started()]
                .into_iter()
                .flatten()
        })
    }

    /// The first thread from this turn on, in turns, that is not stuck; the turn's own where all are.
    pub fn responsive_from(&self, turn: usize) -> usize {
        let count = self.workers.len();
        let in_turn = (0..count).map(|step| (turn % count + step) % count);
        let mut responsive =
            in_turn.filter(|thread| self.is_responsive(&self.workers[*thread].thread));
        responsive.next().unwrap_or(turn % count)
    }

    fn is_responsive(&self, thread: &Thread) -> bool {
        thread.unresponsive_for() < self.stuck_after
    }

    /// How long the least responsive thread has left a ping unanswered.
    pub fn unresponsive_for(&self) -> Duration {
        let all = self.all_threads().map(Thread::unresponsive_for);
        all.max().unwrap_or_default()
    }
}

// === impl Bulk ===

impl Bulk {
    fn get(&self) -> Option<&Thread> {
        let start = || Thread::start(format!("bulk-{}", self.number), BULK_GIVES_WAY).ok();
        self.thread.get_or_init(start).as_ref()
    }

    fn if_started(&self) -> Option<&Thread> {
        self.thread.get().and_then(Option::as_ref)
    }
}

impl BulkThread for Bulk {
    fn is_there(&self) -> bool {
        let is_well =
            |thread: &Thread| !thread.work.is_closed() && thread.unresponsive_for() < STUCK_AFTER;
        self.get().is_some_and(is_well)
    }

    fn run(&self, job: ThreadJob) {
        if let Some(thread) = self.get() {
            thread.run(job);
        }
    }
}

// === impl Thread ===

impl Thread {
    /// `gives_way`: added to its nice value.
    fn start(name: String, gives_way: i32) -> io::Result<Self> {
        let (sender, work) = mpsc::unbounded_channel();
        let unanswered = Arc::new(AtomicU64::new(0));
        let answered = Arc::clone(&unanswered);
        let parked = Arc::new(AtomicBool::new(false));
        let (parks, unparks) = (Arc::clone(&parked), Arc::clone(&parked));
        // A runtime is built on the thread where it runs; whether that worked is reported back.
        let (report, built) = std::sync::mpsc::sync_channel(1);
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            let options = LocalOptions::default();
            match Builder::new_current_thread()
                .enable_all()
                .on_thread_park(move || parks.store(true, Relaxed))
                .on_thread_unpark(move || unparks.store(false, Relaxed))
                .build_local(options)
            {
                Ok(runtime) => {
                    let _ = report.send(Ok(()));
                    // Not before: until here the thread that starts it waits.
                    if gives_way != 0 {
                        priority::give_way(gives_way);
                    }
                    runtime.block_on(run(work, answered));
                }
                Err(error) => drop(report.send(Err(error))),
            }
        })?;
        built
            .recv()
            .unwrap_or_else(|gone| Err(io::Error::other(gone)))?;
        Ok(Self {
            work: sender,
            unanswered,
            parked,
            handle: Mutex::new(Some(handle)),
        })
    }

    fn run(&self, job: ThreadJob) {
        // The receiver is gone only when the process ends.
        let _ = self.work.send(Work::Run(job));
    }

    fn stop(&self) {
        let _ = self.work.send(Work::Stop);
    }

    fn join(&self) {
        let handle = self
            .handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(handle) = handle {
            // A panic outside of a connection's task was reported on standard error.
            let _ = handle.join();
        }
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
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::connection::WhenAllDown;
    use crate::connection::tests::rig::{Rig, eventually, policy};

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

    /// Says back what it hears; to an `L`, numbers without end.
    fn long_winded(mut stream: TcpStream) -> io::Result<()> {
        let mut first = [0; 1];
        stream.read_exact(&mut first)?;
        if first != *b"L" {
            stream.write_all(&first)?;
            io::copy(&mut stream.try_clone()?, &mut stream)?;
            return Ok(());
        }
        for number in 0u64.. {
            stream.write_all(&number.to_be_bytes().repeat(8192))?;
        }
        Ok(())
    }

    /// A connection that hears numbers, among others that are small, on one data thread and, from when this returns, on
    /// the one for bulk.
    async fn with_bulk(test: impl AsyncFnOnce(Rig, Workers, TcpStream)) {
        tokio::task::LocalSet::new()
            .run_until(among_small_ones(test))
            .await;
    }

    async fn among_small_ones(test: impl AsyncFnOnce(Rig, Workers, TcpStream)) {
        let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = upstream.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in upstream.incoming() {
                std::thread::spawn(|| long_winded(stream?));
            }
        });
        let mut rig = Rig::new(&[to], policy(WhenAllDown::Hold, 1000)).await;
        let workers = Workers::start(1).unwrap();
        let dispatcher = workers.dispatcher().clone();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, from) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let open = connection::admit(from, &rig.context, 100).unwrap();
            let there = dispatcher.clone();
            dispatcher.run_on(0, move || async move {
                there.serve(0, stream, open, None);
            });
            client
        };
        let done = Arc::new(AtomicBool::new(false));
        let small: Vec<_> = (0..4)
            .map(|_| {
                let (mut client, done) = (client(), Arc::clone(&done));
                std::thread::spawn(move || {
                    while !done.load(Relaxed) {
                        client.write_all(b"ping").unwrap();
                        client.read_exact(&mut [0; 4]).unwrap();
                    }
                })
            })
            .collect();
        let mut large = client();
        large.write_all(b"L").unwrap();
        let worker = &dispatcher.workers[0];
        let began = tokio::time::Instant::now();
        let mut number = 0u64;
        let mut chunk = vec![0; 64 << 10];
        while worker.bulk.if_started().is_none() || number < 4096 {
            large.read_exact(&mut chunk).unwrap();
            assert!(chunk == number.to_be_bytes().repeat(8192), "{number}");
            number += 1;
            assert!(began.elapsed() < Duration::from_secs(60));
        }
        assert_eq!(dispatcher.loads(), [5]);
        done.store(true, Relaxed);
        for small in small {
            small.join().unwrap();
        }
        eventually(|| dispatcher.loads() == [1]).await;
        for _ in 0..4 {
            assert_eq!(rig.closed().await.text("conn.reason"), Some("client_fin"));
        }
        test(rig, workers, large).await;
    }

    #[tokio::test]
    async fn bulk_beside_small_connections_gets_a_thread_of_its_own() {
        with_bulk(async |mut rig, workers, large| {
            drop(large);
            let record = rig.closed().await;
            // With bytes unread it was a reset.
            assert_eq!(record.text("conn.reason"), Some("client_rst"));
            assert_eq!(record.field("bytes.upload"), Some(&1_u64.into()));
            eventually(|| workers.dispatcher().loads() == [0]).await;
            rig.assert_settled();
            workers.stop();
        })
        .await;
    }

    /// Connections stay at home then.
    #[test]
    fn a_thread_for_bulk_that_has_failed_is_not_there() {
        let bulk = Bulk {
            number: 0,
            thread: Arc::default(),
        };
        assert!(bulk.is_there());
        let thread = bulk.if_started().unwrap();
        thread.stop();
        thread.join();
        assert!(!bulk.is_there());
    }

    #[tokio::test]
    async fn a_stop_ends_what_the_thread_for_bulk_carries() {
        with_bulk(async |rig, workers, mut large| {
            workers.stop();
            // What it had from the upstream may come first.
            let _ = large.read_to_end(&mut Vec::new());
            rig.assert_settled();
        })
        .await;
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
        while dispatcher.workers[0].thread.unresponsive_for() > Duration::ZERO {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        while dispatcher.unresponsive_for() < Duration::from_millis(15) {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        assert_eq!(
            dispatcher.workers[0].thread.unresponsive_for(),
            Duration::ZERO
        );
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
