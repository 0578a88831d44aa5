//! `run -- CMD…`: the command that runs behind the proxy. It is told where the proxy listens, gets the signals that
//! arrive while it lives, and decides the exit code.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use clap::ArgMatches;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::args;
use super::error::{CliError, code};
use crate::app::Handles;
use crate::events::event;
use crate::sys::process::{Inherited, OwnChild};

/// How long one healthy address is waited for before the command is started anyway.
const HEALTHY: Duration = Duration::from_secs(10);

/// What a service manager tells entryway and not its child.
const NOT_FOR_CHILDREN: [&str; 7] = [
    "ENTRYWAY_HANDOVER",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// The words behind `--`; at least one.
#[derive(Clone, Debug)]
pub struct ChildCommand {
    words: Vec<OsString>,
}

/// The running command.
#[derive(Debug)]
pub struct WrappedCommand {
    child: tokio::process::Child,
    _own: Option<OwnChild>,
}

/// Waits until the instance has started and, for up to 10 s, for one healthy address; then goes on with a warning.
pub async fn wait_until_healthy(handles: Handles) {
    let healthy = async {
        while !handles.readiness.pending().is_empty()
            || !handles
                .upstreams
                .iter()
                .any(|upstream| upstream.view.load().healthy > 0)
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(HEALTHY, healthy).await.is_err() {
        event!(
            handles.events,
            WARN,
            "start",
            "no address is healthy after 10 s; starting the command anyway",
            hint = "entryway doctor, with the same target flags",
        );
    }
}

// === impl Command ===

impl ChildCommand {
    /// The command of `run`, if there is one.
    pub fn of(matches: &ArgMatches) -> Option<Self> {
        let words: Vec<OsString> = matches.get_many(args::COMMAND)?.cloned().collect();
        (!words.is_empty()).then_some(Self { words })
    }

    /// Fails where there is no such program, so that a mistyped name is reported before anything is started.
    pub fn find(&self) -> Result<(), CliError> {
        let program = Path::new(&self.words[0]);
        let found = if self.words[0].as_encoded_bytes().contains(&b'/') {
            is_executable(program)
        } else {
            let path = std::env::var_os("PATH");
            let path = path.as_deref().unwrap_or(OsStr::new("/usr/bin:/bin"));
            std::env::split_paths(path).any(|folder| is_executable(&folder.join(program)))
        };
        if found {
            return Ok(());
        }
        Err(self.not_started("no such program, or no permission to execute it"))
    }

    fn not_started(&self, why: &str) -> CliError {
        let name = self.words[0].to_string_lossy();
        CliError::new(code::OS, format!("start `{name}`: {why}"))
            .next("give a program in PATH, or its path, after --")
    }

    /// Starts it with `ENTRYWAY_URL`, `ENTRYWAY_PORT` and `ENTRYWAY_ADMIN`.
    pub fn start(
        &self,
        listen: Option<SocketAddr>,
        admin: Option<SocketAddr>,
        inherited: &Inherited,
    ) -> Result<WrappedCommand, CliError> {
        let mut command = std::process::Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        for name in NOT_FOR_CHILDREN {
            command.env_remove(name);
        }
        if let Some(listen) = listen.map(connectable) {
            command
                .env("ENTRYWAY_URL", format!("http://{listen}"))
                .env("ENTRYWAY_PORT", listen.port().to_string());
        }
        if let Some(admin) = admin.map(connectable) {
            command.env("ENTRYWAY_ADMIN", admin.to_string());
        }
        inherited.give_to(&mut command, true);
        let mut command = tokio::process::Command::from(command);
        let child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.not_started(&error.to_string()))?;
        let _own = child.id().map(OwnChild::register);
        Ok(WrappedCommand { child, _own })
    }
}

/// An address that a client can connect to: a wildcard address stands for loopback.
fn connectable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

// === impl WrappedCommand ===

impl WrappedCommand {
    /// Its exit code, 128+n when signal n ended it. Cancel-safe.
    pub async fn wait(&mut self) -> u8 {
        let status = self.child.wait().await;
        status.map_or(code::OS, exit_code)
    }

    pub fn signal(&self, signal: Signal) {
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

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code & 0xff).ok())
        .unwrap_or(code::INTERNAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_address_is_reached_by_loopback() {
        let of = |text: &str| connectable(text.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:8182"), "127.0.0.1:8182");
        assert_eq!(of("[::]:8182"), "[::1]:8182");
        assert_eq!(of("10.0.0.7:1"), "10.0.0.7:1");
    }

    #[test]
    fn programs_are_found_as_exec_finds_them() {
        let find = |word: &str| {
            ChildCommand {
                words: vec![word.into()],
            }
            .find()
            .is_ok()
        };
        assert!(find("sh") && find("/bin/sh"));
        assert!(!find("no-such-program-here") && !find("/etc/passwd") && !find("/bin"));
    }
}
