//! One direction of a connection: Fill → Drain → Flush → End, one loop for memory and pipe.
//!
//! The rules of the relay; each has a test of its name in `relay/tests`.
//! - **L1** Only an empty buffer is filled: WouldBlock on fill is then always the source's, on drain always the
//!   destination's. A direction that returns Pending has its waker at the socket it waits for. A short splice never
//!   counts as "source dry", only WouldBlock does; and a splice of nothing is an end only when a receive says so,
//!   because urgent data stops a splice as well.
//! - **L2** An end goes last, and as itself: a FIN only when the buffer is empty; a reset after every acknowledged
//!   byte; never a clean FIN for a reset.
//! - **L3** A pipe that holds bytes is never pooled; it is closed.
//! - **L4** A buffer changes between memory and pipe only when empty, so that this cannot lose, repeat or reorder a
//!   byte. (The one way out of a full pipe is to read all of it back into the leftover of the same direction.)
//! - **L5** Each direction ends alone. The relay ends when both are done, a side is reset, or a timer fires. The
//!   half-open timer is armed when the first direction ends; any byte re-arms it. A fully open connection has no idle
//!   timer by default.
//! - **L6** One splice asks for at most 1 MiB, flags NONBLOCK only, never MORE; and never for more than framing need
//!   not see.
//! - **L7** Every turn charges the coop budget, and a direction yields after 16 turns or 4 MiB, to the sockets of
//!   others too: one bulk transfer cannot hold a thread. After 1 MiB where small connections had a poll since its last;
//!   where that goes on, it leaves the thread to them (`relay/handover.rs`).
//! - **L8** Bytes are counted when they leave the buffer, at once, with the direction that moved last.

use std::io;
use std::task::{Context, Poll, ready};

use crate::sys::pipe::Moved;
use crate::types::Direction;

use super::SourceState;
use super::buffer::{BufferKind, TransferBuffer};
use super::fairness;
use super::poll_context::{PollContext, TURNS};
use super::shared::RelayShared;
use super::side_io::SideIo;
use super::thread_buffer::ThreadBuffer;

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct HalfDuplex {
    direction: Direction,
    phase: TransferPhase,
    pub(super) buffer: TransferBuffer,
    /// The source has ended, in order.
    source_ended: bool,
    /// An end of the source is not passed on yet: the relay wants to look at it first.
    pub(super) hold_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferPhase {
    /// The buffer is empty: wait for the source.
    Fill,
    /// The buffer holds bytes: wait for the destination.
    Drain,
    /// The buffer is empty; a destination with buffers of its own flushes them, and is told of the end.
    Flush,
    Over(DirectionEnd),
}

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirectionEnd {
    /// The source ended in order, and the destination was told.
    Fin,
    /// The source was reset; the destination's kernel has everything it had sent.
    SourceReset,
    /// The destination was reset; what the buffer held was dropped.
    Dropped,
}

/// One turn of the loop.
enum Turn {
    /// This many bytes moved, or the phase changed; go on.
    Next(usize),
    /// A call failed in a way that says nothing about the peer: a bug of ours.
    Broken(io::Error),
}

// === impl HalfDuplex ===

impl HalfDuplex {
    pub(super) fn new(direction: Direction, buffer: TransferBuffer) -> Self {
        Self {
            direction,
            phase: TransferPhase::Fill,
            buffer,
            source_ended: false,
            hold_end: false,
        }
    }

    /// Bytes that were read from the source for a former upstream; they go first.
    pub(super) fn preload(&mut self, bytes: Vec<u8>, ctx: &mut PollContext<'_>) {
        if !bytes.is_empty() {
            ctx.inspect(self.direction, &bytes);
            self.buffer.keep(bytes, ctx.shared);
            self.phase = TransferPhase::Drain;
        }
    }

    /// Goes on where something that carried the connection in between has left off.
    pub(super) fn resume(&mut self, rest: Vec<u8>, source: SourceState, ctx: &mut PollContext<'_>) {
        self.source_ended = source != SourceState::Open;
        self.phase = match source {
            SourceState::Open => TransferPhase::Fill,
            SourceState::Ended => TransferPhase::Flush,
            SourceState::Finished => TransferPhase::Over(DirectionEnd::Fin),
        };
        if self.end().is_none() && !rest.is_empty() {
            self.buffer.keep(rest, ctx.shared);
            self.phase = TransferPhase::Drain;
        }
    }

    /// Takes out what the buffer holds, and says how far the source has come.
    pub(super) fn hand_over(&mut self, shared: &RelayShared) -> io::Result<(Vec<u8>, SourceState)> {
        if self.buffer.full_pipe().is_some() {
            self.buffer.move_to_buffer(shared)?;
        }
        let source = match (self.end(), self.source_ended) {
            (Some(_), _) => SourceState::Finished,
            (None, true) => SourceState::Ended,
            (None, false) => SourceState::Open,
        };
        Ok((self.buffer.take_rest(shared), source))
    }

    pub(super) fn end(&self) -> Option<DirectionEnd> {
        match self.phase {
            TransferPhase::Over(end) => Some(end),
            _ => None,
        }
    }

    /// Whether the source has ended, in order or not.
    pub(super) fn source_has_ended(&self) -> bool {
        self.source_ended || self.end() == Some(DirectionEnd::SourceReset)
    }

    /// Whether it waits for its destination with bytes in the buffer.
    pub(super) fn is_draining(&self) -> bool {
        self.phase == TransferPhase::Drain
    }

    /// Whether it waits for its source, so that an error there would be seen.
    pub(super) fn is_filling(&self) -> bool {
        self.phase == TransferPhase::Fill
    }

    /// Goes on until it must wait or has ended. An error is a bug of ours, or a lack (memory).
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut SideIo<'_>,
        destination: &mut SideIo<'_>,
        ctx: &mut PollContext<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = 0;
        for _ in 0..TURNS {
            if self.end().is_none() && destination.reset.is_some() {
                self.phase = TransferPhase::Over(DirectionEnd::Dropped);
                ctx.stats.set_pending(self.direction, 0);
            }
            let turn = match (self.phase, self.buffer.mode()) {
                (TransferPhase::Fill, BufferKind::Buffer) => {
                    self.pass_on(cx, source, destination, ctx)
                }
                (TransferPhase::Fill, BufferKind::Pipe) => self.fill_pipe(cx, source, ctx),
                (TransferPhase::Drain, _) => self.drain(cx, destination, ctx),
                (TransferPhase::Flush, _) => self.flush(cx, destination, source),
                (TransferPhase::Over(_), _) => return Poll::Ready(Ok(())),
            };
            match ready!(turn) {
                Turn::Next(more) => bytes += more,
                Turn::Broken(error) => return Poll::Ready(Err(error)),
            }
            if bytes >= ctx.turn_bytes() {
                break;
            }
        }
        if self.end().is_some() {
            return Poll::Ready(Ok(()));
        }
        fairness::yield_to_others(cx);
        Poll::Pending
    }

    /// Memory: reads into the thread's buffer and writes it out at once; keeps only what the destination would not
    /// take.
    fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut SideIo<'_>,
        destination: &mut SideIo<'_>,
        ctx: &mut PollContext<'_>,
    ) -> Poll<Turn> {
        let mut memory = ThreadBuffer::take();
        let room = ctx.shared.read_size();
        let read = match ready!(source.poll_recv(cx, &mut memory[..room], &ctx.shared.urgent)) {
            Ok(0) => return Poll::Ready(self.end_source(source, ctx)),
            Ok(bytes) => bytes,
            Err(error) => return Poll::Ready(self.source_failed(source, error)),
        };
        let (sent, failure) = match destination.poll_send(cx, &memory[..read]) {
            Poll::Ready(Ok(bytes)) => (bytes, None),
            Poll::Ready(Err(error)) => (0, Some(error)),
            Poll::Pending => (0, None),
        };
        if sent > 0 {
            ctx.moved(self.direction, sent, false);
        }
        if sent < read {
            self.buffer.keep(memory[sent..read].to_vec(), ctx.shared);
            self.phase = TransferPhase::Drain;
            self.record_pending(ctx);
        } else {
            self.phase = emptied(destination);
        }
        ctx.inspect(self.direction, &memory[..read]);
        // From here on it may be the pipe's turn; what is left here goes out before that is filled (L4).
        self.buffer
            .after_read(read, room, ctx.opaque(self.direction));
        match failure {
            Some(error) => Poll::Ready(self.destination_failed(destination, error)),
            None => Poll::Ready(Turn::Next(sent)),
        }
    }

    /// Pipe: splices from the source into an empty pipe.
    fn fill_pipe(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut SideIo<'_>,
        ctx: &mut PollContext<'_>,
    ) -> Poll<Turn> {
        let opaque = ctx.opaque(self.direction);
        if opaque == 0 {
            self.buffer.leave_pipe();
            return Poll::Ready(Turn::Next(0));
        }
        let Some(pipe) = self.buffer.empty_pipe(ctx.shared) else {
            return Poll::Ready(Turn::Next(0));
        };
        match source.poll_splice_in(cx, pipe, opaque) {
            Poll::Pending if source.is_at_urgent_mark() => {
                // A receive steps over the mark; a splice never does.
                source.force_next_receive();
                self.buffer.leave_pipe();
                Poll::Ready(Turn::Next(0))
            }
            Poll::Pending => {
                self.buffer.dry();
                Poll::Pending
            }
            Poll::Ready(Ok(Moved::Bytes(bytes))) => {
                ctx.skip(self.direction, bytes.get());
                self.buffer.after_fill(bytes.get());
                self.phase = TransferPhase::Drain;
                Poll::Ready(Turn::Next(0))
            }
            Poll::Ready(Ok(Moved::Nothing)) => {
                source.force_next_receive();
                self.buffer.leave_pipe();
                Poll::Ready(Turn::Next(0))
            }
            Poll::Ready(Err(error)) if source.flag(&error).is_some() => {
                self.buffer.dry();
                Poll::Ready(self.source_failed(source, error))
            }
            Poll::Ready(Err(error)) => {
                Poll::Ready(match self.buffer.refuse_splice(&error, ctx.shared) {
                    Ok(()) => Turn::Next(0),
                    Err(error) => Turn::Broken(error),
                })
            }
        }
    }

    /// Either mode: sends what the buffer holds.
    fn drain(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut SideIo<'_>,
        ctx: &mut PollContext<'_>,
    ) -> Poll<Turn> {
        let (result, spliced) = match self.buffer.full_pipe() {
            Some(pipe) => (
                destination.poll_splice_out(cx, pipe).map_ok(usize::from),
                true,
            ),
            None => (destination.poll_send(cx, self.buffer.rest()), false),
        };
        let bytes = match result {
            Poll::Ready(Ok(bytes)) => bytes,
            Poll::Ready(Err(error)) if spliced && destination.flag(&error).is_none() => {
                return Poll::Ready(match self.buffer.refuse_splice(&error, ctx.shared) {
                    Ok(()) => Turn::Next(0),
                    Err(error) => Turn::Broken(error),
                });
            }
            Poll::Ready(Err(error)) => {
                return Poll::Ready(self.destination_failed(destination, error));
            }
            Poll::Pending => {
                self.record_pending(ctx);
                return Poll::Pending;
            }
        };
        if !spliced {
            self.buffer.sent(bytes, ctx.shared);
        }
        ctx.moved(self.direction, bytes, spliced);
        if self.buffer.pending() == 0 {
            if spliced {
                self.buffer.drained(ctx.shared);
            }
            self.phase = emptied(destination);
            self.record_pending(ctx);
        }
        Poll::Ready(Turn::Next(bytes))
    }

    /// The buffer is empty: flush, and pass the end on if it has come (L2).
    fn flush(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut SideIo<'_>,
        source: &SideIo<'_>,
    ) -> Poll<Turn> {
        if let Err(error) = ready!(destination.poll_flush(cx)) {
            return Poll::Ready(self.destination_failed(destination, error));
        }
        if !self.source_ended {
            self.phase = TransferPhase::Fill;
            return Poll::Ready(Turn::Next(0));
        }
        if source.reset.is_some() {
            self.phase = TransferPhase::Over(DirectionEnd::SourceReset);
            return Poll::Ready(Turn::Next(0));
        }
        if self.hold_end {
            return Poll::Pending;
        }
        match ready!(destination.poll_finish(cx)) {
            Ok(()) => {
                self.phase = TransferPhase::Over(DirectionEnd::Fin);
                Poll::Ready(Turn::Next(0))
            }
            Err(error) => Poll::Ready(self.destination_failed(destination, error)),
        }
    }

    /// An end on a flagged side is a reset, however clean it looks.
    fn end_source(&mut self, source: &mut SideIo<'_>, ctx: &mut PollContext<'_>) -> Turn {
        self.source_ended = true;
        ctx.source_ended(self.direction);
        self.phase = if source.is_reset_after_all() {
            TransferPhase::Over(DirectionEnd::SourceReset)
        } else {
            TransferPhase::Flush
        };
        Turn::Next(0)
    }

    fn source_failed(&mut self, source: &mut SideIo<'_>, error: io::Error) -> Turn {
        if source.flag(&error).is_none() {
            return Turn::Broken(error);
        }
        self.phase = TransferPhase::Over(DirectionEnd::SourceReset);
        Turn::Next(0)
    }

    /// Stops; what the buffer holds stays there until the relay ends, in case it can go to another upstream.
    fn destination_failed(&mut self, destination: &mut SideIo<'_>, error: io::Error) -> Turn {
        if destination.flag(&error).is_none() {
            return Turn::Broken(error);
        }
        self.phase = TransferPhase::Over(DirectionEnd::Dropped);
        Turn::Next(0)
    }

    fn record_pending(&self, ctx: &PollContext<'_>) {
        ctx.stats.set_pending(self.direction, self.buffer.pending());
    }
}

/// What follows when the buffer has run empty: a plain socket has nothing to flush.
fn emptied(destination: &SideIo<'_>) -> TransferPhase {
    if destination.as_tcp().is_some() {
        TransferPhase::Fill
    } else {
        TransferPhase::Flush
    }
}
