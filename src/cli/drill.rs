//! `entryway drill`: reads the flags, runs the drill, prints and writes the results.

use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;

use super::args::{DRILLED_UPSTREAM, DRILLED_ZONE, OutputFormat};
use super::error::{CliError, code};
use super::signals::interrupt;
use super::{instance, load_words, output};
use crate::drill::embedded::{EmbeddedProxy, Mocks, OWN, SHORTENED};
use crate::drill::haproxy::{self, HaProxy};
use crate::drill::{self, DrillPlan, DrillReport, Error, Instance, Interrupt, OutputKind, Tell};
use crate::faults::DrillKind;
use crate::load::slo::Term;

/// Exit code where an assertion was missed.
const MISSED: u8 = 99;

/// Runs the subcommand.
///
/// # Errors
///
/// The drill could not be run, or a result could not be written.
pub async fn run(matches: &ArgMatches, to: &mut dyn Write) -> Result<u8, CliError> {
    let (interrupt, signal) = interrupt();
    let kind = matches.get_one::<String>("kind").map(String::as_str);
    let kind = kind.and_then(DrillKind::parse);
    let kind = kind.ok_or_else(|| CliError::new(code::NOT_UNDERSTOOD, "no such kind of drill"))?;
    let report = match matches.get_flag("embedded") {
        true => embedded(kind, matches, interrupt).await?,
        false => {
            let reading = instance(matches).await?.reading();
            let upstream = matches.get_one::<String>(DRILLED_UPSTREAM);
            let opened = Instance::open(reading, upstream.map(String::as_str)).await;
            let (mut instance, patience) = opened.map_err(failed)?;
            if let Some(choice) = instance.choice() {
                DrillProgress.tell(Duration::ZERO, &choice);
            }
            let drilled = drill_instance(kind, matches, &mut instance, patience, interrupt);
            drilled.await?.1
        }
    };
    let code = finish(&report, matches, to)?;
    Ok(match report.interrupted {
        true => signal.await.unwrap_or(code),
        false => code,
    })
}

/// What the flags say about a drill of this subject.
fn plan(
    kind: DrillKind,
    matches: &ArgMatches,
    zone: Option<String>,
    patience: Duration,
) -> DrillPlan {
    let asserts = matches.get_many::<Vec<Term>>("assert").unwrap_or_default();
    DrillPlan {
        kind,
        zone,
        length: matches.get_one("for").copied().unwrap_or_default(),
        rate: matches.get_one("rate").copied().unwrap_or_default(),
        asserts: asserts.flatten().cloned().collect(),
        patience,
    }
}

async fn drill_instance(
    kind: DrillKind,
    matches: &ArgMatches,
    instance: &mut Instance,
    patience: Duration,
    interrupt: Interrupt,
) -> Result<(DrillPlan, DrillReport), CliError> {
    let asked = matches.get_one::<String>(DRILLED_ZONE).map(String::as_str);
    let zone = instance.zone(kind, asked).await.map_err(failed)?;
    let plan = plan(kind, matches, zone, patience);
    if plan.rate > 0.0 {
        instance.takes_requests().map_err(failed)?;
    }
    let report = drill::run(&plan, instance, &mut DrillProgress, interrupt).await;
    Ok((plan, report.map_err(failed)?))
}

/// Mocks and an entryway of the drill's own.
async fn embedded(
    kind: DrillKind,
    matches: &ArgMatches,
    interrupt: Interrupt,
) -> Result<DrillReport, CliError> {
    let compares = matches.contains_id("compare");
    let not_compared = haproxy::not_played(kind).filter(|_| compares);
    let mocks = Mocks::start().map_err(failed)?;
    // Before the first drill: where there is none, nothing has been waited for.
    let other = match compares && not_compared.is_none() {
        true => Some(HaProxy::start(&mocks).await.map_err(failed)?),
        false => None,
    };
    let loaded = load_words(mocks.arguments())?;
    let proxy = EmbeddedProxy::start(loaded).await.map_err(failed)?;
    let (mut instance, patience) = Instance::open(proxy.admin(), None).await.map_err(failed)?;
    DrillProgress.tell(
        Duration::ZERO,
        &format!("an entryway before three mock zones, its own is {OWN}; {SHORTENED}"),
    );
    let drilled = drill_instance(kind, matches, &mut instance, patience, interrupt.clone()).await?;
    let (plan, mut report) = drilled;
    report.summary.not_compared = not_compared;
    if let Some(mut other) = other
        && !report.interrupted
    {
        // It has the zones to itself.
        drop(proxy);
        let name = other.name();
        DrillProgress.tell(Duration::ZERO, &format!("the same with {name}"));
        let theirs = drill::run(&plan, &mut other, &mut DrillProgress, interrupt).await;
        report.compare(name, theirs.map_err(failed)?);
    }
    Ok(report)
}

fn finish(report: &DrillReport, matches: &ArgMatches, to: &mut dyn Write) -> Result<u8, CliError> {
    if output(matches) == OutputFormat::Json {
        let json = serde_json::to_string(&report.summary).map_err(std::io::Error::other)?;
        writeln!(to, "{json}")?;
    } else {
        write!(to, "{}", report.text())?;
    }
    to.flush()?;
    let files = matches.get_many::<(String, OutputKind)>("out");
    for (path, kind) in files.unwrap_or_default() {
        drill::write_output(report, path, *kind).map_err(|error| {
            CliError::new(code::OS, format!("write {path}: {error}"))
                .likely("the result above is complete; only this file is missing")
        })?;
    }
    Ok(if report.passed() { 0 } else { MISSED })
}

fn failed(error: Error) -> CliError {
    let what = error.to_string();
    match error {
        Error::NoInstance(_) => CliError::new(code::NOT_THERE, format!("no instance answers: {what}"))
            .next("start one with `entryway run`, name it with --admin HOST:PORT, or drill mocks with --embedded"),
        Error::UnknownZone(_) => CliError::new(code::NOT_UNDERSTOOD, what),
        Error::NotAllowed(_) => CliError::new(code::PERMISSION, what)
            .likely("the instance runs as another user"),
        Error::Cannot { next, .. } => CliError::new(code::NOT_OK, what).next(next),
        Error::Lost(_) => CliError::new(code::NOT_OK, format!("the drill broke off: {what}"))
            .likely("the instance has ended or is overloaded; the fault ends by itself within 5 s")
            .next("entryway status"),
    }
}

/// Progress on standard error.
struct DrillProgress;

impl Tell for DrillProgress {
    fn tell(&mut self, at: Duration, what: &str) {
        // A courtesy: a reader that is gone is no failure.
        let _ = writeln!(anstream::stderr(), "{:6.2} s  {what}", at.as_secs_f64());
    }
}
