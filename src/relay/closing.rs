//! An ordered end under way (contract 7.7): FIN to the client first; what it still sends is read off and dropped,
//! never sent upstream; bounded by time. The upstream learns of it when the caller drops its stream.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::clock::Moment;
use crate::events::Reason;

use super::port::Port;
use super::scratch::{self, Scratch};

/// How long to wait for the client's own end.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// Reads in one poll: a client that floods must not hold the thread.
const READS: usize = 16;

/// The end of a pair at rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub(super) reason: Reason,
    pub(super) until: Moment,
    told: bool,
}

// === impl Closing ===

impl Closing {
    pub(super) fn new(reason: Reason, now: Moment) -> Self {
        Self {
            reason,
            until: now + LINGER,
            told: false,
        }
    }

    /// Ready when the client has ended too, or nobody is there, or the time is up.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Port<'_>,
        now: Moment,
    ) -> Poll<()> {
        if now >= self.until {
            return Poll::Ready(());
        }
        if !self.told {
            if ready!(down.poll_finish(cx)).is_err() {
                return Poll::Ready(());
            }
            self.told = true;
        }
        let mut scratch = Scratch::take();
        for _ in 0..READS {
            if let Ok(0) | Err(_) = ready!(down.poll_recv(cx, &mut scratch)) {
                return Poll::Ready(());
            }
        }
        scratch::yield_to_others(cx);
        Poll::Pending
    }
}
