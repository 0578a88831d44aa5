//! A tree of settings in which every value knows where it stands.
//!
//! Flags, environment, file and profile each become one such tree; laid over each other they are one tree, which
//! `read` turns into the settings structs. Knows nothing of which keys exist.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it is the default.
    Default,
    /// By the profile.
    Profile,
    /// In the file, at these bytes.
    File(Range<usize>),
    /// In this environment variable.
    Env(String),
    /// With this flag (without dashes).
    Flag(&'static str),
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// What stands there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Text that is text.
    Text(String),
    /// Text of a flag or variable: whoever reads it decides whether it is a number, a boolean or text.
    Loose(String),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// What no setting is (a date); the words for it.
    Other(String),
    /// Several.
    List(Vec<Node>),
    /// Named ones.
    Table(Table),
    /// Known to have no value; read as absent.
    Null,
    /// Taken out because it is wrong: the rest is read as if it were not there.
    Gone,
}

/// The entries of a table.
pub(super) type Table = BTreeMap<String, Entry>;

/// One `key = value`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Where the key stands.
    pub key: Place,
    /// The value.
    pub node: Node,
}

/// One step into the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Into a table.
    Key(String),
    /// Into a list; what is `Gone` is counted.
    Index(usize),
}

/// Steps from the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path(pub Vec<Step>);

// === impl Node ===

impl Node {
    /// An empty table.
    pub(super) fn table(place: Place) -> Self {
        let value = Value::Table(Table::new());
        Self { place, value }
    }

    /// Loose text.
    pub(super) fn loose(place: Place, text: impl Into<String>) -> Self {
        let value = Value::Loose(text.into());
        Self { place, value }
    }

    /// Plain text.
    pub(super) fn text(place: Place, text: impl Into<String>) -> Self {
        let value = Value::Text(text.into());
        Self { place, value }
    }

    /// The entries, if this is a table.
    pub(super) fn entries(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The entries, if this is a table.
    pub(super) fn entries_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The items of a list; a value that is no list is its own only item.
    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            Value::Gone | Value::Null => &[],
            _ => std::slice::from_ref(self),
        }
    }

    /// The text, if this is one.
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Loose(text) => Some(text),
            _ => None,
        }
    }

    /// The entry `a.b.c` of nested tables.
    pub(super) fn get(&self, dotted: &str) -> Option<&Node> {
        dotted.split('.').try_fold(self, |node, key| {
            Some(&node.entries()?.get(key)?.node).filter(|node| node.value != Value::Gone)
        })
    }

    /// Sets the entry `a.b.c`, making the tables on the way; they stand nowhere themselves.
    pub(super) fn set(&mut self, dotted: &str, node: Node) {
        let (key, rest) = match dotted.split_once('.') {
            Some((key, rest)) => (key, Some(rest)),
            None => (dotted, None),
        };
        if self.entries().is_none() {
            *self = Node::table(Place::Default);
        }
        let Some(table) = self.entries_mut() else {
            return;
        };
        let key_place = node.place.clone();
        match rest {
            None => {
                table.insert(
                    key.to_owned(),
                    Entry {
                        key: key_place,
                        node,
                    },
                );
            }
            Some(rest) => table
                .entry(key.to_owned())
                .or_insert_with(|| Entry {
                    key: key_place,
                    node: Node::table(Place::Default),
                })
                .node
                .set(rest, node),
        }
    }

    /// Follows a path; a value that is no list is item 0 of itself.
    pub(super) fn at(&self, path: &Path) -> Option<&Node> {
        path.0
            .iter()
            .try_fold(self, |node, step| match (step, &node.value) {
                (Step::Key(key), Value::Table(table)) => table.get(key).map(|entry| &entry.node),
                (Step::Index(index), Value::List(items)) => items.get(*index),
                (Step::Index(0), _) => Some(node),
                _ => None,
            })
    }

    /// Follows a path, to change what is there.
    pub(super) fn at_mut(&mut self, path: &Path) -> Option<&mut Node> {
        path.0.iter().try_fold(self, |node, step| {
            if matches!((step, &node.value), (Step::Index(0), value) if !matches!(value, Value::List(_))) {
                return Some(node);
            }
            match (step, &mut node.value) {
                (Step::Key(key), Value::Table(table)) => table.get_mut(key).map(|entry| &mut entry.node),
                (Step::Index(index), Value::List(items)) => items.get_mut(*index),
                _ => None,
            }
        })
    }

    /// Lays `upper` over this: tables entry by entry, anything else as a whole.
    pub(super) fn lay_over(&mut self, upper: Node) {
        let mergeable = matches!(
            (&self.value, &upper.value),
            (Value::Table(_), Value::Table(_))
        );
        if !mergeable {
            *self = upper;
            return;
        }
        if self.place == Place::Default {
            self.place = upper.place;
        }
        let (Some(table), Value::Table(upper)) = (self.entries_mut(), upper.value) else {
            return;
        };
        for (key, entry) in upper {
            match table.get_mut(&key) {
                Some(below) => {
                    below.key = entry.key;
                    below.node.lay_over(entry.node);
                }
                None => {
                    table.insert(key, entry);
                }
            }
        }
    }

    /// Calls `visit` with every leaf (a list of plain values is one leaf) and its dotted path, lists as `[i]`.
    pub(super) fn leaves(&self, visit: &mut dyn FnMut(&str, &Node)) {
        self.leaves_below(&mut String::new(), visit);
    }

    fn leaves_below(&self, path: &mut String, visit: &mut dyn FnMut(&str, &Node)) {
        let length = path.len();
        match &self.value {
            Value::Table(table) => {
                for (key, entry) in table {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                    entry.node.leaves_below(path, visit);
                    path.truncate(length);
                }
            }
            Value::List(items) if items.iter().any(|item| item.entries().is_some()) => {
                for (index, item) in items.iter().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    item.leaves_below(path, visit);
                    path.truncate(length);
                }
            }
            Value::Gone => {}
            _ => visit(path, self),
        }
    }
}

// === impl Path ===

impl Path {
    /// Whether the path lies at or below `prefix`.
    pub(super) fn starts_with(&self, prefix: &Path) -> bool {
        self.0.starts_with(&prefix.0)
    }

    /// This path and one more key.
    #[must_use]
    pub(super) fn key(&self, key: &str) -> Path {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Path(steps)
    }

    /// This path and one more index.
    #[must_use]
    pub(super) fn index(&self, index: usize) -> Path {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Path(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys = self.0.iter().filter_map(|step| match step {
            Step::Key(key) => Some(key),
            Step::Index(_) => None,
        });
        if let Some(first) = keys.next() {
            f.write_str(first)?;
        }
        keys.try_for_each(|key| write!(f, ".{key}"))
    }
}
