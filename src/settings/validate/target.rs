//! The target of each upstream: resolved by `crate::target`, and what is wrong or odd shown where it was set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::validator::{DEFAULT_BINDS, Validator};
use crate::addr::is_own_listener;
use crate::settings::diagnostics::Diagnostic;
use crate::settings::model::{UpstreamSettings, ZoneSetting};
use crate::settings::node::{KeyPath, Node, NodeValue, Origin};
use crate::sys::local_address::is_local_address;
use crate::target::{ResolvedTarget, TARGET_KEYS, TargetError};
use crate::types::check_label;
use crate::upstream::endpoint::Role;

const WAYS: &str = "--endpoint HOST:PORT, --vpce NAME, --nlb NAME, --peering --system S --region R, or \
                    --from-client FILE.edn";

impl Validator<'_> {
    /// Resolves an upstream's target; without endpoints where it is wrong or not given.
    pub(super) fn target(
        &mut self,
        upstream: &UpstreamSettings,
        path: &KeyPath,
        node: &Node,
    ) -> ResolvedTarget {
        // What follows from a value that could not be read is not reported a second time.
        let unread = ["system", "region", "query_group"]
            .iter()
            .chain(&TARGET_KEYS)
            .any(|key| self.is_wrong(&path.key(key)))
            || node.get("endpoint").is_some_and(has_invalid);
        if let ZoneSetting::Named(zone) = &upstream.zone
            && let Err(why) = check_label(zone.as_str())
        {
            self.error(self.origin(node, "zone"), why);
        }
        let target = upstream.target();
        if target.keys().is_empty() && !unread && self.needs_target {
            self.no_target(upstream, node);
        }
        match target.resolve() {
            Err(errors) => {
                let wanted = |error: &TargetError| !unread || error.key != "peering";
                for error in errors.into_iter().filter(wanted) {
                    let problem = self.diagnostic(upstream, node, error);
                    self.problems.push(problem);
                }
                ResolvedTarget::default()
            }
            Ok(mut resolved) => {
                for warning in std::mem::take(&mut resolved.warnings) {
                    let warning = self.diagnostic(upstream, node, warning);
                    self.warnings.push(warning);
                }
                self.check_own_listeners(&resolved, node);
                resolved
            }
        }
    }

    /// A target's error at the key it is about.
    fn diagnostic(
        &self,
        upstream: &UpstreamSettings,
        node: &Node,
        error: TargetError,
    ) -> Diagnostic {
        let several = self.settings.upstreams.len() > 1;
        let title = match error.first {
            Some(_) if several => format!("upstream `{}`: {}", upstream.name, error.what),
            _ => error.what,
        };
        let mut problem = Diagnostic::new(title, self.target_origin(node, &error.key));
        if let Some(first) = &error.first {
            problem = problem.also(self.target_origin(node, first), "the first one");
        }
        error.help.into_iter().fold(problem, Diagnostic::help)
    }

    /// The origin of `vpce`, or of `endpoint[1].address`, where the index counts the endpoints that could be read.
    fn target_origin(&self, node: &Node, key: &str) -> Origin {
        let below = key.strip_prefix("endpoint[");
        let Some((index, key)) = below.and_then(|below| below.split_once("].")) else {
            return self.origin(node, key);
        };
        let items = node.get("endpoint").map(Node::items).unwrap_or_default();
        let mut items = items.iter().filter(|item| item.value != NodeValue::Invalid);
        match index.parse().ok().and_then(|index| items.nth(index)) {
            Some(item) => self.origin(item, key),
            None => self.origin(node, "endpoint"),
        }
    }

    fn no_target(&mut self, upstream: &UpstreamSettings, node: &Node) {
        let named = if self.settings.upstreams.len() > 1 || upstream.name.as_str() != "default" {
            format!("upstream `{}` has no target", upstream.name)
        } else {
            "no target: nothing says where Datomic is".to_owned()
        };
        let problem = Diagnostic::new(named, node.origin.clone());
        self.problems
            .push(if upstream.system.is_some() || upstream.region.is_some() {
                problem.help(
                    "a system and a region are a target together with --peering (`peering = true`)",
                )
            } else {
                problem
                    .help(format!("set one of {WAYS}"))
                    .help("or try it without AWS: `entryway demo`")
            });
    }

    /// A proxy that forwards to itself would go round until the sockets run out.
    fn check_own_listeners(&mut self, resolved: &ResolvedTarget, node: &Node) {
        let configured = resolved.endpoints.iter().enumerate();
        for (index, spec) in configured.filter(|(_, spec)| spec.role == Role::Configured) {
            if let Some(listener) = self.own_listener(&spec.host, spec.port) {
                let title = format!(
                    "endpoint {}:{} is our own listener {listener}",
                    spec.host, spec.port
                );
                let origin = self.target_origin(node, &format!("endpoint[{index}].address"));
                self.problems.push(Diagnostic::new(title, origin).help(
                    "give another endpoint, or listen elsewhere with --listen 127.0.0.1:PORT",
                ));
            }
        }
    }

    /// The listener of ours that a connect to this host (an address, or `localhost`) would reach.
    pub(super) fn own_listener(&self, host: &str, port: u16) -> Option<SocketAddr> {
        let ips: Vec<IpAddr> = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) if host.eq_ignore_ascii_case("localhost") => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            Err(_) => return None,
        };
        let mut listeners: Vec<SocketAddr> = Vec::new();
        for (_, listener) in self.items("listener") {
            let parse = |text: &str| text.parse::<SocketAddr>().ok();
            match listener.get("bind") {
                Some(bind) => {
                    listeners.extend(
                        bind.items()
                            .iter()
                            .filter_map(Node::as_text)
                            .filter_map(parse),
                    );
                }
                None => listeners.extend(DEFAULT_BINDS.iter().copied().filter_map(parse)),
            }
        }
        listeners.into_iter().find(|listener| {
            ips.iter().any(|ip| {
                let socket = SocketAddr::new(*ip, port);
                is_own_listener(socket, &[*listener], is_local_address)
            })
        })
    }
}

/// Whether something was taken out of the list because it is wrong.
fn has_invalid(list: &Node) -> bool {
    list.items()
        .iter()
        .any(|item| item.value == NodeValue::Invalid)
}
