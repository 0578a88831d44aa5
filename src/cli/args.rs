//! The command line: every subcommand and flag. Flags that are settings come from the table in `settings::flags`.
//!
//! Only parsing and help; what a subcommand does is in its own file. Nothing is accepted here before it works.

use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use crate::settings::flags::FlagGroup;

use shared::{
    EVERY, OFFLINE, duration_value, online, output, percent, switch, wait_for, what_if,
    with_settings,
};

pub use types::*;

#[cfg(feature = "gateway")]
mod cert;
#[cfg(all(feature = "faults", feature = "load"))]
mod drill;
mod hint;
mod shared;
mod types;

#[cfg(all(feature = "faults", feature = "load"))]
pub(super) use drill::{DRILLED_UPSTREAM, DRILLED_ZONE};

const ABOUT: &str = "Forwards a local port to a healthy Datomic Cloud entry point";

const AFTER: &str = "\
To begin with:
  entryway demo                                  try it on this machine, without AWS, with an outage
  entryway run --peering --system S --region R   forward http://127.0.0.1:8182 to this Datomic system
If it does not work: entryway doctor. Documentation: entryway guide. Exit codes: entryway guide reference cli.";

const AFTER_RUN: &str = "\
Every flag --x-y is also the variable ENTRYWAY_X_Y (lists separated by white space) and a key of the settings file.
Precedence: flag, variable, file, profile, default. Durations: 250ms 5s 2m 1h.
Every key with its default: entryway guide reference settings.";

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
            init(),
        ])
        .subcommands([
            status(),
            #[cfg(feature = "top")]
            top(),
            slo(),
            incident(),
            wait(),
            healthcheck(),
            endpoint(),
            reload(),
            upgrade(),
            shutdown(),
        ])
        .subcommands(optional())
        .subcommands([guide(), completions(), man(), version()])
}

/// The text of a command line error, with a suggestion where the mistake is a known one. To be printed through
/// `anstream`, which removes colours where they are not wanted.
pub fn render_error(error: &mut clap::Error) -> String {
    // clap suggests to pass an unknown flag behind `--`, where it would be run as a command.
    if error.kind() == ErrorKind::UnknownArgument {
        error.remove(ContextKind::Suggested);
    }
    // Where this build lacks the command, another is not what was meant.
    let lacks = matches!(
        error.get(ContextKind::InvalidSubcommand),
        Some(ContextValue::String(word)) if hint::is_optional(word)
    );
    if lacks {
        error.remove(ContextKind::SuggestedSubcommand);
    }
    let mut text = error.render().ansi().to_string();
    for kind in ["argument", "subcommand", "value"] {
        text = text.replace(&format!("a similar {kind} exists:"), "did you mean");
        text = text.replace(
            &format!("some similar {kind}s exist:"),
            "did you mean one of",
        );
    }
    let invalid = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let hint = match error.kind() {
        ErrorKind::UnknownArgument => {
            invalid(ContextKind::InvalidArg).and_then(hint::unknown_argument)
        }
        ErrorKind::InvalidSubcommand if error.get(ContextKind::SuggestedSubcommand).is_none() => {
            invalid(ContextKind::InvalidSubcommand)
                .and_then(|word| hint::subcommand(word, &command()))
        }
        _ => None,
    };
    if let Some(hint) = hint {
        text.push_str(&format!("\nhint: {hint}\n"));
    }
    text
}

fn run() -> Command {
    with_settings(
        Command::new(name::RUN).about("Run the proxy; with -- CMD…, as long as CMD runs"),
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
            .help("Run this command behind the proxy with ENTRYWAY_URL set, and exit with its exit code"),
    )
}

fn demo() -> Command {
    Command::new(name::DEMO)
        .about("Watch the proxy handle outages of mock entry points on this machine")
        .arg(switch("forever", "Keep running after the scripted outages"))
        .arg(
            switch(
                "laptop",
                "Play the laptop tunnel instead: a gateway with client certificates and a tunnel command, both of which fail",
            )
            .conflicts_with("forever"),
        )
}

fn mock() -> Command {
    super::mock::command()
}

fn doctor() -> Command {
    let command = Command::new(name::DOCTOR).about("Diagnose the path to Datomic");
    doctor_flags(online(with_settings(command, &OFFLINE)).arg(output()))
}

fn doctor_flags(command: Command) -> Command {
    command
        .long_about(
            "Diagnoses the path to Datomic: settings, port, DNS, route, hops, TCP, HTTP, identity, the path through entryway, \
             limits. Examines the target given by flags or file, else that of the running instance. Changes nothing and \
             ends within 15 s. Exit code 1 if a connection made now would not reach the system.",
        )
        .arg(
            Arg::new("message")
                .long("message")
                .value_name("TEXT")
                .help("Only explain this error message of an application"),
        )
        .arg(
            Arg::new("redact")
                .long("redact")
                .action(ArgAction::SetTrue)
                .help("Replace host names, addresses, systems and buckets by placeholders"),
        )
}

fn check() -> Command {
    let command = Command::new(name::CHECK)
        .about("Validate the settings and print every value with its source; no network access");
    with_settings(command, &EVERY).arg(output())
}

fn plan() -> Command {
    let command = Command::new(name::PLAN)
        .about("Compute detection and failover times of these settings; no network access");
    with_settings(command, &EVERY).arg(output())
}

fn explain() -> Command {
    let command = Command::new(name::EXPLAIN)
        .about("Show which address the next connection would use, and why")
        .long_about(
            "Shows which address the next connection would use, and why. With a target (flags or file) it probes that \
             target, without one it asks the running instance.",
        );
    online(with_settings(command, &OFFLINE)).arg(output()).arg(
        Arg::new("what-if")
            .long("what-if")
            .value_name("zone-down=Z")
            .action(ArgAction::Append)
            .value_parser(what_if)
            .help("Assume that this zone is down; may be repeated"),
    )
}

#[rustfmt::skip]
const KINDS: [&str; 14] = [
    "edn", "cloudformation", "terraform", "aws", "k8s", "ecs", "compose", "systemd", "prometheus", "alerts", "grafana",
    "trino", "cloudwatch", "kustomize",
];

fn snippet() -> Command {
    let command = Command::new(name::SNIPPET)
        .about("Print a client map, deployment, alert or dashboard to paste");
    with_settings(command, &EVERY)
        .arg(
            Arg::new("kind")
                .value_name("KIND")
                .required(true)
                .value_parser(PossibleValuesParser::new(KINDS))
                .help("Kind of document"),
        )
        .arg(
            Arg::new("patch")
                .long("patch")
                .value_name("FILE")
                .value_hint(ValueHint::FilePath)
                .help("With kind edn: print this client map with only its endpoint changed"),
        )
}

fn init() -> Command {
    let command =
        Command::new(name::INIT).about("Print a short commented settings file to start from");
    super::init::args(with_settings(command, &[FlagGroup::Target]))
}

fn status() -> Command {
    online(Command::new(name::STATUS).about("Show listeners, zones, addresses and their health"))
        .arg(switch("watch", "Show it again every second; q ends"))
        .arg(output())
}

fn wait() -> Command {
    online(
        Command::new(name::WAIT).about(
            "Wait until the instance has started, is ready or healthy; exit code 75 on timeout",
        ),
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
            .help("Maximum time to wait"),
    )
    .arg(output())
}

fn healthcheck() -> Command {
    online(Command::new(name::HEALTHCHECK).about("Print one word; exit code 0 if alive, else 1"))
        .arg(switch("ready", "Check readiness instead of liveness"))
}

fn endpoint() -> Command {
    let one = |name: &'static str, about: &'static str| {
        online(Command::new(name).about(about)).arg(output()).arg(
            Arg::new("name")
                .value_name("[UPSTREAM/]NAME")
                .required(true)
                .num_args(1..)
                .help("Name as printed by `endpoint list`"),
        )
    };
    Command::new(name::ENDPOINT)
        .about("List endpoints, take them out of use and put them back")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            online(Command::new("list").about("List endpoints and their state")).arg(output()),
        )
        .subcommand(one(
            "drain",
            "Make no new connections to it, and close those at rest",
        ))
        .subcommand(one("ready", "Use it again"))
        .subcommand(one("probe", "Probe its addresses now"))
}

fn reload() -> Command {
    online(
        Command::new(name::RELOAD)
            .about("Read the settings file again; exit code 78 and no change if it is invalid"),
    )
    .arg(switch("dry-run", "Only print what would change"))
    .arg(output())
}

fn upgrade() -> Command {
    let path = |id, name, help| {
        Arg::new(id)
            .long(id)
            .value_name(name)
            .value_parser(clap::value_parser!(std::path::PathBuf))
            .help(help)
    };
    online(Command::new(name::UPGRADE).about(
        "Replace the process by a new one that takes over its sockets; the old one drains. \
         75 and no change where the new one does not come up, 78 where its settings are wrong",
    ))
    .arg(path(
        "binary",
        "FILE",
        "The program to start [default: the one that runs]",
    ))
    .arg(path(
        "config",
        "FILE",
        "The settings file of the new process [default: the one of the old process]",
    ))
    .arg(
        Arg::new("drain-time")
            .long("max-drain")
            .value_name("D")
            .value_parser(duration_value)
            .help("Reset connections that are left in the old process after this time [default: never]"),
    )
    .arg(output())
}

fn slo() -> Command {
    online(
        Command::new(name::SLO)
            .about("Share of connections that reached an upstream, against a target"),
    )
    .arg(
        Arg::new("target")
            .long("target")
            .value_name("PERCENT")
            .default_value("99.9")
            .value_parser(percent)
            .help("Connections that should reach an upstream, in percent"),
    )
    .arg(output())
}

fn incident() -> Command {
    let id = || {
        Arg::new("id")
            .value_name("ID")
            .required(true)
            .help("As `incident list` prints it")
    };
    Command::new(name::INCIDENT)
        .about("Snapshots taken when an upstream was down, answered as another system, or flapped")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            online(Command::new("list").about("All incidents since the start")).arg(output()),
        )
        .subcommand(
            online(Command::new("show").about("One incident"))
                .arg(id())
                .arg(output()),
        )
        .subcommand(
            online(Command::new("export").about("One incident as a JSON document for a ticket"))
                .arg(id())
                .arg(
                    Arg::new("redact")
                        .long("redact")
                        .action(ArgAction::SetTrue)
                        .help("Replace host names, addresses, systems and buckets by placeholders"),
                ),
        )
}

#[cfg(feature = "top")]
fn top() -> Command {
    online(Command::new(name::TOP).about("Zones, connections and events of the instance, live"))
}

fn shutdown() -> Command {
    online(Command::new(name::SHUTDOWN).about("Drain and stop the instance"))
        .arg(switch(
            "wait",
            "Return once it has ended; exit 75 when that takes longer than its max_delay plus 5 s",
        ))
        .arg(output())
}

#[cfg(feature = "gateway")]
fn gateway() -> Command {
    let command = Command::new(name::GATEWAY)
        .about("Serve the upstreams to TLS clients with certificates (CONNECT)");
    with_settings(command, &shared::GATEWAY)
}

/// Commands of features that this build may lack.
fn optional() -> Vec<Command> {
    vec![
        #[cfg(feature = "gateway")]
        gateway(),
        #[cfg(feature = "gateway")]
        cert::command(),
        #[cfg(feature = "load")]
        super::load::command(),
        #[cfg(all(feature = "faults", feature = "load"))]
        online(drill::command()).arg(output()),
    ]
}

fn guide() -> Command {
    Command::new(name::GUIDE)
        .about("Print the documentation")
        .arg(
            Arg::new("topic")
                .value_name("TOPIC")
                .help("Topic; without one, the list of topics"),
        )
        .arg(
            Arg::new("part")
                .value_name("PART")
                .help("Part of the topic `reference`"),
        )
}

fn completions() -> Command {
    Command::new(name::COMPLETIONS)
        .about("Print a shell completion script")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(clap_complete::Shell))
                .help("Shell to complete for"),
        )
}

fn man() -> Command {
    Command::new(name::MAN).about("Write the manual pages").arg(
        Arg::new("dir")
            .value_name("DIR")
            .value_parser(value_parser!(std::path::PathBuf))
            .value_hint(ValueHint::DirPath)
            .help("Folder for entryway.1 and entryway-SUB.1; without one entryway.1 is printed"),
    )
}

fn version() -> Command {
    Command::new(name::VERSION)
        .about("Print version, commit and compiler")
        .arg(output())
}

#[cfg(test)]
mod tests;
