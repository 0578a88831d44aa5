//! The effective settings as `check` and `/v1/config` show them, and what a reload changes.
//!
//! Defaults are shown as `config/reference.toml` writes them, which a test holds to be the structs' own. There are no
//! secrets to leave out: settings hold only paths of secrets.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::file;
use super::layers::{Loaded, lay_under};
use super::source::Source;
use super::tree::{Node, Place, Value};

/// `config/reference.toml`: every key with its default and meaning.
pub const REFERENCE: &str = include_str!("../../config/reference.toml");

/// Keys whose change needs a restart; a key below one of them, too. All others hold for new work at once.
const NEEDS_RESTART: &[&str] = &[
    "listener.bind",
    "listener.name",
    "listener.upstream",
    "upstream.name",
    "admin",
    "runtime",
    "log.format",
    "profile",
];

/// What a reload changes: dotted keys, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Hold at once for new work.
    pub applied: Vec<String>,
    /// Need a restart.
    pub restart: Vec<String>,
}

// === impl Loaded ===

impl Loaded {
    /// Every key as nested `{value, source}`; keys that have no value are null.
    pub fn effective(&self) -> Json {
        self.shown(&self.complete())
    }

    /// Every key in one line each: `key`, value, source, in the order of keys.
    pub fn lines(&self) -> Vec<(String, String, String)> {
        let mut lines = Vec::new();
        self.complete().leaves(&mut |path, node| {
            lines.push((
                path.to_owned(),
                plain(&self.value(node)),
                self.say(&node.place),
            ));
        });
        lines
    }

    /// What differs in `new`.
    pub fn changes(&self, new: &Loaded) -> Changes {
        let flat = |loaded: &Loaded| -> BTreeMap<String, Json> {
            let mut values = BTreeMap::new();
            let complete = loaded.complete();
            complete.leaves(&mut |path, node| {
                values.insert(path.to_owned(), loaded.value(node));
            });
            values
        };
        let (before, after) = (flat(self), flat(new));
        let mut changes = Changes::default();
        let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for key in keys {
            if before.get(key) != after.get(key) {
                match needs_restart(key) {
                    true => changes.restart.push(key.clone()),
                    false => changes.applied.push(key.clone()),
                }
            }
        }
        changes
    }

    /// The merged tree over the defaults.
    fn complete(&self) -> Node {
        let mut tree = self.tree.clone();
        lower_dwell(&mut tree);
        lay_under(&mut tree, defaults());
        tree
    }

    fn shown(&self, node: &Node) -> Json {
        match &node.value {
            Value::Table(table) => {
                let entries = table
                    .iter()
                    .map(|(key, entry)| (key.clone(), self.shown(&entry.node)));
                Json::Object(entries.collect::<Map<String, Json>>())
            }
            Value::List(items) if items.iter().any(|item| item.entries().is_some()) => {
                Json::Array(items.iter().map(|item| self.shown(item)).collect())
            }
            _ => json!({"value": self.value(node), "source": self.say(&node.place)}),
        }
    }

    fn value(&self, node: &Node) -> Json {
        match &node.value {
            Value::Text(text) => json!(text),
            // The reader of a loose value knows its type, this place does not: numbers and booleans look like ones.
            Value::Loose(text) => match (text.trim().parse::<i64>(), text.trim()) {
                (Ok(number), _) => json!(number),
                (_, "true") => json!(true),
                (_, "false") => json!(false),
                (_, text) => json!(text),
            },
            Value::Int(number) => json!(number),
            Value::Float(number) => json!(number),
            Value::Bool(yes) => json!(yes),
            Value::List(items) => Json::Array(items.iter().map(|item| self.value(item)).collect()),
            Value::Other(_) | Value::Table(_) | Value::Null | Value::Gone => Json::Null,
        }
    }
}

/// A value in a line: text without quotes, lists with spaces, nothing as `-`.
fn plain(value: &Json) -> String {
    match value {
        Json::Null => "-".to_owned(),
        Json::String(text) if text.is_empty() => "\"\"".to_owned(),
        Json::String(text) => text.escape_debug().to_string(),
        Json::Array(items) if items.is_empty() => "-".to_owned(),
        Json::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn needs_restart(key: &str) -> bool {
    let mut bare = String::new();
    let mut inside = false;
    for c in key.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => bare.push(c),
            _ => {}
        }
    }
    NEEDS_RESTART.iter().any(|prefix| {
        bare.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// `failback.after` below the default dwell lowers the dwell (contract section 3): shown as what holds.
fn lower_dwell(tree: &mut Node) {
    let Some(entry) = tree
        .entries_mut()
        .and_then(|table| table.get_mut("upstream"))
    else {
        return;
    };
    let Value::List(upstreams) = &mut entry.node.value else {
        return;
    };
    for upstream in upstreams {
        let Some(after) = upstream.get("failback.after").cloned() else {
            continue;
        };
        let length = |node: &Node| {
            node.as_text()
                .and_then(|text| crate::duration::parse(text).ok())
        };
        let dwell = match upstream.get("failback.dwell") {
            Some(node) => length(node),
            None => Some(crate::upstream::timing::FailbackSettings::default().dwell),
        };
        if length(&after) < dwell {
            upstream.set("failback.dwell", after);
        }
    }
}

/// The tree of `config/reference.toml` with every default in force; keys without a default are null.
fn defaults() -> Node {
    let parsed = |text: String| {
        file::parse(&Source {
            name: "reference.toml".to_owned(),
            text: text.into(),
        })
        .0
    };
    let mut all = parsed(uncomment(true));
    blank(&mut all, &parsed(uncomment(false)));
    for key in ["listener", "upstream"] {
        if let Some(entry) = all.entries_mut().and_then(|table| table.get_mut(key))
            && let Value::List(items) = &mut entry.node.value
            && let Some(first) = items.pop()
        {
            entry.node = first;
        }
    }
    // An endpoint is no default of anything.
    if let Some(upstream) = all
        .entries_mut()
        .and_then(|table| table.get_mut("upstream"))
        && let Some(table) = upstream.node.entries_mut()
    {
        table.remove("endpoint");
    }
    all
}

/// Makes null what `with_default` does not have; all places are `Default`.
fn blank(node: &mut Node, with_default: &Node) {
    node.place = Place::Default;
    match (&mut node.value, &with_default.value) {
        (Value::Table(table), Value::Table(other)) => {
            let nothing = Node {
                place: Place::Default,
                value: Value::Null,
            };
            for (key, entry) in table {
                entry.key = Place::Default;
                blank(
                    &mut entry.node,
                    other.get(key).map_or(&nothing, |entry| &entry.node),
                );
            }
        }
        (Value::List(items), Value::List(others)) => {
            items
                .iter_mut()
                .zip(others)
                .for_each(|(item, other)| blank(item, other));
        }
        (value, Value::Null) => *value = Value::Null,
        _ => {}
    }
}

/// The reference with its keys in force: lines `#key = value`. With `examples`, also those that end in `# no default`.
pub(super) fn uncomment(examples: bool) -> String {
    let line = |line: &str| {
        let key = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        match key {
            Some(rest) if examples || !rest.contains("# no default") => rest.to_owned(),
            _ => line.to_owned(),
        }
    };
    REFERENCE.lines().map(line).collect::<Vec<_>>().join("\n")
}
