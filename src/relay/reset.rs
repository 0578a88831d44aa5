//! How a reset travels: wait until the other side has everything that was acknowledged, then reset it too.
//!
//! A close with linger 0 throws the send queue away (bug 12), so the queue is watched until it is empty (SIOCOUTQ),
//! after 1 ms, 2, 4, then every 8. `reset_deadline` bounds the wait: a client that never reads must not hold us.

use std::time::Duration;

use crate::clock::Moment;
use crate::sys::socket::Fault;
use crate::types::Side;

use super::port::Port;

const FIRST_LOOK: Duration = Duration::from_millis(1);
const SLOWEST_LOOK: Duration = Duration::from_millis(8);
/// How long to wait where the kernel tells nothing of its send queue.
const BLIND_WAIT: Duration = Duration::from_millis(50);

/// A reset under way from one side to the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Travel {
    pub(super) from: Side,
    pub(super) fault: Fault,
    began: Moment,
    deadline: Moment,
    pause: Duration,
    next_look: Moment,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Look again then.
    Wait(Moment),
    /// Everything is delivered: reset the other side.
    Abort,
    /// The deadline has passed: reset it all the same.
    GiveUp,
}

// === impl Travel ===

impl Travel {
    pub(super) fn new(from: Side, fault: Fault, now: Moment, limit: Duration) -> Self {
        Self {
            from,
            fault,
            began: now,
            deadline: now + limit,
            pause: FIRST_LOOK,
            next_look: now,
        }
    }

    /// `drained`: the half that reads the reset side has ended, and its lane is empty.
    pub(super) fn step(&mut self, drained: bool, other: &Port<'_>, now: Moment) -> Step {
        if other.reset.is_some() {
            // Nobody is left to deliver to.
            return Step::Abort;
        }
        if now >= self.deadline {
            return Step::GiveUp;
        }
        if !drained {
            // The halves are woken by the sockets; the timer is for the deadline only.
            return Step::Wait(self.deadline);
        }
        if now < self.next_look {
            return Step::Wait(self.next_look);
        }
        match other.is_delivered() {
            Some(true) => return Step::Abort,
            None if now.since(self.began) >= BLIND_WAIT => return Step::Abort,
            Some(false) | None => {}
        }
        self.next_look = (now + self.pause).min(self.deadline);
        self.pause = (self.pause * 2).min(SLOWEST_LOOK);
        Step::Wait(self.next_look)
    }
}
