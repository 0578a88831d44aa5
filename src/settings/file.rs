//! The settings file: read, checked to be text, and parsed into a tree whose values know their position.

use std::io::{self, Read};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Diagnostic;
use super::node::{Node, NodeValue, Origin, Table, TableEntry};
use super::source_file::SourceFile;
use crate::sandbox;

/// Largest settings file.
const MAX_SIZE: u64 = 1024 * 1024;

/// Syntax errors that are shown: what follows the first ones is mostly their consequence.
const MAX_SYNTAX_ERRORS: usize = 3;

/// Reads the text of a regular file. Opening does not wait, so that a FIFO without a writer is refused as well.
pub(super) fn load(name: &str) -> Result<SourceFile, Diagnostic> {
    let mut bytes = Vec::new();
    let file = sandbox::open(Path::new(name)).map_err(|error| unreadable(name, &error))?;
    let kind = file
        .metadata()
        .map_err(|error| unreadable(name, &error))?
        .file_type();
    if kind.is_dir() {
        return Err(unreadable(name, &io::ErrorKind::IsADirectory.into()));
    }
    if !kind.is_file() {
        return Err(Diagnostic::bare(format!("{name} is not a regular file"))
            .help("a reload reads the file again, which pipes and devices do not allow; save it to a file"));
    }
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(name, &error))?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(Diagnostic::bare(format!(
            "{name} is larger than 1 MiB; that is not a settings file"
        )));
    }
    if bytes.contains(&0) {
        return Err(Diagnostic::bare(format!(
            "{name} is a binary file, not TOML"
        )));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Diagnostic::bare(format!("{name}:{line} is not UTF-8 text"))
            .help("save the file as UTF-8, the only encoding of TOML")
    })?;
    if text.trim().is_empty() {
        return Err(Diagnostic::bare(format!("{name} is empty"))
            .help("start from one of the samples in config/, or omit --config"));
    }
    Ok(SourceFile {
        name: name.to_owned(),
        text: text.into(),
    })
}

/// Parses the text. Syntax errors are returned beside what could be parsed.
pub(super) fn parse(source: &SourceFile) -> (Node, Vec<Diagnostic>) {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty()
        && let Some(language) = other_language(&source.text)
    {
        let problem = Diagnostic::bare(format!(
            "{} is {language}; a settings file is TOML",
            source.name
        ));
        let help = "TOML looks like: [upstream] and below it endpoint = \"HOST:8182\"; samples are in config/";
        return (Node::table(Origin::Default), vec![problem.help(help)]);
    }
    let problems = errors
        .iter()
        .take(MAX_SYNTAX_ERRORS)
        .map(|error| {
            let span = error.span().unwrap_or(0..0);
            Diagnostic::new(error.message(), Origin::File(span))
        })
        .collect();
    let span = table.span();
    (convert(span, DeValue::Table(table.into_inner())), problems)
}

/// The language of a text that is not TOML, where its first line gives it away.
fn other_language(text: &str) -> Option<&'static str> {
    let mut lines = text.lines().map(str::trim_end);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let key = first.split_once(':').filter(|(key, value)| {
        let is_key = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        !key.is_empty() && key.chars().all(is_key) && (value.is_empty() || value.starts_with(' '))
    });
    match first.trim_start() {
        "---" => Some("YAML"),
        first if first.starts_with('{') => Some("JSON"),
        "[" => Some("JSON"),
        _ if key.is_some() => Some("YAML"),
        _ => None,
    }
}

fn unreadable(name: &str, error: &io::Error) -> Diagnostic {
    use io::ErrorKind;
    let problem = Diagnostic::bare(format!("cannot read {name}: {}", lower(&error.to_string())));
    match error.kind() {
        ErrorKind::NotFound => problem
            .help("give the path of an existing file with --config; there is no default location"),
        ErrorKind::PermissionDenied => {
            problem.help("the user that entryway runs as must be allowed to read it")
        }
        ErrorKind::IsADirectory => problem.help("give the path of a file, not of a directory"),
        _ => problem,
    }
}

/// The text of a system error without its number, in lower case like all messages here.
fn lower(text: &str) -> String {
    let text = text.split(" (os error").next().unwrap_or(text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

fn convert(span: std::ops::Range<usize>, value: DeValue<'_>) -> Node {
    let value = match value {
        DeValue::String(text) => NodeValue::Text(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(
                |_| NodeValue::Other("a number that is too large".to_owned()),
                NodeValue::Int,
            ),
        DeValue::Float(number) => number.as_str().parse().map_or_else(
            |_| NodeValue::Other("a number that cannot be parsed".to_owned()),
            NodeValue::Float,
        ),
        DeValue::Boolean(yes) => NodeValue::Bool(yes),
        DeValue::Datetime(_) => NodeValue::Other("a date".to_owned()),
        DeValue::Array(items) => NodeValue::List(items.into_iter().map(item).collect()),
        DeValue::Table(table) => NodeValue::Table(entries(table)),
    };
    Node {
        origin: Origin::File(span),
        value,
    }
}

fn item(spanned: Spanned<DeValue<'_>>) -> Node {
    convert(spanned.span(), spanned.into_inner())
}

fn entries(table: DeTable<'_>) -> Table {
    let entry = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, _)| {
        let key_origin = Origin::File(key.span());
        (
            key.into_inner().into_owned(),
            TableEntry {
                key: key_origin,
                node: item(value),
            },
        )
    };
    table.into_iter().map(entry).collect()
}
