//! Limits on silence, and the progress watchdog, on one timer.
//!
//! Bytes never touch the timer: when it fires, the tally is compared with the last look, and it is armed again for
//! what is still wanted. Decides nothing about how a pair is closed.

use std::time::Duration;

use crate::clock::Moment;
use crate::types::Direction;

use super::around::Around;
use super::half::Half;
use super::port::Port;
use super::settings::Limits;
use super::timer::Timer;

/// Bytes pending, destination writable, nothing moved for this long: a bug of ours.
const STALL: Duration = Duration::from_secs(5);
/// The time between the first look that sees this and the one that believes it.
const STALL_DOUBT: Duration = Duration::from_secs(1);

/// What the timer is armed for, and what was seen when it was.
#[derive(Debug, Default)]
pub(super) struct Clockwork {
    pub(super) timer: Timer,
    armed: Wants,
    look: Look,
}

/// A limit that has been reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Idle,
    HalfOpen,
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

/// Since when a pair has been silent, as its limits see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    pub(super) since: Moment,
    pub(super) is_half_open: bool,
}

// === impl Clockwork ===

impl Clockwork {
    /// The timer has fired: has a limit been reached? Looks after the two directions, each with its destination.
    pub(super) fn tick(
        &mut self,
        silence: Silence,
        limits: &Limits,
        ways: [(&mut Half, &mut Port<'_>); 2],
        around: &Around<'_>,
    ) -> Option<Reached> {
        let now = around.now();
        let (limit, reached) = if silence.is_half_open {
            (limits.half_open_timeout, Reached::HalfOpen)
        } else {
            (limits.idle_timeout, Reached::Idle)
        };
        if limit.is_some_and(|limit| now.since(silence.since) >= limit) {
            return Some(reached);
        }
        let early = now.since(self.look.at) < self.look.patience;
        let progress = self.armed.progress;
        self.armed = Wants::default();
        if progress && early {
            self.timer.arm(self.look.at + self.look.patience, now);
            self.armed.progress = true;
        } else if progress {
            self.watch_progress(ways, around);
            self.armed.progress = self.look.in_doubt;
        }
        None
    }

    /// L1 says this never happens: bytes in a lane, room at the destination, and nothing moved for five seconds.
    /// Seen twice, a second apart: at the first look the news of the room may just be on its way.
    fn watch_progress(&mut self, ways: [(&mut Half, &mut Port<'_>); 2], around: &Around<'_>) {
        let now = around.now();
        let doubted = std::mem::take(&mut self.look.in_doubt);
        for (direction, (half, destination)) in Direction::BOTH.into_iter().zip(ways) {
            let still = around.tally.bytes(direction) == self.look.bytes[direction.index()];
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
            around.counters.stalled(|| {
                format!(
                    "{} stalled with {} bytes pending: {half:?}",
                    direction.as_str(),
                    half.lane.pending()
                )
            });
            destination.distrust_reactor();
            // Failing here leaves the lane as it was, and the next send says what is wrong.
            let _ = half.lane.move_to_buffer(around.counters);
            // Goes on at once.
            self.timer.arm(now, now);
        }
    }

    /// Arms the timer for what has come to be wanted since it was armed. Reads no clock when nothing has.
    pub(super) fn arm(
        &mut self,
        silence: Silence,
        limits: &Limits,
        is_draining: bool,
        around: &Around<'_>,
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
        let now = around.now();
        if (new.idle || new.half_open)
            && let Some(limit) = limit
        {
            self.timer.arm(silence.since + limit, now);
        }
        if new.progress {
            let bytes = Direction::BOTH.map(|direction| around.tally.bytes(direction));
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
