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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::command::{self, HopPlaceholders, LastLines, RunningCommand};
use super::proxy::{dial, within};
use super::{
    HopFault, HopHealth, HopSockets, Lease, Opening, Reached, Refusal, Speaks, Via, hints, socks5,
};
use crate::addr::HostPort;
use crate::stream::Stream;
use crate::sys::port_owner::{PortReservation, reserve_port};
use crate::sys::socket::TcpOptions;

/// Pause before a command is started again: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A command that lived this long has worked: the pause begins anew.
const WORKED: Duration = Duration::from_secs(10);
/// Between two questions whether a command is ready.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// The limit of one such question.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How often the last connection through an old command is looked for.
const LEASE_INTERVAL: Duration = Duration::from_millis(100);

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
    tcp: Arc<ArcSwap<TcpOptions>>,
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
    sockets: &HopSockets,
    health: HopHealth,
    output: LastLines,
) -> (Supervised, CommandSupervisor) {
    let plan = Arc::new(plan);
    let (wanted, asked) = mpsc::unbounded_channel();
    let supervised = Supervised {
        plan: Arc::clone(&plan),
        tcp: Arc::clone(&sockets.tcp),
        processes: Mutex::default(),
        wanted,
    };
    let supervisor = CommandSupervisor {
        plan,
        health,
        output,
        wanted: asked,
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
            // Gone only with the program.
            let _ = self.wanted.send((key, sender));
            receiver
        });
        process.clone()
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
        let mut tcp = dial(&local, &self.tcp.load(), &[]).await?;
        if self.plan.speaks == Speaks::Socks5 {
            socks5::greet(&mut tcp, None).await?;
        }
        Ok((tcp, Lease::of(&running.users)))
    }
}

impl Via for Supervised {
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
            };
            tasks.spawn(keeper.run(ended.clone()));
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
}

/// Why a running command is left.
enum Left {
    Ended(String),
    Silent,
    Old,
    Stopped,
}

// === impl CommandKeeper ===

impl CommandKeeper {
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut retiring = JoinSet::new();
        let mut pause = BACKOFF.0;
        let mut restart_for = None;
        let mut next: Option<(RunningCommand, u16)> = None;
        loop {
            let (mut running, port) = match next.take() {
                Some(ready) => ready,
                None => {
                    self.health.starting();
                    if let Some(reason) = restart_for {
                        self.health.restarting(reason);
                    }
                    let started = tokio::select! {
                        started = self.start() => started,
                        _ = stop.wait_for(|stop| *stop) => break,
                    };
                    match started {
                        Ok(ready) => ready,
                        Err(fault) => {
                            self.health.failed(&fault.to_string());
                            restart_for = Some("exit");
                            tokio::select! {
                                () = sleep(pause) => {}
                                _ = stop.wait_for(|stop| *stop) => break,
                            }
                            pause = (pause * 2).min(BACKOFF.1);
                            continue;
                        }
                    }
                }
            };
            let users = Arc::new(());
            self.health.ready(Some(running.pid()));
            self.process.send_replace(Process {
                port: Some(port),
                users: Arc::clone(&users),
            });
            let began = Instant::now();
            let left = self.watch(&mut running, &mut stop).await;
            if began.elapsed() >= WORKED {
                pause = BACKOFF.0;
            }
            match left {
                Left::Ended(how) => {
                    self.process.send_replace(Process::default());
                    self.health
                        .failed(&self.explain(&format!("the command ended: {how}")));
                    restart_for = Some("exit");
                    sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                Left::Silent => {
                    self.process.send_replace(Process::default());
                    retiring.spawn(running.end());
                    restart_for = Some("silent");
                    sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                Left::Old => {
                    self.health.restarting("renew");
                    match self.start().await {
                        Ok(ready) => {
                            next = Some(ready);
                            retiring.spawn(retire(running, users));
                        }
                        // The old one goes on for another while.
                        Err(_fault) => next = Some((running, port)),
                    }
                }
                Left::Stopped => {
                    self.process.send_replace(Process::default());
                    retiring.spawn(retire(running, users));
                    break;
                }
            }
        }
        while retiring.join_next().await.is_some() {}
    }

    async fn watch(&self, running: &mut RunningCommand, stop: &mut watch::Receiver<bool>) -> Left {
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
            _ = stop.wait_for(|stop| *stop) => Left::Stopped,
        }
    }

    /// Starts the command and waits until its port answers.
    async fn start(&self) -> Result<(RunningCommand, u16), HopFault> {
        let reservation = reserve_port()
            .map_err(|error| HopFault::new(format!("no local port for the command: {error}")))?;
        let port = reservation.port();
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
                Ok(()) => {
                    drop::<PortReservation>(reservation);
                    Ok((running, port))
                }
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
async fn retire(running: RunningCommand, users: Arc<()>) {
    while Arc::strong_count(&users) > 1 {
        sleep(LEASE_INTERVAL).await;
    }
    running.end().await;
}
