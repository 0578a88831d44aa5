//! `entryway guide [TOPIC]`: the documentation by task, on the machine that has the trouble.

use std::io::{self, IsTerminal, Write};

use super::error::{CliError, code};
use crate::guide::{self, markdown};

/// Every topic: its word, what it is about, its text.
pub const TOPICS: &[(&str, &str, &str)] = &[
    (
        "start",
        "the first five minutes",
        include_str!("../guide/start.md"),
    ),
    (
        "choose",
        "which way leads to which release of Datomic Cloud",
        include_str!("../guide/choose.md"),
    ),
    (
        "endpoint",
        "from another VPC through a VPC endpoint",
        include_str!("../guide/endpoint.md"),
    ),
    (
        "peering",
        "from another VPC through VPC peering",
        include_str!("../guide/peering.md"),
    ),
    (
        "current",
        "a VPC endpoint for releases 884 and later",
        include_str!("../guide/current.md"),
    ),
    (
        "gateway",
        "API Gateway or a private way",
        include_str!("../guide/gateway.md"),
    ),
    (
        "client-map",
        "from an application's client map, nested and tagged ones too",
        include_str!("../guide/client-map.md"),
    ),
    (
        "query-groups",
        "query groups, each on a port of its own",
        include_str!("../guide/query-groups.md"),
    ),
    (
        "sidecar",
        "Kubernetes, ECS, systemd, and one command for all",
        include_str!("../guide/sidecar.md"),
    ),
    (
        "laptop",
        "on a developer's machine",
        include_str!("../guide/laptop.md"),
    ),
    (
        "remote",
        "reach the VPC from outside with client certificates",
        include_str!("../guide/remote.md"),
    ),
    (
        "load",
        "in front of a load test",
        include_str!("../guide/load.md"),
    ),
    (
        "faults",
        "break connections on purpose, with Toxiproxy's API",
        include_str!("../guide/faults.md"),
    ),
    (
        "drill",
        "rehearse an outage, with a verdict",
        include_str!("../guide/drill.md"),
    ),
    (
        "security",
        "who may do what on which port",
        include_str!("../guide/security.md"),
    ),
    (
        "troubleshoot",
        "by symptom",
        include_str!("../guide/troubleshoot.md"),
    ),
];

/// The topic whose parts are the pages of [`guide::REFERENCE`].
const REFERENCE: &str = "reference";

/// Prints a topic, or the list of topics; of the reference one part, or all.
pub fn print(topic: Option<&str>, part: Option<&str>, to: &mut dyn Write) -> Result<u8, CliError> {
    let Some(topic) = topic else {
        for (word, about, _) in TOPICS {
            writeln!(to, "entryway guide {word:<14} {about}")?;
        }
        for (part, about, _) in guide::REFERENCE {
            writeln!(to, "entryway guide {REFERENCE} {part:<9} {about}")?;
        }
        return Ok(0);
    };
    if topic == REFERENCE {
        return reference(part, to);
    }
    if let Some(part) = part {
        return Err(CliError::new(
            code::NOT_UNDERSTOOD,
            format!("topic `{topic}` has no part `{part}`"),
        )
        .next(format!("entryway guide {topic}")));
    }
    if let Some((_, _, text)) = TOPICS.iter().find(|(word, ..)| *word == topic) {
        to.write_all(page(text).as_bytes())?;
        return Ok(0);
    }
    let words: Vec<&str> = TOPICS
        .iter()
        .map(|(word, ..)| *word)
        .chain([REFERENCE])
        .collect();
    Err(
        CliError::new(code::NOT_UNDERSTOOD, format!("there is no topic `{topic}`"))
            .next(format!("entryway guide {}", words.join("|"))),
    )
}

fn reference(part: Option<&str>, to: &mut dyn Write) -> Result<u8, CliError> {
    let pages: Vec<&str> = guide::REFERENCE
        .iter()
        .filter(|(name, ..)| part.is_none_or(|part| part == *name))
        .map(|(.., text)| *text)
        .collect();
    if pages.is_empty() {
        let parts: Vec<&str> = guide::REFERENCE.iter().map(|(name, ..)| *name).collect();
        return Err(CliError::new(
            code::NOT_UNDERSTOOD,
            format!("the reference has no part `{}`", part.unwrap_or_default()),
        )
        .next(format!("entryway guide reference {}", parts.join("|"))));
    }
    for (index, page) in pages.iter().enumerate() {
        if index > 0 {
            writeln!(to)?;
        }
        to.write_all(self::page(&guide::without_markers(page)).as_bytes())?;
    }
    Ok(0)
}

/// A page as it is printed: rendered for a terminal, else as Markdown.
fn page(text: &str) -> String {
    let output = io::stdout();
    if !output.is_terminal() {
        return text.to_owned();
    }
    let width = rustix::termios::tcgetwinsize(&output).map_or(0, |size| usize::from(size.ws_col));
    let width = if width == 0 {
        markdown::DEFAULT_WIDTH
    } else {
        width
    };
    markdown::render(text, width)
}
