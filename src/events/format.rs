//! One event as one line: flat JSON, the same fields as `key=value` (logfmt), or text for people.
//!
//! JSON and logfmt are written straight from `tracing`'s values into a `String`, because that happens on worker
//! threads. One event is one line (text: wrapped at 80 columns) whatever the values hold: text is cut at 200 characters,
//! control characters and what could mislead a terminal are escaped.

use std::fmt::{Debug, Write as _};

use anstyle::{AnsiColor, Style as Colour};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

use super::record::{Event, Value, level_name};
use super::table;

/// How many characters of a text value are kept, the mark of the cut included.
const KEPT: usize = 200;

/// Width of a line of text for people.
const COLUMNS: usize = 80;

/// Where the second line of a wrapped text begins: below the message.
const INDENT: usize = 15;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Style {
    Json,
    Logfmt,
}

/// A line under way: a visitor of the event's fields.
#[derive(Debug)]
pub(super) struct LineVisitor {
    out: String,
    style: Style,
    /// The value of `conn.reason`, for the filter of the log.
    pub(super) expected_close: bool,
}

// === impl Line ===

impl LineVisitor {
    pub(super) fn new(style: Style, at: Timestamp, level: Level, name: &str) -> Self {
        let mut out = String::with_capacity(768);
        let level = level_name(level);
        // Writing to a String cannot fail, here and below.
        let _ = match style {
            Style::Json => write!(
                out,
                "{{\"timestamp\":\"{at:.3}\",\"level\":\"{level}\",\"event\":\"{name}\""
            ),
            Style::Logfmt => write!(out, "timestamp={at:.3} level={level} event={name}"),
        };
        Self {
            out,
            style,
            expected_close: false,
        }
    }

    /// The event as a line, its name that of the metadata.
    pub(super) fn of(
        style: Style,
        at: Timestamp,
        metadata: &Metadata<'_>,
        event: &tracing::Event<'_>,
    ) -> Self {
        let mut line = Self::new(style, at, *metadata.level(), metadata.name());
        event.record(&mut line);
        line
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        match self.style {
            Style::Json => quoted(&mut self.out, value, CharacterEscape::Json),
            Style::Logfmt => word(&mut self.out, value),
        }
    }

    pub(super) fn plain(&mut self, key: &str, value: impl std::fmt::Display) {
        self.key(key);
        let _ = write!(self.out, "{value}");
    }

    pub(super) fn finish(mut self) -> String {
        self.out.push_str(match self.style {
            Style::Json => "}\n",
            Style::Logfmt => "\n",
        });
        self.out
    }

    fn key(&mut self, key: &str) {
        match self.style {
            Style::Json => {
                self.out.push_str(",\"");
                self.out.push_str(key);
                self.out.push_str("\":");
            }
            Style::Logfmt => {
                self.out.push(' ');
                self.out.push_str(key);
                self.out.push('=');
            }
        }
    }
}

impl Visit for LineVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "conn.reason" {
            self.expected_close = table::is_expected(value);
        }
        self.text(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity: the field is left out.
        if value.is_finite() {
            self.plain(field.name(), Value::Num(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // `%` and `?` values.
        self.text(field.name(), &format!("{value:?}"));
    }
}

/// The event for people: local time, level, message and the values that the table names for it, wrapped at 80 columns.
pub(super) fn text(at: Timestamp, zone: &TimeZone, colour: bool, event: &Event) -> String {
    let (word, paint) = match event.level {
        Level::ERROR => ("ERROR", AnsiColor::Red),
        Level::WARN => ("WARN", AnsiColor::Yellow),
        Level::INFO => ("info", AnsiColor::Green),
        _ => ("debug", AnsiColor::Blue),
    };
    let paint = if colour {
        Colour::new().fg_color(Some(paint.into()))
    } else {
        Colour::new()
    };
    let local = at.to_zoned(zone.clone());
    let mut out = format!("{} {paint}{word:<5}{paint:#}", local.strftime("%H:%M:%S"));
    let mut column = INDENT - 1;
    let mut put = |word: &str| {
        let width = word.chars().count();
        if column > INDENT && column + 1 + width > COLUMNS {
            let _ = write!(out, "\n{:INDENT$}", "");
            column = INDENT;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    };
    let mut message = String::new();
    escaped(&mut message, &event.message, CharacterEscape::Text);
    let values = table::people(event);
    if !values.is_empty() {
        message.push(':');
    }
    message.split_whitespace().for_each(&mut put);
    let last = values.len().saturating_sub(1);
    for (index, (label, value)) in values.into_iter().enumerate() {
        let mut text = String::new();
        escaped(&mut text, &value.to_string(), CharacterEscape::Text);
        if index != last {
            text.push(',');
        }
        if !label.is_empty() {
            put(label);
        }
        text.split_whitespace().for_each(&mut put);
    }
    out.push('\n');
    out
}

/// A text value of logfmt: bare where it is one harmless word.
fn word(out: &mut String, text: &str) {
    let bare = |c: char| c.is_alphanumeric() || "-_.:/@,+[]%*→#()".contains(c);
    if !text.is_empty() && text.chars().count() <= KEPT && text.chars().all(bare) {
        out.push_str(text);
    } else {
        quoted(out, text, CharacterEscape::Text);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum CharacterEscape {
    /// `\u001b`, as JSON wants it.
    Json,
    /// `\x1b`, `\u{202e}`: for eyes.
    Text,
}

fn quoted(out: &mut String, text: &str, escape: CharacterEscape) {
    out.push('"');
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.len() <= KEPT && text.bytes().all(plain) {
        // Nearly all of them, and one line has nine.
        out.push_str(text);
    } else {
        escaped_with(out, text, escape, true);
    }
    out.push('"');
}

fn escaped(out: &mut String, text: &str, escape: CharacterEscape) {
    escaped_with(out, text, escape, false);
}

fn escaped_with(out: &mut String, text: &str, escape: CharacterEscape, quotes: bool) {
    let cut = text.char_indices().nth(KEPT).is_some();
    let kept = if cut { KEPT - 1 } else { KEPT };
    for character in text.chars().take(kept) {
        match character {
            '"' if quotes => out.push_str("\\\""),
            '\\' if quotes => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if !is_harmful(other) => out.push(other),
            // All of them lie in the basic plane, so four digits are enough for JSON.
            other if escape == CharacterEscape::Json => {
                let _ = write!(out, "\\u{:04x}", u32::from(other));
            }
            other if other.is_ascii() => {
                let _ = write!(out, "\\x{:02x}", u32::from(other));
            }
            other => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(other));
            }
        }
    }
    if cut {
        out.push('…');
    }
}

/// Control characters, and those that end a line or turn its direction in a viewer.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        )
}
