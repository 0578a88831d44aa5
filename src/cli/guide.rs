//! `entryway guide [TOPIC]`: the documentation by task, on the machine that has the trouble.

use std::io::Write;

use super::failure::{CliError, code};

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
        "load",
        "in front of a load test",
        include_str!("../guide/load.md"),
    ),
    (
        "troubleshoot",
        "by symptom",
        include_str!("../guide/troubleshoot.md"),
    ),
];

/// Prints a topic, or the list of topics.
pub fn print(topic: Option<&str>, to: &mut dyn Write) -> Result<u8, CliError> {
    let Some(topic) = topic else {
        for (word, about, _) in TOPICS {
            writeln!(to, "entryway guide {word:<14} {about}")?;
        }
        return Ok(0);
    };
    if let Some((_, _, text)) = TOPICS.iter().find(|(word, ..)| *word == topic) {
        to.write_all(text.as_bytes())?;
        return Ok(0);
    }
    let words: Vec<&str> = TOPICS.iter().map(|(word, ..)| *word).collect();
    Err(CliError::new(
        code::NOT_UNDERSTOOD,
        format!("no topic is called `{topic}`"),
    )
    .next(format!("entryway guide {}", words.join("|"))))
}
