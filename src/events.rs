//! Events: what happened, as `tracing` events of one instance.
//!
//! Every instance has a [`tracing::Dispatch`] of its own and enters it explicitly for each event, so instances in one
//! process (tests) see only their own. The subscriber behind it renders the event once and hands the line to the log
//! ([`Log`], whose own thread writes it), to the recent events that `/v1/events` serves ([`RecentEvents`]), and, as a value,
//! to whoever subscribed. Nothing here blocks. Names, levels and fields of all events are listed in [`table`].

use std::sync::Arc;

use tokio::sync::broadcast;
use tracing::{Dispatch, Level};

pub use close_reason::{ClosedBy, MTU_HINT, Reason};
pub use log::{ConnectionEvents, Format, Libraries, Lines, Log, LogSettings, Probes, parse_level};
pub use recent::{RecentEvents, Recorded};
pub use record::{Event, Value};

mod close_reason;
mod format;
mod libraries;
mod log;
mod recent;
mod record;
mod subscriber;
pub mod table;

/// The `tracing` target of our own events; anything else comes from a library.
pub const TARGET: &str = "entryway";

/// How many events a subscriber may lag behind before it loses the oldest.
const SUBSCRIBER_LAG: usize = 4096;

/// Emits an event of [`table`] to an instance's [`Events`]: `event!(events, INFO, "dns.change", "message", name = …)`.
///
/// The fields are those of `tracing::event!`: values that are not numbers, booleans or `str` are prefixed with `%`, and
/// `Option::None` leaves the field out. They are evaluated only where the event is wanted.
macro_rules! event {
    ($events:expr, $level:ident, $name:literal, $message:expr $(, $($fields:tt)*)?) => {{
        const { $crate::events::table::assert_listed($name, ::tracing::Level::$level) };
        let events: &$crate::events::Events = &$events;
        if events.wants(::tracing::Level::$level) {
            events.in_scope(|| {
                ::tracing::event!(
                    name: $name,
                    target: $crate::events::TARGET,
                    ::tracing::Level::$level,
                    { message = $message $(, $($fields)*)? }
                )
            });
        }
    }};
}
pub(crate) use event;

/// Where an instance's events go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    dispatch: Dispatch,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    log: Log,
    recent: RecentEvents,
    subscribers: broadcast::Sender<Arc<Event>>,
}

// === impl Events ===

impl Events {
    pub fn new(log: Log) -> Self {
        let shared = Arc::new(Shared {
            log,
            recent: RecentEvents::default(),
            subscribers: broadcast::Sender::new(SUBSCRIBER_LAG),
        });
        Self {
            dispatch: Dispatch::new(subscriber::Subscriber::new(Arc::clone(&shared))),
            shared,
        }
    }

    /// Makes this instance the receiver of what libraries (hickory, hyper, rustls) log through `tracing` or `log`. For
    /// the program, which has one instance; a second call has no effect.
    pub fn receive_library_events(&self) {
        let _ = tracing::dispatcher::set_global_default(self.dispatch.clone());
        // Fails only where a logger is installed already, which is this one.
        let _ = tracing_log::LogTracer::init_with_filter(::log::LevelFilter::Debug);
    }

    /// Runs `emit` with this instance as the default subscriber.
    pub fn in_scope<T>(&self, emit: impl FnOnce() -> T) -> T {
        tracing::dispatcher::with_default(&self.dispatch, emit)
    }

    /// Whether an event of this level reaches anything.
    pub fn wants(&self, level: Level) -> bool {
        self.shared.wants(level)
    }

    /// Whether the record of a connection that ends so reaches anything.
    pub fn wants_close(&self, reason: Reason) -> bool {
        self.shared.log.wants_close(reason) || self.shared.has_subscribers()
    }

    /// All events from now on; a slow receiver loses the oldest.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.shared.subscribers.subscribe()
    }

    /// The last events, as JSON lines.
    pub fn recent(&self) -> &RecentEvents {
        &self.shared.recent
    }

    /// The log; its level, filters and format can be changed while it runs.
    pub fn log(&self) -> &Log {
        &self.shared.log
    }

    pub(crate) fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }
}

// === impl Shared ===

impl Shared {
    fn has_subscribers(&self) -> bool {
        self.subscribers.receiver_count() > 0
    }

    fn wants(&self, level: Level) -> bool {
        level <= recent::LEVEL || self.log.wants(level) || self.has_subscribers()
    }
}
