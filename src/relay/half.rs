//! One direction of a pair: Fill → Drain → Flush → End, one loop for both lanes.
//!
//! The rules of the relay; each has a test of its name in `half/tests.rs` or `relay/tests.rs`.
//! - **L1** Fill only an empty lane: WouldBlock on fill is then always the source's, on drain always the destination's.
//!   A half that returns Pending has its waker at the socket it waits for. A short splice never counts as "source
//!   dry", only WouldBlock does.
//! - **L2** An end goes last, and as itself: a FIN only when the lane is empty; a reset after every acknowledged byte;
//!   never a clean FIN for a reset.
//! - **L3** A pipe that holds bytes is never pooled; it is closed.
//! - **L4** Lanes change only when empty, so upgrading or falling back cannot lose, repeat or reorder a byte. (The
//!   one way out of a full pipe is to read all of it back into the leftover of the same direction.)
//! - **L5** Each half ends alone. The relay ends when both are done, a side is reset, or a timer fires. The half-open
//!   timer is armed when the first half ends; any byte re-arms it. A fully open pair has no idle timer by default.
//! - **L6** One splice asks for at most 1 MiB, flags NONBLOCK only, never MORE.
//! - **L7** Every turn charges the coop budget, and a half yields after 16 turns or 4 MiB, to the sockets of others
//!   too: one elephant cannot hold a thread. After 1 MiB where pairs that move little had a poll since its last.
//! - **L8** Bytes are counted when they leave the lane, at once, in the tally, with the direction that moved last.

use std::io;
use std::task::{Context, Poll, ready};

use crate::sys::pipe::Moved;
use crate::types::Direction;

use super::around::{Around, TURNS};
use super::lane::{Lane, Mode};
use super::port::Port;
use super::scratch::{self, Scratch};

/// One direction of a pair.
#[derive(Debug)]
pub(super) struct Half {
    direction: Direction,
    phase: Phase,
    pub(super) lane: Lane,
    /// The source has ended, in order.
    source_ended: bool,
    /// An end of the source is not passed on yet: the relay wants to look at it first.
    pub(super) hold_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The lane is empty: wait for the source.
    Fill,
    /// The lane holds bytes: wait for the destination.
    Drain,
    /// The lane is empty; a destination with buffers of its own lets them go, and hears of the end.
    Flush,
    Over(End),
}

/// How a half ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The source ended in order, and the destination was told.
    Fin,
    /// The source was reset; everything it had sent is with the destination's kernel.
    SourceReset,
    /// The destination was reset; the lane was dropped.
    Dropped,
}

/// One turn of the loop.
enum Turn {
    /// So many bytes moved or the phase changed; go on.
    Next(usize),
    /// A call failed in a way that says nothing about the peer: a bug of ours.
    Broken(io::Error),
}

// === impl Half ===

impl Half {
    pub(super) fn new(direction: Direction, lane: Lane) -> Self {
        Self {
            direction,
            phase: Phase::Fill,
            lane,
            source_ended: false,
            hold_end: false,
        }
    }

    /// Bytes that come before everything the source has to say.
    pub(super) fn preload(&mut self, bytes: Vec<u8>, around: &Around<'_>) {
        if !bytes.is_empty() {
            self.lane.keep(bytes, around.counters);
            self.phase = Phase::Drain;
        }
    }

    pub(super) fn end(&self) -> Option<End> {
        match self.phase {
            Phase::Over(end) => Some(end),
            _ => None,
        }
    }

    /// Whether the source has said its last word, in order or not.
    pub(super) fn has_heard_the_end(&self) -> bool {
        self.source_ended || self.end() == Some(End::SourceReset)
    }

    /// Whether it waits for its destination with bytes in the lane.
    pub(super) fn is_draining(&self) -> bool {
        self.phase == Phase::Drain
    }

    /// Whether it waits for its source, so that an error there would be seen.
    pub(super) fn is_filling(&self) -> bool {
        self.phase == Phase::Fill
    }

    /// Goes on until it must wait or has ended. An error is a bug of ours, or a lack (memory).
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Port<'_>,
        destination: &mut Port<'_>,
        around: &Around<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = 0;
        for _ in 0..TURNS {
            if self.end().is_none() && destination.reset.is_some() {
                self.phase = Phase::Over(End::Dropped);
                around.tally.set_pending(self.direction, 0);
            }
            let turn = match (self.phase, self.lane.mode()) {
                (Phase::Fill, Mode::Buffer) => self.pass_on(cx, source, destination, around),
                (Phase::Fill, Mode::Pipe) => self.fill_pipe(cx, source, around),
                (Phase::Drain, _) => self.drain(cx, destination, around),
                (Phase::Flush, _) => self.flush(cx, destination, source),
                (Phase::Over(_), _) => return Poll::Ready(Ok(())),
            };
            match ready!(turn) {
                Turn::Next(more) => bytes += more,
                Turn::Broken(error) => return Poll::Ready(Err(error)),
            }
            if bytes >= around.turn_bytes() {
                break;
            }
        }
        if self.end().is_some() {
            return Poll::Ready(Ok(()));
        }
        scratch::yield_to_others(cx);
        Poll::Pending
    }

    /// Buffer lane: reads into the scratch and writes it out at once; keeps only what the destination would not take.
    fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Port<'_>,
        destination: &mut Port<'_>,
        around: &Around<'_>,
    ) -> Poll<Turn> {
        let mut scratch = Scratch::take();
        let room = around.counters.read_size();
        let read = match ready!(source.poll_recv(cx, &mut scratch[..room])) {
            Ok(0) => return Poll::Ready(self.source_ended(source)),
            Ok(bytes) => bytes,
            Err(error) => return Poll::Ready(self.source_failed(source, error)),
        };
        let (sent, failure) = match destination.poll_send(cx, &scratch[..read]) {
            Poll::Ready(Ok(bytes)) => (bytes, None),
            Poll::Ready(Err(error)) => (0, Some(error)),
            Poll::Pending => (0, None),
        };
        if sent > 0 {
            self.moved(sent, false, around);
        }
        if sent < read {
            self.lane
                .keep(scratch[sent..read].to_vec(), around.counters);
            self.phase = Phase::Drain;
            self.note_pending(around);
        } else {
            self.phase = emptied(destination);
        }
        // From here on it may be the pipe's turn; what is left here goes out before that is filled (L4).
        self.lane.after_read(read, room);
        match failure {
            Some(error) => Poll::Ready(self.destination_failed(destination, error)),
            None => Poll::Ready(Turn::Next(sent)),
        }
    }

    /// Pipe lane: splices from the source into an empty pipe.
    fn fill_pipe(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Port<'_>,
        around: &Around<'_>,
    ) -> Poll<Turn> {
        let Some(pipe) = self.lane.empty_pipe(around.counters) else {
            return Poll::Ready(Turn::Next(0));
        };
        match source.poll_splice_in(cx, pipe) {
            Poll::Pending => {
                self.lane.dry();
                Poll::Pending
            }
            Poll::Ready(Ok(Moved::Bytes(bytes))) => {
                self.lane.after_fill(bytes.get());
                self.phase = Phase::Drain;
                Poll::Ready(Turn::Next(0))
            }
            Poll::Ready(Ok(Moved::Eof)) => {
                self.lane.dry();
                Poll::Ready(self.source_ended(source))
            }
            Poll::Ready(Err(error)) if source.flag(&error).is_some() => {
                self.lane.dry();
                Poll::Ready(self.source_failed(source, error))
            }
            Poll::Ready(Err(error)) => {
                Poll::Ready(match self.lane.refuse_splice(&error, around.counters) {
                    Ok(()) => Turn::Next(0),
                    Err(error) => Turn::Broken(error),
                })
            }
        }
    }

    /// Either lane: lets the destination have what the lane holds.
    fn drain(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut Port<'_>,
        around: &Around<'_>,
    ) -> Poll<Turn> {
        let (result, spliced) = match self.lane.full_pipe() {
            Some(pipe) => (
                destination.poll_splice_out(cx, pipe).map_ok(usize::from),
                true,
            ),
            None => (destination.poll_send(cx, self.lane.rest()), false),
        };
        let bytes = match result {
            Poll::Ready(Ok(bytes)) => bytes,
            Poll::Ready(Err(error)) if spliced && destination.flag(&error).is_none() => {
                return Poll::Ready(match self.lane.refuse_splice(&error, around.counters) {
                    Ok(()) => Turn::Next(0),
                    Err(error) => Turn::Broken(error),
                });
            }
            Poll::Ready(Err(error)) => {
                return Poll::Ready(self.destination_failed(destination, error));
            }
            Poll::Pending => {
                self.note_pending(around);
                return Poll::Pending;
            }
        };
        if !spliced {
            self.lane.sent(bytes, around.counters);
        }
        self.moved(bytes, spliced, around);
        if self.lane.pending() == 0 {
            if spliced {
                self.lane.drained(around.counters);
            }
            self.phase = emptied(destination);
            self.note_pending(around);
        }
        Poll::Ready(Turn::Next(bytes))
    }

    /// The lane is empty: flush, and pass the end on if it has come (L2).
    fn flush(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut Port<'_>,
        source: &Port<'_>,
    ) -> Poll<Turn> {
        if let Err(error) = ready!(destination.poll_flush(cx)) {
            return Poll::Ready(self.destination_failed(destination, error));
        }
        if !self.source_ended {
            self.phase = Phase::Fill;
            return Poll::Ready(Turn::Next(0));
        }
        if source.reset.is_some() {
            self.phase = Phase::Over(End::SourceReset);
            return Poll::Ready(Turn::Next(0));
        }
        if self.hold_end {
            return Poll::Pending;
        }
        match ready!(destination.poll_finish(cx)) {
            Ok(()) => {
                self.phase = Phase::Over(End::Fin);
                Poll::Ready(Turn::Next(0))
            }
            Err(error) => Poll::Ready(self.destination_failed(destination, error)),
        }
    }

    /// An end on a flagged side is a reset, however clean it looks (bug 13).
    fn source_ended(&mut self, source: &mut Port<'_>) -> Turn {
        self.source_ended = true;
        self.phase = if source.is_reset_after_all() {
            Phase::Over(End::SourceReset)
        } else {
            Phase::Flush
        };
        Turn::Next(0)
    }

    fn source_failed(&mut self, source: &mut Port<'_>, error: io::Error) -> Turn {
        if source.flag(&error).is_none() {
            return Turn::Broken(error);
        }
        self.phase = Phase::Over(End::SourceReset);
        Turn::Next(0)
    }

    /// Stops; what the lane holds stays there until the relay ends, in case it can go to another upstream.
    fn destination_failed(&mut self, destination: &mut Port<'_>, error: io::Error) -> Turn {
        if destination.flag(&error).is_none() {
            return Turn::Broken(error);
        }
        self.phase = Phase::Over(End::Dropped);
        Turn::Next(0)
    }

    /// L8.
    fn moved(&self, bytes: usize, spliced: bool, around: &Around<'_>) {
        around
            .tally
            .moved(self.direction, bytes, spliced, around.now(), around.answers);
    }

    fn note_pending(&self, around: &Around<'_>) {
        around
            .tally
            .set_pending(self.direction, self.lane.pending());
    }
}

/// Where a half goes when its lane has run empty: a plain socket has nothing to flush.
fn emptied(destination: &Port<'_>) -> Phase {
    if destination.as_tcp().is_some() {
        Phase::Fill
    } else {
        Phase::Flush
    }
}
