//! An event as a value, for subscribers inside the program (demo, history, tests) and for the text log.

use tracing::Level;
use tracing::field::{Field, Visit};

pub(super) const fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// One value of an event's field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Int(i64),
    Num(f64),
    Bool(bool),
}

/// One event, its fields in the order in which they were given.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub level: Level,
    pub name: &'static str,
    pub message: String,
    pub fields: Vec<(&'static str, Value)>,
}

// === impl Event ===

impl Event {
    pub(super) fn of(event: &tracing::Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut record = Self {
            level: *metadata.level(),
            name: metadata.name(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut record);
        record
    }

    pub fn field(&self, key: &str) -> Option<&Value> {
        self.fields
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// The text of a field; `None` where it is absent or not text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.field(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Event {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.push(field, Value::Text(format!("{value:?}")));
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Int(number) => number.fmt(f),
            // Three decimals: microseconds where the unit is ms.
            Value::Num(number) => ((number * 1000.0).round() / 1000.0).fmt(f),
            Value::Bool(yes) => yes.fmt(f),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Value::Bool(yes)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Num(number)
    }
}

macro_rules! from_int {
    ($($int:ty)*) => {$(
        impl From<$int> for Value {
            fn from(number: $int) -> Self {
                Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }
    )*};
}

from_int!(u16 u32 u64 usize i64);
