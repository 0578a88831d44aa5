//! The one `Sleep` of a connection, made on first need.
//!
//! Serves idle and half-open limits, the progress watchdog, a reset's polling and the last seconds of an ordered end.
//! Bytes never touch it: when it fires, whoever armed it compares the stats with its last look and arms it again.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::Moment;

/// Fires at the earliest moment it was armed for.
#[derive(Debug, Default)]
pub(super) struct Timer {
    /// Boxed: most connections never need one.
    sleep: Option<Pin<Box<Sleep>>>,
    /// For this moment, while `is_armed`.
    at: Moment,
    is_armed: bool,
    /// Armed since it was last polled: it has no waker yet.
    is_new: bool,
}

// === impl Timer ===

impl Timer {
    /// Fires at `at`, or earlier if armed for earlier.
    pub(super) fn arm(&mut self, at: Moment, now: Moment) {
        if self.is_armed && self.at <= at {
            return;
        }
        self.at = at;
        self.is_armed = true;
        self.is_new = true;
        let deadline = Instant::now() + at.since(now);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            none => *none = Some(Box::pin(sleep_until(deadline))),
        }
    }

    /// Whether it must be polled once more before anybody waits.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether it has fired; leaves the waker otherwise.
    pub(super) fn has_fired(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_new = false;
        let (true, Some(sleep)) = (self.is_armed, &mut self.sleep) else {
            return false;
        };
        if sleep.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.is_armed = false;
        true
    }
}
