//! Whether a listener lacks what it needs to accept, and its lines about that.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::ListenerContext;
use crate::clock::{self, Moment};
use crate::events::event;

/// A shortage is over when none was seen for this long.
const OVER: Duration = Duration::from_secs(2);
/// At most one line in this time, on however many threads it happens.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// Whether a listener lacks what it needs to accept (descriptors, above all).
#[derive(Debug, Default)]
pub struct Shortage {
    /// When it was last seen, in ms of [`Moment`], plus one; 0 = never.
    seen: AtomicU64,
    /// When a line was last written.
    logged: Mutex<Option<Moment>>,
}

// === impl Shortage ===

impl Shortage {
    fn record(&self) {
        self.seen.store(clock::now().as_millis() + 1, Relaxed);
    }

    pub fn is_present(&self) -> bool {
        let seen = self.seen.load(Relaxed).checked_sub(1);
        seen.is_some_and(|at| clock::now().since(Moment::at(Duration::from_millis(at))) < OVER)
    }

    /// Whether it is time for a line; then it counts as written.
    fn may_log(&self) -> bool {
        let now = clock::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let may = logged.is_none_or(|at| now.since(at) >= BETWEEN_LINES);
        if may {
            *logged = Some(now);
        }
        may
    }
}

// === impl ListenerContext ===

impl ListenerContext {
    /// Something that accepting needs is missing. At most one line a second.
    pub fn accept_failed(&self, error: &io::Error) {
        self.shortage.record();
        self.log_resource("cannot accept", Some(error), None);
    }

    /// A `resource` line about accepting, at most one a second.
    pub fn log_resource(&self, message: &str, error: Option<&io::Error>, hint: Option<&str>) {
        if !self.shortage.may_log() {
            return;
        }
        event!(
            self.events,
            WARN,
            "resource",
            message,
            listener = self.listener.as_str(),
            error = error.map(tracing::field::display),
            hint = hint,
        );
    }
}
