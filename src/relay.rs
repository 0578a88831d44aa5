//! The relay: carries bytes both ways between two streams until they end, and says how they ended.
//!
//! Owns the two halves, the sticky reset flags, the timers and the obedience to orders. Knows nothing of endpoints,
//! metrics or logs: two streams, limits and a tally in, an [`Outcome`] out. Promises the rules L1–L8 (`relay/half.rs`).
//! Does not close the streams: a stream that was aborted here sends its reset when the caller drops it, which should
//! be at once. An idle relay owns no buffer and no pipe.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::Moment;
use crate::stream::Stream;
use crate::sys::socket::Fault;
use crate::types::{Direction, Side};

pub use counters::Counters;
pub use settings::{Limits, TcpSettings};
pub use tally::{Order, Tally};
pub use terms::{Outcome, Terms};

use around::Around;
use clockwork::{Clockwork, Reached, Silence};
use closing::Closing;
use half::{End, Half};
use lane::Lane;
use port::Port;
use reset::{Step, Travel};

mod around;
mod clockwork;
mod closing;
mod counters;
mod half;
mod lane;
mod port;
mod reset;
mod scratch;
mod settings;
mod tally;
mod terms;
mod timer;

/// Contract 7.4: an upstream that ends within this time without a byte moved is untouched.
const UNTOUCHED: Duration = Duration::from_secs(1);
/// Carries bytes until both directions have ended, a side is reset, a limit is reached or an order says so.
///
/// Only awaiting it makes it run; dropping it leaves both streams as they are (bytes in a lane are lost).
pub fn relay<'a>(down: &'a mut Stream, up: &'a mut Stream, terms: Terms<'a>) -> Relay<'a> {
    Relay::new(down, up, terms)
}

/// The future of one relay.
pub struct Relay<'a> {
    terms: Terms<'a>,
    around: Around<'a>,
    down: Port<'a>,
    up: Port<'a>,
    upload: Half,
    download: Half,
    began: Moment,
    /// The side that ended first, in order, and when.
    half_open: Option<(Side, Moment)>,
    travel: Option<Travel>,
    closing: Option<Closing>,
    clockwork: Clockwork,
    /// The waker that lies on the tally's desk, so that it is laid there once and not in every poll.
    waker: Option<Waker>,
}

// 10 000 idle connections at 2.5 KiB each: the largest part that is ours must not creep.
const _: () = assert!(size_of::<Relay<'_>>() <= 640);

// === impl Relay ===

impl<'a> Relay<'a> {
    fn new(down: &'a mut Stream, up: &'a mut Stream, terms: Terms<'a>) -> Self {
        let may_splice = terms.limits.splice && down.as_tcp().is_some() && up.as_tcp().is_some();
        let lane = || Lane::new(may_splice, terms.limits.pipe_size);
        let around = Around::new(terms.counters, terms.tally, terms.answers);
        let began = around.now();
        let mut upload = Half::new(Direction::Upload, lane());
        upload.preload(terms.tally.take_carried(), &around);
        Self {
            terms,
            around,
            down: Port::new(down),
            up: Port::new(up),
            upload,
            download: Half::new(Direction::Download, lane()),
            began,
            half_open: None,
            travel: None,
            closing: None,
            clockwork: Clockwork::default(),
            waker: None,
        }
    }

    /// One poll: everything that can be done now. `None` = wait.
    fn run(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        loop {
            let fired = self.clockwork.timer.has_fired(cx);
            let outcome = match self.closing {
                Some(_) => self.close(cx),
                None => self.carry(cx),
            };
            if outcome.is_some() {
                return outcome;
            }
            if self.closing.is_none() && self.travel.is_none() {
                if fired && let Some(outcome) = self.tick() {
                    return Some(outcome);
                }
                self.arm();
            }
            if !self.clockwork.timer.is_new() {
                return None;
            }
        }
    }

    /// Polls both halves until neither has news for the other, then looks at what came of it.
    fn carry(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        loop {
            let before = self.ends();
            if let Err(error) = self.poll_halves(cx) {
                self.abort();
                return Some(Outcome::Internal(error));
            }
            if self.ends() == before {
                break;
            }
        }
        let outcome = self.settle();
        if outcome.is_none() && self.terms.tally.has_order() {
            return self.obey(cx);
        }
        outcome
    }

    fn ends(&self) -> [(Option<End>, bool); 2] {
        [(&self.upload, &self.up), (&self.download, &self.down)]
            .map(|(half, port)| (half.end(), port.reset.is_some()))
    }

    fn poll_halves(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // Download first: an upstream that has ended already is seen before the client is read.
        self.download.hold_end = self.may_be_untouched();
        self.poll_download(cx)?;
        if self.download.hold_end && self.download.has_heard_the_end() {
            if self.untouched().is_some() {
                return Ok(());
            }
            self.download.hold_end = false;
            self.poll_download(cx)?;
        }
        if self.upload.end().is_none()
            && let Poll::Ready(result) =
                self.upload
                    .poll(cx, &mut self.down, &mut self.up, &self.around)
        {
            result?;
            self.note_first_end(Side::Downstream, self.upload.end());
        }
        // A side that nobody reads now may fail all the same.
        if !self.download.is_filling() {
            self.up.poll_watch(cx);
        }
        if !self.upload.is_filling() {
            self.down.poll_watch(cx);
        }
        Ok(())
    }

    fn poll_download(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.download.end().is_none()
            && let Poll::Ready(result) =
                self.download
                    .poll(cx, &mut self.up, &mut self.down, &self.around)
        {
            result?;
            self.note_first_end(Side::Upstream, self.download.end());
        }
        Ok(())
    }

    fn note_first_end(&mut self, side: Side, end: Option<End>) {
        if end == Some(End::Fin) && self.half_open.is_none() {
            self.half_open = Some((side, self.around.now()));
        }
    }

    /// Whether this is the end of it.
    fn settle(&mut self) -> Option<Outcome> {
        if let Some(how) = self.untouched() {
            let unsent = self.upload.lane.take_rest(self.terms.counters);
            if !unsent.is_empty() {
                self.terms.tally.carry(unsent);
            }
            return Some(Outcome::Untouched(how));
        }
        if let Some(outcome) = self.travel() {
            return Some(outcome);
        }
        if self.upload.end() == Some(End::Fin) && self.download.end() == Some(End::Fin) {
            let first = self.half_open.map_or(Side::Downstream, |(side, _)| side);
            return Some(Outcome::Finished { first });
        }
        None
    }

    /// Contract 7.4: while another candidate could be dialled, no byte has moved, and the client's end was not passed
    /// on, an end of the upstream is not passed on at once.
    fn may_be_untouched(&self) -> bool {
        let tally = self.terms.tally;
        self.terms.may_move
            && self.upload.end() != Some(End::Fin)
            && self.down.reset.is_none()
            && Direction::BOTH
                .into_iter()
                .all(|direction| tally.bytes(direction) == 0)
    }

    /// Whether the upstream has ended untouched: by that, within a second, and nothing of it lies in a lane.
    fn untouched(&self) -> Option<Option<Fault>> {
        (self.may_be_untouched()
            && self.download.has_heard_the_end()
            && self.download.lane.pending() == 0
            && self.around.now().since(self.began) <= UNTOUCHED)
            .then_some(self.up.reset)
    }

    /// Carries a reset to the other side, if there is one.
    fn travel(&mut self) -> Option<Outcome> {
        let now = self.around.now();
        if self.travel.is_none() {
            let (from, fault) = match (self.up.reset, self.down.reset) {
                (Some(fault), _) => (Side::Upstream, fault),
                (None, Some(fault)) => (Side::Downstream, fault),
                (None, None) => return None,
            };
            self.travel = Some(Travel::new(
                from,
                fault,
                now,
                self.terms.limits.reset_deadline,
            ));
        }
        let travel = self.travel.as_mut()?;
        let (reader, other) = match travel.from {
            Side::Upstream => (&self.download, &self.down),
            Side::Downstream => (&self.upload, &self.up),
        };
        match travel.step(reader.end().is_some(), other, now) {
            Step::Wait(until) => {
                self.clockwork.timer.arm(until, now);
                return None;
            }
            Step::Abort => {}
            Step::GiveUp => self.terms.counters.gave_up(),
        }
        let outcome = Outcome::Reset(travel.from, travel.fault);
        self.abort();
        Some(outcome)
    }

    fn abort(&mut self) {
        self.down.abort();
        self.up.abort();
    }

    /// An order has come. One to close a pair that is not at rest here and now is dropped.
    fn obey(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        let now = self.around.now();
        match self.terms.tally.take_order()? {
            Order::Cut(reason) => {
                self.abort();
                Some(Outcome::Ordered(reason))
            }
            Order::CloseAtRest(reason, quiet) => {
                let at_rest = self.travel.is_none()
                    && self.terms.tally.at_rest(now, quiet)
                    && self.upload.lane.pending() + self.download.lane.pending() == 0
                    && self.down.is_quiet()
                    && self.up.is_quiet();
                if !at_rest {
                    return None;
                }
                self.closing = Some(Closing::new(reason, now));
                self.close(cx)
            }
        }
    }

    fn close(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        if let Some(Order::Cut(reason)) = self.terms.tally.take_order() {
            self.abort();
            return Some(Outcome::Ordered(reason));
        }
        let (closing, now) = (self.closing.as_mut()?, self.around.now());
        if closing.poll(cx, &mut self.down, now).is_ready() {
            return Some(Outcome::Ordered(closing.reason));
        }
        self.clockwork.timer.arm(closing.until, now);
        None
    }

    fn silence(&self) -> Silence {
        let since = self.terms.tally.last_moved().max(self.began);
        match self.half_open {
            Some((_, half_closed)) => Silence {
                since: since.max(half_closed),
                is_half_open: true,
            },
            None => Silence {
                since,
                is_half_open: false,
            },
        }
    }

    /// The timer has fired.
    fn tick(&mut self) -> Option<Outcome> {
        let silence = self.silence();
        let ways = [
            (&mut self.upload, &mut self.up),
            (&mut self.download, &mut self.down),
        ];
        match self
            .clockwork
            .tick(silence, self.terms.limits, ways, &self.around)?
        {
            Reached::HalfOpen => {
                // Nobody knows whether the silent side had said everything: never a clean end (L2).
                self.abort();
                Some(Outcome::HalfOpenTimeout)
            }
            Reached::Idle => {
                if !self.terms.tally.at_rest(self.around.now(), Duration::ZERO) {
                    self.abort();
                }
                Some(Outcome::IdleTimeout)
            }
        }
    }

    fn arm(&mut self) {
        let silence = self.silence();
        let is_draining = self.upload.is_draining() || self.download.is_draining();
        self.clockwork
            .arm(silence, self.terms.limits, is_draining, &self.around);
    }
}

impl Future for Relay<'_> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        this.around.new_poll();
        if !this
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            this.terms.tally.attend(cx);
            this.waker = Some(cx.waker().clone());
        }
        this.run(cx).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        for half in [&mut self.upload, &mut self.download] {
            half.lane.clear(self.terms.counters);
        }
        for direction in Direction::BOTH {
            self.terms.tally.set_pending(direction, 0);
        }
    }
}

impl fmt::Debug for Relay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("upload", &self.upload)
            .field("download", &self.download)
            .field("travel", &self.travel)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
