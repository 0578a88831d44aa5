//! Finds the client map in a bigger configuration: by its path, or because it is the only one.
//!
//! Tags and metadata are transparent: the map in `:datomic #profile {:dev {…}}` has the path `:datomic/:dev`.

use percent_encoding::percent_decode_str;

use super::form::{Form, FormKind, Map, SyntaxFault};

/// Of several maps or keys, At most this many are listed.
const MAX_NAMED: usize = 10;

/// A map and the way to it, for example `:app/:datomic`; the path of the top-level map is empty.
#[derive(Debug)]
pub(super) struct Located<'f> {
    pub(super) map: &'f Map,
    pub(super) path: String,
}

/// The map at `path`, or the only one of the text that has `:system` or `:endpoint`.
pub(super) fn locate<'f>(
    text: &str,
    form: &'f Form,
    path: Option<&str>,
) -> Result<Located<'f>, SyntaxFault> {
    match path {
        Some(path) => follow(text, form, path),
        None => search(text, form),
    }
}

fn fault<T>(form: &Form, what: impl Into<String>) -> Result<T, SyntaxFault> {
    Err(SyntaxFault {
        at: form.bare().span.start,
        what: what.into().into(),
    })
}

// === by path ===

fn follow<'f>(text: &str, form: &'f Form, path: &str) -> Result<Located<'f>, SyntaxFault> {
    let mut at = form;
    let mut shown = Vec::new();
    for step in path.split('/') {
        let Ok(step) = percent_decode_str(step).decode_utf8() else {
            return fault(form, "the path after # is not UTF-8");
        };
        if step.is_empty() {
            return fault(form, format!("`#{path}` has an empty key in it"));
        }
        let bare = at.bare();
        at = match &bare.kind {
            FormKind::Map(map) => {
                let mut named = map
                    .entries
                    .iter()
                    .filter(|entry| names(&map.key_name(text, entry), &step));
                let Some(entry) = named.next() else {
                    let keys: Vec<_> = map
                        .entries
                        .iter()
                        .map(|entry| map.key_name(text, entry))
                        .collect();
                    let what = format!("there is no key `{step}`; the keys are {}", list(&keys));
                    return fault(bare, what);
                };
                if let Some(second) = named.next() {
                    let key = &text[second.key.span.clone()];
                    return fault(&second.key, format!("{key} stands twice in the map"));
                }
                shown.push(encode(&map.key_name(text, entry)));
                &entry.value
            }
            FormKind::Elements(elements) => {
                let found = elements
                    .iter()
                    .find(|(index, _)| index.to_string() == step.as_ref());
                let Some((index, element)) = found else {
                    let what = format!("`{step}` is no index of a map in this sequence");
                    return fault(bare, what);
                };
                shown.push(index.to_string());
                element
            }
            _ => return fault(bare, format!("`{step}` asks for a key, and this is no map")),
        };
    }
    match &at.bare().kind {
        FormKind::Map(map) => Ok(Located {
            map,
            path: shown.join("/"),
        }),
        _ => fault(at, format!("the value at #{path} is not a map")),
    }
}

/// Whether a key is the one meant by a step of a path: a keyword with or without its colon, a string without quotes.
fn names(key: &str, step: &str) -> bool {
    let bare = |text: &str| text.strip_prefix(':').unwrap_or(text).to_owned();
    let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
    bare(key) == bare(step) || quoted == Some(step)
}

/// A key as a step of a path.
fn encode(key: &str) -> String {
    let key = key.strip_prefix(':').unwrap_or(key);
    key.trim_matches('"')
        .replace('%', "%25")
        .replace('/', "%2F")
}

// === by search ===

fn search<'f>(text: &str, form: &'f Form) -> Result<Located<'f>, SyntaxFault> {
    let mut found = Vec::new();
    collect(text, form, &mut Vec::new(), &mut found);
    if found.len() > 1 {
        let paths: Vec<String> = found
            .iter()
            .map(|located| format!("#{}", located.path))
            .collect();
        let what = format!(
            "there are several maps with :system or :endpoint; name one behind the file: {}",
            list(&paths)
        );
        return fault(form, what);
    }
    match (found.pop(), &form.bare().kind) {
        (Some(located), _) => Ok(located),
        (None, FormKind::Map(_)) => fault(
            form,
            "no map in it has :system or :endpoint, as a client map has",
        ),
        (None, _) => fault(
            form,
            "the first form is not a map: a client map looks like {:server-type :cloud …}",
        ),
    }
}

/// Collects the client maps. Maps inside one are its own business.
fn collect<'f>(text: &str, form: &'f Form, path: &mut Vec<String>, found: &mut Vec<Located<'f>>) {
    match &form.bare().kind {
        FormKind::Map(map) => {
            let key = |entry| map.key_name(text, entry);
            if map
                .entries
                .iter()
                .any(|entry| matches!(&*key(entry), ":system" | ":endpoint"))
            {
                let path = path.join("/");
                return found.push(Located { map, path });
            }
            for entry in &map.entries {
                path.push(encode(&key(entry)));
                collect(text, &entry.value, path, found);
                path.pop();
            }
        }
        FormKind::Elements(elements) => {
            for (index, element) in elements {
                path.push(index.to_string());
                collect(text, element, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

fn list<T: AsRef<str>>(items: &[T]) -> String {
    let mut shown: Vec<&str> = items.iter().take(MAX_NAMED).map(AsRef::as_ref).collect();
    if items.len() > MAX_NAMED {
        shown.push("…");
    }
    shown.join(" ")
}
