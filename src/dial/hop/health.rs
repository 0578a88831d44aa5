//! The health of a hop, apart from the health of the addresses behind it.
//!
//! Fed by every attempt through the hop, by the probes of the addresses behind it, and by the supervisor of its command.
//! A hop is down after one fault of its own, and up again after one attempt that got through it or an answer about a
//! target. Where every address behind it times out again and again, the hop is silent: then only an answer to a probe
//! says that it is back, because a dead tunnel may go on accepting connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};

use super::command::LastLines;
use crate::events::{Events, event};
use crate::metrics::{Metrics, family};
use crate::types::UpstreamName;

/// Consecutive timeouts of every address behind a hop after which the hop is silent.
const SILENT_AFTER: u32 = 3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HopState {
    /// Nothing is known yet, or its command is not ready.
    #[default]
    Starting,
    Up,
    Down,
}

/// What is known of a hop, for `/v1/hops`.
#[derive(Clone, Debug)]
pub struct HopStatus {
    pub state: HopState,
    pub since: SystemTime,
    /// Of the supervised command.
    pub pid: Option<u32>,
    pub restarts: u64,
    pub last_error: Option<String>,
    pub last_output: Vec<String>,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct HopHealth {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstream: UpstreamName,
    via: String,
    supervised: bool,
    output: LastLines,
    status: Mutex<HopRecord>,
    changed: watch::Sender<HopState>,
    /// Some address has been reached since the hop was last down.
    through: AtomicBool,
    /// The supervisor is to replace the command.
    replace: Notify,
    events: Events,
    metrics: Metrics,
}

#[derive(Debug)]
struct HopRecord {
    state: HopState,
    since: SystemTime,
    pid: Option<u32>,
    restarts: u64,
    last_error: Option<String>,
    /// Consecutive timeouts by address.
    timeouts: HashMap<SocketAddr, u32>,
    silent: bool,
    /// Consecutive timeouts while nothing is known of the hop.
    unanswered: u32,
}

// === impl HopState ===

impl HopState {
    pub const fn as_str(self) -> &'static str {
        match self {
            HopState::Starting => "starting",
            HopState::Up => "up",
            HopState::Down => "down",
        }
    }
}

// === impl HopHealth ===

impl HopHealth {
    pub(super) fn new(
        upstream: UpstreamName,
        via: String,
        supervised: bool,
        output: LastLines,
        events: Events,
        metrics: Metrics,
    ) -> Self {
        let (changed, _) = watch::channel(HopState::Starting);
        Self {
            inner: Arc::new(Inner {
                upstream,
                via,
                supervised,
                output,
                status: Mutex::new(HopRecord {
                    state: HopState::Starting,
                    since: SystemTime::now(),
                    pid: None,
                    restarts: 0,
                    last_error: None,
                    timeouts: HashMap::new(),
                    silent: false,
                    unanswered: 0,
                }),
                changed,
                through: AtomicBool::new(false),
                replace: Notify::new(),
                events,
                metrics,
            }),
        }
    }

    pub fn status(&self) -> HopStatus {
        let status = self.lock();
        HopStatus {
            state: status.state,
            since: status.since,
            pid: status.pid,
            restarts: status.restarts,
            last_error: status.last_error.clone(),
            last_output: self.inner.output.lines(),
        }
    }

    /// Follows the state.
    pub fn watch(&self) -> watch::Receiver<HopState> {
        self.inner.changed.subscribe()
    }

    pub(super) fn has_got_through(&self) -> bool {
        self.inner.through.load(Relaxed)
    }

    /// An address was reached.
    pub(super) fn got_through(&self, took: Duration) {
        let upstream = [self.inner.upstream.as_str()];
        self.inner
            .metrics
            .histogram(&family::HOP_CONNECT_SECONDS, &upstream)
            .record(took.as_secs_f64());
        self.inner.through.store(true, Relaxed);
        self.answered();
    }

    /// The hop has said something about a target.
    pub(super) fn answered(&self) {
        let mut status = self.lock();
        if !status.silent && status.state != HopState::Up {
            self.set(&mut status, HopState::Up);
        }
    }

    /// A fault of the hop itself.
    pub(super) fn failed(&self, error: &str) {
        let mut status = self.lock();
        let is_new = status.last_error.as_deref() != Some(error);
        status.last_error = Some(error.to_owned());
        if status.state != HopState::Down || is_new {
            self.inner.through.store(false, Relaxed);
            self.set(&mut status, HopState::Down);
        }
    }

    /// A probe of an address behind the hop has ended. Returns whether its outcome says something about the address: a
    /// timeout behind a silent hop does not.
    pub fn probed(&self, address: SocketAddr, timed_out: bool) -> bool {
        let mut status = self.lock();
        if timed_out && status.state != HopState::Up {
            // A proxy that has never answered at all is at fault; a command that is not ready has a limit of its own.
            status.unanswered += 1;
            if status.state == HopState::Starting
                && !self.inner.supervised
                && status.unanswered >= SILENT_AFTER
            {
                status.last_error = Some("no answer from the hop".to_owned());
                self.set(&mut status, HopState::Down);
            }
            return false;
        }
        if !timed_out {
            status.unanswered = 0;
            status.timeouts.insert(address, 0);
            if std::mem::take(&mut status.silent) {
                self.set(&mut status, HopState::Up);
            }
            return true;
        }
        *status.timeouts.entry(address).or_default() += 1;
        let is_silent = status.timeouts.values().all(|count| *count >= SILENT_AFTER);
        if is_silent && !status.silent {
            status.silent = true;
            let error = "silent: no address behind the hop answers";
            status.last_error = Some(error.to_owned());
            self.set(&mut status, HopState::Down);
            self.inner.replace.notify_one();
        }
        !status.silent
    }

    /// These are the addresses behind the hop; others no longer count.
    pub(super) fn keep_addresses(&self, is_kept: impl Fn(&SocketAddr) -> bool) {
        self.lock().timeouts.retain(|address, _| is_kept(address));
    }

    /// The supervised command of this process id has ended, or is being ended.
    pub(super) fn ended(&self, pid: u32) {
        let mut status = self.lock();
        status.pid = status.pid.filter(|known| *known != pid);
    }

    /// The supervised command is started again.
    pub(super) fn restarting(&self, reason: &'static str) {
        self.lock().restarts += 1;
        let labels = [self.inner.upstream.as_str(), reason];
        self.inner
            .metrics
            .counter(&family::HOP_RESTARTS, &labels)
            .increment(1);
        event!(
            self.inner.events,
            INFO,
            "hop.restart",
            "restarting the command of the hop",
            upstream = self.inner.upstream.as_str(),
            hop = self.inner.via.as_str(),
            reason = reason,
        );
    }

    /// The supervised command is ready: what was silent before it says nothing any more.
    pub(super) fn ready(&self, pid: Option<u32>) {
        let mut status = self.lock();
        status.pid = pid;
        status.silent = false;
        status.timeouts.clear();
        self.set(&mut status, HopState::Up);
    }

    /// Resolves when the supervised command is to be replaced because it is silent.
    pub(super) async fn replace_wanted(&self) {
        self.inner.replace.notified().await;
    }

    fn set(&self, status: &mut HopRecord, state: HopState) {
        if status.state != state {
            status.state = state;
            status.since = SystemTime::now();
        }
        match state {
            HopState::Up => {
                event!(
                    self.inner.events,
                    INFO,
                    "hop.up",
                    "the hop is up",
                    upstream = self.inner.upstream.as_str(),
                    hop = self.inner.via.as_str(),
                );
            }
            HopState::Down => {
                event!(
                    self.inner.events,
                    WARN,
                    "hop.down",
                    "the hop is down",
                    upstream = self.inner.upstream.as_str(),
                    hop = self.inner.via.as_str(),
                    error = status.last_error.as_deref(),
                );
            }
            HopState::Starting => {}
        }
        self.inner.changed.send_replace(state);
    }

    fn lock(&self) -> MutexGuard<'_, HopRecord> {
        self.inner
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Log;

    fn health() -> HopHealth {
        HopHealth::new(
            UpstreamName::new("u"),
            "socks5://h:1".to_owned(),
            false,
            LastLines::default(),
            Events::new(Log::default()),
            Metrics::default(),
        )
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 1))
    }

    #[test]
    fn a_fault_is_the_hops_and_an_answer_ends_it() {
        let health = health();
        assert_eq!(health.status().state, HopState::Starting);
        health.failed("refused");
        assert_eq!(health.status().state, HopState::Down);
        assert!(!health.has_got_through());
        health.answered();
        assert_eq!(health.status().state, HopState::Up);
        health.got_through(Duration::ZERO);
        assert!(health.has_got_through());
        health.failed("refused");
        assert!(!health.has_got_through());
    }

    #[test]
    fn it_is_silent_when_every_address_is() {
        let health = health();
        health.got_through(Duration::ZERO);
        assert!(health.probed(address(1), false) && health.probed(address(2), false));
        for _ in 0..SILENT_AFTER + 2 {
            assert!(health.probed(address(1), true), "the other one answers");
        }
        for _ in 1..SILENT_AFTER {
            assert!(health.probed(address(2), true));
        }
        assert!(!health.probed(address(2), true), "now all are");
        assert_eq!(health.status().state, HopState::Down);
        // An address that has left does not speak for the hop any more, and one that comes does.
        health.keep_addresses(|kept| *kept == address(1));
        assert!(health.probed(address(1), false) && health.probed(address(3), false));
        for _ in 0..SILENT_AFTER {
            assert!(health.probed(address(1), true), "the third answers");
        }
        health.keep_addresses(|kept| *kept == address(1));
        assert!(!health.probed(address(1), true), "the third has left");
        // A dead tunnel may accept connections.
        health.got_through(Duration::ZERO);
        assert_eq!(health.status().state, HopState::Down);
        assert!(health.probed(address(1), false));
        assert_eq!(health.status().state, HopState::Up);
    }
}
