//! The page `reference-settings.md`, made of `config/reference.toml`, the flags and the ranges.

use std::fmt::Write as _;

use super::*;
use crate::guide;
use crate::settings::effective::NEEDS_RESTART;
use crate::settings::ranges::RANGES;

/// One key of the reference file.
struct Key {
    /// With its table: `upstream.tcp.keepalive`.
    path: String,
    default: Option<String>,
    meaning: String,
}

enum Item {
    Table { header: String, about: String },
    Key(Key),
}

fn items() -> Vec<Item> {
    let mut items = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut table = String::new();
    for line in REFERENCE.lines() {
        let bare = line.strip_prefix('#').unwrap_or(line);
        if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
            continue;
        }
        let about = std::mem::take(&mut comment).join(" ");
        if bare.starts_with('[') {
            let header = bare.split("  #").next().unwrap().to_owned();
            table = header.trim_matches(['[', ']']).to_owned();
            items.push(Item::Table { header, about });
        } else if let Some((name, value)) = bare.split_once(" = ") {
            let path = match table.is_empty() {
                true => name.to_owned(),
                false => format!("{table}.{name}"),
            };
            let default = (!value.ends_with("# no default")).then(|| value.to_owned());
            items.push(Item::Key(Key {
                path,
                default,
                meaning: about,
            }));
        }
    }
    items
}

#[test]
fn the_reference_page_lists_every_key() {
    let mut page = String::new();
    for item in items() {
        match item {
            Item::Table { header, about } => {
                writeln!(page, "\n### {header}\n\n{}", guide::wrap(&about, "")).unwrap();
            }
            Item::Key(key) => {
                let default = key.default.map_or_else(
                    || "no default".to_owned(),
                    |value| format!("default `{value}`"),
                );
                writeln!(page, "- `{}`, {default}", key.path).unwrap();
                let mut text = key.meaning;
                if let Some((_, range)) = RANGES.iter().find(|(path, _)| *path == key.path) {
                    text.push_str(&format!(" It {}.", range.rule()));
                }
                if let Some(flag) = flags::FLAGS.iter().find(|flag| flag.path == key.path) {
                    text.push_str(&format!(
                        " Flag `--{}`, variable `{}`.",
                        flag.long,
                        flag.variable()
                    ));
                }
                let restart = NEEDS_RESTART.iter().any(|prefix| {
                    key.path
                        .strip_prefix(prefix)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                });
                if restart {
                    text.push_str(" A change needs a restart.");
                }
                page.push_str(&guide::wrap(&text, "  "));
            }
        }
    }
    let page = page.replace("\n\n\n", "\n\n");
    guide::check_generated("reference-settings.md", "keys", &page);
}

#[test]
fn every_key_of_the_reference_has_a_meaning_of_its_own() {
    for item in items() {
        if let Item::Key(key) = item {
            assert!(
                !key.meaning.is_empty(),
                "{}: a comment above each key",
                key.path
            );
        }
    }
}
