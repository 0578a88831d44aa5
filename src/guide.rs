//! The reference: what users, scripts and dashboards may rely on, as pages that `entryway guide reference` prints.
//!
//! Parts of the pages are generated from tables of the code (keys, flags, exit codes, metrics, events). They are
//! committed, and a test compares them with their table; `ENTRYWAY_BLESS=1 cargo test --lib reference` rewrites them.

pub mod markdown;

/// Every page: its part, what it is about, and its text.
pub const REFERENCE: &[(&str, &str, &str)] = &[
    (
        "settings",
        "every key, flag and variable, with defaults",
        include_str!("guide/reference-settings.md"),
    ),
    (
        "cli",
        "commands, flags and exit codes",
        include_str!("guide/reference-cli.md"),
    ),
    (
        "behaviour",
        "what is guaranteed for connections, health and shutdown",
        include_str!("guide/reference-behaviour.md"),
    ),
    (
        "metrics",
        "every metric with its labels",
        include_str!("guide/reference-metrics.md"),
    ),
    (
        "events",
        "log lines, their fields, and why connections end",
        include_str!("guide/reference-events.md"),
    ),
    (
        "api",
        "the admin API, with examples",
        include_str!("guide/reference-api.md"),
    ),
];

/// Lines that mark generated parts are for the test below, not for readers.
pub fn without_markers(page: &str) -> String {
    page.split_inclusive('\n')
        .filter(|line| !line.trim_start().starts_with("<!--"))
        .collect()
}

/// Compares a generated part of a page, between `<!-- generated: NAME -->` and `<!-- end -->`, with what the code's
/// table makes of it; rewrites it where `ENTRYWAY_BLESS` is set.
#[cfg(test)]
pub(crate) fn check_generated(file: &str, name: &str, generated: &str) {
    use std::sync::{Mutex, PoisonError};
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = format!("{}/src/guide/{file}", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- generated: {name} -->\n");
    let from = page
        .find(&begin)
        .unwrap_or_else(|| panic!("{file} has no line {begin}"))
        + begin.len();
    let to = from + page[from..].find("<!-- end -->").expect("<!-- end -->");
    let wanted = format!("\n{}\n\n", generated.trim());
    if page[from..to] == wanted {
        return;
    }
    assert!(
        std::env::var_os("ENTRYWAY_BLESS").is_some(),
        "src/guide/{file}, part {name}, differs from the code; `ENTRYWAY_BLESS=1 cargo test --lib reference` rewrites it:\n{generated}"
    );
    let page = [&page[..from], &wanted, &page[to..]].concat();
    std::fs::write(&path, page).unwrap();
}

/// Breaks text into lines of at most 100 columns, each behind `indent`.
#[cfg(test)]
pub(crate) fn wrap(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if !line.is_empty() && indent.len() + line.chars().count() + 1 + word.chars().count() > 100
        {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
        .iter()
        .map(|line| format!("{indent}{line}\n"))
        .collect()
}
