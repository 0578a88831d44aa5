//! How a reset is passed on: wait until the other side has everything that was acknowledged, then reset it too.
//!
//! A close with linger 0 throws the send queue away, so the queue is watched until it is empty (SIOCOUTQ), after 1 ms,
//! 2, 4, then every 8. `reset_deadline` bounds the wait, so that a client that never reads does not hold it.

use std::time::Duration;

use crate::clock::Moment;
use crate::sys::socket::Fault;
use crate::types::Side;

use super::side_io::SideIo;

const FIRST_LOOK: Duration = Duration::from_millis(1);
const SLOWEST_LOOK: Duration = Duration::from_millis(8);
/// How long to wait where the kernel tells nothing of its send queue.
const BLIND_WAIT: Duration = Duration::from_millis(50);

/// A reset on its way from one side to the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResetPropagation {
    pub(super) from: Side,
    pub(super) fault: Fault,
    began: Moment,
    /// `None`: it waits without limit.
    deadline: Option<Moment>,
    pause: Duration,
    next_look: Moment,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetStep {
    /// Look again then; `None`: when the sockets wake us.
    Wait(Option<Moment>),
    /// Everything is delivered: reset the other side.
    Abort,
    /// The deadline has passed: reset it all the same.
    GiveUp,
}

// === impl ResetPropagation ===

impl ResetPropagation {
    pub(super) fn new(from: Side, fault: Fault, now: Moment, limit: Option<Duration>) -> Self {
        Self {
            from,
            fault,
            began: now,
            deadline: limit.map(|limit| now + limit),
            pause: FIRST_LOOK,
            next_look: now,
        }
    }

    /// `drained`: the direction that reads the reset side has ended, and its buffer is empty.
    pub(super) fn step(&mut self, drained: bool, other: &SideIo<'_>, now: Moment) -> ResetStep {
        if other.reset.is_some() {
            // Nothing can be delivered any more.
            return ResetStep::Abort;
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return ResetStep::GiveUp;
        }
        if !drained {
            // The directions are woken by their sockets; the timer is for the deadline only.
            return ResetStep::Wait(self.deadline);
        }
        if now < self.next_look {
            return ResetStep::Wait(Some(self.next_look));
        }
        match other.is_delivered() {
            Some(true) => return ResetStep::Abort,
            None if now.since(self.began) >= BLIND_WAIT => return ResetStep::Abort,
            Some(false) | None => {}
        }
        self.next_look = now + self.pause;
        if let Some(deadline) = self.deadline {
            self.next_look = self.next_look.min(deadline);
        }
        self.pause = (self.pause * 2).min(SLOWEST_LOOK);
        ResetStep::Wait(Some(self.next_look))
    }
}
