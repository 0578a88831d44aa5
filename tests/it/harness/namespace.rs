//! State that only the kernel gives: namespaces of one's own, and system calls that fail.

use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use super::LONG;
use super::child::{BINARY, clean};

/// Under CI what a test needs is there: what is missing is a failure, not a test that passes without having run.
fn missing(what: &str) {
    let text = format!("{what}; this test was not run");
    assert!(std::env::var_os("CI").is_none(), "{text}");
    println!("{text}");
}

/// What follows `unshare`: a user (which root need not have), a network, a mount and a process namespace.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["-Urnmpf", "--mount-proc"]);
    // As `stoppable`: scripts stop what they start.
    command.process_group(0);
    command.stdin(Stdio::null()).kill_on_drop(true);
    clean(&mut command);
    command
}

async fn has_namespaces() -> Option<()> {
    let works = unshare().arg("true").output().await;
    if works.is_ok_and(|output| output.status.success()) {
        return Some(());
    }
    missing("no namespaces for this user");
    None
}

/// Runs a script of bash in namespaces of its own, with the binary as `$0`, in a fresh folder; what it printed. `None`
/// where this user may have none.
pub async fn in_a_namespace(script: &str) -> Option<String> {
    has_namespaces().await?;
    let folder = tempfile::tempdir().unwrap();
    let mut command = unshare();
    command
        .args(["bash", "-c", script, BINARY])
        .current_dir(folder.path());
    let output = timeout(LONG * 3, command.output()).await;
    let output = output.expect("the script ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    println!("{out}\n{err}");
    Some(out)
}

/// A command that runs a program of Python before the binary takes its place: `before` may use the modules `os`,
/// `signal`, `resource` and the function `refuse(call, error, first)`, after which the system call fails with the error
/// (where its first argument is `first`, if that is given). `None` without Python.
pub fn prepared(before: &str, args: &[&str]) -> Option<Command> {
    let python = std::process::Command::new("python3")
        .arg("-c")
        .arg("pass")
        .status();
    if !python.is_ok_and(|status| status.success()) {
        missing("no python3 to set the state up with");
        return None;
    }
    let script = format!(
        r#"
import ctypes, os, platform, resource, signal, struct, sys
CALLS = {{'x86_64': {{'socket': 41, 'accept': 43, 'accept4': 288}}, 'aarch64': {{'socket': 198, 'accept': 202, 'accept4': 242}}}}
def refuse(call, error, first=None):
    libc = ctypes.CDLL(None, use_errno=True)
    call = CALLS[platform.machine()][call]
    op = lambda code, jt, jf, k: struct.pack('HBBI', code, jt, jf, k)
    load, equal, ret = 0x20, 0x15, 0x06
    deny = op(ret, 0, 0, 0x00050000 | error)
    allow = op(ret, 0, 0, 0x7fff0000)
    if first is None:
        code = [op(load, 0, 0, 0), op(equal, 0, 1, call), deny, allow]
    else:
        code = [op(load, 0, 0, 0), op(equal, 0, 3, call), op(load, 0, 0, 16), op(equal, 0, 1, first), deny, allow]
    filters = ctypes.create_string_buffer(b''.join(code))
    class Program(ctypes.Structure):
        _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
    program = Program(len(code), ctypes.addressof(filters))
    assert libc.prctl(38, 1, 0, 0, 0) == 0, 'no_new_privs'
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, 'seccomp'
{before}
os.execv(sys.argv[1], ['entryway'] + sys.argv[2:])
"#
    );
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).arg(BINARY).args(args);
    command.stdin(Stdio::null()).kill_on_drop(true);
    clean(&mut command);
    Some(command)
}

/// The binary as process 1 of a process namespace, as in a container; `None` where this user may have none. The signals
/// are for its only child, which [`first_child`] finds.
pub async fn as_process_one(args: &[&str]) -> Option<Command> {
    has_namespaces().await?;
    let mut command = Command::new("unshare");
    command.args(["-Urpf", "--mount-proc", "--kill-child"]);
    command.arg(BINARY).args(args);
    command.stdin(Stdio::null()).kill_on_drop(true);
    clean(&mut command);
    Some(command)
}

/// The children of a process, those that have ended and were not waited for included.
pub fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let lists = threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let all: String = lists.collect();
    all.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// The oldest child of a process.
pub fn first_child(pid: u32) -> Option<u32> {
    children(pid).into_iter().min()
}
