//! One pass over the settings: what it looks at, and where problems go.

use crate::settings::model::Settings;
use crate::settings::report::Problem;
use crate::settings::tree::{Node, Path, Place, Step, Value};

/// Where clients connect by default: contract section 3.
pub(super) const DEFAULT_BINDS: [&str; 2] = ["127.0.0.1:8182", "[::1]:8182"];

/// One pass over the settings.
#[derive(Debug)]
pub(in crate::settings) struct Check<'a> {
    pub(super) settings: &'a Settings,
    pub(super) tree: &'a Node,
    wrong: &'a [Path],
    pub(super) needs_target: bool,
    /// What is wrong.
    pub(in crate::settings) problems: Vec<Problem>,
    /// What is odd.
    pub(in crate::settings) warnings: Vec<Problem>,
}

impl<'a> Check<'a> {
    pub(in crate::settings) fn new(
        settings: &'a Settings,
        tree: &'a Node,
        wrong: &'a [Path],
        needs_target: bool,
    ) -> Self {
        Self {
            settings,
            tree,
            wrong,
            needs_target,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The listeners or upstreams of the tree that could be read, with their paths.
    pub(super) fn items(&self, key: &str) -> Vec<(Path, &'a Node)> {
        let below = Path(vec![Step::Key(key.to_owned())]);
        let items = self
            .tree
            .get(key)
            .map(Node::items)
            .unwrap_or_default()
            .iter()
            .enumerate();
        items
            .filter(|(_, node)| node.value != Value::Gone)
            .map(|(index, node)| (below.index(index), node))
            .collect()
    }

    /// The place of a key, or of the innermost table around it that was written where the key itself was not.
    pub(super) fn place(&self, node: &Node, key: &str) -> Place {
        if let Some(node) = node.get(key) {
            return node.place.clone();
        }
        match key.rsplit_once('.') {
            Some((table, _)) => self.place(node, table),
            // The root is the whole file: that is no place.
            None if std::ptr::eq(node, self.tree) => Place::Default,
            None => node.place.clone(),
        }
    }

    pub(super) fn is_wrong(&self, path: &Path) -> bool {
        self.wrong.iter().any(|wrong| wrong.starts_with(path))
    }

    pub(super) fn error(&mut self, place: Place, title: impl Into<String>) {
        self.problems.push(Problem::new(title, place));
    }
}
