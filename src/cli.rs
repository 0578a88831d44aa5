//! Command line: dispatches to the subcommands, one file each, and turns their errors into text (what happened, the
//! likely reason, what to do next) and exit codes.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;

use crate::admin::EndpointAction;
use crate::settings::{self, Diagnostics, Loaded};
use args::{OutputFormat, WaitFor, name};
use client::InstanceAddress;
use error::{CliError, code};
use output::Stdout;
use signals::print_error;

/// What helps with a gateway's settings.
#[cfg(feature = "gateway")]
const GATEWAY_HELP: &str = "entryway guide remote, or entryway gateway --help";

pub mod args;
#[cfg(feature = "gateway")]
mod cert;
pub mod check;
pub mod child;
pub mod client;
pub mod demo;
pub mod doctor;
#[cfg(all(feature = "faults", feature = "load"))]
pub mod drill;
pub mod endpoint;
pub mod error;
pub mod exit_codes;
pub mod explain;
pub mod guide;
pub mod healthcheck;
pub mod incident;
pub mod init;
#[cfg(feature = "load")]
pub mod load;
pub mod man;
pub mod mock;
pub mod output;
pub mod plan;
pub mod reload;
pub mod run;
pub mod shutdown;
pub mod signals;
pub mod slo;
pub mod snippet;
pub mod status;
pub mod status_line;
pub mod upgrade;
pub mod wait;

/// Runs the command line and returns the exit code.
pub fn main(args: impl Iterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = args.collect();
    let matches = match args::command().try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(mut error) => {
            // Help and version are no errors and belong to standard output.
            let said = args::render_error(&mut error);
            if error.use_stderr() {
                let _ = write!(anstream::stderr(), "{said}");
            } else if let Err(error) = print(&said.to_string()) {
                print_error(&format!("error: {error}\n"));
                return error.code;
            }
            return error.exit_code().try_into().unwrap_or(2);
        }
    };
    let Some((name, matches)) = matches.subcommand() else {
        return 2;
    };
    if name == name::RUN
        && words.last().is_some_and(|word| word == "--")
        && child::ChildCommand::of(matches).is_none()
    {
        print_error(
            "error: no command after --\n  next:   entryway run [FLAGS] -- CMD [ARGS], or leave out --\n",
        );
        return code::NOT_UNDERSTOOD;
    }
    if !handles_signals(name, matches) {
        signals::end_on_signals();
    }
    let mut to = Stdout::default();
    let outcome = dispatch(name, matches, &mut to).and_then(|code| {
        to.flush()?;
        Ok(code)
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            print_error(&format!("error: {error}\n"));
            error.code
        }
    }
}

/// Help and version, to standard output.
fn print(text: &str) -> Result<(), CliError> {
    let mut to = Stdout::default();
    to.write_all(text.as_bytes())?;
    to.flush()?;
    Ok(())
}

/// Whether the command has an end of its own for TERM and INT.
fn handles_signals(name: &str, matches: &ArgMatches) -> bool {
    let watches = || matches.try_get_one::<bool>("watch").ok().flatten() == Some(&true);
    #[cfg(feature = "top")]
    if name == name::TOP {
        return true;
    }
    #[cfg(all(feature = "faults", feature = "load"))]
    if name == name::DRILL {
        return true;
    }
    let own = [name::RUN, name::MOCK, name::DEMO, name::LOAD, name::GATEWAY];
    own.contains(&name) || watches()
}

fn dispatch(name: &str, matches: &ArgMatches, to: &mut Stdout) -> Result<u8, CliError> {
    match name {
        name::RUN => run::run(load(matches, true)?, child::ChildCommand::of(matches)),
        name::DEMO if matches.get_flag("laptop") => block_on(demo::run_laptop()),
        name::DEMO => block_on(demo::run(matches.get_flag("forever"))),
        name::MOCK => block_on(async {
            let outcome = mock::run(matches).await;
            outcome.map_err(|error| mock::explain(&error)).map(|()| 0)
        }),
        name::CHECK => {
            let mut loaded = load(matches, true)?;
            #[cfg(feature = "gateway")]
            if let Some(report) = crate::app::wrong_gateway_files(&loaded) {
                return Err(wrong_settings(&report, GATEWAY_HELP));
            }
            block_on(async {
                let refused = check::refused_by_sandboxes(&loaded).await;
                loaded.warnings.extend(refused);
                warn(&loaded);
                check::print(&loaded, output(matches), to)?;
                Ok(0)
            })
        }
        name::PLAN => plan::print(&load(matches, true)?, output(matches), to),
        name::SNIPPET => {
            let loaded = load(matches, false)?;
            let failed = |error: snippet::Error| match error {
                snippet::Error::Io(error) => CliError::from(error),
                error => CliError::new(code::SETTING, error.to_string()),
            };
            snippet::print(matches, &loaded, to)
                .map_err(failed)
                .map(|()| 0)
        }
        name::INIT => init::print(matches, &load(matches, false)?, to),
        name::GUIDE => {
            let word = |id| matches.get_one::<String>(id).map(String::as_str);
            guide::print(word("topic"), word("part"), to)
        }
        name::COMPLETIONS => {
            if let Some(shell) = matches.get_one::<clap_complete::Shell>("shell") {
                // Not straight to the output: the generator panics where nobody reads it.
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut args::command(), "entryway", &mut script);
                to.write_all(&script)?;
            }
            Ok(0)
        }
        #[cfg(feature = "gateway")]
        name::GATEWAY => {
            let loaded = settings::load_gateway(matches, std::env::vars_os());
            let wrong = |report| wrong_settings(&report, GATEWAY_HELP);
            run::run(loaded.map_err(wrong)?, None)
        }
        #[cfg(feature = "gateway")]
        name::CERT => cert::run(matches, to),
        #[cfg(feature = "load")]
        name::LOAD => load::run(matches, std::env::var("ENTRYWAY_URL").ok(), to),
        #[cfg(all(feature = "faults", feature = "load"))]
        name::DRILL => block_on(drill::run(matches, to)),
        name::MAN => man::run(
            matches
                .get_one::<std::path::PathBuf>("dir")
                .map(AsRef::as_ref),
            to,
        ),
        name::VERSION => version(output(matches), to),
        _ => block_on(online(name, matches, to)),
    }
}

async fn online(name: &str, matches: &ArgMatches, to: &mut Stdout) -> Result<u8, CliError> {
    if name == name::ENDPOINT {
        return endpoint_command(matches, to).await;
    }
    if name == name::INCIDENT {
        return incident_command(matches, to).await;
    }
    if name == name::DOCTOR {
        return doctor::run(matches, std::env::vars_os(), to).await;
    }
    if name == name::EXPLAIN {
        return explain_command(matches, to).await;
    }
    #[cfg(feature = "top")]
    if name == name::TOP {
        return top(matches).await;
    }
    let instance = instance(matches).await?;
    match name {
        name::STATUS if matches.get_flag("watch") => status::watch(&instance, to).await,
        name::STATUS => status::run(&instance, output(matches), to).await,
        name::SLO => {
            let target = matches.get_one::<f64>("target").copied().unwrap_or(99.9);
            slo::run(&instance, target, output(matches), to).await
        }
        name::WAIT => {
            let goal = matches
                .get_one::<WaitFor>("for")
                .copied()
                .unwrap_or(WaitFor::Ready);
            let time = matches
                .get_one::<Duration>("timeout")
                .copied()
                .unwrap_or(Duration::from_secs(30));
            wait::run(&instance, goal, time, output(matches), to).await
        }
        name::HEALTHCHECK => healthcheck::run(&instance, matches.get_flag("ready"), to).await,
        name::RELOAD => {
            reload::run(&instance, matches.get_flag("dry-run"), output(matches), to).await
        }
        name::UPGRADE => {
            let path = |id| matches.get_one::<std::path::PathBuf>(id).cloned();
            let order = upgrade::Order {
                binary: path("binary"),
                config: path("config"),
                max_drain: matches.get_one::<Duration>("drain-time").copied(),
            };
            upgrade::run(&instance, order, output(matches), to).await
        }
        name::SHUTDOWN => {
            shutdown::run(&instance, matches.get_flag("wait"), output(matches), to).await
        }
        _ => Err(CliError::new(
            code::INTERNAL,
            format!("internal error: unhandled subcommand `{name}`"),
        )),
    }
}

async fn explain_command(matches: &ArgMatches, to: &mut Stdout) -> Result<u8, CliError> {
    let what_if: Vec<String> = matches
        .get_many("what-if")
        .unwrap_or_default()
        .cloned()
        .collect();
    let loaded = load(matches, false)?;
    if loaded.has_target() {
        return explain::survey(loaded, &what_if, output(matches), to).await;
    }
    explain::run(&instance(matches).await?, &what_if, output(matches), to).await
}

async fn endpoint_command(matches: &ArgMatches, to: &mut Stdout) -> Result<u8, CliError> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(2);
    };
    let instance = instance(matches).await?;
    if verb == "list" {
        return endpoint::list(&instance, output(matches), to).await;
    }
    let order = match verb {
        "drain" => EndpointAction::Drain,
        "ready" => EndpointAction::Ready,
        _ => EndpointAction::Probe,
    };
    let names: Vec<String> = matches
        .get_many("name")
        .unwrap_or_default()
        .cloned()
        .collect();
    endpoint::order(&instance, order, &names, output(matches), to).await
}

async fn incident_command(matches: &ArgMatches, to: &mut Stdout) -> Result<u8, CliError> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(2);
    };
    let instance = instance(matches).await?;
    let id = || matches.get_one::<String>("id").map_or("", String::as_str);
    match verb {
        "list" => incident::list(&instance, output(matches), to).await,
        "show" => incident::show(&instance, id(), output(matches), to).await,
        _ => incident::export(&instance, id(), matches.get_flag("redact"), to).await,
    }
}

#[cfg(feature = "top")]
async fn top(matches: &ArgMatches) -> Result<u8, CliError> {
    use std::io::IsTerminal as _;
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(CliError::new(code::NOT_UNDERSTOOD, "top needs a terminal")
            .next("entryway status, or entryway status --output json"));
    }
    // An instance that is not there is said on a usable terminal, before the screen is taken.
    let instance = instance(matches).await?;
    instance.ask("/livez", Duration::from_secs(5)).await?;
    crate::top::run(instance.reading(), instance.control.clone())
        .await
        .map_err(|error| CliError::new(code::OS, format!("the terminal: {error}")))?;
    Ok(0)
}

/// The instance that the command line names, or the one that is registered.
async fn instance(matches: &ArgMatches) -> Result<InstanceAddress, CliError> {
    let text = |id| matches.get_one::<String>(id).cloned();
    InstanceAddress::locate(
        text(args::INSTANCE),
        text(args::CONTROL_SOCKET).map(Into::into),
    )
    .await
}

fn output(matches: &ArgMatches) -> OutputFormat {
    matches
        .get_one::<OutputFormat>(args::OUTPUT)
        .copied()
        .unwrap_or_default()
}

/// The settings of this command line; the whole report where they are wrong.
fn load(matches: &ArgMatches, needs_target: bool) -> Result<Loaded, CliError> {
    settings::load(matches, std::env::vars_os(), needs_target)
        .map_err(|report| wrong_settings(&report, "entryway guide start, or entryway run --help"))
}

/// The settings of `entryway run` with these flags, for what a command starts itself.
fn load_words(flags: Vec<String>) -> Result<Loaded, CliError> {
    let words = ["entryway", name::RUN].map(str::to_owned);
    let internal = |what: String| CliError::new(code::INTERNAL, format!("internal error: {what}"));
    let matches = args::command()
        .try_get_matches_from(words.into_iter().chain(flags))
        .map_err(|error| internal(error.to_string()))?;
    let matches = matches
        .subcommand_matches(name::RUN)
        .ok_or_else(|| internal("no run".to_owned()))?;
    settings::load(matches, std::iter::empty(), true).map_err(|report| internal(report.plain()))
}

/// Prints the report, with colours where they are wanted; what is left to say.
fn wrong_settings(report: &Diagnostics, next: &str) -> CliError {
    print_error(&format!("{}\n", report.styled()));
    CliError::new(
        report.exit_code(),
        "the settings above are wrong; nothing was started",
    )
    .next(next)
}

fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        let _ = writeln!(anstream::stderr(), "warning: {warning}");
    }
}

fn version(output: OutputFormat, to: &mut dyn Write) -> Result<u8, CliError> {
    let version = crate::admin::api_types::version();
    if output == OutputFormat::Json {
        status::print_json(to, &crate::admin::api_types::versioned(version))?;
        return Ok(0);
    }
    let commit = version
        .commit
        .map(|commit| format!(" ({commit})"))
        .unwrap_or_default();
    writeln!(to, "entryway {}{commit}", version.version)?;
    if let Some(rustc) = version.rustc {
        writeln!(to, "{rustc}")?;
    }
    Ok(0)
}

/// Runs on this thread: the control runtime.
fn block_on(work: impl Future<Output = Result<u8, CliError>>) -> Result<u8, CliError> {
    crate::clock::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .map_err(|error| CliError::new(code::OS, format!("start: {error}")))?
        .block_on(work)
}
