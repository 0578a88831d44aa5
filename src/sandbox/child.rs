//! Programs that this process has started, itself or through the helper of the sandbox.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::helper::Started;
use super::inside;
use super::program::{OwnedPlaces, Placeholders, command_of, successor_of};
use crate::sys::process::Inherited;

/// Where a command writes.
#[derive(Debug)]
pub struct ChildOutput {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A running program. Dropping it does not end it.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    kind: ChildKind,
    status: Option<ExitStatus>,
}

#[derive(Debug)]
enum ChildKind {
    Own(tokio::process::Child),
    /// The helper's; its exit status comes over the socket.
    Helpers(UnixStream),
}

/// Starts a command in a process group of its own, which ends when this process does. Its words may hold placeholders.
pub fn start_command(
    words: &[String],
    places: Placeholders<'_>,
    stdin: Option<OwnedFd>,
    output: ChildOutput,
) -> io::Result<Child> {
    if let Some((helper, _)) = inside() {
        let descriptors = [output.stdout.as_fd(), output.stderr.as_fd()];
        let stdin = stdin.as_ref().map(AsFd::as_fd);
        let started = helper.start(words, OwnedPlaces::from(places), descriptors, stdin);
        return Child::of_helper(started?);
    }
    let mut command = command_of(words, places);
    command
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(output.stdout)
        .stderr(output.stderr);
    Child::own(command)
}

/// Starts the process that is to replace this one: `binary` with our own arguments and, where given, another settings
/// file. `stdin` is its end of the handover.
pub fn start_successor(
    binary: &Path,
    config: Option<&Path>,
    stdin: OwnedFd,
    inherited: Option<&Inherited>,
) -> io::Result<Child> {
    if let Some((helper, _)) = inside() {
        return Child::of_helper(helper.succeed(binary, config, stdin.as_fd())?);
    }
    let mut command = successor_of(binary, std::env::args_os().skip(1), config, stdin.into());
    if let Some(inherited) = inherited {
        inherited.give_to(&mut command, false);
    }
    Child::own(command)
}

// === impl Child ===

impl Child {
    fn own(command: Command) -> io::Result<Self> {
        let child = tokio::process::Command::from(command).spawn()?;
        Ok(Self {
            pid: child.id().unwrap_or_default(),
            kind: ChildKind::Own(child),
            status: None,
        })
    }

    fn of_helper(started: Started) -> io::Result<Self> {
        started.status.set_read_timeout(None)?;
        started.status.set_nonblocking(true)?;
        Ok(Self {
            pid: started.pid,
            kind: ChildKind::Helpers(UnixStream::from_std(started.status)?),
            status: None,
        })
    }

    /// Its process id, also after its end.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether this process is the parent and collects it.
    pub fn is_own(&self) -> bool {
        matches!(self.kind, ChildKind::Own(_))
    }

    /// Resolves at its end. Cancel-safe.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = match &mut self.kind {
            ChildKind::Own(child) => child.wait().await?,
            ChildKind::Helpers(socket) => {
                let mut bytes = [0; 4];
                // Written at once, and so read at once.
                match socket.read(&mut bytes).await? {
                    4 => ExitStatus::from_raw(i32::from_be_bytes(bytes)),
                    _ => {
                        let what = "the helper of the sandbox is gone, and its programs with it";
                        return Err(io::Error::other(what));
                    }
                }
            }
        };
        self.status = Some(status);
        Ok(status)
    }

    /// SIGKILL, and its end.
    pub async fn kill(&mut self) -> io::Result<()> {
        if self.status.is_none()
            && let Some(pid) = Pid::from_raw(self.pid.cast_signed())
        {
            // It may have ended this very moment.
            let _ = kill_process(pid, Signal::KILL);
        }
        self.wait().await.map(drop)
    }
}
