//! The Datomic client map of an application: read, and written back with another `:endpoint`.
//!
//! Owns what `--from-client` and `snippet edn --patch` know about EDN. The scanner finds where the entries of the
//! top-level map stand (comments, discards, tags and nested maps skipped); the values we use are read by
//! clojure-reader. Patching replaces the one value's span, so every other byte stays. Like Clojure's own reader it
//! looks at the first form only. Does not judge whether the values make sense: that is `recipe`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use clojure_reader::edn::{Edn, read_string};

mod file;
mod scan;

pub use file::LoadError;
use scan::{Entry, Scanner};

/// More than any client map; a file beyond it is something else.
pub const LARGEST: usize = 1 << 20;

/// What entryway takes out of a client map. Keys that are absent (or `nil`) are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientMap {
    /// `:endpoint`, as written.
    pub endpoint: Option<String>,
    /// `:region`.
    pub region: Option<String>,
    /// `:system`.
    pub system: Option<String>,
    /// `:server-type` without its colon.
    pub server_type: Option<String>,
    /// `:query-group`.
    pub query_group: Option<String>,
}

/// What is wrong with the text, and where (both count from 1, columns in characters).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {what}")]
pub struct EdnError {
    /// Line of the text.
    pub line: usize,
    /// Column of the line.
    pub column: usize,
    /// One sentence without a final dot.
    pub what: String,
}

/// Reads a file that is no longer than [`LARGEST`] and text.
pub fn load(path: &Path) -> Result<String, LoadError> {
    file::load(path, LARGEST)
}

/// Reads the client map at the top of `text`.
pub fn read_client_map(text: &str) -> Result<ClientMap, EdnError> {
    let entries = top_level(text)?;
    let map = ClientMap {
        endpoint: string(text, &entries, ":endpoint")?,
        region: string(text, &entries, ":region")?,
        system: string(text, &entries, ":system")?,
        // These two only decorate what we print: a form we cannot read is as good as none.
        server_type: find(text, &entries, ":server-type")?.and_then(|at| keyword(&text[at])),
        query_group: string(text, &entries, ":query-group").unwrap_or_default(),
    };
    if map.endpoint.is_none() && map.region.is_none() && map.system.is_none() {
        let what = "the map has none of :endpoint, :system, :region";
        return Err(error_at(
            text,
            start_of(text),
            with_hint(text, &entries, what),
        ));
    }
    Ok(map)
}

/// The same text with the value of the top-level map's `:endpoint` replaced by the string `new`.
pub fn patch_endpoint(text: &str, new: &str) -> Result<String, EdnError> {
    let entries = top_level(text)?;
    let Some(value) = find(text, &entries, ":endpoint")? else {
        let what = "the map has no :endpoint";
        return Err(error_at(
            text,
            start_of(text),
            with_hint(text, &entries, what),
        ));
    };
    Ok([&text[..value.start], &quote(new), &text[value.end..]].concat())
}

/// `text` as an EDN string.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn top_level(text: &str) -> Result<Vec<Entry>, EdnError> {
    if text.len() > LARGEST {
        let what = format!("{} bytes are no client map (limit 1 MiB)", text.len());
        return Err(error_at(text, 0, what));
    }
    Scanner::new(text)
        .top_level()
        .map_err(|fault| error_at(text, fault.at, fault.what))
}

/// Where the value of `key` stands. A key that stands twice is an error, as in Clojure.
fn find(text: &str, entries: &[Entry], key: &str) -> Result<Option<Range<usize>>, EdnError> {
    let mut named = entries
        .iter()
        .filter(|entry| &text[entry.key.clone()] == key);
    let first = named.next();
    match named.next() {
        Some(second) => {
            let what = format!("{key} stands twice in the map");
            Err(error_at(text, second.key.start, what))
        }
        None => Ok(first.map(|entry| entry.value.clone())),
    }
}

fn string(text: &str, entries: &[Entry], key: &str) -> Result<Option<String>, EdnError> {
    let Some(at) = find(text, entries, key)? else {
        return Ok(None);
    };
    let written = &text[at.clone()];
    let what = match read_string(written) {
        Ok(Edn::Str(ref value)) => return Ok(Some(value.clone().into_owned())),
        Ok(Edn::Nil) => return Ok(None),
        _ if written.starts_with('#') => format!(
            "the value of {key} is {}, which only the application's own reader understands; give it as a string",
            Brief(written)
        ),
        Ok(_) => format!("the value of {key} is {}, not a string", Brief(written)),
        Err(_) => format!("the value of {key}, {}, cannot be read", Brief(written)),
    };
    Err(error_at(text, at.start, what))
}

fn keyword(written: &str) -> Option<String> {
    match read_string(written) {
        Ok(Edn::Key(ref name)) => Some(name.clone().into_owned()),
        _ => None,
    }
}

/// Says where the client map seems to be when it is one level down.
fn with_hint(text: &str, entries: &[Entry], what: &str) -> String {
    let nested = entries.iter().find(|entry| {
        let inner = Scanner::new(&text[entry.value.clone()]).top_level();
        let value = &text[entry.value.clone()];
        inner.is_ok_and(|inner| {
            let keys = inner.into_iter().map(|entry| &value[entry.key]);
            keys.into_iter()
                .any(|key| key == ":endpoint" || key == ":server-type")
        })
    });
    match nested {
        Some(entry) => format!(
            "{what}; the client map seems to be under {}: put that map into a file of its own",
            Brief(&text[entry.key.clone()])
        ),
        None => what.to_owned(),
    }
}

fn start_of(text: &str) -> usize {
    text.find('{').unwrap_or_default()
}

fn error_at(text: &str, at: usize, what: impl Into<Cow<'static, str>>) -> EdnError {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    EdnError {
        line: before.matches('\n').count() + 1,
        column: before[line_start..]
            .trim_start_matches('\u{feff}')
            .chars()
            .count()
            + 1,
        what: what.into().into_owned(),
    }
}

/// At most 40 characters of what somebody wrote, control characters escaped.
struct Brief<'a>(&'a str);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars().take(40) {
            if c.is_control() {
                write!(f, "{}", c.escape_debug())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        if self.0.chars().nth(40).is_some() {
            f.write_str("…")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
