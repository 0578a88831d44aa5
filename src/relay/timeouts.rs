//! Limits on silence, and the progress watchdog, on one timer.
//!
//! Moving bytes never touches the timer: when it fires, the statistics are compared with the last sample, and it is
//! armed again for what is still wanted. How a connection is closed is decided elsewhere.

use std::time::Duration;

use crate::clock::Moment;
use crate::types::Direction;

use super::half_duplex::HalfDuplex;
use super::poll_context::PollContext;
use super::settings::Limits;
use super::side_io::SideIo;
use super::timer::Timer;

/// Bytes pending, destination writable, nothing moved for this long: a defect of the relay.
const STALL: Duration = Duration::from_secs(5);
/// The time between the first sample that shows this and the one that confirms it.
const STALL_CONFIRM: Duration = Duration::from_secs(1);

/// What the timer is armed for, and what was seen when it was.
#[derive(Debug, Default)]
pub(super) struct Timeouts {
    pub(super) timer: Timer,
    armed: Wants,
    /// Made when the first destination takes no more.
    sample: Option<Box<ProgressSample>>,
}

/// A limit that has been reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReachedLimit {
    Idle,
    HalfOpen,
}

/// What the timer is needed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wants {
    idle: bool,
    half_open: bool,
    progress: bool,
}

/// The progress watchdog's last sample: bytes moved by direction.
#[derive(Clone, Copy, Debug, Default)]
struct ProgressSample {
    at: Moment,
    bytes: [u64; 2],
    /// How long after `at` the next look is.
    patience: Duration,
    /// A direction seemed to stand still for no reason; the next look decides.
    in_doubt: bool,
}

/// Since when a connection has been silent, as its limits see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    pub(super) since: Moment,
    pub(super) is_half_open: bool,
}

// === impl Timeouts ===

impl Timeouts {
    /// The timer has fired: has a limit been reached? `directions`: the two directions, each with its destination.
    pub(super) fn tick(
        &mut self,
        silence: Silence,
        limits: &Limits,
        directions: [(&mut HalfDuplex, &mut SideIo<'_>); 2],
        ctx: &mut PollContext<'_>,
    ) -> Option<ReachedLimit> {
        let now = ctx.now();
        let (limit, reached) = if silence.is_half_open {
            (limits.half_open_timeout, ReachedLimit::HalfOpen)
        } else {
            (limits.idle_timeout, ReachedLimit::Idle)
        };
        if limit.is_some_and(|limit| now.since(silence.since) >= limit) {
            return Some(reached);
        }
        let progress = std::mem::take(&mut self.armed).progress;
        let sample = self.sample.as_deref().filter(|_| progress)?;
        if now.since(sample.at) < sample.patience {
            self.timer.arm(sample.at + sample.patience, now);
            self.armed.progress = true;
        } else {
            self.armed.progress = self.check_progress(directions, ctx);
        }
        None
    }

    /// By L1 this never happens: bytes in a buffer, room at the destination, and nothing moved for five seconds. Acted
    /// on when seen twice, a second apart: at first the news of the room may just be on its way. Says whether it is in
    /// doubt.
    fn check_progress(
        &mut self,
        directions: [(&mut HalfDuplex, &mut SideIo<'_>); 2],
        ctx: &mut PollContext<'_>,
    ) -> bool {
        let now = ctx.now();
        let sample = self.sample.get_or_insert_default();
        let doubted = std::mem::take(&mut sample.in_doubt);
        for (direction, (half, destination)) in Direction::BOTH.into_iter().zip(directions) {
            let still = ctx.stats.bytes(direction) == sample.bytes[direction.index()];
            if !still || !half.is_draining() || !destination.is_writable() {
                continue;
            }
            if !doubted {
                sample.at = now;
                sample.patience = STALL_CONFIRM;
                sample.in_doubt = true;
                self.timer.arm(now + STALL_CONFIRM, now);
                continue;
            }
            ctx.shared.stalled(|| {
                format!(
                    "{} stalled with {} bytes pending: {half:?}",
                    direction.as_str(),
                    half.buffer.pending()
                )
            });
            destination.force_next_send();
            // Failing here leaves the buffer as it was, and the next send reports what is wrong.
            let _ = half.buffer.move_to_buffer(ctx.shared);
            // Goes on at once.
            self.timer.arm(now, now);
        }
        sample.in_doubt
    }

    /// Arms the timer for what has come to be wanted since it was armed. Reads no clock when nothing has.
    pub(super) fn arm(
        &mut self,
        silence: Silence,
        limits: &Limits,
        is_draining: bool,
        ctx: &mut PollContext<'_>,
    ) {
        let limit = if silence.is_half_open {
            limits.half_open_timeout
        } else {
            limits.idle_timeout
        };
        let wants = Wants {
            idle: limit.is_some() && !silence.is_half_open,
            half_open: limit.is_some() && silence.is_half_open,
            progress: is_draining,
        };
        let new = wants.beyond(self.armed);
        if new == Wants::default() {
            return;
        }
        let now = ctx.now();
        if (new.idle || new.half_open)
            && let Some(limit) = limit
        {
            self.timer.arm(silence.since + limit, now);
        }
        if new.progress {
            let bytes = Direction::BOTH.map(|direction| ctx.stats.bytes(direction));
            **self.sample.get_or_insert_default() = ProgressSample {
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
