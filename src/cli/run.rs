//! `entryway run`: the proxy, until it is told to stop; with `-- CMD…` for as long as CMD runs.
//!
//! One event loop ([`Run::until_ended`]) receives everything that decides about the end: signals, requests over the
//! admin API, the exit of CMD, the end of the proxy. Signal handlers are installed before the first port is taken, so
//! that there is no moment at which a signal is lost. While CMD lives, signals are CMD's, and a requested shutdown ends
//! CMD first; the proxy drains once CMD has ended.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::block_on;
use super::child::{self, WrappedCommand};
use super::error::{CliError, code};
use super::signals::Signals;
use super::status_line::StatusLine;
use crate::addr::HostPort;
use crate::admin::{AdminBindError, control_folder};
use crate::app::{
    self, BoundListener, Handles, Handover, News, Reloader, ShutdownOutcome, StartContext,
    StopRequest, UpgradeRequest,
};
use crate::events::Log;
use crate::listener::BindError;
use crate::sandbox::{self, Allowed};
use crate::settings::{Loaded, Profile, SandboxSetting};
use crate::sys::process::{self, Inherited};

/// The listening line waits this long for the first probes.
const FIRST_PROBES: Duration = Duration::from_secs(1);

/// How long the log may take to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// After a child of ours has exited, whoever waits for it gets this long to collect it before orphans are looked for.
const COLLECT_PAUSE: Duration = Duration::from_millis(100);

/// Runs it, and returns the exit code.
pub fn run(loaded: Loaded, command: Option<child::ChildCommand>) -> Result<u8, CliError> {
    // Before the first thread, which would copy the signal mask.
    let inherited = Inherited::take_over();
    // Before anything is opened, which could get a number that only seems to be passed to us.
    let passed =
        process::take_passed_sockets(|name| std::env::var(name).ok()).map_err(unusable_sockets)?;
    let handover = Handover::take(|name| std::env::var_os(name)).map_err(|error| {
        CliError::new(code::OS, format!("take over from the old process: {error}"))
            .likely("ENTRYWAY_HANDOVER is set, and no other entryway has started this one")
    })?;
    let is_wrapped = handover.as_ref().is_some_and(Handover::is_wrapped);
    if let Some(command) = &command {
        command.find()?;
    }
    if command.is_some() || is_wrapped {
        sandbox::stay_outside("off beside a command (run -- CMD)");
    } else if loaded.settings.runtime.sandbox == SandboxSetting::Off {
        sandbox::stay_outside("off by --sandbox off or runtime.sandbox");
    } else {
        let needs = loaded.needs().into_iter().map(|(_, need)| need);
        let sockets = control_folder(&loaded.settings.admin);
        // Before the first thread, which would not be restricted.
        sandbox::enter(
            needs.collect::<Allowed>().with_sockets_in(sockets),
            &inherited,
        );
    }
    let is_watched = io::stdout().is_terminal() && io::stderr().is_terminal();
    let profile = loaded.settings.profile;
    let wants_status = profile != Profile::Sidecar && command.is_none();
    let status = (is_watched && wants_status).then(|| StatusLine::new(io::stderr()));
    let log = match &status {
        Some(status) => Log::to(&loaded.settings.log, status.log_sink(), true),
        None => Log::stderr(&loaded.settings.log),
    };
    let log = log.map_err(|error| CliError::new(code::OS, format!("start the log: {error}")))?;
    let flush = log.clone();
    let outcome = block_on(async {
        let signals = Signals::open()?;
        let origin = StartContext {
            passed,
            handover,
            process: Some(inherited.clone()),
            is_private: false,
        };
        let app = app::start_with(loaded, log, origin).map_err(explain)?;
        let upgrader = &app.handles().upgrader;
        let is_wrapper = command.is_some();
        // Whoever waits for this process would take its end for the end of all.
        let lives_on = is_wrapper || std::process::id() == 1;
        let news = lives_on.then(|| upgrader.follow(is_wrapper));
        app.handles().events.receive_library_events();
        let run = Run {
            handles: app.handles().clone(),
            reloader: app.reloader().clone(),
            admin: app.admin(),
            requests: (is_wrapper || is_wrapped).then(|| app.handles().divert_requests()),
            is_wrapper,
            is_wrapped,
            news,
            newest: None,
            replaced: None,
            all_gone: false,
            waiting: command,
            child: None,
            exit_code: None,
            child_was_told: false,
            look_for_orphans: None,
            signals,
            inherited,
            status,
            profile,
        };
        run.until_ended(tokio::spawn(app.run())).await
    });
    flush.flush(LAST_LINES);
    outcome
}

struct Run {
    handles: Handles,
    reloader: Reloader,
    admin: Option<SocketAddr>,
    signals: Signals,
    inherited: Inherited,
    /// On a terminal of a laptop or of a load test.
    status: Option<StatusLine<io::Stderr>>,
    profile: Profile,
    /// Shutdowns requested over the admin API, where a child is to end first.
    requests: Option<mpsc::UnboundedReceiver<()>>,
    is_wrapper: bool,
    /// An older process is the parent of a command, which a requested shutdown ends first.
    is_wrapped: bool,
    /// About the newest process, where this one lives on after it has been replaced.
    news: Option<mpsc::UnboundedReceiver<News>>,
    newest: Option<u32>,
    /// This process has been replaced and has drained.
    replaced: Option<ShutdownOutcome>,
    /// The newest process has ended, and nobody has replaced it.
    all_gone: bool,
    /// The command, until it is started.
    waiting: Option<child::ChildCommand>,
    child: Option<WrappedCommand>,
    /// CMD's, or the one of the signal that came before it was started.
    exit_code: Option<u8>,
    /// A signal or request was passed on to the child, so that the next signal to us is the second.
    child_was_told: bool,
    look_for_orphans: Option<Instant>,
}

// === impl Run ===

impl Run {
    async fn until_ended(mut self, mut proxy: JoinHandle<ShutdownOutcome>) -> Result<u8, CliError> {
        if !self.is_wrapper {
            let status = self.status.clone();
            tokio::spawn(print_listening(
                self.handles.clone(),
                StandardStream::Stdout,
                status,
            ));
        }
        let drawing = self.status.as_ref();
        let drawing = drawing.and_then(|status| status.draw(self.handles.clone(), self.profile));
        let healthy = child::wait_until_healthy(self.handles.clone());
        let upgrader = self.handles.upgrader.clone();
        let mut wrapper_lives = self.is_wrapped;
        let wrapper_gone = upgrader.first_gone();
        tokio::pin!(healthy, wrapper_gone);
        loop {
            let orphans = self.look_for_orphans;
            if let Some(ended) = self.replaced
                && self.all_gone
                && self.child.is_none()
            {
                return Ok(self.code_of(ended));
            }
            tokio::select! {
                ended = &mut proxy, if self.replaced.is_none() => {
                    let ended = ended.map_err(|error| CliError::new(code::INTERNAL, error.to_string()))?;
                    if self.news.is_none() || !ended.is_replaced {
                        if let Some(drawing) = drawing {
                            drawing.end();
                        }
                        return Ok(self.code_of(ended));
                    }
                    self.replaced = Some(ended);
                }
                news = next_news(&mut self.news) => self.handle_news(news),
                () = &mut wrapper_gone, if wrapper_lives => {
                    wrapper_lives = false;
                    self.handles.stop(StopRequest::Signal);
                }
                signal = self.signals.next() => self.handle_signal(signal),
                () = requested(&mut self.requests) => self.handle_request(),
                () = &mut healthy, if self.waiting.is_some() => {
                    if let Err(error) = self.start_child() {
                        self.handles.stop(StopRequest::Now);
                        let _ = proxy.await;
                        return Err(error);
                    }
                }
                code = ended(&mut self.child), if self.child.is_some() => self.handle_exit(code),
                () = sleep_until(orphans.unwrap_or_else(Instant::now)), if orphans.is_some() => {
                    let again = process::reap_orphans();
                    self.look_for_orphans = again.then(|| Instant::now() + COLLECT_PAUSE);
                }
            }
        }
    }

    fn start_child(&mut self) -> Result<(), CliError> {
        let Some(command) = self.waiting.take() else {
            return Ok(());
        };
        tokio::spawn(print_listening(
            self.handles.clone(),
            StandardStream::Stderr,
            None,
        ));
        let listen = self
            .handles
            .listeners
            .iter()
            .flat_map(|listener| &listener.addresses)
            .next()
            .copied();
        self.child = Some(command.start(listen, self.admin, &self.inherited)?);
        Ok(())
    }

    /// TERM and INT drain, the second one ends the drain; HUP reloads; USR1 resolves and probes; USR2 upgrades; the others
    /// mean nothing. Once another process serves instead of this one, they are its.
    /// While the child lives all of them are the child's.
    fn handle_signal(&mut self, signal: Signal) {
        if signal == Signal::CHILD {
            self.look_for_orphans
                .get_or_insert_with(|| Instant::now() + COLLECT_PAUSE);
            return;
        }
        if let Some(child) = &self.child {
            if !self.signals.is_from_terminal(signal) {
                child.signal(signal);
            }
            self.child_was_told |= matches!(signal, Signal::TERM | Signal::INT);
            return;
        }
        if self.newest.is_some() {
            self.signal_newest(signal);
            if matches!(signal, Signal::TERM | Signal::INT) {
                self.handles.stop(StopRequest::Signal);
            }
            return;
        }
        match signal {
            Signal::TERM | Signal::INT => {
                if self.waiting.take().is_some() {
                    self.exit_code = u8::try_from(128 + signal.as_raw()).ok();
                }
                self.handles.stop(StopRequest::Signal);
            }
            Signal::HUP => {
                let reloader = self.reloader.clone();
                // The outcome is in the log.
                tokio::spawn(async move { drop(reloader.reload(false).await) });
            }
            Signal::USR1 => self.handles.refresh(),
            Signal::USR2 if !self.is_wrapper => {
                let upgrader = self.handles.upgrader.clone();
                let settings = self.reloader.current().effective().clone();
                let order = UpgradeRequest::default();
                // The outcome is in the log.
                tokio::spawn(async move { drop(upgrader.upgrade(order, settings).await) });
            }
            _ => {}
        }
    }

    /// A shutdown requested over the admin API: the child ends first.
    fn handle_request(&mut self) {
        if self.is_wrapped && self.handles.upgrader.tell_first(&News::WantsShutdown) {
            return;
        }
        match &self.child {
            Some(child) => {
                self.child_was_told = true;
                child.signal(Signal::TERM);
            }
            None => {
                if self.waiting.take().is_some() {
                    self.exit_code = u8::try_from(128 + Signal::TERM.as_raw()).ok();
                }
                self.handles.stop(StopRequest::Request);
                self.signal_newest(Signal::TERM);
            }
        }
    }

    fn handle_news(&mut self, news: News) {
        match news {
            News::Serves(pid) => self.newest = Some(pid),
            News::WantsShutdown => self.handle_request(),
            News::Ended => {
                self.newest = None;
                self.all_gone = true;
                // A command without a proxy.
                if let Some(child) = &self.child {
                    self.child_was_told = true;
                    child.signal(Signal::TERM);
                }
            }
        }
    }

    /// Sends a signal to the process that serves instead of this one, if there is one.
    fn signal_newest(&self, signal: Signal) {
        let pid = self.newest.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // It may have ended this very moment.
            let _ = kill_process(pid, signal);
        }
    }

    fn handle_exit(&mut self, code: u8) {
        self.child = None;
        self.exit_code = Some(code);
        self.handles.stop(if self.child_was_told {
            StopRequest::Signal
        } else {
            StopRequest::Request
        });
        self.signal_newest(Signal::TERM);
    }

    fn code_of(&self, ended: ShutdownOutcome) -> u8 {
        let strict = self.handles.shutdown.load().strict_exit;
        match self.exit_code {
            Some(code) => code,
            None if strict && ended.cut > 0 => code::CUT,
            None => 0,
        }
    }
}

async fn requested(requests: &mut Option<mpsc::UnboundedReceiver<()>>) {
    match requests {
        Some(requests) => match requests.recv().await {
            Some(()) => {}
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn next_news(news: &mut Option<mpsc::UnboundedReceiver<News>>) -> News {
    let next = match news {
        Some(news) => news.recv().await,
        None => None,
    };
    match next {
        Some(next) => next,
        None => std::future::pending().await,
    }
}

async fn ended(child: &mut Option<WrappedCommand>) -> u8 {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

#[derive(Clone, Copy, Debug)]
enum StandardStream {
    Stdout,
    Stderr,
}

/// Prints one line per listener, once every address has answered its first probe or a second has passed. Written on a
/// thread of its own: a pipe that nobody reads must stall neither the proxy nor the start of a command.
async fn print_listening(
    handles: Handles,
    output: StandardStream,
    status: Option<StatusLine<io::Stderr>>,
) {
    let until = Instant::now() + FIRST_PROBES;
    let probed = async {
        while !handles
            .upstreams
            .iter()
            .all(|upstream| upstream.view.load().all_probed)
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout_at(until, probed).await;
    let mut lines: String = handles
        .listeners
        .iter()
        .map(|listener| line(listener, &handles))
        .collect();
    if status.is_some() {
        lines.extend(handles.listeners.iter().filter_map(paste_line));
    }
    let write = move || {
        if let Some(status) = status {
            let _ = status.print(&lines);
            return;
        }
        // Where nobody reads any more the proxy goes on.
        let _ = match output {
            StandardStream::Stderr => io::stderr().write_all(lines.as_bytes()),
            StandardStream::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout
                    .write_all(lines.as_bytes())
                    .and_then(|()| stdout.flush())
            }
        };
    };
    // Without a thread the line is left out; the log has the addresses.
    let _ = std::thread::Builder::new()
        .name("listening-line".to_owned())
        .spawn(write);
}

/// What the client map needs, to be pasted.
fn paste_line(listener: &BoundListener) -> Option<String> {
    let address = listener.addresses.first()?;
    let host = match address.ip().is_loopback() {
        true => "localhost".to_owned(),
        false => address.ip().to_string(),
    };
    let at = HostPort {
        host,
        port: address.port(),
    };
    Some(format!(
        "paste into the client map:  :endpoint \"http://{at}\"\n"
    ))
}

fn line(listener: &BoundListener, handles: &Handles) -> String {
    let Some(upstream) = handles
        .upstreams
        .iter()
        .find(|upstream| upstream.name == listener.route.upstream)
    else {
        return String::new();
    };
    let snapshot = upstream.view.load();
    let address = listener
        .addresses
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let target = upstream.target_names();
    let name = target.system.as_deref().unwrap_or(upstream.name.as_str());
    let region = target
        .region
        .as_ref()
        .map(|region| format!(" ({region})"))
        .unwrap_or_default();
    let zone = snapshot
        .own_zone
        .as_ref()
        .map(|zone| format!(", zone {zone}"))
        .unwrap_or_default();
    let resolving = if snapshot.addresses == 0 {
        ", resolving"
    } else {
        ""
    };
    let (healthy, addresses) = (snapshot.healthy, snapshot.addresses);
    let scheme = listener.scheme;
    format!(
        "listening {scheme}://{address} → {name}{region}{zone}, {healthy}/{addresses} healthy{resolving}\n"
    )
}

fn admin_error(open: &AdminBindError, what: String) -> CliError {
    let next = match open.what {
        "metrics" => "--metrics-bind with another port",
        _ => "--admin 127.0.0.1:0 takes any free port, --admin off none",
    };
    let (code, likely) = match open.error.kind() {
        io::ErrorKind::PermissionDenied => (code::PERMISSION, "ports below 1024 need a privilege"),
        io::ErrorKind::AddrInUse => (code::CANNOT_BIND, "another program has the port"),
        _ => (code::CANNOT_BIND, "this machine does not have the address"),
    };
    CliError::new(code, what).likely(likely).next(next)
}

fn unusable_sockets(what: String) -> CliError {
    CliError::new(code::OS, what)
        .next("systemctl cat entryway.socket shows what the unit passes on")
}

pub(super) fn explain(error: app::Error) -> CliError {
    let what = error.to_string();
    match &error {
        app::Error::Admin(open) => admin_error(open, what),
        app::Error::Workers(_) => CliError::new(code::OS, what),
        #[cfg(feature = "gateway")]
        app::Error::Tls(_) => CliError::new(code::SETTING, what).next("entryway guide remote"),
        app::Error::Sockets(_) => unusable_sockets(what),
        app::Error::OtherPorts(_) => CliError::new(code::SETTING, what)
            .next("restart the service, or give the listener its old addresses"),
        app::Error::Handover(_) => CliError::new(code::OS, what),
        app::Error::AdminCopies(_) => CliError::new(code::OS, what)
            .next("raise the limit of open files (RLIMIT_NOFILE, LimitNOFILE, ulimits)"),
        app::Error::Bind(bind) => match bind {
            BindError::NotAnAddress(_) | BindError::Nothing => CliError::new(code::SETTING, what),
            BindError::NotLoopback(_) => {
                CliError::new(code::SETTING, what).next(
                    "listen on 127.0.0.1:8182 (a socket unit: ListenStream=127.0.0.1:8182), or --allow-remote \
                     if other machines are to connect",
                )
            }
            BindError::InUse { .. } => CliError::new(code::CANNOT_BIND, what)
                .likely("an old tunnel or another entryway still runs")
                .next("end it, or listen elsewhere: --listen 127.0.0.1:8192"),
            BindError::Denied(_) => CliError::new(code::PERMISSION, what)
                .likely("ports below 1024 need a privilege")
                .next("--listen 127.0.0.1:8182"),
            BindError::Other { .. } => CliError::new(code::CANNOT_BIND, what)
                .likely("this machine does not have the address")
                .next("--listen 127.0.0.1:8182"),
        },
    }
}
