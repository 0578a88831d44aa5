//! The relay: carries bytes both ways between two streams until they end, and reports how they ended.
//!
//! Owns the two directions, the sticky reset flags, the timers, the passive HTTP framing, and what is done about a
//! command. Knows nothing of endpoints, metrics or logs: two streams, limits and statistics in, an [`Ended`] out.
//! Keeps the rules L1–L8 (`relay/half_duplex.rs`). Does not close the streams: a stream that was aborted here sends
//! its reset when the caller drops it, which should be at once. An idle relay owns no buffer and no pipe.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::Moment;
use crate::events::Reason;
use crate::stream::Stream;
use crate::sys::socket::{Fault, TcpOptions};
use crate::types::{Direction, Side};

pub use command::{CommandChannel, ConnectionCommand};
pub use framing::HttpPhase;
pub use handover::{Diverted, Paused, Placement, Resumed, SourceState};
pub use settings::{FramingMode, Limits, TcpSettings};
pub use shared::RelayShared;
pub use stats::ConnStats;
pub use urgent::UrgentNews;

use buffer::TransferBuffer;
use closing::Closing;
use command::Asked;
use delivery::{Delivery, DeliveryWatch};
use half_duplex::{DirectionEnd, HalfDuplex};
use poll_context::PollContext;
use reset::{ResetPropagation, ResetStep};
use side_io::SideIo;
use timeouts::{ReachedLimit, Silence, Timeouts};

mod buffer;
mod closing;
mod command;
mod delivery;
mod fairness;
pub mod framing;
mod half_duplex;
mod handover;
mod poll_context;
mod reset;
mod settings;
mod shared;
mod side_io;
mod stats;
mod thread_buffer;
mod timeouts;
mod timer;
mod urgent;

/// An upstream that ends within this time without a byte moved either way is untouched: the connection may be retried.
const UNTOUCHED: Duration = Duration::from_secs(1);
/// A probe at once and another a second later; a peer that answers neither is gone after another second. No user timeout:
/// with one the first probe would decide.
const SIGN_OF_LIFE: TcpOptions = TcpOptions {
    keepalive: Some(Duration::from_secs(1)),
    keepalive_interval: Duration::from_secs(1),
    keepalive_probes: 2,
    user_timeout: None,
};

/// What one relay is given.
pub struct RelayArgs<'a> {
    pub limits: &'a Limits,
    pub stats: &'a ConnStats,
    pub commands: &'a CommandChannel,
    pub observer: &'a dyn AnswerObserver,
    pub shared: &'a RelayShared,
    /// Untried candidates remain: an untouched upstream's end comes back as [`Outcome::Untouched`].
    pub may_retry: bool,
    /// Client bytes that were read for an upstream that ended untouched; they are sent first.
    pub unsent: Vec<u8>,
    /// Now; the caller has just read the clock for itself.
    pub began: Moment,
    pub placement: Placement,
    /// Where it goes on, if it is not new.
    pub resumed: Option<Resumed>,
}

/// Is told of answers as they pass.
pub trait AnswerObserver: Sync {
    /// The first byte of an answer has come, this long after its request. `is_framed`: as framing has it; otherwise
    /// inferred from the directions of bytes alone.
    fn first_byte(&self, after: Duration, is_framed: bool);
    /// So many answers are complete, by framing.
    fn complete(&self, answers: u32);
}

/// How a relay ended.
#[derive(Debug)]
pub struct Ended {
    pub outcome: Outcome,
    /// The upstream ended within a second, and no byte had moved either way.
    pub was_untouched: bool,
    /// It was ended while waiting, and segments of full size did not get through on the upstream side.
    pub lost_full_segments: bool,
}

/// What ended a relay.
#[derive(Debug)]
pub enum Outcome {
    /// Both directions ended in order, this side first.
    Finished { first: Side },
    /// A side was reset or lost, and the other was reset too.
    Reset(Side, Fault),
    /// The upstream ended untouched, and the client knows nothing of it. Only with [`RelayArgs::may_retry`]: relay the
    /// same client to another upstream, with the bytes that were read for this one.
    Untouched {
        /// `None`: it ended with a FIN.
        fault: Option<Fault>,
        unsent: Vec<u8>,
    },
    /// Fully open and silent for `idle_timeout`.
    IdleTimeout,
    /// Half open and silent for `half_open_timeout`.
    HalfOpenTimeout,
    /// Something else is to carry the connection; see [`CommandChannel::set_diverted`].
    Diverted(Box<Diverted>),
    /// A relay on another thread is to carry it; see [`Placement`].
    Misplaced(Box<Paused>),
    /// Closed at rest or cut, as commanded.
    Commanded(Reason),
    /// A call failed in a way that is no fault of a peer; both sides were reset.
    Internal(io::Error),
}

impl Outcome {
    /// Whether waiting was given up: by a timer, or by a command.
    fn is_by_time(&self) -> bool {
        matches!(
            self,
            Outcome::Reset(_, Fault::UserTimeout)
                | Outcome::IdleTimeout
                | Outcome::HalfOpenTimeout
                | Outcome::Commanded(_)
        )
    }

    /// Whether the upstream ended it, by a FIN before the client's or by a reset.
    pub fn is_by_upstream(&self) -> bool {
        match self {
            Outcome::Finished { first } => *first == Side::Upstream,
            Outcome::Reset(side, fault) => *side == Side::Upstream && *fault == Fault::Reset,
            _ => false,
        }
    }
}

/// Carries bytes until both directions have ended, a side is reset, a limit is reached or a command ends it.
///
/// Only awaiting it makes it run; dropping it leaves both streams as they are (bytes in a buffer are lost).
pub fn relay<'a>(down: &'a mut Stream, up: &'a mut Stream, args: RelayArgs<'a>) -> Relay<'a> {
    Relay::new(down, up, args)
}

/// The future of one relay.
pub struct Relay<'a> {
    limits: &'a Limits,
    commands: &'a CommandChannel,
    may_retry: bool,
    ctx: PollContext<'a>,
    down: SideIo<'a>,
    up: SideIo<'a>,
    upload: HalfDuplex,
    download: HalfDuplex,
    began: Moment,
    /// Since when it is to be closed at rest; the start of time: it is not.
    close_ordered: Moment,
    /// The side that ended first, in order, and when.
    half_open: Option<(Side, Moment)>,
    // Boxed, as the parts of others that few connections need: most of them are at rest most of the time.
    reset: Option<Box<ResetPropagation>>,
    closing: Option<Box<Closing>>,
    timeouts: Timeouts,
    /// The watches over upstream and client, made when a check is first asked for.
    delivery: Option<Box<[DeliveryWatch; 2]>>,
    /// The waker that the command channel has, so that it is registered once and not in every poll.
    waker: Option<Waker>,
}

// The largest part of what an idle connection keeps; with 8 bytes more its task would take 128 more.
const _: () = assert!(size_of::<Relay<'_>>() <= 416);

// === impl Relay ===

impl<'a> Relay<'a> {
    fn new(down: &'a mut Stream, up: &'a mut Stream, mut args: RelayArgs<'a>) -> Self {
        let limits = args.limits;
        let may_splice = limits.splice && down.as_tcp().is_some() && up.as_tcp().is_some();
        let half = |direction| {
            HalfDuplex::new(direction, TransferBuffer::new(may_splice, limits.pipe_size))
        };
        let mut relay = Self {
            limits,
            commands: args.commands,
            may_retry: args.may_retry,
            ctx: PollContext::new(&mut args),
            down: SideIo::new(down),
            up: SideIo::new(up),
            upload: half(Direction::Upload),
            download: half(Direction::Download),
            began: args.began,
            close_ordered: Moment::default(),
            half_open: None,
            reset: None,
            closing: None,
            timeouts: Timeouts::default(),
            delivery: None,
            waker: None,
        };
        relay.upload.preload(args.unsent, &mut relay.ctx);
        if let Some(resumed) = args.resumed {
            relay.resume(resumed);
        }
        relay
    }

    /// One poll: everything that can be done now. `None` = wait.
    fn run(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        loop {
            let fired = self.timeouts.timer.has_fired(cx);
            let outcome = match self.closing {
                Some(_) => self.close(cx),
                None => self.carry(cx),
            };
            if outcome.is_some() {
                return outcome;
            }
            if self.closing.is_none() && self.reset.is_none() {
                if fired && let Some(outcome) = self.tick() {
                    return Some(outcome);
                }
                self.arm();
            }
            if !self.timeouts.timer.is_new() {
                return None;
            }
        }
    }

    /// Polls both directions until neither has news for the other, then evaluates what came of it.
    fn carry(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        if let Some(asked) = self.commands.take_asked() {
            self.comply(asked);
        }
        let left = self.leave();
        if left.is_some() {
            return left;
        }
        loop {
            let before = self.ends();
            if let Err(error) = self.poll_directions(cx) {
                self.abort();
                return Some(Outcome::Internal(error));
            }
            if self.ends() != before {
                continue;
            }
            let outcome = self.settle();
            if outcome.is_some() {
                return outcome;
            }
            if !self.watch(cx) {
                break;
            }
        }
        self.handle_command(cx)
    }

    fn ends(&self) -> [(Option<DirectionEnd>, bool); 2] {
        [(&self.upload, &self.up), (&self.download, &self.down)]
            .map(|(half, destination)| (half.end(), destination.reset.is_some()))
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // Download first: an upstream that has ended already is seen before the client is read.
        self.download.hold_end = self.may_be_untouched();
        self.poll_download(cx)?;
        if self.download.hold_end && self.download.source_has_ended() {
            if self.untouched().is_some() {
                return Ok(());
            }
            self.download.hold_end = false;
            self.poll_download(cx)?;
        }
        if self.upload.end().is_none()
            && let Poll::Ready(result) =
                self.upload
                    .poll(cx, &mut self.down, &mut self.up, &mut self.ctx)
        {
            result?;
            self.record_first_end(Side::Downstream, self.upload.end());
        }
        Ok(())
    }

    /// A side that is not read now may fail all the same: whether one has.
    fn watch(&mut self, cx: &mut Context<'_>) -> bool {
        let up = !self.download.is_filling() && self.up.poll_watch(cx);
        let down = !self.upload.is_filling() && self.down.poll_watch(cx);
        up || down
    }

    fn poll_download(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.download.end().is_none()
            && let Poll::Ready(result) =
                self.download
                    .poll(cx, &mut self.up, &mut self.down, &mut self.ctx)
        {
            result?;
            self.record_first_end(Side::Upstream, self.download.end());
        }
        Ok(())
    }

    fn record_first_end(&mut self, side: Side, end: Option<DirectionEnd>) {
        if end == Some(DirectionEnd::Fin) && self.half_open.is_none() {
            self.half_open = Some((side, self.ctx.now()));
        }
    }

    /// Whether this is the end of it.
    fn settle(&mut self) -> Option<Outcome> {
        if let Some(fault) = self.untouched() {
            let unsent = self.upload.buffer.take_rest(self.ctx.shared);
            return Some(Outcome::Untouched { fault, unsent });
        }
        if let Some(outcome) = self.propagate_reset() {
            return Some(outcome);
        }
        if self.upload.end() == Some(DirectionEnd::Fin)
            && self.download.end() == Some(DirectionEnd::Fin)
        {
            let first = self.half_open.map_or(Side::Downstream, |(side, _)| side);
            return Some(Outcome::Finished { first });
        }
        None
    }

    /// While another candidate could be dialled, no byte has moved, and the client's end was not passed on, an end of
    /// the upstream is not passed on at once.
    fn may_be_untouched(&self) -> bool {
        self.may_retry
            && self.upload.end() != Some(DirectionEnd::Fin)
            && self.down.reset.is_none()
            && !self.has_moved()
    }

    fn has_moved(&self) -> bool {
        let stats = self.ctx.stats;
        Direction::BOTH
            .into_iter()
            .any(|direction| stats.bytes(direction) > 0)
    }

    /// Whether the upstream has ended untouched: within a second, with nothing of it in a buffer; and how.
    fn untouched(&mut self) -> Option<Option<Fault>> {
        (self.may_be_untouched()
            && self.download.source_has_ended()
            && self.download.buffer.pending() == 0
            && self.ctx.now().since(self.began) <= UNTOUCHED)
            .then_some(self.up.reset)
    }

    /// Whether `outcome` is an end by an upstream that took and gave nothing, whether or not it can be retried.
    fn was_untouched(&mut self, outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Untouched { .. })
            || outcome.is_by_upstream()
                && !self.has_moved()
                && self.ctx.now().since(self.began) <= UNTOUCHED
    }

    /// Whether a request or an answer is known to be under way.
    fn is_unfinished(&self) -> bool {
        let stats = self.ctx.stats;
        stats.waiting_since().is_some()
            || stats.phase() == Some(HttpPhase::Answer)
            || stats.pending() > 0
    }

    /// Passes a reset on to the other side, if there is one.
    fn propagate_reset(&mut self) -> Option<Outcome> {
        let now = self.ctx.now();
        if self.reset.is_none() {
            let (from, fault) = match (self.up.reset, self.down.reset) {
                (Some(fault), _) => (Side::Upstream, fault),
                (None, Some(fault)) => (Side::Downstream, fault),
                (None, None) => return None,
            };
            let deadline = self.limits.reset_deadline;
            let reset = ResetPropagation::new(from, fault, now, deadline);
            self.reset = Some(Box::new(reset));
        }
        let reset = self.reset.as_mut()?;
        let (reader, other) = match reset.from {
            Side::Upstream => (&self.download, &self.down),
            Side::Downstream => (&self.upload, &self.up),
        };
        match reset.step(reader.end().is_some(), other, now) {
            ResetStep::Wait(until) => {
                if let Some(until) = until {
                    self.timeouts.timer.arm(until, now);
                }
                return None;
            }
            ResetStep::Abort => {}
            ResetStep::GiveUp => self.ctx.shared.gave_up(),
        }
        let outcome = Outcome::Reset(reset.from, reset.fault);
        self.abort();
        Some(outcome)
    }

    fn abort(&mut self) {
        self.down.abort();
        self.up.abort();
    }

    fn comply(&mut self, asked: Asked) {
        if asked.set_options() {
            self.set_options();
        }
        if asked.sign_of_life() {
            self.up.set_options(&SIGN_OF_LIFE);
        }
        if asked.check_delivery() {
            self.check_delivery();
        }
        if asked.look() {
            // Urgent data may have stopped the last receive; the next one steps over it.
            self.down.force_next_receive();
            self.up.force_next_receive();
        }
    }

    /// The client's socket has inherited its own from the one that listens.
    fn set_options(&mut self) {
        self.up.set_options(&self.limits.tcp);
        if let Some([up, _]) = self.delivery.as_deref() {
            up.set_timer(&self.up, &self.limits.tcp);
        }
    }

    /// Asks the kernel on both sides whether the peer still acknowledges; one that does not is reset.
    fn check_delivery(&mut self) {
        let Some(user_timeout) = self.limits.tcp.user_timeout else {
            return;
        };
        let now = self.ctx.now();
        let watches = self.delivery.get_or_insert_default();
        let mut is_pending = false;
        for (watch, side) in watches.iter_mut().zip([&mut self.up, &mut self.down]) {
            match watch.check(side, &self.limits.tcp, user_timeout, now) {
                Delivery::Complete => {}
                Delivery::Pending => is_pending = true,
                Delivery::Dead => _ = side.reset.get_or_insert(Fault::UserTimeout),
            }
        }
        self.ctx.stats.set_unacknowledged(is_pending);
    }

    /// A command that has come, or stands. One to close is carried out when the connection is at rest here and now.
    fn handle_command(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        let command = self.commands.peek()?;
        let now = self.ctx.now();
        match command {
            ConnectionCommand::Cut(reason) => {
                self.abort();
                Some(Outcome::Commanded(reason))
            }
            ConnectionCommand::CloseAtRest {
                reason,
                quiet,
                until,
            } => {
                if self.close_ordered == Moment::default() {
                    self.close_ordered = now;
                }
                if !self.is_at_rest(quiet) {
                    if !self.ctx.is_framed() || now >= until {
                        self.commands.drop_command(command);
                        self.close_ordered = Moment::default();
                    }
                    return None;
                }
                let stats = self.ctx.stats;
                if self.ctx.is_framed()
                    && stats.requests() > 0
                    && let Some(until) =
                        closing::awaits_pause(stats.last_moved(), self.close_ordered, now)
                {
                    self.timeouts.timer.arm(until, now);
                    return None;
                }
                self.commands.drop_command(command);
                self.closing = Some(Box::new(Closing::new(reason, now)));
                self.close(cx)
            }
        }
    }

    /// Whether nothing is under way, in buffers, in statistics and in both sockets.
    ///
    /// With framing, the last bytes of the answer may still be unacknowledged: the FIN follows them, and the client is
    /// not let go before it has them.
    fn is_at_rest(&mut self, quiet: Duration) -> bool {
        let now = self.ctx.now();
        self.reset.is_none()
            && self.ctx.stats.at_rest(now, self.began, quiet)
            && self.upload.buffer.pending() + self.download.buffer.pending() == 0
            && !self.down.has_unread()
            && !self.up.has_unread()
            && (self.ctx.is_framed() || !self.down.has_unsent() && !self.up.has_unsent())
    }

    fn close(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        if let Some(ConnectionCommand::Cut(reason)) = self.commands.take() {
            self.abort();
            return Some(Outcome::Commanded(reason));
        }
        let now = self.ctx.now();
        let closing = self.closing.as_mut()?;
        let is_over = closing
            .poll(cx, &mut self.down, now, &self.ctx.shared.urgent)
            .is_ready();
        if closing.dropped_bytes && self.ctx.is_framed() {
            self.ctx.stats.drop_request();
        }
        if is_over {
            return Some(Outcome::Commanded(closing.reason));
        }
        self.timeouts.timer.arm(closing.until, now);
        None
    }

    fn silence(&self) -> Silence {
        let since = self.ctx.stats.last_moved().max(self.began);
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
        let directions = [
            (&mut self.upload, &mut self.up),
            (&mut self.download, &mut self.down),
        ];
        match self
            .timeouts
            .tick(silence, self.limits, directions, &mut self.ctx)?
        {
            ReachedLimit::HalfOpen => {
                // Whether the silent side had sent everything is not known: never a clean end (L2).
                self.abort();
                Some(Outcome::HalfOpenTimeout)
            }
            ReachedLimit::Idle => {
                let now = self.ctx.now();
                if !self.ctx.stats.at_rest(now, self.began, Duration::ZERO) {
                    self.abort();
                }
                Some(Outcome::IdleTimeout)
            }
        }
    }

    fn arm(&mut self) {
        let silence = self.silence();
        let is_draining = self.upload.is_draining() || self.download.is_draining();
        self.timeouts
            .arm(silence, self.limits, is_draining, &mut self.ctx);
    }
}

impl Future for Relay<'_> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        this.ctx.new_poll();
        if !this
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            this.commands.register_waker(cx);
            this.waker = Some(cx.waker().clone());
        }
        let Some(outcome) = this.run(cx) else {
            return Poll::Pending;
        };
        Poll::Ready(Ended {
            was_untouched: this.was_untouched(&outcome),
            lost_full_segments: outcome.is_by_time()
                && this.is_unfinished()
                && this.up.loses_full_segments(),
            outcome,
        })
    }
}

impl fmt::Debug for RelayArgs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayArgs")
            .field("limits", self.limits)
            .field("stats", self.stats)
            .field("may_retry", &self.may_retry)
            .finish_non_exhaustive()
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        for half in [&mut self.upload, &mut self.download] {
            half.buffer.clear(self.ctx.shared);
        }
        for direction in Direction::BOTH {
            self.ctx.stats.set_pending(direction, 0);
        }
    }
}

impl fmt::Debug for Relay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("upload", &self.upload)
            .field("download", &self.download)
            .field("reset", &self.reset)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
