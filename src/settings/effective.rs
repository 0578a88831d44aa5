//! The effective settings: every key with its value and source, as `check` and `/v1/config` show them, and what a reload
//! changes.
//!
//! Values are the settings structs themselves, serialized, so what is shown is what is in force. There are no secrets
//! among them: settings hold only the paths of secrets.

use serde_json::{Map, Value as Json};

use super::layers::Loaded;
use crate::target::ResolvedTarget;
use crate::types::UpstreamName;

/// `config/reference.toml`: every key with its default and meaning.
pub const REFERENCE: &str = include_str!("../../config/reference.toml");

/// Keys whose change needs a restart, keys below them included. Everything else applies to new work at once.
pub(super) const NEEDS_RESTART: &[&str] = &[
    "listener.bind",
    "listener.upstream",
    "listener.front",
    "listener.front_allow",
    "admin",
    "metrics",
    "runtime",
    // The content of these files is read again; other files need a restart.
    "gateway.bind",
    "gateway.cert",
    "gateway.key",
    "gateway.client_ca",
    "gateway.crl",
    "faults",
];

/// What a reload changes: keys with the names of listeners and upstreams (`upstream[prod].health.fall`), sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub applied: Vec<String>,
    /// Not in force before a restart. A listener or upstream that is new, or gone, is named as a whole.
    pub restart: Vec<String>,
}

/// A reload: the settings that are in force after it, and what became of each change.
#[derive(Clone, Debug)]
pub struct Reload {
    pub in_force: Loaded,
    pub changes: Changes,
}

// === impl Loaded ===

impl Loaded {
    /// Every key as nested `{value, source}`; a key without a value is null.
    pub fn effective(&self) -> &Json {
        &self.effective
    }

    /// One line per key: key, value, source, sorted by key.
    pub fn lines(&self) -> Vec<(String, String, String)> {
        let mut lines = Vec::new();
        flatten(&self.effective, String::new(), &mut lines);
        lines
    }

    /// Reads the settings file again and lays it under the same flags and variables. What needs a restart keeps its
    /// value in the result, so that the result is what runs after it has been applied.
    pub fn reload(&self) -> Result<Reload, super::Diagnostics> {
        Ok(self.merge(self.load_file_again()?))
    }

    fn target_of(&self, name: &UpstreamName) -> Option<&ResolvedTarget> {
        let mut upstreams = self.settings.upstreams.iter().zip(&self.targets);
        let found = upstreams.find(|(upstream, _)| upstream.name == *name);
        found.map(|(_, target)| target)
    }

    fn merge(&self, new: Loaded) -> Reload {
        let mut changes = Changes::default();
        let effective = merge(&self.effective, &new.effective, String::new(), &mut changes);
        changes.applied.sort();
        changes.restart.sort();
        // What was serialized from settings can be read as settings.
        let settings = serde_json::from_value(values(&effective)).unwrap_or_else(|error| {
            debug_assert!(false, "shown settings cannot be read back: {error}");
            new.settings.clone()
        });
        let targets = settings
            .upstreams
            .iter()
            .filter_map(|upstream| {
                new.target_of(&upstream.name)
                    .or(self.target_of(&upstream.name))
            })
            .cloned()
            .collect();
        Reload {
            in_force: Loaded {
                settings,
                targets,
                effective,
                admin_asked_for: self.admin_asked_for,
                ..new
            },
            changes,
        }
    }
}

/// A leaf of the annotated tree.
fn leaf(node: &Json) -> Option<&Json> {
    node.as_object()
        .filter(|entries| entries.len() == 2 && entries.contains_key("source"))
        .and_then(|entries| entries.get("value"))
}

/// The annotated tree without its sources.
fn values(node: &Json) -> Json {
    if let Some(value) = leaf(node) {
        return value.clone();
    }
    match node {
        Json::Object(entries) => entries
            .iter()
            .map(|(key, node)| (key.clone(), values(node)))
            .collect::<Map<_, _>>()
            .into(),
        Json::Array(items) => items.iter().map(values).collect(),
        other => other.clone(),
    }
}

/// The keys in which two annotated trees differ, however they would come into force.
pub fn differences(before: &Json, now: &Json) -> Vec<String> {
    let mut changes = Changes::default();
    merge(before, now, String::new(), &mut changes);
    let mut keys = changes.applied;
    keys.append(&mut changes.restart);
    keys.sort();
    keys
}

/// Lays `new` over what is in force, and records what becomes of each difference.
fn merge(old: &Json, new: &Json, key: String, changes: &mut Changes) -> Json {
    let (before, after) = (values(old), values(new));
    let is_leaf = leaf(old).is_some() || leaf(new).is_some() || key.ends_with("].endpoint");
    match (old, new) {
        (Json::Object(old), Json::Object(new)) if !is_leaf => {
            let merged = old.iter().map(|(name, old)| {
                let key = match key.is_empty() {
                    true => name.clone(),
                    false => format!("{key}.{name}"),
                };
                let merged = match new.get(name) {
                    Some(new) => merge(old, new, key, changes),
                    None => old.clone(),
                };
                (name.clone(), merged)
            });
            merged.collect::<Map<_, _>>().into()
        }
        (Json::Array(old), Json::Array(new)) if !is_leaf && (named(old) || named(new)) => {
            for item in new.iter().filter(|item| find(old, name_of(item)).is_none()) {
                changes.restart.push(format!("{key}[{}]", name_of(item)));
            }
            let merged = old.iter().map(|old| {
                let key = format!("{key}[{}]", name_of(old));
                match find(new, name_of(old)) {
                    Some(new) => merge(old, new, key, changes),
                    None => {
                        changes.restart.push(key);
                        old.clone()
                    }
                }
            });
            merged.collect()
        }
        _ if before == after => new.clone(),
        _ if needs_restart(&key) => {
            changes.restart.push(key);
            old.clone()
        }
        _ => {
            changes.applied.push(key);
            new.clone()
        }
    }
}

fn named(items: &[Json]) -> bool {
    items.iter().any(|item| !name_of(item).is_empty())
}

fn name_of(item: &Json) -> &str {
    item.get("name")
        .and_then(leaf)
        .and_then(Json::as_str)
        .unwrap_or_default()
}

fn find<'a>(items: &'a [Json], name: &str) -> Option<&'a Json> {
    items.iter().find(|item| name_of(item) == name)
}

fn flatten(node: &Json, key: String, lines: &mut Vec<(String, String, String)>) {
    if let Some(value) = leaf(node) {
        let source = node["source"].as_str().unwrap_or_default().to_owned();
        lines.push((key, plain(value), source));
        return;
    }
    match node {
        Json::Object(entries) => {
            for (name, node) in entries {
                let key = match key.is_empty() {
                    true => name.clone(),
                    false => format!("{key}.{name}"),
                };
                flatten(node, key, lines);
            }
        }
        Json::Array(items) => {
            for (index, node) in items.iter().enumerate() {
                flatten(node, format!("{key}[{index}]"), lines);
            }
        }
        _ => {}
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
    let bare = super::ranges::without_indices(key);
    NEEDS_RESTART.iter().any(|prefix| {
        bare.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// The reference with its keys in force: lines `#key = value`. With `examples`, also those that end in `# no default`.
#[cfg(test)]
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
