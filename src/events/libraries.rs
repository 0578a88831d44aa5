//! What libraries say through `tracing` or `log`, at most one line a second each.

use std::collections::HashMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tracing::Level;
use tracing::field::{Field, Visit};

use super::format::{LineVisitor, Style};
use super::record::Event;
use crate::clock::{self, Moment};

/// A library's lines are at least this far apart.
const PAUSE: Duration = Duration::from_secs(1);

/// Libraries remembered; a dependency has one name, so this is never reached.
const LIBRARIES: usize = 64;

/// When each library's last line was written.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<HashMap<String, Moment>>);

/// What a library logged, as the event `library`.
#[derive(Debug)]
pub(super) struct LibraryEvent<'a> {
    pub(super) level: Level,
    pub(super) library: &'a str,
    pub(super) target: &'a str,
    pub(super) message: String,
    /// The connection in whose span it happened.
    pub(super) connection: Option<u64>,
}

/// The fields of a library's event as one text, its message first.
#[derive(Debug, Default)]
pub(super) struct Message {
    message: String,
    fields: String,
}

/// The library a target belongs to: `hickory_proto::udp` is hickory's.
pub(super) fn name(target: &str) -> &str {
    let first = target.split("::").next().unwrap_or(target);
    match first.split_once('_') {
        Some(("hickory" | "hyper" | "tokio", _)) => first.split('_').next().unwrap_or(first),
        _ => first,
    }
}

// === impl Throttle ===

impl Throttle {
    pub(super) fn admits(&self, library: &str) -> bool {
        let now = clock::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(library) {
            Some(at) if now.since(*at) < PAUSE => false,
            Some(at) => {
                *at = now;
                true
            }
            None => {
                let room = last.len() < LIBRARIES;
                if room {
                    last.insert(library.to_owned(), now);
                }
                room
            }
        }
    }
}

// === impl LibraryEvent ===

impl LibraryEvent<'_> {
    pub(super) const NAME: &'static str = "library";

    pub(super) fn line(&self, style: Style, at: Timestamp) -> String {
        let mut line = LineVisitor::new(String::new(), style, at, self.level, Self::NAME);
        line.text("message", &self.message);
        line.text("library", self.library);
        line.text("library.target", self.target);
        if let Some(connection) = self.connection {
            line.number("conn.id", connection);
        }
        line.finish()
    }

    pub(super) fn record(&self) -> Event {
        Event {
            level: self.level,
            name: Self::NAME,
            message: self.message.clone(),
            fields: vec![("library.target", self.target.into())],
        }
    }
}

// === impl Message ===

impl Message {
    pub(super) fn text(self) -> String {
        match (self.message.is_empty(), self.fields.is_empty()) {
            (_, true) => self.message,
            (true, false) => self.fields.trim_start().to_owned(),
            (false, false) => self.message + &self.fields,
        }
    }
}

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // What tracing-log adds to records of the `log` crate; the target has a field of its own.
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_belong_to_libraries() {
        for (target, library) in [
            ("hickory_proto::udp::udp_client_stream", "hickory"),
            ("hickory_resolver", "hickory"),
            ("rustls::conn", "rustls"),
            ("hyper_util::client", "hyper"),
            ("my_crate", "my_crate"),
        ] {
            assert_eq!(name(target), library);
        }
    }

    #[test]
    fn one_line_a_second_each() {
        let throttle = Throttle::default();
        assert!(throttle.admits("hickory") && throttle.admits("rustls"));
        assert!(!throttle.admits("hickory") && !throttle.admits("rustls"));
    }
}
