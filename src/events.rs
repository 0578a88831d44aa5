//! The events: carries each event to the log and to whoever subscribed.
//!
//! Bounded: a slow subscriber loses the oldest events and is told; the log is written by a thread of its own, so a
//! full pipe on standard error cannot stall a data thread. One events per process assembly, no global: tests that run
//! side by side see only their own lines.

use std::sync::Arc;

use tokio::sync::broadcast;

pub use close_reason::{ClosedBy, MTU_HINT, Reason};
pub use log::{Connections, Format, Lines, Log, LogSettings, Probes, parse_level};
pub use record::{Event, Level, Value};

mod close_reason;
mod format;
mod log;
mod record;

/// How many events a subscriber may lag behind before it loses the oldest.
const SUBSCRIBER_LAG: usize = 4096;

/// Where events go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    log: Log,
    subscribers: broadcast::Sender<Arc<Event>>,
}

// === impl Events ===

impl Events {
    /// A events that writes to `log`.
    pub fn new(log: Log) -> Self {
        Self {
            log,
            subscribers: broadcast::Sender::new(SUBSCRIBER_LAG),
        }
    }

    /// Tells everybody. Never blocks.
    pub fn emit(&self, event: Event) {
        self.log.write(&event);
        if self.subscribers.receiver_count() > 0 {
            // Nobody left to hear it is fine.
            let _ = self.subscribers.send(Arc::new(event));
        }
    }

    /// Whether an event of this level would be written or heard: lets a caller skip building it.
    pub fn wants(&self, level: Level) -> bool {
        self.log.wants(level) || self.subscribers.receiver_count() > 0
    }

    /// Whether the record of a connection that ends so would be written or heard.
    pub fn wants_close(&self, reason: Reason) -> bool {
        self.log.wants_close(reason) || self.subscribers.receiver_count() > 0
    }

    /// All events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.subscribers.subscribe()
    }

    /// The log behind the events; its level and filters can be changed while it runs.
    pub fn log(&self) -> &Log {
        &self.log
    }
}
