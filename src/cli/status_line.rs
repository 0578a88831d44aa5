//! The status line of `run` on a terminal with profile laptop or load: one line below the log, kept up to date. Under load
//! it says how much passes, what fails and which zone is slowest.
//!
//! Log lines and the status line share the terminal, so the log is written through [`StatusLine::log_sink`], which takes
//! the line away, writes, and puts it back. It is drawn by a thread of its own: a terminal that is stopped (Ctrl-S) holds
//! up nothing but itself.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::clean;
use crate::app::Handles;
use crate::clock::{self, Moment};
use crate::dial::hop::HopState;
use crate::duration;
use crate::events::Reason;
use crate::metrics::Metrics;
use crate::metrics::family::{CONNECTIONS_CLOSED, CONNECTIONS_REJECTED};
use crate::settings::Profile;
use crate::upstream::snapshot::Snapshot;

/// How often the line is looked at anew.
const EVERY: Duration = Duration::from_millis(250);
/// Nothing has answered for this long: the likeliest cause is named.
const HINT_AFTER: Duration = Duration::from_secs(5);
/// Rates are those of this much time, at least.
const RATED: Duration = Duration::from_secs(1);
/// Kinds of errors that are named.
const KINDS: usize = 3;
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
#[derive(Clone, Debug, Default, PartialEq)]
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
    load: Option<LoadFacts>,
}

/// What somebody looks at who tests with load.
#[derive(Clone, Debug, Default, PartialEq)]
struct LoadFacts {
    /// A second.
    connections: f64,
    /// A second, by HTTP framing.
    answers: f64,
    /// A second, both ways.
    bytes: f64,
    /// Connections that did not end as they should, since the start, by why; the most frequent first.
    errors: Vec<(String, u64)>,
    /// The zone whose answers (or connects, where no answers are seen) take longest, and their median.
    slowest: Option<(String, Duration)>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Moment,
    connections: f64,
    answers: f64,
    bytes: f64,
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
    pub fn draw(&self, handles: Handles, profile: Profile) -> Option<Drawing> {
        let (stop, stopped) = mpsc::channel();
        let (done, ended) = mpsc::channel();
        let this = self.clone();
        let thread = std::thread::Builder::new().name("status-line".to_owned());
        let spawned = thread.spawn(move || {
            let mut since = Since::default();
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let mut facts = StatusFacts::of(&handles, &mut since);
                if profile == Profile::Load {
                    facts.load = Some(LoadFacts::of(&handles, &mut since.counted));
                }
                let line = facts.line();
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
    /// The oldest first; no more than are needed for a rate.
    counted: VecDeque<Counted>,
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
        let under_load = self.load.as_ref().map(LoadFacts::parts);
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
        // Before what matters less: a narrow terminal cuts the end.
        parts.extend(under_load.into_iter().flatten());
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

// === impl LoadFacts ===

impl LoadFacts {
    fn of(handles: &Handles, before: &mut VecDeque<Counted>) -> Self {
        let metrics = &handles.metrics;
        let now = Counted {
            at: clock::now(),
            connections: metrics.sum("connections_accepted_total"),
            answers: metrics.sum("answers_total"),
            bytes: metrics.sum("bytes_total"),
        };
        // The youngest that is old enough stays at the front.
        while before
            .get(1)
            .is_some_and(|one| now.at.since(one.at) >= RATED)
        {
            before.pop_front();
        }
        let first = before.front().copied();
        before.push_back(now);
        let snapshots = handles
            .upstreams
            .iter()
            .map(|upstream| upstream.view.load());
        let mut facts = Self {
            errors: errors(metrics),
            slowest: slowest(snapshots.flat_map(|view| zones(&view))),
            ..Self::default()
        };
        if let Some(first) = first {
            let seconds = now.at.since(first.at).as_secs_f64().max(f64::EPSILON);
            facts.connections = (now.connections - first.connections) / seconds;
            facts.answers = (now.answers - first.answers) / seconds;
            facts.bytes = (now.bytes - first.bytes) / seconds;
        }
        facts
    }

    fn parts(&self) -> Vec<String> {
        let mut parts = vec![format!("{:.0} new/s", self.connections)];
        if self.answers > 0.0 {
            parts.push(format!("{:.0} answers/s", self.answers));
        }
        parts.push(format!("{:.1} MB/s", self.bytes / 1e6));
        parts.push(match self.errors.is_empty() {
            true => "no errors".to_owned(),
            false => {
                let named = self.errors.iter().take(KINDS);
                let mut named: Vec<String> = named
                    .map(|(kind, count)| format!("{count} {kind}"))
                    .collect();
                let others = self.errors.iter().skip(KINDS).map(|(_, count)| count);
                match others.sum() {
                    0u64 => {}
                    others => named.push(format!("{others} others")),
                }
                named.join(", ")
            }
        });
        if let Some((zone, time)) = &self.slowest {
            let millis = time.as_secs_f64() * 1000.0;
            parts.push(format!("slowest {} {millis:.1} ms", clean(zone)));
        }
        parts
    }
}

/// Connections that did not end as they should, the most frequent kind first.
fn errors(metrics: &Metrics) -> Vec<(String, u64)> {
    let mut by_kind: BTreeMap<String, u64> = BTreeMap::new();
    for family in [&CONNECTIONS_CLOSED, &CONNECTIONS_REJECTED] {
        for (labels, count) in metrics.series(family) {
            let Some(code) = labels.last() else { continue };
            let mut all = Reason::ALL.iter();
            let is_expected = all.any(|reason| reason.code() == &**code && reason.is_expected());
            if count > 0.0 && !is_expected {
                *by_kind.entry(code.to_string()).or_default() += count as u64;
            }
        }
    }
    let mut errors: Vec<(String, u64)> = by_kind.into_iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    errors
}

/// Each address with its zone and how long it takes.
fn zones(view: &Snapshot) -> Vec<(String, Duration)> {
    view.all()
        .filter_map(|(endpoint, address)| {
            let address = &address.address;
            let answers = address.answers.quantile(0.5);
            let time = answers.or_else(|| address.connects.quantile(0.5))?;
            Some((endpoint.endpoint.zone_label().to_owned(), time))
        })
        .collect()
}

/// The zone that takes longest, where there are several.
fn slowest(zones: impl Iterator<Item = (String, Duration)>) -> Option<(String, Duration)> {
    let mut longest: BTreeMap<String, Duration> = BTreeMap::new();
    for (zone, time) in zones {
        let known = longest.entry(zone).or_default();
        *known = time.max(*known);
    }
    let several = longest.len() > 1;
    let slowest = longest.into_iter().max_by_key(|(_, time)| *time);
    slowest.filter(|_| several)
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
    fn under_load_it_says_what_passes_and_what_fails() {
        let mut facts = StatusFacts {
            zone: Some("a".to_owned()),
            healthy: 3,
            addresses: 3,
            connections: 64,
            load: Some(LoadFacts {
                connections: 811.6,
                bytes: 12_340_000.0,
                ..LoadFacts::default()
            }),
            ..StatusFacts::default()
        };
        assert_eq!(
            facts.line(),
            "→ a · 3/3 healthy · 812 new/s · 12.3 MB/s · no errors · 64 connections"
        );
        let error = |kind: &str, count| (kind.to_owned(), count);
        facts.load = Some(LoadFacts {
            answers: 4_100.0,
            errors: vec![
                error("connect_refused", 12),
                error("upstream_rst", 3),
                error("no_endpoint", 2),
                error("idle_timeout", 1),
                error("resource", 1),
            ],
            slowest: slowest(
                [("b", 4), ("a", 1), ("b", 5)]
                    .map(|(zone, ms)| (zone.to_owned(), Duration::from_millis(ms)))
                    .into_iter(),
            ),
            ..LoadFacts::default()
        });
        assert_eq!(
            facts.line(),
            "→ a · 3/3 healthy · 0 new/s · 4100 answers/s · 0.0 MB/s · \
             12 connect_refused, 3 upstream_rst, 2 no_endpoint, 2 others · slowest b 5.0 ms · 64 connections"
        );
        let one = [("a".to_owned(), Duration::from_millis(1))];
        assert_eq!(slowest(one.into_iter()), None, "none of one");
    }

    #[test]
    fn errors_are_what_did_not_end_as_it_should() {
        let metrics = Metrics::default();
        let ended = |reason: &str, count| {
            let labels = ["l", "u", "e", "z", reason];
            metrics
                .counter(&CONNECTIONS_CLOSED, &labels)
                .increment(count);
        };
        ended("client_fin", 100);
        ended("client_rst", 10);
        ended("upstream_rst", 2);
        metrics
            .counter(&CONNECTIONS_REJECTED, &["l", "max_connections"])
            .increment(5);
        let found = errors(&metrics);
        let found: Vec<_> = found
            .iter()
            .map(|(kind, count)| (kind.as_str(), *count))
            .collect();
        assert_eq!(found, [("max_connections", 5), ("upstream_rst", 2)]);
    }

    #[test]
    fn a_narrow_terminal_cuts_it() {
        assert_eq!(fitted("abcdef", 7), "abcdef");
        assert_eq!(fitted("abcdef", 6), "abcd…");
    }
}
