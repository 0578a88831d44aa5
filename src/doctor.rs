//! Finding out what is wrong on the way to Datomic.
//!
//! Runs the stages from settings to limits, and turns each symptom into causes and steps by the table in [`rules`]. It
//! answers within 15 s, whatever the network does: every wait has its own bound, stages run in parallel where they
//! can, and each address is connected to at most three times. It changes nothing, and where several causes look alike
//! it says so.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;

mod address_checks;
mod dns_checks;
mod dns_lookup;
mod hop_checks;
mod host_checks;
mod input;
mod ip_route;
pub mod message;
mod probe_all;
mod redact;
mod report;
pub mod rules;
mod types;
mod via_instance;

pub use input::{DoctorInput, InstanceHop, RunningInstance, Timers, UpstreamTarget};
pub use redact::Redactor;
pub use report::{Check, Diagnosis};
pub use types::{CheckVerdict, Facts, Rule, Stage};

use crate::dial::hop::HopSpec;
use crate::probe::{ProbeReport, host_header};
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::ExpectIdentity;
use hop_checks::HopResult;
use probe_all::ProbeResult;
use types::shown;

/// Bound for the whole network part; the sum of all other bounds is below it.
const WITHIN: Duration = Duration::from_secs(14);

#[derive(Debug, Default)]
struct Observed {
    direct: Vec<ProbeResult>,
    hops: Vec<HopResult>,
    through: Vec<(SocketAddr, ProbeReport)>,
}

/// Runs every stage. `progress` is called with what is being waited for.
pub async fn examine(subject: &DoctorInput, progress: &dyn Fn(&str)) -> Diagnosis {
    let (mut checks, ours) = host_checks::check_ports(subject);
    checks.extend(check_settings(subject));
    let mut seen = Observed::default();
    let network = look(subject, &ours, progress, &mut checks, &mut seen);
    if timeout(WITHIN, network).await.is_err() {
        let evidence = format!("not finished within {} s", WITHIN.as_secs());
        checks.push(Check::skip(Stage::Tcp, "network", evidence));
    }
    let towards: Vec<_> = seen.direct.iter().map(|found| found.peer.socket).collect();
    checks.extend(host_checks::check_limits(subject, &towards));
    for stage in Stage::ALL {
        if !checks.iter().any(|check| check.stage == stage) {
            checks.push(Check::skip(
                stage,
                "-",
                "not reached: see the stages before",
            ));
        }
    }
    let mut working: HashSet<String> = address_checks::working(subject, &seen.direct);
    working.extend(hop_checks::working(subject, &seen.hops));
    let mut report = Diagnosis::new(checks, &working, subject.targets.len());
    report.buckets = seen.buckets();
    report
}

async fn look(
    subject: &DoctorInput,
    ours: &[SocketAddr],
    progress: &dyn Fn(&str),
    checks: &mut Vec<Check>,
    seen: &mut Observed,
) {
    let has_hops = subject.targets.iter().any(|target| !target.hops.is_empty());
    progress(match has_hops {
        true => "asking the DNS servers and starting the hops",
        false => "asking the DNS servers",
    });
    let hops = hop_checks::start(subject);
    let names = dns_lookup::look_up(subject).await;
    checks.extend(dns_checks::check_servers(&names));
    checks.extend(dns_checks::check_names(subject, &names));
    let (own, peers): (Vec<_>, Vec<_>) = probe_all::targets_of(subject, &names)
        .into_iter()
        .partition(|peer| subject.is_own_listener(peer.socket));
    for peer in own {
        let facts = Facts::of_host(&peer.host, peer.socket.port());
        let evidence = format!("{} is {}", peer.host, peer.socket);
        checks.push(Check::ruled(
            &rules::ENDPOINT_IS_LISTENER,
            peer.label(),
            &evidence,
            &facts,
        ));
    }
    progress(&format!("connecting to {} addresses", peers.len()));
    let (direct, hops, through) = tokio::join!(
        probe_all::probe_all(peers, &subject.targets),
        hop_checks::probe_behind(hops, subject, &names),
        via_instance::probe_through(subject, ours)
    );
    *seen = Observed {
        direct,
        hops,
        through,
    };
    if !has_hops {
        checks.push(Check::skip(Stage::Hop, "-", "no hop is configured"));
    }
    checks.extend(hop_checks::check_all(subject, &seen.hops));
    checks.extend(address_checks::check_all(subject, &seen.direct));
    checks.extend(via_instance::check_all(
        subject,
        &seen.through,
        &seen.direct,
    ));
}

/// Replaces everything that identifies this network by placeholders.
pub fn redact(report: &mut Diagnosis, subject: &DoctorInput) {
    let mut redactor = Redactor::default();
    for target in &subject.targets {
        target
            .endpoints
            .iter()
            .for_each(|endpoint| redactor.host(&endpoint.host));
        let hops = target.hops.iter().filter_map(HopSpec::host);
        hops.for_each(|host| redactor.host(host));
        target
            .system
            .iter()
            .for_each(|system| redactor.system(system));
        if let ExpectIdentity::Value(path) = &target.health.expect_s3_auth_path {
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
fn check_settings(subject: &DoctorInput) -> Vec<Check> {
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
    for target in &subject.targets {
        let names: Vec<String> = target
            .endpoints
            .iter()
            .map(|e| host_header(&e.host, e.port))
            .collect();
        checks.push(Check::pass(
            Stage::Settings,
            &target.name,
            shown(&names.join(" ")),
        ));
    }
    checks
}

/// A diagnostic about settings: longer than text from the network may be, without control characters.
fn shown_line(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

// === impl Observed ===

impl Observed {
    /// The identities that answered, raw and as shown.
    fn buckets(&self) -> Vec<String> {
        let outcomes = self
            .direct
            .iter()
            .map(|found| &found.report)
            .chain(hop_checks::reports(&self.hops))
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
