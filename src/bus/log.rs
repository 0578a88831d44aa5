//! The log: placeholder of the skeleton, filled by the work on logs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde::Deserialize;

use crate::event::{Event, Level};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// `key=value`.
    Text,
    /// One flat JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// How lines look.
    pub format: Format,
}

/// Writes events as lines. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Log {
    level: Arc<AtomicU8>,
}

impl Log {
    /// Writes the event, if its level is wanted.
    pub fn write(&self, _event: &Event) {}

    /// Whether an event of this level is written.
    pub fn wants(&self, level: Level) -> bool {
        level as u8 <= self.level.load(Relaxed)
    }
}
