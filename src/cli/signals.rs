//! The signals of a process that serves, opened before it takes its first port so that none is lost; and the end by
//! signal of a command that runs to its end by itself.

use std::io::{self, Write};
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::error::{CliError, code};
use crate::sys::process::FromTerminal;

/// How long the last line of an interrupted command may take.
const LAST_LINE: Duration = Duration::from_millis(500);

/// TERM, INT, HUP, QUIT, USR1, USR2 and, for process 1, CHLD.
#[derive(Debug)]
pub struct Signals {
    streams: Vec<(Signal, Stream)>,
    interrupt_from_terminal: FromTerminal,
    quit_from_terminal: FromTerminal,
}

// === impl Signals ===

impl Signals {
    pub fn open() -> Result<Self, CliError> {
        let failed =
            |error: io::Error| CliError::new(code::OS, format!("signal handlers: {error}"));
        let mut streams = Vec::new();
        for (name, kind) in [
            (Signal::TERM, SignalKind::terminate()),
            (Signal::INT, SignalKind::interrupt()),
            (Signal::HUP, SignalKind::hangup()),
            (Signal::QUIT, SignalKind::quit()),
            (Signal::USR1, SignalKind::user_defined1()),
            (Signal::USR2, SignalKind::user_defined2()),
        ] {
            streams.push((name, signal(kind).map_err(failed)?));
        }
        if std::process::id() == 1 {
            streams.push((Signal::CHILD, signal(SignalKind::child()).map_err(failed)?));
        }
        Ok(Self {
            streams,
            interrupt_from_terminal: FromTerminal::watch(libc::SIGINT).map_err(failed)?,
            quit_from_terminal: FromTerminal::watch(libc::SIGQUIT).map_err(failed)?,
        })
    }

    /// The next one. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (name, stream) in &mut self.streams {
                if let std::task::Poll::Ready(Some(())) = stream.poll_recv(cx) {
                    return std::task::Poll::Ready(*name);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Whether the terminal has sent this one, and so has sent it to our child as well.
    pub fn is_from_terminal(&self, signal: Signal) -> bool {
        match signal {
            Signal::INT => self.interrupt_from_terminal.get(),
            Signal::QUIT => self.quit_from_terminal.get(),
            _ => false,
        }
    }
}

/// For commands that end by themselves: from now on TERM and INT end the process within a second, whatever it waits for,
/// with a last line that says so. As process 1 of a container it could not be stopped otherwise.
pub fn end_on_signals() {
    let watch = || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        else {
            return;
        };
        let name = runtime.block_on(async {
            let (Ok(mut term), Ok(mut int)) = (
                signal(SignalKind::terminate()),
                signal(SignalKind::interrupt()),
            ) else {
                return None;
            };
            tokio::select! {
                _ = term.recv() => Some((Signal::TERM, "SIGTERM")),
                _ = int.recv() => Some((Signal::INT, "SIGINT")),
            }
        });
        if let Some((signal, name)) = name {
            print_error(&format!("ended by {name} before it was done\n"));
            std::process::exit(128 + signal.as_raw());
        }
    };
    // Without a thread the default action of the signals stays.
    let _ = std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch);
}

/// For commands with an end of their own: turns true at the first TERM or INT; its exit code.
pub fn interrupt() -> (watch::Receiver<bool>, JoinHandle<u8>) {
    let (signalled, interrupt) = watch::channel(false);
    let signals = tokio::spawn(async move {
        let (Ok(mut term), Ok(mut int)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return 0;
        };
        let number = tokio::select! {
            _ = term.recv() => SignalKind::terminate(),
            _ = int.recv() => SignalKind::interrupt(),
        };
        signalled.send_replace(true);
        u8::try_from(128 + number.as_raw_value()).unwrap_or_default()
    });
    (interrupt, signals)
}

/// Writes to standard error for a limited time: a pipe that nobody reads must not hold up the end of a process.
pub fn print_error(text: &str) {
    let (done, finished) = std::sync::mpsc::channel();
    let text = text.to_owned();
    let spawned = std::thread::Builder::new().spawn(move || {
        let _ = anstream::stderr().write_all(text.as_bytes());
        let _ = done.send(());
    });
    if spawned.is_ok() {
        let _ = finished.recv_timeout(LAST_LINE);
    }
}
