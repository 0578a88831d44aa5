//! One event as one line: flat JSON, or the same fields as `key=value`.
//!
//! Written straight into a `String`, because it happens on data threads. Promises one line per event whatever the
//! values hold: text is cut at 200 characters, control bytes and what could fool a terminal are escaped.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::events::{Event, Value};

/// How many characters of a text value are kept, the mark of the cut included.
const KEPT: usize = 200;

/// The event as a flat JSON object, line feed included.
pub(super) fn json(at: Timestamp, event: &Event) -> String {
    let mut out = start(event);
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        out,
        "{{\"timestamp\":\"{at:.3}\",\"level\":\"{}\",\"event\":\"{}\",\"message\":",
        event.level.as_str(),
        event.name
    );
    quoted(&mut out, &event.message, Style::Json);
    for (key, value) in &event.fields {
        if absent(value) {
            continue;
        }
        out.push_str(",\"");
        out.push_str(key);
        out.push_str("\":");
        match value {
            Value::Text(text) => quoted(&mut out, text, Style::Json),
            other => plain(&mut out, other),
        }
    }
    out.push_str("}\n");
    out
}

/// The event as `key=value` pairs, line feed included.
pub(super) fn text(at: Timestamp, event: &Event) -> String {
    let mut out = start(event);
    let _ = write!(
        out,
        "timestamp={at:.3} level={} event={} message=",
        event.level.as_str(),
        event.name
    );
    word(&mut out, &event.message);
    for (key, value) in &event.fields {
        if absent(value) {
            continue;
        }
        out.push(' ');
        out.push_str(key);
        out.push('=');
        match value {
            Value::Text(text) => word(&mut out, text),
            other => plain(&mut out, other),
        }
    }
    out.push('\n');
    out
}

fn start(event: &Event) -> String {
    String::with_capacity(128 + event.fields.len() * 32)
}

/// JSON has no NaN and no infinity; a field without a value is absent.
fn absent(value: &Value) -> bool {
    matches!(value, Value::Num(number) if !number.is_finite())
}

fn plain(out: &mut String, value: &Value) {
    let _ = match value {
        Value::Int(number) => write!(out, "{number}"),
        // Three decimals: microseconds where the unit is ms.
        Value::Num(number) => write!(out, "{}", (number * 1000.0).round() / 1000.0),
        Value::Bool(yes) => write!(out, "{yes}"),
        Value::Text(_) => Ok(()),
    };
}

/// A text value of the `key=value` form: bare where it is one harmless word.
fn word(out: &mut String, text: &str) {
    let bare = |c: char| c.is_alphanumeric() || "-_.:/@,+[]%*→#()".contains(c);
    if !text.is_empty() && text.chars().count() <= KEPT && text.chars().all(bare) {
        out.push_str(text);
    } else {
        quoted(out, text, Style::Text);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// `\u001b`, as JSON wants it.
    Json,
    /// `\x1b`, `\u{202e}`: for eyes.
    Text,
}

fn quoted(out: &mut String, text: &str, style: Style) {
    out.push('"');
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.len() <= KEPT && text.bytes().all(plain) {
        // Nearly all of them, and one line has nine.
        out.push_str(text);
        out.push('"');
        return;
    }
    let cut = text.char_indices().nth(KEPT).is_some();
    let kept = if cut { KEPT - 1 } else { KEPT };
    for character in text.chars().take(kept) {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if !harmful(other) => out.push(other),
            // All of them lie in the basic plane, so four digits are enough for JSON.
            other if style == Style::Json => {
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
    out.push('"');
}

/// Control characters, and those that end a line or turn its direction in a viewer.
fn harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        )
}
