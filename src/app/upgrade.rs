//! Replacing this process by a new one that no client notices: `entryway upgrade`, and SIGUSR2.
//!
//! The old process ([`Upgrader`]) starts the new one with copies of its listening sockets, sent over a Unix socket that
//! is the new one's standard input ([`Handover`]). Then three words decide:
//!
//! 1. *ready*, from the new one: its settings are good, every port is there, the first probes have answered.
//! 2. *go*, from the old one, which gives the attempt up if it has heard nothing for 10 s. Only now does the new one
//!    accept; until it does, both may fail and the old one goes on as if nothing had been tried.
//! 3. *serving*, from the new one. The old one closes its copies of the sockets, whose queues live on in the new one's
//!    copies, and drains.
//!
//! The socket stays open for as long as the old process drains: by that the newest one knows how many old ones there
//! are. Where the first process must live on (it is the parent of a wrapped command, or process 1 of a container), each
//! later one holds a second socket to it ([`News`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::StopRequest;
use crate::admin::AdminSockets;
use crate::drain::{DrainTrigger, DrainWatcher};
use crate::events::{Events, event};
use crate::listener::OpenSockets;
use crate::sandbox::{self, Child};
use crate::sys::descriptors;
use crate::sys::process::{Inherited, OwnChild};

pub use handover::Handover;
pub(super) use handover::{Lineage, Promise};

use handover::{Carried, Offer, Word, hear, nonblocking, say};

mod handover;

/// How long a new process may take until it is ready, and again until it serves.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a process that has closed its socket may take to exit, so that its exit code is known.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// How long closing the admin listeners may take.
const CLOSING: Duration = Duration::from_secs(2);

/// Old processes that may drain at the same time.
const MAX_DRAINING: usize = 3;

/// Exit code of a process whose settings are wrong.
const WRONG_SETTINGS: i32 = 78;

/// What the newest process tells the first one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// This process serves now.
    Serves(u32),
    /// It was asked to shut down.
    WantsShutdown,
    /// It has ended.
    Ended,
}

/// An order to replace this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpgradeRequest {
    /// The program; as this process was started where absent.
    pub binary: Option<PathBuf>,
    /// The settings file; as this process was told where absent.
    pub config: Option<PathBuf>,
    /// How long the old process may drain.
    pub max_drain: Option<Duration>,
}

/// The new process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    pub generation: u64,
    pub pid: u32,
    pub changed: Vec<String>,
}

/// Why this process goes on as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Failed(String),
}

/// Replaces this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Upgrader {
    inner: Arc<Inner>,
}

/// What the upgrader needs of the running program.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) lineage: Lineage,
    /// By name; whether a service manager holds them.
    pub(super) listeners: Vec<(String, bool, OpenSockets)>,
    pub(super) admin: AdminSockets,
    /// What our own parent left us, which the new process gets as well.
    pub(super) inherited: Option<Inherited>,
    pub(super) stops: mpsc::UnboundedSender<StopRequest>,
    pub(super) draining: DrainWatcher,
    pub(super) events: Events,
    /// Why this program cannot be replaced at all.
    pub(super) unsupported: Option<&'static str>,
}

#[derive(Debug)]
struct Inner {
    lineage: Lineage,
    listeners: Vec<(String, bool, OpenSockets)>,
    admin: Mutex<Option<AdminSockets>>,
    inherited: Option<Inherited>,
    stops: mpsc::UnboundedSender<StopRequest>,
    draining: DrainWatcher,
    events: Events,
    unsupported: Option<&'static str>,
    /// As it was when we started: the file may have been replaced since.
    program: Option<PathBuf>,
    /// An upgrade is under way, or done.
    busy: AtomicBool,
    admin_stop: Mutex<Option<DrainTrigger>>,
    /// Open for as long as we drain.
    successor: Mutex<Option<UnixStream>>,
    /// Set where this process lives on as the first one: takes what the newest one tells.
    follower: Mutex<Option<mpsc::UnboundedSender<News>>>,
    is_parent: AtomicBool,
}

// === impl Upgrader ===

impl Upgrader {
    pub(super) fn new(parts: Parts) -> Self {
        let inner = Inner {
            lineage: parts.lineage,
            listeners: parts.listeners,
            admin: Mutex::new(Some(parts.admin)),
            inherited: parts.inherited,
            stops: parts.stops,
            draining: parts.draining,
            events: parts.events,
            unsupported: parts.unsupported,
            program: std::env::current_exe().ok(),
            busy: AtomicBool::new(false),
            admin_stop: Mutex::default(),
            successor: Mutex::default(),
            follower: Mutex::default(),
            is_parent: AtomicBool::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.inner.lineage.generation
    }

    pub(super) fn parent_pid(&self) -> Option<u32> {
        self.inner.lineage.parent_pid
    }

    /// This process lives on when it has been replaced, and is told about the newest one. `is_parent`: because it is the
    /// parent of a command.
    pub fn follow(&self, is_parent: bool) -> mpsc::UnboundedReceiver<News> {
        let (sender, news) = mpsc::unbounded_channel();
        self.inner.is_parent.store(is_parent, Relaxed);
        *lock(&self.inner.follower) = Some(sender);
        news
    }

    /// Tells the first process; false where there is none.
    pub fn tell_first(&self, news: &News) -> bool {
        let Some(first) = &self.inner.lineage.first else {
            return false;
        };
        let Ok(bytes) = serde_json::to_vec(news) else {
            return false;
        };
        descriptors::send(first, &bytes, &[]).is_ok()
    }

    /// Resolves when the first process of the row is gone; never where there is none.
    pub async fn first_gone(&self) {
        let copy = self.inner.lineage.first.as_ref().map(StdStream::try_clone);
        let Some(Ok(mut copy)) = copy.map(|copy| copy.and_then(nonblocking)) else {
            return std::future::pending().await;
        };
        // It never says anything.
        let _ = copy.read_u8().await;
    }

    /// Who stops the admin listeners, once they serve.
    pub(super) fn set_admin_stop(&self, stop: DrainTrigger) {
        *lock(&self.inner.admin_stop) = Some(stop);
    }

    pub(super) fn stop_admin(&self) {
        if let Some(stop) = &*lock(&self.inner.admin_stop) {
            stop.fire();
        }
    }

    /// This process has drained.
    pub(super) fn drained(&self) {
        lock(&self.inner.successor).take();
        lock(&self.inner.admin).take();
    }

    /// Replaces this process. `settings`: those in force. In a task of its own: the connection that asked for it may be
    /// dropped half-way.
    pub async fn upgrade(
        &self,
        request: UpgradeRequest,
        settings: serde_json::Value,
    ) -> Result<Upgraded, UpgradeError> {
        let this = self.clone();
        let task = tokio::spawn(async move { this.try_upgrade(request, settings).await });
        task.await
            .unwrap_or_else(|error| Err(UpgradeError::Failed(error.to_string())))
    }

    async fn try_upgrade(
        &self,
        request: UpgradeRequest,
        settings: serde_json::Value,
    ) -> Result<Upgraded, UpgradeError> {
        let inner = &self.inner;
        let refuse = |why: &str| Err(UpgradeError::Failed(why.to_owned()));
        if let Some(why) = inner.unsupported {
            return refuse(why);
        }
        if inner.busy.swap(true, Relaxed) {
            return refuse("another upgrade is under way");
        }
        let outcome = if inner.draining.has_fired() {
            refuse("this instance is shutting down")
        } else if self.older().count() >= MAX_DRAINING {
            refuse(
                "3 old processes still drain; wait for one, or upgrade with --max-drain next time",
            )
        } else {
            self.replace(&request, settings).await
        };
        match &outcome {
            Ok(new) => {
                event!(
                    inner.events,
                    INFO,
                    "upgrade",
                    "another process has taken over; draining",
                    pid = new.pid,
                    generation = new.generation,
                );
                let max_drain = request.max_drain;
                let _ = inner.stops.send(StopRequest::Replaced { max_drain });
            }
            Err(error) => {
                for (.., sockets) in &inner.listeners {
                    sockets.take_back();
                }
                inner.busy.store(false, Relaxed);
                event!(
                    inner.events,
                    WARN,
                    "upgrade",
                    "not upgraded; this process goes on as before",
                    error = %error,
                );
            }
        }
        outcome
    }

    /// Older processes that still drain.
    fn older(&self) -> impl Iterator<Item = &StdStream> {
        let older = self.inner.lineage.older.iter();
        older.filter(|link| !descriptors::is_closed(link))
    }

    async fn replace(
        &self,
        request: &UpgradeRequest,
        settings: serde_json::Value,
    ) -> Result<Upgraded, UpgradeError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| UpgradeError::Failed(format!("{what}: {error}"))
        };
        let inner = &self.inner;
        let (ours, theirs) = StdStream::pair().map_err(failed("make a socket"))?;
        let news = self
            .offer(&ours, settings)
            .map_err(failed("hand over the listening sockets"))?;
        let binary = request
            .binary
            .clone()
            .or_else(|| self.inner.program.clone());
        let binary = binary.unwrap_or_else(|| PathBuf::from("entryway"));
        let inherited = inner.inherited.as_ref();
        let mut child =
            sandbox::start_successor(&binary, request.config.as_deref(), theirs.into(), inherited)
                .map_err(failed(&format!("start {}", binary.display())))?;
        let pid = child.pid();
        let _own = child.is_own().then(|| OwnChild::register(pid));
        let mut link = nonblocking(ours).map_err(failed("the handover's socket"))?;
        let changed = match take_over(&mut child, &mut link).await {
            Ok(changed) => changed,
            Err(error) => {
                // It may have ended already.
                let _ = child.kill().await;
                return Err(error);
            }
        };
        // From here on the new process alone answers: an answer to the one who asked must not come earlier.
        if let Some(admin) = &*lock(&self.inner.admin) {
            admin.leave_control();
        }
        let stop = lock(&self.inner.admin_stop).take();
        if let Some(mut stop) = stop {
            stop.fire();
            let _ = timeout(CLOSING, stop.finished()).await;
        }
        *lock(&self.inner.successor) = Some(link);
        if let (Some(news), Some(follower)) = (news, lock(&self.inner.follower).clone()) {
            tokio::spawn(pass_on(news, follower));
        }
        Ok(Upgraded {
            generation: self.inner.lineage.generation + 1,
            pid,
            changed,
        })
    }

    /// Sends everything that the new process takes over; where this process lives on, the socket by which it hears of
    /// the newest one.
    fn offer(
        &self,
        link: &StdStream,
        settings: serde_json::Value,
    ) -> io::Result<Option<StdStream>> {
        let inner = &self.inner;
        let mut descriptors = Vec::new();
        let mut carried: Vec<OwnedFd> = Vec::new();
        for (name, is_managed, sockets) in &inner.listeners {
            for socket in sockets.hand_over()? {
                descriptors.push(Carried::Listener {
                    name: name.clone(),
                    is_managed: *is_managed,
                });
                carried.push(socket.into());
            }
        }
        if let Some(admin) = &*lock(&inner.admin) {
            if let Some(socket) = &admin.admin {
                descriptors.push(Carried::Admin);
                carried.push(socket.try_clone()?);
            }
            if let Some(socket) = &admin.metrics {
                descriptors.push(Carried::Metrics);
                carried.push(socket.try_clone()?);
            }
            if let Some((socket, path)) = &admin.control {
                descriptors.push(Carried::Control { path: path.clone() });
                carried.push(socket.try_clone()?);
            }
        }
        for older in self.older() {
            descriptors.push(Carried::Older);
            carried.push(older.try_clone()?.into());
        }
        let mut news = None;
        if lock(&inner.follower).is_some() {
            let (ours, theirs) = StdStream::pair()?;
            descriptors.push(Carried::First);
            carried.push(theirs.into());
            news = Some(ours);
        } else if let Some(first) = &inner.lineage.first {
            descriptors.push(Carried::First);
            carried.push(first.try_clone()?.into());
        }
        let offer = Offer {
            generation: inner.lineage.generation + 1,
            parent_pid: std::process::id(),
            is_wrapped: inner.lineage.is_wrapped || inner.is_parent.load(Relaxed),
            settings,
            descriptors,
        };
        // It waits in the socket's buffer until the new process reads it; more than that holds must not stop us.
        link.set_write_timeout(Some(LAST_BREATH))?;
        let borrowed: Vec<_> = carried.iter().map(AsFd::as_fd).collect();
        descriptors::send(link, &serde_json::to_vec(&offer)?, &borrowed)?;
        Ok(news)
    }
}

/// The three words, from the old process's side; the settings that differ in the new one.
async fn take_over(child: &mut Child, link: &mut UnixStream) -> Result<Vec<String>, UpgradeError> {
    match next_word(child, link, "is ready").await? {
        Word::Ready => {}
        other => return Err(unexpected(&other)),
    }
    let said = say(link, &Word::Go).await;
    said.map_err(|error| UpgradeError::Failed(format!("the new process is gone: {error}")))?;
    match next_word(child, link, "serves").await? {
        Word::Serving { changed } => Ok(changed),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(word: &Word) -> UpgradeError {
    UpgradeError::Failed(format!("the new process says {word:?} at the wrong time"))
}

async fn next_word(
    child: &mut Child,
    link: &mut UnixStream,
    goal: &str,
) -> Result<Word, UpgradeError> {
    let until = Instant::now() + PATIENCE;
    let late = |_| {
        let seconds = PATIENCE.as_secs();
        UpgradeError::Failed(format!(
            "{seconds} s have passed before the new process {goal}; it was ended"
        ))
    };
    if let Ok(word) = timeout_at(until, hear(link)).await.map_err(late)? {
        return Ok(word);
    }
    // It has closed its end: how it exits says why.
    match timeout(LAST_BREATH, child.wait()).await {
        Ok(Ok(status)) if status.code() == Some(WRONG_SETTINGS) => Err(UpgradeError::Settings(
            "the new process refuses its settings; its report is on the standard error of this instance"
                .to_owned(),
        )),
        Ok(Ok(status)) => Err(UpgradeError::Failed(format!(
            "the new process has ended before it {goal} ({status}); why is on the standard error of this instance"
        ))),
        _ => Err(UpgradeError::Failed(format!(
            "the new process has closed the handover before it {goal}; it was ended"
        ))),
    }
}

/// Passes on what the newest process tells, and its end.
async fn pass_on(news: StdStream, follower: mpsc::UnboundedSender<News>) {
    if let Ok(mut news) = nonblocking(news) {
        while let Ok(one) = hear(&mut news).await {
            if follower.send(one).is_err() {
                return;
            }
        }
    }
    let _ = follower.send(News::Ended);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
