//! The health of a hop, apart from the health of the addresses behind it.
//!
//! Fed by every attempt through the hop, by the probes of the addresses behind it, and by the supervisor of its command.
//! A hop is down after one fault of its own, and up again after one attempt that got through it or an answer about a
//! target. Where every address behind it times out again and again, the hop is silent: then only an answer to a probe
//! says that it is back, because a dead tunnel may go on accepting connections. An attempt that takes too long puts the
//! hop in doubt: the addresses behind it are then asked at once, which tells a dead tunnel from a slow target.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};

use super::command::LastLines;
use crate::clock::{self, Moment};
use crate::events::{Events, event};
use crate::metrics::{Metrics, family};
use crate::types::UpstreamName;

/// Consecutive timeouts of every address behind a hop after which the hop is silent.
const SILENT_AFTER: u32 = 3;

/// For so many times the limit of a probe nothing has come from an address when its silence counts: fast probes overlap,
/// and a network that stands still for a second is no dead tunnel.
const SILENT_LIMITS: u32 = 2;

/// Doubts that follow each other faster are one.
const DOUBT_GAP: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HopState {
    /// Nothing is known yet, or its command is not ready.
    #[default]
    Starting,
    Up,
    Down,
}

/// What those who follow a hop are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopNews {
    pub state: HopState,
    /// How often it has been in doubt.
    pub doubts: u64,
    /// It is down because nothing behind it answers.
    pub silent: bool,
}

/// The end of a probe of an address behind a hop.
#[derive(Clone, Copy, Debug)]
pub struct ProbeThrough {
    pub timed_out: bool,
    /// The connection broke.
    pub broken: bool,
    pub sent: Moment,
    /// Bytes have come from the address in traffic while the probe was under way.
    pub heard: bool,
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
    changed: watch::Sender<HopNews>,
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
    timeouts: HashMap<SocketAddr, SilentAddress>,
    silent: bool,
    doubted: Option<Moment>,
    /// Consecutive timeouts while nothing is known of the hop.
    unanswered: u32,
}

/// The silence of an address behind a hop.
#[derive(Debug, Default)]
struct SilentAddress {
    timeouts: u32,
    /// When the first of the probes was sent that have timed out.
    since: Moment,
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
        let (changed, _) = watch::channel(HopNews::default());
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
                    doubted: None,
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

    /// Follows the state and the doubts.
    pub fn watch(&self) -> watch::Receiver<HopNews> {
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

    /// An attempt through the hop takes longer than attempts usually do.
    pub(super) fn doubt(&self) {
        let mut status = self.lock();
        let now = clock::now();
        let lately = status
            .doubted
            .is_some_and(|last| now.since(last) < DOUBT_GAP);
        if status.state == HopState::Up && !lately {
            status.doubted = Some(now);
            self.inner.changed.send_modify(|news| news.doubts += 1);
        }
    }

    /// A probe of an address behind the hop has ended. Returns whether its outcome says something about the address: a
    /// timeout behind a hop that is silent, or may be, does not.
    pub fn probed(&self, address: SocketAddr, probe: ProbeThrough) -> bool {
        let mut status = self.lock();
        if probe.timed_out && status.state != HopState::Up {
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
        if probe.broken && status.silent {
            // It went through the command that is being ended, or through a proxy that is.
            return false;
        }
        if !probe.timed_out {
            status.unanswered = 0;
            status.timeouts.insert(address, SilentAddress::default());
            if std::mem::take(&mut status.silent) {
                self.set(&mut status, HopState::Up);
            }
            return true;
        }
        if probe.heard {
            // The path is busy, not dead.
            status.timeouts.insert(address, SilentAddress::default());
            return true;
        }
        let now = clock::now();
        let silence = status.timeouts.entry(address).or_insert(SilentAddress {
            timeouts: 0,
            since: probe.sent,
        });
        if silence.timeouts == 0 {
            silence.since = probe.sent;
        }
        silence.timeouts += 1;
        silence.since = silence.since.min(probe.sent);
        let says_something = silence.timeouts < SILENT_AFTER;
        // A hundredth less: timers are not exact, and the next probe is 200 ms away.
        let enough = now.since(probe.sent) * SILENT_LIMITS * 99 / 100;
        let all = status.timeouts.values();
        let is_silent = all
            .clone()
            .all(|one| one.timeouts >= SILENT_AFTER && now.since(one.since) >= enough);
        let another_answers = all.clone().any(|one| one.timeouts == 0);
        if is_silent && !status.silent {
            status.silent = true;
            let error = "silent: no address behind the hop answers";
            status.last_error = Some(error.to_owned());
            self.set(&mut status, HopState::Down);
            self.inner.replace.notify_one();
        }
        says_something || another_answers
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

    /// The files of the hop have changed.
    pub(super) fn files_read(&self, outcome: Result<(), String>) {
        let (upstream, hop) = (self.inner.upstream.as_str(), self.inner.via.as_str());
        match outcome {
            Ok(()) => event!(
                self.inner.events,
                INFO,
                "config.reload",
                "the files of the hop were read again",
                upstream = upstream,
                hop = hop,
            ),
            Err(error) => event!(
                self.inner.events,
                ERROR,
                "config.reload",
                "the files of the hop are invalid; the previous ones stay in use",
                upstream = upstream,
                hop = hop,
                error = %error,
            ),
        }
    }

    /// Resolves while the hop is silent.
    pub(super) async fn is_silent(&self) {
        let mut news = self.watch();
        // Whoever asks keeps the hop, and its health with it.
        let _ = news.wait_for(|news| news.silent).await;
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
        self.inner.changed.send_modify(|news| {
            news.state = state;
            news.silent = status.silent;
        });
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

    /// The beginning of time is the whole process's: far behind, however far another test has moved it.
    async fn health_on_a_clock_of_its_own() -> HopHealth {
        clock::now();
        tokio::time::advance(Duration::from_secs(86_400)).await;
        health()
    }

    fn answers(health: &HopHealth, last: u8) -> bool {
        health.probed(
            address(last),
            ProbeThrough {
                timed_out: false,
                broken: false,
                sent: clock::now(),
                heard: false,
            },
        )
    }

    /// A probe with a limit of 1 s that was sent so long ago ends now.
    fn times_out(health: &HopHealth, last: u8, heard: bool) -> bool {
        let sent = clock::now().since_start().saturating_sub(LIMIT);
        health.probed(
            address(last),
            ProbeThrough {
                timed_out: true,
                broken: false,
                sent: Moment::at(sent),
                heard,
            },
        )
    }

    const LIMIT: Duration = Duration::from_secs(1);

    /// From here on nothing answers for so long that the hop may be silent.
    async fn a_long_time() {
        tokio::time::advance(LIMIT * SILENT_LIMITS).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_silent_when_every_address_is() {
        let health = health_on_a_clock_of_its_own().await;
        health.got_through(Duration::ZERO);
        assert!(answers(&health, 1) && answers(&health, 2));
        for _ in 0..SILENT_AFTER + 2 {
            assert!(times_out(&health, 1, false), "the other one answers");
        }
        a_long_time().await;
        for _ in 1..SILENT_AFTER {
            assert!(times_out(&health, 2, false));
        }
        assert!(!times_out(&health, 2, false), "now all may be");
        assert_eq!(health.status().state, HopState::Up, "not long enough");
        a_long_time().await;
        assert!(!times_out(&health, 2, false), "now all are");
        assert_eq!(health.status().state, HopState::Down);
        // An address that has left does not speak for the hop any more, and one that comes does.
        health.keep_addresses(|kept| *kept == address(1));
        assert!(answers(&health, 1) && answers(&health, 3));
        for _ in 0..SILENT_AFTER {
            assert!(times_out(&health, 1, false), "the third answers");
        }
        a_long_time().await;
        health.keep_addresses(|kept| *kept == address(1));
        assert!(!times_out(&health, 1, false), "the third has left");
        // What breaks with a command that is being ended is no answer.
        let broken = ProbeThrough {
            timed_out: false,
            broken: true,
            sent: clock::now(),
            heard: false,
        };
        assert!(!health.probed(address(1), broken));
        // A dead tunnel may accept connections.
        health.got_through(Duration::ZERO);
        assert_eq!(health.status().state, HopState::Down);
        assert!(answers(&health, 1));
        assert_eq!(health.status().state, HopState::Up);
    }

    /// On a path that is full of a download every probe may be late.
    #[tokio::test(start_paused = true)]
    async fn bytes_of_traffic_prove_that_it_lives() {
        let health = health_on_a_clock_of_its_own().await;
        health.got_through(Duration::ZERO);
        for _ in 0..SILENT_AFTER {
            a_long_time().await;
            assert!(times_out(&health, 1, true));
            for _ in 1..SILENT_AFTER {
                assert!(times_out(&health, 1, false));
            }
        }
        assert_eq!(health.status().state, HopState::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_doubted_while_it_seems_to_work_and_not_too_often() {
        let health = health_on_a_clock_of_its_own().await;
        let doubts = || health.watch().borrow().doubts;
        health.doubt();
        assert_eq!(doubts(), 0, "nothing is known of it yet");
        health.got_through(Duration::ZERO);
        health.doubt();
        health.doubt();
        assert_eq!(doubts(), 1);
        tokio::time::advance(DOUBT_GAP).await;
        health.doubt();
        assert_eq!(doubts(), 2);
    }
}
