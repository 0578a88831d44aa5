//! The table of flags that are settings. The command line, the environment variables and the reference page are made
//! from it.
//!
//! Flag `--x-y` is also the variable `ENTRYWAY_X_Y`. Flags that are not settings (`--output`, `--timeout`) are in
//! `cli::args`.

use std::net::{IpAddr, SocketAddr};

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgAction};

use super::diagnostics::Diagnostic;
use super::node::{Node, NodeValue, Origin};
use super::{endpoint, profile};
use crate::duration;

/// The heading of a flag in help texts; each subcommand takes the groups it has a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagGroup {
    Target,
    Listen,
    Health,
    Dns,
    Admin,
    Process,
    /// Of `entryway gateway` only.
    Gateway,
}

/// How a flag's text becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Any text; validated with the settings.
    Text,
    /// `HOST:PORT?zone=Z&name=N`, repeatable.
    Endpoints,
    /// `IP:PORT`, repeatable.
    Addresses,
    /// `IP` or `IP:PORT`, port 53 where none is given, repeatable.
    DnsServers,
    /// `IP:PORT`.
    Address,
    /// `IP:PORT` or `off`.
    AddressOrOff,
    Duration,
    /// A duration or `auto`.
    DurationOrAuto,
    Number,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A boolean; the bare flag means true.
    Switch,
    /// `IDENTITY=UPSTREAM[,UPSTREAM]`, repeatable.
    Allow,
    /// Like `Switch`, but true sets the key to `off`.
    Off,
    /// `conns,probes`; see [`quiet`].
    Quiet,
}

/// One flag that is a setting.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Unique among all flags: the long name, unless another command has a flag of that name.
    pub id: &'static str,
    /// Without dashes.
    pub long: &'static str,
    pub short: Option<char>,
    /// The TOML key it sets.
    pub path: &'static str,
    pub kind: ValueKind,
    pub group: FlagGroup,
    /// Name of its value in help texts.
    pub value: &'static str,
    /// One line, with the default.
    pub help: &'static str,
}

const fn flag(
    group: FlagGroup,
    long: &'static str,
    path: &'static str,
    kind: ValueKind,
    value: &'static str,
    help: &'static str,
) -> Flag {
    let short = match long.as_bytes() {
        b"endpoint" => Some('e'),
        b"listen" => Some('l'),
        _ => None,
    };
    Flag {
        id: long,
        long,
        short,
        path,
        kind,
        group,
        value,
        help,
    }
}

/// All flags that are settings, in the order of the help text.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = {
    use FlagGroup::{Admin, Dns, Gateway, Health, Listen, Process, Target};
    use ValueKind::{ Address, Allow, AddressOrOff, Addresses, DnsServers, Duration, DurationOrAuto, Endpoints, Number, Off, Quiet, Switch, Text, Word, };
    &[
        flag(Target, "endpoint", "upstream.endpoint", Endpoints, "HOST:PORT[?zone=Z&name=N]",
            "Address of a Datomic entry point; may be repeated"),
        flag(Target, "vpce", "upstream.vpce", Text, "NAME[:PORT]",
            "Regional DNS name of a VPC endpoint; zonal names are derived from it [port: 8182]"),
        flag(Target, "nlb", "upstream.nlb", Text, "NAME[:PORT]",
            "DNS name of your own network load balancer; zonal names are derived from it [port: 8182]"),
        flag(Target, "peering", "upstream.peering", Switch, "BOOL",
            "Use the entry name of a peered VPC: entry-http.SYSTEM.REGION.datomic.net"),
        flag(Target, "system", "upstream.system", Text, "SYSTEM",
            "Name of the Datomic system (with --peering)"),
        flag(Target, "region", "upstream.region", Text, "REGION",
            "AWS region of the system (with --peering)"),
        flag(Target, "query-group", "upstream.query_group", Text, "GROUP",
            "Query group (with --peering): use its entry name instead of the system's"),
        flag(Target, "from-client", "upstream.from_client", Text, "FILE.edn[#KEY/KEY]",
            "Read endpoint, system and region from a Datomic client map, or from the one at a path of a bigger file"),
        flag(Target, "zone", "upstream.zone", Text, "ZONE|auto|none",
            "Availability zone of this host, preferred over others [default: auto]"),
        flag(Target, "connect-timeout", "upstream.connect_timeout", Duration, "D",
            "Timeout of one connection attempt [default: 1500ms]"),
        flag(Target, "hedge-after", "upstream.hedge_after", DurationOrAuto, "D|auto",
            "Start a second connection attempt after at most this delay; 0s disables hedging [default: auto, 250ms or 3 round trips]"),
        flag(Target, "via", "upstream.via.url", Text, "SPEC",
            "Reach the upstream through a hop: socks5://, http://, https://, ssh://, ssm://, exec:, supervise: [default: direct]"),
        flag(Target, "via-ca", "upstream.via.ca", Text, "FILE",
            "Certificate authorities of an https:// hop (PEM) [default: those of the system]"),
        flag(Target, "via-cert", "upstream.via.cert", Text, "FILE",
            "Client certificate for an https:// hop (PEM)"),
        flag(Target, "via-key", "upstream.via.key", Text, "FILE",
            "Private key of the client certificate (PEM, mode 0600)"),
        flag(Target, "via-server-name", "upstream.via.server_name", Text, "NAME",
            "Name in the certificate of an https:// hop [default: the host of the URL]"),
        flag(Target, "via-credentials", "upstream.via.credentials_file", Text, "FILE",
            "File with USER:PASSWORD for the hop, mode 0600"),
        flag(Target, "no-splice", "upstream.splice", Off, "BOOL",
            "Copy through a buffer instead of splice(2)"),
        flag(Target, "warm", "upstream.warm.spares", Number, "N",
            "Preconnected spare connections per preferred endpoint [default: 0]"),
        flag(Listen, "listen", "listener.bind", Addresses, "IP:PORT",
            "Address to listen on; may be repeated [default: 127.0.0.1:8182 [::1]:8182]"),
        flag(Listen, "allow-remote", "listener.allow_remote", Switch, "BOOL",
            "Allow non-loopback --listen addresses and socket units; the port has no encryption and no authentication"),
        flag(Listen, "front", "listener.front", Word(&["tcp", "socks", "auto"]), "KIND",
            "What clients speak: tcp (plain bytes), socks (SOCKS and HTTP CONNECT) or auto [default: tcp]"),
        flag(Listen, "max-connections", "listener.max_connections", Number, "N",
            "Maximum number of concurrent connections [default: derived from the open-file limit]"),
        flag(Listen, "when-all-down", "listener.when_all_down", Word(&["hold", "try", "refuse"]), "WHAT",
            "New connections while no address is reachable: hold, try or refuse [default: hold]"),
        flag(Health, "probe", "upstream.health.kind", Word(&["datomic", "http", "tcp", "off"]), "KIND",
            "Kind of health probe: datomic, http, tcp or off [default: datomic]"),
        flag(Health, "probe-interval", "upstream.health.interval", Duration, "D",
            "Interval between probes of a healthy address [default: 5s]"),
        flag(Health, "fall", "upstream.health.fall", Number, "N",
            "Consecutive failed probes before an address is marked down [default: 3]"),
        flag(Health, "rise", "upstream.health.rise", Number, "N",
            "Consecutive successful probes before a down address may return [default: 2]"),
        flag(Health, "expect-s3-auth-path", "upstream.health.expect_s3_auth_path", Text, "auto|off|VALUE",
            "Expected :s3-auth-path of every address [default: auto]"),
        flag(Health, "failback-after", "upstream.failback.after", Duration, "D",
            "Observe a returning address this long before it is used again [default: 60s]"),
        flag(Dns, "dns-server", "dns.servers", DnsServers, "IP[:PORT]",
            "DNS server to query; may be repeated [port: 53] [default: those of /etc/resolv.conf]"),
        flag(Dns, "resolver", "dns.resolver", Word(&["stub", "system"]), "stub|system",
            "Query DNS servers directly, or ask the system's resolver (getaddrinfo) [default: stub]"),
        flag(Dns, "allow-local-answers", "dns.allow_local_answers", Switch, "BOOL",
            "Accept loopback and link-local addresses in DNS answers"),
        flag(Admin, "admin", "admin.bind", AddressOrOff, "IP:PORT|off",
            "Admin HTTP server: health checks, /metrics, /v1 [default: 127.0.0.1:8183]"),
        flag(Admin, "control", "admin.control", Text, "PATH|off",
            "Control socket [default: below $RUNTIME_DIRECTORY or $XDG_RUNTIME_DIR]"),
        flag(Admin, "metrics-bind", "admin.metrics_bind", Address, "IP:PORT",
            "Extra read-only listener for /metrics and health checks; may be non-loopback"),
        flag(Admin, "faults", "faults.bind", Address, "IP:PORT",
            "HTTP API that sets faults, compatible with Toxiproxy's; loopback only"),
        flag(Process, "min-drain", "shutdown.min_delay", Duration, "D",
            "Keep accepting connections this long after the signal to stop [default: 0s]"),
        flag(Process, "max-drain", "shutdown.max_delay", Duration, "D",
            "Reset connections that are still open after this long [default: 25s]"),
        flag(Process, "strict-exit", "shutdown.strict_exit", Switch, "BOOL",
            "Exit with code 3 if connections had to be reset"),
        flag(Process, "log-format", "log.format", Word(&["auto", "text", "logfmt", "json"]), "FORMAT",
            "Log format: auto, text, logfmt or json; auto is text on a terminal, else json [default: auto]"),
        flag(Process, "log-level", "log.level", Word(&["error", "warn", "info", "debug", "trace"]), "LEVEL",
            "Log level: error, warn, info, debug or trace [default: info]"),
        flag(Process, "quiet", "log", Quiet, "conns,probes",
            "conns: log failed connections only; probes: do not log probes"),
        flag(Process, "workers", "runtime.workers", Number, "N",
            "Number of data threads [default: available CPUs]"),
        flag(Process, "sandbox", "runtime.sandbox", Word(&["auto", "off"]), "auto|off",
            "Restrict this process to the files and programs of its settings (Landlock) [default: auto]"),
        flag(Process, "profile", "profile", Word(profile::NAMES), "PROFILE",
            "Preset of defaults: sidecar, laptop or load [default: sidecar]"),
        Flag { id: GATEWAY_LISTEN, ..flag(Gateway, "listen", "gateway.bind", Addresses, "IP:PORT",
            "Address to listen on for TLS clients; may be repeated") },
        flag(Gateway, "cert", "gateway.cert", Text, "FILE",
            "Certificate of the gateway and its chain (PEM)"),
        flag(Gateway, "key", "gateway.key", Text, "FILE",
            "Private key of the gateway (PEM, mode 0600)"),
        flag(Gateway, "client-ca", "gateway.client_ca", Text, "FILE",
            "Certificate authorities whose clients are accepted (PEM)"),
        flag(Gateway, "crl", "gateway.crl", Text, "FILE",
            "Revoked client certificates (PEM)"),
        flag(Gateway, "allow", "gateway.allow", Allow, "IDENTITY=UPSTREAM[,UPSTREAM]",
            "Upstreams a client may reach; IDENTITY may end in *; may be repeated [default: all for all]"),
    ]
};

/// Id of `entryway gateway --listen`; `run` has a flag of that name as well.
pub const GATEWAY_LISTEN: &str = "gateway-listen";

/// The flag that names the settings file; not itself a setting.
pub const CONFIG: &str = "config";

// === impl Flag ===

impl Flag {
    /// The environment variable with the same meaning.
    pub fn variable(&self) -> String {
        variable(self.id)
    }

    /// The clap argument. It rejects values of the wrong type (exit code 2).
    pub fn arg(&self) -> Arg {
        let arg = Arg::new(self.id)
            .long(self.long)
            .value_name(self.value)
            .help(self.help);
        let arg = self.short.map_or(arg.clone(), |short| arg.short(short));
        let arg = match self.kind {
            ValueKind::Endpoints
            | ValueKind::Addresses
            | ValueKind::DnsServers
            | ValueKind::Allow => arg.action(ArgAction::Append),
            ValueKind::Quiet => arg.action(ArgAction::Append).value_delimiter(','),
            ValueKind::Switch | ValueKind::Off => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .hide_possible_values(true),
            _ => arg,
        };
        let arg = if matches!(self.kind, ValueKind::Word(_) | ValueKind::Quiet) {
            arg.hide_possible_values(true)
        } else {
            arg
        };
        arg.value_parser(self.parser())
    }

    fn parser(&self) -> ValueParser {
        fn checked(check: fn(&str) -> Result<(), String>) -> ValueParser {
            ValueParser::new(move |text: &str| check(text).map(|()| text.to_owned()))
        }
        match self.kind {
            ValueKind::Text | ValueKind::Endpoints => ValueParser::string(),
            ValueKind::Addresses | ValueKind::Address => checked(address),
            ValueKind::DnsServers => checked(|text| dns_server(text).map(drop)),
            ValueKind::Allow => checked(|text| allow(text).map(drop)),
            ValueKind::AddressOrOff => {
                checked(|text| if text == "off" { Ok(()) } else { address(text) })
            }
            ValueKind::Duration => checked(|text| duration::parse(text).map(drop)),
            ValueKind::DurationOrAuto => checked(|text| match text {
                "auto" => Ok(()),
                _ => duration::parse(text).map(drop),
            }),
            ValueKind::Number => checked(|text| match text.parse::<u32>() {
                Ok(_) => Ok(()),
                Err(_) => Err("expected a whole number".to_owned()),
            }),
            ValueKind::Word(words) => PossibleValuesParser::new(words).map(|word| word).into(),
            ValueKind::Switch | ValueKind::Off => {
                PossibleValuesParser::new(["true", "false", "1", "0"]).into()
            }
            ValueKind::Quiet => PossibleValuesParser::new(["conns", "probes"]).into(),
        }
    }

    /// Sets the key of this flag or variable in `tree`.
    pub(super) fn set_in(
        &self,
        tree: &mut Node,
        texts: &[&str],
        origin: &Origin,
        problems: &mut Vec<Diagnostic>,
    ) {
        let Some(last) = texts.last() else { return };
        let list = |nodes: Vec<Node>| Node {
            origin: origin.clone(),
            value: NodeValue::List(nodes),
        };
        match self.kind {
            ValueKind::Endpoints => {
                let mut nodes = Vec::new();
                for text in texts {
                    match endpoint::from_text(text, origin) {
                        Ok(node) => nodes.push(node),
                        Err(problem) => {
                            problems.push(problem);
                            nodes.push(Node {
                                origin: origin.clone(),
                                value: NodeValue::Invalid,
                            });
                        }
                    }
                }
                tree.set(self.path, list(nodes));
            }
            ValueKind::Addresses => {
                let nodes = texts
                    .iter()
                    .map(|text| Node::untyped(origin.clone(), *text))
                    .collect();
                tree.set(self.path, list(nodes));
            }
            ValueKind::DnsServers => {
                let nodes = texts
                    .iter()
                    .map(|text| Node::untyped(origin.clone(), *text));
                let mut servers = list(nodes.collect());
                complete_dns_servers(&mut servers);
                tree.set(self.path, servers);
            }
            ValueKind::Allow => {
                let mut nodes = Vec::new();
                for text in texts {
                    match allow(text) {
                        Ok((identity, upstreams)) => {
                            let mut node = Node::table(origin.clone());
                            node.set("identity", Node::text(origin.clone(), identity));
                            let upstreams = upstreams
                                .split(',')
                                .map(|name| Node::text(origin.clone(), name));
                            node.set("upstreams", list(upstreams.collect()));
                            nodes.push(node);
                        }
                        Err(why) => problems.push(Diagnostic::new(why, origin.clone())),
                    }
                }
                tree.set(self.path, list(nodes));
            }
            ValueKind::Off => match *last {
                "true" | "1" => tree.set(self.path, Node::text(origin.clone(), "off")),
                "false" | "0" => tree.set(self.path, Node::text(origin.clone(), "auto")),
                text => problems.push(Diagnostic::new(
                    format!(
                        "expected true, false, 1 or 0, found the text `{}`",
                        text.escape_debug()
                    ),
                    origin.clone(),
                )),
            },
            ValueKind::Quiet => quiet(tree, texts, origin, problems),
            _ => tree.set(self.path, Node::untyped(origin.clone(), *last)),
        }
    }
}

/// `--quiet`: `conns` logs failed connections only, `probes` logs no probes.
fn quiet(tree: &mut Node, texts: &[&str], origin: &Origin, problems: &mut Vec<Diagnostic>) {
    for text in texts {
        match *text {
            "conns" => tree.set("log.connections", Node::text(origin.clone(), "errors")),
            "probes" => tree.set("log.probes", Node::text(origin.clone(), "off")),
            text => problems.push(Diagnostic::new(
                format!(
                    "expected conns or probes, found the text `{}`",
                    text.escape_debug()
                ),
                origin.clone(),
            )),
        }
    }
}

fn address(text: &str) -> Result<(), String> {
    text.parse::<SocketAddr>().map(drop).map_err(|_| {
        "expected an IP address with a port, such as 127.0.0.1:8182 or [::1]:8182".to_owned()
    })
}

/// `IDENTITY=UPSTREAM[,UPSTREAM]`. An identity may contain `=`, an upstream's name cannot.
fn allow(text: &str) -> Result<(&str, &str), String> {
    text.rsplit_once('=')
        .filter(|(identity, upstreams)| !identity.is_empty() && !upstreams.is_empty())
        .ok_or_else(|| {
            "expected IDENTITY=UPSTREAM[,UPSTREAM], such as spiffe://corp/*=prod".to_owned()
        })
}

/// `IP` or `IP:PORT`, with or without brackets around IPv6.
fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    text.parse()
        .or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| {
            "expected the IP address of a DNS server, such as 10.0.0.2 or 10.0.0.2:53".to_owned()
        })
}

/// Adds the port to servers that were given without one. What is not an address is reported when it is read.
pub(super) fn complete_dns_servers(servers: &mut Node) {
    let complete = |node: &mut Node| {
        if let Some(server) = node.as_text().and_then(|text| dns_server(text).ok()) {
            *node = Node::text(node.origin.clone(), server.to_string());
        }
    };
    match &mut servers.value {
        NodeValue::List(items) => items.iter_mut().for_each(complete),
        _ => complete(servers),
    }
}

/// The environment variable of a flag.
pub(super) fn variable(long: &str) -> String {
    format!("ENTRYWAY_{}", long.to_uppercase().replace('-', "_"))
}
