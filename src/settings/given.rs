//! What was given on the command line and in the environment, as trees.

use std::ffi::OsString;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::flags::{CONFIG, FLAGS, Flag, Kind, variable};
use super::report::{Problem, closest};
use super::tree::{Node, Place};

/// Variables that mean something without being a setting: the file, what `cli::args` reads, what the wrapper sets.
const OTHER_VARIABLES: &[&str] = &[
    "ENTRYWAY_CONFIG",
    "ENTRYWAY_OUTPUT",
    "ENTRYWAY_URL",
    "ENTRYWAY_PORT",
    "ENTRYWAY_SIM_SEED",
];

/// The tree of the command line. clap has checked the types; what is left can still be wrong.
pub(super) fn from_command_line(matches: &ArgMatches, problems: &mut Vec<Problem>) -> Node {
    let mut tree = Node::table(Place::Default);
    for flag in FLAGS {
        let given = matches.try_contains_id(flag.long).is_ok()
            && matches.value_source(flag.long) == Some(ValueSource::CommandLine);
        if given {
            let texts: Vec<&str> = matches
                .get_many::<String>(flag.long)
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            flag.lay_into(&mut tree, &texts, &Place::Flag(flag.long), problems);
        }
    }
    tree
}

/// What the environment says.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    /// Its tree.
    pub tree: Node,
    /// `ENTRYWAY_CONFIG`.
    pub config: Option<String>,
    /// Variables that mean nothing.
    pub warnings: Vec<String>,
}

/// The tree of the environment. An empty variable counts as not set.
pub(super) fn from_environment(
    env: impl Iterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Problem>,
) -> Environment {
    let mut found = Environment {
        tree: Node::table(Place::Default),
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
            problems.push(Problem::new(
                "the value is not UTF-8 text",
                Place::Env(name),
            ));
            continue;
        };
        if let Some(flag) = FLAGS.iter().find(|flag| flag.variable() == name) {
            let place = Place::Env(name);
            let texts: Vec<&str> = match flag.kind {
                Kind::Endpoints | Kind::Addresses => text.split_whitespace().collect(),
                Kind::Quiet => text
                    .split([',', ' ', '\t', '\n'])
                    .filter(|word| !word.is_empty())
                    .collect(),
                _ => vec![text.trim()],
            };
            flag.lay_into(&mut found.tree, &texts, &place, problems);
        } else if name == variable(CONFIG) {
            found.config = Some(text);
        } else if !OTHER_VARIABLES.contains(&name.as_str()) {
            found.warnings.push(unknown_variable(&name));
        }
    }
    found
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
