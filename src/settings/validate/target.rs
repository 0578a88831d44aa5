//! Where connections go: one target for each upstream, and endpoints that can be ones.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::validator::{DEFAULT_BINDS, Validator};
use crate::addr::{self, HostPort};
use crate::settings::diagnostics::Diagnostic;
use crate::settings::endpoint;
use crate::settings::layers::TARGETS;
use crate::settings::model::{UpstreamSettings, ZoneSetting};
use crate::settings::node::{KeyPath, Node, Origin, Value};

const WAYS: &str = "say one of --endpoint HOST:PORT, --vpce NAME, --peering --system S --region R, \
                    --from-client FILE.edn";

impl Validator<'_> {
    pub(super) fn target(&mut self, upstream: &UpstreamSettings, path: &KeyPath, node: &Node) {
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
            .any(|key| self.is_wrong(&path.key(key)))
            || node.get("endpoint").is_some_and(has_invalid);
        if let [first, second, ..] = set[..] {
            let title = format!(
                "upstream `{name}` has two targets: {} and {}",
                flag(first),
                flag(second)
            );
            let problem = Diagnostic::new(title, self.origin(node, second))
                .also(self.origin(node, first), "the first one");
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
                    let title = format!("peering needs a {key}");
                    let problem = Diagnostic::new(title, self.origin(node, "peering"));
                    let help = format!("add --{key} or `upstream.{key}`");
                    self.problems.push(problem.help(help));
                }
            }
        }
        self.parts_of_names(upstream, node);
    }

    fn parts_of_names(&mut self, upstream: &UpstreamSettings, node: &Node) {
        let zone = match &upstream.zone {
            ZoneSetting::Named(zone) => endpoint::check_label(zone.as_str()).err(),
            ZoneSetting::Auto | ZoneSetting::None => None,
        };
        let from_client = (upstream.from_client.as_deref() == Some(""))
            .then(|| "the name of a client map cannot be empty".to_owned());
        let system = upstream.system.as_deref().and_then(addr::aws::wrong_system);
        let region = upstream.region.as_deref().and_then(addr::aws::wrong_region);
        let vpce = upstream
            .vpce
            .as_deref()
            .map(|text| addr::check_name(addr::NameKind::Vpce, text));
        let vpce = vpce.and_then(Result::err).map(|error| error.to_string());
        for (key, wrong) in [
            ("system", system),
            ("region", region),
            ("vpce", vpce),
            ("from_client", from_client),
            ("zone", zone),
        ] {
            if let Some(why) = wrong {
                self.error(self.origin(node, key), why);
            }
        }
    }

    fn no_target(&mut self, upstream: &UpstreamSettings, node: &Node) {
        let named = if self.settings.upstreams.len() > 1 || upstream.name.as_str() != "default" {
            format!("upstream `{}` has no target: ", upstream.name)
        } else {
            "no target: ".to_owned()
        };
        let problem = Diagnostic::new(
            format!("{named}nobody said where Datomic is"),
            node.origin.clone(),
        );
        self.problems
            .push(if upstream.system.is_some() || upstream.region.is_some() {
                problem.help(
                    "a system and a region are a target together with --peering (`peering = true`)",
                )
            } else {
                problem
                    .help(WAYS)
                    .help("or try it without AWS: `entryway demo`")
            });
    }

    pub(super) fn endpoints(&mut self, upstream: &UpstreamSettings, node: &Node) {
        let items = node.get("endpoint").map(Node::items).unwrap_or_default();
        let items = items.iter().filter(|item| item.value != Value::Invalid);
        let mut names: BTreeMap<&str, Origin> = BTreeMap::new();
        let mut places: BTreeMap<(String, u16), Origin> = BTreeMap::new();
        for (given, item) in upstream.endpoints.iter().zip(items) {
            let origin = self.origin(item, "address");
            match given.host_port() {
                Err(why) => {
                    let shown = given.address.escape_debug();
                    self.error(origin, format!("endpoint `{shown}`: {why}"));
                }
                Ok(HostPort { host, port }) => {
                    self.not_ourselves(&host, port, &origin);
                    let key = (host.to_lowercase(), port);
                    if let Some(first) = places.get(&key) {
                        let title = format!("endpoint {} is there twice", given.address);
                        let problem = Diagnostic::new(title, origin);
                        self.problems
                            .push(problem.also(first.clone(), "the first one"));
                    } else {
                        places.insert(key, origin);
                    }
                }
            }
            for (key, label) in [
                ("name", given.name.as_ref().map(|n| n.as_str())),
                ("zone", given.zone.as_ref().map(|z| z.as_str())),
            ] {
                if let Some(Err(why)) = label.map(endpoint::check_label) {
                    self.error(self.origin(item, key), why);
                }
            }
            if let Some(name) = &given.name {
                let origin = self.origin(item, "name");
                if let Some(first) = names.get(name.as_str()) {
                    let problem =
                        Diagnostic::new(format!("two endpoints are called `{name}`"), origin);
                    self.problems
                        .push(problem.also(first.clone(), "the first one"));
                } else {
                    names.insert(name.as_str(), origin);
                }
            }
        }
    }

    /// A proxy that forwards to itself would go round until the sockets run out.
    fn not_ourselves(&mut self, host: &str, port: u16, origin: &Origin) {
        let ips: Vec<IpAddr> = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip.to_canonical()],
            Err(_) if host.eq_ignore_ascii_case("localhost") => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
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
            let problem = Diagnostic::new(
                format!("endpoint {host}:{port} is our own listener {address}"),
                origin.clone(),
            );
            self.problems.push(
                problem.help(
                    "give another endpoint, or listen elsewhere with --listen 127.0.0.1:PORT",
                ),
            );
        }
    }
}

/// Whether something was taken out of the list because it is wrong.
fn has_invalid(list: &Node) -> bool {
    list.items().iter().any(|item| item.value == Value::Invalid)
}

fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}
