//! The log: events as lines on standard error, written by a thread of its own.
//!
//! Owns `[log]`, the filters and the queue. Writing an event never blocks: where the sink is slower than the events, the
//! newest lines are dropped, counted, and reported in one later `resource` line. Level, filters and format can be changed
//! while it runs. [`Log::default`] writes nothing.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tracing::{Level, Metadata};

use super::close_reason::Reason;
use super::format::{self, LineVisitor, Style};
use super::libraries::LibraryEvent;
use super::record::{Event, level_name};
use super::table;

/// Lines that wait for the writer. At about 600 bytes a line this is some 2.5 MB.
const QUEUE: usize = 4096;

/// How long the writer waits after a first line for more of them. Meanwhile further lines wake no thread: with one
/// wake-up each, the access log cost a sixth of the connects.
const GATHER: Duration = Duration::from_millis(10);

/// Bytes that the buffers of lines keep when a burst is over.
const BUFFER: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people: local time, message and the values that matter, 80 columns.
    Text,
    /// All fields as `key=value`.
    Logfmt,
    /// One flat JSON object a line.
    Json,
}

/// Which `conn.*` events are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionEvents {
    #[default]
    All,
    /// Only ends that are not expected; see [`Reason::is_expected`].
    Errors,
    Off,
}

/// Which `probe.*` events are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probes {
    #[default]
    All,
    Off,
}

/// Which messages of libraries (hickory, hyper, rustls) are logged, at most one line a second each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Libraries {
    Off,
    #[default]
    Warn,
    Debug,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    pub format: Format,
    /// Minimum severity to log. Events below it are dropped.
    #[serde(with = "level_as_text")]
    pub level: Level,
    pub connections: ConnectionEvents,
    pub probes: Probes,
    pub libraries: Libraries,
}

/// A level as it stands in settings and queries.
pub fn parse_level(text: &str) -> Result<Level, String> {
    LEVELS
        .into_iter()
        .find(|level| level_name(*level) == text)
        .ok_or_else(|| {
            format!(
                "unknown level `{text}`, expected one of `error`, `warn`, `info`, `debug`, `trace`"
            )
        })
}

/// From the most to the least severe; an index is what [`Inner::level`] holds.
const LEVELS: [Level; 5] = [
    Level::ERROR,
    Level::WARN,
    Level::INFO,
    Level::DEBUG,
    Level::TRACE,
];

fn severity(level: Level) -> u8 {
    LEVELS.iter().position(|known| *known == level).unwrap_or(0) as u8
}

mod level_as_text {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use tracing::Level;

    use super::{level_name, parse_level};

    pub(super) fn serialize<S: Serializer>(level: &Level, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(level_name(*level))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Level, D::Error> {
        parse_level(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// Writes events as lines. Cheap to clone; the writer ends with the last clone.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// `None`: writes nothing.
    inner: Option<Arc<Inner>>,
}

/// Lines kept in memory, for tests and the demo.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

#[derive(Debug)]
struct Inner {
    queue: Arc<Queue>,
    /// Each a variant's number.
    level: AtomicU8,
    connections: AtomicU8,
    probes: AtomicU8,
    libraries: AtomicU8,
    format: AtomicU8,
    /// Whether each line begins with its priority, as the systemd journal reads it (`<6>`).
    priorities: AtomicBool,
    /// Whether the sink is a terminal: decides what `auto` means, and whether text is coloured.
    terminal: bool,
    colour: bool,
    zone: TimeZone,
}

/// Lines on their way to the writer.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// The first line has come, or the end.
    arrived: Condvar,
    /// The writer is done with lines.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The lines, one behind the other: a line costs a copy and no memory of its own.
    text: String,
    lines: usize,
    /// Since the start: lines that got into the queue, and those of them that the writer is done with.
    queued: u64,
    done: u64,
    /// Since the start: lines that found the queue full, and those of them that a line has reported.
    dropped: u64,
    reported: u64,
    /// The last clone of the log is gone.
    is_over: bool,
}

// === impl LogSettings ===

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            level: Level::INFO,
            connections: ConnectionEvents::All,
            probes: Probes::All,
            libraries: Libraries::Warn,
        }
    }
}

// === impl Lines ===

impl Lines {
    /// Everything written so far.
    pub fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Log ===

impl Log {
    /// A log on standard error.
    pub fn stderr(settings: &LogSettings) -> io::Result<Self> {
        let terminal = io::stderr().is_terminal();
        let log = Self::to(settings, io::stderr(), terminal)?;
        if let Some(inner) = &log.inner {
            inner.priorities.store(stderr_is_the_journal(), Relaxed);
        }
        Ok(log)
    }

    /// A log in memory.
    pub fn memory(settings: &LogSettings) -> io::Result<(Self, Lines)> {
        let lines = Lines::default();
        Ok((Self::to(settings, lines.clone(), false)?, lines))
    }

    /// A log on any sink; `terminal` decides what the format `auto` means. Fails where no thread can be had.
    pub fn to(
        settings: &LogSettings,
        sink: impl Write + Send + 'static,
        terminal: bool,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let inner = Arc::new(Inner {
            queue: Arc::clone(&queue),
            level: AtomicU8::new(0),
            connections: AtomicU8::new(0),
            probes: AtomicU8::new(0),
            libraries: AtomicU8::new(0),
            format: AtomicU8::new(0),
            priorities: AtomicBool::new(false),
            terminal,
            colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            zone: TimeZone::system(),
        });
        let log = Self { inner: Some(inner) };
        log.apply(settings);
        // The writer holds the log weakly: it ends when the last clone is gone.
        let of_log = log.inner.as_ref().map(Arc::downgrade);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                let report = |dropped: u64| {
                    let inner = of_log.as_ref().and_then(std::sync::Weak::upgrade);
                    let format = inner.map_or(Format::Json, |inner| inner.format());
                    dropped_lines(format, dropped)
                };
                writer(sink, &queue, report);
            })?;
        Ok(log)
    }

    /// Takes over new settings, format included.
    pub fn apply(&self, settings: &LogSettings) {
        let Some(inner) = &self.inner else { return };
        let format = match settings.format {
            Format::Auto if inner.terminal => Format::Text,
            Format::Auto => Format::Json,
            other => other,
        };
        inner.format.store(format as u8, Relaxed);
        inner.level.store(severity(settings.level), Relaxed);
        inner.connections.store(settings.connections as u8, Relaxed);
        inner.probes.store(settings.probes as u8, Relaxed);
        inner.libraries.store(settings.libraries as u8, Relaxed);
    }

    /// Changes the level alone.
    pub fn set_level(&self, level: Level) {
        if let Some(inner) = &self.inner {
            inner.level.store(severity(level), Relaxed);
        }
    }

    /// Whether an event of this level is written.
    pub fn wants(&self, level: Level) -> bool {
        self.inner
            .as_ref()
            .is_some_and(|inner| severity(level) <= inner.level.load(Relaxed))
    }

    /// Whether the record of a connection that ends so is written.
    pub fn wants_close(&self, reason: Reason) -> bool {
        self.wants(Level::INFO)
            && self.wants_name("conn.close")
            && (self.wants_expected() || !reason.is_expected())
    }

    /// The filters beside the level, as far as an event's name decides.
    pub(super) fn wants_name(&self, name: &str) -> bool {
        let Some(inner) = &self.inner else {
            return false;
        };
        if name.starts_with("probe.") {
            inner.probes.load(Relaxed) == Probes::All as u8
        } else if name == "conn.open" {
            self.wants_expected()
        } else {
            name != "conn.close" || inner.connections.load(Relaxed) != ConnectionEvents::Off as u8
        }
    }

    /// Whether connections that end as expected are logged.
    pub(super) fn wants_expected(&self) -> bool {
        self.inner
            .as_ref()
            .is_some_and(|inner| inner.connections.load(Relaxed) == ConnectionEvents::All as u8)
    }

    /// Whether a library's message of this level is written.
    pub(super) fn wants_library(&self, level: Level) -> bool {
        let Some(inner) = &self.inner else {
            return false;
        };
        let libraries = inner.libraries.load(Relaxed);
        libraries == Libraries::Warn as u8 && level <= Level::WARN
            || libraries == Libraries::Debug as u8 && level <= Level::DEBUG
    }

    /// Writes the event in the format of the log; `json` is its JSON line. Never blocks.
    pub(super) fn write(
        &self,
        at: Timestamp,
        json: &str,
        metadata: &Metadata<'_>,
        event: &tracing::Event<'_>,
    ) {
        let Some(inner) = &self.inner else { return };
        let level = *metadata.level();
        match inner.format() {
            Format::Logfmt => {
                let line = LineVisitor::of(String::new(), Style::Logfmt, at, metadata, event);
                inner.push(level, &line.finish());
            }
            Format::Text => {
                let event = Event::of(event);
                if !table::is_start_noise(&event) {
                    inner.push(level, &format::text(at, &inner.zone, inner.colour, &event));
                }
            }
            Format::Json | Format::Auto => inner.push(level, json),
        }
    }

    /// Writes what a library logged. Never blocks.
    pub(super) fn write_library(&self, at: Timestamp, library: &LibraryEvent<'_>) {
        let Some(inner) = &self.inner else { return };
        let line = match inner.format() {
            Format::Text => format::text(at, &inner.zone, inner.colour, &library.record()),
            Format::Logfmt => library.line(Style::Logfmt, at),
            Format::Json | Format::Auto => library.line(Style::Json, at),
        };
        inner.push(library.level, &line);
    }

    /// Lines dropped since the start because the sink was too slow.
    pub fn dropped(&self) -> u64 {
        let inner = self.inner.as_ref();
        inner.map_or(0, |inner| inner.queue.waiting().dropped)
    }

    /// Waits until everything queued so far is written, at most this long; whether it is. Blocks the thread: for the
    /// end of the process.
    pub fn flush(&self, timeout: Duration) -> bool {
        let Some(inner) = &self.inner else {
            return true;
        };
        let waiting = inner.queue.waiting();
        let queued = waiting.queued;
        let waited = inner
            .queue
            .moved
            .wait_timeout_while(waiting, timeout, |waiting| waiting.done < queued);
        waited.is_ok_and(|(_, timeout)| !timeout.timed_out())
    }
}

/// Whether standard error leads to the systemd journal: `JOURNAL_STREAM` names its device and inode.
fn stderr_is_the_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let own = rustix::fs::fstat(io::stderr()).ok();
    match (named, own) {
        (Some(named), Some(own)) => named == format!("{}:{}", own.st_dev, own.st_ino),
        _ => false,
    }
}

/// As syslog numbers priorities.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

// === impl Inner ===

impl Inner {
    fn format(&self) -> Format {
        let number = self.format.load(Relaxed);
        [Format::Text, Format::Logfmt]
            .into_iter()
            .find(|format| *format as u8 == number)
            .unwrap_or(Format::Json)
    }

    fn push(&self, level: Level, line: &str) {
        let priority = self.priorities.load(Relaxed).then(|| priority(level));
        self.queue.push(priority, line);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.waiting().is_over = true;
        self.queue.arrived.notify_one();
    }
}

// === impl Queue ===

impl Queue {
    fn push(&self, priority: Option<u8>, line: &str) {
        let mut waiting = self.waiting();
        if waiting.lines == QUEUE {
            waiting.dropped += 1;
            return;
        }
        waiting.queued += 1;
        if let Some(priority) = priority {
            // Writing to a String cannot fail.
            let _ = write!(waiting.text, "<{priority}>");
        }
        waiting.text.push_str(line);
        waiting.lines += 1;
        let is_first = waiting.lines == 1;
        drop(waiting);
        if is_first {
            self.arrived.notify_one();
        }
    }

    /// Waits for lines and puts them into `batch`, whose memory the next ones use: how many they are, and how many were
    /// dropped and not reported. `None` once there is nothing more to come.
    fn take(&self, batch: &mut String) -> Option<(usize, u64)> {
        let is_idle = |waiting: &mut Waiting| waiting.lines == 0 && !waiting.is_over;
        let waited = self.arrived.wait_while(self.waiting(), is_idle);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        std::thread::park_timeout(GATHER);
        batch.clear();
        batch.shrink_to(BUFFER);
        let mut waiting = self.waiting();
        if waiting.lines == 0 {
            return None;
        }
        std::mem::swap(&mut waiting.text, batch);
        let unreported = waiting.dropped - waiting.reported;
        waiting.reported = waiting.dropped;
        Some((std::mem::take(&mut waiting.lines), unreported))
    }

    fn done(&self, lines: usize) {
        self.waiting().done += lines as u64;
        self.moved.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line that reports lines dropped.
fn dropped_lines(format: Format, dropped: u64) -> String {
    const MESSAGE: &str = "log lines dropped because standard error is too slow";
    let (at, name) = (Timestamp::now(), "resource");
    let style = match format {
        Format::Text => {
            let local = at.to_zoned(TimeZone::system());
            return format!(
                "{} WARN  {MESSAGE}: {dropped}\n",
                local.strftime("%H:%M:%S")
            );
        }
        Format::Logfmt => Style::Logfmt,
        Format::Json | Format::Auto => Style::Json,
    };
    let mut line = LineVisitor::new(String::new(), style, at, Level::WARN, name);
    line.text("message", MESSAGE);
    line.number("log.dropped", dropped);
    line.finish()
}

/// The writer thread: joins waiting lines into one write, reports dropped lines once there is room again.
fn writer(mut sink: impl Write, queue: &Queue, report: impl Fn(u64) -> String) {
    let mut batch = String::new();
    while let Some((lines, dropped)) = queue.take(&mut batch) {
        if dropped > 0 {
            batch.push_str(&report(dropped));
        }
        write_whole(&mut sink, batch.as_bytes());
        queue.done(lines);
    }
}

/// Writes all of it, or loses the rest where the sink is gone, which cannot be reported anywhere. Standard error may be
/// non-blocking (a terminal shared with another program), so "would block" waits.
fn write_whole(sink: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            Err(_) => return,
        }
    }
    // The next write meets the same fault.
    let _ = sink.flush();
}

#[cfg(test)]
mod tests;
