//! Profiles: other defaults for another place to run in. One table.

use super::tree::{Node, Place};

/// Their names.
pub(super) const NAMES: &[&str] = &["sidecar", "laptop", "load"];

/// Profile, key, value. `sidecar` is the defaults.
const TABLE: &[(&str, &str, &str)] = &[
    // A laptop changes networks: wait longer for the way back, and keep connections ready.
    ("laptop", "listener.hold_timeout", "30s"),
    ("laptop", "upstream.warm.spares", "2"),
    ("laptop", "log.format", "text"),
    // A load test wants to see failures at once, and only them.
    ("load", "listener.when_all_down", "try"),
    ("load", "log.connections", "errors"),
];

/// The tree of a profile; empty for one that is not known (whoever reads `profile` says so).
pub(super) fn tree(name: &str) -> Node {
    let mut tree = Node::table(Place::Profile);
    for (_, key, value) in TABLE.iter().filter(|(profile, ..)| *profile == name) {
        tree.set(key, Node::loose(Place::Profile, *value));
    }
    tree
}
