//! The door: what each subcommand speaks and prints, and the exit code it ends with (contract section 4).
//!
//! Turns errors into text (what · likely why · next command). Decides nothing else.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;

use crate::admin::EndpointAction;
use crate::settings::{self, Diagnostics, Loaded};
use args::{OutputFormat, WaitFor, name};
use failure::{CliError, code};
use online::Instance;

pub mod args;
#[cfg(feature = "gateway")]
mod cert;
pub mod check;
pub mod demo;
pub mod doctor;
pub mod endpoint;
pub mod exit_codes;
pub mod explain;
pub mod failure;
pub mod guide;
pub mod healthcheck;
pub mod mock;
pub mod online;
pub mod plan;
pub mod reload;
pub mod run;
pub mod shutdown;
pub mod snippet;
pub mod status;
pub mod wait;
pub mod wrapper;

/// Understands the command line, does what it says, and returns the exit code.
pub fn main(args: impl Iterator<Item = OsString>) -> u8 {
    let matches = match args::command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(mut error) => {
            // Help and version are no errors and belong to standard output.
            let said = args::render_error(&mut error);
            let _ = if error.use_stderr() {
                write!(anstream::stderr(), "{said}")
            } else {
                write!(anstream::stdout(), "{said}")
            };
            return error.exit_code().try_into().unwrap_or(2);
        }
    };
    let Some((name, matches)) = matches.subcommand() else {
        return 2;
    };
    match dispatch(name, matches) {
        Ok(code) => code,
        // Whoever read the output has what it wanted.
        Err(error) if error.is_broken_pipe() => 0,
        Err(error) => {
            let _ = writeln!(anstream::stderr(), "error: {error}");
            error.code
        }
    }
}

fn dispatch(name: &str, matches: &ArgMatches) -> Result<u8, CliError> {
    let to = &mut anstream::stdout();
    match name {
        name::RUN => run::run(load(matches, true)?, wrapper::command_of(matches)),
        name::DEMO => block_on(demo::run(matches.get_flag("forever"))),
        name::MOCK => block_on(async {
            let outcome = mock::run(matches).await;
            outcome.map_err(|error| mock::explain(&error)).map(|()| 0)
        }),
        name::CHECK => {
            let loaded = load(matches, true)?;
            crate::assemble::recipes(&loaded).map_err(run::explain)?;
            warn(&loaded);
            check::print(&loaded, output(matches), to)?;
            Ok(0)
        }
        name::PLAN => plan::print(&load(matches, true)?, output(matches), to),
        name::SNIPPET => {
            let loaded = load(matches, false)?;
            let failed = |error: snippet::Error| CliError::new(code::SETTING, error.to_string());
            snippet::print(matches, &loaded, to)
                .map_err(failed)
                .map(|()| 0)
        }
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
        name::CERT => cert::run(matches, to),
        name::VERSION => version(output(matches), to),
        _ => block_on(online(name, matches)),
    }
}

async fn online(name: &str, matches: &ArgMatches) -> Result<u8, CliError> {
    if name == name::ENDPOINT {
        return endpoint_command(matches).await;
    }
    let to = &mut anstream::stdout();
    let instance = instance(matches);
    match name {
        name::DOCTOR => doctor::run(matches, std::env::vars_os(), to).await,
        name::STATUS => status::run(&instance, output(matches), to).await,
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
        name::SHUTDOWN => shutdown::run(&instance, output(matches), to).await,
        name::EXPLAIN => {
            let what_if: Vec<String> = matches
                .get_many("what-if")
                .unwrap_or_default()
                .cloned()
                .collect();
            let loaded = load(matches, false)?;
            if loaded.has_target() {
                explain::survey(loaded, &what_if, output(matches), to).await
            } else {
                explain::run(&instance, &what_if, output(matches), to).await
            }
        }
        _ => Err(CliError::new(
            code::INTERNAL,
            format!("no one answers for `{name}`"),
        )),
    }
}

async fn endpoint_command(matches: &ArgMatches) -> Result<u8, CliError> {
    let to = &mut anstream::stdout();
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(2);
    };
    let instance = instance(matches);
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

fn instance(matches: &ArgMatches) -> Instance {
    let text = |id| matches.get_one::<String>(id).cloned();
    Instance {
        admin: text(args::INSTANCE).unwrap_or_else(|| args::DEFAULT_INSTANCE.to_owned()),
        control: text(args::CONTROL_SOCKET).map(Into::into),
    }
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
        .map_err(|report| wrong_settings(&report))
}

/// Prints the report, with colours where they are wanted; what is left to say.
fn wrong_settings(report: &Diagnostics) -> CliError {
    let _ = writeln!(anstream::stderr(), "{}", report.styled());
    CliError::new(
        report.exit_code(),
        "the settings above are wrong; nothing was started",
    )
    .next("entryway guide start, or entryway run --help")
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .map_err(|error| CliError::new(code::OS, format!("start: {error}")))?
        .block_on(work)
}
