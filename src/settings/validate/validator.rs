//! State of one validation pass: its input, and the diagnostics it collects.

use crate::settings::diagnostics::Diagnostic;
use crate::settings::model::Settings;
use crate::settings::node::{KeyPath, Node, NodeValue, Origin, PathStep};
use crate::target::ResolvedTarget;

/// Default listen addresses.
pub(super) const DEFAULT_BINDS: [&str; 2] = ["127.0.0.1:8182", "[::1]:8182"];

#[derive(Debug)]
pub(in crate::settings) struct Validator<'a> {
    pub(super) settings: &'a Settings,
    pub(super) tree: &'a Node,
    wrong: &'a [KeyPath],
    pub(super) needs_target: bool,
    /// The command is `gateway`.
    pub(in crate::settings) needs_gateway: bool,
    /// A list has more entries than can be compared with each other.
    pub(super) too_many: bool,
    /// The resolved target of each upstream.
    pub(in crate::settings) targets: Vec<ResolvedTarget>,
    pub(in crate::settings) problems: Vec<Diagnostic>,
    pub(in crate::settings) warnings: Vec<Diagnostic>,
}

impl<'a> Validator<'a> {
    pub(in crate::settings) fn new(
        settings: &'a Settings,
        tree: &'a Node,
        wrong: &'a [KeyPath],
        needs_target: bool,
    ) -> Self {
        Self {
            settings,
            tree,
            wrong,
            needs_target,
            needs_gateway: false,
            too_many: false,
            targets: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The listeners or upstreams of the tree that could be read, with their paths.
    pub(super) fn items(&self, key: &str) -> Vec<(KeyPath, &'a Node)> {
        let below = KeyPath(vec![PathStep::Key(key.to_owned())]);
        let items = self
            .tree
            .get(key)
            .map(Node::items)
            .unwrap_or_default()
            .iter()
            .enumerate();
        items
            .filter(|(_, node)| node.value != NodeValue::Invalid)
            .map(|(index, node)| (below.index(index), node))
            .collect()
    }

    /// The origin of a key, or of the innermost table around it that was written where the key itself was not.
    pub(super) fn origin(&self, node: &Node, key: &str) -> Origin {
        if let Some(node) = node.get(key) {
            return node.origin.clone();
        }
        match key.rsplit_once('.') {
            Some((table, _)) => self.origin(node, table),
            // The root is the whole file: that is no origin.
            None if std::ptr::eq(node, self.tree) => Origin::Default,
            None => node.origin.clone(),
        }
    }

    pub(super) fn is_wrong(&self, path: &KeyPath) -> bool {
        self.wrong.iter().any(|wrong| wrong.starts_with(path))
    }

    pub(super) fn error(&mut self, origin: Origin, title: impl Into<String>) {
        self.problems.push(Diagnostic::new(title, origin));
    }
}
