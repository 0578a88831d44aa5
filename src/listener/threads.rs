//! The data threads: one current-thread runtime each, and the spreading of connections over them.
//!
//! Whichever thread accepts hands the socket to the least loaded one. Measured 8–15 % better on round trips than a
//! runtime that moves tasks, and few connections are split exactly (reference: data path, item 4).

use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::connection::{self, Open};

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The data threads, owned: they end when this says so.
#[derive(Debug)]
pub struct Threads {
    spread: Spread,
    handles: Vec<JoinHandle<()>>,
}

/// Gives work to the data threads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spread {
    workers: Arc<[Worker]>,
}

#[derive(Debug)]
struct Worker {
    orders: mpsc::UnboundedSender<Work>,
    /// Connections it carries.
    load: Arc<AtomicUsize>,
}

enum Work {
    Run(Job),
    Serve(TcpStream, Box<Open>, Load),
    Stop,
}

/// One connection in a thread's load.
struct Load(Arc<AtomicUsize>);

// === impl Threads ===

impl Threads {
    /// Starts them.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut workers = Vec::new();
        let mut handles = Vec::new();
        for number in 0..count.max(1) {
            let (orders, work) = mpsc::unbounded_channel();
            // Built on the thread where it must live; told here before anything is given to it.
            let (tell, built) = std::sync::mpsc::sync_channel(1);
            let handle = std::thread::Builder::new()
                .name(format!("data-{number}"))
                .spawn(move || {
                    let options = LocalOptions::default();
                    match Builder::new_current_thread()
                        .enable_all()
                        .build_local(options)
                    {
                        Ok(runtime) => {
                            let _ = tell.send(Ok(()));
                            runtime.block_on(run(work));
                        }
                        Err(error) => drop(tell.send(Err(error))),
                    }
                })?;
            built
                .recv()
                .unwrap_or_else(|gone| Err(io::Error::other(gone)))?;
            handles.push(handle);
            workers.push(Worker {
                orders,
                load: Arc::default(),
            });
        }
        let spread = Spread {
            workers: workers.into(),
        };
        Ok(Self { spread, handles })
    }

    /// Where work is given to them.
    pub fn spread(&self) -> &Spread {
        &self.spread
    }

    /// Ends them: tasks that still run are dropped, connections with them. Waits for the threads.
    pub fn stop(self) {
        for worker in self.spread.workers.iter() {
            let _ = worker.orders.send(Work::Stop);
        }
        for handle in self.handles {
            // A panic outside of a connection's task; it was told on standard error.
            let _ = handle.join();
        }
    }
}

/// A data thread's own task.
async fn run(mut work: mpsc::UnboundedReceiver<Work>) {
    while let Some(work) = work.recv().await {
        match work {
            Work::Run(job) => drop(tokio::task::spawn_local(job())),
            Work::Serve(stream, open, load) => serve(stream, open, load),
            Work::Stop => return,
        }
    }
}

/// A task of its own: a panic ends this connection and no other.
fn serve(stream: TcpStream, open: Box<Open>, load: Load) {
    tokio::task::spawn_local(async move {
        let _load = load;
        connection::serve(stream, open).await;
    });
}

// === impl Spread ===

impl Spread {
    /// How many threads there are.
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
        // The threads are gone only when everything is over.
        let _ = self.workers[thread]
            .orders
            .send(Work::Run(Box::new(|| Box::pin(make()))));
    }

    /// Serves a connection on the least loaded thread. Called on the `accepted_on` one, which keeps it unless it carries
    /// more than a quarter above the least: no thread is woken for nothing.
    pub(super) fn serve(&self, accepted_on: usize, stream: TcpStream, open: Box<Open>) {
        let load_of = |worker: &Worker| worker.load.load(Relaxed);
        let own = &self.workers[accepted_on];
        let least = self
            .workers
            .iter()
            .min_by_key(|worker| load_of(worker))
            .unwrap_or(own);
        let spare = load_of(least);
        if load_of(own) > spare + spare / 4 {
            let load = Load::new(&least.load);
            let _ = least.orders.send(Work::Serve(stream, open, load));
        } else {
            serve(stream, open, Load::new(&own.load));
        }
    }
}

// === impl Load ===

impl Load {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
