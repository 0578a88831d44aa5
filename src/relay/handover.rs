//! A connection that goes on somewhere else: carried by something other than the relay, or by a relay on another thread.

use super::buffer::TransferBuffer;
use super::delivery::DeliveryWatch;
use super::framing::Framing;
use super::half_duplex::{DirectionEnd, HalfDuplex};
use super::{Outcome, Relay};
use crate::clock::Moment;
use crate::types::{Direction, Side};

/// Which thread carries a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The only one there is for it.
    #[default]
    Fixed,
    /// The one that it shares with all sorts: bulk that keeps small connections waiting is to leave.
    Shared,
    /// One for bulk: a connection that is small again is to leave.
    Bulk,
}

/// Where a relay begins, if not with a new connection.
#[derive(Debug)]
pub enum Resumed {
    /// What something that carried the connection in between gives back.
    Diverted(Box<Diverted>),
    /// What a relay on another thread has left.
    Paused(Box<Paused>),
}

/// A connection as the relay hands it over, and takes it back.
#[derive(Debug, Default)]
pub struct Diverted {
    /// Of each direction (by [`Direction::index`]): bytes that its destination has not taken, and its source.
    pub directions: [(Vec<u8>, SourceState); 2],
    /// The side that ended first, if one has.
    pub first_end: Option<Side>,
}

/// How far the source of a direction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceState {
    #[default]
    Open,
    /// It has ended; the destination does not know yet.
    Ended,
    /// The destination knows.
    Finished,
}

/// A relay between two threads: whatever is not bound to an event loop. Made only while no side is reset.
#[derive(Debug)]
pub struct Paused {
    upload: HalfDuplex,
    download: HalfDuplex,
    framing: Option<Framing>,
    /// Silence counts from here where no byte has moved since.
    began: Moment,
    half_open: Option<(Side, Moment)>,
    delivery: Option<Box<[DeliveryWatch; 2]>>,
}

// === impl Resumed ===

impl Resumed {
    /// The framing that the connection goes on with.
    pub(super) fn take_framing(&mut self) -> Option<Framing> {
        match self {
            // Where a message begins is not known any more once something else has carried the connection.
            Self::Diverted(_) => None,
            Self::Paused(paused) => paused.framing.take(),
        }
    }
}

// === impl Relay ===

impl Relay<'_> {
    /// Whether it is to go on somewhere else: asked before a byte moves, so that what a connection brings goes the other
    /// way from the start.
    pub(super) fn leave(&mut self) -> Option<Outcome> {
        let is_diverted = self.commands.is_diverted();
        if !is_diverted && !self.ctx.is_misplaced() {
            return None;
        }
        // A side may have been found dead just now.
        let is_reset = self.reset.is_some() || self.down.reset.is_some() || self.up.reset.is_some();
        if is_reset || self.commands.is_set() {
            return None;
        }
        Some(if is_diverted {
            self.divert()
        } else {
            Outcome::Misplaced(Box::new(self.pause()))
        })
    }

    /// Hands the connection over, with what its buffers hold (L4).
    fn divert(&mut self) -> Outcome {
        let shared = self.ctx.shared;
        let halves = [
            self.upload.hand_over(shared),
            self.download.hand_over(shared),
        ];
        match halves {
            [Ok(upload), Ok(download)] => Outcome::Diverted(Box::new(Diverted {
                directions: [upload, download],
                first_end: self.half_open.map(|(side, _)| side),
            })),
            [Err(error), _] | [_, Err(error)] => {
                self.abort();
                Outcome::Internal(error)
            }
        }
    }

    /// The directions move as they are, pipes included; empty ones stay behind.
    pub(super) fn pause(&mut self) -> Paused {
        let empty = |direction| HalfDuplex::new(direction, TransferBuffer::new(false, 0));
        Paused {
            upload: std::mem::replace(&mut self.upload, empty(Direction::Upload)),
            download: std::mem::replace(&mut self.download, empty(Direction::Download)),
            framing: self.ctx.take_framing(),
            began: self.began,
            half_open: self.half_open,
            delivery: self.delivery.take(),
        }
    }

    pub(super) fn resume(&mut self, resumed: Resumed) {
        match resumed {
            Resumed::Diverted(diverted) => {
                self.half_open = diverted.first_end.map(|side| (side, self.began));
                let [(up_rest, up_source), (down_rest, down_source)] = diverted.directions;
                self.upload.resume(up_rest, up_source, &mut self.ctx);
                self.download.resume(down_rest, down_source, &mut self.ctx);
            }
            Resumed::Paused(paused) => {
                self.upload = paused.upload;
                self.download = paused.download;
                self.began = paused.began;
                self.half_open = paused.half_open;
                self.delivery = paused.delivery;
                let pending = [&self.upload, &self.download].map(|half| half.buffer.pending());
                self.ctx.resume(pending);
            }
        }
        for (half, destination) in [
            (&self.upload, &mut self.up),
            (&self.download, &mut self.down),
        ] {
            if half.end() == Some(DirectionEnd::Fin) {
                destination.set_finished();
            }
        }
    }
}
