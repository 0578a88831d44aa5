//! `entryway run`: the proxy, until it is told to stop; with `-- CMD…` for as long as CMD runs.

use std::future::pending;
use std::io::{self, Write};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout_at};

use super::block_on;
use super::failure::{CliError, code};
use super::wrapper::{self, Child};
use crate::admin::AdminBindError;
use crate::app::{self, Handles, Listener, Stop};
use crate::assemble::{self, Assembly};
use crate::events::Log;
use crate::listener::BindError;
use crate::settings::Loaded;

/// The line to paste waits this long for the first probes.
const FIRST_PROBES: Duration = Duration::from_secs(1);

/// What the log may take at the end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Runs it, and returns the exit code.
pub fn run(loaded: Loaded, command: Option<wrapper::Command>) -> Result<u8, CliError> {
    let strict = loaded.settings.shutdown.strict_exit;
    let log = Log::stderr(&loaded.settings.log)
        .map_err(|error| CliError::new(code::OS, format!("start the log: {error}")))?;
    let flush = log.clone();
    let outcome = block_on(async {
        let assembly = assemble::assemble(loaded, log).map_err(explain)?;
        let handles = assembly.handles().clone();
        let with_us = wrapper::Life::default();
        let signals = tokio::spawn(listen_to_signals(
            assembly.desk(),
            handles.clone(),
            with_us.clone(),
        ));
        let (cut, child) = match command {
            None => {
                let said = tokio::spawn(say_where(handles, false));
                let ended = assembly.run().await;
                said.abort();
                (ended.cut, None)
            }
            Some(command) => with_child(assembly, command, &with_us).await?,
        };
        signals.abort();
        Ok(match child {
            Some(code) => code,
            None if strict && cut > 0 => 3,
            None => 0,
        })
    });
    flush.flush(LAST_LINES);
    outcome
}

/// Starts the child once the proxy is ready, and drains when it has ended.
async fn with_child(
    assembly: Assembly,
    command: wrapper::Command,
    life: &wrapper::Life,
) -> Result<(u64, Option<u8>), CliError> {
    let handles = assembly.handles().clone();
    let admin = assembly.admin();
    let running = tokio::spawn(assembly.run());
    let join = |error: tokio::task::JoinError| CliError::new(code::INTERNAL, error.to_string());
    let mut stopped = handles.draining.clone();
    tokio::select! {
        () = wrapper::wait_until_healthy(&handles) => {}
        // A signal before there is a child to send it to.
        () = stopped.fired() => {
            let ended = running.await.map_err(join)?;
            return Ok((ended.cut, Some(life.signalled())));
        }
    }
    say_where(handles.clone(), true).await;
    let address = handles
        .listeners
        .iter()
        .flat_map(|listener| &listener.addresses)
        .next()
        .copied();
    let code = match Child::start(&command, address, admin, life) {
        Ok(child) => child.wait().await,
        Err(error) => {
            handles.stop(Stop::Now);
            let _ = running.await;
            return Err(error);
        }
    };
    handles.stop(Stop::Drain);
    let ended = running.await.map_err(join)?;
    Ok((ended.cut, Some(code)))
}

/// TERM and INT drain, the second one ends; HUP reloads; USR1 resolves and probes; USR2 and QUIT mean nothing yet
/// (contract 7.13). While there is a child TERM, INT and HUP are the child's.
async fn listen_to_signals(
    desk: std::sync::Arc<dyn crate::admin::Backend>,
    handles: Handles,
    child: wrapper::Life,
) {
    let open = |kind: SignalKind| signal(kind).ok();
    let (mut term, mut int, mut hup) = (
        open(SignalKind::terminate()),
        open(SignalKind::interrupt()),
        open(SignalKind::hangup()),
    );
    let (mut usr1, mut usr2, mut quit) = (
        open(SignalKind::user_defined1()),
        open(SignalKind::user_defined2()),
        open(SignalKind::quit()),
    );
    async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
        match signal {
            Some(signal) => drop(signal.recv().await),
            None => pending().await,
        }
    }
    let stop = |signal: SignalKind| {
        if !child.is_alive() {
            child.signal(signal);
            handles.stop(Stop::Drain);
        }
    };
    loop {
        tokio::select! {
            () = next(&mut term) => stop(SignalKind::terminate()),
            () = next(&mut int) => stop(SignalKind::interrupt()),
            // What is wrong with the settings stands in the log.
            () = next(&mut hup) => if !child.is_alive() { drop(desk.reload(false).await) },
            () = next(&mut usr1) => handles.refresh(),
            () = next(&mut usr2) => {}
            () = next(&mut quit) => {}
        }
    }
}

/// One line per listener, once the first probe of every address has answered or a second has passed.
async fn say_where(handles: Handles, to_stderr: bool) {
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
    let lines: String = handles
        .listeners
        .iter()
        .map(|listener| line(listener, &handles))
        .collect();
    // Nobody may be reading any more; the proxy goes on.
    let _ = match to_stderr {
        true => io::stderr().write_all(lines.as_bytes()),
        false => io::stdout()
            .write_all(lines.as_bytes())
            .and_then(|()| io::stdout().flush()),
    };
}

fn line(listener: &Listener, handles: &Handles) -> String {
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
    let name = upstream.system.as_deref().unwrap_or(upstream.name.as_str());
    let region = upstream
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
    format!(
        "listening http://{address} → {name}{region}{zone}, {healthy}/{addresses} healthy{resolving}\n"
    )
}

fn admin_bind_error(open: &AdminBindError, what: String) -> CliError {
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

pub(super) fn explain(error: assemble::Error) -> CliError {
    let what = error.to_string();
    match &error {
        assemble::Error::Targets(report) => super::wrong_settings(report),
        assemble::Error::Admin(open) => admin_bind_error(open, what),
        assemble::Error::App(app::Error::Workers(_)) => CliError::new(code::OS, what),
        assemble::Error::App(app::Error::Bind(bind)) => match bind {
            BindError::NotAnAddress(_) | BindError::Nothing => CliError::new(code::SETTING, what),
            BindError::NotLoopback(_) => {
                CliError::new(code::SETTING, what).next("--allow-remote, if that is what you want")
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
