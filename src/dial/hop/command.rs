//! Commands of the user: their words, starting them, and the last lines of what they say.
//!
//! Every command runs in a process group of its own, and the kernel ends it when this process dies, however that
//! happens. It is started without a shell.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::HopFault;
use crate::addr::HostPort;
use crate::sandbox::{self, Child};
use crate::sys::process::{self, OwnChild};

/// Lines of output that are kept.
const LINES: usize = 20;
/// Bytes of a line that are kept.
const LINE: usize = 200;
/// What a command has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// The last lines that a command has written. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct LastLines {
    lines: Arc<Mutex<VecDeque<String>>>,
}

/// A running command. Dropping it kills its whole process group.
#[derive(Debug)]
pub(super) struct RunningCommand {
    child: Child,
    /// Keeps a process 1 from collecting it as an orphan.
    _own: Option<OwnChild>,
}

/// What stands for the placeholders of a command.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HopPlaceholders<'a> {
    pub(super) target: Option<&'a HostPort>,
    pub(super) local_port: Option<u16>,
}

// === impl LastLines ===

impl LastLines {
    pub(super) fn lines(&self) -> Vec<String> {
        self.lock().iter().cloned().collect()
    }

    /// Whether one of the lines holds this text, which is in lower case.
    pub(super) fn says(&self, text: &str) -> bool {
        self.lock()
            .iter()
            .any(|line| line.to_ascii_lowercase().contains(text))
    }

    fn push(&self, line: &[u8]) {
        let text: String = String::from_utf8_lossy(line)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        let mut lines = self.lock();
        if lines.len() >= LINES {
            lines.pop_front();
        }
        lines.push_back(text.to_owned());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the lines of `from` until its end. A line without an end takes no memory beyond its first bytes.
    async fn read(self, mut from: impl AsyncRead + Unpin) {
        let mut line = Vec::with_capacity(LINE);
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            for &byte in &chunk[..read] {
                match byte {
                    b'\n' => {
                        self.push(&line);
                        line.clear();
                    }
                    byte if line.len() < LINE => line.push(byte),
                    _ => {}
                }
            }
        }
        self.push(&line);
    }
}

/// Splits as a shell splits words, without expanding anything.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    match shlex::split(text) {
        Some(words) if !words.is_empty() => Ok(words),
        Some(_) => Err("the command is empty".to_owned()),
        None => Err(format!(
            "the command `{text}` has a quote or a backslash without its end"
        )),
    }
}

/// Which placeholders a command uses.
pub(super) fn uses(words: &[String], place: char) -> bool {
    let mut found = false;
    for word in words {
        let mut chars = word.chars();
        while let Some(c) = chars.next() {
            if c == '%' {
                found |= chars.next() == Some(place);
            }
        }
    }
    found
}

/// Starts a command. `stdio`: its standard input and output; its standard error, and its output where that is not given,
/// are kept in `output`.
pub(super) fn start(
    words: &[String],
    places: HopPlaceholders<'_>,
    stdio: Option<(OwnedFd, OwnedFd)>,
    output: &LastLines,
) -> Result<RunningCommand, HopFault> {
    let (stderr, their_stderr) = pipe()?;
    let (stdin, stdout, their_stdout) = match stdio {
        Some((stdin, stdout)) => (Some(stdin), None, stdout),
        None => {
            let (stdout, theirs) = pipe()?;
            (None, Some(stdout), theirs)
        }
    };
    let places = sandbox::Placeholders {
        target: places.target.map(|target| (&*target.host, target.port)),
        local_port: places.local_port,
    };
    let streams = sandbox::ChildOutput {
        stdout: their_stdout,
        stderr: their_stderr,
    };
    let child = sandbox::start_command(words, places, stdin, streams).map_err(|error| {
        let program = words.first().map_or("", String::as_str);
        not_started(program, &error)
    })?;
    for stream in [Some(stderr), stdout].into_iter().flatten() {
        let stream = pipe::Receiver::from_owned_fd(stream)?;
        tokio::spawn(output.clone().read(stream));
    }
    let own = child.is_own().then(|| OwnChild::register(child.pid()));
    Ok(RunningCommand { child, _own: own })
}

/// The end to read and the end to write.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    Ok((read.into(), write.into()))
}

fn not_started(program: &str, error: &io::Error) -> HopFault {
    HopFault::new(match error.kind() {
        io::ErrorKind::NotFound => {
            format!("`{program}` is not found: install it, or name it with its path")
        }
        // The system's word; the sandbox has words of its own.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_some() => {
            format!("`{program}` may not be executed")
        }
        _ => format!("`{program}` cannot be started: {error}"),
    })
}

// === impl RunningCommand ===

impl RunningCommand {
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Resolves at its end, with how it ended.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// SIGTERM to the group, SIGKILL to what is left of it after 5 s.
    pub(super) async fn end(self) {
        self.end_within(GRACE).await;
    }

    /// The same, sooner.
    pub(super) async fn end_within(mut self, grace: Duration) {
        self.signal(process::Signal::Term);
        let _ = timeout(grace, self.child.wait()).await;
    }

    fn signal(&self, signal: process::Signal) {
        process::signal_group(self.child.pid().cast_signed(), signal);
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        // Children of the command that outlive it are in its group too.
        self.signal(process::Signal::Kill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        let words = split(r#"ssh -o "Proxy Command=x y" 'a b' c\ d %h"#).unwrap();
        assert_eq!(
            words,
            ["ssh", "-o", "Proxy Command=x y", "a b", "c d", "%h"]
        );
        for bad in ["", "  ", "a 'b", "a \"b"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn placeholders_are_found() {
        let words = ["a%%h".to_owned(), "-L%l:x".to_owned()];
        assert!(uses(&words, 'l') && !uses(&words, 'h'));
    }

    #[tokio::test]
    async fn the_last_lines_are_kept_and_a_flood_takes_no_memory() {
        let output = LastLines::default();
        let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do echo line $i >&2; done; \
                      head -c 3000000 /dev/zero | tr '\\0' x";
        let words = ["sh", "-c", script].map(str::to_owned);
        let mut running = start(&words, HopPlaceholders::default(), None, &output).unwrap();
        assert!(running.ended().await.contains("exit status: 0"));
        let began = tokio::time::Instant::now();
        while !output.lines().iter().any(|line| line.starts_with("xxx")) {
            assert!(began.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let lines = output.lines();
        assert_eq!(lines.len(), LINES);
        assert!(lines.iter().all(|line| line.len() <= LINE));
    }

    #[tokio::test]
    async fn a_command_that_is_not_there() {
        let words = ["/no/such/program".to_owned()];
        let fault = start(
            &words,
            HopPlaceholders::default(),
            None,
            &LastLines::default(),
        )
        .unwrap_err();
        assert!(fault.to_string().contains("is not found"), "{fault}");
    }

    #[tokio::test]
    async fn the_whole_group_ends() {
        let words = ["sh", "-c", "sleep 1000 & echo $!; wait"].map(str::to_owned);
        let output = LastLines::default();
        let running = start(&words, HopPlaceholders::default(), None, &output).unwrap();
        let began = tokio::time::Instant::now();
        let grandchild = loop {
            if let Some(line) = output.lines().first() {
                break line.clone();
            }
            assert!(began.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        running.end().await;
        let alive = || {
            std::fs::read_to_string(format!("/proc/{grandchild}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z"))
        };
        while alive() {
            assert!(began.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
