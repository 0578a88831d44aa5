//! A command that is kept alive and opens a local port: a SOCKS5 proxy (such as `ssh -D`), or a forward to one address.
//!
//! The port is chosen here, so that a command cannot meet a port that is taken. The command is ready when its port
//! answers, not after a pause. It is started again when it ends, replaced when every address behind it is silent, and,
//! where `renew_after` says so, replaced before its time: the new one is ready before the old one is ended, which waits
//! for its last connection.
//!
//! [`Supervised`] is used on data threads; the processes belong to the [`Supervisor`], a task of the control thread.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::command::{self, HopPlaceholders, LastLines, RunningCommand};
use super::proxy::{dial, within};
use super::{HopFault, HopHealth, Lease, Opening, Reached, Refusal, Speaks, Via, hints, socks5};
use crate::addr::HostPort;
use crate::stream::Stream;
use crate::sys::port_owner::{RESERVED_PORTS_ARE_SHARED, reserve_port};

/// Pause before a command is started again: the first, and the longest. Each is half as long again as the one before, so
/// that a server that was away is found again after at most half the time that it was away.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A command that lived this long has worked: the next one is started at once, and the pause begins anew.
const WORKED: Duration = Duration::from_secs(10);
/// What a silent command has to end: whoever waits for an answer through it is told by its end.
const SILENT_GRACE: Duration = Duration::from_secs(1);
/// Between two questions whether a command is ready.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// The limit of one such question.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How often the last connection through an old command is looked for.
const LEASE_INTERVAL: Duration = Duration::from_millis(100);

/// What a program says that finds its port in use.
const PORT_TAKEN: &str = "address already in use";

/// What is kept alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SupervisedCommand {
    pub(super) words: Vec<String>,
    pub(super) speaks: Speaks,
    pub(super) ready_timeout: Duration,
    pub(super) renew_after: Option<Duration>,
}

/// The way through the command.
#[derive(Debug)]
pub(super) struct Supervised {
    plan: Arc<SupervisedCommand>,
    /// One command for all targets, or one for each where the command names its target.
    processes: Mutex<HashMap<Option<HostPort>, watch::Receiver<Process>>>,
    wanted: mpsc::UnboundedSender<(Option<HostPort>, watch::Sender<Process>)>,
}

/// Runs the commands of one hop.
#[derive(Debug)]
pub struct CommandSupervisor {
    plan: Arc<SupervisedCommand>,
    health: HopHealth,
    output: LastLines,
    wanted: mpsc::UnboundedReceiver<(Option<HostPort>, watch::Sender<Process>)>,
    backoff: (Duration, Duration),
}

/// Where the command answers now; absent while it does not.
#[derive(Clone, Debug, Default)]
struct Process {
    port: Option<u16>,
    /// Counts the connections through it.
    users: Arc<()>,
}

/// The two ends of a supervised hop.
pub(super) fn supervise(
    plan: SupervisedCommand,
    health: HopHealth,
    output: LastLines,
) -> (Supervised, CommandSupervisor) {
    let plan = Arc::new(plan);
    let (wanted, asked) = mpsc::unbounded_channel();
    let supervised = Supervised {
        plan: Arc::clone(&plan),
        processes: Mutex::default(),
        wanted,
    };
    let supervisor = CommandSupervisor {
        plan,
        health,
        output,
        wanted: asked,
        backoff: BACKOFF,
    };
    (supervised, supervisor)
}

// === impl SupervisedCommand ===

impl SupervisedCommand {
    fn is_per_target(&self) -> bool {
        command::uses(&self.words, 'h') || command::uses(&self.words, 'p')
    }
}

// === impl Supervised ===

impl Supervised {
    fn process(&self, to: &HostPort) -> watch::Receiver<Process> {
        let key = self.plan.is_per_target().then(|| to.clone());
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let process = processes.entry(key.clone()).or_insert_with(|| {
            let (sender, receiver) = watch::channel(Process::default());
            // Gone only with the hop.
            let _ = self.wanted.send((key, sender));
            receiver
        });
        process.clone()
    }

    /// Lets the commands of other targets end.
    fn keep(&self, is_kept: &dyn Fn(&HostPort) -> bool) {
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        processes.retain(|target, _| target.as_ref().is_none_or(is_kept));
    }

    /// Waits for the command, and connects to it.
    async fn reach(&self, to: &HostPort) -> Result<(TcpStream, Lease), HopFault> {
        let mut process = self.process(to);
        let running = process
            .wait_for(|process| process.port.is_some())
            .await
            .map_err(|_gone| HopFault::new("the command of the hop has been ended"))?
            .clone();
        let local = HostPort {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: running.port.unwrap_or_default(),
        };
        // The port was chosen here, so it is none of our own listeners.
        let mut tcp = dial(&local, &[]).await?;
        if self.plan.speaks == Speaks::Socks5 {
            socks5::greet(&mut tcp, None).await?;
        }
        Ok((tcp, Lease::of(&running.users)))
    }
}

impl Via for Supervised {
    fn prepare(&self, to: &HostPort) {
        drop(self.process(to));
    }

    fn keep_targets(&self, is_kept: &dyn Fn(&HostPort) -> bool) {
        self.keep(is_kept);
    }

    fn open<'a>(&'a self, to: &'a HostPort, limit: Duration) -> Opening<'a> {
        Box::pin(async move {
            let (mut tcp, lease) = within(limit, self.reach(to)).await?;
            if self.plan.speaks == Speaks::Socks5 {
                let asked = timeout(limit, socks5::connect(&mut tcp, to)).await;
                asked.unwrap_or_else(|_late| {
                    Err(Refusal::timed_out(
                        "the hop gives no answer about the target in time",
                    ))
                })?;
            }
            Ok(Reached {
                stream: Stream::from(tcp),
                lease: Some(lease),
            })
        })
    }
}

// === impl Supervisor ===

impl CommandSupervisor {
    /// Runs until `stop` turns true or its hop is gone; then every command ends after its last connection.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        let (end, ended) = watch::channel(false);
        loop {
            let wanted = tokio::select! {
                wanted = self.wanted.recv() => wanted,
                Some(_left) = tasks.join_next() => continue,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Some((target, process)) = wanted else {
                break;
            };
            let keeper = CommandKeeper {
                plan: Arc::clone(&self.plan),
                health: self.health.clone(),
                output: self.output.clone(),
                target,
                process,
                stop: ended.clone(),
                backoff: self.backoff,
                wants_free_port: AtomicBool::new(!RESERVED_PORTS_ARE_SHARED),
            };
            tasks.spawn(keeper.run());
        }
        end.send_replace(true);
        while tasks.join_next().await.is_some() {}
    }
}

/// Keeps one command alive.
struct CommandKeeper {
    plan: Arc<SupervisedCommand>,
    health: HopHealth,
    output: LastLines,
    target: Option<HostPort>,
    process: watch::Sender<Process>,
    stop: watch::Receiver<bool>,
    backoff: (Duration, Duration),
    /// The command cannot bind a port that is reserved.
    wants_free_port: AtomicBool,
}

/// A command whose port answers.
struct ReadyCommand {
    running: RunningCommand,
    port: u16,
    /// Counts the connections through it.
    users: Arc<()>,
}

/// Why a running command is left.
enum Left {
    Ended(String),
    Silent,
    Old,
    Unwanted,
}

// === impl CommandKeeper ===

impl CommandKeeper {
    /// Until the command is no longer wanted; it ends after its last connection.
    async fn run(self) {
        let mut retiring = JoinSet::new();
        let mut pause = self.backoff.0;
        let mut restart_for = None;
        let mut next = None;
        loop {
            let mut ready = match next.take() {
                Some(ready) => ready,
                None => {
                    if let Some(reason) = restart_for {
                        self.health.restarting(reason);
                    }
                    let Some(started) = self.while_wanted(self.start()).await else {
                        break;
                    };
                    match started {
                        Ok(ready) => ready,
                        Err(fault) => {
                            self.health.failed(&fault.to_string());
                            restart_for = Some("exit");
                            if self.while_wanted(sleep(pause)).await.is_none() {
                                break;
                            }
                            pause = (pause * 3 / 2).min(self.backoff.1);
                            continue;
                        }
                    }
                }
            };
            let pid = ready.running.pid();
            self.health.ready(Some(pid));
            self.process.send_replace(Process {
                port: Some(ready.port),
                users: Arc::clone(&ready.users),
            });
            let began = Instant::now();
            let left = self.watch(&mut ready.running).await;
            let worked = began.elapsed() >= WORKED;
            if worked {
                pause = self.backoff.0;
            }
            match left {
                Left::Old => {
                    self.health.restarting("renew");
                    let Some(renewed) = self.while_wanted(self.start()).await else {
                        self.gone(pid);
                        retiring.spawn(retire(ready));
                        break;
                    };
                    // One that could not be renewed goes on for another while.
                    if let Ok(renewed) = renewed {
                        retiring.spawn(retire(std::mem::replace(&mut ready, renewed)));
                    }
                    next = Some(ready);
                    continue;
                }
                Left::Ended(how) => {
                    self.gone(pid);
                    self.health
                        .failed(&self.explain(&format!("the command ended: {how}")));
                    restart_for = Some("exit");
                }
                Left::Silent => {
                    self.gone(pid);
                    retiring.spawn(ready.running.end_within(SILENT_GRACE));
                    restart_for = Some("silent");
                }
                Left::Unwanted => {
                    self.gone(pid);
                    retiring.spawn(retire(ready));
                    break;
                }
            }
            if worked {
                continue;
            }
            if self.while_wanted(sleep(pause)).await.is_none() {
                break;
            }
            pause = (pause * 3 / 2).min(self.backoff.1);
        }
        while retiring.join_next().await.is_some() {}
    }

    /// The outcome of a step; `None` when the command is no longer wanted: everything ends, or its target has gone.
    async fn while_wanted<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = step => Some(done),
            () = self.unwanted() => None,
        }
    }

    async fn unwanted(&self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = self.process.closed() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Connections no longer go through the command of this process id.
    fn gone(&self, pid: u32) {
        self.process.send_replace(Process::default());
        self.health.ended(pid);
    }

    async fn watch(&self, running: &mut RunningCommand) -> Left {
        let old = async {
            match self.plan.renew_after {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            how = running.ended() => Left::Ended(how),
            () = self.health.replace_wanted() => Left::Silent,
            () = old => Left::Old,
            () = self.unwanted() => Left::Unwanted,
        }
    }

    /// Starts the command and waits until its port answers.
    ///
    /// A command that does not set SO_REUSEADDR cannot bind a port that is reserved. One that says so is started once
    /// more with a port that was free a moment before.
    async fn start(&self) -> Result<ReadyCommand, HopFault> {
        let outcome = self.start_once().await;
        if outcome.is_err()
            && self.output.says(PORT_TAKEN)
            && !self.wants_free_port.swap(true, Relaxed)
        {
            return self.start_once().await;
        }
        outcome
    }

    async fn start_once(&self) -> Result<ReadyCommand, HopFault> {
        let reservation = reserve_port()
            .map_err(|error| HopFault::new(format!("no local port for the command: {error}")))?;
        let port = reservation.port();
        let _reservation = (!self.wants_free_port.load(Relaxed)).then_some(reservation);
        let places = HopPlaceholders {
            target: self.target.as_ref(),
            local_port: Some(port),
        };
        let mut running = command::start(&self.plan.words, places, None, &self.output)?;
        let ready = timeout(self.plan.ready_timeout, self.is_ready(port));
        tokio::select! {
            how = running.ended() => {
                // Its last words may still be in the pipe.
                sleep(ASK_INTERVAL).await;
                let what = format!("the command ended before it was ready: {how}");
                Err(HopFault::new(self.explain(&what)))
            }
            ready = ready => match ready {
                Ok(()) => Ok(ReadyCommand {
                    running,
                    port,
                    users: Arc::new(()),
                }),
                Err(_late) => {
                    running.end().await;
                    Err(HopFault::new(self.explain("the command was not ready in time")))
                }
            }
        }
    }

    /// Resolves when the port answers as it should.
    async fn is_ready(&self, port: u16) {
        loop {
            let asked = timeout(ASK_LIMIT, answers(port, self.plan.speaks)).await;
            if matches!(asked, Ok(Ok(()))) {
                return;
            }
            sleep(ASK_INTERVAL).await;
        }
    }

    /// What happened, what the command said last, and what that usually means.
    fn explain(&self, what: &str) -> String {
        let lines = self.output.lines();
        let Some(last) = lines.last() else {
            return what.to_owned();
        };
        match hints::meaning(&lines) {
            Some(meaning) => format!("{what}; it said: {last} ({meaning})"),
            None => format!("{what}; it said: {last}"),
        }
    }
}

async fn answers(port: u16, speaks: Speaks) -> std::io::Result<()> {
    let mut tcp = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    if speaks == Speaks::Socks5 {
        tcp.write_all(&[5, 1, 0]).await?;
        let mut answer = [0; 2];
        tcp.read_exact(&mut answer).await?;
        if answer[0] != 5 {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}

/// Ends a command after its last connection.
async fn retire(command: ReadyCommand) {
    while Arc::strong_count(&command.users) > 1 {
        sleep(LEASE_INTERVAL).await;
    }
    command.running.end().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::hop::HopState;
    use crate::events::{Events, Log};
    use crate::metrics::Metrics;
    use crate::types::UpstreamName;

    const LONG: Duration = Duration::from_secs(20);

    fn health(output: &LastLines) -> HopHealth {
        HopHealth::new(
            UpstreamName::new("u"),
            "supervise".to_owned(),
            true,
            output.clone(),
            Events::new(Log::default()),
            Metrics::default(),
        )
    }

    fn plan(script: &str) -> SupervisedCommand {
        SupervisedCommand {
            words: ["sh", "-c", script].map(str::to_owned).to_vec(),
            speaks: Speaks::Forward,
            ready_timeout: LONG,
            renew_after: None,
        }
    }

    fn target() -> HostPort {
        HostPort {
            host: "entry.test".to_owned(),
            port: 8182,
        }
    }

    /// A command that never works: each start ends, and its process is waited for.
    #[tokio::test]
    async fn a_hundred_starts_leave_no_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pids");
        let output = LastLines::default();
        let health = health(&output);
        let script = format!("echo $$ >>{}; echo no, %l; exit 3", file.display());
        let (via, mut supervisor) = supervise(plan(&script), health.clone(), output);
        supervisor.backoff = (Duration::from_millis(1), Duration::from_millis(1));
        let (stop, stopped) = watch::channel(false);
        let run = tokio::spawn(supervisor.run(stopped));
        via.prepare(&target());
        let began = Instant::now();
        while health.status().restarts < 100 {
            assert!(began.elapsed() < 6 * LONG, "{:?}", health.status());
            sleep(ASK_INTERVAL).await;
        }
        let error = health.status().last_error.unwrap_or_default();
        assert!(error.contains("exit status: 3; it said: no, "), "{error}");
        stop.send_replace(true);
        timeout(LONG, run).await.expect("goes on").unwrap();
        let pids = std::fs::read_to_string(&file).unwrap();
        assert!(pids.lines().count() >= 100, "{pids}");
        for pid in pids.lines() {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(!stat.contains("(sh) Z"), "{stat}");
        }
    }

    /// A command whose next start is far away, with the test as what listens at its port.
    #[tokio::test]
    async fn a_pause_does_not_hold_up_the_end_and_shows_no_process() {
        let output = LastLines::default();
        let health = health(&output);
        let plan = plan("echo %l; exec sleep 1000");
        let (via, mut supervisor) = supervise(plan, health.clone(), output.clone());
        supervisor.backoff = (100 * LONG, 100 * LONG);
        let (stop, stopped) = watch::channel(false);
        let run = tokio::spawn(supervisor.run(stopped));
        let to = target();
        let serve = async {
            let port = loop {
                if let Some(line) = output.lines().first() {
                    break line.parse::<u16>().unwrap();
                }
                sleep(ASK_INTERVAL).await;
            };
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap()
        };
        let opened = async { tokio::join!(via.open(&to, LONG), serve) };
        let (opened, _listener) = timeout(LONG, opened).await.unwrap();
        drop(opened.unwrap());
        let mut state = health.watch();
        let pid = health.status().pid.unwrap();
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let down = state.wait_for(|news| news.state == HopState::Down);
        timeout(LONG, down).await.unwrap().unwrap();
        assert_eq!(health.status().pid, None);
        stop.send_replace(true);
        timeout(LONG, run).await.expect("still pausing").unwrap();
    }
}
