//! The short form of an endpoint, `HOST:PORT?zone=Z&name=N`, and what a name may look like. What a place may look like
//! is `crate::addr`'s knowledge.

use super::report::{Problem, closest};
use super::tree::{Node, Place, Value};

/// Splits the short form of an endpoint into the table that a file would hold.
pub(super) fn from_text(text: &str, place: &Place) -> Result<Node, Problem> {
    let (address, query) = text.split_once('?').unwrap_or((text, ""));
    let mut node = Node::table(place.clone());
    node.set("address", Node::text(place.clone(), address));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "zone" | "name" if !value.is_empty() => node.set(key, Node::text(place.clone(), value)),
            "zone" | "name" => {
                return Err(Problem::new(
                    format!("`{key}=` in `{}` has no value", text.escape_debug()),
                    place.clone(),
                ));
            }
            _ => {
                let title = format!(
                    "`{}` in `{}` is not known",
                    key.escape_debug(),
                    text.escape_debug()
                );
                let known = closest(key, ["zone", "name"]).map_or_else(
                    || "an endpoint is HOST:PORT, then ?zone=Z&name=N where wanted".to_owned(),
                    |close| format!("did you mean `{close}`?"),
                );
                return Err(Problem::new(title, place.clone()).help(known));
            }
        }
    }
    Ok(node)
}

/// Turns endpoints that were written in the short form, or alone, into a list of tables.
pub(super) fn normalise(upstream: &mut Node, problems: &mut Vec<Problem>) {
    let Some(entry) = upstream
        .entries_mut()
        .and_then(|table| table.get_mut("endpoint"))
    else {
        return;
    };
    let place = entry.node.place.clone();
    let items = entry.node.items().to_vec();
    let tables = items.into_iter().map(|item| match item.as_text() {
        Some(text) => from_text(text, &item.place).unwrap_or_else(|problem| {
            problems.push(problem);
            Node {
                place: item.place.clone(),
                value: Value::Gone,
            }
        }),
        None => item,
    });
    entry.node = Node {
        place,
        value: Value::List(tables.collect()),
    };
}

/// Whether a listener, an upstream, an endpoint or a zone can be called so: the name becomes a metric label, a part of
/// a path and a word of a command line.
pub(super) fn check_label(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    match name.chars().find(|c| !fine(*c)) {
        Some(c) => Err(format!(
            "`{}` cannot be a name: `{}` is not allowed in one",
            name.escape_debug(),
            c.escape_debug()
        )),
        None if name.is_empty() => Err("a name cannot be empty".to_owned()),
        None if name.len() > 253 => Err("a name cannot be longer than 253 bytes".to_owned()),
        None => Ok(()),
    }
}
