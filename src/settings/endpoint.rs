//! The short form of an endpoint, `HOST:PORT?zone=Z&name=N`, and what a name may look like. What a host may look like
//! is decided by `crate::addr`.

use super::diagnostics::{Diagnostic, closest};
use super::node::{Node, NodeValue, Origin};

/// Splits the short form of an endpoint into the table that a file would hold.
pub(super) fn from_text(text: &str, origin: &Origin) -> Result<Node, Diagnostic> {
    let (address, query) = text.split_once('?').unwrap_or((text, ""));
    let mut node = Node::table(origin.clone());
    node.set("address", Node::text(origin.clone(), address));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "zone" | "name" if !value.is_empty() => {
                node.set(key, Node::text(origin.clone(), value))
            }
            "zone" | "name" => {
                return Err(Diagnostic::new(
                    format!("`{key}=` in `{}` has no value", text.escape_debug()),
                    origin.clone(),
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
                return Err(Diagnostic::new(title, origin.clone()).help(known));
            }
        }
    }
    Ok(node)
}

/// A `via` that was written in its short form, a text, becomes the table that it stands for.
fn normalise_via(table: &mut Node) {
    let via = table.entries_mut().and_then(|table| table.get_mut("via"));
    if let Some(entry) = via
        && let Some(text) = entry.node.as_text().map(str::to_owned)
    {
        let origin = entry.node.origin.clone();
        let mut node = Node::table(origin.clone());
        node.set("url", Node::text(origin, text));
        entry.node = node;
    }
}

/// Turns endpoints that were written in the short form, or alone, into a list of tables.
pub(super) fn normalise(upstream: &mut Node, problems: &mut Vec<Diagnostic>) {
    normalise_via(upstream);
    let Some(entry) = upstream
        .entries_mut()
        .and_then(|table| table.get_mut("endpoint"))
    else {
        return;
    };
    let origin = entry.node.origin.clone();
    let items = entry.node.items().to_vec();
    let tables = items.into_iter().map(|item| match item.as_text() {
        Some(text) => from_text(text, &item.origin).unwrap_or_else(|problem| {
            problems.push(problem);
            Node {
                origin: item.origin.clone(),
                value: NodeValue::Invalid,
            }
        }),
        None => {
            let mut table = item;
            normalise_via(&mut table);
            table
        }
    });
    entry.node = Node {
        origin,
        value: NodeValue::List(tables.collect()),
    };
}
