//! The command line: every subcommand and flag. Flags that are settings come from one table, `settings::flags`.
//!
//! Says what is understood and nothing of what happens then. A flag that exists works; names of the contract that are
//! kept for later are not here.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use crate::duration;
use crate::settings::flags::{self, Group};

/// Subcommands, by name: what `run` of the caller matches on.
pub mod name {
    #![allow(missing_docs, reason = "each is the word it holds")]
    pub const RUN: &str = "run";
    pub const DEMO: &str = "demo";
    pub const MOCK: &str = "mock";
    pub const DOCTOR: &str = "doctor";
    pub const CHECK: &str = "check";
    pub const PLAN: &str = "plan";
    pub const EXPLAIN: &str = "explain";
    pub const SNIPPET: &str = "snippet";
    pub const STATUS: &str = "status";
    pub const WAIT: &str = "wait";
    pub const HEALTHCHECK: &str = "healthcheck";
    pub const ENDPOINT: &str = "endpoint";
    pub const RELOAD: &str = "reload";
    pub const SHUTDOWN: &str = "shutdown";
    pub const GUIDE: &str = "guide";
    pub const COMPLETIONS: &str = "completions";
    pub const VERSION: &str = "version";
}

/// Where online commands look for an instance (id `instance`; a `String`).
pub const INSTANCE: &str = "instance";
/// The control socket that online commands were given (id `control-socket`; a `String`).
pub const CONTROL_SOCKET: &str = "control-socket";
/// `--output` (id `output`; [`Output`]).
pub const OUTPUT: &str = "output";
/// What `run` starts (id `command`; `OsString`s).
pub const COMMAND: &str = "command";

/// Where the admin address is looked for when nobody says.
pub const DEFAULT_INSTANCE: &str = "127.0.0.1:8183";

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `wait --for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// Listeners are bound.
    Startup,
    /// `/readyz` says yes.
    Ready,
    /// So many addresses are healthy.
    Healthy(usize),
}

const ABOUT: &str = "One local port that always leads to a healthy Datomic Cloud entry point";

const AFTER: &str = "\
Two commands to begin with:
  entryway demo                                  everything on this machine, an outage included
  entryway run --peering --system S --region R   http://127.0.0.1:8182 leads to Datomic from now on
When it does not work: entryway doctor. How to do things: entryway guide.";

const AFTER_RUN: &str = "\
Every flag --x-y is also the variable ENTRYWAY_X_Y (lists separated by white space) and a key of the file given with
--config; config/reference.toml holds all keys. Flags win over variables, variables over the file, the file over the
profile. Durations: 250ms 5s 2m 1h.";

/// The whole command line.
pub fn command() -> Command {
    Command::new("entryway")
        .about(ABOUT)
        .after_help(AFTER)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .infer_long_args(false)
        .max_term_width(120)
        .subcommands([
            run(),
            demo(),
            mock(),
            doctor(),
            check(),
            plan(),
            explain(),
            snippet(),
        ])
        .subcommands([
            status(),
            wait(),
            healthcheck(),
            endpoint(),
            reload(),
            shutdown(),
        ])
        .subcommands([guide(), completions(), version()])
}

fn run() -> Command {
    with_settings(
        Command::new(name::RUN).about("Run the proxy; with -- CMD…, for as long as CMD runs"),
        &EVERY,
    )
    .after_help(AFTER_RUN)
    .arg(
        Arg::new(COMMAND)
            .value_name("CMD")
            .num_args(1..)
            .last(true)
            .value_parser(value_parser!(std::ffi::OsString))
            .value_hint(ValueHint::CommandWithArguments)
            .help("Start this once the proxy is ready, hand it ENTRYWAY_URL, end when it ends"),
    )
}

fn demo() -> Command {
    Command::new(name::DEMO)
        .about("Mock entry points, the proxy in front of them, requests, and an outage to watch")
        .arg(switch(
            "forever",
            "Keep it running for playing, after the outage",
        ))
}

fn mock() -> Command {
    super::mock::command()
}

fn doctor() -> Command {
    let command = Command::new(name::DOCTOR).about("Find out what is wrong on the way to Datomic");
    super::doctor::with_flags(online(with_settings(command, &OFFLINE)).arg(output()))
}

fn check() -> Command {
    let command = Command::new(name::CHECK)
        .about("Check the settings and print what holds, and why; connects nowhere");
    with_settings(command, &EVERY).arg(output())
}

fn plan() -> Command {
    let command = Command::new(name::PLAN)
        .about("Tell how fast an outage will be noticed with these settings");
    with_settings(command, &EVERY).arg(output())
}

fn explain() -> Command {
    let command = Command::new(name::EXPLAIN)
        .about("Tell which address the next connection goes to, and why")
        .long_about(
            "Tells which address the next connection goes to, and why. With a target (flags or file) it works from the \
             settings, without one it asks the running instance.",
        );
    online(with_settings(command, &OFFLINE)).arg(output()).arg(
        Arg::new("what-if")
            .long("what-if")
            .value_name("zone-down=Z")
            .action(ArgAction::Append)
            .value_parser(what_if)
            .help("Pretend that this zone is down; may be repeated"),
    )
}

#[rustfmt::skip]
const KINDS: [&str; 11] = [
    "edn", "cloudformation", "terraform", "aws", "k8s", "ecs", "compose", "systemd", "prometheus", "alerts", "grafana",
];

fn snippet() -> Command {
    let command = Command::new(name::SNIPPET)
        .about("Print a document to paste: client map, deployment, alerts");
    with_settings(command, &EVERY)
        .arg(
            Arg::new("kind")
                .value_name("KIND")
                .required(true)
                .value_parser(PossibleValuesParser::new(KINDS))
                .help("What to print"),
        )
        .arg(
            Arg::new("patch")
                .long("patch")
                .value_name("FILE")
                .value_hint(ValueHint::FilePath)
                .help("Kind edn: print this client map with its endpoint changed, everything else as it is"),
        )
}

fn status() -> Command {
    online(
        Command::new(name::STATUS)
            .about("Listeners, zones, addresses, the current order: on one screen"),
    )
    .arg(output())
}

fn wait() -> Command {
    online(
        Command::new(name::WAIT)
            .about("Wait until the instance is up, ready or healthy; exit 75 when time is up"),
    )
    .arg(
        Arg::new("for")
            .long("for")
            .value_name("startup|ready|healthy[=N]")
            .default_value("ready")
            .value_parser(wait_for)
            .help("What to wait for; N counts addresses"),
    )
    .arg(
        Arg::new("timeout")
            .long("timeout")
            .value_name("D")
            .default_value("30s")
            .value_parser(duration_value)
            .help("How long at most"),
    )
    .arg(output())
}

fn healthcheck() -> Command {
    online(Command::new(name::HEALTHCHECK).about("Print one word; exit 0 when alive, else 1"))
        .arg(switch("ready", "Ask whether it is ready, not only alive"))
}

fn endpoint() -> Command {
    let one = |name: &'static str, about: &'static str| {
        online(Command::new(name).about(about)).arg(output()).arg(
            Arg::new("name")
                .value_name("[UPSTREAM/]NAME")
                .required(true)
                .num_args(1..)
                .help("As `endpoint list` prints it"),
        )
    };
    Command::new(name::ENDPOINT)
        .about("Look at endpoints, take them out of use, put them back")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            online(Command::new("list").about("All endpoints and their state")).arg(output()),
        )
        .subcommand(one(
            "drain",
            "No new connections to it; those at rest are closed",
        ))
        .subcommand(one("ready", "Use it again"))
        .subcommand(one("probe", "Probe its addresses now"))
}

fn reload() -> Command {
    online(
        Command::new(name::RELOAD)
            .about("Read the settings again; exit 78 and no change when they are wrong"),
    )
    .arg(switch("dry-run", "Only say what would change"))
    .arg(output())
}

fn shutdown() -> Command {
    online(Command::new(name::SHUTDOWN).about("Drain and stop the instance")).arg(output())
}

fn guide() -> Command {
    Command::new(name::GUIDE)
        .about("Print the documentation, by task")
        .arg(
            Arg::new("topic")
                .value_name("TOPIC")
                .help("Without one: the list of topics"),
        )
}

fn completions() -> Command {
    Command::new(name::COMPLETIONS)
        .about("Print the completion script of a shell")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(clap_complete::Shell))
                .help("Which"),
        )
}

fn version() -> Command {
    Command::new(name::VERSION)
        .about("Print version, commit and compiler")
        .arg(output())
}

const EVERY: [Group; 6] = [
    Group::Target,
    Group::Listen,
    Group::Health,
    Group::Dns,
    Group::Admin,
    Group::Process,
];
/// For commands whose `--admin` and `--control` name an instance to ask, not one to start.
const OFFLINE: [Group; 4] = [Group::Target, Group::Listen, Group::Health, Group::Dns];

fn with_settings(command: Command, groups: &[Group]) -> Command {
    let config = Arg::new(flags::CONFIG)
        .long(flags::CONFIG)
        .short('c')
        .value_name("FILE")
        .value_hint(ValueHint::FilePath)
        .help("Settings file (TOML); none is searched for");
    let heading = |group: Group| match group {
        Group::Target => "Where to",
        Group::Listen => "Where from",
        Group::Health => "Health and failover",
        Group::Dns => "DNS",
        Group::Admin => "Looking in",
        Group::Process => "Process",
    };
    let wanted = flags::FLAGS
        .iter()
        .filter(|flag| groups.contains(&flag.group));
    command
        .arg(config)
        .args(wanted.map(|flag| flag.arg().help_heading(heading(flag.group))))
}

fn online(command: Command) -> Command {
    command
        .arg(
            Arg::new(INSTANCE)
                .long("admin")
                .value_name("HOST:PORT")
                .env("ENTRYWAY_ADMIN")
                .default_value(DEFAULT_INSTANCE)
                .help_heading("Instance")
                .help("Admin address of the instance to ask"),
        )
        .arg(
            Arg::new(CONTROL_SOCKET)
                .long("control")
                .value_name("PATH")
                .env("ENTRYWAY_CONTROL")
                .value_hint(ValueHint::FilePath)
                .help_heading("Instance")
                .help("Its control socket [default: what the admin address names]"),
        )
}

fn output() -> Arg {
    Arg::new(OUTPUT)
        .long("output")
        .value_name("text|json")
        .env("ENTRYWAY_OUTPUT")
        .default_value("text")
        .value_parser(|text: &str| match text {
            "text" => Ok(Output::Text),
            "json" => Ok(Output::Json),
            _ => Err("text or json is expected"),
        })
        .help("How the result is printed")
}

fn switch(long: &'static str, help: &'static str) -> Arg {
    Arg::new(long)
        .long(long)
        .action(ArgAction::SetTrue)
        .help(help)
}

fn duration_value(text: &str) -> Result<Duration, String> {
    duration::parse(text)
}

fn wait_for(text: &str) -> Result<WaitFor, String> {
    match text.split_once('=') {
        None if text == "startup" => Ok(WaitFor::Startup),
        None if text == "ready" => Ok(WaitFor::Ready),
        None if text == "healthy" => Ok(WaitFor::Healthy(1)),
        Some(("healthy", number)) => number
            .parse()
            .map(WaitFor::Healthy)
            .map_err(|_| "healthy=N needs a number of addresses".to_owned()),
        _ => Err("startup, ready, healthy or healthy=N is expected".to_owned()),
    }
}

fn what_if(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("zone-down", zone)) if !zone.is_empty() => Ok(text.to_owned()),
        _ => Err("zone-down=ZONE is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests;
