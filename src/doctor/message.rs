//! Explains what the application printed (`doctor --message`): pure text in, rows of a table out.
//!
//! These symptoms show up in the Datomic client and nowhere else. The input may be one message, a stack trace or a
//! whole log. Code locations are removed first, because the name of the function that threw says nothing about the
//! cause (`get-s3-auth-path` throws for every failed connect). A row matches when all words of one of its sets occur
//! close together; rows are ordered from the specific to the general, and the first match is the answer. A text that
//! matches no row is reported as unknown.

mod table;

pub use table::ROWS;

/// One message that applications print.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Identifier for programs and for the guide.
    pub id: &'static str,
    /// Lower-case words; a text matches if it contains all words of one set, at most [`WINDOW`] bytes apart.
    words: &'static [&'static [&'static str]],
    /// The message as the application prints it.
    pub message: &'static str,
    pub meaning: &'static str,
    /// Most likely first.
    pub causes: &'static [&'static str],
    pub steps: &'static [&'static str],
}

/// Words of one set belong to one message only if they are this close; a log holds many messages.
const WINDOW: usize = 400;

/// Shorter words match only as whole words (`busy`, but not `busybox`).
const WHOLE_WORD_BELOW: usize = 6;

/// What to say about a text that matches no row.
pub const UNKNOWN: &str = "this message is not in the table, so its cause is not known; `entryway doctor` without \
    --message examines the network itself, and the conn.close lines of the log say how connections ended";

/// All rows that match, the most specific first.
pub fn explain(text: &str) -> Vec<&'static Row> {
    let text = normalize(text);
    ROWS.iter()
        .filter(|row| row.words.iter().any(|set| contains_all(&text, set)))
        .collect()
}

/// Lower case, code locations removed, and any white space one blank, because printed messages come wrapped.
fn normalize(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !is_frame(line)) {
        for word in remove_location(line).split_whitespace() {
            normal.push_str(&word.to_lowercase());
            normal.push(' ');
        }
    }
    normal.truncate(normal.trim_end().len());
    normal
}

/// A line of a stack trace: `at a.b.C.d(C.java:12)`, `... 12 more`, or Clojure's `[a.b$c invoke "c.clj" 12]`.
fn is_frame(line: &str) -> bool {
    let line = line.trim_start();
    let java = line.strip_prefix("at ").is_some_and(|rest| {
        let name = rest.split('(').next().unwrap_or_default();
        rest.contains('(') && !name.trim_end().contains(' ') && name.contains(['.', '/', '$'])
    });
    let more = line.starts_with("... ") && line.trim_end().ends_with(" more");
    let line = line.trim_start_matches([':', '[', '{', '(']).trim_end();
    let line = line.trim_end_matches([']', '}', ')', ',']);
    let mut fields = line.split_whitespace();
    let (name, method, file, number) = (fields.next(), fields.next(), fields.next(), fields.next());
    let vector = name.is_some_and(|name| name.contains(['.', '$']))
        && method.is_some_and(|method| !method.contains('"'))
        && file.is_some_and(|file| file.starts_with('"') && file.ends_with('"'))
        && number.is_some_and(|number| number.parse::<i64>().is_ok())
        && fields.next().is_none();
    java || more || vector
}

/// Removes ` at namespace/function (file.clj:12).` from a line, as the REPL's `Execution error` has it.
fn remove_location(line: &str) -> String {
    let mut rest = line;
    let mut kept = String::with_capacity(line.len());
    while let Some((before, after)) = rest.split_once(" at ") {
        let name = after.split_whitespace().next().unwrap_or_default();
        let behind = after.get(name.len()..).unwrap_or_default().trim_start();
        let place = behind
            .strip_prefix('(')
            .and_then(|text| text.split_once(')'));
        kept.push_str(before);
        match place {
            Some((file, after)) if name.contains(['/', '.', '$']) && file.contains(':') => {
                rest = after
            }
            _ => {
                kept.push_str(" at ");
                rest = after;
            }
        }
    }
    kept.push_str(rest);
    kept
}

fn contains_all(text: &str, set: &[&str]) -> bool {
    let Some((first, others)) = set.split_first() else {
        return false;
    };
    occurrences(text, first).any(|at| {
        let from = floor(text, at.saturating_sub(WINDOW));
        let until = floor(text, (at + WINDOW).min(text.len()));
        let near = text.get(from..until).unwrap_or_default();
        others
            .iter()
            .all(|word| occurrences(near, word).next().is_some())
    })
}

/// Where a text contains a word; short words count only as whole words.
fn occurrences<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    let inside = |c: char| c.is_ascii_alphanumeric();
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            word.len() >= WHOLE_WORD_BELOW
                || !text[..*at].chars().next_back().is_some_and(inside)
                    && !text[at + word.len()..].chars().next().is_some_and(inside)
        })
}

/// The nearest character boundary at or below an index.
fn floor(text: &str, mut index: usize) -> usize {
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests;
