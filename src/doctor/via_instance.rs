//! Stage `through`: the same question, asked through a running entryway.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::task::JoinSet;

use super::input::DoctorInput;
use super::probe_all::{ProbeResult, patient};
use super::report::Check;
use super::rules;
use super::types::{Facts, Stage, shown};
use crate::probe::{self, ProbeReport, host_header};
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::ProbeKind;

/// Asks through each of our own listen addresses at once.
pub(super) async fn probe_through(
    subject: &DoctorInput,
    ours: &[SocketAddr],
) -> Vec<(SocketAddr, ProbeReport)> {
    let health = subject
        .targets
        .first()
        .map(|target| patient(&target.health))
        .unwrap_or_default();
    let examined = subject.instance.iter().filter(|instance| instance.examined);
    let every = examined.flat_map(|instance| instance.addresses.iter().copied());
    let addresses: BTreeSet<SocketAddr> = every.chain(ours.iter().copied()).collect();
    let mut going = JoinSet::new();
    for address in addresses {
        let health = health.clone();
        going.spawn(async move {
            // As the application's client names it.
            let host = host_header("localhost", address.port());
            (
                address,
                probe::once(&health, reachable(address), &host).await,
            )
        });
    }
    let mut reports = Vec::new();
    while let Some(Ok(report)) = going.join_next().await {
        reports.push(report);
    }
    reports.sort_by_key(|(address, _)| *address);
    reports
}

/// What listens everywhere listens on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What came through, beside what was found directly.
pub(super) fn check_all(
    subject: &DoctorInput,
    through: &[(SocketAddr, ProbeReport)],
    direct: &[ProbeResult],
) -> Vec<Check> {
    let mut checks: Vec<Check> = through
        .iter()
        .map(|one| check_one(subject, one, direct))
        .collect();
    if checks.is_empty() {
        let places: Vec<String> = subject.listen.iter().map(SocketAddr::to_string).collect();
        let evidence = "nothing of ours listens there";
        return vec![Check::skip(
            Stage::Through,
            places.first().map_or("listen", String::as_str),
            evidence,
        )];
    }
    let down = subject.instance.iter().flat_map(|instance| &instance.down);
    for (socket, why) in down {
        let answers = |found: &&ProbeResult| {
            found.peer.socket == *socket && found.report.outcome.is_success()
        };
        if let Some(found) = direct.iter().find(answers) {
            let evidence = format!("it says: {}", shown(why));
            checks.push(Check::ruled(
                &rules::THROUGH_DISAGREES,
                found.peer.label(),
                &evidence,
                &Facts::default(),
            ));
        }
    }
    checks
}

fn check_one(
    subject: &DoctorInput,
    (address, report): &(SocketAddr, ProbeReport),
    direct: &[ProbeResult],
) -> Check {
    let label = address.to_string();
    let datomic = subject
        .targets
        .iter()
        .all(|target| target.health.kind == ProbeKind::Datomic);
    if !datomic {
        return Check::skip(
            Stage::Through,
            label,
            "not asked: the probe's kind is not datomic",
        );
    }
    let ProbeOutcome::Success { identity } = &report.outcome else {
        let detail = report
            .outcome
            .detail()
            .map(|detail| format!(": {}", shown(detail)))
            .unwrap_or_default();
        let evidence = format!(
            "{} after {} ms{detail}",
            report.outcome.code(),
            report.took.as_millis()
        );
        return Check::ruled(&rules::THROUGH_FAILS, label, &evidence, &Facts::default());
    };
    let seen = identity
        .as_ref()
        .map(|identity| identity.as_str())
        .unwrap_or_default();
    let known: BTreeSet<&str> = direct.iter().filter_map(ProbeResult::identity).collect();
    let took = report.took.as_millis();
    if known.is_empty() || known.contains(seen) {
        return Check::pass(
            Stage::Through,
            label,
            format!("{} in {took} ms", shown(seen)),
        );
    }
    let wanted = known.into_iter().collect::<Vec<_>>().join(", ");
    let evidence = format!("through it {}, directly {}", shown(seen), shown(&wanted));
    Check::ruled(&rules::THROUGH_OTHER, label, &evidence, &Facts::default())
}
