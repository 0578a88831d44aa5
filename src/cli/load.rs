//! `entryway load`: reads the flags, runs the plan, prints and writes the results.

use std::io::{self, IsTerminal, Write};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::error::{CliError, code};
use crate::duration;
use crate::load::{
    self, LoadPlan, LoadTarget, OutputKind, Pace, Progress, Ramp, Report, Stop, Workload, hlog, slo,
};
use crate::settings::parse_size;
use crate::sys::limits;

/// Where to where neither the command line nor ENTRYWAY_URL says it: entryway's own default listener.
const DEFAULT_TARGET: &str = "http://127.0.0.1:8182";

/// Port of a target without one.
const DEFAULT_PORT: u16 = 8182;

/// Connections of a closed loop, where no number is given; of the Datomic client's mix, as many as one client opens.
const CONNECTIONS: usize = 16;
const DATOMIC_CONNECTIONS: usize = 64;

/// Descriptors that are not connections: event loops, timers, standard streams, result files.
const SPARE_DESCRIPTORS: u64 = 32;

/// Exit code where an objective was missed.
const MISSED: u8 = 99;

/// The subcommand and its flags.
pub fn command() -> Command {
    Command::new("load")
        .about("Generate load against an HTTP or TCP address and measure latency corrected for coordinated omission")
        .long_about(
            "Generates load and measures latency.\n\
             With --rate requests are sent at fixed times, and latency counts from the intended time of sending: a\n\
             server that stalls cannot hide it. With --connections each connection sends its next request when it has\n\
             its answer. Exit code: 0; 99 an --slo was missed; 1 nothing could be sent; 130 after Ctrl-C.",
        )
        .args_conflicts_with_subcommands(true)
        .subcommand(
            Command::new("merge")
                .about("Add up the .hlog files of generators that ran side by side")
                .arg(
                    Arg::new("file")
                        .value_name("FILE.hlog")
                        .value_parser(value_parser!(PathBuf))
                        .required(true)
                        .num_args(1..),
                )
                .arg(slo_flag())
                .arg(output_flag()),
        )
        .arg(
            Arg::new("target")
                .value_name("URL|HOST:PORT")
                .help("Where to send to [default: $ENTRYWAY_URL, else http://127.0.0.1:8182]"),
        )
        .arg(
            Arg::new("rate")
                .long("rate")
                .value_name("N[/s]")
                .value_parser(load::rate)
                .conflicts_with("connections")
                .help("Open loop: requests a second, sent when they are due whatever the answers do"),
        )
        .arg(
            Arg::new("poisson")
                .long("poisson")
                .action(ArgAction::SetTrue)
                .help("Spread the requests of an open loop at random instead of evenly"),
        )
        .arg(
            Arg::new("connections")
                .long("connections")
                .value_name("N")
                .value_parser(value_parser!(u32).range(1..=1_000_000))
                .help("Closed loop: connections at once [default: 16; workload datomic: 64]"),
        )
        .arg(
            Arg::new("ramp")
                .long("ramp")
                .value_name("A..B/STEP")
                .value_parser(|text: &str| text.parse::<Ramp>())
                .conflicts_with_all(["connections", "rate", "versus"])
                .help("Open loop whose rate grows from A to B by STEP, each step lasting --duration"),
        )
        .arg(duration_flag("duration", "10s", "Measured time (of each step of a ramp)").value_parser(measured))
        .arg(duration_flag("warmup", "1s", "Unmeasured time before it; 0s for none").value_parser(duration::parse))
        .arg(
            Arg::new("workload")
                .long("workload")
                .value_name("KIND")
                .value_parser(PossibleValuesParser::new(["http", "datomic", "echo", "connect"]))
                .default_value("http")
                .help("http: one request and its answer · datomic: POST /api as the Datomic client sends it · echo: bytes that must come back · connect: connects only"),
        )
        .arg(Arg::new("path").long("path").value_name("P").value_parser(path).help("Path of the request [default: that of the URL, else /]"))
        .arg(Arg::new("method").long("method").value_name("M").value_parser(method).help("Method of the request [default: GET, with a body POST]"))
        .arg(
            Arg::new("body")
                .long("body")
                .value_name("SIZE")
                .value_parser(|text: &str| parse_size(text).map(|size| size.0))
                .help("Bytes of the body [default: 0; echo and datomic: 1KiB]"),
        )
        .arg(
            Arg::new("keepalive")
                .long("keepalive")
                .value_name("true|false")
                .value_parser(value_parser!(bool))
                .default_value("true")
                .help("Whether a connection carries more than one request"),
        )
        .arg(slo_flag())
        .arg(
            Arg::new("versus")
                .long("versus")
                .value_name("HOST:PORT")
                .help("Compare with this address: rounds in turn, the difference with a 95 % interval"),
        )
        .arg(output_flag())
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(|path: &str| {
                    load::check_folder(path)?;
                    OutputKind::of(path).map(|kind| (path.to_owned(), kind))
                })
                .action(ArgAction::Append)
                .help("Also write the results to FILE: .json, .hlog, .html or .csv (repeatable)"),
        )
}

fn slo_flag() -> Arg {
    Arg::new("slo")
        .long("slo")
        .value_name("TERMS")
        .value_parser(|text: &str| slo::Term::parse_list(text, load::SLO_NAMES))
        .help("Objectives, such as 'p99<20ms,errors<0.1%'; exit code 99 where one is missed")
}

fn output_flag() -> Arg {
    Arg::new("output")
        .long("output")
        .value_name("FORMAT")
        .value_parser(PossibleValuesParser::new(["text", "json"]))
        .default_value("text")
        .help("Form of the result on standard output")
}

fn duration_flag(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("D")
        .default_value(default)
        .help(help)
}

fn measured(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(7 * 24 * 3600);
    match duration::parse(text)? {
        length if length < Duration::from_millis(10) => {
            Err(format!("`{text}` is too short; at least 10ms"))
        }
        length if length > longest => Err(format!("`{text}` is too long; at most a week")),
        length => Ok(length),
    }
}

/// Visible ASCII only: anything else would end the request line.
fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("a path begins with / and has no blanks; encode them as %20".to_owned())
}

fn method(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(text.to_owned());
    }
    Err("a method is a word of capital letters, such as GET or POST".to_owned())
}

/// Runs the subcommand; `variable` is the value of ENTRYWAY_URL.
///
/// # Errors
///
/// A target that cannot be understood or resolved, too few descriptors, a result that cannot be written.
pub fn run(
    matches: &ArgMatches,
    variable: Option<String>,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    if let Some(("merge", matches)) = matches.subcommand() {
        let paths: Vec<&PathBuf> = matches.get_many("file").unwrap_or_default().collect();
        let report =
            hlog::merge(&paths).map_err(|error| CliError::new(code::NOT_OK, error.to_string()))?;
        return finish(report, None, matches, to);
    }
    let asked = matches.get_one::<String>("target").cloned();
    let asked = asked.or(variable.filter(|url| !url.is_empty()));
    let target = target(asked.as_deref().unwrap_or(DEFAULT_TARGET))?;
    let plan = plan(matches, target)?;
    check_descriptors(plan.connections())?;
    let stop = Stop::default();
    let signalled = stop_on_signals(&stop)?;
    let mut live = Live::new(plan.measured());
    let report = match matches.get_one::<String>("versus") {
        Some(other) => {
            let other = self::target(other)?;
            let workload = workload(matches, &other)?;
            load::run_versus(&plan, &(other, workload), &stop, |_| {})
        }
        None => load::run(&plan, &stop, |progress| live.show(progress)),
    };
    live.end();
    let report =
        report.map_err(|error| CliError::new(code::OS, format!("start the generator: {error}")))?;
    finish(report, signalled.get().copied(), matches, to)
}

/// `signalled`: the exit code of an interrupted run.
fn finish(
    mut report: Report,
    signalled: Option<u8>,
    matches: &ArgMatches,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let terms = matches
        .get_one::<Vec<slo::Term>>("slo")
        .cloned()
        .unwrap_or_default();
    let met = report.evaluate(&terms);
    if matches
        .get_one::<String>("output")
        .is_some_and(|format| format == "json")
    {
        let json = serde_json::to_string(&report.summary).map_err(io::Error::other)?;
        writeln!(to, "{json}")?;
    } else {
        write!(to, "{}", report.text())?;
    }
    to.flush()?;
    let files = matches
        .try_get_many::<(String, OutputKind)>("out")
        .ok()
        .flatten();
    for (path, kind) in files.unwrap_or_default() {
        load::write_output(&report, path, *kind).map_err(|error| {
            CliError::new(code::OS, format!("write {path}: {error}"))
                .likely("the result above is complete; only this file is missing")
        })?;
    }
    if let Some(code) = signalled.filter(|_| report.interrupted) {
        return Ok(code);
    }
    if report.nothing_sent {
        let causes: Vec<&str> = report
            .summary
            .requests
            .by_error
            .keys()
            .map(String::as_str)
            .collect();
        return Err(CliError::new(
            code::NOT_OK,
            format!(
                "nothing could be sent to {}: {}",
                report.summary.target,
                causes.join(", ")
            ),
        )
        .likely("nothing listens there, or it is unreachable from here")
        .next("entryway status shows the listener of a running instance"));
    }
    Ok(if met { 0 } else { MISSED })
}

fn plan(matches: &ArgMatches, target: LoadTarget) -> Result<LoadPlan, CliError> {
    let workload = workload(matches, &target)?;
    let ramp = matches.get_one::<Ramp>("ramp").copied();
    let poisson = matches.get_flag("poisson");
    let pace = match (
        matches.get_one::<f64>("rate"),
        matches.get_one::<u32>("connections"),
    ) {
        (Some(rate), _) => Pace::Rate {
            per_second: *rate,
            poisson,
        },
        (None, Some(connections)) => Pace::Connections(*connections as usize),
        (None, None) if ramp.is_some() => Pace::Rate {
            per_second: 0.0,
            poisson,
        },
        (None, None) if workload.name() == "datomic" => Pace::Connections(DATOMIC_CONNECTIONS),
        (None, None) => Pace::Connections(CONNECTIONS),
    };
    if poisson && matches!(pace, Pace::Connections(_)) {
        return Err(CliError::new(
            code::NOT_UNDERSTOOD,
            "--poisson spreads the requests of an open loop",
        )
        .next("add --rate N or --ramp A..B/STEP"));
    }
    let length = |name: &str| {
        matches
            .get_one::<Duration>(name)
            .copied()
            .unwrap_or_default()
    };
    Ok(LoadPlan {
        target,
        workload,
        pace,
        ramp,
        duration: length("duration"),
        warmup: length("warmup"),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        repeats_lost: false,
    })
}

fn workload(matches: &ArgMatches, target: &LoadTarget) -> Result<Workload, CliError> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let kind = text("workload").unwrap_or("http");
    let body = matches.get_one::<u32>("body").map(|body| *body as usize);
    let keepalive = matches
        .get_one::<bool>("keepalive")
        .copied()
        .unwrap_or(true);
    let url_path = (target.path != "/").then_some(target.path.as_str());
    let path = text("path").or(url_path);
    if matches!(kind, "echo" | "connect") {
        for flag in ["path", "method"] {
            if text(flag).is_some() {
                return Err(CliError::new(
                    code::NOT_UNDERSTOOD,
                    format!("--{flag} has no meaning with --workload {kind}"),
                ));
            }
        }
    }
    Ok(match kind {
        "connect" => Workload::Connect,
        "echo" => Workload::Echo {
            body: body.unwrap_or(1024).max(1),
            keepalive,
        },
        "datomic" => Workload::datomic(&target.authority, path, body.unwrap_or(1024), keepalive),
        _ => Workload::http(
            &target.authority,
            path.unwrap_or("/"),
            text("method"),
            body.unwrap_or(0),
            keepalive,
        ),
    })
}

/// Reads `http://HOST:PORT/PATH` or `HOST:PORT` and resolves the name with the system's resolver.
fn target(text: &str) -> Result<LoadTarget, CliError> {
    let bad = |why: &str| {
        CliError::new(
            code::NOT_UNDERSTOOD,
            format!("`{text}` is not a target: {why}"),
        )
        .next("http://127.0.0.1:8182/ or 127.0.0.1:8182")
    };
    if text.starts_with("https://") {
        return Err(bad(
            "TLS is not spoken here; a Datomic entry point and entryway speak plain HTTP",
        ));
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    if rest.contains("://") {
        return Err(bad("only http:// is understood"));
    }
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.is_empty() || authority.contains(['@', ' ', '?', '#']) {
        return Err(bad("no host"));
    }
    let path = self::path(path).map_err(|why| bad(&why))?;
    let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
        !port.is_empty()
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && (!host.contains(':') || host.ends_with(']'))
    });
    let authority = match has_port {
        true => authority.to_owned(),
        false => format!("{authority}:{DEFAULT_PORT}"),
    };
    let addresses: Vec<_> = authority
        .to_socket_addrs()
        .map_err(|error| {
            CliError::new(code::NOT_OK, format!("{authority}: {error}"))
                .likely("the name does not resolve here, or the port is not a number up to 65535")
        })?
        .collect();
    Ok(LoadTarget {
        authority,
        addresses,
        path,
    })
}

fn check_descriptors(connections: usize) -> Result<(), CliError> {
    let allowed = limits::raise_descriptors();
    let needed = connections as u64 + SPARE_DESCRIPTORS;
    // An open loop opens as many as it needs; only a closed loop opens all of them.
    if needed <= allowed {
        return Ok(());
    }
    Err(CliError::new(
        code::OS,
        format!("{connections} connections need {needed} open files, and {allowed} are allowed"),
    )
    .likely("the limit of open files (ulimit -n) of this shell or container")
    .next(format!("ulimit -n {needed}, or fewer --connections")))
}

/// INT and TERM end the run with the summary of what was done; a second one ends the process. The exit code that the
/// signal asks for, once it has come.
fn stop_on_signals(stop: &Stop) -> Result<Arc<OnceLock<u8>>, CliError> {
    let failed = |error: io::Error| CliError::new(code::OS, format!("signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let stop = stop.clone();
    let signalled = Arc::new(OnceLock::new());
    let code = Arc::clone(&signalled);
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let both = signal(SignalKind::interrupt())
                    .and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
                let (mut int, mut term) = match both {
                    Ok(both) => both,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let _ = ready.send(Ok(()));
                for _ in 0..2 {
                    let kind = tokio::select! {
                        _ = int.recv() => SignalKind::interrupt(),
                        _ = term.recv() => SignalKind::terminate(),
                    };
                    let number = 128 + kind.as_raw_value();
                    if stop.is_asked() {
                        std::process::exit(number);
                    }
                    // It is the first one, so that nothing is set.
                    let _ = code.set(u8::try_from(number).unwrap_or_default());
                    stop.ask();
                }
            });
        })
        .map_err(failed)?;
    is_ready
        .recv()
        .map_err(io::Error::other)
        .and_then(|ready| ready)
        .map_err(failed)?;
    Ok(signalled)
}

/// Progress on standard error: one line that is rewritten on a terminal, a line a second elsewhere.
struct Live {
    terminal: bool,
    seconds: u64,
    shown: bool,
}

impl Live {
    fn new(length: Duration) -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            seconds: length.as_secs_f64().ceil() as u64,
            shown: false,
        }
    }

    fn show(&mut self, progress: &Progress) {
        let line = format!(
            "{:>4} of {} s  {} ok/s, {} failed, p99 {}",
            progress.second,
            self.seconds,
            progress.ok,
            progress.failed,
            match progress.ok {
                0 => "-".to_owned(),
                _ => format!("{:.3} ms", progress.p99.as_secs_f64() * 1000.0),
            }
        );
        // Progress is a courtesy: a reader that is gone is no failure.
        let _ = match self.terminal {
            true => write!(io::stderr(), "\r\x1b[K{line}"),
            false => writeln!(io::stderr(), "{line}"),
        };
        self.shown = true;
    }

    fn end(&self) {
        if self.terminal && self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
