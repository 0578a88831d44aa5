//! Stages `route`, `tcp`, `bytes`, `http` and `identity`: what was found at each address, and which rule that is. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use super::input::{DoctorInput, UpstreamTarget};
use super::probe_all::{PROBE, ProbeResult};
use super::report::Check;
use super::rules;
use super::types::{Facts, Rule, Stage, is_private, shown};
use crate::addr::aws;
use crate::upstream::input::{BadAnswer, ProbeOutcome};
use crate::upstream::settings::{ExpectIdentity, ProbeKind};

/// Of a body, so much is shown.
const BODY_SHOWN: usize = 80;

/// All checks of all addresses.
pub(super) fn check_all(subject: &DoctorInput, all: &[ProbeResult]) -> Vec<Check> {
    let mut checks = Vec::new();
    for (index, target) in subject.targets.iter().enumerate() {
        let ours: Vec<&ProbeResult> = all
            .iter()
            .filter(|found| found.peer.target == index)
            .collect();
        for found in &ours {
            let judged = AddressChecks {
                target,
                found,
                ours: &ours,
            }
            .all();
            checks.extend(judged.into_iter().map(|check| check.of(&target.name)));
        }
        checks.extend(identity(target, &ours).map(|check| check.of(&target.name)));
    }
    checks
}

/// The upstreams with an address that works as it should.
pub(super) fn working(subject: &DoctorInput, all: &[ProbeResult]) -> HashSet<String> {
    let works = |found: &&ProbeResult| {
        found.report.outcome.is_success()
            && !found.large_lost
            && match &subject.targets[found.peer.target]
                .health
                .expect_s3_auth_path
            {
                ExpectIdentity::Value(wanted) => found.identity().is_none_or(|seen| seen == wanted),
                _ => true,
            }
    };
    all.iter()
        .filter(works)
        .map(|found| subject.targets[found.peer.target].name.clone())
        .collect()
}

/// One address, beside the others of its way.
struct AddressChecks<'a> {
    target: &'a UpstreamTarget,
    found: &'a ProbeResult,
    ours: &'a [&'a ProbeResult],
}

// === impl AddressChecks ===

impl AddressChecks<'_> {
    fn all(&self) -> Vec<Check> {
        let (route, goes_on) = self.route();
        let mut checks = vec![route];
        if !goes_on {
            return checks;
        }
        let (tcp, goes_on) = self.tcp();
        checks.extend(tcp);
        if goes_on && self.target.health.probes() && self.target.health.kind != ProbeKind::Tcp {
            checks.extend(self.answer());
        } else if goes_on {
            let kind = "not asked: --probe tcp or off";
            checks.push(Check::skip(Stage::Bytes, self.label(), kind));
            checks.push(Check::skip(Stage::Http, self.label(), kind));
        }
        checks
    }

    fn label(&self) -> String {
        self.found.peer.label()
    }

    fn facts(&self) -> Facts {
        let peer = &self.found.peer;
        Facts::of_host(&peer.host, peer.socket.port())
            .with("ip", peer.socket.ip().to_string())
            .or("system", self.target.system.as_deref())
            .or("region", self.target.region.as_deref())
    }

    fn ruled(&self, rule: &'static Rule, evidence: &str) -> Check {
        Check::ruled(rule, self.label(), evidence, &self.facts())
    }

    /// The way there, and whether there is one.
    fn route(&self) -> (Check, bool) {
        let others = self
            .ours
            .iter()
            .any(|other| other.route.is_ok() && other.peer.socket.is_ipv4());
        match &self.found.route {
            Err(why) if self.found.peer.socket.is_ipv6() && others => {
                let evidence = format!(
                    "no route for IPv6 ({}); the IPv4 addresses are used",
                    shown(why)
                );
                (Check::skip(Stage::Route, self.label(), evidence), false)
            }
            Err(why) => (self.ruled(&rules::ROUTE_NONE, &shown(why)), false),
            Ok(route) if matches!(self.found.report.outcome, ProbeOutcome::Unreachable(_)) => (
                self.ruled(&rules::ROUTE_UNREACHABLE, &route.describe()),
                false,
            ),
            Ok(route) => (
                Check::pass(Stage::Route, self.label(), route.describe()),
                true,
            ),
        }
    }

    /// The connect, and whether there is more to look at.
    fn tcp(&self) -> (Option<Check>, bool) {
        let report = &self.found.report;
        if let Some(took) = report.connect {
            let evidence = format!("connected in {}", millis(took));
            return if took > self.target.connect_timeout {
                let limit = format!("{evidence}, limit {}", millis(self.target.connect_timeout));
                (Some(self.ruled(&rules::TCP_SLOW, &limit)), true)
            } else {
                (Some(Check::pass(Stage::Tcp, self.label(), evidence)), true)
            };
        }
        let check = match &report.outcome {
            ProbeOutcome::Refused => self.ruled(
                &rules::TCP_REFUSED,
                &format!("after {}", millis(report.took)),
            ),
            ProbeOutcome::Timeout => self.silence(),
            // It accepted: a reset to the SYN itself would be a refusal. Faster than we could look.
            ProbeOutcome::Reset => {
                let evidence = "connected, and reset at once";
                return (Some(Check::pass(Stage::Tcp, self.label(), evidence)), true);
            }
            other => {
                let why = other.detail().unwrap_or(other.code());
                Check::skip(
                    Stage::Tcp,
                    self.label(),
                    format!("could not be tried: {}", shown(why)),
                )
            }
        };
        (Some(check), false)
    }

    /// No answer to the connect has many causes; what the network shows beside it narrows them down.
    fn silence(&self) -> Check {
        let peer = &self.found.peer;
        let host = peer.host.to_ascii_lowercase();
        let route = self.found.route.as_ref().ok();
        let from = route
            .map(|route| format!(", {}", route.describe()))
            .unwrap_or_default();
        let silent = self
            .ours
            .iter()
            .filter(|found| !found.connected() && found.report.outcome == ProbeOutcome::Timeout);
        let count = format!("{} of {} addresses", silent.count(), self.ours.len());
        let waited = millis(PROBE);
        if self.ours.iter().any(|other| other.connected()) {
            let zone = peer
                .zone
                .as_ref()
                .map(|zone| format!(", zone {zone}"))
                .unwrap_or_default();
            return self.ruled(
                &rules::TCP_TIMEOUT_SOME,
                &format!("within {waited}{zone}, {count}{from}"),
            );
        }
        let rule = if aws::vpce_name(&host).is_some() {
            &rules::TCP_TIMEOUT_VPCE
        } else if !is_private(peer.socket.ip()) {
            &rules::TCP_TIMEOUT_PUBLIC
        } else if aws::entry_name(&host).is_some() {
            &rules::TCP_TIMEOUT_PEERED
        } else {
            &rules::TCP_TIMEOUT
        };
        let mut check = self.ruled(rule, &format!("within {waited}, {count}{from}"));
        if let Some(route) = route.filter(|route| route.by_default && is_private(peer.socket.ip()))
        {
            let by = route
                .interface
                .as_ref()
                .map(|name| format!(" ({})", name.escape_debug()))
                .unwrap_or_default();
            check.causes.push(format!(
                "no route of its own leads to this private address, only the default one{by}: right inside AWS, but on \
                 a laptop it means that the VPN is not connected or does not carry this network"
            ));
        }
        check
    }

    /// What came back.
    fn answer(&self) -> Vec<Check> {
        let report = &self.found.report;
        let ends = |rule: &'static Rule, evidence: &str| vec![self.ruled(rule, evidence)];
        let bad = match &report.outcome {
            ProbeOutcome::Success { .. } => return self.good(),
            ProbeOutcome::Timeout if report.status.is_some() => {
                return ends(&rules::BYTES_SILENT, "a head came, its body did not");
            }
            ProbeOutcome::Timeout => {
                return ends(&rules::BYTES_SILENT, &format!("within {}", millis(PROBE)));
            }
            ProbeOutcome::Reset => {
                return ends(
                    &rules::BYTES_RESET,
                    &format!("after {}", millis(report.took)),
                );
            }
            ProbeOutcome::BadAnswer(bad) => bad,
            other => {
                let why = other.detail().unwrap_or(other.code());
                return vec![Check::skip(Stage::Bytes, self.label(), shown(why))];
            }
        };
        match bad.code.as_str() {
            "empty" => ends(&rules::BYTES_FIN, &format!("after {}", millis(report.took))),
            "truncated" => ends(&rules::BYTES_FIN, &bad.detail),
            "tls" => ends(&rules::BYTES_TLS, &bad.detail),
            "not_http" => ends(&rules::BYTES_NOT_HTTP, &bad.detail),
            _ => {
                let rule = self.http_rule(bad);
                vec![
                    Check::pass(Stage::Bytes, self.label(), "an answer comes back"),
                    self.ruled(rule, &self.http_evidence(bad)),
                ]
            }
        }
    }

    fn good(&self) -> Vec<Check> {
        let report = &self.found.report;
        let status = report
            .status
            .map_or_else(String::new, |status| status.to_string());
        let server = report
            .server
            .as_ref()
            .map(|server| format!(", server {server}"))
            .unwrap_or_default();
        let evidence = format!("{status} in {}{server}", millis(report.took));
        let limit = self.target.health.timeout;
        let http = match report.took > limit {
            true => self.ruled(
                &rules::HTTP_SLOW,
                &format!("{evidence}, a probe's limit is {}", millis(limit)),
            ),
            false => Check::pass(Stage::Http, self.label(), evidence),
        };
        let bytes = match self.found.large_lost {
            true => self.ruled(
                &rules::BYTES_MTU,
                "a request of 4 KB, twice as long as a packet, got no answer",
            ),
            false => Check::pass(Stage::Bytes, self.label(), "an answer comes back"),
        };
        vec![bytes, http]
    }

    fn http_rule(&self, bad: &BadAnswer) -> &'static Rule {
        let report = &self.found.report;
        let is_balancer = report
            .server
            .as_ref()
            .is_some_and(|server| server.to_ascii_lowercase().starts_with("awselb"));
        let seen = self
            .found
            .first_bytes
            .as_ref()
            .map(|text| text.to_ascii_lowercase())
            .unwrap_or_default();
        let wants_tls = ["https port", "https server", "ssl-enabled"]
            .iter()
            .any(|words| seen.contains(words));
        let is_gateway = bad.detail.contains("from API Gateway");
        match report.status {
            _ if is_gateway => &rules::HTTP_GATEWAY,
            Some(400) if wants_tls => &rules::HTTP_TLS_PORT,
            Some(502) if is_balancer => &rules::HTTP_ALB_502,
            Some(503) if is_balancer => &rules::HTTP_ALB_503,
            Some(504) if is_balancer => &rules::HTTP_ALB_504,
            Some(503) => &rules::HTTP_503,
            Some(429) => &rules::HTTP_BUSY,
            Some(300..400) => &rules::HTTP_REDIRECT,
            Some(200) if bad.code == "html" => &rules::HTTP_HTML,
            Some(200) => &rules::HTTP_OTHER,
            _ => &rules::HTTP_STATUS,
        }
    }

    fn http_evidence(&self, bad: &BadAnswer) -> String {
        let report = &self.found.report;
        let mut words: Vec<String> = report
            .status
            .iter()
            .map(|status| format!("status {status}"))
            .collect();
        if let Some(server) = &report.server {
            words.push(format!("server {server}"));
        }
        if let Some(to) = self.found.header("location") {
            words.push(format!("to {}", shown(to)));
        }
        if bad.detail.contains("from API Gateway") {
            words.push("with headers of an API Gateway".to_owned());
        }
        match self
            .found
            .body()
            .map(str::trim)
            .filter(|body| !body.is_empty())
        {
            Some(body) => {
                let start: String = body.chars().take(BODY_SHOWN).collect();
                let more = if start.len() < body.len() { "…" } else { "" };
                words.push(format!("begins: {}{more}", shown(&start)));
            }
            None if bad.code.starts_with("http_") => {}
            None => words.push(shown(&bad.detail)),
        }
        words.join(", ")
    }
}

/// Stage `identity`, for the addresses of one way together.
fn identity(target: &UpstreamTarget, ours: &[&ProbeResult]) -> Option<Check> {
    if ours.is_empty() {
        return None;
    }
    let mut systems: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for found in ours {
        if let Some(identity) = found.identity() {
            systems
                .entry(identity)
                .or_default()
                .insert(found.peer.label());
        }
    }
    let facts = Facts::default()
        .or("system", target.system.as_deref())
        .or("region", target.region.as_deref());
    let side_by_side = || {
        let each = systems.iter().map(|(id, who)| {
            format!(
                "{} at {}",
                shown(id),
                who.iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        });
        each.collect::<Vec<_>>().join("; ")
    };
    let other = match &target.health.expect_s3_auth_path {
        ExpectIdentity::Value(wanted) => {
            systems.keys().any(|seen| seen != wanted).then_some(wanted)
        }
        _ => None,
    };
    Some(match (systems.len(), other) {
        (0, _) if target.health.kind != ProbeKind::Datomic => Check::skip(
            Stage::Identity,
            &target.name,
            "the probe's kind does not read it",
        ),
        (0, _) => Check::skip(
            Stage::Identity,
            &target.name,
            "no address says which system it is",
        ),
        (_, Some(wanted)) => {
            let evidence = format!("expected {}, found {}", shown(wanted), side_by_side());
            Check::ruled(&rules::IDENTITY_OTHER, &target.name, &evidence, &facts)
        }
        (1, _) => {
            let (id, who) = systems.iter().next()?;
            Check::pass(
                Stage::Identity,
                &target.name,
                format!("{} at {} of {} addresses", shown(id), who.len(), ours.len()),
            )
        }
        _ => Check::ruled(
            &rules::IDENTITY_MIXED,
            &target.name,
            &side_by_side(),
            &facts,
        ),
    })
}

fn millis(duration: Duration) -> String {
    match duration.as_millis() {
        whole @ 10.. => format!("{whole} ms"),
        _ => format!("{:.1} ms", duration.as_secs_f64() * 1000.0),
    }
}
