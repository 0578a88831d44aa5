//! The flags of `entryway drill`.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command};

use super::name;
use crate::drill::{ASSERT_NAMES, OutputKind};
use crate::duration;
use crate::faults::DrillKind;
use crate::load::slo::Term;

/// Id of `--zone`, which is not the setting of that name.
pub(in crate::cli) const DRILLED_ZONE: &str = "drilled-zone";

/// Id of `--upstream`.
pub(in crate::cli) const DRILLED_UPSTREAM: &str = "drilled-upstream";

/// The subcommand and its flags, without those that name an instance.
pub(super) fn command() -> Command {
    let kinds = DrillKind::ALL.map(DrillKind::as_str);
    Command::new(name::DRILL)
        .about("Set a fault on purpose, send requests through it, and say what became of them")
        .long_about(
            "Sets a fault in a running instance (or, with --embedded, in one of its own before mock zones), sends\n\
             requests meanwhile, takes the fault back and reports: how long until the zone was marked down, until\n\
             another zone answered, how many requests failed, how much longer they took, when the zone was used again.\n\
             Nothing outside of entryway is touched, and the fault ends by itself when the drill does not.\n\
             Exit code: 0; 99 an --assert was missed; 1 it could not be run; 130 after Ctrl-C.",
        )
        .arg(
            Arg::new("kind")
                .value_name("KIND")
                .required(true)
                .value_parser(PossibleValuesParser::new(kinds))
                .hide_possible_values(true)
                .help("zone-down zone-silent zone-slow all-down dns-fail dns-empty flap idle-cut sleep"),
        )
        .arg(
            Arg::new(DRILLED_ZONE)
                .long("zone")
                .value_name("Z")
                .help("Where it happens [default: the zone in use]"),
        )
        .arg(
            Arg::new(DRILLED_UPSTREAM)
                .long("upstream")
                .value_name("NAME")
                .conflicts_with("embedded")
                .help("Whose listener the requests go to and whose zones are watched [default: that of the first listener]"),
        )
        .arg(
            Arg::new("for")
                .long("for")
                .value_name("D")
                .default_value("10s")
                .value_parser(length)
                .help("How long the fault stands"),
        )
        .arg(
            Arg::new("rate")
                .long("rate")
                .value_name("N")
                .default_value("200")
                .value_parser(rate)
                .help("Requests a second to send meanwhile; 0: none, other clients are watched"),
        )
        .arg(
            Arg::new("assert")
                .long("assert")
                .value_name("TERM")
                .action(ArgAction::Append)
                .value_parser(|text: &str| Term::parse_list(text, ASSERT_NAMES))
                .help("What must be true, such as errors==0, p99<50ms, failover<100ms, detection<2s, failback<90s, held>0 (repeatable)"),
        )
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(|path: &str| {
                    crate::load::check_folder(path)?;
                    OutputKind::of(path).map(|kind| (path.to_owned(), kind))
                })
                .action(ArgAction::Append)
                .help("Also write the results to FILE: .json, .xml (JUnit) or .html (repeatable)"),
        )
        .arg(
            Arg::new("embedded")
                .long("embedded")
                .action(ArgAction::SetTrue)
                .help("Drill an entryway before three mock zones, both started for it in this process"),
        )
        .arg(
            Arg::new("compare")
                .long("compare")
                .value_name("haproxy")
                .value_parser(PossibleValuesParser::new(["haproxy"]))
                .requires("embedded")
                .help("Then drill HAProxy before the same mock zones, and print both side by side"),
        )
}

fn length(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        length if length < Duration::from_millis(100) => {
            Err(format!("`{text}` is too short; at least 100ms"))
        }
        length if length > Duration::from_secs(24 * 3600) => {
            Err(format!("`{text}` is too long; at most 24h"))
        }
        length => Ok(length),
    }
}

/// As a rate of `load`, and 0.
fn rate(text: &str) -> Result<f64, String> {
    match text.trim().trim_end_matches("/s") {
        "0" => Ok(0.0),
        _ => crate::load::rate(text),
    }
}
