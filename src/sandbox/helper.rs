//! The helper: a copy of this process from before it was restricted, which opens files and starts programs for it.
//!
//! A request is one message with a socket of its own for the answer, and is handled on a thread of its own: one that
//! hangs (a file system that does not answer) holds up no other. A program's thread lives as long as the program, sends
//! its exit status as the second answer, and is the parent whose end the kernel ends the program with. The helper ends
//! with the last copy of the socket that leads to it, so never after the process that it helps, and ends the process groups
//! of its commands with it: the kernel ends a command, and not what the command has started.
//!
//! What it refuses protects against a restricted process that does another's will: files and commands that were not
//! in the settings at the start; hosts that could be read as an option; a successor that is not a file on a disk (the
//! restricted process can make files in memory, and nowhere else).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::program::{OwnedPlaces, command_of, successor_of};
use super::{Allowed, open_here};
use crate::sys::port_owner::{self, PortOwner};
use crate::sys::process::{self, Inherited};
use crate::sys::{descriptors, limits};

/// How long an answer may take: a file system that does not answer must not stop us.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a thread's stack in the helper.
const STACK: usize = 256 * 1024;

/// The way to the helper.
#[derive(Debug)]
pub(super) struct Helper {
    socket: Mutex<UnixStream>,
}

/// A program that the helper has started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: u32,
    /// Its exit status comes here.
    pub(super) status: UnixStream,
}

#[derive(Debug, Serialize, Deserialize)]
enum HelperRequest {
    Open(PathBuf),
    PortOwner(SocketAddr),
    /// With descriptors: standard output, standard error and, `with_stdin`, standard input.
    Start {
        words: Vec<String>,
        places: OwnedPlaces,
        with_stdin: bool,
    },
    /// With a descriptor: standard input.
    Succeed {
        binary: PathBuf,
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum HelperAnswer {
    /// With the descriptor.
    Opened,
    PortOwner(Option<(u32, String)>),
    Started(u32),
    Refused(String),
    /// As the system says it.
    Failed(i32),
}

/// What the helper keeps from the start.
struct Keeper {
    allowed: Allowed,
    inherited: Inherited,
    /// Our own, for a successor.
    arguments: Vec<OsString>,
    /// The process group of the process that it helps; 0: one of its own for each successor.
    group: i32,
    commands: Mutex<CommandGroups>,
}

/// The commands that run, each the leader of a process group.
#[derive(Debug, Default)]
struct CommandGroups {
    groups: BTreeSet<i32>,
    /// Nobody is left to be helped.
    ended: bool,
}

// === impl Helper ===

impl Helper {
    /// Forks it. Only while this process has one thread.
    pub(super) fn fork(allowed: Allowed, inherited: Inherited) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let keeper = Keeper {
            allowed,
            inherited,
            arguments: std::env::args_os().skip(1).collect(),
            group: process::own_group(),
            commands: Mutex::default(),
        };
        process::fork_helper(c"entryway-helper", theirs.into(), |socket| {
            // As in the process that it helps: each program that runs needs a socket.
            limits::raise_descriptors();
            keeper.serve(&UnixStream::from(socket));
        })?;
        Ok(Self {
            socket: Mutex::new(ours),
        })
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        let (answer, descriptors, _) = self.ask(&HelperRequest::Open(super::normal(path)), &[])?;
        match (answer, descriptors.into_iter().next()) {
            (HelperAnswer::Opened, Some(file)) => Ok(file.into()),
            (answer, _) => Err(answer.into()),
        }
    }

    pub(super) fn port_owner(&self, address: SocketAddr) -> Option<PortOwner> {
        match self.ask(&HelperRequest::PortOwner(address), &[]).ok()?.0 {
            HelperAnswer::PortOwner(owner) => {
                owner.map(|(pid, command)| PortOwner { pid, command })
            }
            _ => None,
        }
    }

    /// Starts a command with standard output, standard error and, where given, standard input.
    pub(super) fn start(
        &self,
        words: &[String],
        places: OwnedPlaces,
        output: [BorrowedFd<'_>; 2],
        stdin: Option<BorrowedFd<'_>>,
    ) -> io::Result<Started> {
        let request = HelperRequest::Start {
            words: words.to_vec(),
            places,
            with_stdin: stdin.is_some(),
        };
        let descriptors: Vec<_> = output.into_iter().chain(stdin).collect();
        self.started(&request, &descriptors)
    }

    pub(super) fn succeed(
        &self,
        binary: &Path,
        config: Option<&Path>,
        stdin: BorrowedFd<'_>,
    ) -> io::Result<Started> {
        let request = HelperRequest::Succeed {
            binary: binary.to_owned(),
            config: config.map(Path::to_owned),
        };
        self.started(&request, &[stdin])
    }

    fn started(&self, request: &HelperRequest, with: &[BorrowedFd<'_>]) -> io::Result<Started> {
        match self.ask(request, with)? {
            (HelperAnswer::Started(pid), _, status) => Ok(Started { pid, status }),
            (answer, ..) => Err(answer.into()),
        }
    }

    /// Blocks until the answer is there, but not for ever.
    fn ask(
        &self,
        request: &HelperRequest,
        with: &[BorrowedFd<'_>],
    ) -> io::Result<(HelperAnswer, Vec<OwnedFd>, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let bytes = serde_json::to_vec(request)?;
        let descriptors: Vec<_> = [theirs.as_fd()].into_iter().chain(with.to_vec()).collect();
        let sent = {
            let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
            descriptors::send(&socket, &bytes, &descriptors)
        };
        drop(theirs);
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(
                io::ErrorKind::TimedOut,
                "the helper of the sandbox gives no answer",
            ),
            _ => io::Error::other(format!("the helper of the sandbox is gone: {error}")),
        };
        sent.map_err(gone)?;
        let (bytes, descriptors) = descriptors::receive(&ours).map_err(gone)?;
        Ok((serde_json::from_slice(&bytes)?, descriptors, ours))
    }
}

// === impl HelperAnswer ===

impl From<HelperAnswer> for io::Error {
    fn from(answer: HelperAnswer) -> Self {
        match answer {
            HelperAnswer::Failed(number) => io::Error::from_raw_os_error(number),
            HelperAnswer::Refused(why) => io::Error::new(io::ErrorKind::PermissionDenied, why),
            other => io::Error::other(format!("the helper of the sandbox answers {other:?}")),
        }
    }
}

impl From<io::Error> for HelperAnswer {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => HelperAnswer::Failed(number),
            None => HelperAnswer::Refused(error.to_string()),
        }
    }
}

// === impl CommandGroups ===

impl CommandGroups {
    fn enter(&mut self, group: i32) {
        self.groups.insert(group);
        if self.ended {
            self.end();
        }
    }

    fn end(&mut self) {
        self.ended = true;
        for group in &self.groups {
            process::signal_group(*group, process::Signal::Kill);
        }
    }
}

// === impl Keeper ===

impl Keeper {
    /// Until the other end is closed.
    fn serve(self, socket: &UnixStream) {
        let keeper = Arc::new(self);
        while let Ok((bytes, descriptors)) = descriptors::receive(socket) {
            let mut descriptors = descriptors.into_iter();
            let Some(to) = descriptors.next() else {
                continue;
            };
            let keeper = Arc::clone(&keeper);
            let thread = std::thread::Builder::new().stack_size(STACK);
            // Without a thread the socket for the answer is closed, which is an answer.
            let _ = thread
                .spawn(move || keeper.handle(&bytes, descriptors.collect(), &UnixStream::from(to)));
        }
        keeper.commands().end();
    }

    fn commands(&self) -> MutexGuard<'_, CommandGroups> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, request: &[u8], with: Vec<OwnedFd>, to: &UnixStream) {
        let request = serde_json::from_slice(request);
        let is_command = matches!(&request, Ok(HelperRequest::Start { .. }));
        let started = match request {
            Ok(HelperRequest::Open(path)) => return self.open(&path, to),
            Ok(HelperRequest::PortOwner(address)) => {
                let owner = port_owner::port_owner(address);
                let owner = owner.map(|owner| (owner.pid, owner.command));
                return say(to, &HelperAnswer::PortOwner(owner), &[]);
            }
            Ok(HelperRequest::Start {
                words,
                places,
                with_stdin,
            }) => self.start(&words, &places, with, with_stdin),
            Ok(HelperRequest::Succeed { binary, config }) => {
                self.succeed(&binary, config.as_deref(), with)
            }
            Err(error) => Err(HelperAnswer::Refused(error.to_string())),
        };
        // The command holds descriptors that must be closed once its program has them.
        let spawned = started.and_then(|mut command| command.spawn().map_err(HelperAnswer::from));
        match spawned {
            Ok(mut child) => {
                let group = child.id().cast_signed();
                if is_command {
                    self.commands().enter(group);
                }
                say(to, &HelperAnswer::Started(child.id()), &[]);
                if let Ok(status) = child.wait() {
                    let mut to = to;
                    // Nobody may be left to hear it.
                    let _ = to.write_all(&status.into_raw().to_be_bytes());
                }
                // What is left of its group is ended by the one who is told now.
                self.commands().groups.remove(&group);
            }
            Err(answer) => say(to, &answer, &[]),
        }
    }

    fn open(&self, path: &Path, to: &UnixStream) {
        if !self.allowed.has_file(path) {
            let why = format!(
                "not allowed by the sandbox, because no setting named it at the start: {}",
                path.display()
            );
            return say(to, &HelperAnswer::Refused(why), &[]);
        }
        match open_here(path) {
            Ok(file) => say(to, &HelperAnswer::Opened, &[file.as_fd()]),
            Err(error) => say(to, &HelperAnswer::from(error), &[]),
        }
    }

    fn start(
        &self,
        words: &[String],
        places: &OwnedPlaces,
        with: Vec<OwnedFd>,
        with_stdin: bool,
    ) -> Result<Command, HelperAnswer> {
        if !self.allowed.commands.iter().any(|known| known == words) {
            let what =
                "the sandbox does not allow this command, because no setting named it at the start";
            return Err(HelperAnswer::Refused(what.to_owned()));
        }
        if !places.are_harmless() {
            let what = "the host could be read as something else than a host";
            return Err(HelperAnswer::Refused(what.to_owned()));
        }
        let mut with = with.into_iter();
        let (Some(stdout), Some(stderr)) = (with.next(), with.next()) else {
            return Err(HelperAnswer::Refused("descriptors are missing".to_owned()));
        };
        let mut command = command_of(words, places.borrowed());
        command.stdout(stdout).stderr(stderr);
        match with.next() {
            Some(stdin) if with_stdin => command.stdin(stdin),
            _ => command.stdin(Stdio::null()),
        };
        Ok(command)
    }

    fn succeed(
        &self,
        binary: &Path,
        config: Option<&Path>,
        with: Vec<OwnedFd>,
    ) -> Result<Command, HelperAnswer> {
        let Some(stdin) = with.into_iter().next() else {
            return Err(HelperAnswer::Refused("descriptors are missing".to_owned()));
        };
        for path in [Some(binary), config].into_iter().flatten() {
            on_a_disk(path)?;
        }
        let mut command =
            successor_of(binary, self.arguments.iter().cloned(), config, stdin.into());
        self.inherited.give_to(&mut command, false);
        // Ctrl-C at a terminal reaches it as it reaches the process that it replaces.
        command.process_group(self.group);
        Ok(command)
    }
}

/// Refuses what is no regular file on a disk.
fn on_a_disk(path: &Path) -> Result<(), HelperAnswer> {
    // A bare name is looked for in PATH.
    if path.components().count() == 1 && path.is_relative() && !path.exists() {
        return Ok(());
    }
    let real = path.canonicalize()?;
    let is_in_memory = ["/proc", "/sys", "/dev"]
        .iter()
        .any(|folder| real.starts_with(folder));
    if is_in_memory || !real.is_file() {
        let why = format!("{} is not a regular file on a disk", path.display());
        return Err(HelperAnswer::Refused(why));
    }
    Ok(())
}

fn say(to: &UnixStream, answer: &HelperAnswer, with: &[BorrowedFd<'_>]) {
    if let Ok(bytes) = serde_json::to_vec(answer) {
        // Nobody may be left to hear it.
        let _ = descriptors::send(to, &bytes, with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    /// The helper as a thread, which is as good as a process for all but the sandbox.
    fn helper(needs: impl IntoIterator<Item = super::super::Need>) -> Helper {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let keeper = Keeper {
            allowed: needs.into_iter().collect(),
            inherited: Inherited::take_over(),
            arguments: vec!["run".into()],
            group: process::own_group(),
            commands: Mutex::default(),
        };
        std::thread::spawn(move || keeper.serve(&theirs));
        Helper {
            socket: Mutex::new(ours),
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn files_of_the_list_and_no_others() {
        use super::super::Need;
        let folder = tempfile::tempdir().unwrap();
        let (listed, other) = (folder.path().join("listed"), folder.path().join("other"));
        let helper = helper([Need::File(listed.clone())]);
        std::fs::write(&other, "secret").unwrap();
        let absent = helper.open(&listed).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        for text in ["one", "two"] {
            // Replaced, as editors and Kubernetes do it.
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &listed).unwrap();
            let mut read = String::new();
            helper
                .open(&listed)
                .unwrap()
                .read_to_string(&mut read)
                .unwrap();
            assert_eq!(read, text);
        }
        let refused = helper.open(&other).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("sandbox"), "{refused}");
    }

    #[test]
    fn commands_of_the_list_and_their_status() {
        use super::super::Need;
        let command = words("sh -c echo.%h:%p;exit.3");
        let command: Vec<String> = command.iter().map(|word| word.replace('.', " ")).collect();
        let helper = helper([Need::Command(command.clone())]);
        let places = |host: &str| OwnedPlaces {
            target: Some((host.to_owned(), 8182)),
            local_port: None,
        };
        let start = |words: &[String], host: &str| {
            let (mut out, their_out) = UnixStream::pair().unwrap();
            let started = helper.start(
                words,
                places(host),
                [their_out.as_fd(), their_out.as_fd()],
                None,
            )?;
            drop(their_out);
            let mut said = String::new();
            out.read_to_string(&mut said)?;
            let mut status = [0; 4];
            let mut answers = &started.status;
            answers.read_exact(&mut status)?;
            let code = std::process::ExitStatus::from_raw(i32::from_be_bytes(status)).code();
            io::Result::Ok((said, code))
        };
        let ended = start(&command, "db-1.internal").unwrap();
        assert_eq!(ended, ("db-1.internal:8182\n".to_owned(), Some(3)));
        for host in ["-oProxyCommand=x", "a b", "$(x)", ""] {
            let refused = start(&command, host).unwrap_err();
            assert!(refused.to_string().contains("host"), "{refused}");
        }
        let other = start(&words("sh -c true"), "db").unwrap_err();
        assert!(other.to_string().contains("sandbox"), "{other}");
    }

    // It needs a file that is only in memory, and /proc.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_successor_is_a_file_on_a_disk() {
        let memory = rustix::fs::memfd_create("settings", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let memory = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            std::os::fd::AsRawFd::as_raw_fd(&memory)
        );
        for path in [memory.as_str(), "/dev/null", "/proc/self/exe/..", "/"] {
            assert!(on_a_disk(Path::new(path)).is_err(), "{path}");
        }
        assert!(on_a_disk(Path::new("/bin/sh")).is_ok());
        assert!(on_a_disk(Path::new("entryway")).is_ok());
    }
}
