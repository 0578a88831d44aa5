//! The flags that are settings: one table, from which the command line, the variables and their trees are made.
//!
//! A flag `--x-y` is the variable `ENTRYWAY_X_Y`. What is no setting (`--output`, `--timeout`) belongs to `cli::args`.

use std::net::SocketAddr;

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgAction};

use super::report::Problem;
use super::tree::{Node, Place, Value};
use super::{endpoint, profile};
use crate::duration;

/// What a flag is about; subcommands take those they have a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Where connections go, and how they are made.
    Target,
    /// Where clients connect.
    Listen,
    /// Probes, failover, failback.
    Health,
    /// How names are resolved.
    Dns,
    /// Admin HTTP, control socket, metrics.
    Admin,
    /// Logs, drain, threads, profile.
    Process,
}

/// How a flag's text becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Taken as it is; whether it can be so is the settings' business.
    Text,
    /// `HOST:PORT?zone=Z&name=N`, several.
    Endpoints,
    /// `IP:PORT`, several.
    Addresses,
    /// `IP:PORT`.
    Address,
    /// `IP:PORT` or `off`.
    AddressOrOff,
    /// A duration.
    Duration,
    /// A whole number.
    Number,
    /// One of these.
    Word(&'static [&'static str]),
    /// Yes or no; the bare flag is yes.
    Switch,
    /// Like `Switch`, but yes sets the key to `off`.
    Off,
    /// `conns,probes`: see [`quiet`].
    Quiet,
}

/// One flag that is a setting.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub long: &'static str,
    /// One letter.
    pub short: Option<char>,
    /// The key it sets.
    pub path: &'static str,
    /// How its text becomes a value.
    pub kind: Kind,
    /// What it is about.
    pub group: Group,
    /// What stands for its value in help texts.
    pub value: &'static str,
    /// In one line, with the default.
    pub help: &'static str,
}

const fn flag(
    group: Group,
    long: &'static str,
    path: &'static str,
    kind: Kind,
    value: &'static str,
    help: &'static str,
) -> Flag {
    let short = match long.as_bytes() {
        b"endpoint" => Some('e'),
        b"listen" => Some('l'),
        _ => None,
    };
    Flag {
        long,
        short,
        path,
        kind,
        group,
        value,
        help,
    }
}

/// All of them, in the order of the help text.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = {
    use Group::{Admin, Dns, Health, Listen, Process, Target};
    use Kind::{ Address, AddressOrOff, Addresses, Duration, Endpoints, Number, Off, Quiet, Switch, Text, Word, };
    &[
        flag(Target, "endpoint", "upstream.endpoint", Endpoints, "HOST:PORT[?zone=Z&name=N]",
            "An entry point; may be repeated"),
        flag(Target, "vpce", "upstream.vpce", Text, "NAME[:PORT]",
            "Regional VPC-endpoint name; the zonal names are derived from it [port: 8182]"),
        flag(Target, "peering", "upstream.peering", Switch, "BOOL",
            "The peered entry name, entry-http.SYSTEM.REGION.datomic.net"),
        flag(Target, "system", "upstream.system", Text, "SYSTEM",
            "Datomic system, for --peering"),
        flag(Target, "region", "upstream.region", Text, "REGION",
            "AWS region, for --peering"),
        flag(Target, "from-client", "upstream.from_client", Text, "FILE.edn",
            "Take endpoint, system and region from a Datomic client map"),
        flag(Target, "zone", "upstream.zone", Text, "ZONE|auto|none",
            "Own availability zone, preferred over others [default: auto]"),
        flag(Target, "connect-timeout", "upstream.connect_timeout", Duration, "D",
            "Limit of one connect attempt [default: 1500ms]"),
        flag(Target, "hedge-after", "upstream.hedge_after", Duration, "D",
            "At most this long until the next address is tried too; 0 = never [default: 250ms]"),
        flag(Target, "no-splice", "upstream.splice", Off, "BOOL",
            "Never move bytes inside the kernel"),
        flag(Target, "warm", "upstream.warm.spares", Number, "N",
            "Connected spares per preferred endpoint [default: 0]"),
        flag(Listen, "listen", "listener.bind", Addresses, "IP:PORT",
            "Where clients connect; may be repeated [default: 127.0.0.1:8182 [::1]:8182]"),
        flag(Listen, "allow-remote", "listener.allow_remote", Switch, "BOOL",
            "Allow --listen beyond loopback: no encryption, no login"),
        flag(Listen, "max-connections", "listener.max_connections", Number, "N",
            "Connections at once [default: what the limit of open files allows]"),
        flag(Listen, "when-all-down", "listener.when_all_down", Word(&["hold", "try", "refuse"]), "WHAT",
            "What a client meets while nothing can be reached: hold, try or refuse [default: hold]"),
        flag(Health, "probe", "upstream.health.kind", Word(&["datomic", "http", "tcp", "off"]), "KIND",
            "How addresses are probed: datomic, http, tcp or off [default: datomic]"),
        flag(Health, "probe-interval", "upstream.health.interval", Duration, "D",
            "Between two probes of an address [default: 5s]"),
        flag(Health, "fall", "upstream.health.fall", Number, "N",
            "Failures running that mark an address down [default: 3]"),
        flag(Health, "rise", "upstream.health.rise", Number, "N",
            "Successes running that let it return [default: 2]"),
        flag(Health, "expect-s3-auth-path", "upstream.health.expect_s3_auth_path", Text, "auto|off|VALUE",
            "The identity all addresses must answer with [default: auto]"),
        flag(Health, "failback-after", "upstream.failback.after", Duration, "D",
            "How long a returning address is watched before it is used again [default: 60s]"),
        flag(Dns, "dns-server", "dns.servers", Addresses, "IP:PORT",
            "Ask this DNS server; may be repeated [default: the system's]"),
        flag(Dns, "allow-local-answers", "dns.allow_local_answers", Switch, "BOOL",
            "Take loopback and link-local addresses from DNS"),
        flag(Admin, "admin", "admin.bind", AddressOrOff, "IP:PORT|off",
            "Admin HTTP: health, metrics, /v1 [default: 127.0.0.1:8183]"),
        flag(Admin, "control", "admin.control", Text, "PATH|off",
            "Control socket [default: below $RUNTIME_DIRECTORY or $XDG_RUNTIME_DIR]"),
        flag(Admin, "metrics-bind", "admin.metrics_bind", Address, "IP:PORT",
            "/metrics and health once more, read-only; may leave loopback"),
        flag(Process, "min-drain", "shutdown.min_delay", Duration, "D",
            "Go on accepting this long after the signal to stop [default: 0s]"),
        flag(Process, "max-drain", "shutdown.max_delay", Duration, "D",
            "Reset what is still open after this long [default: 25s]"),
        flag(Process, "strict-exit", "shutdown.strict_exit", Switch, "BOOL",
            "Exit with 3 when connections had to be cut"),
        flag(Process, "log-format", "log.format", Word(&["auto", "text", "json"]), "FORMAT",
            "auto, text or json; auto: text on a terminal [default: auto]"),
        flag(Process, "log-level", "log.level", Word(&["error", "warn", "info", "debug"]), "LEVEL",
            "error, warn, info or debug [default: info]"),
        flag(Process, "quiet", "log", Quiet, "conns,probes",
            "Fewer lines: only failed connections, no probes"),
        flag(Process, "workers", "runtime.workers", Number, "N",
            "Data threads [default: the CPUs available]"),
        flag(Process, "profile", "profile", Word(profile::NAMES), "PROFILE",
            "Other defaults: sidecar, laptop or load [default: sidecar]"),
    ]
};

/// The flag that names the file; it is no setting.
pub const CONFIG: &str = "config";

// === impl Flag ===

impl Flag {
    /// The variable that says the same.
    pub fn variable(&self) -> String {
        variable(self.long)
    }

    /// The flag for clap: a value that is not of its type never gets beyond it (exit code 2).
    pub fn arg(&self) -> Arg {
        let arg = Arg::new(self.long)
            .long(self.long)
            .value_name(self.value)
            .help(self.help);
        let arg = self.short.map_or(arg.clone(), |short| arg.short(short));
        let arg = match self.kind {
            Kind::Endpoints | Kind::Addresses => arg.action(ArgAction::Append),
            Kind::Quiet => arg.action(ArgAction::Append).value_delimiter(','),
            Kind::Switch | Kind::Off => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .hide_possible_values(true),
            _ => arg,
        };
        let arg = if matches!(self.kind, Kind::Word(_) | Kind::Quiet) {
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
            Kind::Text | Kind::Endpoints => ValueParser::string(),
            Kind::Addresses | Kind::Address => checked(address),
            Kind::AddressOrOff => {
                checked(|text| if text == "off" { Ok(()) } else { address(text) })
            }
            Kind::Duration => checked(|text| duration::parse(text).map(drop)),
            Kind::Number => checked(|text| match text.parse::<u32>() {
                Ok(_) => Ok(()),
                Err(_) => Err("a whole number is expected".to_owned()),
            }),
            Kind::Word(words) => PossibleValuesParser::new(words).map(|word| word).into(),
            Kind::Switch | Kind::Off => {
                PossibleValuesParser::new(["true", "false", "1", "0"]).into()
            }
            Kind::Quiet => PossibleValuesParser::new(["conns", "probes"]).into(),
        }
    }

    /// Lays what was written with this flag or variable into `tree`.
    pub(super) fn lay_into(
        &self,
        tree: &mut Node,
        texts: &[&str],
        place: &Place,
        problems: &mut Vec<Problem>,
    ) {
        let Some(last) = texts.last() else { return };
        let list = |nodes: Vec<Node>| Node {
            place: place.clone(),
            value: Value::List(nodes),
        };
        match self.kind {
            Kind::Endpoints => {
                let mut nodes = Vec::new();
                for text in texts {
                    match endpoint::from_text(text, place) {
                        Ok(node) => nodes.push(node),
                        Err(problem) => {
                            problems.push(problem);
                            nodes.push(Node {
                                place: place.clone(),
                                value: Value::Gone,
                            });
                        }
                    }
                }
                tree.set(self.path, list(nodes));
            }
            Kind::Addresses => {
                let nodes = texts
                    .iter()
                    .map(|text| Node::loose(place.clone(), *text))
                    .collect();
                tree.set(self.path, list(nodes));
            }
            Kind::Off => match *last {
                "true" | "1" => tree.set(self.path, Node::text(place.clone(), "off")),
                "false" | "0" => tree.set(self.path, Node::text(place.clone(), "auto")),
                text => problems.push(Problem::new(
                    format!(
                        "expected true, false, 1 or 0, found the text `{}`",
                        text.escape_debug()
                    ),
                    place.clone(),
                )),
            },
            Kind::Quiet => quiet(tree, texts, place, problems),
            _ => tree.set(self.path, Node::loose(place.clone(), *last)),
        }
    }
}

/// `conns`: only connections that failed; `probes`: no probes.
fn quiet(tree: &mut Node, texts: &[&str], place: &Place, problems: &mut Vec<Problem>) {
    for text in texts {
        match *text {
            "conns" => tree.set("log.connections", Node::text(place.clone(), "errors")),
            "probes" => tree.set("log.probes", Node::text(place.clone(), "off")),
            text => problems.push(Problem::new(
                format!(
                    "expected conns or probes, found the text `{}`",
                    text.escape_debug()
                ),
                place.clone(),
            )),
        }
    }
}

fn address(text: &str) -> Result<(), String> {
    text.parse::<SocketAddr>().map(drop).map_err(|_| {
        "an IP address with its port is expected, such as 127.0.0.1:8182 or [::1]:8182".to_owned()
    })
}

/// The variable of a flag.
pub(super) fn variable(long: &str) -> String {
    format!("ENTRYWAY_{}", long.to_uppercase().replace('-', "_"))
}
