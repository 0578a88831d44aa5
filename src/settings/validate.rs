//! Validation of the settings as a whole: ranges, duplicates, references, bind addresses.
//!
//! Every value has been deserialized before. A value that could not be is in `wrong`, and nothing that merely follows
//! from its absence is reported a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::diagnostics::{Diagnostic, closest};
use super::model::{UpstreamSettings, ZoneSetting};
use super::node::{KeyPath, Node, NodeValue, Origin, PathStep};
use super::ranges;
use crate::addr;
use crate::admin::settings::{Bind, ControlPath};
use crate::dial::HedgeAfter;
use crate::dns::ResolverKind;
use crate::duration;
use crate::types::check_label;

mod target;
mod validator;

use validator::DEFAULT_BINDS;
pub(super) use validator::Validator;

impl Validator<'_> {
    pub(super) fn all(&mut self) {
        if self.settings.schema != 1 {
            let title = format!(
                "schema {} is not supported; this version reads schema 1",
                self.settings.schema
            );
            self.problems
                .push(Diagnostic::new(title, self.origin(self.tree, "schema")));
        }
        self.ranges();
        if self.too_many {
            // What follows compares entries with each other.
            return;
        }
        self.names("listener");
        self.names("upstream");
        self.listeners();
        for (upstream, (path, node)) in self.settings.upstreams.iter().zip(self.items("upstream")) {
            let target = self.target(upstream, &path, node);
            self.targets.push(target);
            self.upstream_times(upstream, node);
            self.zone_in_use(upstream, node);
            self.vias(upstream, node);
        }
        self.process();
    }

    fn names(&mut self, key: &'static str) {
        let default = if key == "listener" {
            "datomic"
        } else {
            "default"
        };
        let mut seen: BTreeMap<&str, Origin> = BTreeMap::new();
        for (path, node) in self.items(key) {
            let name = node.get("name").and_then(Node::as_text).unwrap_or(default);
            let origin = self.origin(node, "name");
            if self.is_wrong(&path.key("name")) {
                continue;
            }
            if let Err(why) = check_label(name) {
                self.error(origin, why);
            } else if let Some(first) = seen.get(name) {
                let problem = Diagnostic::new(format!("two {key}s are named `{name}`"), origin);
                let problem = problem.also(first.clone(), "first used here");
                self.problems
                    .push(problem.help(format!("give each [[{key}]] a `name` of its own")));
            } else {
                seen.insert(name, origin);
            }
        }
    }

    /// Values that are out of their range, each where it was set.
    fn ranges(&mut self) {
        for wrong in ranges::check(self.settings) {
            let label = format!("`{}`", ranges::without_indices(&wrong.key));
            let problem = Diagnostic::new(wrong.message, self.tree.origin_of(&wrong.key));
            self.problems.push(problem.label(label));
            self.too_many |= wrong.too_many;
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
        let mut bound: BTreeMap<SocketAddr, Origin> = BTreeMap::new();
        for (path, node) in self.items("listener") {
            match node.get("upstream").and_then(Node::as_text) {
                Some(name) if upstreams.contains(&name) => used.push(name),
                Some(_) if self.is_wrong(&KeyPath(vec![PathStep::Key("upstream".to_owned())])) => {}
                Some(name) => {
                    let title = format!("there is no upstream `{}`", name.escape_debug());
                    let problem = Diagnostic::new(title, self.origin(node, "upstream"));
                    self.problems
                        .push(match closest(name, upstreams.iter().copied()) {
                            Some(close) => problem.label(format!("did you mean `{close}`?")),
                            None => problem
                                .help(format!("configured upstreams: {}", upstreams.join(", "))),
                        });
                }
                None if self.is_wrong(&path.key("upstream")) => {}
                // With two upstreams of one name there is nothing to choose from yet.
                None if has_duplicates(&upstreams) => {}
                None => {
                    let title = "with several upstreams, each listener must name its own";
                    let problem = Diagnostic::new(title, node.origin.clone());
                    self.problems.push(problem.help(format!(
                        "set `listener.upstream` to one of: {}",
                        upstreams.join(", ")
                    )));
                }
            }
            self.binds(node, &mut bound);
            self.front_names(node);
        }
        for (name, (_, node)) in upstreams.iter().zip(self.items("upstream")) {
            if !used.contains(name) && self.problems.is_empty() && !self.needs_gateway {
                self.warnings.push(Diagnostic::new(
                    format!("no listener uses upstream `{name}`"),
                    node.origin.clone(),
                ));
            }
        }
    }

    /// Names of `front_allow`, and whether there is a front at all that serves them.
    fn front_names(&mut self, node: &Node) {
        let Some(allow) = node.get("front_allow") else {
            return;
        };
        for item in allow.items() {
            let Some(text) = item.as_text() else { continue };
            if let Err(wrong) = addr::parse_host_maybe_port(text) {
                let problem = Diagnostic::new(wrong.to_string(), item.origin.clone());
                self.problems
                    .push(problem.help("a name looks like HOST or HOST:PORT"));
            }
        }
        let front = node.get("front").and_then(Node::as_text);
        if !allow.items().is_empty() && front.is_none_or(|front| front == "tcp") {
            let title = "`front_allow` has no effect with front \"tcp\"";
            self.warnings
                .push(Diagnostic::new(title, allow.origin.clone()));
        }
    }

    fn binds(&mut self, node: &Node, bound: &mut BTreeMap<SocketAddr, Origin>) {
        let remote = node.get("allow_remote").is_some_and(yes);
        let Some(bind) = node.get("bind") else {
            for address in DEFAULT_BINDS
                .iter()
                .filter_map(|text| text.parse::<SocketAddr>().ok())
            {
                self.bind_once(address, &node.origin, bound);
            }
            return;
        };
        if bind.items().is_empty() && bind.origin != Origin::Default {
            self.error(bind.origin.clone(), "a listener needs at least one address");
        }
        for item in bind.items() {
            let Some(text) = item.as_text() else { continue };
            let Ok(address) = text.parse::<SocketAddr>() else {
                let title = format!(
                    "`{}` is not an IP address with its port",
                    text.escape_debug()
                );
                let problem = Diagnostic::new(title, item.origin.clone());
                self.problems
                    .push(problem.help("an address looks like 127.0.0.1:8182 or [::1]:8182"));
                continue;
            };
            if !address.ip().to_canonical().is_loopback() && !remote {
                let title =
                    format!("{address} is not a loopback address: other machines could connect");
                let help = "the port has no encryption and no authentication; to allow it anyway, set --allow-remote or \
                            `allow_remote = true` in [[listener]]";
                self.problems
                    .push(Diagnostic::new(title, item.origin.clone()).help(help));
            }
            self.bind_once(address, &item.origin, bound);
        }
    }

    fn bind_once(
        &mut self,
        address: SocketAddr,
        origin: &Origin,
        bound: &mut BTreeMap<SocketAddr, Origin>,
    ) {
        if address.port() == 0 {
            return;
        }
        if let Some(first) = bound.get(&address) {
            let problem = Diagnostic::new(format!("two listeners bind {address}"), origin.clone());
            self.problems
                .push(problem.also(first.clone(), "first used here"));
        } else {
            bound.insert(address, origin.clone());
        }
    }

    fn upstream_times(&mut self, upstream: &UpstreamSettings, node: &Node) {
        for (key, message) in upstream
            .health
            .validate()
            .into_iter()
            .chain(upstream.failback.validate())
        {
            self.error(self.origin(node, &key), format!("`{key}` {message}"));
        }
        if matches!(upstream.hedge_after, HedgeAfter::AtMost(cap) if cap > upstream.connect_timeout)
        {
            let title = "`hedge_after` is longer than `connect_timeout` and has no effect";
            self.warnings
                .push(Diagnostic::new(title, self.origin(node, "hedge_after")));
        }
        if upstream.health.probes() && upstream.health.timeout > upstream.health.interval {
            let title = format!(
                "the probe timeout of {} is longer than the probe interval of {}",
                duration::show(upstream.health.timeout),
                duration::show(upstream.health.interval)
            );
            self.warnings
                .push(Diagnostic::new(title, self.origin(node, "health.interval")));
        }
    }

    /// Each `via` is understood, and the files that it names can be used.
    fn vias(&mut self, upstream: &UpstreamSettings, node: &Node) {
        let mut vias = vec![("via".to_owned(), &upstream.via)];
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            let via = endpoint.via.as_ref();
            vias.extend(via.map(|via| (format!("endpoint[{index}].via"), via)));
        }
        for (key, via) in vias {
            let checked = via.hop().and_then(|hop| via.check_files().map(|()| hop));
            let proxy = match checked {
                Ok(hop) => hop.and_then(|hop| hop.proxy().cloned()),
                Err((wrong, text)) => {
                    let origin = node.origin_of(&format!("{key}.{wrong}"));
                    self.problems.push(Diagnostic::new(text, origin));
                    continue;
                }
            };
            let own =
                proxy.and_then(|proxy| Some((self.own_listener(&proxy.host, proxy.port)?, proxy)));
            if let Some((listener, proxy)) = own {
                let title = format!("the proxy {proxy} is our own listener {listener}");
                let origin = node.origin_of(&format!("{key}.url"));
                self.problems.push(Diagnostic::new(title, origin).help(
                    "give the proxy's own address, or listen elsewhere with --listen 127.0.0.1:PORT",
                ));
            }
        }
    }

    /// A zone that no explicit endpoint has gives no preference, without any error.
    fn zone_in_use(&mut self, upstream: &UpstreamSettings, node: &Node) {
        let ZoneSetting::Named(zone) = &upstream.zone else {
            return;
        };
        let zones: BTreeSet<&str> = upstream
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.zone.as_ref().map(|zone| zone.as_str()))
            .collect();
        if upstream.endpoints.is_empty() || zones.contains(zone.as_str()) {
            return;
        }
        let title = match zones.is_empty() {
            true => format!(
                "`zone` is {zone}, but no endpoint has a zone; give each one: HOST:PORT?zone=ZONE"
            ),
            false => {
                let known = zones.into_iter().collect::<Vec<_>>().join(", ");
                format!("no endpoint is in zone {zone}; the zones of the endpoints are: {known}")
            }
        };
        self.warnings
            .push(Diagnostic::new(title, self.origin(node, "zone")));
    }

    fn gateway(&mut self) {
        if !cfg!(feature = "gateway") {
            if let Some(node) = self.tree.get("gateway") {
                let title = "this build has no gateway: its cargo feature `gateway` is off";
                self.problems
                    .push(Diagnostic::new(title, node.origin.clone()));
            }
            return;
        }
        let upstreams: Vec<&str> = self
            .settings
            .upstreams
            .iter()
            .map(|upstream| upstream.name.as_str())
            .collect();
        for (key, message) in self
            .settings
            .gateway
            .validate(&upstreams, self.needs_gateway)
        {
            let origin = self.origin(self.tree, &format!("gateway.{key}"));
            self.problems.push(Diagnostic::new(message, origin));
        }
    }

    fn process(&mut self) {
        let root = self.tree;
        if self.settings.shutdown.min_delay > self.settings.shutdown.max_delay {
            let title = "`shutdown.min_delay` is longer than `shutdown.max_delay`";
            self.warnings.push(Diagnostic::new(
                title,
                self.origin(root, "shutdown.min_delay"),
            ));
        }
        for (key, message) in self.settings.admin.problems() {
            let origin = self.origin(root, &format!("admin.{key}"));
            self.problems
                .push(Diagnostic::new(message, origin).label(format!("`admin.{key}`")));
        }
        if let Some(problem) = self
            .settings
            .admin
            .token_file
            .as_deref()
            .and_then(readable_by_others)
        {
            self.warnings.push(Diagnostic::new(
                problem,
                self.origin(root, "admin.token_file"),
            ));
        }
        if self.settings.admin.bind == Bind::Off {
            let title = match self.settings.admin.control {
                Some(ControlPath::Off) => {
                    "admin HTTP and the control socket are off: `entryway healthcheck`, `status`, `reload` and \
                     `shutdown` reach nothing, and signals are the only way in"
                }
                _ => {
                    "admin HTTP is off: there are no metrics, no status page and nothing for an HTTP health check; \
                     `entryway healthcheck` asks the control socket"
                }
            };
            self.warnings
                .push(Diagnostic::new(title, self.origin(root, "admin.bind")));
        }
        if let Some(address) = self.settings.faults.bind {
            let origin = self.origin(root, "faults.bind");
            if cfg!(not(feature = "faults")) {
                self.error(origin, "this build has no faults (cargo feature `faults`)");
            } else if !address.ip().to_canonical().is_loopback() {
                let title = format!(
                    "{address} is not a loopback address: whoever reaches this API can break every connection"
                );
                let problem = Diagnostic::new(title, origin);
                self.problems
                    .push(problem.help("use an address such as 127.0.0.1:8474"));
            }
        }
        self.gateway();
        let dns = &self.settings.dns;
        if dns.resolver == ResolverKind::System && !dns.servers.is_empty() {
            let title =
                "`dns.servers` is used by the stub resolver only, and `dns.resolver` is system";
            let problem = Diagnostic::new(title, self.origin(root, "dns.servers"))
                .also(self.origin(root, "dns.resolver"), "the resolver");
            self.problems
                .push(problem.help("leave out --dns-server, or use --resolver stub"));
        }
        for (key, message) in self.settings.dns.validate() {
            let origin = self.origin(root, &format!("dns.{key}"));
            self.error(origin, format!("`{key}` {message}"));
        }
    }
}

/// What to say of a secret that other users may read. A warning and no error, unlike a key's: a secret that Kubernetes
/// mounts is 0644 unless asked for otherwise, and often nobody else is in the container.
fn readable_by_others(file: &Path) -> Option<String> {
    let mode = fs::metadata(file).ok()?.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then(|| {
        let file = file.display();
        format!(
            "other users may read or write the token in {file} (mode {mode:04o}), and so change what this instance does; \
             mend it with: chmod 600 {file} (a Kubernetes secret: defaultMode 0400)"
        )
    })
}

fn has_duplicates(names: &[&str]) -> bool {
    let mut seen = BTreeSet::new();
    !names.iter().all(|name| seen.insert(name))
}

fn yes(node: &Node) -> bool {
    match &node.value {
        NodeValue::Bool(yes) => *yes,
        NodeValue::Int(number) => *number == 1,
        NodeValue::Untyped(text) => matches!(text.trim(), "true" | "1"),
        _ => false,
    }
}
