//! The Datomic client map of an application, found in an EDN file, read, and written back with another `:endpoint`.
//!
//! The file may be the bare map or a bigger configuration, with the reader tags of aero, integrant or duct. What is
//! needed and plain is read; a value that only the application's own reader can compute is an error where it is
//! needed, and only there. Patching replaces spans of the text, so every byte it is not about stays. Like Clojure's
//! own readers this module looks at the first form only. Whether the values lead anywhere is for `target` to say.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use clojure_reader::edn::{Edn, read_string};

mod file;
mod form;
mod locate;
mod patch;

pub use file::LoadError;
use form::{FormKind, Map, MapEntry, SyntaxFault};
use locate::Located;
pub use patch::{EndpointChange, Patched, patch};

/// More than any configuration; a longer file is something else.
pub const MAX_BYTES: usize = 1 << 20;

/// Keys that make a client speak SOCKS, or HTTP to a proxy, instead of connecting to `:endpoint`.
const PROXY_KEYS: [&str; 3] = [":proxy-port", ":proxy-host", ":proxy"];

/// A value of a client map: absent (or `nil`), a string, or something that cannot be used, with the reason.
pub type MapValue = Option<Result<String, EdnError>>;

/// The client map as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientMap {
    /// The way to it in the file, for example `:app/:datomic`; empty where it is the top-level map.
    pub path: String,
    pub endpoint: MapValue,
    pub region: MapValue,
    pub system: MapValue,
    pub query_group: MapValue,
    /// `:server-type` without its colon, where it is a plain keyword.
    pub server_type: Option<String>,
    /// `:proxy-port` and its like, as far as they are set.
    pub proxy_keys: Vec<String>,
}

/// What is wrong with the text, and where (both count from 1, columns in characters).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {what}")]
pub struct EdnError {
    pub line: usize,
    pub column: usize,
    /// One sentence without a final dot.
    pub what: String,
}

/// Why a client map could not be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum ClientMapError {
    #[error(transparent)]
    File(#[from] LoadError),
    #[error("{0}:{1}")]
    Edn(String, #[source] EdnError),
}

/// Reads a regular file of text that is no longer than [`MAX_BYTES`].
pub fn load(path: &Path) -> Result<String, LoadError> {
    file::load(path, MAX_BYTES)
}

/// Reads the client map that `FILE[#KEY/KEY…]` names.
pub fn load_client_map(spec: &str) -> Result<ClientMap, ClientMapError> {
    let (file, path) = split_spec(spec);
    let text = load(Path::new(file))?;
    read_client_map(&text, path).map_err(|error| ClientMapError::Edn(file.to_owned(), error))
}

/// Splits `FILE[#KEY/KEY…]`. A file whose own name has a `#` is taken as it is where it exists.
pub fn split_spec(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once('#') {
        Some((file, path)) if !file.is_empty() && !Path::new(spec).exists() => (file, Some(path)),
        _ => (spec, None),
    }
}

/// Reads the client map of `text`: the one at `path`, or the only one.
pub fn read_client_map(text: &str, path: Option<&str>) -> Result<ClientMap, EdnError> {
    open(text, path, |located| {
        let map = located.map;
        let value = |key| value(text, map, key);
        let server_type = find(text, map, ":server-type")?;
        let proxy_keys = map
            .entries
            .iter()
            .filter(|entry| &text[entry.value.span.clone()] != "nil")
            .map(|entry| map.key_name(text, entry))
            .filter(|key| PROXY_KEYS.contains(&key.as_ref()));
        Ok(ClientMap {
            path: located.path.clone(),
            endpoint: value(":endpoint")?,
            region: value(":region")?,
            system: value(":system")?,
            query_group: value(":query-group")?,
            server_type: server_type
                .and_then(|entry| keyword(&text[entry.value.bare().span.clone()])),
            proxy_keys: proxy_keys.map(Into::into).collect(),
        })
    })
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

/// The text of an EDN string, with the escapes of Clojure's reader; `None` where it is none.
fn unquote(written: &str) -> Option<String> {
    let inner = written.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        text.push(match chars.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            c @ ('"' | '\\') => c,
            'u' => {
                let digits: String = chars.by_ref().take(4).collect();
                char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
            }
            _ => return None,
        });
    }
    Some(text)
}

/// Parses a text, finds its client map and hands it to `work`.
fn open<T>(
    text: &str,
    path: Option<&str>,
    work: impl FnOnce(&Located<'_>) -> Result<T, EdnError>,
) -> Result<T, EdnError> {
    if text.len() > MAX_BYTES {
        let what = format!("{} bytes are no client map (limit 1 MiB)", text.len());
        return Err(error_at(text, 0, what));
    }
    let at = |fault: SyntaxFault| error_at(text, fault.at, fault.what);
    let form = form::parse(text).map_err(at)?;
    let located = locate::locate(text, &form, path).map_err(at)?;
    work(&located)
}

/// The entry of `key`. A key that stands twice is an error, as in Clojure.
fn find<'m>(text: &str, map: &'m Map, key: &str) -> Result<Option<&'m MapEntry>, EdnError> {
    let mut named = map
        .entries
        .iter()
        .filter(|entry| map.key_name(text, entry) == key);
    let first = named.next();
    match named.next() {
        Some(second) => {
            let what = format!("{key} stands twice in the map");
            Err(error_at(text, second.key.span.start, what))
        }
        None => Ok(first),
    }
}

fn value(text: &str, map: &Map, key: &str) -> Result<MapValue, EdnError> {
    let Some(entry) = find(text, map, key)? else {
        return Ok(None);
    };
    let written = &text[entry.value.span.clone()];
    let at = entry.value.span.start;
    if let Some(tag) = entry.value.tag() {
        let what = format!(
            "the value of {key} is {}: what {} stands for is known to the application's own reader only",
            Brief(written),
            Brief(&text[tag])
        );
        return Ok(Some(Err(error_at(text, at, what))));
    }
    let bare = &text[entry.value.bare().span.clone()];
    if let Some(string) = unquote(bare) {
        return Ok(Some(Ok(string)));
    }
    let what = match (&entry.value.bare().kind, read_string(bare)) {
        (FormKind::Atom, Ok(Edn::Nil)) => return Ok(None),
        (FormKind::Atom, Err(_)) => {
            format!("the value of {key}, {}, cannot be read", Brief(written))
        }
        _ => format!("the value of {key} is {}, not a string", Brief(written)),
    };
    Ok(Some(Err(error_at(text, at, what))))
}

fn keyword(written: &str) -> Option<String> {
    match read_string(written) {
        Ok(Edn::Key(ref name)) => Some(name.clone().into_owned()),
        _ => None,
    }
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

/// At most 40 characters of a text, control characters escaped.
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
