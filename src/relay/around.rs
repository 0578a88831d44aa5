//! What a half needs to know of the world around it, and how much it may do in one poll (L7).

use std::cell::Cell;

use crate::clock::{self, Moment};
use crate::recent::Recent;

use super::counters::Counters;
use super::scratch;
use super::tally::Tally;

/// L7: turns and bytes of one half in one poll, alone on its thread. 16 gave 20 % over 4 on a single stream.
const ALONE: (u32, usize) = (16, 4 << 20);
/// L7: the same beside others. Took a fifth off what mice wait beside an elephant, and nothing off eight streams.
const BESIDE_OTHERS: (u32, usize) = (4, 1 << 20);

/// The counters and the tally of a pair, and what is fixed for one poll of it.
pub(super) struct Around<'a> {
    pub(super) counters: &'a Counters,
    pub(super) tally: &'a Tally,
    pub(super) answers: &'a Recent,
    /// Its time, read at most once.
    now: Cell<Option<Moment>>,
    /// Its number among all polls of the thread.
    number: Cell<u64>,
    /// L7: what each half may do in it.
    most: Cell<(u32, usize)>,
}

// === impl Around ===

impl<'a> Around<'a> {
    pub(super) fn new(counters: &'a Counters, tally: &'a Tally, answers: &'a Recent) -> Self {
        Self {
            counters,
            tally,
            answers,
            now: Cell::new(None),
            number: Cell::new(0),
            most: Cell::new(BESIDE_OTHERS),
        }
    }

    /// L7: turns and bytes of one half in this poll.
    pub(super) fn most(&self) -> (u32, usize) {
        self.most.get()
    }

    /// A new poll begins.
    pub(super) fn new_poll(&self) {
        self.now.set(None);
        let number = scratch::begin();
        let is_alone = self.number.replace(number) + 1 == number;
        self.most.set(if is_alone { ALONE } else { BESIDE_OTHERS });
    }

    pub(super) fn now(&self) -> Moment {
        self.now.get().unwrap_or_else(|| {
            let now = clock::now();
            self.now.set(Some(now));
            now
        })
    }
}
