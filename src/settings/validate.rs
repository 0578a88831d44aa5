//! What only shows when settings are seen together: duplicates, targets, references, addresses.
//!
//! Each value was read already; a value that could not be is in `wrong`, and nothing that follows from its absence is
//! reported a second time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::endpoint;
use super::model::UpstreamSettings;
use super::report::{Problem, closest};
use super::tree::{Node, Path, Place, Step, Value};
use crate::duration;

mod check;
mod target;

pub(super) use check::Check;
use check::DEFAULT_BINDS;

impl Check<'_> {
    pub(super) fn all(&mut self) {
        if self.settings.schema != 1 {
            let title = format!(
                "schema {} is not known; this version reads schema 1",
                self.settings.schema
            );
            self.problems
                .push(Problem::new(title, self.place(self.tree, "schema")));
        }
        self.names("listener");
        self.names("upstream");
        self.listeners();
        for (upstream, (path, node)) in self.settings.upstreams.iter().zip(self.items("upstream")) {
            self.target(upstream, &path, node);
            self.endpoints(upstream, node);
            self.upstream_times(upstream, node);
        }
        self.process();
    }

    fn names(&mut self, key: &'static str) {
        let default = if key == "listener" {
            "datomic"
        } else {
            "default"
        };
        let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
        for (path, node) in self.items(key) {
            let name = node.get("name").and_then(Node::as_text).unwrap_or(default);
            let place = self.place(node, "name");
            if self.is_wrong(&path.key("name")) {
                continue;
            }
            if let Err(why) = endpoint::check_label(name) {
                self.error(place, why);
            } else if let Some(first) = seen.get(name) {
                let problem = Problem::new(format!("two {key}s are called `{name}`"), place);
                let problem = problem.also(first.clone(), "the first one");
                self.problems
                    .push(problem.help(format!("give each [[{key}]] a `name` of its own")));
            } else {
                seen.insert(name, place);
            }
        }
    }

    /// A limit of none is a listener that serves nobody.
    fn some_connections(&mut self, listener: &Node) {
        let none = listener.get("max_connections").is_some_and(|node| {
            matches!(&node.value, Value::Int(0))
                || matches!(&node.value, Value::Loose(text) if text.trim() == "0")
        });
        if none {
            self.problems.push(Problem::new(
                "`max_connections` must be at least 1",
                self.place(listener, "max_connections"),
            ));
        }
    }

    fn listeners(&mut self) {
        let upstreams: Vec<&str> = self
            .settings
            .upstreams
            .iter()
            .map(|upstream| upstream.name.as_str())
            .collect();
        let mut used = Vec::new();
        let mut bound: BTreeMap<SocketAddr, Place> = BTreeMap::new();
        for (path, node) in self.items("listener") {
            match node.get("upstream").and_then(Node::as_text) {
                Some(name) if upstreams.contains(&name) => used.push(name),
                Some(_) if self.is_wrong(&Path(vec![Step::Key("upstream".to_owned())])) => {}
                Some(name) => {
                    let title = format!("there is no upstream `{}`", name.escape_debug());
                    let problem = Problem::new(title, self.place(node, "upstream"));
                    self.problems
                        .push(match closest(name, upstreams.iter().copied()) {
                            Some(close) => problem.label(format!("did you mean `{close}`?")),
                            None => {
                                problem.help(format!("the upstreams are: {}", upstreams.join(", ")))
                            }
                        });
                }
                None if self.is_wrong(&path.key("upstream")) => {}
                None => {
                    let title = "with several upstreams, a listener must say which one is its own";
                    let problem = Problem::new(title, node.place.clone());
                    self.problems.push(problem.help(format!(
                        "set `listener.upstream` to one of: {}",
                        upstreams.join(", ")
                    )));
                }
            }
            self.binds(node, &mut bound);
            self.some_connections(node);
        }
        for (name, (_, node)) in upstreams.iter().zip(self.items("upstream")) {
            if !used.contains(name) && self.problems.is_empty() {
                self.warnings.push(Problem::new(
                    format!("no listener leads to upstream `{name}`"),
                    node.place.clone(),
                ));
            }
        }
    }

    fn binds(&mut self, node: &Node, bound: &mut BTreeMap<SocketAddr, Place>) {
        let remote = node.get("allow_remote").is_some_and(yes);
        let Some(bind) = node.get("bind") else {
            for address in DEFAULT_BINDS
                .iter()
                .filter_map(|text| text.parse::<SocketAddr>().ok())
            {
                self.bind_once(address, &node.place, bound);
            }
            return;
        };
        if bind.items().is_empty() && bind.place != Place::Default {
            self.error(bind.place.clone(), "a listener without an address");
        }
        for item in bind.items() {
            let Some(text) = item.as_text() else { continue };
            let Ok(address) = text.parse::<SocketAddr>() else {
                let title = format!(
                    "`{}` is not an IP address with its port",
                    text.escape_debug()
                );
                let problem = Problem::new(title, item.place.clone());
                self.problems
                    .push(problem.help("an address looks like 127.0.0.1:8182 or [::1]:8182"));
                continue;
            };
            if !address.ip().to_canonical().is_loopback() && !remote {
                let title = format!("{address} can be reached from outside this machine");
                let help = "port 8182 has neither encryption nor login; if that is wanted, say --allow-remote or \
                            `allow_remote = true` below [[listener]]";
                self.problems
                    .push(Problem::new(title, item.place.clone()).help(help));
            }
            self.bind_once(address, &item.place, bound);
        }
    }

    fn bind_once(
        &mut self,
        address: SocketAddr,
        place: &Place,
        bound: &mut BTreeMap<SocketAddr, Place>,
    ) {
        if address.port() == 0 {
            return;
        }
        if let Some(first) = bound.get(&address) {
            let problem = Problem::new(format!("two listeners ask for {address}"), place.clone());
            self.problems
                .push(problem.also(first.clone(), "the first one"));
        } else {
            bound.insert(address, place.clone());
        }
    }

    fn upstream_times(&mut self, upstream: &UpstreamSettings, node: &Node) {
        for (key, message) in upstream
            .health
            .validate()
            .into_iter()
            .chain(upstream.failback.validate())
        {
            self.error(self.place(node, &key), format!("`{key}` {message}"));
        }
        if upstream.connect_timeout.is_zero() {
            self.error(
                self.place(node, "connect_timeout"),
                "a connect attempt needs time; `connect_timeout` cannot be 0",
            );
        }
        if upstream.hedge_after > upstream.connect_timeout {
            let title = "`hedge_after` is longer than `connect_timeout` and never comes to bear";
            self.warnings
                .push(Problem::new(title, self.place(node, "hedge_after")));
        }
        if upstream.health.probes() && upstream.health.timeout > upstream.health.interval {
            let title = format!(
                "a probe may take {}, longer than the interval of {}",
                duration::show(upstream.health.timeout),
                duration::show(upstream.health.interval)
            );
            self.warnings
                .push(Problem::new(title, self.place(node, "health.interval")));
        }
        if !(4096..=1024 * 1024).contains(&upstream.pipe_size.0) {
            self.error(
                self.place(node, "pipe_size"),
                "`pipe_size` must be between 4KiB and 1MiB",
            );
        }
    }

    fn process(&mut self) {
        let root = self.tree;
        if self.settings.shutdown.min_delay > self.settings.shutdown.max_delay {
            let title = "`shutdown.min_delay` is longer than `shutdown.max_delay`";
            self.warnings
                .push(Problem::new(title, self.place(root, "shutdown.min_delay")));
        }
        for (key, message) in self.settings.admin.problems() {
            let place = self.place(root, &format!("admin.{key}"));
            self.problems
                .push(Problem::new(message, place).label(format!("`admin.{key}`")));
        }
        for (key, message) in self.settings.dns.validate() {
            let place = self.place(root, &format!("dns.{key}"));
            self.error(place, format!("`{key}` {message}"));
        }
    }
}

fn yes(node: &Node) -> bool {
    match &node.value {
        Value::Bool(yes) => *yes,
        Value::Int(number) => *number == 1,
        Value::Loose(text) => matches!(text.trim(), "true" | "1"),
        _ => false,
    }
}
