//! Flags shared by several subcommands, and the parsers of their values.

use std::time::Duration;

use clap::{Arg, ArgAction, Command, ValueHint};

use super::types::{
    CONTROL_SOCKET, DEFAULT_INSTANCE, INSTANCE, OFF, OUTPUT, OutputFormat, WaitFor,
};
use crate::duration;
use crate::settings::flags::{self, FlagGroup};

/// All groups of flags that are settings.
pub(super) const EVERY: [FlagGroup; 6] = [
    FlagGroup::Target,
    FlagGroup::Listen,
    FlagGroup::Health,
    FlagGroup::Dns,
    FlagGroup::Admin,
    FlagGroup::Process,
];
/// Groups of commands whose `--admin` and `--control` name an instance to ask instead of one to start.
pub(super) const OFFLINE: [FlagGroup; 4] = [
    FlagGroup::Target,
    FlagGroup::Listen,
    FlagGroup::Health,
    FlagGroup::Dns,
];

/// Groups of `gateway`, which opens no listener.
#[cfg(feature = "gateway")]
pub(super) const GATEWAY: [FlagGroup; 6] = [
    FlagGroup::Gateway,
    FlagGroup::Target,
    FlagGroup::Health,
    FlagGroup::Dns,
    FlagGroup::Admin,
    FlagGroup::Process,
];

pub(super) fn with_settings(command: Command, groups: &[FlagGroup]) -> Command {
    let config = Arg::new(flags::CONFIG)
        .long(flags::CONFIG)
        .short('c')
        .value_name("FILE")
        .value_hint(ValueHint::FilePath)
        .help("Path to a TOML settings file (no default location)");
    let heading = |group: FlagGroup| match group {
        FlagGroup::Target => "Upstream",
        FlagGroup::Listen => "Listener",
        FlagGroup::Health => "Health and failover",
        FlagGroup::Dns => "DNS",
        FlagGroup::Admin => "Admin",
        FlagGroup::Process => "Process",
        FlagGroup::Gateway => "Gateway",
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
                .value_parser(host_port)
                .help_heading("Instance")
                // No default value: a command that was told nothing looks for the instance that runs.
                .help(
                    "Admin address of the instance [default: of the one that runs here, else 127.0.0.1:8183]",
                ),
        )
        .arg(
            Arg::new(CONTROL_SOCKET)
                .long("control")
                .value_name("PATH")
                .env("ENTRYWAY_CONTROL")
                .value_hint(ValueHint::FilePath)
                .help_heading("Instance")
                .help(
                    "Control socket of the instance [default: the one named by its admin server]",
                ),
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
            "text" | "" => Ok(OutputFormat::Text),
            "json" => Ok(OutputFormat::Json),
            _ => Err("expected text or json"),
        })
        .help("Output format")
}

pub(super) fn switch(long: &'static str, help: &'static str) -> Arg {
    Arg::new(long)
        .long(long)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// `HOST:PORT` or `off`; empty, as of a variable that counts as not set.
pub(super) fn host_port(text: &str) -> Result<String, String> {
    let port = text
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_some() || text == OFF || text.is_empty() {
        Ok(text.to_owned())
    } else {
        Err(format!("expected HOST:PORT, such as {DEFAULT_INSTANCE}"))
    }
}

pub(super) fn duration_value(text: &str) -> Result<Duration, String> {
    duration::parse(text)
}

pub(super) fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim_end().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("a percentage above 0 and at most 100 is expected, such as 99.9".to_owned()),
    }
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
        _ => Err("expected startup, ready, healthy or healthy=N".to_owned()),
    }
}

pub(super) fn what_if(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("zone-down", zone)) if !zone.is_empty() => Ok(text.to_owned()),
        _ => Err("expected zone-down=ZONE".to_owned()),
    }
}
