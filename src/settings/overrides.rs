//! Settings given on the command line and in the environment, as trees.

use std::ffi::OsString;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::diagnostics::{Diagnostic, closest};
use super::flags::{CONFIG, FLAGS, Flag, ValueKind, variable};
use super::node::{Node, Origin};

/// Variables that are not settings but have a meaning: those that `cli::args` reads, and those that we set for processes that
/// we start.
const OTHER_VARIABLES: &[&str] = &[
    "ENTRYWAY_CONFIG",
    "ENTRYWAY_OUTPUT",
    "ENTRYWAY_URL",
    "ENTRYWAY_PORT",
    "ENTRYWAY_SIM_SEED",
    "ENTRYWAY_HANDOVER",
];

/// The tree of the command line. clap has checked the types, but values can still be invalid.
pub(super) fn from_command_line(matches: &ArgMatches, problems: &mut Vec<Diagnostic>) -> Node {
    let mut tree = Node::table(Origin::Default);
    for flag in FLAGS {
        let given = matches.try_contains_id(flag.id).is_ok()
            && matches.value_source(flag.id) == Some(ValueSource::CommandLine);
        if given {
            let texts: Vec<&str> = matches
                .get_many::<String>(flag.id)
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            flag.set_in(&mut tree, &texts, &Origin::Flag(flag.long), problems);
        }
    }
    tree
}

#[derive(Clone, Debug)]
pub(super) struct Environment {
    pub tree: Node,
    /// `ENTRYWAY_CONFIG`.
    pub config: Option<String>,
    /// About variables that are not settings.
    pub warnings: Vec<String>,
}

/// The tree of the environment. An empty variable counts as not set.
pub(super) fn from_environment(
    env: impl Iterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Diagnostic>,
) -> Environment {
    let mut found = Environment {
        tree: Node::table(Origin::Default),
        config: None,
        warnings: Vec::new(),
    };
    let mut ours: Vec<(String, OsString)> = env
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| name.starts_with("ENTRYWAY_") && !value.is_empty())
        .collect();
    ours.sort();
    for (name, value) in ours {
        let Ok(text) = value.into_string() else {
            problems.push(Diagnostic::new(
                "the value is not UTF-8 text",
                Origin::Env(name),
            ));
            continue;
        };
        if let Some(flag) = FLAGS.iter().find(|flag| flag.variable() == name) {
            if let Some(bare) = in_quotes(text.trim()) {
                let title = format!(
                    "the value is in quotes, which are taken as part of it: {}",
                    text.trim().escape_debug()
                );
                let help = format!(
                    "write {name}={} (env files of containers keep quotes as they are)",
                    bare.escape_debug()
                );
                problems.push(Diagnostic::new(title, Origin::Env(name)).help(help));
                continue;
            }
            let origin = Origin::Env(name);
            let texts: Vec<&str> = match flag.kind {
                ValueKind::Endpoints
                | ValueKind::Addresses
                | ValueKind::DnsServers
                | ValueKind::Allow => text.split_whitespace().collect(),
                ValueKind::Quiet => text
                    .split([',', ' ', '\t', '\n'])
                    .filter(|word| !word.is_empty())
                    .collect(),
                _ => vec![text.trim()],
            };
            flag.set_in(&mut found.tree, &texts, &origin, problems);
        } else if name == variable(CONFIG) {
            found.config = Some(text);
        } else if !OTHER_VARIABLES.contains(&name.as_str()) && !is_service_link(&name) {
            found.warnings.push(unknown_variable(&name));
        }
    }
    found
}

/// The text between two quotes of one kind.
fn in_quotes(text: &str) -> Option<&str> {
    ['"', '\''].into_iter().find_map(|quote| {
        let inner = text.strip_prefix(quote)?;
        Some(inner.strip_suffix(quote).unwrap_or(inner))
    })
}

/// Whether Kubernetes sets a variable of this name for a Service whose name begins with `entryway`:
/// `X_SERVICE_HOST`, `X_SERVICE_PORT[_NAME]`, `X_PORT` and `X_PORT_N_TCP[_PROTO|_PORT|_ADDR]`.
fn is_service_link(name: &str) -> bool {
    let after_port = name.split_once("_PORT_").map(|(_, rest)| rest);
    let numbered = after_port
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(port, rest)| {
            let protocol = rest.split('_').next().unwrap_or_default();
            port.parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].contains(&protocol)
        });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT")
        || numbered
}

fn unknown_variable(name: &str) -> String {
    let known: Vec<String> = FLAGS
        .iter()
        .map(Flag::variable)
        .chain([variable(CONFIG)])
        .collect();
    let rest = name.trim_start_matches("ENTRYWAY_");
    let hint = closest(
        rest,
        known
            .iter()
            .map(|name| name.trim_start_matches("ENTRYWAY_")),
    )
    .map(|close| format!("; did you mean ENTRYWAY_{close}?"))
    .unwrap_or_default();
    format!(
        "{} is not a setting and is ignored{hint}",
        name.escape_debug()
    )
}
