//! The command line: every subcommand and flag. Flags that are settings come from one table, `settings::flags`.
//!
//! Says what is understood and nothing of what happens then. A flag that exists works; names of the contract that are
//! kept for later are not here.

use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use shared::{
    EVERY, OFFLINE, duration_value, online, output, switch, wait_for, what_if, with_settings,
};

pub use words::*;

mod shared;
mod words;

const ABOUT: &str = "One local port that always leads to a healthy Datomic Cloud entry point";

const AFTER: &str = "\
Two commands to begin with:
  entryway demo                                  everything on this machine, an outage included
  entryway run --peering --system S --region R   http://127.0.0.1:8182 leads to Datomic from now on
When it does not work: entryway doctor. How to do things: entryway guide.";

const AFTER_RUN: &str = "\
Every flag --x-y is also the variable ENTRYWAY_X_Y (lists separated by white space) and a key of the file.
Flags win over variables, variables over the file, the file over the profile.
config/reference.toml holds every key. Durations: 250ms 5s 2m 1h.";

/// The whole command line.
pub fn command() -> Command {
    Command::new("entryway")
        .bin_name("entryway")
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

/// What clap says about a command line, in the words of the contract: "did you mean". Print it through `anstream`, which
/// takes the colours away where they are not wanted.
pub fn say(error: &mut clap::Error) -> String {
    // clap's tip for a flag that does not exist is to pass it behind `--`: that would run it as a command.
    if error.kind() == ErrorKind::UnknownArgument {
        error.remove(ContextKind::Suggested);
    }
    let mut text = error.render().ansi().to_string();
    for kind in ["argument", "subcommand", "value"] {
        text = text.replace(&format!("a similar {kind} exists:"), "did you mean");
        text = text.replace(
            &format!("some similar {kind}s exist:"),
            "did you mean one of",
        );
    }
    text
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
    doctor_flags(online(with_settings(command, &OFFLINE)).arg(output()))
}

fn doctor_flags(command: Command) -> Command {
    command
        .long_about(
            "Finds out what is wrong on the way to Datomic: settings, port, DNS, route, TCP, HTTP, identity, the way through \
             entryway, limits. With a target (flags or file) that one is examined, without one the running instance's. \
             Changes nothing; done within 15 s. Exit code 1 when a connection made now would not reach the system.",
        )
        .arg(
            Arg::new("message")
                .long("message")
                .value_name("TEXT")
                .help("Explain what the application printed, and look at nothing"),
        )
        .arg(
            Arg::new("redact")
                .long("redact")
                .action(ArgAction::SetTrue)
                .help("Put placeholders for host names, addresses, systems and buckets"),
        )
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

#[cfg(test)]
mod tests;
