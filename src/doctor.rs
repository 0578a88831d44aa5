//! Finding out what is wrong on the way to Datomic.
//!
//! Owns the stages from settings to limits and the table that turns a symptom into causes and steps. Promises an
//! answer within 15 s, whatever the network does: every wait below has its own bound, stages run beside each other
//! where they can, and each address is connected to once or twice. Changes nothing, anywhere. What it cannot tell
//! apart it says so.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;

mod judge;
mod local;
pub mod message;
mod names;
mod naming;
mod reach;
mod redact;
mod report;
mod route;
pub mod rules;
mod subject;
mod through;
mod words;

pub use redact::Redactor;
pub use report::{Check, Report};
pub use subject::{Instance, Subject, Timers, Way};
pub use words::{Facts, Rule, Stage, Verdict};

use crate::probe::{ProbeReport, host_header};
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::ExpectIdentity;
use reach::Found;
use words::shown;

/// The last line of defence: the sum of all bounds is below it.
const WITHIN: Duration = Duration::from_secs(14);

/// What came back from the network.
#[derive(Debug, Default)]
struct Seen {
    direct: Vec<Found>,
    through: Vec<(SocketAddr, ProbeReport)>,
}

/// Examines everything. `progress` is told what is being waited for.
pub async fn examine(subject: &Subject, progress: &dyn Fn(&str)) -> Report {
    let (mut checks, ours) = local::judge_ports(subject);
    checks.extend(judge_settings(subject));
    let mut seen = Seen::default();
    let network = look(subject, &ours, progress, &mut checks, &mut seen);
    if timeout(WITHIN, network).await.is_err() {
        let evidence = format!("not finished within {} s", WITHIN.as_secs());
        checks.push(Check::skip(Stage::Tcp, "network", evidence));
    }
    let towards: Vec<_> = seen.direct.iter().map(|found| found.spot.socket).collect();
    checks.extend(local::judge_limits(subject, &towards));
    for stage in Stage::ALL {
        if !checks.iter().any(|check| check.stage == stage) {
            checks.push(Check::skip(
                stage,
                "-",
                "not reached: see the stages before",
            ));
        }
    }
    let working: HashSet<String> = judge::working(subject, &seen.direct);
    let mut report = Report::new(checks, &working, subject.ways.len());
    report.buckets = seen.buckets();
    report
}

async fn look(
    subject: &Subject,
    ours: &[SocketAddr],
    progress: &dyn Fn(&str),
    checks: &mut Vec<Check>,
    seen: &mut Seen,
) {
    progress("asking the DNS servers");
    let names = names::look_up(subject).await;
    checks.extend(naming::judge_servers(&names));
    checks.extend(naming::judge_names(subject, &names));
    let (own, spots): (Vec<_>, Vec<_>) = reach::spots(subject, &names)
        .into_iter()
        .partition(|spot| subject.is_own_listener(spot.socket));
    for spot in own {
        let facts = Facts::of_host(&spot.host, spot.socket.port());
        let evidence = format!("{} is {}", spot.host, spot.socket);
        checks.push(Check::ruled(
            &rules::ENDPOINT_IS_LISTENER,
            spot.label(),
            &evidence,
            &facts,
        ));
    }
    progress(&format!("connecting to {} addresses", spots.len()));
    let (direct, through) =
        tokio::join!(reach::go(spots, &subject.ways), through::go(subject, ours));
    *seen = Seen { direct, through };
    checks.extend(judge::judge(subject, &seen.direct));
    checks.extend(through::judge(subject, &seen.through, &seen.direct));
}

/// Puts placeholders for everything that tells whose network this is.
pub fn redact(report: &mut Report, subject: &Subject) {
    let mut redactor = Redactor::default();
    for way in &subject.ways {
        way.endpoints
            .iter()
            .for_each(|endpoint| redactor.host(&endpoint.host));
        way.system.iter().for_each(|system| redactor.system(system));
        if let ExpectIdentity::Value(path) = &way.health.expect_s3_auth_path {
            redactor.bucket(path);
        }
    }
    report.buckets.iter().for_each(|path| redactor.bucket(path));
    let ips: Vec<IpAddr> = subject
        .listen
        .iter()
        .chain(&subject.dns.servers)
        .map(SocketAddr::ip)
        .collect();
    ips.into_iter().for_each(|ip| redactor.address(ip));
    redactor.apply(report);
    report.buckets.clear();
}

/// Stage `settings`.
fn judge_settings(subject: &Subject) -> Vec<Check> {
    let none = Facts::default();
    let ruled =
        |rule, label: &str, line: &String| Check::ruled(rule, label, &shown_line(line), &none);
    let mut checks = Vec::new();
    checks.extend(
        subject
            .wrong
            .iter()
            .map(|line| ruled(&rules::SETTINGS_WRONG, "settings", line)),
    );
    checks.extend(
        subject
            .odd
            .iter()
            .map(|line| ruled(&rules::SETTINGS_ODD, "settings", line)),
    );
    for way in &subject.ways {
        checks.extend(
            way.wrong
                .iter()
                .map(|line| ruled(&rules::SETTINGS_WRONG, &way.name, line)),
        );
        if way.wrong.is_empty() {
            let names: Vec<String> = way
                .endpoints
                .iter()
                .map(|e| host_header(&e.host, e.port))
                .collect();
            checks.push(Check::pass(
                Stage::Settings,
                &way.name,
                shown(&names.join(" ")),
            ));
        }
    }
    checks
}

/// A line of ours about settings: longer than text from the network may be, but as harmless.
fn shown_line(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

// === impl Seen ===

impl Seen {
    /// The systems that answered, as they came and as they are shown.
    fn buckets(&self) -> Vec<String> {
        let outcomes = self
            .direct
            .iter()
            .map(|found| &found.report)
            .chain(self.through.iter().map(|(_, report)| report));
        let mut buckets: Vec<String> = outcomes
            .filter_map(|report| match &report.outcome {
                ProbeOutcome::Success { identity } => identity.as_ref(),
                _ => None,
            })
            .flat_map(|identity| [identity.as_str().to_owned(), shown(identity.as_str())])
            .collect();
        buckets.dedup();
        buckets
    }
}

#[cfg(test)]
mod tests;
