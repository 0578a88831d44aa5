//! Renders the guide's Markdown for a terminal: text wrapped to its width, tables that do not fit as lists.
//!
//! Understands what the guide's pages use (headings, paragraphs, lists, tables, code blocks, links) and passes
//! everything else through as text. Where the output is no terminal the pages are printed as they are.

use std::fmt::Write as _;

/// Columns where the terminal's width is not known.
pub const DEFAULT_WIDTH: usize = 80;
const NARROWEST: usize = 40;
/// Longer lines are hard to read, however wide the terminal is.
const WIDEST: usize = 110;

pub fn render(markdown: &str, width: usize) -> String {
    let width = width.clamp(NARROWEST, WIDEST);
    let mut out = String::new();
    let mut lines = markdown.lines().peekable();
    let mut paragraph = Paragraph::default();
    while let Some(line) = lines.next() {
        let text = line.trim();
        if text.starts_with("```") {
            paragraph.flush(&mut out, width);
            for code in lines
                .by_ref()
                .take_while(|line| !line.trim().starts_with("```"))
            {
                let _ = writeln!(out, "    {code}");
            }
        } else if text.starts_with('|') {
            paragraph.flush(&mut out, width);
            let mut rows = vec![cells(text)];
            while let Some(row) = lines.next_if(|line| line.trim().starts_with('|')) {
                rows.push(cells(row.trim()));
            }
            table(&rows, width, &mut out);
        } else if text.is_empty() {
            paragraph.flush(&mut out, width);
            out.push('\n');
        } else if let Some(heading) = text.strip_prefix('#') {
            paragraph.flush(&mut out, width);
            let heading = plain(heading.trim_start_matches('#').trim());
            let underline = if text.starts_with("##") { "-" } else { "=" };
            let _ = writeln!(out, "{heading}\n{}", underline.repeat(columns(&heading)));
        } else if let Some(indent) = item_indent(line) {
            paragraph.flush(&mut out, width);
            paragraph.indent = indent;
            paragraph.add(text);
        } else {
            paragraph.add(text);
        }
    }
    paragraph.flush(&mut out, width);
    out
}

/// Text that is collected until it is wrapped.
#[derive(Default)]
struct Paragraph {
    words: Vec<String>,
    /// Columns that lines after the first are indented by.
    indent: usize,
}

// === impl Paragraph ===

impl Paragraph {
    fn add(&mut self, text: &str) {
        self.words
            .extend(plain(text).split_whitespace().map(str::to_owned));
    }

    fn flush(&mut self, out: &mut String, width: usize) {
        let words = std::mem::take(&mut self.words);
        let indent = std::mem::take(&mut self.indent);
        wrap(&words, "", indent, width, out);
    }
}

/// Writes words in lines of at most `width` columns; a longer word gets a line of its own.
fn wrap(words: &[String], start: &str, indent: usize, width: usize, out: &mut String) {
    if words.is_empty() {
        return;
    }
    let mut line = start.to_owned();
    let mut is_empty = true;
    for word in words {
        if !is_empty && columns(&line) + 1 + columns(word) > width {
            let _ = writeln!(out, "{}", line.trim_end());
            line = " ".repeat(indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

/// The indentation behind the mark of a list item.
fn item_indent(line: &str) -> Option<usize> {
    let text = line.trim_start();
    if text.starts_with("- ") {
        return Some(2);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0 && text[digits..].starts_with(". ")).then_some(digits + 2)
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

fn cells(row: &str) -> Vec<String> {
    // A bar inside a cell is written `\|`.
    let row = row.trim_matches('|').replace("\\|", "\u{1}");
    row.split('|')
        .map(|cell| plain(cell.trim()).replace('\u{1}', "|"))
        .collect()
}

/// A table as columns where it fits, else each row as a block of lines.
fn table(rows: &[Vec<String>], width: usize, out: &mut String) {
    let is_rule = |row: &[String]| {
        row.iter()
            .all(|cell| cell.chars().all(|c| "-: ".contains(c)))
    };
    let rows: Vec<&Vec<String>> = rows.iter().filter(|row| !is_rule(row)).collect();
    let Some((head, body)) = rows.split_first() else {
        return;
    };
    let count = rows.iter().map(|row| row.len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..count)
        .map(|index| {
            rows.iter()
                .filter_map(|row| row.get(index))
                .map(|cell| columns(cell))
                .max()
                .unwrap_or_default()
        })
        .collect();
    if widths.iter().sum::<usize>() + 2 * count.saturating_sub(1) <= width {
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell}{}  ", " ".repeat(width - columns(cell)));
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        return;
    }
    for row in body {
        let mut cells = row.iter().zip(head.iter());
        if let Some((first, name)) = cells.next() {
            let first = if first.is_empty() { name } else { first };
            let words: Vec<String> = first.split_whitespace().map(str::to_owned).collect();
            wrap(&words, "* ", 2, width, out);
        }
        for (cell, name) in cells.filter(|(cell, _)| !cell.is_empty()) {
            let words: Vec<String> = cell.split_whitespace().map(str::to_owned).collect();
            let start = if name.is_empty() {
                "    ".to_owned()
            } else {
                format!("    {name}: ")
            };
            wrap(&words, &start, 6, width, out);
        }
    }
}

/// Without the marks of links and emphasis; backticks stay, because they tell commands from words.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        match after
            .split_once("](")
            .and_then(|(name, after)| Some((name, after.split_once(')')?)))
        {
            Some((name, (_, after))) if !name.contains('[') => {
                out.push_str(before);
                out.push_str(name);
                rest = after;
            }
            _ => {
                out.push_str(before);
                out.push('[');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.replace("**", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fit_the_terminal() {
        let page = "# A page\n\nSome **long** paragraph with a [link](https://example.com/very/long) and `code in it`\nthat goes on and on.\n\n\
            1. first item with more words than fit into one line of forty columns\n\n| a | b |\n| --- | --- |\n| x | y\\|z |\n\n```sh run\nentryway demo\n```\n";
        let text = render(page, 40);
        assert!(text.lines().all(|line| columns(line) <= 40), "{text}");
        assert!(
            text.starts_with("A page\n======\n\nSome long paragraph with a link and"),
            "{text}"
        );
        assert!(text.contains("\n   into one line"), "{text}");
        assert!(text.contains("a  b\nx  y|z\n"), "{text}");
        assert!(
            text.contains("\n    entryway demo\n") && !text.contains("```"),
            "{text}"
        );
    }

    #[test]
    fn tables_that_do_not_fit_become_lists() {
        let page = "| what you see | check |\n| --- | --- |\n| a connect that times out in every zone | the security group of the endpoint |\n";
        let text = render(page, 40);
        assert_eq!(
            text,
            "* a connect that times out in every zone\n    check: the security group of the\n      endpoint\n"
        );
    }
}
