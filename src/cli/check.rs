//! `entryway check`: are the settings right, and what holds? Resolves nothing, connects nowhere.

use std::io::{self, Write};

use serde_json::json;

use super::args::Output;
use crate::settings::Loaded;

/// Prints the effective settings, each with where it was set.
pub fn print(loaded: &Loaded, output: Output, to: &mut dyn Write) -> io::Result<()> {
    match output {
        Output::Json => {
            let document = json!({
                "schema_version": 1,
                "ok": true,
                "file": loaded.file(),
                "warnings": loaded.warnings,
                "settings": loaded.effective(),
            });
            writeln!(to, "{document:#}")
        }
        Output::Text => {
            let lines = loaded.lines();
            let width = |pick: fn(&(String, String, String)) -> &String, most: usize| {
                lines
                    .iter()
                    .map(|line| pick(line).chars().count())
                    .max()
                    .unwrap_or(0)
                    .min(most)
            };
            let (key_width, value_width) = (width(|line| &line.0, 60), width(|line| &line.1, 40));
            for (key, value, source) in &lines {
                writeln!(to, "{key:key_width$}  {value:value_width$}  {source}")?;
            }
            writeln!(to, "ok: {}", summary(loaded))
        }
    }
}

fn summary(loaded: &Loaded) -> String {
    let count = |number: usize, what: &str| {
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    let settings = &loaded.settings;
    let mut text = format!(
        "{}, {}",
        count(settings.listeners.len(), "listener"),
        count(settings.upstreams.len(), "upstream")
    );
    if !loaded.warnings.is_empty() {
        text.push_str(&format!(", {}", count(loaded.warnings.len(), "warning")));
    }
    text
}
