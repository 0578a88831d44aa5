//! What both directions of a connection share: its statistics and framing, a cached clock reading, and the byte budget
//! after which a direction yields (rule L7).

use std::time::Duration;

use crate::clock::{self, Moment};
use crate::types::Direction;

use super::fairness;
use super::framing::{Framing, FramingProgress, HttpPhase};
use super::shared::RelayShared;
use super::stats::ConnStats;
use super::{AnswerObserver, Placement, RelayArgs, Resumed};

/// L7: turns of one direction in one poll. 16 gave 20 % over 4 on a single stream, and nothing on eight.
pub(super) const TURNS: u32 = 16;
/// L7: bytes of one direction in one poll. A quarter of it costs 64 streams a fifth more CPU: their readers wake more
/// often.
const TURN_BYTES: usize = 4 << 20;
/// L7: the same where connections that move little share the thread. These then wait a tenth to a quarter less.
const TURN_BYTES_BESIDE_SMALL: usize = 1 << 20;
/// Bytes in one poll from which on it is one in bulk.
const BULK: u64 = 256 << 10;
/// Bytes in one poll below which it speaks against bulk. Those between say nothing: they may be a piece of an answer, or
/// what a thread that is there at once finds of a transfer.
const SMALL: u64 = 32 << 10;
/// Polls in bulk beside small connections after which it is to leave them: 8 MiB and more, so that an answer of a usual
/// length does not. As many polls with next to nothing bring it back.
const BULK_POLLS: u8 = 32;

/// Per-poll context shared by both directions.
pub(super) struct PollContext<'a> {
    pub(super) shared: &'a RelayShared,
    pub(super) stats: &'a ConnStats,
    observer: &'a dyn AnswerObserver,
    framing: Option<Framing>,
    /// The time of this poll, read at most once: valid while `has_now`.
    now: Moment,
    has_now: bool,
    /// Bytes that had moved before this poll.
    before: u64,
    /// L7: connections that move little share the thread, and this one is none of them.
    is_beside_small: bool,
    /// [`fairness::small_polls`] at the last poll.
    small_polls: u16,
    placement: Placement,
    /// Polls in bulk less those with next to nothing, from 0 to [`BULK_POLLS`]. At 0 it is small.
    bulk_polls: u8,
    /// Polls in bulk with small connections beside it since it was small, up to [`BULK_POLLS`].
    in_the_way: u8,
}

// === impl PollContext ===

impl<'a> PollContext<'a> {
    pub(super) fn new(args: &mut RelayArgs<'a>) -> Self {
        let framing = match &mut args.resumed {
            None => args.limits.framing.then(Framing::default),
            Some(resumed) => resumed.take_framing(),
        };
        if !matches!(args.resumed, Some(Resumed::Paused(_))) {
            args.stats.begin(framing.is_some());
        }
        Self {
            shared: args.shared,
            stats: args.stats,
            observer: args.observer,
            framing,
            now: args.began,
            has_now: true,
            before: 0,
            is_beside_small: false,
            small_polls: 0,
            placement: args.placement,
            bulk_polls: match args.placement {
                Placement::Bulk => BULK_POLLS,
                Placement::Fixed | Placement::Shared => 0,
            },
            in_the_way: 0,
        }
    }

    /// Goes on where a relay on another thread has left off, with so many bytes in the buffer of each direction.
    pub(super) fn resume(&mut self, pending: [usize; 2]) {
        self.before = self.bytes();
        for (direction, pending) in Direction::BOTH.into_iter().zip(pending) {
            self.stats.set_pending(direction, pending);
        }
    }

    /// Leaves the framing to another thread.
    pub(super) fn take_framing(&mut self) -> Option<Framing> {
        self.framing.take()
    }

    fn bytes(&self) -> u64 {
        Direction::BOTH
            .map(|way| self.stats.bytes(way))
            .iter()
            .sum()
    }

    pub(super) fn new_poll(&mut self) {
        self.has_now = false;
        let bytes = self.bytes();
        let moved = bytes - std::mem::replace(&mut self.before, bytes);
        if moved < SMALL {
            self.bulk_polls = self.bulk_polls.saturating_sub(1);
        } else if moved >= BULK {
            self.bulk_polls = BULK_POLLS.min(self.bulk_polls + 1);
        }
        if self.bulk_polls == 0 {
            fairness::record_small_poll();
            self.in_the_way = 0;
        }
        let small_polls = fairness::small_polls();
        let beside_small = std::mem::replace(&mut self.small_polls, small_polls) != small_polls;
        self.is_beside_small = beside_small && moved >= BULK;
        if self.is_beside_small {
            self.in_the_way = BULK_POLLS.min(self.in_the_way + 1);
        }
    }

    /// Whether another thread should carry this connection.
    pub(super) fn is_misplaced(&self) -> bool {
        match self.placement {
            Placement::Fixed => false,
            Placement::Shared => self.in_the_way == BULK_POLLS,
            Placement::Bulk => self.bulk_polls == 0,
        }
    }

    /// L7: bytes that one direction may move in this poll.
    pub(super) fn turn_bytes(&self) -> usize {
        if self.is_beside_small {
            TURN_BYTES_BESIDE_SMALL
        } else {
            TURN_BYTES
        }
    }

    pub(super) fn now(&mut self) -> Moment {
        if !self.has_now {
            self.now = clock::now();
            self.has_now = true;
        }
        self.now
    }

    /// Bytes have left a buffer (L8).
    pub(super) fn moved(&mut self, direction: Direction, bytes: usize, spliced: bool) {
        let now = self.now();
        self.stats.moved(direction, bytes, spliced, now);
        self.shared.activity.record();
        if !self.is_framed()
            && let Some(after) = self.stats.infer_waiting(direction, now)
        {
            self.observer.first_byte(after, false);
        }
    }

    /// Whether framing still understands this connection.
    pub(super) fn is_framed(&self) -> bool {
        self.framing
            .as_ref()
            .is_some_and(|framing| framing.phase() != HttpPhase::Unknown)
    }

    /// How many of the next bytes of a direction framing need not see.
    pub(super) fn opaque(&self, direction: Direction) -> u64 {
        self.framing
            .as_ref()
            .map_or(u64::MAX, |framing| framing.opaque(direction))
    }

    /// These bytes were read, and are on their way or in the buffer.
    pub(super) fn inspect(&mut self, direction: Direction, bytes: &[u8]) {
        self.advance(|framing| framing.inspect(direction, bytes));
    }

    /// So many bytes went into a pipe, unseen.
    pub(super) fn skip(&mut self, direction: Direction, bytes: usize) {
        self.advance(|framing| framing.skip(direction, bytes as u64));
    }

    /// The source of this direction has ended in order.
    pub(super) fn source_ended(&mut self, direction: Direction) {
        self.advance(|framing| framing.end(direction));
    }

    fn advance(&mut self, advance: impl FnOnce(&mut Framing) -> FramingProgress) {
        let Some(framing) = &mut self.framing else {
            return;
        };
        if framing.phase() == HttpPhase::Unknown {
            return;
        }
        let progress = advance(framing);
        let phase = framing.phase();
        let now = self.now();
        for nth in 0..progress.begun {
            let since = self.stats.end_wait();
            // Of several answers in one piece, all but the first follow the one before at once.
            if since.is_some() || nth > 0 {
                let after = since.map_or(Duration::ZERO, |since| now.since(since));
                self.observer.first_byte(after, true);
            }
        }
        if progress.answers > 0 {
            self.observer.complete(progress.answers);
        }
        self.stats.set_phase(phase, progress.requests);
        match phase {
            HttpPhase::Waiting => self.stats.wait_from(now),
            HttpPhase::Unknown if self.stats.last_direction() == Some(Direction::Upload) => {
                self.stats.wait_from(now);
            }
            // Ended above, once it is known to be more than a 1xx.
            HttpPhase::Answer => {}
            HttpPhase::Idle | HttpPhase::Request | HttpPhase::Unknown => _ = self.stats.end_wait(),
        }
    }
}
