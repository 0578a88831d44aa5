//! Turns a reading error into a diagnostic: which text is underlined, and what was probably meant.

use super::error::{Error, What};
use crate::settings::diagnostics::{Diagnostic, closest};
use crate::settings::node::{KeyPath, Node, Origin, PathStep};

/// Names of features that do not exist yet, for which no similar key is suggested.
const LATER: &[&str] = &[
    "tls",
    "fault",
    "via",
    "hop",
    "socks",
    "front",
    "drill",
    "load",
    "history",
    "slo",
    "incident",
    "upgrade",
    "proxy_protocol",
];

pub(in crate::settings) fn diagnose(error: &Error, tree: &Node) -> Diagnostic {
    let origin = tree
        .at(&error.path)
        .map_or(Origin::Default, |node| node.origin.clone());
    let key = &error.path;
    match &error.what {
        What::Message(message) => {
            let node = tree.at(&error.path);
            let value = node
                .and_then(Node::as_text)
                .unwrap_or_default()
                .escape_debug();
            match message.as_str() {
                "invalid socket address syntax" => Diagnostic::new(
                    format!("`{value}` is not an IP address with its port"),
                    origin,
                )
                .help("an address looks like 127.0.0.1:8182 or [::1]:8182"),
                _ => Diagnostic::new(message.clone(), origin),
            }
            .label(format!("`{key}`"))
        }
        What::UnknownKey(name, known) => {
            // The key is underlined, not what it is set to.
            let key_origin = key_origin(tree, key).unwrap_or(origin);
            let problem =
                Diagnostic::new(format!("unknown key `{}`", name.escape_debug()), key_origin);
            if LATER.contains(&name.as_str()) {
                return problem.help(format!(
                    "`{name}` is not available in this version; see `entryway guide`"
                ));
            }
            match closest(name, known.iter().copied()) {
                Some(close) => problem.label(format!("did you mean `{close}`?")),
                None => problem.help(format!("known keys: {}", known.join(", "))),
            }
        }
        What::UnknownWord(word, known) => {
            let problem = Diagnostic::new(
                format!(
                    "`{}` is not one of {}",
                    word.escape_debug(),
                    known.join(", ")
                ),
                origin,
            );
            match closest(word, known.iter().copied()) {
                Some(close) => problem.label(format!("did you mean `{close}`?")),
                None => problem.label(format!("`{key}`")),
            }
        }
        What::Missing(name) => {
            let written = tree.at(&error.path).and_then(Node::entries);
            let keys = written
                .into_iter()
                .flat_map(|table| table.keys().map(String::as_str));
            let problem = Diagnostic::new(format!("`{name}` is missing"), origin);
            match closest(name, keys) {
                Some(close) => problem.label(format!(
                    "`{}` is not a key; did you mean `{name}`?",
                    close.escape_debug()
                )),
                None => problem.label(format!("`{key}` needs it")),
            }
        }
    }
}

fn key_origin(tree: &Node, path: &KeyPath) -> Option<Origin> {
    let (PathStep::Key(name), above) = path.0.split_last()? else {
        return None;
    };
    let table = tree.at(&KeyPath(above.to_vec()))?.entries()?;
    table.get(name).map(|entry| entry.key.clone())
}
