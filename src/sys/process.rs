//! Process state that a parent leaves to us and that we leave to a child: the signal mask, ignored signals, the limit
//! of open files, passed sockets; the collection of processes that have lost their own parent; and process groups that
//! must not outlive us.
//!
//! entryway changes all of them for itself: it must receive TERM even where its parent has blocked it, it must see the
//! exit of its own children even where its parent ignores SIGCHLD, and it raises the soft limit of open files. A command
//! that runs behind the proxy (`run -- CMD`) gets back what it would have had without us.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::tcp_info;
use rustix::process::{Resource, Rlimit, getrlimit};

/// The last classic signal; real-time signals are left as they are.
const LAST_SIGNAL: libc::c_int = 31;

/// What this process found when it started.
#[derive(Clone)]
pub struct Inherited {
    mask: libc::sigset_t,
    ignored: Vec<libc::c_int>,
    open_files: Rlimit,
}

/// Whether the last signal of one kind was sent by the kernel on behalf of a terminal, which sends it to every process
/// in the foreground and so to our child as well.
///
/// Off Linux the system does not tell reliably. There it is taken to be the terminal's while we are in the foreground of
/// one: a command that gets its interrupt twice is a command that is interrupted for good, and whoever means us alone has
/// TERM.
#[derive(Clone, Debug, Default)]
pub struct FromTerminal {
    #[cfg(all(target_os = "linux", not(entryway_portable)))]
    is_kernels: std::sync::Arc<AtomicBool>,
}

impl std::fmt::Debug for Inherited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inherited")
            .field("ignored", &self.ignored)
            .field("open_files", &self.open_files)
            .finish_non_exhaustive()
    }
}

// === impl Inherited ===

impl Inherited {
    /// Records the state and sets what entryway needs: no signal blocked, SIGCHLD at its default. To be called before
    /// the first thread is started (threads copy the mask) and before the limit of open files is raised.
    pub fn take_over() -> Self {
        let open_files = getrlimit(Resource::Nofile);
        let mut ignored = Vec::new();
        // SAFETY: both sets are initialised by the calls before they are read; sigaction with a null action only reads.
        let mask = unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            let mut mask: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, &raw mut mask);
            for signal in 1..=LAST_SIGNAL {
                let mut action: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
                    && action.sa_sigaction == libc::SIG_IGN
                    // Rust's own start-up ignores it; its children get the default back.
                    && signal != libc::SIGPIPE
                {
                    ignored.push(signal);
                }
            }
            if ignored.contains(&libc::SIGCHLD) {
                libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            }
            mask
        };
        Self {
            mask,
            ignored,
            open_files,
        }
    }

    /// Makes `command` start with the recorded state. With `ends_with_us` the child gets SIGTERM when the thread that
    /// starts it ends, so that it does not outlive a killed proxy.
    pub fn give_to(&self, command: &mut Command, ends_with_us: bool) {
        let inherited = self.clone();
        let parent = std::process::id();
        // SAFETY: between fork and exec only calls that are async-signal-safe are made, and nothing is allocated.
        unsafe {
            command.pre_exec(move || inherited.apply(ends_with_us.then_some(parent)));
        }
    }

    /// In the child, between fork and exec.
    fn apply(&self, parent: Option<u32>) -> io::Result<()> {
        // SAFETY: plain system calls on values that live long enough.
        unsafe {
            #[cfg(all(target_os = "linux", not(entryway_portable)))]
            if let Some(parent) = parent {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                // Gone between fork and prctl: the signal will never come.
                if libc::getppid().cast_unsigned() != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
            }
            #[cfg(any(not(target_os = "linux"), entryway_portable))]
            let _ = parent;
            for signal in &self.ignored {
                libc::signal(*signal, libc::SIG_IGN);
            }
            let _ = rustix::process::setrlimit(Resource::Nofile, self.open_files);
            if libc::sigprocmask(
                libc::SIG_SETMASK,
                &raw const self.mask,
                std::ptr::null_mut(),
            ) != 0
            {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

// === impl FromTerminal ===

impl FromTerminal {
    /// Watches the origin of `signal`.
    pub fn watch(signal: libc::c_int) -> io::Result<Self> {
        let from_terminal = Self::default();
        #[cfg(all(target_os = "linux", not(entryway_portable)))]
        {
            let flag = std::sync::Arc::clone(&from_terminal.is_kernels);
            let action =
                move |info: &libc::siginfo_t| flag.store(info.si_code == libc::SI_KERNEL, Relaxed);
            // SAFETY: the action stores an atomic and does nothing else, which is async-signal-safe.
            unsafe { signal_hook_registry::register_sigaction(signal, action)? };
        }
        #[cfg(any(not(target_os = "linux"), entryway_portable))]
        let _ = signal;
        Ok(from_terminal)
    }

    /// Whether the last one came from the terminal.
    #[cfg(all(target_os = "linux", not(entryway_portable)))]
    pub fn get(&self) -> bool {
        self.is_kernels.load(Relaxed)
    }

    /// Whether the last one came from the terminal.
    #[cfg(any(not(target_os = "linux"), entryway_portable))]
    pub fn get(&self) -> bool {
        let terminal = std::fs::File::open("/dev/tty");
        let group = terminal.and_then(|terminal| Ok(rustix::termios::tcgetpgrp(&terminal)?));
        group.is_ok_and(|group| group.as_raw_nonzero().get() == own_group())
    }
}

/// The process group of this process; 0 where it lies outside of our process namespace and has no number here, as in a
/// container whose first process was given none of its own. (`rustix` takes it for a number that is never 0.)
pub fn own_group() -> i32 {
    // SAFETY: it reads one number of this process, and cannot fail.
    unsafe { libc::getpgrp() }
}

/// Goes on as two processes. In the new one, which has a process group of its own and receives no signal, `body` runs
/// with `socket`, the only descriptor that it has beside the standard ones; the process ends with it. What it starts has
/// to unblock the signals, as [`lead_group_and_die_with_parent`] and [`Inherited::give_to`] do.
///
/// Fails where other threads run already: the copy would have them as dead, with whatever they have locked.
pub fn fork_helper(
    name: &std::ffi::CStr,
    socket: OwnedFd,
    body: impl FnOnce(OwnedFd),
) -> io::Result<()> {
    #[cfg(all(target_os = "linux", not(entryway_portable)))]
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("other threads run already"));
    }
    // SAFETY: this thread is the only one, so that the copy is whole.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let run = std::panic::AssertUnwindSafe(|| {
                become_helper(name, socket.as_raw_fd());
                body(socket);
            });
            let _ = std::panic::catch_unwind(run);
            // SAFETY: ends the process without what its parent has registered for the end.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(()),
    }
}

/// Leaves what belongs to the parent alone.
fn become_helper(name: &std::ffi::CStr, keep: RawFd) {
    let keep = keep.cast_unsigned();
    // SAFETY: plain system calls. The descriptors that are closed belong to values of the parent, which this process
    // never uses or drops.
    unsafe {
        libc::setpgid(0, 0);
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        #[cfg(all(target_os = "linux", not(entryway_portable)))]
        {
            libc::prctl(libc::PR_SET_NAME, name.as_ptr());
            for (first, last) in [(3, keep.saturating_sub(1)), (keep + 1, u32::MAX)] {
                if first <= last {
                    libc::syscall(libc::SYS_close_range, first, last, 0);
                }
            }
        }
        #[cfg(any(not(target_os = "linux"), entryway_portable))]
        let _ = (name, keep);
    }
}

/// Our own children, whose exit somebody waits for. One set for the process, because there is one table of children.
static OWN_CHILDREN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Keeps [`reap_orphans`] from collecting one of our own children, until dropped.
#[derive(Debug)]
pub struct OwnChild(u32);

// === impl OwnChild ===

impl OwnChild {
    pub fn register(pid: u32) -> Self {
        own_children().insert(pid);
        Self(pid)
    }
}

impl Drop for OwnChild {
    fn drop(&mut self) {
        own_children().remove(&self.0);
    }
}

fn own_children() -> MutexGuard<'static, BTreeSet<u32>> {
    OWN_CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Collects exited processes that were handed to us because their parent has gone, as happens to process 1 of a
/// container. Stops at one of our own children ([`OwnChild`]) and returns true: the caller looks again once whoever
/// waits for it has collected it.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn reap_orphans() -> bool {
    loop {
        // SAFETY: siginfo_t is plain data that waitid fills in; si_pid is 0 where it has found no process.
        let pid = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            if libc::waitid(libc::P_ALL, 0, &raw mut info, options) != 0 {
                return false;
            }
            info.si_pid()
        };
        let Some(found) = rustix::process::Pid::from_raw(pid) else {
            return false;
        };
        if own_children().contains(&pid.cast_unsigned()) {
            return true;
        }
        if rustix::process::waitpid(Some(found), rustix::process::WaitOptions::NOHANG).is_err() {
            return false;
        }
    }
}

/// Only Linux hands processes over to process 1 of a container.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
pub fn reap_orphans() -> bool {
    false
}

/// A descriptor that a service manager has passed to us, with the name it has there.
#[derive(Debug)]
pub struct PassedSocket {
    pub name: String,
    pub descriptor: OwnedFd,
}

/// The descriptors that `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PID` announce: the first call takes them, later ones
/// get none. None where `LISTEN_PID` is another process: then they were meant for our parent.
pub fn take_passed_sockets(
    get: impl Fn(&str) -> Option<String>,
) -> Result<Vec<PassedSocket>, String> {
    /// The first descriptor after standard input, output and error.
    const FIRST: RawFd = 3;
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let count: RawFd = match (get("LISTEN_PID"), get("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid.trim().parse() == Ok(std::process::id()) => {
            let parsed = count
                .trim()
                .parse()
                .ok()
                .filter(|count| (0..1000).contains(count));
            parsed.ok_or_else(|| {
                format!("LISTEN_FDS is `{count}`, which is no count of descriptors")
            })?
        }
        _ => return Ok(Vec::new()),
    };
    if TAKEN.swap(true, Relaxed) {
        return Ok(Vec::new());
    }
    let names = get("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = Vec::new();
    for raw in FIRST..FIRST + count {
        let name = names.next().unwrap_or_default().to_owned();
        // SAFETY: fcntl only looks at the descriptor, and fails where it is not open. The descriptor is ours: the service
        // manager has passed it to this process, and TAKEN keeps it from being taken twice.
        let descriptor = unsafe {
            if libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) == -1 {
                return Err(format!(
                    "descriptor {raw} (`{name}`) is not open, although LISTEN_FDS announces {count}"
                ));
            }
            OwnedFd::from_raw_fd(raw)
        };
        passed.push(PassedSocket { name, descriptor });
    }
    Ok(passed)
}

/// Takes standard input where it is a Unix stream socket, and leaves `/dev/null` in its place.
pub fn take_stdin_stream() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails where it is no Unix socket.
    stream.peer_addr()?;
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: both are open; whoever reads standard input reads an end of file from here on.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(stream)
}

/// The descriptor as a listening TCP socket, ready for an event loop; else what it is instead.
pub fn listening_tcp(descriptor: OwnedFd) -> Result<TcpListener, String> {
    let socket = socket2::Socket::from(descriptor);
    match socket.r#type() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => {
            return Err("no socket".to_owned());
        }
        Err(error) => return Err(error.to_string()),
        Ok(kind) if kind != socket2::Type::STREAM => return Err("no TCP socket".to_owned()),
        Ok(_) => {}
    }
    let is_ip = socket
        .local_addr()
        .is_ok_and(|address| address.as_socket().is_some());
    if !is_ip {
        return Err("no TCP socket".to_owned());
    }
    if !tcp_info::is_listening(&socket) {
        return Err("not listening".to_owned());
    }
    socket
        .set_nonblocking(true)
        .map_err(|error| error.to_string())?;
    Ok(socket.into())
}

// Commands that are kept alive or started per connection (hops).

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Term,
    Kill,
}

/// Puts the child into a process group of its own, with no signal blocked, and, on Linux, has the kernel kill it when the thread that starts it
/// ends, which must therefore live as long as the process.
pub fn lead_group_and_die_with_parent(command: &mut Command) {
    command.process_group(0);
    let parent = std::process::id();
    // SAFETY: prctl, getppid, sigprocmask and _exit are async-signal-safe, and nothing is allocated between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // The helper of the sandbox has blocked all of them for itself.
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            #[cfg(all(target_os = "linux", not(entryway_portable)))]
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // The parent may have died before the call above.
            if libc::getppid().unsigned_abs() != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
}

/// Sends a signal to every process of a group; a group that is gone is ignored.
pub fn signal_group(group: i32, signal: Signal) {
    use rustix::process::{Pid, Signal as Number, kill_process_group};
    let number = match signal {
        Signal::Term => Number::TERM,
        Signal::Kill => Number::KILL,
    };
    if let Some(group) = Pid::from_raw(group) {
        let _ = kill_process_group(group, number);
    }
}
