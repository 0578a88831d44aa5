//! Runs a plan: generator threads, each with its own event loop and connections, and the collector that adds up.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

use super::connection::{Bytes, Connection, Failure};
use super::pacer::{Arrivals, Pacer};
use super::recorder::{Interval, Recorder, Results, Sample, Samples, Timing, Window};
use super::{LoadPlan, LoadTarget, MAX_IN_FLIGHT, Pace, Workload};
use crate::clock::{self, Moment};

/// From the start of the threads to their first request, so that all begin together.
const HEAD_START: Duration = Duration::from_millis(20);

/// Pause of a closed-loop connection whose connect failed, so that a dead target is not asked in a busy loop.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// After so many requests sent without a pause the others of the thread get their turn.
const BURST: u32 = 8;

/// How often the collector looks at the clock.
const TICK: Duration = Duration::from_millis(100);

/// A tick this late means that the whole process stood still.
const STOPPED: Duration = Duration::from_secs(1);

/// Ends a run early, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    finish: Arc<AtomicBool>,
    wake: Arc<Notify>,
}

/// What a run has measured.
#[derive(Clone, Debug)]
pub(super) struct RequestOutcome {
    pub(super) results: Results,
    pub(super) timeline: Vec<Interval>,
    /// Measured time that really passed.
    pub(super) elapsed: Duration,
    pub(super) interrupted: bool,
    /// How long the generator itself stood still (SIGSTOP, suspend).
    pub(super) stopped: Duration,
}

/// One finished second, for a live display.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Seconds of measured time.
    pub second: u64,
    /// Requests answered in that second.
    pub ok: u64,
    /// Requests failed in that second.
    pub failed: u64,
    /// 99th percentile of their latency.
    pub p99: Duration,
}

/// What all tasks of one thread share.
#[derive(Debug)]
struct Shared {
    target: LoadTarget,
    workload: Workload,
    recorder: RefCell<Recorder>,
    /// Open connections without a request.
    idle: RefCell<Vec<Connection>>,
    in_flight: Cell<usize>,
    repeats_lost: bool,
}

/// What is left of a connection after a request.
#[derive(Debug)]
struct Answered {
    /// Where it can carry another request.
    connection: Option<Connection>,
    connected: bool,
}

// === impl Stop ===

impl Stop {
    /// Asks the run to end now.
    pub fn ask(&self) {
        self.asked.store(true, Relaxed);
        self.wake.notify_waiters();
    }

    /// Asks the run to send nothing more, and to end when what is under way has ended.
    pub fn finish(&self) {
        self.finish.store(true, Relaxed);
    }

    fn is_finishing(&self) -> bool {
        self.finish.load(Relaxed)
    }

    /// Whether it was asked.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    async fn asked(&self) {
        loop {
            let woken = self.wake.notified();
            if self.is_asked() {
                return;
            }
            woken.await;
        }
    }
}

/// Runs the plan to its end or until `stop`. Blocks; `progress` hears of every finished second.
///
/// # Errors
///
/// A thread or its event loop cannot be had.
pub fn run(
    plan: &LoadPlan,
    stop: &Stop,
    progress: impl FnMut(&Progress),
) -> io::Result<super::Report> {
    let outcome = execute(plan, stop, None, progress)?;
    Ok(super::Report::new(plan, outcome))
}

/// As [`run`], and hands over every request as it ends; the number of those that were skipped.
///
/// # Errors
///
/// A thread or its event loop cannot be had.
pub fn run_sampled(plan: &LoadPlan, stop: &Stop, samples: &Samples) -> io::Result<u64> {
    let outcome = execute(plan, stop, Some(samples), |_| {})?;
    Ok(outcome.results.skipped)
}

/// As [`run`], before anything is worked out.
pub(super) fn execute(
    plan: &LoadPlan,
    stop: &Stop,
    samples: Option<&Samples>,
    mut progress: impl FnMut(&Progress),
) -> io::Result<RequestOutcome> {
    let threads = plan.threads.clamp(1, plan.connections().max(1));
    let begin = clock::now() + HEAD_START;
    let window = Window {
        start: begin + plan.warmup,
        length: plan.measured(),
    };
    let (finished, intervals) = mpsc::channel();
    let mut handles = Vec::with_capacity(threads);
    for index in 0..threads {
        let (plan, stop, finished) = (plan.clone(), stop.clone(), finished.clone());
        let samples = samples.cloned();
        let thread = std::thread::Builder::new().name(format!("load-{index}"));
        handles.push(thread.spawn(move || {
            let recorder = Recorder::new(window, finished, samples);
            generate(plan, recorder, begin, (index, threads), &stop)
        })?);
    }
    drop(finished);
    let mut timeline = Timeline::new(threads);
    let mut stopped = Duration::ZERO;
    let mut before = clock::now();
    loop {
        match intervals.recv_timeout(TICK) {
            Ok(interval) => {
                if let Some(whole) = timeline.add(interval) {
                    progress(&whole);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let late = clock::now().since(before);
        if late > STOPPED + TICK {
            stopped += late;
        }
        before = clock::now();
    }
    let mut results = Results::new();
    for handle in handles {
        let thread = handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        results.add(&thread);
    }
    let interrupted = stop.is_asked();
    let elapsed = match interrupted {
        true => clock::now().since(window.start).min(window.length),
        false => window.length,
    };
    Ok(RequestOutcome {
        results,
        timeline: timeline.seconds.into_values().collect(),
        elapsed,
        interrupted,
        stopped,
    })
}

/// Adds up the threads' intervals.
#[derive(Debug)]
struct Timeline {
    threads: usize,
    seconds: BTreeMap<u64, Interval>,
    /// How many threads have handed over which second.
    heard: BTreeMap<u64, usize>,
}

// === impl Timeline ===

impl Timeline {
    fn new(threads: usize) -> Self {
        Self {
            threads,
            seconds: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    /// The whole second, once every thread has handed over its part.
    fn add(&mut self, interval: Interval) -> Option<Progress> {
        let second = interval.second;
        let whole = match self.seconds.entry(second) {
            std::collections::btree_map::Entry::Vacant(empty) => empty.insert(interval),
            std::collections::btree_map::Entry::Occupied(entry) => {
                let whole = entry.into_mut();
                whole.add(&interval);
                whole
            }
        };
        let heard = self.heard.entry(second).or_default();
        *heard += 1;
        (*heard == self.threads).then(|| Progress {
            second: second + 1,
            ok: whole.ok,
            failed: whole.failed,
            p99: Duration::from_nanos(whole.latency.value_at_quantile(0.99)),
        })
    }
}

/// One generator thread.
fn generate(
    plan: LoadPlan,
    recorder: Recorder,
    begin: Moment,
    (index, threads): (usize, usize),
    stop: &Stop,
) -> io::Result<Results> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shared = Rc::new(Shared {
        target: plan.target.clone(),
        workload: plan.workload.clone(),
        recorder: RefCell::new(recorder),
        idle: RefCell::new(Vec::new()),
        in_flight: Cell::new(0),
        repeats_lost: plan.repeats_lost,
    });
    let local = LocalSet::new();
    let work = async {
        if plan.is_open() {
            open_loop(&plan, &shared, begin, (index, threads), stop).await
        } else {
            closed_loop(&plan, &shared, begin, (index, threads)).await
        }
    };
    let outcome = local.block_on(&runtime, async {
        tokio::select! {
            outcome = work => outcome,
            () = stop.asked() => Ok(()),
        }
    });
    // Requests still under way after an early end are dropped uncounted.
    drop(local);
    outcome?;
    let mut recorder = shared.recorder.borrow_mut();
    recorder.flush();
    Ok(std::mem::replace(&mut recorder.results, Results::new()))
}

async fn closed_loop(
    plan: &LoadPlan,
    shared: &Rc<Shared>,
    begin: Moment,
    (index, threads): (usize, usize),
) -> io::Result<()> {
    let Pace::Connections(connections) = plan.pace else {
        return Ok(());
    };
    let end = begin + plan.warmup + plan.measured();
    let mine = connections / threads + usize::from(index < connections % threads);
    let pacer = Pacer::new()?;
    pacer.until(begin).await?;
    let mut tasks = JoinSet::new();
    for _ in 0..mine {
        let shared = Rc::clone(shared);
        tasks.spawn_local(async move {
            let mut connection = None;
            while clock::now() < end {
                let answered = shared.request(connection, None).await;
                if !answered.connected {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
                connection = answered.connection;
            }
        });
    }
    tasks.join_all().await;
    Ok(())
}

async fn open_loop(
    plan: &LoadPlan,
    shared: &Rc<Shared>,
    begin: Moment,
    (index, threads): (usize, usize),
    stop: &Stop,
) -> io::Result<()> {
    let cap = (MAX_IN_FLIGHT / threads).max(1);
    let pacer = Pacer::new()?;
    let poisson = matches!(plan.pace, Pace::Rate { poisson: true, .. });
    let stages = plan.stages();
    let warmup = stages.first().map(|(rate, _)| (*rate, plan.warmup));
    let mut tasks = JoinSet::new();
    let mut start = begin;
    let mut burst = 0;
    for (rate, length) in warmup.into_iter().chain(stages) {
        for offset in Arrivals::new(rate, length, poisson, index, threads) {
            let intended = start + offset;
            if stop.is_finishing() {
                tasks.join_all().await;
                return Ok(());
            }
            if clock::now() < intended {
                pacer.until(intended).await?;
                burst = 0;
            } else {
                burst += 1;
                if burst % BURST == 0 {
                    tokio::task::yield_now().await;
                }
            }
            while tasks.try_join_next().is_some() {}
            if shared.in_flight.get() >= cap {
                shared.recorder.borrow_mut().skip(intended);
                continue;
            }
            let shared = Rc::clone(shared);
            shared.in_flight.set(shared.in_flight.get() + 1);
            tasks.spawn_local(async move {
                let idle = shared.take_idle();
                if let Some(connection) = shared.request(idle, Some(intended)).await.connection {
                    shared.idle.borrow_mut().push(connection);
                }
                shared.in_flight.set(shared.in_flight.get() - 1);
            });
        }
        start = start + length;
    }
    pacer.until(start).await?;
    tasks.join_all().await;
    Ok(())
}

// === impl Shared ===

impl Shared {
    fn take_idle(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.borrow_mut().pop()?;
            if connection.is_reusable() {
                return Some(connection);
            }
        }
    }

    /// One request, counted. Without an intended time it is due when it is sent.
    async fn request(&self, connection: Option<Connection>, intended: Option<Moment>) -> Answered {
        let sent = clock::now();
        let mut bytes = Bytes::default();
        let was_kept = connection.is_some();
        let opened = match connection {
            Some(connection) => Ok(connection),
            None => Connection::open(&self.target).await,
        };
        let (mut connection, mut outcome) = self.exchange(opened, &mut bytes).await;
        let is_lost = matches!(outcome, Err(Failure::Closed | Failure::Reset));
        let repeated = self.repeats_lost && was_kept && is_lost && bytes.received == 0;
        if repeated {
            let again = Connection::open(&self.target).await;
            (connection, outcome) = self.exchange(again, &mut bytes).await;
        }
        let timing = Timing {
            intended: intended.unwrap_or(sent),
            sent,
            done: clock::now(),
        };
        let mut recorder = self.recorder.borrow_mut();
        recorder.sample(|| Sample {
            intended: timing.intended,
            done: timing.done,
            local_port: connection.as_ref().and_then(Connection::local_port),
            connected: connection.as_ref().map(|connection| connection.connected),
            repeated,
            error: outcome.as_ref().err().map(Failure::key),
        });
        recorder.record(timing, bytes, outcome);
        drop(recorder);
        let connected = connection.is_some();
        let keepalive = self.workload.keepalive();
        let connection =
            connection.and_then(|mut it| (keepalive && it.is_reusable()).then_some(it));
        Answered {
            connection,
            connected,
        }
    }

    async fn exchange(
        &self,
        opened: Result<Connection, Failure>,
        bytes: &mut Bytes,
    ) -> (Option<Connection>, Result<(), Failure>) {
        match opened {
            Ok(mut connection) => {
                let outcome = connection.exchange(&self.workload, bytes).await;
                (Some(connection), outcome)
            }
            Err(failure) => (None, Err(failure)),
        }
    }
}
