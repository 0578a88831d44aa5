//! Reading errors in the words of a report: which place is underlined, and what to guess.

use super::read::{self, What};
use super::report::{Problem, closest};
use super::tree::{Node, Path, Place, Step};

/// Names of features that do not exist yet: such a key deserves a better answer than a guess.
const LATER: &[&str] = &[
    "tls",
    "gateway",
    "faults",
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

/// A reading error in the words of a report.
pub(super) fn explain(error: &read::Error, tree: &Node) -> Problem {
    let place = tree
        .at(&error.path)
        .map_or(Place::Default, |node| node.place.clone());
    let key = &error.path;
    match &error.what {
        What::Message(message) => {
            let node = tree.at(&error.path);
            let value = node
                .and_then(Node::as_text)
                .unwrap_or_default()
                .escape_debug();
            match message.as_str() {
                "invalid socket address syntax" => Problem::new(
                    format!("`{value}` is not an IP address with its port"),
                    place,
                )
                .help("an address looks like 127.0.0.1:8182 or [::1]:8182"),
                _ => Problem::new(message.clone(), place),
            }
            .label(format!("`{key}`"))
        }
        What::UnknownKey(name, known) => {
            // The key is underlined, not what it is set to.
            let key_place = key_place(tree, key).unwrap_or(place);
            let problem = Problem::new(format!("unknown key `{}`", name.escape_debug()), key_place);
            if LATER.contains(&name.as_str()) {
                return problem.help(format!(
                    "`{name}` does not exist in this version; see `entryway guide`"
                ));
            }
            match closest(name, known.iter().copied()) {
                Some(close) => problem.label(format!("did you mean `{close}`?")),
                None => problem.help(format!("known here: {}", known.join(", "))),
            }
        }
        What::UnknownWord(word, known) => {
            let problem = Problem::new(
                format!("`{}` is none of {}", word.escape_debug(), known.join(", ")),
                place,
            );
            match closest(word, known.iter().copied()) {
                Some(close) => problem.label(format!("did you mean `{close}`?")),
                None => problem.label(format!("`{key}`")),
            }
        }
        What::Missing(name) => {
            Problem::new(format!("`{name}` is missing"), place).label(format!("`{key}` needs it"))
        }
    }
}

fn key_place(tree: &Node, path: &Path) -> Option<Place> {
    let (Step::Key(name), above) = path.0.split_last()? else {
        return None;
    };
    let table = tree.at(&Path(above.to_vec()))?.entries()?;
    table.get(name).map(|entry| entry.key.clone())
}
