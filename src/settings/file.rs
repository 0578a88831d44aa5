//! The settings file: read, checked to be text, parsed into a tree whose values know their bytes.

use std::fs::File;
use std::io::Read;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Problem;
use super::source::Source;
use super::tree::{Entry, Node, Place, Table, Value};

/// Nobody writes that much by hand; it keeps `--config /dev/zero` from eating the memory.
const LARGEST: u64 = 1024 * 1024;

/// Reads the text of a file.
pub(super) fn load(name: &str) -> Result<Source, Problem> {
    let mut bytes = Vec::new();
    File::open(name)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(name, &error))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Problem::bare(format!(
            "{name} is larger than 1 MiB; that is no settings file"
        )));
    }
    if bytes.contains(&0) {
        return Err(Problem::bare(format!("{name} is a binary file, not TOML")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Problem::bare(format!("{name}:{line} is not UTF-8 text"))
            .help("save the file as UTF-8; TOML knows no other encoding")
    })?;
    if text.trim().is_empty() {
        return Err(Problem::bare(format!("{name} is empty"))
            .help("start from one of the samples in config/, or leave out --config"));
    }
    Ok(Source {
        name: name.to_owned(),
        text: text.into(),
    })
}

/// Parses the text; syntax errors come back beside whatever could be understood.
pub(super) fn parse(source: &Source) -> (Node, Vec<Problem>) {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    let problems = errors
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(0..0);
            Problem::new(error.message(), Place::File(span))
        })
        .collect();
    let span = table.span();
    (convert(span, DeValue::Table(table.into_inner())), problems)
}

fn unreadable(name: &str, error: &std::io::Error) -> Problem {
    use std::io::ErrorKind;
    let problem = Problem::bare(format!("cannot read {name}: {}", lower(&error.to_string())));
    match error.kind() {
        ErrorKind::NotFound => problem.help(
            "give the path of a file with --config, or leave it out: no file is searched for",
        ),
        ErrorKind::PermissionDenied => {
            problem.help("the user that entryway runs as must be allowed to read it")
        }
        ErrorKind::IsADirectory => problem.help("give the path of a file, not of a folder"),
        _ => problem,
    }
}

/// The system's words without its number, beginning small as all our messages do.
fn lower(text: &str) -> String {
    let text = text.split(" (os error").next().unwrap_or(text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

fn convert(span: std::ops::Range<usize>, value: DeValue<'_>) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(
                |_| Value::Other("a number that is too large".to_owned()),
                Value::Int,
            ),
        DeValue::Float(number) => number.as_str().parse().map_or_else(
            |_| Value::Other("a number that is none".to_owned()),
            Value::Float,
        ),
        DeValue::Boolean(yes) => Value::Bool(yes),
        DeValue::Datetime(_) => Value::Other("a date".to_owned()),
        DeValue::Array(items) => Value::List(items.into_iter().map(item).collect()),
        DeValue::Table(table) => Value::Table(entries(table)),
    };
    Node {
        place: Place::File(span),
        value,
    }
}

fn item(spanned: Spanned<DeValue<'_>>) -> Node {
    convert(spanned.span(), spanned.into_inner())
}

fn entries(table: DeTable<'_>) -> Table {
    let entry = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, _)| {
        let key_place = Place::File(key.span());
        (
            key.into_inner().into_owned(),
            Entry {
                key: key_place,
                node: item(value),
            },
        )
    };
    table.into_iter().map(entry).collect()
}
