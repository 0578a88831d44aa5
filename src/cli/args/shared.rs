//! Flags that several subcommands have, and how their values are read.

use std::time::Duration;

use clap::{Arg, ArgAction, Command, ValueHint};

use super::words::{CONTROL_SOCKET, DEFAULT_INSTANCE, INSTANCE, OFF, OUTPUT, Output, WaitFor};
use crate::duration;
use crate::settings::flags::{self, Group};

/// Every flag that is a setting.
pub(super) const EVERY: [Group; 6] = [
    Group::Target,
    Group::Listen,
    Group::Health,
    Group::Dns,
    Group::Admin,
    Group::Process,
];
/// For commands whose `--admin` and `--control` name an instance to ask, not one to start.
pub(super) const OFFLINE: [Group; 4] = [Group::Target, Group::Listen, Group::Health, Group::Dns];

pub(super) fn with_settings(command: Command, groups: &[Group]) -> Command {
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

pub(super) fn online(command: Command) -> Command {
    command
        .arg(
            Arg::new(INSTANCE)
                .long("admin")
                .value_name("HOST:PORT")
                .env("ENTRYWAY_ADMIN")
                .default_value(DEFAULT_INSTANCE)
                .value_parser(host_port)
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

pub(super) fn output() -> Arg {
    Arg::new(OUTPUT)
        .long("output")
        .value_name("text|json")
        .env("ENTRYWAY_OUTPUT")
        .default_value("text")
        .value_parser(|text: &str| match text {
            // An empty variable counts as not set.
            "text" | "" => Ok(Output::Text),
            "json" => Ok(Output::Json),
            _ => Err("text or json is expected"),
        })
        .help("How the result is printed")
}

pub(super) fn switch(long: &'static str, help: &'static str) -> Arg {
    Arg::new(long)
        .long(long)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// `HOST:PORT`, or what an instance's own variable says. An empty variable counts as not set.
pub(super) fn host_port(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(DEFAULT_INSTANCE.to_owned());
    }
    let port = text
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_some() || text == OFF {
        Ok(text.to_owned())
    } else {
        Err(format!("HOST:PORT is expected, such as {DEFAULT_INSTANCE}"))
    }
}

pub(super) fn duration_value(text: &str) -> Result<Duration, String> {
    duration::parse(text)
}

pub(super) fn wait_for(text: &str) -> Result<WaitFor, String> {
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

pub(super) fn what_if(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("zone-down", zone)) if !zone.is_empty() => Ok(text.to_owned()),
        _ => Err("zone-down=ZONE is expected".to_owned()),
    }
}
