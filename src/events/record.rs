//! What happened, as values: [`Event`] and why connections end ([`Reason`]).
//!
//! An event is built once; the log line (JSON or text) and what tests and services see are made of the same value.
//! How events travel is `events`'s business.

use std::borrow::Cow;

/// How loud an event is. error: we stop or lose service; warn: somebody should look; info: the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// We stop or lose service.
    Error,
    /// Somebody should look at it.
    Warn,
    /// Part of the ordinary course.
    Info,
    /// For looking closely.
    Debug,
}

/// One value of an event's field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text; escaped and cut by the log, never by the caller.
    Text(Cow<'static, str>),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Num(f64),
    /// Yes or no.
    Bool(bool),
}

/// One thing that happened, flat: the fields of contract section 6.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// How loud.
    pub level: Level,
    /// The event's name, for example `conn.close`.
    pub name: &'static str,
    /// A few words for people; no values in it.
    pub message: Cow<'static, str>,
    /// The fields, in the order in which they are written.
    pub fields: Vec<(&'static str, Value)>,
}

// === impl Level ===

impl Level {
    /// As it stands in a log line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

// === impl Event ===

impl Event {
    fn new(level: Level, name: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            level,
            name,
            message: message.into(),
            fields: Vec::new(),
        }
    }

    /// An event at level error.
    pub fn error(name: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Level::Error, name, message)
    }

    /// An event at level warn.
    pub fn warn(name: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Level::Warn, name, message)
    }

    /// An event at level info.
    pub fn info(name: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Level::Info, name, message)
    }

    /// An event at level debug.
    pub fn debug(name: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Level::Debug, name, message)
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((key, value.into()));
        self
    }

    /// With one more field, where there is a value; a field without one is absent.
    #[must_use]
    pub fn maybe(self, key: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The value of a field.
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
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Value::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(Cow::Owned(text))
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
