//! The settings with the source of every value, made when they are loaded.

use serde_json::{Map, Value as Json, json};

use super::model::Settings;
use super::node::{KeyPath, Node, Origin};

/// The settings as nested `{value, source}`. `source` puts an origin into words.
pub(super) fn with_sources(
    settings: &Settings,
    tree: &Node,
    source: impl Fn(&Origin) -> String,
) -> Json {
    let mut settings = settings.clone();
    let mut origins = tree.clone();
    for (index, upstream) in settings.upstreams.iter_mut().enumerate() {
        let dwell = upstream.failback.dwell();
        if dwell != upstream.failback.dwell {
            // A short `after` lowers `dwell`: shown as it is in force, with the source of what lowered it.
            upstream.failback.dwell = dwell;
            let table = KeyPath::default().key("upstream").index(index);
            if let Some(node) = origins.at_mut(&table)
                && let Some(after) = node.get("failback.after").cloned()
            {
                node.set("failback.dwell", after);
            }
        }
    }
    let all = serde_json::to_value(&settings).unwrap_or_default();
    annotate(all, &origins, &KeyPath::default(), &source)
}

fn annotate(value: Json, tree: &Node, at: &KeyPath, source: &impl Fn(&Origin) -> String) -> Json {
    match value {
        Json::Object(entries) => {
            let entries = entries
                .into_iter()
                .map(|(key, value)| {
                    let value = annotate(value, tree, &at.key(&key), source);
                    (key, value)
                })
                .collect::<Map<_, _>>();
            Json::Object(entries)
        }
        Json::Array(items) if items.iter().any(Json::is_object) => {
            let items = items.into_iter().enumerate();
            Json::Array(
                items
                    .map(|(index, item)| annotate(item, tree, &at.index(index), source))
                    .collect(),
            )
        }
        value => {
            let origin = tree.at(at).map_or(&Origin::Default, |node| &node.origin);
            json!({"value": value, "source": source(origin)})
        }
    }
}
