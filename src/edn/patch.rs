//! Writes a client map back with another `:endpoint` and without the keys of the SOCKS proxy.

use std::ops::Range;

use super::form::{Map, MapEntry, is_blank};
use super::{EdnError, PROXY_KEYS, find, open, quote};

/// A patched text, and what was done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patched {
    pub text: String,
    /// The way to the map, empty where it is the top-level one.
    pub path: String,
    /// The keys that were removed with their values.
    pub removed: Vec<String>,
    pub endpoint: EndpointChange,
}

/// What became of `:endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointChange {
    /// Its value was this, as written.
    Replaced(String),
    Inserted,
    Unchanged,
}

/// The text with `:endpoint` of its client map set to `endpoint`, and `:proxy-port`, `:proxy-host` and `:proxy`
/// removed. Blanks and commas beside a removed key may go with it; every other byte stays, comments included.
pub fn patch(text: &str, path: Option<&str>, endpoint: &str) -> Result<Patched, EdnError> {
    open(text, path, |located| {
        let map = located.map;
        let quoted = quote(endpoint);
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        let removed: Vec<String> = map
            .entries
            .iter()
            .map(|entry| map.key_name(text, entry))
            .filter(|key| PROXY_KEYS.contains(&key.as_ref()))
            .map(Into::into)
            .collect();
        let change = match find(text, map, ":endpoint")? {
            Some(entry) => {
                let value = entry.value.span.clone();
                let old = text[value.clone()].to_owned();
                if old == quoted {
                    EndpointChange::Unchanged
                } else {
                    edits.push((value, quoted));
                    EndpointChange::Replaced(old)
                }
            }
            None => {
                edits.push(insertion(text, map, &quoted));
                EndpointChange::Inserted
            }
        };
        edits.extend(removals(text, map).map(|range| (range, String::new())));
        // An insertion stands where a removal begins; it must come first.
        edits.sort_by_key(|(range, _)| (range.start, range.end));
        let mut patched = String::with_capacity(text.len() + endpoint.len());
        let mut at = 0;
        for (range, new) in edits {
            patched.push_str(&text[at..range.start]);
            patched.push_str(&new);
            at = range.end;
        }
        patched.push_str(&text[at..]);
        Ok(Patched {
            text: patched,
            path: located.path.clone(),
            removed,
            endpoint: change,
        })
    })
}

fn is_proxy_key(text: &str, map: &Map, entry: &MapEntry) -> bool {
    PROXY_KEYS.contains(&map.key_name(text, entry).as_ref())
}

/// `:endpoint` behind the last entry that stays, on a line of its own where that one has one.
fn insertion(text: &str, map: &Map, quoted: &str) -> (Range<usize>, String) {
    let key = match map.namespace {
        Some(_) => ":_/endpoint",
        None => ":endpoint",
    };
    let staying = |entry: &&MapEntry| !is_proxy_key(text, map, entry);
    let Some(last) = map.entries.iter().rev().find(staying) else {
        let inside = map.open + 1;
        return (inside..inside, format!("{key} {quoted}"));
    };
    let before = &text[..last.key.span.start];
    let indent = &before[before.trim_end_matches([' ', '\t']).len()..];
    let own_line = before[..before.len() - indent.len()].ends_with('\n');
    let between = match own_line {
        true => format!("\n{indent}"),
        false => " ".to_owned(),
    };
    let end = last.value.span.end;
    (end..end, format!("{between}{key} {quoted}"))
}

/// The spans to cut out, in order and without overlap.
fn removals<'a>(text: &'a str, map: &'a Map) -> impl Iterator<Item = Range<usize>> + 'a {
    // Where the text before an entry begins: behind the opening brace, or behind the entry before it.
    let mut before = map.open + 1;
    let mut first = true;
    map.entries.iter().flat_map(move |entry| {
        let (key, value) = (&entry.key.span, &entry.value.span);
        let gap = before..key.start;
        before = value.end;
        if !is_proxy_key(text, map, entry) {
            first = false;
            return Vec::new();
        }
        let mut cuts = vec![key.clone(), value.clone()];
        // A comment between key and value stays; without one they are cut out together.
        if text[key.end..value.start].chars().all(is_blank) {
            cuts.truncate(1);
            cuts[0].end = value.end;
        }
        let rest = &text[value.end..];
        let next = rest.chars().next().unwrap_or('}');
        let separated = is_blank(next) || matches!(next, '}' | ';');
        let takes_gap =
            !first && separated && !gap.is_empty() && text[gap.clone()].chars().all(is_blank);
        let is_split = cuts.len() > 1;
        if takes_gap {
            cuts[0].start = gap.start;
        }
        if let Some(last) = cuts.last_mut()
            && (!takes_gap || is_split)
        {
            let blanks = rest.len() - rest.trim_start_matches(is_blank).len();
            // Behind a comment the line break must stay in front of the closing brace.
            if !rest[blanks..].starts_with('}') {
                last.end += blanks;
                before = last.end;
            }
        }
        cuts
    })
}
