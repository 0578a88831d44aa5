//! What only shows when settings are seen together: duplicates, targets, references, addresses.
//!
//! Each value was read already; a value that could not be is in `wrong`, and nothing that follows from its absence is
//! reported a second time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::layers::TARGETS;
use super::report::{Problem, closest};
use super::tree::{Node, Path, Place, Step, Value};
use super::{Settings, UpstreamSettings, endpoint};
use crate::duration;

/// Where clients connect by default: contract section 3.
const DEFAULT_BINDS: [&str; 2] = ["127.0.0.1:8182", "[::1]:8182"];

/// One pass over the settings.
#[derive(Debug)]
pub(super) struct Check<'a> {
    settings: &'a Settings,
    tree: &'a Node,
    wrong: &'a [Path],
    needs_target: bool,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
    /// What is odd.
    pub(super) warnings: Vec<Problem>,
}

impl<'a> Check<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        tree: &'a Node,
        wrong: &'a [Path],
        needs_target: bool,
    ) -> Self {
        Self {
            settings,
            tree,
            wrong,
            needs_target,
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

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

    /// The listeners or upstreams of the tree that could be read, with their paths.
    fn items(&self, key: &str) -> Vec<(Path, &'a Node)> {
        let below = Path(vec![Step::Key(key.to_owned())]);
        let items = self
            .tree
            .get(key)
            .map(Node::items)
            .unwrap_or_default()
            .iter()
            .enumerate();
        items
            .filter(|(_, node)| node.value != Value::Gone)
            .map(|(index, node)| (below.index(index), node))
            .collect()
    }

    /// The place of a key, or of the table where the key is not set.
    fn place(&self, node: &Node, key: &str) -> Place {
        node.get(key)
            .map_or_else(|| node.place.clone(), |node| node.place.clone())
    }

    fn is_wrong(&self, path: &Path) -> bool {
        self.wrong.iter().any(|wrong| wrong.starts_with(path))
    }

    fn error(&mut self, place: Place, title: impl Into<String>) {
        self.problems.push(Problem::new(title, place));
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
            let Some(address) = item
                .as_text()
                .and_then(|text| text.parse::<SocketAddr>().ok())
            else {
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

    fn target(&mut self, upstream: &UpstreamSettings, path: &Path, node: &Node) {
        let name = upstream.name.as_str();
        let set: Vec<&str> = TARGETS
            .into_iter()
            .filter(|key| match *key {
                "endpoint" => !upstream.endpoints.is_empty(),
                "vpce" => upstream.vpce.is_some(),
                "peering" => upstream.peering,
                _ => upstream.from_client.is_some(),
            })
            .collect();
        let unread = ["system", "region"]
            .iter()
            .chain(&TARGETS)
            .any(|key| self.is_wrong(&path.key(key)));
        if let [first, second, ..] = set[..] {
            let title = format!(
                "upstream `{name}` has two targets: {} and {}",
                flag(first),
                flag(second)
            );
            let problem = Problem::new(title, self.place(node, second))
                .also(self.place(node, first), "the first one");
            self.problems.push(
                problem
                    .help("an upstream is one Datomic system, found in one way; keep one of them"),
            );
            return;
        }
        if set.is_empty() && !unread && self.needs_target {
            self.no_target(upstream, node);
        }
        if upstream.peering && !unread {
            for (key, value) in [("system", &upstream.system), ("region", &upstream.region)] {
                if value.is_none() {
                    let problem = Problem::new(
                        format!("peering needs a {key}"),
                        self.place(node, "peering"),
                    );
                    self.problems
                        .push(problem.help(format!("add --{key} or `upstream.{key}`")));
                }
            }
        }
        for (key, value) in [("system", &upstream.system), ("region", &upstream.region)] {
            if let Some(value) = value
                && let Err(why) = dns_label(value)
            {
                self.error(self.place(node, key), why);
            }
        }
        if let Some(Err(why)) = upstream.vpce.as_deref().map(endpoint::split_name) {
            self.error(self.place(node, "vpce"), why);
        }
        if upstream.from_client.as_deref() == Some("") {
            self.error(
                self.place(node, "from_client"),
                "the name of a client map cannot be empty",
            );
        }
        if let super::ZoneSetting::Named(zone) = &upstream.zone
            && let Err(why) = endpoint::check_label(zone.as_str())
        {
            self.error(self.place(node, "zone"), why);
        }
    }

    fn no_target(&mut self, upstream: &UpstreamSettings, node: &Node) {
        let named = if self.settings.upstreams.len() > 1 || upstream.name.as_str() != "default" {
            format!("upstream `{}` has no target: ", upstream.name)
        } else {
            "no target: ".to_owned()
        };
        let problem = Problem::new(
            format!("{named}nobody said where Datomic is"),
            node.place.clone(),
        );
        self.problems.push(if upstream.system.is_some() || upstream.region.is_some() {
            problem.help("a system and a region are a target together with --peering (`peering = true`)")
        } else {
            problem
                .help("say one of --endpoint HOST:PORT, --vpce NAME, --peering --system S --region R, --from-client FILE.edn")
                .help("or try it without AWS: `entryway demo`")
        });
    }

    fn endpoints(&mut self, upstream: &UpstreamSettings, node: &Node) {
        let items = node.get("endpoint").map(Node::items).unwrap_or_default();
        let items = items.iter().filter(|item| item.value != Value::Gone);
        let mut names: BTreeMap<&str, Place> = BTreeMap::new();
        let mut places: BTreeMap<(String, u16), Place> = BTreeMap::new();
        for (given, item) in upstream.endpoints.iter().zip(items) {
            let place = self.place(item, "address");
            match given.host_port() {
                Err(why) => self.error(place, why),
                Ok((host, port)) => {
                    self.not_ourselves(&host, port, &place);
                    if let Some(first) = places.get(&(host.to_lowercase(), port)) {
                        let problem = Problem::new(
                            format!("endpoint {} is there twice", given.address),
                            place,
                        );
                        self.problems
                            .push(problem.also(first.clone(), "the first one"));
                    } else {
                        places.insert((host.to_lowercase(), port), place);
                    }
                }
            }
            for (key, label) in [
                ("name", given.name.as_ref().map(|n| n.as_str())),
                ("zone", given.zone.as_ref().map(|z| z.as_str())),
            ] {
                if let Some(Err(why)) = label.map(endpoint::check_label) {
                    self.error(self.place(item, key), why);
                }
            }
            if let Some(name) = &given.name {
                let place = self.place(item, "name");
                if let Some(first) = names.get(name.as_str()) {
                    let problem = Problem::new(format!("two endpoints are called `{name}`"), place);
                    self.problems
                        .push(problem.also(first.clone(), "the first one"));
                } else {
                    names.insert(name.as_str(), place);
                }
            }
        }
    }

    /// A proxy that forwards to itself would go round until the sockets run out.
    fn not_ourselves(&mut self, host: &str, port: u16, place: &Place) {
        let ips: Vec<IpAddr> = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip.to_canonical()],
            Err(_) if host.eq_ignore_ascii_case("localhost") => {
                vec![
                    std::net::Ipv4Addr::LOCALHOST.into(),
                    std::net::Ipv6Addr::LOCALHOST.into(),
                ]
            }
            Err(_) => return,
        };
        let mut ours = Vec::new();
        for (_, node) in self.items("listener") {
            match node.get("bind") {
                Some(bind) => ours.extend(
                    bind.items()
                        .iter()
                        .filter_map(Node::as_text)
                        .map(str::to_owned),
                ),
                None => ours.extend(DEFAULT_BINDS.map(str::to_owned)),
            }
        }
        let hit = ours
            .iter()
            .filter_map(|text| text.parse::<SocketAddr>().ok())
            .find(|address| {
                let bound = address.ip().to_canonical();
                let any_local = bound.is_unspecified() && ips.iter().any(IpAddr::is_loopback);
                address.port() == port && (ips.contains(&bound) || any_local)
            });
        if let Some(address) = hit {
            let problem = Problem::new(
                format!("endpoint {host}:{port} is our own listener {address}"),
                place.clone(),
            );
            self.problems.push(
                problem.help(
                    "give another endpoint, or listen elsewhere with --listen 127.0.0.1:PORT",
                ),
            );
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
            self.error(self.place(root, "shutdown.min_delay"), title);
        }
        let remote = self
            .items("listener")
            .iter()
            .any(|(_, node)| node.get("allow_remote").is_some_and(yes));
        if let Some(bind) = root.get("admin.bind")
            && let Some(address) = bind
                .as_text()
                .and_then(|text| text.parse::<SocketAddr>().ok())
            && !address.ip().to_canonical().is_loopback()
            && !remote
        {
            let title =
                format!("the admin address {address} can be reached from outside this machine");
            let help = "for /metrics and health there is --metrics-bind (`admin.metrics_bind`), which is read-only";
            self.problems
                .push(Problem::new(title, bind.place.clone()).help(help));
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

fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// Whether a system or region can be a part of the peered entry name.
fn dns_label(text: &str) -> Result<(), String> {
    let fine = !text.is_empty()
        && text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    fine.then_some(())
        .ok_or_else(|| format!("`{}` cannot be a part of a host name", text.escape_debug()))
}
