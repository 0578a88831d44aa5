//! The log: events as lines on standard error, written by a thread of its own.
//!
//! Owns `[log]`, the filters and the queue. Promises that writing an event never blocks: where the sink is slower than
//! the events the newest lines are dropped, counted, and told in one later `resource` line. Level, filters and format
//! can be changed while it runs. [`Log::default`] writes nothing.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::format;
use crate::events::{Event, Level, Reason, Value};

/// Lines that wait for the writer. At about 600 bytes a line this is some 2.5 MB.
const QUEUE: usize = 4096;

/// How long the writer waits for company after a first line. While it waits, lines wake nobody: with one wake-up for
/// each, the access log cost a sixth of the connects.
const GATHER: Duration = Duration::from_millis(2);

/// The writer joins waiting lines up to about this many bytes into one write.
const BATCH: usize = 64 * 1024;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// `key=value`.
    Text,
    /// One flat JSON object a line.
    Json,
}

/// Which `conn.close` and `conn.open` lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connections {
    /// All of them.
    #[default]
    All,
    /// Only ends that are not in the ordinary course; see [`ORDINARY`].
    Errors,
    /// None.
    Off,
}

/// Which `probe.*` lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probes {
    /// All of them (at level debug).
    #[default]
    All,
    /// None.
    Off,
}

/// Ends that `log.connections = "errors"` leaves out: both sides were served, or a planned closing at rest. A client's
/// reset is how many load generators close; an endpoint's reset is not ordinary.
pub(super) const ORDINARY: &[&str] = &[
    "client_fin",
    "upstream_fin",
    "client_rst",
    "max_age",
    "drain_idle",
    "rebalance",
];

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// How lines look.
    pub format: Format,
    /// The loudest level that is left out is the one after this.
    #[serde(with = "level_name")]
    pub level: Level,
    /// Which lines about connections are written.
    pub connections: Connections,
    /// Which lines about probes are written.
    pub probes: Probes,
}

/// A level as it stands in settings and queries.
pub fn parse_level(text: &str) -> Result<Level, String> {
    [Level::Error, Level::Warn, Level::Info, Level::Debug]
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| {
            format!("unknown level `{text}`, expected one of `error`, `warn`, `info`, `debug`")
        })
}

mod level_name {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::events::Level;

    pub(super) fn serialize<S: Serializer>(level: &Level, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(level.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Level, D::Error> {
        crate::events::parse_level(&String::deserialize(from)?).map_err(serde::de::Error::custom)
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
    queue: SyncSender<String>,
    level: AtomicU8,
    connections: AtomicU8,
    probes: AtomicU8,
    /// Whether lines are JSON.
    json: AtomicU8,
    /// What `auto` means for this sink.
    terminal: bool,
    progress: Arc<Progress>,
}

/// What writer and callers tell each other beside the queue.
#[derive(Debug, Default)]
struct Progress {
    /// Lines put into the queue.
    queued: AtomicU64,
    /// Lines that found the queue full and are not told yet.
    dropped: AtomicU64,
    /// Lines that left the writer, one way or the other.
    done: Mutex<u64>,
    moved: Condvar,
}

// === impl LogSettings ===

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            level: Level::Info,
            connections: Connections::All,
            probes: Probes::All,
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
        Self::to(settings, io::stderr(), terminal)
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
        let (queue, lines) = sync_channel(QUEUE);
        let progress = Arc::new(Progress::default());
        let inner = Arc::new(Inner {
            queue,
            level: AtomicU8::new(0),
            connections: AtomicU8::new(0),
            probes: AtomicU8::new(0),
            json: AtomicU8::new(0),
            terminal,
            progress: Arc::clone(&progress),
        });
        let log = Self { inner: Some(inner) };
        log.apply(settings);
        // The writer holds the log weakly: the queue ends when the last clone is gone.
        let settings_of = log.inner.as_ref().map(Arc::downgrade);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                let json = || {
                    let inner = settings_of.as_ref().and_then(std::sync::Weak::upgrade);
                    inner.is_none_or(|inner| inner.json.load(Relaxed) == 1)
                };
                writer(sink, &lines, &progress, json);
            })?;
        Ok(log)
    }

    /// Takes over new settings, format included.
    pub fn apply(&self, settings: &LogSettings) {
        let Some(inner) = &self.inner else { return };
        let json = match settings.format {
            Format::Auto => !inner.terminal,
            Format::Text => false,
            Format::Json => true,
        };
        inner.json.store(json.into(), Relaxed);
        inner.level.store(settings.level as u8, Relaxed);
        inner.connections.store(settings.connections as u8, Relaxed);
        inner.probes.store(settings.probes as u8, Relaxed);
    }

    /// Changes the level alone.
    pub fn set_level(&self, level: Level) {
        if let Some(inner) = &self.inner {
            inner.level.store(level as u8, Relaxed);
        }
    }

    /// Whether an event of this level is written.
    pub fn wants(&self, level: Level) -> bool {
        self.inner
            .as_ref()
            .is_some_and(|inner| level as u8 <= inner.level.load(Relaxed))
    }

    /// Whether the record of a connection that ends so is written.
    pub fn wants_close(&self, reason: Reason) -> bool {
        self.inner.as_ref().is_some_and(|inner| {
            let connections = inner.connections.load(Relaxed);
            self.wants(Level::Info)
                && (connections == Connections::All as u8
                    || connections == Connections::Errors as u8
                        && !ORDINARY.contains(&reason.code()))
        })
    }

    /// Writes the event, if it is wanted. Never blocks.
    pub fn write(&self, event: &Event) {
        let Some(inner) = &self.inner else { return };
        if !self.wants(event.level) || !inner.passes(event) {
            return;
        }
        let line = match inner.json.load(Relaxed) {
            1 => format::json(Timestamp::now(), event),
            _ => format::text(Timestamp::now(), event),
        };
        // Counted first, so that a flush never waits for less than was queued.
        inner.progress.queued.fetch_add(1, Relaxed);
        if inner.queue.try_send(line).is_err() {
            inner.progress.dropped.fetch_add(1, Relaxed);
            inner.progress.leave(1);
        }
    }

    /// Waits until everything queued so far is written, at most this long; whether it is. Blocks the thread: for the
    /// end of the process.
    pub fn flush(&self, timeout: Duration) -> bool {
        let Some(inner) = &self.inner else {
            return true;
        };
        let progress = &inner.progress;
        let queued = progress.queued.load(Relaxed);
        let done = progress.done.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = progress
            .moved
            .wait_timeout_while(done, timeout, |done| *done < queued);
        waited.is_ok_and(|(_, timeout)| !timeout.timed_out())
    }
}

// === impl Inner ===

impl Inner {
    /// The filters beside the level.
    fn passes(&self, event: &Event) -> bool {
        if event.name.starts_with("probe.") {
            return self.probes.load(Relaxed) == Probes::All as u8;
        }
        if !matches!(event.name, "conn.close" | "conn.open") {
            return true;
        }
        let connections = self.connections.load(Relaxed);
        if connections == Connections::All as u8 {
            return true;
        }
        connections == Connections::Errors as u8
            && matches!(event.field("conn.reason"), Some(Value::Text(reason)) if !ORDINARY.contains(&reason.as_ref()))
    }
}

// === impl Progress ===

impl Progress {
    fn leave(&self, lines: u64) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) += lines;
        self.moved.notify_all();
    }
}

/// The writer thread: joins what waits into one write, tells of dropped lines once there is room again.
fn writer(
    mut sink: impl Write,
    lines: &Receiver<String>,
    progress: &Progress,
    json: impl Fn() -> bool,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Ok(first) = lines.recv() {
        std::thread::park_timeout(GATHER);
        batch.clear();
        batch.extend_from_slice(first.as_bytes());
        let mut count = 1;
        while batch.len() < BATCH
            && let Ok(more) = lines.try_recv()
        {
            batch.extend_from_slice(more.as_bytes());
            count += 1;
        }
        let dropped = progress.dropped.swap(0, Relaxed);
        if dropped > 0 {
            let event = Event::warn("resource", "log lines dropped: standard error is too slow")
                .with("log.dropped", dropped);
            let line = if json() {
                format::json(Timestamp::now(), &event)
            } else {
                format::text(Timestamp::now(), &event)
            };
            batch.extend_from_slice(line.as_bytes());
        }
        write_whole(&mut sink, &batch);
        progress.leave(count);
    }
}

/// Writes all of it, or loses the rest where the sink is gone: a log has nobody to complain to. Standard error may be
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
    // A sink that cannot flush has been told; the next write meets the same fault.
    let _ = sink.flush();
}

#[cfg(test)]
mod tests;
