//! Profiles: other defaults for another environment. One table.

use super::node::{Node, Origin};

pub(super) const NAMES: &[&str] = &["sidecar", "laptop", "load"];

/// Profile, key, value. `sidecar` is the defaults.
const TABLE: &[(&str, &str, &str)] = &[
    // A laptop changes networks: hold connections longer, and keep preconnected ones.
    ("laptop", "listener.hold_timeout", "30s"),
    ("laptop", "upstream.warm.spares", "2"),
    // Client maps that still carry `:proxy-port` work unchanged.
    ("laptop", "listener.front", "auto"),
    ("laptop", "log.format", "text"),
    ("laptop", "log.connections", "errors"),
    // Only the system's resolver knows the split DNS of a VPN.
    ("laptop", "dns.resolver", "system"),
    // A load test should see failures at once, and only failures in the log.
    ("load", "listener.when_all_down", "try"),
    ("load", "log.connections", "errors"),
];

/// The tree of a profile; empty for an unknown one, which is reported when `profile` is deserialized.
pub(super) fn tree(name: &str) -> Node {
    let mut tree = Node::table(Origin::Profile);
    for (_, key, value) in TABLE.iter().filter(|(profile, ..)| *profile == name) {
        tree.set(key, Node::untyped(Origin::Profile, *value));
    }
    tree
}
