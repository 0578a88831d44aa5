//! The status line of `run` on a terminal with profile laptop: one line below the log, kept up to date.
//!
//! Log lines and the status line share the terminal, so the log is written through [`StatusLine::log_sink`], which takes
//! the line away, writes, and puts it back. It is drawn by a thread of its own: a terminal that is stopped (Ctrl-S) holds
//! up nothing but itself.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::clean;
use crate::app::Handles;
use crate::clock::{self, Moment};
use crate::dial::hop::HopState;
use crate::duration;

/// How often the line is looked at anew.
const EVERY: Duration = Duration::from_millis(250);
/// Nothing has answered for this long: the likeliest cause is named.
const HINT_AFTER: Duration = Duration::from_secs(5);
/// How long a terminal that takes no more may hold up the end of the process.
const LAST_DRAWING: Duration = Duration::from_millis(500);

const CLEAR: &[u8] = b"\r\x1b[2K";

/// Cheap to clone.
#[derive(Debug)]
pub struct StatusLine<W> {
    screen: Arc<Mutex<Screen<W>>>,
}

#[derive(Debug)]
struct Screen<W> {
    terminal: W,
    /// What stands below the log.
    line: String,
}

/// Ends the drawing.
#[derive(Debug)]
pub struct Drawing {
    stop: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

/// What a status line is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct StatusFacts {
    zone: Option<String>,
    healthy: usize,
    addresses: usize,
    /// Each hop, and whether it is up.
    hops: Vec<(String, &'static str)>,
    connections: usize,
    parked: usize,
    /// How long nothing has answered.
    unreachable: Option<Duration>,
    /// Time left, while draining.
    draining: Option<Duration>,
}

// === impl StatusLine ===

impl<W: Write + Send + 'static> StatusLine<W> {
    pub fn new(terminal: W) -> Self {
        let line = String::new();
        Self {
            screen: Arc::new(Mutex::new(Screen { terminal, line })),
        }
    }

    /// Where log lines go.
    pub fn log_sink(&self) -> impl Write + Send + 'static {
        LogSink(self.clone())
    }

    /// Writes lines above the status line.
    pub fn print(&self, lines: &str) -> io::Result<()> {
        let mut screen = self.lock();
        let Screen { terminal, line } = &mut *screen;
        let clear = if line.is_empty() { &[][..] } else { CLEAR };
        let text = [clear, lines.as_bytes(), line.as_bytes()].concat();
        terminal.write_all(&text)?;
        terminal.flush()
    }

    fn set(&self, line: String) -> io::Result<()> {
        let mut screen = self.lock();
        if screen.line == line {
            return Ok(());
        }
        let text = [CLEAR, line.as_bytes()].concat();
        screen.line = line;
        screen.terminal.write_all(&text)?;
        screen.terminal.flush()
    }

    /// Keeps the line up to date until the drawing is ended. `None` where no thread can be had; the log goes on.
    pub fn draw(&self, handles: Handles) -> Option<Drawing> {
        let (stop, stopped) = mpsc::channel();
        let (done, ended) = mpsc::channel();
        let this = self.clone();
        let thread = std::thread::Builder::new().name("status-line".to_owned());
        let spawned = thread.spawn(move || {
            let mut since = Since::default();
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let line = StatusFacts::of(&handles, &mut since).line();
                if this.set(fitted(&line, columns())).is_err() {
                    break;
                }
            }
            // A terminal that is gone needs no clearing.
            let _ = this.set(String::new());
            let _ = done.send(());
        });
        spawned.ok().map(|_thread| Drawing { stop, ended })
    }

    fn lock(&self) -> MutexGuard<'_, Screen<W>> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> Clone for StatusLine<W> {
    fn clone(&self) -> Self {
        let screen = Arc::clone(&self.screen);
        Self { screen }
    }
}

struct LogSink<W>(StatusLine<W>);

impl<W: Write + Send + 'static> Write for LogSink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The log writes whole lines.
        self.0.print(&String::from_utf8_lossy(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Drawing ===

impl Drawing {
    /// Takes the line away.
    pub fn end(self) {
        // Both fail where the thread has ended by itself.
        let _ = self.stop.send(());
        let _ = self.ended.recv_timeout(LAST_DRAWING);
    }
}

/// Since when something has been so.
#[derive(Debug, Default)]
struct Since {
    unreachable: Option<Moment>,
    draining: Option<Moment>,
}

fn how_long(is_so: bool, since: &mut Option<Moment>) -> Option<Duration> {
    match is_so {
        true => {
            let now = clock::now();
            Some(now.since(*since.get_or_insert(now)))
        }
        false => {
            *since = None;
            None
        }
    }
}

// === impl Facts ===

impl StatusFacts {
    fn of(handles: &Handles, since: &mut Since) -> Self {
        let mut facts = Self::default();
        for upstream in handles.upstreams.iter() {
            let view = upstream.view.load();
            facts.healthy += view.healthy;
            facts.addresses += view.addresses;
            facts.zone = facts.zone.or_else(|| view.active_zone.clone());
        }
        let hops = handles.hops();
        facts.hops = hops
            .iter()
            .map(|(_, hop)| {
                let state: HopState = hop.health().status().state;
                (hop.spec().to_string(), state.as_str())
            })
            .collect();
        facts.connections = handles.registry.len();
        facts.parked = handles.metrics.sum("connections_parked") as usize;
        facts.unreachable = how_long(facts.healthy == 0, &mut since.unreachable);
        let draining = how_long(handles.draining.has_fired(), &mut since.draining);
        let most = handles.shutdown.load().max_delay;
        facts.draining = draining.map(|time| most.saturating_sub(time));
        facts
    }

    fn line(&self) -> String {
        let counted = |count: usize, what: &str| {
            let plural = if count == 1 { "" } else { "s" };
            format!("{count} {what}{plural}")
        };
        let connections = counted(self.connections, "connection");
        if let Some(left) = self.draining {
            let left = duration::show(Duration::from_secs(left.as_secs()));
            return format!(
                "draining: {connections}, at most {left} more; Ctrl-C again ends them now"
            );
        }
        let mut parts = vec![format!("{}/{} healthy", self.healthy, self.addresses)];
        if let Some(zone) = &self.zone {
            parts.insert(0, format!("→ {}", clean(zone)));
        }
        for (via, state) in &self.hops {
            parts.push(format!("{} {state}", clean(via)));
        }
        parts.push(connections);
        if self.parked > 0 {
            parts.push(format!("{} held", self.parked));
        }
        if self.unreachable.is_some_and(|time| time >= HINT_AFTER) {
            let hint = match self.hops.iter().any(|(_, state)| *state == "down") {
                true => "the hop is down: `entryway status` shows its last output",
                false => "nothing answers: is the VPN connected? `entryway doctor` looks",
            };
            parts.push(hint.to_owned());
        }
        parts.join(" · ")
    }
}

/// The columns of the terminal; 80 where it does not say.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    size.ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(80)
}

/// Cut so that it stays one line.
fn fitted(line: &str, columns: usize) -> String {
    match line.chars().count() < columns {
        true => line.to_owned(),
        false => {
            let mut cut: String = line.chars().take(columns.saturating_sub(2)).collect();
            cut.push('…');
            cut
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Lines;

    #[test]
    fn log_lines_come_above_it() {
        let terminal = Lines::default();
        let status = StatusLine::new(terminal.clone());
        let mut log = status.log_sink();
        log.write_all(b"first\n").unwrap();
        status.set("one connection".to_owned()).unwrap();
        status.set("one connection".to_owned()).unwrap();
        log.write_all(b"second\n").unwrap();
        status.set(String::new()).unwrap();
        assert_eq!(
            terminal.text(),
            "first\n\r\u{1b}[2Kone connection\r\u{1b}[2Ksecond\none connection\r\u{1b}[2K"
        );
    }

    #[test]
    fn it_says_where_connections_go_and_what_is_wrong() {
        let mut facts = StatusFacts {
            zone: Some("us-east-1a".to_owned()),
            healthy: 2,
            addresses: 3,
            hops: vec![("ssh://bastion".to_owned(), "up")],
            connections: 1,
            ..StatusFacts::default()
        };
        assert_eq!(
            facts.line(),
            "→ us-east-1a · 2/3 healthy · ssh://bastion up · 1 connection"
        );
        facts.parked = 4;
        facts.unreachable = Some(HINT_AFTER);
        facts.hops[0].1 = "down";
        assert!(
            facts
                .line()
                .ends_with("4 held · the hop is down: `entryway status` shows its last output")
        );
        facts.hops.clear();
        assert!(facts.line().contains("is the VPN connected?"));
        facts.draining = Some(Duration::from_millis(24_900));
        assert_eq!(
            facts.line(),
            "draining: 1 connection, at most 24s more; Ctrl-C again ends them now"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_it() {
        assert_eq!(fitted("abcdef", 7), "abcdef");
        assert_eq!(fitted("abcdef", 6), "abcd…");
    }
}
