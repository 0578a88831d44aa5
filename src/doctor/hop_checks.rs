//! Stage `hop`: whether each hop works, and what is behind those that do.
//!
//! Hops are built here as `run` builds them, so that a command is started, a proxy greeted and an authority verified
//! like in traffic. A hop that does not work is blamed itself, with the last words of its command and what those usually
//! mean; nothing is said then about the addresses behind it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::dns_lookup::{self, LookedUpNames};
use super::input::{DoctorInput, InstanceHop, UpstreamTarget};
use super::probe_all::patient;
use super::report::Check;
use super::rules;
use super::types::{Facts, Stage, shown};
use crate::addr::HostPort;
use crate::dial::hop::{Hop, HopParts, HopSpec, HopState, HopStatus, Hops, meaning};
use crate::dial::{DialSettings, Dialer, HedgeAfter, Preconnected, SpareLimit};
use crate::events::{Events, Log};
use crate::interference::Interference;
use crate::metrics::Metrics;
use crate::probe::{self, ProbeReport, host_header};
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::socket::TcpOptions;
use crate::types::{HopId, UpstreamName};
use crate::upstream::endpoint::{Address, EndpointSpec, HopTarget};
use crate::upstream::input::ProbeOutcome;

/// What a supervised command has to become ready.
const READY_WITHIN: Duration = Duration::from_secs(7);
/// What commands have to end when everything has been seen; the kernel kills those that are left.
const END_WITHIN: Duration = Duration::from_millis(500);
/// Endpoints behind all hops together; more is not a diagnosis but a scan.
const MAX_ENDPOINTS: usize = 64;

/// The hops of one upstream, running.
struct RunningHops {
    hops: Hops,
    /// Hops that could not even be built, and why.
    broken: Vec<(HopSpec, String)>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// What was seen of one hop.
#[derive(Debug)]
pub(super) struct HopResult {
    /// Index of its upstream.
    target: usize,
    spec: HopSpec,
    seen: Result<HopStatus, String>,
    behind: Vec<Behind>,
}

/// One endpoint behind a hop, and what a probe through it came to.
#[derive(Debug)]
struct Behind {
    endpoint: EndpointSpec,
    to: HostPort,
    report: ProbeReport,
}

/// The hops of every upstream, and when they were started.
pub(super) struct StartedHops(Vec<RunningHops>, Instant);

/// Starts the hops of every upstream, and the commands whose targets are known: their time passes beside the DNS lookups.
pub(super) fn start(subject: &DoctorInput) -> StartedHops {
    let all = subject.targets.iter().map(RunningHops::start).collect();
    StartedHops(all, Instant::now())
}

/// Probes what is behind the hops, once their commands are ready or have failed, then ends them.
pub(super) async fn probe_behind(
    started: StartedHops,
    subject: &DoctorInput,
    names: &LookedUpNames,
) -> Vec<HopResult> {
    let mut results = Vec::new();
    let StartedHops(all, began) = started;
    let ready = async {
        for (running, target) in all.iter().zip(&subject.targets) {
            running
                .ready(&targets_of(&running.hops, target, names))
                .await;
        }
    };
    let _ = timeout_at(began + READY_WITHIN, ready).await;
    for (index, (running, target)) in all.into_iter().zip(&subject.targets).enumerate() {
        let RunningHops {
            hops,
            broken,
            mut tasks,
            stop,
        } = running;
        let mut behind = probe_all(&hops, target, names).await;
        for hop in hops.iter() {
            let spec = hop.spec().clone();
            let is_ours = |one: &Behind| one.endpoint.hop.is_some_and(|own| own.id == spec.id);
            let (ours, rest) = behind.into_iter().partition(is_ours);
            behind = rest;
            results.push(HopResult {
                target: index,
                spec,
                seen: Ok(hop.health().status()),
                behind: ours,
            });
        }
        results.extend(broken.into_iter().map(|(spec, why)| HopResult {
            target: index,
            spec,
            seen: Err(why),
            behind: Vec::new(),
        }));
        stop.send_replace(true);
        let _ = timeout(END_WITHIN, async {
            while tasks.join_next().await.is_some() {}
        })
        .await;
    }
    results
}

async fn probe_all(hops: &Hops, target: &UpstreamTarget, names: &LookedUpNames) -> Vec<Behind> {
    let dialer = Arc::new(Dialer::through(
        DialSettings {
            connect_timeout: target.connect_timeout,
            hedge_after: HedgeAfter::Auto,
            tcp: TcpOptions::default(),
            loopback_congestion: LoopbackCongestion::default(),
        },
        Vec::new(),
        Preconnected::new(
            Default::default(),
            Metrics::default(),
            SpareLimit::default(),
        ),
        hops.clone(),
        Events::new(Log::default()),
        Interference::default(),
    ));
    let mut going = JoinSet::new();
    for (endpoint, hop, to) in targets_of(hops, target, names) {
        let (dialer, health) = (Arc::clone(&dialer), patient(&target.health));
        going.spawn(async move {
            let host = host_header(&endpoint.host, endpoint.port);
            let address = Address::behind(HopTarget {
                hop,
                to: to.clone(),
            });
            let report = probe::through(&health, &dialer, &address, &host).await;
            Behind {
                endpoint,
                to,
                report,
            }
        });
    }
    let mut behind = going.join_all().await;
    behind.sort_by(|a, b| (&a.endpoint.name, &a.to).cmp(&(&b.endpoint.name, &b.to)));
    behind
}

/// What each hop that has not failed is asked to reach.
fn targets_of(
    hops: &Hops,
    target: &UpstreamTarget,
    names: &LookedUpNames,
) -> Vec<(EndpointSpec, HopId, HostPort)> {
    let mut targets = Vec::new();
    for endpoint in &target.endpoints {
        let Some(hop) = endpoint.hop.and_then(|hop| hops.get(hop.id)) else {
            continue;
        };
        if hop.health().status().state == HopState::Down {
            continue;
        }
        let hosts = match endpoint.remote_target() {
            Some(target) => vec![target.to.host],
            None => {
                let addresses = dns_lookup::addresses(names, endpoint).iter();
                addresses.map(ToString::to_string).collect()
            }
        };
        targets.extend(hosts.into_iter().map(|host| {
            let port = endpoint.port;
            (endpoint.clone(), hop.spec().id, HostPort { host, port })
        }));
    }
    targets.truncate(MAX_ENDPOINTS);
    targets
}

/// All checks of all hops and of what is behind them.
pub(super) fn check_all(subject: &DoctorInput, results: &[HopResult]) -> Vec<Check> {
    let mut checks = Vec::new();
    for result in results {
        let target = &subject.targets[result.target];
        let of_hop = result.checks(target);
        checks.extend(of_hop.into_iter().map(|check| check.of(&target.name)));
    }
    let hops = subject.instance.iter().flat_map(|instance| &instance.hops);
    checks.extend(hops.map(check_instance));
    checks
}

/// The upstreams that something behind a hop works for.
pub(super) fn working<'s>(
    subject: &'s DoctorInput,
    results: &'s [HopResult],
) -> impl Iterator<Item = String> + 's {
    let works = |result: &&HopResult| {
        let mut behind = result.behind.iter();
        behind.any(|one| one.report.outcome.is_success())
    };
    let working = results.iter().filter(works);
    working.map(|result| subject.targets[result.target].name.clone())
}

/// The identities that answered.
pub(super) fn reports(results: &[HopResult]) -> impl Iterator<Item = &ProbeReport> {
    let behind = results.iter().flat_map(|result| &result.behind);
    behind.map(|one| &one.report)
}

/// A hop as the running instance sees it.
fn check_instance(hop: &InstanceHop) -> Check {
    let subject = format!("{} (running instance)", shown(&hop.via));
    if hop.state == HopState::Up.as_str() {
        return Check::pass(Stage::Hop, subject, "up").of(&hop.upstream);
    }
    let evidence = evidence(&hop.state, hop.last_error.as_deref(), &hop.last_output);
    ruled_hop(subject, &evidence, &hop.last_output).of(&hop.upstream)
}

fn evidence(state: &str, error: Option<&str>, output: &[String]) -> String {
    let mut evidence = shown(error.unwrap_or(state));
    // The error of a supervised command holds the last line already.
    if let Some(last) = output.last().filter(|last| !evidence.contains(*last)) {
        evidence.push_str("; it said: ");
        evidence.push_str(&shown(last));
    }
    evidence
}

fn ruled_hop(subject: String, evidence: &str, output: &[String]) -> Check {
    let check = Check::ruled(&rules::HOP_DOWN, subject, evidence, &Facts::default());
    match meaning(output) {
        Some(meaning) => check.likeliest(meaning),
        None => check,
    }
}

// === impl Running ===

impl RunningHops {
    fn start(target: &UpstreamTarget) -> Self {
        let (stop, stopped) = watch::channel(false);
        let parts = HopParts {
            upstream: UpstreamName::new(&target.name),
            own: Arc::default(),
            events: Events::new(Log::default()),
            metrics: Metrics::default(),
        };
        let (mut hops, mut broken, mut tasks) = (Vec::new(), Vec::new(), JoinSet::new());
        for spec in &target.hops {
            match Hop::build(spec.clone(), &parts) {
                Ok((hop, supervisor)) => {
                    if let Some(supervisor) = supervisor {
                        tasks.spawn(supervisor.run(stopped.clone()));
                    }
                    let targets = target.endpoints.iter();
                    let ours = targets.filter(|one| one.hop.is_some_and(|own| own.id == spec.id));
                    for known in ours
                        .filter_map(EndpointSpec::remote_target)
                        .take(MAX_ENDPOINTS)
                    {
                        hop.prepare(&known.to);
                    }
                    hops.push(hop);
                }
                Err(why) => broken.push((spec.clone(), why)),
            }
        }
        Self {
            hops: Hops::new(hops),
            broken,
            tasks,
            stop,
        }
    }

    /// Waits until every command that these targets need is ready or has failed.
    async fn ready(&self, targets: &[(EndpointSpec, HopId, HostPort)]) {
        for (_, hop, to) in targets {
            if let Some(hop) = self.hops.get(*hop) {
                hop.prepare(to);
            }
        }
        for (_, hop, _) in targets {
            let Some(hop) = self.hops.get(*hop).filter(|hop| hop.spec().is_supervised()) else {
                continue;
            };
            let mut state = hop.health().watch();
            let _ = state
                .wait_for(|news| news.state != HopState::Starting)
                .await;
        }
    }
}

// === impl HopResult ===

impl HopResult {
    fn checks(&self, target: &UpstreamTarget) -> Vec<Check> {
        let via = self.spec.to_string();
        let status = match &self.seen {
            Ok(status) => status,
            Err(why) => return vec![ruled_hop(via, &shown(why), &[])],
        };
        let answers = |one: &Behind| one.report.outcome.is_success();
        if status.state == HopState::Down || !self.behind.iter().any(answers) && !self.is_up() {
            let state = match status.state {
                HopState::Starting if self.spec.is_supervised() => "not ready",
                HopState::Starting => "no answer",
                HopState::Up | HopState::Down => "down",
            };
            let evidence = evidence(state, status.last_error.as_deref(), &status.last_output);
            let mut checks = vec![ruled_hop(via, &evidence, &status.last_output)];
            let ours = target.endpoints.iter();
            let ours = ours.filter(|one| one.hop.is_some_and(|hop| hop.id == self.spec.id));
            checks.extend(ours.map(|endpoint| {
                Check::skip(
                    Stage::Tcp,
                    endpoint.name.as_str(),
                    "behind a hop that does not work",
                )
            }));
            return checks;
        }
        let mut checks = vec![Check::pass(Stage::Hop, &via, "up")];
        // A candidate that is not there is nothing to report while another endpoint answers.
        let some_answer = self.behind.iter().any(answers);
        for one in &self.behind {
            if one.endpoint.is_candidate() && some_answer && !answers(one) {
                continue;
            }
            checks.extend(self.check_behind(one, &via));
        }
        checks
    }

    fn is_up(&self) -> bool {
        matches!(&self.seen, Ok(status) if status.state == HopState::Up)
    }

    fn check_behind(&self, one: &Behind, via: &str) -> Vec<Check> {
        let label = match one.endpoint.name.as_str() == one.to.host {
            true => one.to.to_string(),
            false => format!("{} {}", one.endpoint.name, one.to),
        };
        let facts = Facts::of_host(&one.endpoint.host, one.endpoint.port).with("via", via);
        let took = one.report.took.as_millis();
        let reached = || Check::pass(Stage::Tcp, &label, format!("reached through {via}"));
        match &one.report.outcome {
            ProbeOutcome::Success { identity } => {
                let seen = format!("an answer in {took} ms");
                let mut checks = vec![reached(), Check::pass(Stage::Http, &label, seen)];
                checks.extend(identity.as_ref().map(|identity| {
                    Check::pass(Stage::Identity, &label, shown(identity.as_str()))
                }));
                checks
            }
            ProbeOutcome::BadAnswer(bad) => {
                let evidence = format!("{}: {}", bad.code, shown(&bad.detail));
                let rule = &rules::HOP_ANSWER;
                vec![reached(), Check::ruled(rule, label, &evidence, &facts)]
            }
            other => {
                let detail = other.detail().map(shown);
                let evidence = match detail {
                    Some(detail) => format!("{}: {detail}", other.code()),
                    None => format!("{} after {took} ms", other.code()),
                };
                vec![Check::ruled(&rules::HOP_TARGET, label, &evidence, &facts)]
            }
        }
    }
}
