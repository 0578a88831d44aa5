//! The live numbers of one connection.
//!
//! Written by the data thread that carries the connection (one writer, relaxed stores), read by metrics, timers, the
//! registry, the supervisor and the `conn.close` line. Created at accept, so it outlives the dialling.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::{self, Moment};
use crate::types::Direction;

use super::framing::HttpPhase;

/// A connection on which nothing was requested is at rest this long after it was connected, at the earliest: the first
/// request of a client that has just been served may still be on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Live counts of one connection.
#[derive(Debug)]
pub struct ConnStats {
    created: Moment,
    directions: [DirectionStats; 2],
    /// When the last byte left a buffer, with its direction: `micros << 1 | direction`, plus two; 0 = never. One
    /// word, so that a reader never sees the time of one byte with the direction of another.
    last: AtomicU64,
    /// Micros, plus one, since which a request waits for its answer; 0 = none does.
    waiting: AtomicU64,
    /// Requests on the connection to the present upstream; 0 without framing.
    requests: AtomicU32,
    /// A [`Phase`]; 0 without framing.
    phase: AtomicU8,
    /// The client sent something behind our FIN.
    request_dropped: AtomicBool,
    /// At the last check, a peer had not acknowledged everything.
    unacknowledged: AtomicBool,
}

#[derive(Debug, Default)]
struct DirectionStats {
    /// Bytes that left the buffer.
    bytes: AtomicU64,
    /// Of these, bytes that never were in our memory.
    spliced: AtomicU64,
    /// What of both has been added to the metrics.
    settled: AtomicU64,
    settled_spliced: AtomicU64,
    /// Bytes in the buffer, while the destination takes no more.
    pending: AtomicU64,
    /// When the last byte left the buffer: micros plus one; 0 = never.
    moved: AtomicU64,
}

// === impl ConnStats ===

impl Default for ConnStats {
    fn default() -> Self {
        Self {
            created: clock::now(),
            directions: Default::default(),
            last: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            phase: AtomicU8::new(0),
            request_dropped: AtomicBool::new(false),
            unacknowledged: AtomicBool::new(false),
        }
    }
}

impl ConnStats {
    /// Bytes that went this way.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.of(direction).bytes.load(Relaxed)
    }

    /// Of these, bytes that went through a pipe.
    pub fn spliced(&self, direction: Direction) -> u64 {
        self.of(direction).spliced.load(Relaxed)
    }

    /// Bytes in buffers, both directions together.
    pub fn pending(&self) -> u64 {
        self.directions
            .iter()
            .map(|stats| stats.pending.load(Relaxed))
            .sum()
    }

    /// When this connection was accepted.
    pub fn created(&self) -> Moment {
        self.created
    }

    /// When a byte last moved; the acceptance, when none ever did.
    pub fn last_moved(&self) -> Moment {
        self.last().map_or(self.created, |(at, _)| at)
    }

    /// Which way the last byte went.
    pub fn last_direction(&self) -> Option<Direction> {
        self.last().map(|(_, direction)| direction)
    }

    /// When a byte last came from the upstream.
    pub fn last_download(&self) -> Option<Moment> {
        moment(self.of(Direction::Download).moved.load(Relaxed))
    }

    /// When a byte last went to the upstream.
    pub fn last_upload(&self) -> Option<Moment> {
        moment(self.of(Direction::Upload).moved.load(Relaxed))
    }

    /// Since when a request waits for the first byte of its answer.
    ///
    /// With framing: since it was complete, or since the answer before it was, where requests are pipelined; also
    /// while the upstream does not take the rest of it. Without: since the first upload byte that no download byte
    /// has followed.
    pub fn waiting_since(&self) -> Option<Moment> {
        let waiting = moment(self.waiting.load(Relaxed));
        if waiting.is_none() && self.phase() == Some(HttpPhase::Request) {
            let is_stuck = self.of(Direction::Upload).pending.load(Relaxed) > 0;
            return self.last_upload().filter(|_| is_stuck);
        }
        waiting
    }

    /// Where the connection is between its requests and answers; `None` without framing.
    pub fn phase(&self) -> Option<HttpPhase> {
        HttpPhase::from_byte(self.phase.load(Relaxed))
    }

    /// Whether framing says when this connection is at rest.
    pub fn is_framed(&self) -> bool {
        !matches!(self.phase(), None | Some(HttpPhase::Unknown))
    }

    /// Requests so far on the connection to the present upstream; 0 without framing.
    pub fn requests(&self) -> u32 {
        self.requests.load(Relaxed)
    }

    /// Whether the client sent something behind our FIN, which it has to take as not done.
    pub fn request_dropped(&self) -> bool {
        self.request_dropped.load(Relaxed)
    }

    /// Whether a peer had not acknowledged everything at the last [`CommandChannel::check_delivery`].
    ///
    /// [`CommandChannel::check_delivery`]: super::CommandChannel::check_delivery
    pub fn is_unacknowledged(&self) -> bool {
        self.unacknowledged.load(Relaxed)
    }

    /// `pipe` once bytes have gone through one, else `buffer`.
    pub fn lane(&self) -> &'static str {
        if Direction::BOTH.into_iter().any(|way| self.spliced(way) > 0) {
            "pipe"
        } else {
            "buffer"
        }
    }

    /// Whether nothing is under way on a connection that reached its upstream at `connected`.
    ///
    /// With framing: every answer is complete. Without: the last byte moved was download, or none ever moved, and
    /// nothing has moved for `quiet`. Either way nothing is in a buffer, and where no request has begun the
    /// connection is a second old. What lies in sockets the relay checks on its own thread before it closes.
    pub fn at_rest(&self, now: Moment, connected: Moment, quiet: Duration) -> bool {
        let age = now.since(connected);
        if self.pending() > 0 {
            return false;
        }
        if self.is_framed() {
            let is_used = self.requests() > 0 || age >= FIRST_REQUEST;
            return self.phase() == Some(HttpPhase::Idle) && is_used;
        }
        let first = if self.of(Direction::Upload).moved.load(Relaxed) == 0 {
            FIRST_REQUEST
        } else {
            Duration::ZERO
        };
        let (at, direction) = self.last().unwrap_or((connected, Direction::Download));
        direction == Direction::Download && now.since(at.max(connected)) >= quiet.max(first)
    }

    /// Calls `add(direction, bytes, spliced)` with what has not been reported before. May be called from several
    /// threads: each byte is reported once.
    pub fn settle(&self, mut add: impl FnMut(Direction, u64, u64)) {
        for direction in Direction::BOTH {
            let stats = self.of(direction);
            let bytes = unsettled(&stats.settled, stats.bytes.load(Relaxed));
            let spliced = unsettled(&stats.settled_spliced, stats.spliced.load(Relaxed));
            if bytes > 0 || spliced > 0 {
                add(direction, bytes, spliced);
            }
        }
    }

    // Written by what carries the connection in place of the relay.

    /// It begins: without framing, and no request is said to wait, because time spent there is no answer that is late.
    pub fn begin_diverted(&self) {
        self.begin(false);
    }

    /// Bytes have reached their destination.
    pub fn moved_diverted(&self, direction: Direction, bytes: usize, now: Moment) {
        self.moved(direction, bytes, false, now);
    }

    /// Bytes that are held back.
    pub fn set_diverted_pending(&self, direction: Direction, bytes: usize) {
        self.set_pending(direction, bytes);
    }

    /// A request waits for its answer, if none does already.
    pub fn wait_diverted(&self, since: Moment) {
        if self.is_framed() {
            self.set_phase(HttpPhase::Waiting, 0);
        }
        self.wait_from(since);
    }

    /// An answer, or a piece of one, has passed.
    pub fn answered_diverted(&self) {
        let _ = self.end_wait();
    }

    // Written by the relay.

    /// A relay begins on this connection; its predecessors have moved nothing.
    pub(super) fn begin(&self, has_framing: bool) {
        let phase = if has_framing {
            HttpPhase::Idle as u8
        } else {
            0
        };
        self.phase.store(phase, Relaxed);
        self.requests.store(0, Relaxed);
        self.waiting.store(0, Relaxed);
    }

    /// Bytes have left the buffer (L8).
    pub(super) fn moved(&self, direction: Direction, bytes: usize, spliced: bool, now: Moment) {
        let stats = self.of(direction);
        add(&stats.bytes, bytes as u64);
        if spliced {
            add(&stats.spliced, bytes as u64);
        }
        let micros = now.as_micros();
        stats.moved.store(micros + 1, Relaxed);
        self.last
            .store((micros << 1 | direction.index() as u64) + 2, Relaxed);
    }

    /// Without framing, a request waits from its first byte on until any byte comes back; how long it did then.
    pub(super) fn infer_waiting(&self, direction: Direction, now: Moment) -> Option<Duration> {
        match direction {
            Direction::Upload => {
                self.wait_from(now);
                None
            }
            Direction::Download => self.end_wait().map(|since| now.since(since)),
        }
    }

    pub(super) fn set_phase(&self, phase: HttpPhase, more_requests: u32) {
        if more_requests > 0 {
            let requests = self.requests.load(Relaxed).saturating_add(more_requests);
            self.requests.store(requests, Relaxed);
        }
        self.phase.store(phase as u8, Relaxed);
    }

    /// A request waits, if none does already.
    pub(super) fn wait_from(&self, now: Moment) {
        if self.waiting.load(Relaxed) == 0 {
            self.waiting.store(now.as_micros() + 1, Relaxed);
        }
    }

    /// No request waits any more; since when one did.
    pub(super) fn end_wait(&self) -> Option<Moment> {
        let since = moment(self.waiting.load(Relaxed))?;
        self.waiting.store(0, Relaxed);
        Some(since)
    }

    pub(super) fn set_pending(&self, direction: Direction, bytes: usize) {
        self.of(direction).pending.store(bytes as u64, Relaxed);
    }

    pub(super) fn drop_request(&self) {
        self.request_dropped.store(true, Relaxed);
    }

    pub(super) fn set_unacknowledged(&self, is: bool) {
        self.unacknowledged.store(is, Relaxed);
    }

    fn last(&self) -> Option<(Moment, Direction)> {
        let last = self.last.load(Relaxed).checked_sub(2)?;
        let direction = Direction::BOTH[(last & 1) as usize];
        Some((Moment::at(Duration::from_micros(last >> 1)), direction))
    }

    fn of(&self, direction: Direction) -> &DirectionStats {
        &self.directions[direction.index()]
    }
}

/// One writer: no locked instruction is needed.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Relaxed) + more, Relaxed);
}

fn moment(micros_plus_one: u64) -> Option<Moment> {
    Some(Moment::at(Duration::from_micros(
        micros_plus_one.checked_sub(1)?,
    )))
}

/// What `count` has above all that was settled before; the settled mark only goes up.
fn unsettled(settled: &AtomicU64, count: u64) -> u64 {
    count.saturating_sub(settled.fetch_max(count, Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_framing_rest_is_silence_behind_an_answer() {
        let stats = ConnStats::default();
        // The stats know microseconds.
        let start = Moment::at(Duration::from_micros(stats.created().as_micros() + 1));
        let quiet = Duration::from_secs(10);
        let at_rest = |now| stats.at_rest(now, start, quiet);
        assert!(!at_rest(start));
        assert!(at_rest(start + quiet), "none ever moved");
        assert!(!stats.at_rest(start + FIRST_REQUEST / 2, start, Duration::ZERO));

        let moved = |direction, at| {
            stats.moved(direction, 10, false, at);
            stats.infer_waiting(direction, at)
        };
        assert_eq!(moved(Direction::Upload, start + quiet), None);
        let later = start + Duration::from_secs(3600);
        assert!(
            !at_rest(later),
            "a request that waits is not at rest, however quiet"
        );
        assert_eq!(stats.waiting_since(), Some(start + quiet));

        let answered = start + quiet + Duration::from_millis(250);
        assert_eq!(
            moved(Direction::Download, answered),
            Some(Duration::from_millis(250))
        );
        assert_eq!(stats.waiting_since(), None);
        assert!(!at_rest(answered));
        stats.set_pending(Direction::Download, 1);
        assert!(!at_rest(later), "bytes in a buffer");
        stats.set_pending(Direction::Download, 0);
        assert!(at_rest(later));
        assert_eq!(stats.last_moved(), answered);
    }

    #[test]
    fn with_framing_rest_is_a_complete_answer() {
        let stats = ConnStats::default();
        let start = stats.created();
        stats.begin(true);
        let at_rest = |now| stats.at_rest(now, start, Duration::from_secs(10));
        assert!(
            !at_rest(start + FIRST_REQUEST / 2),
            "a request may be on its way"
        );
        assert!(at_rest(start + FIRST_REQUEST));
        for phase in [HttpPhase::Request, HttpPhase::Waiting, HttpPhase::Answer] {
            stats.set_phase(phase, 0);
            assert!(!at_rest(start + Duration::from_secs(3600)), "{phase:?}");
        }
        stats.set_phase(HttpPhase::Idle, 1);
        assert!(at_rest(start));
        stats.set_phase(HttpPhase::Unknown, 0);
        assert!(!at_rest(start), "silence decides again");
    }

    #[test]
    fn each_byte_is_settled_once() {
        let stats = ConnStats::default();
        let mut seen = Vec::new();
        stats.moved(Direction::Upload, 10, false, clock::now());
        stats.settle(|direction, bytes, spliced| seen.push((direction, bytes, spliced)));
        stats.moved(Direction::Download, 5, true, clock::now());
        stats.settle(|direction, bytes, spliced| seen.push((direction, bytes, spliced)));
        stats.settle(|direction, bytes, spliced| seen.push((direction, bytes, spliced)));
        assert_eq!(
            seen,
            [(Direction::Upload, 10, 0), (Direction::Download, 5, 5)]
        );
        assert_eq!(stats.lane(), "pipe");
    }
}
