//! The sandbox of a running proxy: Landlock takes from the process the right to open files, to execute programs and to
//! make anything but its control socket, and a helper gives back what the settings name.
//!
//! [`enter`] forks the helper ([`helper`]), which stays outside, and then restricts this process, before its first
//! thread. From there on [`open`] gets the files of the settings from the helper, and [`start_command`] and
//! [`start_successor`] have it start programs. The helper keeps a list, made of the settings at the start ([`Need`]):
//! it opens and starts nothing else, whatever this process asks for. A file is allowed by its name, so that one that is
//! replaced, or appears later, can be read.
//!
//! Connections are not restricted: endpoints change while the program runs. Nothing here is on the way of a byte.
//!
//! The state is one of the process, because Landlock's is; a program that embeds the library is outside.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::sys::port_owner::{self, PortOwner};
use crate::sys::process::Inherited;
pub use child::{Child, ChildOutput, start_command, start_successor};
use helper::Helper;
pub(crate) use program::HANDOVER;
pub use program::Placeholders;

mod child;
mod helper;
mod landlock;
mod program;

/// Something outside the process that the settings name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// To read.
    File(PathBuf),
    /// The words of a command, with its placeholders.
    Command(Vec<String>),
    /// The system's resolver, a library that reads files of its own.
    SystemResolver,
}

/// What is allowed from the start on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    files: BTreeSet<PathBuf>,
    commands: Vec<Vec<String>>,
    system_resolver: bool,
    /// Where the control socket lies: a socket may be made and removed there.
    sockets: Option<PathBuf>,
}

/// Whether the sandbox holds, as `/v1/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxStatus {
    pub on: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The version of Landlock's interface that is in force.
    pub landlock: Option<i32>,
    /// The files that can be read, beside those of the system.
    pub files: Vec<PathBuf>,
    /// The programs that can be started.
    pub programs: Vec<String>,
    /// Names may be resolved by the system.
    pub system_resolver: bool,
}

#[derive(Debug)]
struct Sandbox {
    status: SandboxStatus,
    inside: Option<(Helper, Allowed)>,
}

static SANDBOX: OnceLock<Sandbox> = OnceLock::new();

/// Restricts this process, as far as the kernel can. To be called before its first thread is started, which would not be
/// restricted. `inherited`: what a process started by the helper is to get back. Done once.
pub fn enter(allowed: Allowed, inherited: &Inherited) {
    let outside = |reason: String| Sandbox {
        status: SandboxStatus::outside(reason),
        inside: None,
    };
    SANDBOX.get_or_init(|| {
        if !landlock::is_supported() {
            return outside("no Landlock in this kernel, or no permission to use it".to_owned());
        }
        let helper = match Helper::fork(allowed.clone(), inherited.clone()) {
            Ok(helper) => helper,
            Err(error) => return outside(format!("start the helper: {error}")),
        };
        match landlock::restrict(&allowed) {
            Ok(version) => Sandbox {
                status: SandboxStatus {
                    on: true,
                    reason: None,
                    landlock: Some(version),
                    files: allowed.files.iter().cloned().collect(),
                    programs: allowed.programs(),
                    system_resolver: allowed.system_resolver,
                },
                inside: Some((helper, allowed)),
            },
            // The helper ends with its socket.
            Err(reason) => outside(reason),
        }
    });
}

/// Leaves this process as it is, and says why.
pub fn stay_outside(reason: &str) {
    SANDBOX.get_or_init(|| Sandbox {
        status: SandboxStatus::outside(reason.to_owned()),
        inside: None,
    });
}

/// Whether the sandbox holds.
pub fn status() -> SandboxStatus {
    SANDBOX.get().map_or_else(
        || SandboxStatus::outside("not asked for".to_owned()),
        |sandbox| sandbox.status.clone(),
    )
}

fn inside() -> Option<&'static (Helper, Allowed)> {
    SANDBOX.get().and_then(|sandbox| sandbox.inside.as_ref())
}

/// Opens a file of the settings for reading, without waiting for the writer of a FIFO.
pub fn open(path: &Path) -> io::Result<File> {
    match inside() {
        Some((helper, _)) => helper.open(path),
        None => open_here(path),
    }
}

/// The process that listens on an address, where it can be seen.
pub fn port_owner(address: SocketAddr) -> Option<PortOwner> {
    match inside() {
        Some((helper, _)) => helper.port_owner(address),
        None => port_owner::port_owner(address),
    }
}

/// Why settings that need this cannot be applied; `None`: they can.
pub fn refuses(need: &Need) -> Option<String> {
    let (_, allowed) = inside()?;
    let is_allowed = match need {
        Need::File(path) => allowed.has_file(path),
        Need::Command(words) => allowed.commands.contains(words),
        Need::SystemResolver => allowed.system_resolver,
    };
    (!is_allowed).then(|| {
        format!(
            "the sandbox does not allow {need}, because no setting named it at the start: `entryway upgrade` takes it \
             in, as does a restart"
        )
    })
}

fn open_here(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// One form for the same name: absolute, without `.` and doubled slashes. Asks no file system.
pub fn normal(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

// === impl Need ===

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::File(path) => write!(f, "the file {}", path.display()),
            // Its other words may hold secrets.
            Need::Command(words) => {
                let program = words.first().map_or("", String::as_str);
                write!(f, "the command `{program}` with these words")
            }
            Need::SystemResolver => f.write_str("the system's resolver"),
        }
    }
}

// === impl Allowed ===

impl FromIterator<Need> for Allowed {
    fn from_iter<I: IntoIterator<Item = Need>>(needs: I) -> Self {
        let mut allowed = Self::default();
        for need in needs {
            match need {
                Need::File(path) => drop(allowed.files.insert(normal(&path))),
                Need::Command(words) if allowed.commands.contains(&words) => {}
                Need::Command(words) => allowed.commands.push(words),
                Need::SystemResolver => allowed.system_resolver = true,
            }
        }
        allowed
    }
}

impl Allowed {
    /// Sockets may be made and removed in `folder`, and below it.
    #[must_use]
    pub fn with_sockets_in(mut self, folder: Option<PathBuf>) -> Self {
        self.sockets = folder;
        self
    }

    fn has_file(&self, path: &Path) -> bool {
        self.files.contains(&normal(path))
    }

    fn programs(&self) -> Vec<String> {
        let programs = self.commands.iter().filter_map(|words| words.first());
        programs
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

// === impl SandboxStatus ===

impl SandboxStatus {
    fn outside(reason: String) -> Self {
        Self {
            on: false,
            reason: Some(reason),
            landlock: None,
            files: Vec::new(),
            programs: Vec::new(),
            system_resolver: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_file_by_other_words() {
        let allowed: Allowed = [
            Need::File("a/./b".into()),
            Need::Command(vec!["ssh".to_owned(), "x".to_owned()]),
            Need::Command(vec!["ssh".to_owned(), "y".to_owned()]),
        ]
        .into_iter()
        .collect();
        let here = std::env::current_dir().unwrap();
        assert!(allowed.has_file(Path::new("a/b")) && allowed.has_file(&here.join("a//b")));
        // A parent is not resolved without the file system: another name is another file.
        assert!(!allowed.has_file(Path::new("a/c/../b")));
        assert_eq!(allowed.programs(), ["ssh"]);
    }

    #[test]
    fn outside_everything_is_allowed() {
        assert_eq!(refuses(&Need::File("/no/such".into())), None);
        assert_eq!(
            open(Path::new("/no/such")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
