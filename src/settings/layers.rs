//! Merges flags, environment, file and profile, and reads the result once.
//!
//! A flag or variable applies to every listener or upstream of the file, except where that makes no sense (a target, a
//! bind address): beside several of them it is an error. A layer that names a target replaces the target of the layers
//! below as a whole.

use std::ffi::OsString;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::diagnostics::{Diagnostic, Diagnostics, closest};
use super::model::Settings;
use super::node::{KeyPath, Node, NodeValue, Origin, Table};
use super::source_file::SourceFile;
use super::{annotate, deserialize, endpoint, file, flags, overrides, profile, validate};
use crate::target::{ResolvedTarget, TARGET_KEYS};

/// Validated settings, and where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// What is unusual but not an error, one line each.
    pub warnings: Vec<String>,
    /// The resolved target of each upstream, in their order; without endpoints where none is set.
    pub targets: Vec<ResolvedTarget>,
    /// Whether `admin.bind` was set by flag or file. A variable does not count: the wrapper sets it for its child, which
    /// may be another instance.
    pub admin_asked_for: bool,
    pub(super) effective: serde_json::Value,
    pub(super) tree: Node,
    pub(super) source: Option<SourceFile>,
    pub(super) layers: Layers,
}

/// The layers that stay the same when the file is read again.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    config: Option<String>,
    flags: Node,
    env: Node,
    warnings: Vec<String>,
    /// The command is `gateway`: it opens no listener.
    gateway: bool,
}

/// Reads the settings of this run. `matches` are those of a subcommand that takes some or all of [`flags::FLAGS`].
/// `needs_target`: whether settings without a target are an error (`run`, `check`, `plan`) or not (`explain`, which then
/// asks the running instance).
pub fn load(
    matches: &ArgMatches,
    env: impl Iterator<Item = (OsString, OsString)>,
    needs_target: bool,
) -> Result<Loaded, Diagnostics> {
    load_command(matches, env, needs_target, false)
}

/// As [`load`], for the subcommand `gateway`.
pub fn load_gateway(
    matches: &ArgMatches,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Diagnostics> {
    load_command(matches, env, true, true)
}

fn load_command(
    matches: &ArgMatches,
    env: impl Iterator<Item = (OsString, OsString)>,
    needs_target: bool,
    gateway: bool,
) -> Result<Loaded, Diagnostics> {
    let mut problems = Vec::new();
    let flags = overrides::from_command_line(matches, &mut problems);
    let env = overrides::from_environment(env, &mut problems);
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
        gateway,
    };
    lay(layers, problems, needs_target)
}

// === impl Loaded ===

impl Loaded {
    /// The same flags and environment over the file as it is now.
    pub(super) fn load_file_again(&self) -> Result<Loaded, Diagnostics> {
        lay(self.layers.clone(), Vec::new(), true)
    }

    /// Whether any upstream has a target.
    pub fn has_target(&self) -> bool {
        let mut targets = self.targets.iter();
        targets.any(|target| !target.endpoints.is_empty())
    }

    /// Path of the settings file, as given.
    pub fn file(&self) -> Option<&str> {
        self.layers.config.as_deref()
    }

    /// Source of a key as in `/v1/config`; `listener[0].bind` is the first listener's.
    pub fn source(&self, key: &str) -> String {
        let mut source = "default".to_owned();
        self.tree.leaves(&mut |path, node| {
            if path == key {
                source = origin_text(&node.origin, self.source.as_ref());
            }
        });
        source
    }

    /// Diagnostics about problems found after loading (a client map that cannot be read), each at the key it is about:
    /// `upstream[0].endpoint[1].name`, or the innermost of its tables that was written.
    pub fn report(&self, wrong: impl IntoIterator<Item = (String, String)>) -> Diagnostics {
        let problem =
            |(key, what): (String, String)| Diagnostic::new(what, self.tree.origin_of(&key));
        Diagnostics::new(
            self.source.clone(),
            wrong.into_iter().map(problem).collect(),
        )
    }
}

/// An origin as `/v1/config` shows it.
fn origin_text(origin: &Origin, source: Option<&SourceFile>) -> String {
    match (origin, source) {
        (Origin::Default, _) => "default".to_owned(),
        (Origin::Profile, _) => "profile".to_owned(),
        (Origin::File(span), Some(source)) => source.line_of(span.start),
        (Origin::File(_), None) => "file".to_owned(),
        (Origin::Env(_), _) => "env".to_owned(),
        (Origin::Flag(_), _) => "flag".to_owned(),
    }
}

/// Whether an unknown key was probably meant to be a target: then "no target" would only distract.
fn means_target(error: &deserialize::Error) -> bool {
    matches!(&error.what, deserialize::What::UnknownKey(key, known)
        if closest(key, known.iter().copied()).is_some_and(|close| TARGET_KEYS.contains(&close)))
}

fn lay(
    layers: Layers,
    mut problems: Vec<Diagnostic>,
    needs_target: bool,
) -> Result<Loaded, Diagnostics> {
    let (source, mut tree) = match open(layers.config.as_deref()) {
        Ok(opened) => opened,
        Err(report) => {
            problems.extend(report.problems);
            return Err(Diagnostics::new(report.source, problems));
        }
    };
    normalise(&mut tree, &mut problems);
    merge(&mut tree, layers.env.clone(), &mut problems);
    merge(&mut tree, layers.flags.clone(), &mut problems);
    if layers.gateway {
        without_listeners(&mut tree);
    }
    let profile = profile_of(&tree);
    merge_under(&mut tree, profile);
    let mut warnings = layers.warnings.clone();
    let whole = tree.clone();
    let outcome = deserialize::read::<Settings>(&mut tree);
    let wrong: Vec<KeyPath> = outcome
        .errors
        .iter()
        .map(|error| error.path.clone())
        .collect();
    problems.extend(
        outcome
            .errors
            .iter()
            .map(|error| deserialize::diagnose(error, &whole)),
    );
    let Some(settings) = outcome.value else {
        return Err(Diagnostics::new(source, problems).with_warnings(layers.warnings));
    };
    let needs_target = needs_target && !outcome.errors.iter().any(means_target);
    let mut validator = validate::Validator::new(&settings, &tree, &wrong, needs_target);
    validator.needs_gateway = layers.gateway;
    validator.all();
    problems.extend(validator.problems);
    let targets = validator.targets;
    warnings.extend(
        validator
            .warnings
            .iter()
            .map(|warning| warning.line(source.as_ref())),
    );
    if !problems.is_empty() {
        return Err(Diagnostics::new(source, problems).with_warnings(layers.warnings));
    }
    let effective = annotate::with_sources(&settings, &tree, |origin| {
        origin_text(origin, source.as_ref())
    });
    let admin_asked_for = tree
        .get("admin.bind")
        .is_some_and(|node| matches!(node.origin, Origin::Flag(_) | Origin::File(_)));
    Ok(Loaded {
        settings,
        targets,
        warnings,
        admin_asked_for,
        effective,
        tree,
        source,
        layers,
    })
}

/// The file and its tree; both are empty where there is no file. A file with syntax errors is not read any further:
/// what its other lines mean is uncertain.
fn open(config: Option<&str>) -> Result<(Option<SourceFile>, Node), Diagnostics> {
    let Some(name) = config else {
        return Ok((None, Node::table(Origin::Default)));
    };
    let source = file::load(name).map_err(|problem| Diagnostics::new(None, vec![problem]))?;
    let (tree, syntax) = file::parse(&source);
    match syntax.is_empty() {
        true => Ok((Some(source), tree)),
        false => Err(Diagnostics::new(Some(source), syntax)),
    }
}

/// Normal form: at least one listener and one upstream, endpoints as tables, DNS servers with a port.
fn normalise(tree: &mut Node, problems: &mut Vec<Diagnostic>) {
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
            items.push(Node::table(Origin::Default));
        }
        if key == "upstream" {
            items
                .iter_mut()
                .for_each(|upstream| endpoint::normalise(upstream, problems));
        }
        let origin = node.map_or(Origin::Default, |node| node.origin);
        match tree.entries_mut().and_then(|table| table.get_mut(key)) {
            Some(entry) => {
                entry.node = Node {
                    origin,
                    value: NodeValue::List(items),
                }
            }
            None => tree.set(
                key,
                Node {
                    origin,
                    value: NodeValue::List(items),
                },
            ),
        }
    }
    if let Some(entry) = tree.entries_mut().and_then(|table| table.get_mut("dns"))
        && let Some(servers) = entry
            .node
            .entries_mut()
            .and_then(|table| table.get_mut("servers"))
    {
        flags::complete_dns_servers(&mut servers.node);
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
        let mut said = Node::table(Origin::Default);
        said.set("listener.upstream", Node::text(Origin::Default, only));
        merge_under(tree, said);
    }
}

/// For `gateway`: ENTRYWAY_LISTEN means its own addresses, and no listener is opened.
fn without_listeners(tree: &mut Node) {
    let from_env = tree
        .get("listener")
        .and_then(|list| list.items().first())
        .and_then(|listener| {
            let bind = listener.get("bind")?;
            matches!(bind.origin, Origin::Env(_)).then(|| bind.clone())
        });
    if let Some(bind) = from_env
        && tree.get("gateway.bind").is_none()
    {
        tree.set("gateway.bind", bind);
    }
    let none = NodeValue::List(Vec::new());
    tree.set(
        "listener",
        Node {
            origin: Origin::Default,
            value: none,
        },
    );
}

/// Lays the tree of flags or variables over the file's.
fn merge(tree: &mut Node, upper: Node, problems: &mut Vec<Diagnostic>) {
    let NodeValue::Table(upper) = upper.value else {
        return;
    };
    for (key, entry) in upper {
        match key.as_str() {
            "listener" | "upstream" => merge_each(tree, &key, entry.node, problems),
            _ => {
                let mut one = Node::table(entry.key.clone());
                one.value = NodeValue::Table(Table::from([(key, entry)]));
                tree.merge_over(one);
            }
        }
    }
}

fn merge_each(tree: &mut Node, key: &str, upper: Node, problems: &mut Vec<Diagnostic>) {
    let Some(NodeValue::List(items)) = tree
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
            "nlb",
            "peering",
            "from_client",
            "system",
            "region",
            "query_group",
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
                "the file has {} {key}s, and a flag or variable cannot say which one it means",
                items.len()
            );
            problems.push(
                Diagnostic::new(title, entry.key.clone())
                    .help(format!("set `{key}.{name}` in the file")),
            );
        }
        if !ambiguous.is_empty() {
            return;
        }
    }
    let names_target =
        key == "upstream" && TARGET_KEYS.iter().any(|target| upper.get(target).is_some());
    for item in items {
        if names_target && let Some(table) = item.entries_mut() {
            table.retain(|name, _| !TARGET_KEYS.contains(&name.as_str()));
        }
        item.merge_over(upper.clone());
    }
}

/// Lays `lower` under the tree; its `listener` and `upstream` tables apply to each of the tree's.
pub(super) fn merge_under(tree: &mut Node, lower: Node) {
    let NodeValue::Table(lower) = lower.value else {
        return;
    };
    for (key, entry) in lower {
        let above = tree.entries_mut().and_then(|table| table.get_mut(&key));
        match above {
            Some(above) => match &mut above.node.value {
                NodeValue::List(items) if entry.node.entries().is_some() => {
                    for item in items {
                        let mut merged = entry.node.clone();
                        merged.merge_over(item.clone());
                        *item = merged;
                    }
                }
                _ => {
                    let mut merged = entry.node;
                    merged.merge_over(above.node.clone());
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
    let name = tree.get("profile").and_then(Node::as_text);
    let mut profile = profile::tree(name.unwrap_or_default());
    // Only the stub resolver uses servers; beside them the profile's default means that one.
    let servers = tree.get("dns.servers");
    if servers.is_some_and(|servers| !servers.items().is_empty()) {
        profile.set("dns.resolver", Node::text(Origin::Profile, "stub"));
    }
    profile
}
