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
    /// Writes into `out`, whose memory is used and whose text is not.
    pub(super) fn new(
        mut out: String,
        style: Style,
        at: Timestamp,
        level: Level,
        name: &str,
    ) -> Self {
        out.clear();
        out.reserve(768);
        let (timestamp, before_level, before_name, end) = match style {
            Style::Json => (
                "{\"timestamp\":\"",
                "\",\"level\":\"",
                "\",\"event\":\"",
                "\"",
            ),
            Style::Logfmt => ("timestamp=", " level=", " event=", ""),
        };
        out.push_str(timestamp);
        // Writing to a String cannot fail, here and below.
        let _ = write!(out, "{at:.3}");
        for part in [before_level, level_name(level), before_name, name, end] {
            out.push_str(part);
        }
        Self {
            out,
            style,
            expected_close: false,
        }
    }

    /// The event as a line, its name that of the metadata.
    pub(super) fn of(
        out: String,
        style: Style,
        at: Timestamp,
        metadata: &Metadata<'_>,
        event: &tracing::Event<'_>,
    ) -> Self {
        let mut line = Self::new(out, style, at, *metadata.level(), metadata.name());
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

    pub(super) fn number(&mut self, key: &str, value: impl itoa::Integer) {
        self.key(key);
        self.out.push_str(itoa::Buffer::new().format(value));
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
        self.key(field.name());
        self.out.push_str(if value { "true" } else { "false" });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity: the field is left out.
        if value.is_finite() {
            self.key(field.name());
            three_decimals(&mut self.out, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // `%` and `?` values.
        let mut text = String::with_capacity(64);
        let _ = write!(text, "{value:?}");
        self.text(field.name(), &text);
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

/// As `{}` writes the number rounded to three decimals (microseconds where the unit is ms), in a fifth of the time.
fn three_decimals(out: &mut String, value: f64) {
    let thousandths = (value * 1000.0).round();
    // Up to here a f64 holds every thousandth, and the shortest decimal that means it has three digits behind the point.
    if thousandths.abs() >= 1e15 {
        let _ = write!(out, "{}", Value::Num(value));
        return;
    }
    let thousandths = thousandths as i64;
    if thousandths < 0 {
        out.push('-');
    }
    let (whole, rest) = (
        thousandths.unsigned_abs() / 1000,
        thousandths.unsigned_abs() % 1000,
    );
    out.push_str(itoa::Buffer::new().format(whole));
    if rest > 0 {
        // A leading 1 keeps the zeros.
        let mut digits = itoa::Buffer::new();
        out.push('.');
        out.push_str(digits.format(1000 + rest)[1..].trim_end_matches('0'));
    }
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
        // Nearly all of them, and one line has ten.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_decimals_as_display_writes_them() {
        let written = |value: f64| {
            let mut out = String::new();
            three_decimals(&mut out, value);
            out
        };
        for (value, text) in [
            (0.0, "0"),
            (0.412_345, "0.412"),
            (0.000_4, "0"),
            (1.5, "1.5"),
            (-2.05, "-2.05"),
            (12.0, "12"),
            (999.999_9, "1000"),
            (0.010, "0.01"),
        ] {
            assert_eq!(written(value), text);
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let value = (random.f64() - 0.5) * 10f64.powi(random.i32(-3..25));
            if (value * 1000.0).round() != 0.0 {
                assert_eq!(written(value), Value::Num(value).to_string());
            }
        }
    }
}
