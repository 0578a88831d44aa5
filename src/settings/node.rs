//! A tree of settings in which every value has its origin.
//!
//! Flags, environment, file and profile each become one such tree. Merged into one, it is what `deserialize` turns into
//! the settings structs. Which keys exist is not known here.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere; it is the default.
    Default,
    Profile,
    /// In the settings file, at these bytes.
    File(Range<usize>),
    /// In the environment variable of this name.
    Env(String),
    /// With the flag of this name (without dashes).
    Flag(&'static str),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub origin: Origin,
    pub value: NodeValue,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum NodeValue {
    /// Text in quotes.
    Text(String),
    /// Text of a flag or variable: a number, a boolean or text, as the field it is read into requires.
    Untyped(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// A type that no setting has (a date), in words.
    Other(String),
    List(Vec<Node>),
    Table(Table),
    /// Known to be wrong; the rest is read as if it were absent.
    Invalid,
}

/// The entries of a table.
pub(super) type Table = BTreeMap<String, TableEntry>;

/// One `key = value`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TableEntry {
    /// Origin of the key itself.
    pub key: Origin,
    pub node: Node,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathStep {
    Key(String),
    /// Position in a list, `Invalid` items included.
    Index(usize),
}

/// A path from the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyPath(pub Vec<PathStep>);

// === impl Node ===

impl Node {
    pub(super) fn table(origin: Origin) -> Self {
        let value = NodeValue::Table(Table::new());
        Self { origin, value }
    }

    /// Untyped text.
    pub(super) fn untyped(origin: Origin, text: impl Into<String>) -> Self {
        let value = NodeValue::Untyped(text.into());
        Self { origin, value }
    }

    pub(super) fn text(origin: Origin, text: impl Into<String>) -> Self {
        let value = NodeValue::Text(text.into());
        Self { origin, value }
    }

    /// The entries, if this is a table.
    pub(super) fn entries(&self) -> Option<&Table> {
        match &self.value {
            NodeValue::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The entries, if this is a table.
    pub(super) fn entries_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            NodeValue::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The items of a list; any other value is a list of itself.
    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            NodeValue::List(items) => items,
            NodeValue::Invalid => &[],
            _ => std::slice::from_ref(self),
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            NodeValue::Text(text) | NodeValue::Untyped(text) => Some(text),
            _ => None,
        }
    }

    /// The entry `a.b.c` of nested tables.
    pub(super) fn get(&self, dotted: &str) -> Option<&Node> {
        dotted.split('.').try_fold(self, |node, key| {
            Some(&node.entries()?.get(key)?.node).filter(|node| node.value != NodeValue::Invalid)
        })
    }

    /// Sets the entry `a.b.c`, creating the tables on the way with a default origin.
    pub(super) fn set(&mut self, dotted: &str, node: Node) {
        let (key, rest) = match dotted.split_once('.') {
            Some((key, rest)) => (key, Some(rest)),
            None => (dotted, None),
        };
        if self.entries().is_none() {
            *self = Node::table(Origin::Default);
        }
        let Some(table) = self.entries_mut() else {
            return;
        };
        let key_origin = node.origin.clone();
        match rest {
            None => {
                table.insert(
                    key.to_owned(),
                    TableEntry {
                        key: key_origin,
                        node,
                    },
                );
            }
            Some(rest) => table
                .entry(key.to_owned())
                .or_insert_with(|| TableEntry {
                    key: key_origin,
                    node: Node::table(Origin::Default),
                })
                .node
                .set(rest, node),
        }
    }

    /// Follows a path; a value that is not a list is item 0 of itself.
    pub(super) fn at(&self, path: &KeyPath) -> Option<&Node> {
        path.0
            .iter()
            .try_fold(self, |node, step| match (step, &node.value) {
                (PathStep::Key(key), NodeValue::Table(table)) => {
                    table.get(key).map(|entry| &entry.node)
                }
                (PathStep::Index(index), NodeValue::List(items)) => items.get(*index),
                (PathStep::Index(0), _) => Some(node),
                _ => None,
            })
    }

    /// Where a key with indices (`upstream[0].tcp.keepalive`) was set, or the innermost table around it that was written.
    pub(super) fn origin_of(&self, key: &str) -> Origin {
        let mut path = KeyPath::default();
        let mut origin = Origin::Default;
        for step in key.split(['.', '[']) {
            path = match step.strip_suffix(']').map(str::parse) {
                Some(Ok(index)) => path.index(index),
                _ => path.key(step),
            };
            match self.at(&path) {
                Some(node) if node.origin != Origin::Default => origin = node.origin.clone(),
                Some(_) => {}
                None => break,
            }
        }
        origin
    }

    pub(super) fn at_mut(&mut self, path: &KeyPath) -> Option<&mut Node> {
        path.0.iter().try_fold(self, |node, step| {
            if matches!((step, &node.value), (PathStep::Index(0), value) if !matches!(value, NodeValue::List(_))) {
                return Some(node);
            }
            match (step, &mut node.value) {
                (PathStep::Key(key), NodeValue::Table(table)) => table.get_mut(key).map(|entry| &mut entry.node),
                (PathStep::Index(index), NodeValue::List(items)) => items.get_mut(*index),
                _ => None,
            }
        })
    }

    /// Number of nodes in the tree.
    pub(super) fn count(&self) -> usize {
        match &self.value {
            NodeValue::Table(table) => {
                1 + table
                    .values()
                    .map(|entry| entry.node.count())
                    .sum::<usize>()
            }
            NodeValue::List(items) => 1 + items.iter().map(Node::count).sum::<usize>(),
            _ => 1,
        }
    }

    /// Merges `upper` over this: tables entry by entry, anything else as a whole.
    pub(super) fn merge_over(&mut self, upper: Node) {
        let mergeable = matches!(
            (&self.value, &upper.value),
            (NodeValue::Table(_), NodeValue::Table(_))
        );
        if !mergeable {
            *self = upper;
            return;
        }
        if self.origin == Origin::Default {
            self.origin = upper.origin;
        }
        let (Some(table), NodeValue::Table(upper)) = (self.entries_mut(), upper.value) else {
            return;
        };
        for (key, entry) in upper {
            match table.get_mut(&key) {
                Some(below) => {
                    below.key = entry.key;
                    below.node.merge_over(entry.node);
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
            NodeValue::Table(table) => {
                for (key, entry) in table {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                    entry.node.leaves_below(path, visit);
                    path.truncate(length);
                }
            }
            NodeValue::List(items) if items.iter().any(|item| item.entries().is_some()) => {
                for (index, item) in items.iter().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    item.leaves_below(path, visit);
                    path.truncate(length);
                }
            }
            NodeValue::Invalid => {}
            _ => visit(path, self),
        }
    }
}

// === impl KeyPath ===

impl KeyPath {
    /// Whether the path lies at or below `prefix`.
    pub(super) fn starts_with(&self, prefix: &KeyPath) -> bool {
        self.0.starts_with(&prefix.0)
    }

    #[must_use]
    pub(super) fn key(&self, key: &str) -> KeyPath {
        let mut steps = self.0.clone();
        steps.push(PathStep::Key(key.to_owned()));
        KeyPath(steps)
    }

    #[must_use]
    pub(super) fn index(&self, index: usize) -> KeyPath {
        let mut steps = self.0.clone();
        steps.push(PathStep::Index(index));
        KeyPath(steps)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys = self.0.iter().filter_map(|step| match step {
            PathStep::Key(key) => Some(key),
            PathStep::Index(_) => None,
        });
        if let Some(first) = keys.next() {
            f.write_str(first)?;
        }
        keys.try_for_each(|key| write!(f, ".{key}"))
    }
}
