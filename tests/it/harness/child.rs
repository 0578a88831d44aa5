//! The built binary as a process of its own.

use std::net::SocketAddr;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Conf, LONG, events_in, eventually};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_entryway");

/// How long the pipes of a process that has ended are read where somebody else still holds them.
const AFTER_ITS_END: Duration = Duration::from_secs(1);

/// A command of the binary, without what this environment may say to it.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    clean(&mut command);
    command
}

/// A command that is to be stopped (SIGSTOP), in a process group of its own. While one of a group is stopped, the kernel hangs
/// up on all of it (SIGHUP) as soon as a process ends that connected it to the rest of its session; the end of an old generation
/// after an upgrade is such a one, and the tests are of that group.
#[cfg(feature = "load")]
pub fn stoppable(args: &[&str]) -> Command {
    let mut command = command(args);
    command.process_group(0);
    command
}

pub(super) fn clean(command: &mut Command) {
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ENTRYWAY_"))
    {
        command.env_remove(name);
    }
}

/// As settings write it, the command of a hop that is a forward to a mock: it listens where the hop wants it.
pub fn mock_command() -> String {
    format!(
        "['{BINARY}', 'mock', '--zones', 'a', '--base-ip', '127.0.0.1', '--listen', '127.0.0.1:%l']"
    )
}

/// Runs a command to its end.
pub async fn output(args: &[&str]) -> Output {
    timeout(LONG, command(args).output())
        .await
        .unwrap_or_else(|_| panic!("{args:?} hangs"))
        .unwrap()
}

/// Exit code, standard output, standard error.
pub async fn run(args: &[&str]) -> (i32, String, String) {
    let output = output(args).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// `entryway run`, or anything else that goes on running; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    out: Said,
    err: Said,
    _folder: Option<tempfile::TempDir>,
}

/// What came through a pipe so far, and the task that reads it until its last writer has gone.
#[derive(Debug)]
struct Said {
    text: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
}

impl Process {
    /// Starts a command and collects what it says.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = collect(child.stdout.take().unwrap());
        let err = collect(child.stderr.take().unwrap());
        Self {
            child,
            out,
            err,
            _folder: None,
        }
    }

    /// `entryway run` with these arguments, once it says where it listens.
    pub async fn run(args: &[&str]) -> Self {
        let words: Vec<&str> = ["run"].iter().chain(args).copied().collect();
        Self::spawn(command(&words)).listening().await
    }

    /// `entryway run` with a settings file.
    pub async fn with(conf: &Conf) -> Self {
        Self::with_limit(conf, None).await
    }

    /// The same under a limit of descriptors.
    pub async fn with_limit(conf: &Conf, descriptors: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("entryway.toml");
        std::fs::write(&file, conf.text()).unwrap();
        let mut shell = Command::new("sh");
        let limit = descriptors.map_or(String::new(), |count| format!("ulimit -n {count};"));
        shell
            .arg("-c")
            .arg(format!("{limit} exec \"$0\" run --config \"$1\""))
            .arg(BINARY)
            .arg(&file);
        shell.stdin(Stdio::null()).kill_on_drop(true);
        clean(&mut shell);
        let mut process = Self::spawn(shell);
        process._folder = Some(folder);
        process.listening().await
    }

    /// The folder of the settings file.
    pub fn config(&self) -> std::path::PathBuf {
        self._folder.as_ref().unwrap().path().join("entryway.toml")
    }

    async fn listening(self) -> Self {
        let start = tokio::time::Instant::now();
        while !self.out().contains("listening http://") {
            assert!(start.elapsed() < LONG, "does not listen: {}", self.err());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self
    }

    /// What it said on standard output.
    pub fn out(&self) -> String {
        self.out.text.lock().unwrap().clone()
    }

    /// What it said on standard error.
    pub fn err(&self) -> String {
        self.err.text.lock().unwrap().clone()
    }

    /// Events of a name in its log.
    pub fn events(&self, name: &str) -> Vec<Value> {
        events_in(&self.err(), name)
    }

    /// The same, once there is one.
    pub async fn logged(&self, name: &str) -> Vec<Value> {
        eventually(name, || !self.events(name).is_empty()).await;
        self.events(name)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        let out = self.out();
        let after = out.split("http://").nth(1).unwrap();
        after.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Where admin HTTP listens.
    pub async fn admin(&self) -> SocketAddr {
        let find = || {
            self.events("listener.up")
                .into_iter()
                .find(|line| line["name"] == "admin")
        };
        eventually("admin is up", || find().is_some()).await;
        find().unwrap()["address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits for its end, and until all that it said is here.
    pub async fn wait(&mut self) -> ExitStatus {
        let status = timeout(LONG * 2, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("does not end: {}", self.err()))
            .unwrap();
        for said in [&mut self.out, &mut self.err] {
            // What it started can outlive it and keep the pipe open.
            if !said.reading.is_finished() {
                let _ = timeout(AFTER_ITS_END, &mut said.reading).await;
            }
        }
        status
    }

    /// TERM, and its exit code.
    pub async fn term(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait().await.code().unwrap_or(-1)
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }
}

fn collect(from: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> Said {
    let text = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&text);
    let reading = tokio::spawn(async move {
        let mut lines = BufReader::new(from).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let mut text = into.lock().unwrap();
            text.push_str(&String::from_utf8_lossy(&line));
            text.push('\n');
        }
    });
    Said { text, reading }
}
