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
use crate::event::Reason;
use crate::names::{Direction, Side};
use crate::recent::Recent;
use crate::stream::Stream;
use crate::sys::socket::Fault;

pub use counters::Counters;
pub use settings::{Limits, TcpSettings};
pub use tally::{Order, Tally};

use half::{Around, End, Half};
use lane::Lane;
use port::Port;
use reset::{Step, Travel};
use scratch::Scratch;
use timer::Timer;

mod counters;
mod half;
mod lane;
mod port;
mod reset;
mod scratch;
mod settings;
mod tally;
mod timer;

/// Contract 7.4: an upstream that ends within this time without a byte moved is untouched.
const UNTOUCHED: Duration = Duration::from_secs(1);
/// Bytes pending, destination writable, nothing moved for this long: a bug of ours.
const STALL: Duration = Duration::from_secs(5);
/// The time between the first look that sees this and the one that believes it.
const STALL_DOUBT: Duration = Duration::from_secs(1);
/// How long an ordered end waits for the client's own end, reading off what it still sends.
const LINGER: Duration = Duration::from_secs(2);

/// What one relay is given.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Time limits and the lane.
    pub limits: &'a Limits,
    /// Where live counts go, and orders come from.
    pub tally: &'a Tally,
    /// Where first-answer times of this upstream address go.
    pub answers: &'a Recent,
    /// Shared counts and bounds.
    pub counters: &'a Counters,
    /// Untried candidates remain: an untouched upstream end comes back as [`Outcome::Untouched`].
    pub may_move: bool,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// Both directions ended in order; this side first.
    Finished {
        /// The side whose end came first.
        first: Side,
    },
    /// A side was reset or lost, and the other was told so.
    Reset(Side, Fault),
    /// The upstream ended within a second and no byte had moved; the client knows nothing of it. `None`: a FIN.
    /// Only with [`Terms::may_move`]; relay the same client again, with the same tally, to another upstream.
    Untouched(Option<Fault>),
    /// Fully open and silent for `idle_timeout`.
    IdleTimeout,
    /// Half open and silent for `half_open_timeout`.
    HalfOpenTimeout,
    /// Closed at rest or cut, as ordered.
    Ordered(Reason),
    /// A call failed in a way that is no fault of a peer; both sides were reset.
    Internal(io::Error),
}

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
    timer: Timer,
    /// What the timer is armed for.
    armed: Wants,
    look: Look,
    /// The waker that lies on the tally's desk, so that it is laid there once and not in every poll.
    waker: Option<Waker>,
}

/// Why the timer must fire some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wants {
    idle: bool,
    half_open: bool,
    progress: bool,
}

/// The progress watchdog's last look: bytes moved by direction.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    at: Moment,
    bytes: [u64; 2],
    /// How long after `at` the next look is.
    patience: Duration,
    /// A direction seemed to stand still for no reason; the next look decides.
    in_doubt: bool,
}

/// An ordered end under way.
#[derive(Clone, Copy, Debug)]
struct Closing {
    reason: Reason,
    until: Moment,
    told: bool,
}

// 10 000 idle connections at 2.5 KiB each: the largest part that is ours must not creep.
const _: () = assert!(size_of::<Relay<'_>>() <= 704);

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
            timer: Timer::default(),
            armed: Wants::default(),
            look: Look::default(),
            waker: None,
        }
    }

    /// One poll: everything that can be done now. `None` = wait.
    fn run(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        loop {
            let fired = self.timer.has_fired(cx);
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
            if !self.timer.is_new() {
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

    fn ends(&self) -> (Option<End>, Option<End>, bool, bool) {
        (
            self.upload.end(),
            self.download.end(),
            self.down.reset.is_some(),
            self.up.reset.is_some(),
        )
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
                self.timer.arm(until, now);
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
                self.closing = Some(Closing {
                    reason,
                    until: now + LINGER,
                    told: false,
                });
                self.close(cx)
            }
        }
    }

    /// Contract 7.7: FIN to the client first; what it still sends is read off and dropped, never sent upstream.
    fn close(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        /// Reads in one poll: a client that floods must not hold the thread.
        const READS: usize = 16;
        let now = self.around.now();
        let closing = self.closing.as_mut()?;
        let over = Some(Outcome::Ordered(closing.reason));
        if let Some(Order::Cut(reason)) = self.terms.tally.take_order() {
            self.abort();
            return Some(Outcome::Ordered(reason));
        }
        if now >= closing.until {
            return over;
        }
        self.timer.arm(closing.until, now);
        if !closing.told {
            match self.down.poll_finish(cx) {
                Poll::Ready(Ok(())) => closing.told = true,
                Poll::Ready(Err(_)) => return over,
                Poll::Pending => return None,
            }
        }
        let mut scratch = Scratch::take();
        for _ in 0..READS {
            match self.down.poll_recv(cx, &mut scratch) {
                Poll::Ready(Ok(0) | Err(_)) => return over,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return None,
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    /// The timer has fired: limits and the watchdog compare the tally with what they saw.
    fn tick(&mut self) -> Option<Outcome> {
        let (now, tally, limits) = (self.around.now(), self.terms.tally, self.terms.limits);
        let last = tally.last_moved().max(self.began);
        match self.half_open {
            Some((_, since)) => {
                if limits
                    .half_open_timeout
                    .is_some_and(|limit| now.since(last.max(since)) >= limit)
                {
                    // Nobody knows whether the silent side had said everything: never a clean end (L2).
                    self.abort();
                    return Some(Outcome::HalfOpenTimeout);
                }
            }
            None => {
                if limits
                    .idle_timeout
                    .is_some_and(|limit| now.since(last) >= limit)
                {
                    if !tally.at_rest(now, Duration::ZERO) {
                        self.abort();
                    }
                    return Some(Outcome::IdleTimeout);
                }
            }
        }
        let progress = self.armed.progress && now.since(self.look.at) < self.look.patience;
        if self.armed.progress && !progress {
            self.watch_progress(now);
        } else if progress {
            self.timer.arm(self.look.at + self.look.patience, now);
        }
        self.armed = Wants {
            progress: progress || self.look.in_doubt,
            ..Wants::default()
        };
        None
    }

    /// L1 says this never happens: bytes in a lane, room at the destination, and nothing moved for five seconds.
    /// Seen twice, a second apart: at the first look the news of the room may just be on its way.
    fn watch_progress(&mut self, now: Moment) {
        let doubted = std::mem::take(&mut self.look.in_doubt);
        for direction in Direction::BOTH {
            let (half, destination) = match direction {
                Direction::Upload => (&mut self.upload, &mut self.up),
                Direction::Download => (&mut self.download, &mut self.down),
            };
            let still = self.terms.tally.bytes(direction) == self.look.bytes[direction.index()];
            if !still || !half.is_draining() || !destination.is_writable() {
                continue;
            }
            if !doubted {
                self.look = Look {
                    at: now,
                    patience: STALL_DOUBT,
                    in_doubt: true,
                    ..self.look
                };
                self.timer.arm(now + STALL_DOUBT, now);
                continue;
            }
            self.terms.counters.stalled(|| {
                format!(
                    "{} stalled with {} bytes pending: {half:?}",
                    direction.as_str(),
                    half.lane.pending()
                )
            });
            destination.distrust_reactor();
            // Failing here leaves the lane as it was, and the next send says what is wrong.
            let _ = half.lane.to_buffer(self.terms.counters);
            // Goes on at once.
            self.timer.arm(now, now);
        }
    }

    /// Arms the timer for what has come to be wanted since it was armed. Reads no clock when nothing has.
    fn arm(&mut self) {
        let limits = self.terms.limits;
        let wants = Wants {
            idle: self.half_open.is_none() && limits.idle_timeout.is_some(),
            half_open: self.half_open.is_some() && limits.half_open_timeout.is_some(),
            progress: self.upload.is_draining() || self.download.is_draining(),
        };
        let new = wants.beyond(self.armed);
        if new == Wants::default() {
            return;
        }
        let now = self.around.now();
        let last = self.terms.tally.last_moved().max(self.began);
        if new.idle {
            self.timer
                .arm(last + limits.idle_timeout.unwrap_or_default(), now);
        }
        if new.half_open {
            let since = self.half_open.map_or(last, |(_, since)| since);
            self.timer.arm(
                last.max(since) + limits.half_open_timeout.unwrap_or_default(),
                now,
            );
        }
        if new.progress {
            let bytes = Direction::BOTH.map(|direction| self.terms.tally.bytes(direction));
            self.look = Look {
                at: now,
                bytes,
                patience: STALL,
                in_doubt: false,
            };
            self.timer.arm(now + STALL, now);
        }
        self.armed = self.armed.and(new);
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

// === impl Wants ===

impl Wants {
    /// What is wanted here and not there.
    fn beyond(self, there: Wants) -> Wants {
        Wants {
            idle: self.idle && !there.idle,
            half_open: self.half_open && !there.half_open,
            progress: self.progress && !there.progress,
        }
    }

    fn and(self, more: Wants) -> Wants {
        Wants {
            idle: self.idle || more.idle,
            half_open: self.half_open || more.half_open,
            progress: self.progress || more.progress,
        }
    }
}

#[cfg(test)]
mod tests;
