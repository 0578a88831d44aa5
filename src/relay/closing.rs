//! An early end under way: FIN to the client first; what it still sends is read off and dropped, never sent upstream;
//! bounded by time. The upstream learns of it when the caller drops its stream.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::clock::Moment;
use crate::events::Reason;

use super::fairness;
use super::side_io::SideIo;
use super::thread_buffer::ThreadBuffer;
use super::urgent::UrgentNews;

/// A close waits until an answer is so long ago: a pool of clients gives the connection that was answered last to the next
/// request, which would cross the FIN. Measured with the published Datomic client: nearly all requests that met a FIN came
/// within 3 ms of an answer.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// A connection that has not paused in this time is closed right behind an answer. Less than the 100 ms that a shutdown
/// grants a connection at rest.
const PATIENCE: Duration = Duration::from_millis(80);
/// An answer that ended less than this ago has just ended.
const JUST_NOW: Duration = Duration::from_millis(1);
/// How long to wait for the client's own end.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// The same while the client has not acknowledged the end of the last answer.
const DELIVERY: Duration = Duration::from_secs(30);
/// Between two looks at what it has acknowledged.
const DELIVERY_LOOK: Duration = Duration::from_millis(250);
/// Reads in one poll: a client that floods must not hold the thread.
const READS: usize = 16;

/// The early end of a connection at rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub(super) reason: Reason,
    pub(super) until: Moment,
    latest: Moment,
    fin_sent: bool,
    /// The client sent something behind our FIN.
    pub(super) dropped_bytes: bool,
}

/// Until when the close of a connection at rest, ordered at this moment, waits for a pause behind its last answer, or for
/// another answer that it may follow at once. `None`: now.
pub(super) fn awaits_pause(answered: Moment, ordered: Moment, now: Moment) -> Option<Moment> {
    let idle = now.since(answered);
    let may_follow = now.since(ordered) >= PATIENCE && idle < JUST_NOW;
    (idle < PAUSE && !may_follow).then(|| answered + PAUSE)
}

// === impl Closing ===

impl Closing {
    pub(super) fn new(reason: Reason, now: Moment) -> Self {
        Self {
            reason,
            until: now + LINGER,
            latest: now + DELIVERY,
            fin_sent: false,
            dropped_bytes: false,
        }
    }

    /// Ready when the client has ended too, or is gone, or the time is up.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut SideIo<'_>,
        now: Moment,
        news: &UrgentNews,
    ) -> Poll<()> {
        if now >= self.until {
            if now >= self.latest || down.is_delivered() != Some(false) {
                return Poll::Ready(());
            }
            self.until = now + DELIVERY_LOOK;
        }
        if !self.fin_sent {
            if ready!(down.poll_finish(cx)).is_err() {
                return Poll::Ready(());
            }
            self.fin_sent = true;
        }
        let mut buffer = ThreadBuffer::take();
        for _ in 0..READS {
            match ready!(down.poll_recv(cx, &mut buffer, news)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => self.dropped_bytes = true,
            }
        }
        fairness::yield_to_others(cx);
        Poll::Pending
    }
}
