//! The live numbers of one connection, and the orders that others give it.
//!
//! Written by the data thread that carries the connection (one writer, relaxed stores), read by metrics, timers, the
//! registry, the sweep and the access line. Created at accept, so it outlives the dialling. An [`Order`] wakes the
//! relay, which checks once more on its own thread before it obeys.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::{self, Moment};
use crate::duration_window::DurationWindow;
use crate::events::Reason;
use crate::types::Direction;

/// What somebody else wants of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// End it if it is at rest and has been quiet for this long; ignored otherwise. FIN to the client first.
    CloseAtRest(Reason, Duration),
    /// Reset both sides now.
    Cut(Reason),
}

/// Live counts of one connection.
#[derive(Debug)]
pub struct Tally {
    created: Moment,
    ways: [Way; 2],
    /// When the last byte left a lane, with its direction: `micros << 1 | direction`, plus two; 0 = never. One word,
    /// so that a reader never sees the time of one byte with the direction of another.
    last: AtomicU64,
    /// Micros, plus one, of the first upload byte that no download byte has followed; 0 = none.
    waiting: AtomicU64,
    /// Set while an order lies on the desk, so that the relay looks without a lock.
    ordered: AtomicBool,
    desk: Mutex<Desk>,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// Bytes that left the lane.
    bytes: AtomicU64,
    /// Of these, bytes that never were in our memory.
    spliced: AtomicU64,
    /// What of both has been added to the metrics.
    settled: AtomicU64,
    settled_spliced: AtomicU64,
    /// Bytes in the lane, while the destination takes no more.
    pending: AtomicU64,
    /// When the last byte left the lane: micros plus one; 0 = never.
    moved: AtomicU64,
}

#[derive(Debug, Default)]
struct Desk {
    order: Option<Order>,
    waker: Option<Waker>,
    /// Client bytes that were read for an upstream that had ended before it took one of them; the next relay of this
    /// connection sends them first.
    carried: Vec<u8>,
}

// === impl Tally ===

impl Default for Tally {
    fn default() -> Self {
        Self {
            created: clock::now(),
            ways: Default::default(),
            last: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            ordered: AtomicBool::new(false),
            desk: Mutex::default(),
        }
    }
}

impl Tally {
    /// Bytes that went this way.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.way(direction).bytes.load(Relaxed)
    }

    /// Of these, bytes that went through a pipe.
    pub fn spliced(&self, direction: Direction) -> u64 {
        self.way(direction).spliced.load(Relaxed)
    }

    /// Bytes in lanes, both directions together.
    pub fn pending(&self) -> u64 {
        self.ways.iter().map(|way| way.pending.load(Relaxed)).sum()
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

    /// When a byte last came from the endpoint.
    pub fn last_download(&self) -> Option<Moment> {
        moment(self.way(Direction::Download).moved.load(Relaxed))
    }

    /// When a byte last went to the endpoint.
    pub fn last_upload(&self) -> Option<Moment> {
        moment(self.way(Direction::Upload).moved.load(Relaxed))
    }

    /// Since when a request waits for its first answer byte: the time of the first upload byte not yet answered.
    pub fn waiting_since(&self) -> Option<Moment> {
        moment(self.waiting.load(Relaxed))
    }

    /// `pipe` once bytes have gone through one, else `buffer`.
    pub fn lane(&self) -> &'static str {
        if Direction::BOTH.into_iter().any(|way| self.spliced(way) > 0) {
            "pipe"
        } else {
            "buffer"
        }
    }

    /// Contract section 1: the last byte moved was download, or none ever moved; quiet for this long; nothing in a
    /// lane. That nothing is unsent the relay checks on its own thread before it obeys a [`Order::CloseAtRest`].
    pub fn at_rest(&self, now: Moment, quiet: Duration) -> bool {
        let (at, direction) = self.last().unwrap_or((self.created, Direction::Download));
        direction == Direction::Download && now.since(at) >= quiet && self.pending() == 0
    }

    /// Gives an order; a later one replaces an earlier one, except that nothing replaces a cut.
    pub fn order(&self, order: Order) {
        let waker = {
            let mut desk = self.desk();
            if !matches!(desk.order, Some(Order::Cut(_))) {
                desk.order = Some(order);
            }
            self.ordered.store(true, Relaxed);
            desk.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for an order and takes it: for those who carry the connection before the relay does.
    pub async fn ordered(&self) -> Order {
        std::future::poll_fn(|cx| {
            self.attend(cx);
            self.take_order().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Calls `add(direction, bytes, spliced)` with what has not been reported before. May be called from several
    /// threads: each byte is reported once.
    pub fn settle(&self, mut add: impl FnMut(Direction, u64, u64)) {
        for direction in Direction::BOTH {
            let way = self.way(direction);
            let bytes = unsettled(&way.settled, way.bytes.load(Relaxed));
            let spliced = unsettled(&way.settled_spliced, way.spliced.load(Relaxed));
            if bytes > 0 || spliced > 0 {
                add(direction, bytes, spliced);
            }
        }
    }

    // What the relay says.

    /// L8: bytes have left the lane. Records a first answer.
    pub(super) fn moved(
        &self,
        direction: Direction,
        bytes: usize,
        spliced: bool,
        now: Moment,
        answers: &DurationWindow,
    ) {
        let way = self.way(direction);
        add(&way.bytes, bytes as u64);
        if spliced {
            add(&way.spliced, bytes as u64);
        }
        let micros = now.as_micros();
        way.moved.store(micros + 1, Relaxed);
        self.last
            .store((micros << 1 | direction.index() as u64) + 2, Relaxed);
        let waiting = self.waiting.load(Relaxed);
        match direction {
            Direction::Upload if waiting == 0 => self.waiting.store(micros + 1, Relaxed),
            Direction::Download if waiting != 0 => {
                self.waiting.store(0, Relaxed);
                answers.record(Duration::from_micros(micros.saturating_sub(waiting - 1)));
            }
            _ => {}
        }
    }

    pub(super) fn set_pending(&self, direction: Direction, bytes: usize) {
        self.way(direction).pending.store(bytes as u64, Relaxed);
    }

    /// Whether an order lies here.
    pub(super) fn has_order(&self) -> bool {
        self.ordered.load(Relaxed)
    }

    pub(super) fn take_order(&self) -> Option<Order> {
        if !self.has_order() {
            return None;
        }
        let mut desk = self.desk();
        self.ordered.store(false, Relaxed);
        desk.order.take()
    }

    /// Leaves the waker that an order wakes.
    pub(super) fn attend(&self, cx: &Context<'_>) {
        let mut desk = self.desk();
        match &mut desk.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    pub(super) fn carry(&self, bytes: Vec<u8>) {
        self.desk().carried = bytes;
    }

    pub(super) fn take_carried(&self) -> Vec<u8> {
        std::mem::take(&mut self.desk().carried)
    }

    fn last(&self) -> Option<(Moment, Direction)> {
        let last = self.last.load(Relaxed).checked_sub(2)?;
        let direction = Direction::BOTH[(last & 1) as usize];
        Some((Moment::at(Duration::from_micros(last >> 1)), direction))
    }

    fn way(&self, direction: Direction) -> &Way {
        &self.ways[direction.index()]
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn at_rest_is_after_an_answer_and_never_while_one_is_awaited() {
        let tally = Tally::default();
        let answers = DurationWindow::default();
        // The tally knows microseconds.
        let start = Moment::at(Duration::from_micros(tally.created().as_micros() + 1));
        let quiet = Duration::from_secs(1);
        assert!(!tally.at_rest(start, quiet));
        assert!(tally.at_rest(start + quiet, quiet), "none ever moved");

        tally.moved(Direction::Upload, 10, false, start + quiet, &answers);
        let later = start + Duration::from_secs(3600);
        assert!(
            !tally.at_rest(later, quiet),
            "a request that waits is not at rest, however quiet"
        );
        assert_eq!(tally.waiting_since(), Some(start + quiet));

        let answered = start + quiet + Duration::from_millis(250);
        tally.moved(Direction::Download, 10, false, answered, &answers);
        assert_eq!(tally.waiting_since(), None);
        assert_eq!(answers.quantile(0.5), Some(Duration::from_millis(250)));
        assert!(!tally.at_rest(answered, quiet));
        tally.set_pending(Direction::Download, 1);
        assert!(!tally.at_rest(later, quiet), "bytes in a lane");
        tally.set_pending(Direction::Download, 0);
        assert!(tally.at_rest(later, quiet));
        assert_eq!(tally.last_moved(), answered);
    }

    #[test]
    fn each_byte_is_settled_once() {
        let tally = Tally::default();
        let answers = DurationWindow::default();
        let mut seen = Vec::new();
        tally.moved(Direction::Upload, 10, false, clock::now(), &answers);
        tally.settle(|direction, bytes, spliced| seen.push((direction, bytes, spliced)));
        tally.moved(Direction::Download, 5, true, clock::now(), &answers);
        tally.settle(|direction, bytes, spliced| seen.push((direction, bytes, spliced)));
        tally.settle(|direction, bytes, spliced| seen.push((direction, bytes, spliced)));
        assert_eq!(
            seen,
            [(Direction::Upload, 10, 0), (Direction::Download, 5, 5)]
        );
        assert_eq!(tally.lane(), "pipe");
    }

    #[tokio::test]
    async fn an_order_wakes_and_a_cut_stands() {
        let tally = Tally::default();
        let (order, ()) = tokio::join!(tally.ordered(), async {
            tokio::task::yield_now().await;
            tally.order(Order::Cut(Reason::Killed));
            tally.order(Order::CloseAtRest(Reason::MaxAge, Duration::ZERO));
        });
        assert_eq!(order, Order::Cut(Reason::Killed));
        assert_eq!(tally.take_order(), None);
    }
}
