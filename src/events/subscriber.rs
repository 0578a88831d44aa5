//! The `tracing` subscriber of one instance.
//!
//! It answers `Interest::sometimes` for every call site, because levels and filters change while the program runs. Our
//! own events go to the log, to the recent events and to subscribers; events of libraries go through [`Throttle`].
//! Spans exist at trace level only: one per connection, whose number is added to what is logged inside it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tracing::Metadata;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing_log::NormalizeEvent as _;

use super::format::{LineVisitor, Style};
use super::libraries::{self, Throttle};
use super::record::Event;
use super::{Shared, TARGET, recent, table};

#[derive(Debug)]
pub(super) struct Subscriber {
    shared: Arc<Shared>,
    throttle: Throttle,
    /// The connection number of each open span.
    spans: Mutex<HashMap<u64, u64>>,
}

/// Numbers of spans are unique in the process, so that instances on one thread cannot mistake them.
static NEXT_SPAN: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The spans entered on this thread, of whichever instance, innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };

    /// The memory of the last line, for the next one.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// Finds `conn.id` among the fields of a span.
struct ConnectionId(u64);

// === impl Subscriber ===

impl Subscriber {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            throttle: Throttle::default(),
            spans: Mutex::default(),
        }
    }

    fn own(&self, event: &tracing::Event<'_>) {
        let shared = &*self.shared;
        let metadata = event.metadata();
        let (level, name) = (*metadata.level(), metadata.name());
        let log = &shared.log;
        let to_log = log.wants(level) && log.wants_name(name);
        let about_traffic = table::is_about_traffic(name);
        let to_recent = to_log || level <= recent::LEVEL && !about_traffic;
        if to_log || to_recent {
            let at = Timestamp::now();
            let mut line = LineVisitor::of(LINE.take(), Style::Json, at, metadata, event);
            if let Some(connection) = self.current_connection()
                && metadata.fields().field("conn.id").is_none()
            {
                line.number("conn.id", connection);
            }
            let is_wanted = !line.expected_close || log.wants_expected();
            let line = line.finish();
            if is_wanted && to_log {
                log.write(at, &line, metadata, event);
            }
            if is_wanted && to_recent {
                shared.recent.push(level, &line);
            }
            LINE.set(line);
        }
        if shared.has_subscribers() {
            // The last subscriber may just have left.
            let _ = shared.subscribers.send(Arc::new(Event::of(event)));
        }
    }

    fn library(&self, event: &tracing::Event<'_>) {
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let log = &self.shared.log;
        let library = libraries::name(metadata.target());
        if !log.wants_library(*metadata.level()) || !self.throttle.admits(library) {
            return;
        }
        let mut message = libraries::Message::default();
        event.record(&mut message);
        let library = libraries::LibraryEvent {
            level: *metadata.level(),
            library,
            target: metadata.target(),
            message: message.text(),
            connection: self.current_connection(),
        };
        log.write_library(Timestamp::now(), &library);
    }

    fn current_connection(&self) -> Option<u64> {
        let span = ENTERED.with_borrow(|entered| entered.last().copied())?;
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.get(&span).copied()
    }
}

impl tracing::Subscriber for Subscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if cfg!(debug_assertions) && metadata.target() == TARGET && metadata.is_event() {
            table::assert_fields(metadata);
        }
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = *metadata.level();
        if metadata.target() == TARGET {
            match metadata.is_span() {
                true => self.shared.log.wants(level),
                false => self.shared.wants(level),
            }
        } else {
            metadata.is_event() && self.shared.log.wants_library(level)
        }
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = NEXT_SPAN.fetch_add(1, Relaxed);
        let mut connection = ConnectionId(0);
        attributes.record(&mut connection);
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.insert(id, connection.0);
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        if event.metadata().target() == TARGET {
            self.own(event);
        } else {
            self.library(event);
        }
    }

    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| {
            if let Some(index) = entered.iter().rposition(|id| *id == span.into_u64()) {
                entered.remove(index);
            }
        });
    }

    fn try_close(&self, span: Id) -> bool {
        // Never cloned: the connection's future is the only owner.
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.remove(&span.into_u64()).is_some()
    }
}

impl Visit for ConnectionId {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "conn.id" {
            self.0 = value;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
