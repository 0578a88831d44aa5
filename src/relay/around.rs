//! What a half needs to know of the world around it, and how much it may do in one poll (L7).

use std::cell::Cell;

use crate::clock::{self, Moment};
use crate::duration_window::DurationWindow;
use crate::types::Direction;

use super::counters::Counters;
use super::scratch;
use super::tally::Tally;

/// L7: turns of one half in one poll. 16 gave 20 % over 4 on a single stream, and nothing on eight.
pub(super) const TURNS: u32 = 16;
/// L7: bytes of one half in one poll. A quarter of it costs 64 streams a fifth more CPU: their readers wake more often.
const TURN_BYTES: usize = 4 << 20;
/// L7: the same where pairs that move little share the thread. What these wait is a tenth to a quarter less.
const TURN_BYTES_BESIDE_SMALL: usize = 1 << 20;
/// Bytes in one poll that make a pair a large one, to be held short in the next.
const BULK: u64 = 256 << 10;

/// The counters and the tally of a pair, and what is fixed for one poll of it.
pub(super) struct Around<'a> {
    pub(super) counters: &'a Counters,
    pub(super) tally: &'a Tally,
    pub(super) answers: &'a DurationWindow,
    /// Its time, read at most once.
    now: Cell<Option<Moment>>,
    /// Bytes that had moved before it.
    before: Cell<u64>,
    /// L7: bytes of one half in it.
    turn_bytes: Cell<usize>,
    /// Turns of small pairs on this thread, at the last poll.
    small_turns: Cell<u64>,
}

// === impl Around ===

impl<'a> Around<'a> {
    pub(super) fn new(
        counters: &'a Counters,
        tally: &'a Tally,
        answers: &'a DurationWindow,
    ) -> Self {
        Self {
            counters,
            tally,
            answers,
            now: Cell::new(None),
            before: Cell::new(0),
            turn_bytes: Cell::new(TURN_BYTES),
            small_turns: Cell::new(0),
        }
    }

    /// A new poll begins.
    pub(super) fn new_poll(&self) {
        self.now.set(None);
        let bytes = Direction::BOTH
            .map(|way| self.tally.bytes(way))
            .iter()
            .sum();
        let is_small = bytes - self.before.replace(bytes) < BULK;
        if is_small {
            scratch::note_small();
        }
        let small_turns = scratch::small_turns();
        let beside_small = self.small_turns.replace(small_turns) != small_turns;
        self.turn_bytes.set(if beside_small && !is_small {
            TURN_BYTES_BESIDE_SMALL
        } else {
            TURN_BYTES
        });
    }

    /// L7: bytes of one half in this poll.
    pub(super) fn turn_bytes(&self) -> usize {
        self.turn_bytes.get()
    }

    pub(super) fn now(&self) -> Moment {
        self.now.get().unwrap_or_else(|| {
            let now = clock::now();
            self.now.set(Some(now));
            now
        })
    }
}
