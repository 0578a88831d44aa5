//! Flags, environment, file and profile laid over each other, and read once.
//!
//! Flags and variables know nothing of how many listeners and upstreams a file has: what they say of one they say of
//! each, except where that makes no sense (a target, a bind address), which is an error. Whatever names a target
//! replaces the target of the layers below, as a whole.

use std::ffi::OsString;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::model::Settings;
use super::report::{Problem, Report};
use super::source::Source;
use super::tree::{Node, Path, Place, Table, Value};
use super::{endpoint, explain, file, flags, given, profile, read, validate};

/// What says where to go; an upstream has one of them.
pub(super) const TARGETS: [&str; 4] = ["endpoint", "vpce", "peering", "from_client"];

/// Settings, and where they come from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Validated.
    pub settings: Settings,
    /// What is odd but no error, each in one line.
    pub warnings: Vec<String>,
    /// Whether `admin.bind` was asked for: by flag or file. A variable does not count, because the wrapper sets it for
    /// whatever it starts (contract section 3).
    pub admin_asked_for: bool,
    pub(super) tree: Node,
    source: Option<Source>,
    layers: Layers,
}

/// What stays the same when the file is read again.
#[derive(Clone, Debug)]
struct Layers {
    config: Option<String>,
    flags: Node,
    env: Node,
    warnings: Vec<String>,
}

/// Reads the settings of this run. `matches` are those of a subcommand that takes some or all of [`flags::FLAGS`].
/// `needs_target`: whether settings without a target are an error (`run`, `check`, `plan`), or not (`explain`, which
/// then asks the running instance).
pub fn load(
    matches: &ArgMatches,
    env: impl Iterator<Item = (OsString, OsString)>,
    needs_target: bool,
) -> Result<Loaded, Report> {
    let mut problems = Vec::new();
    let flags = given::from_command_line(matches, &mut problems);
    let env = given::from_environment(env, &mut problems);
    let given = matches.try_contains_id(flags::CONFIG).is_ok()
        && matches.value_source(flags::CONFIG) == Some(ValueSource::CommandLine);
    let config = given
        .then(|| matches.get_one::<String>(flags::CONFIG).cloned())
        .flatten();
    let layers = Layers {
        config: config.or(env.config),
        flags,
        env: env.tree,
        warnings: env.warnings,
    };
    lay(layers, problems, needs_target)
}

// === impl Loaded ===

impl Loaded {
    /// The same flags and environment over the file as it is now.
    pub fn load_file_again(&self) -> Result<Loaded, Report> {
        lay(self.layers.clone(), Vec::new(), true)
    }

    /// Whether anything says where to go.
    pub fn has_target(&self) -> bool {
        let upstreams = &self.settings.upstreams;
        upstreams.iter().any(|upstream| {
            !upstream.endpoints.is_empty()
                || upstream.vpce.is_some()
                || upstream.peering
                || upstream.from_client.is_some()
        })
    }

    /// The file's path, as given.
    pub fn file(&self) -> Option<&str> {
        self.layers.config.as_deref()
    }

    /// Where a key was set, in the words of `/v1/config`; `listener[0].bind` for the first listener's.
    pub fn source(&self, key: &str) -> String {
        let mut source = "default".to_owned();
        self.tree.leaves(&mut |path, node| {
            if path == key {
                source = self.say(&node.place);
            }
        });
        source
    }

    /// A report about what only shows later (a client map that cannot be read, a name that another has), each at the
    /// key it is about: `upstream[0].endpoint[1].name`, or the innermost of its tables that was written.
    pub fn report(&self, wrong: impl IntoIterator<Item = (String, String)>) -> Report {
        let problem = |(key, what): (String, String)| Problem::new(what, self.place(&key));
        Report::new(
            self.source.clone(),
            wrong.into_iter().map(problem).collect(),
        )
    }

    fn place(&self, key: &str) -> Place {
        let mut path = Path::default();
        let mut place = Place::Default;
        for step in key.split(['.', '[']) {
            path = match step.strip_suffix(']').map(str::parse) {
                Some(Ok(index)) => path.index(index),
                _ => path.key(step),
            };
            match self.tree.at(&path) {
                Some(node) if node.place != Place::Default => place = node.place.clone(),
                Some(_) => {}
                None => break,
            }
        }
        place
    }

    pub(super) fn say(&self, place: &Place) -> String {
        match (place, &self.source) {
            (Place::Default, _) => "default".to_owned(),
            (Place::Profile, _) => "profile".to_owned(),
            (Place::File(span), Some(source)) => source.line_of(span.start),
            (Place::File(_), None) => "file".to_owned(),
            (Place::Env(_), _) => "env".to_owned(),
            (Place::Flag(_), _) => "flag".to_owned(),
        }
    }
}

fn lay(layers: Layers, mut problems: Vec<Problem>, needs_target: bool) -> Result<Loaded, Report> {
    let (source, mut tree) = match open(layers.config.as_deref()) {
        Ok(opened) => opened,
        Err(report) => {
            problems.extend(report.problems);
            return Err(Report::new(report.source, problems));
        }
    };
    normalise(&mut tree, &mut problems);
    merge(&mut tree, layers.env.clone(), &mut problems);
    merge(&mut tree, layers.flags.clone(), &mut problems);
    let profile = profile_of(&tree);
    lay_under(&mut tree, profile);
    let mut warnings = layers.warnings.clone();
    let whole = tree.clone();
    let outcome = read::read::<Settings>(&mut tree);
    let wrong: Vec<Path> = outcome
        .errors
        .iter()
        .map(|error| error.path.clone())
        .collect();
    problems.extend(
        outcome
            .errors
            .iter()
            .map(|error| explain::explain(error, &whole)),
    );
    let Some(settings) = outcome.value else {
        return Err(Report::new(source, problems));
    };
    let mut check = validate::Check::new(&settings, &tree, &wrong, needs_target);
    check.all();
    problems.extend(check.problems);
    warnings.extend(
        check
            .warnings
            .iter()
            .map(|warning| warning.line(source.as_ref())),
    );
    if !problems.is_empty() {
        return Err(Report::new(source, problems));
    }
    let admin_asked_for = tree
        .get("admin.bind")
        .is_some_and(|node| matches!(node.place, Place::Flag(_) | Place::File(_)));
    Ok(Loaded {
        settings,
        warnings,
        admin_asked_for,
        tree,
        source,
        layers,
    })
}

/// The file and its tree; both are empty where there is none. What follows from a syntax error is anybody's guess, so
/// a file that has some is read no further.
fn open(config: Option<&str>) -> Result<(Option<Source>, Node), Report> {
    let Some(name) = config else {
        return Ok((None, Node::table(Place::Default)));
    };
    let source = file::load(name).map_err(|problem| Report::new(None, vec![problem]))?;
    let (tree, syntax) = file::parse(&source);
    match syntax.is_empty() {
        true => Ok((Some(source), tree)),
        false => Err(Report::new(Some(source), syntax)),
    }
}

/// One listener and one upstream at least; endpoints as tables.
fn normalise(tree: &mut Node, problems: &mut Vec<Problem>) {
    for key in ["listener", "upstream"] {
        let node = tree
            .entries()
            .and_then(|table| table.get(key))
            .map(|entry| entry.node.clone());
        let mut items = node
            .as_ref()
            .map(|node| node.items().to_vec())
            .unwrap_or_default();
        if items.is_empty() {
            items.push(Node::table(Place::Default));
        }
        if key == "upstream" {
            items
                .iter_mut()
                .for_each(|upstream| endpoint::normalise(upstream, problems));
        }
        let place = node.map_or(Place::Default, |node| node.place);
        match tree.entries_mut().and_then(|table| table.get_mut(key)) {
            Some(entry) => {
                entry.node = Node {
                    place,
                    value: Value::List(items),
                }
            }
            None => tree.set(
                key,
                Node {
                    place,
                    value: Value::List(items),
                },
            ),
        }
    }
    // With one upstream there is nothing to choose.
    let upstreams = tree.get("upstream").map(Node::items).unwrap_or_default();
    let only = match upstreams {
        [only] => Some(
            only.get("name")
                .and_then(Node::as_text)
                .unwrap_or("default")
                .to_owned(),
        ),
        _ => None,
    };
    if let Some(only) = only {
        let mut said = Node::table(Place::Default);
        said.set("listener.upstream", Node::text(Place::Default, only));
        lay_under(tree, said);
    }
}

/// Lays a tree of flags or variables over the file's.
fn merge(tree: &mut Node, upper: Node, problems: &mut Vec<Problem>) {
    let Value::Table(upper) = upper.value else {
        return;
    };
    for (key, entry) in upper {
        match key.as_str() {
            "listener" | "upstream" => merge_each(tree, &key, entry.node, problems),
            _ => {
                let mut one = Node::table(entry.key.clone());
                one.value = Value::Table(Table::from([(key, entry)]));
                tree.lay_over(one);
            }
        }
    }
}

fn merge_each(tree: &mut Node, key: &str, upper: Node, problems: &mut Vec<Problem>) {
    let Some(Value::List(items)) = tree
        .entries_mut()
        .and_then(|table| table.get_mut(key))
        .map(|entry| &mut entry.node.value)
    else {
        return;
    };
    let single: &[&str] = if key == "upstream" {
        &[
            "endpoint",
            "vpce",
            "peering",
            "from_client",
            "system",
            "region",
        ]
    } else {
        &["bind"]
    };
    if items.len() > 1 {
        let table = upper.entries().into_iter().flatten();
        let ambiguous: Vec<_> = table
            .filter(|(name, _)| single.contains(&name.as_str()))
            .collect();
        for (name, entry) in &ambiguous {
            let title = format!(
                "cannot say which of the file's {} {key}s is meant",
                items.len()
            );
            problems.push(
                Problem::new(title, entry.key.clone())
                    .help(format!("set `{key}.{name}` in the file")),
            );
        }
        if !ambiguous.is_empty() {
            return;
        }
    }
    let names_target =
        key == "upstream" && TARGETS.iter().any(|target| upper.get(target).is_some());
    for item in items {
        if names_target && let Some(table) = item.entries_mut() {
            table.retain(|name, _| !TARGETS.contains(&name.as_str()));
        }
        item.lay_over(upper.clone());
    }
}

/// Lays `lower` under the tree; what it says of a listener or upstream is said of each.
pub(super) fn lay_under(tree: &mut Node, lower: Node) {
    let Value::Table(lower) = lower.value else {
        return;
    };
    for (key, entry) in lower {
        let above = tree.entries_mut().and_then(|table| table.get_mut(&key));
        match above {
            Some(above) => match &mut above.node.value {
                Value::List(items) if entry.node.entries().is_some() => {
                    for item in items {
                        let mut merged = entry.node.clone();
                        merged.lay_over(item.clone());
                        *item = merged;
                    }
                }
                _ => {
                    let mut merged = entry.node;
                    merged.lay_over(above.node.clone());
                    above.node = merged;
                }
            },
            None => {
                if let Some(table) = tree.entries_mut() {
                    table.insert(key, entry);
                }
            }
        }
    }
}

fn profile_of(tree: &Node) -> Node {
    profile::tree(
        tree.get("profile")
            .and_then(Node::as_text)
            .unwrap_or_default(),
    )
}
