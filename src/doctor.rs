//! Finding out what is wrong on the way to Datomic.
//!
//! Owns the stages from settings to limits and the table that turns a symptom into causes and steps. Promises an
//! answer within 15 s, whatever the network does: every wait below has its own bound, stages run beside each other
//! where they can, and each address is connected to once or twice. Changes nothing, anywhere. What it cannot tell
//! apart it says so.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::timeout;

mod judge;
mod local;
pub mod message;
mod names;
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

use reach::Found;
use words::shown;

/// The last line of defence: the sum of all bounds is below it.
const WITHIN: Duration = Duration::from_secs(14);

/// Examines everything. `progress` is told what is being waited for.
pub async fn examine(subject: &Subject, progress: &dyn Fn(&str)) -> Report {
    let (mut checks, ours) = local::judge_ports(subject);
    checks.extend(judge_settings(subject));
    let mut found = Vec::new();
    let network = look(subject, &ours, progress, &mut checks, &mut found);
    if timeout(WITHIN, network).await.is_err() {
        let evidence = format!("not finished within {} s", WITHIN.as_secs());
        checks.push(Check::skip(Stage::Tcp, "network", evidence));
    }
    let towards: Vec<_> = found.iter().map(|found: &Found| found.spot.socket).collect();
    checks.extend(local::judge_limits(subject, &towards));
    for stage in Stage::ALL {
        if !checks.iter().any(|check| check.stage == stage) {
            checks.push(Check::skip(stage, "-", "not reached: see the stages before"));
        }
    }
    let working: HashSet<String> = judge::working(subject, &found);
    Report::new(checks, &working, subject.ways.len())
}

async fn look(
    subject: &Subject,
    ours: &[std::net::SocketAddr],
    progress: &dyn Fn(&str),
    checks: &mut Vec<Check>,
    found: &mut Vec<Found>,
) {
    progress("asking the DNS servers");
    let names = names::look_up(subject).await;
    checks.extend(names::judge_servers(&names));
    checks.extend(names::judge_names(subject, &names));
    let (own, spots): (Vec<_>, Vec<_>) =
        reach::spots(subject, &names).into_iter().partition(|spot| subject.is_own_listener(spot.socket));
    for spot in own {
        let facts = Facts::of_host(&spot.host, spot.socket.port());
        let evidence = format!("{} is {}", spot.host, spot.socket);
        checks.push(Check::ruled(&rules::ENDPOINT_IS_LISTENER, spot.label(), &evidence, &facts));
    }
    progress(&format!("connecting to {} addresses", spots.len()));
    let (direct, through) = tokio::join!(reach::go(spots, &subject.ways), through::go(subject, ours));
    *found = direct;
    checks.extend(judge::judge(subject, found));
    checks.extend(through::judge(subject, &through, found));
}

/// Stage `settings`.
fn judge_settings(subject: &Subject) -> Vec<Check> {
    let none = Facts::default();
    let ruled = |rule, label: &str, line: &String| Check::ruled(rule, label, &shown_line(line), &none);
    let mut checks = Vec::new();
    checks.extend(subject.wrong.iter().map(|line| ruled(&rules::SETTINGS_WRONG, "settings", line)));
    checks.extend(subject.odd.iter().map(|line| ruled(&rules::SETTINGS_ODD, "settings", line)));
    for way in &subject.ways {
        checks.extend(way.wrong.iter().map(|line| ruled(&rules::SETTINGS_WRONG, &way.name, line)));
        if way.wrong.is_empty() {
            let names: Vec<String> =
                way.endpoints.iter().map(|e| crate::probe::host_header(&e.host, e.port)).collect();
            checks.push(Check::pass(Stage::Settings, &way.name, shown(&names.join(" "))));
        }
    }
    checks
}

/// A line of ours about settings: longer than text from the network may be, but as harmless.
fn shown_line(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
