//! `run -- CMD…`: a child that runs behind the proxy, gets our signals, and decides the exit code.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::time::Duration;

use clap::ArgMatches;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::args;
use super::failure::{CliError, code};
use crate::app::Handles;
use crate::events::Event;

/// How long one healthy address is waited for before the child is started anyway.
const HEALTHY: Duration = Duration::from_secs(10);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Command {
    words: Vec<OsString>,
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    child: tokio::process::Child,
    signals: [(Signal, SignalStream); 3],
    life: Life,
}

/// Whether there is a child now, whose signals TERM, INT and HUP are then, and what came while there was none.
#[derive(Clone, Debug, Default)]
pub struct Life {
    alive: Arc<AtomicBool>,
    signal: Arc<AtomicI32>,
}

/// The command after `--`, if any.
pub fn command_of(matches: &ArgMatches) -> Option<Command> {
    let words: Vec<OsString> = matches.get_many(args::COMMAND)?.cloned().collect();
    (!words.is_empty()).then_some(Command { words })
}

/// Waits until the instance has started and, for up to 10 s, for one healthy address; then goes on with a warning.
pub async fn wait_until_healthy(handles: &Handles) {
    let healthy = async {
        while !handles.startup.pending().is_empty()
            || !handles
                .upstreams
                .iter()
                .any(|upstream| upstream.view.load().healthy > 0)
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(HEALTHY, healthy).await.is_err() {
        let event = Event::warn(
            "start",
            "no address is healthy after 10 s; starting the command anyway",
        );
        handles
            .events
            .emit(event.with("hint", "entryway doctor, with the same target flags"));
    }
}

// === impl Life ===

impl Life {
    /// Whether the child lives.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    /// Notes a signal that was ours.
    pub fn signal(&self, signal: SignalKind) {
        self.signal.store(signal.as_raw_value(), Relaxed);
    }

    /// The exit code of a wrapper that a signal ended before its child began.
    pub fn signalled(&self) -> u8 {
        u8::try_from(128 + self.signal.load(Relaxed)).unwrap_or(code::INTERNAL)
    }
}

// === impl Child ===

impl Child {
    /// Starts it with `ENTRYWAY_URL`, `ENTRYWAY_PORT` and `ENTRYWAY_ADMIN`.
    pub fn start(
        command: &Command,
        listen: Option<SocketAddr>,
        admin: Option<SocketAddr>,
        life: &Life,
    ) -> Result<Self, CliError> {
        let open = |kind| {
            signal(kind).map_err(|error| CliError::new(code::OS, format!("signals: {error}")))
        };
        // Before the child exists, so that none is missed.
        let signals = [
            (Signal::TERM, open(SignalKind::terminate())?),
            (Signal::INT, open(SignalKind::interrupt())?),
            (Signal::HUP, open(SignalKind::hangup())?),
        ];
        let mut started = tokio::process::Command::new(&command.words[0]);
        started.args(&command.words[1..]).kill_on_drop(true);
        if let Some(listen) = listen {
            started
                .env("ENTRYWAY_URL", format!("http://{listen}"))
                .env("ENTRYWAY_PORT", listen.port().to_string());
        }
        if let Some(admin) = admin {
            started.env("ENTRYWAY_ADMIN", admin.to_string());
        }
        let name = command.words[0].to_string_lossy();
        let child = started.spawn().map_err(|error| {
            CliError::new(code::OS, format!("start `{name}`: {error}"))
                .likely("no such program, or it may not be run")
                .next("give a program in PATH, or its path, after --")
        })?;
        life.alive.store(true, Relaxed);
        Ok(Self {
            child,
            signals,
            life: life.clone(),
        })
    }

    /// Forwards TERM, INT and HUP until it has ended; its exit code, 128+n when signal n ended it.
    pub async fn wait(mut self) -> u8 {
        loop {
            let [(_, term), (_, int), (_, hup)] = &mut self.signals;
            let signal = tokio::select! {
                status = self.child.wait() => {
                    // From here on signals are ours: a second one ends the drain.
                    self.life.alive.store(false, Relaxed);
                    return status.map_or(code::OS, exit_code);
                }
                _ = term.recv() => Signal::TERM,
                _ = int.recv() => Signal::INT,
                _ = hup.recv() => Signal::HUP,
            };
            // A terminal has sent its own INT to the child as well; a second one would count twice there.
            if signal == Signal::INT && shares_our_terminal() {
                continue;
            }
            if let Some(pid) = self
                .child
                .id()
                .and_then(|id| Pid::from_raw(id.cast_signed()))
            {
                // It may have ended this very moment.
                let _ = kill_process(pid, signal);
            }
        }
    }
}

/// Whether we are in the foreground of a terminal, whose INT goes to the whole process group.
fn shares_our_terminal() -> bool {
    use std::io::IsTerminal;
    let stdin = std::io::stdin();
    stdin.is_terminal()
        && rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp())
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code & 0xff).ok())
        .unwrap_or(code::INTERNAL)
}
