//! Stages `resolver` and `names`: what the DNS servers' answers mean for each endpoint, and for all of them together.
//! Pure, but for the way to a server, which is asked of the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::dns_lookup::{
    LookedUpName, LookedUpNames, WITHIN, addresses, in_use, key, sibling, system_names,
};
use super::input::{DoctorInput, UpstreamTarget};
use super::ip_route;
use super::report::Check;
use super::rules;
use super::types::{Facts, Stage, is_private, shown};
use crate::addr::aws;
use crate::dns::Responder;
use crate::types::Zone;
use crate::upstream::endpoint::{EndpointSpec, Role};
use crate::upstream::input::{AnswerSource, LookupError};

/// Stage `resolver`: one line a server.
pub(super) fn check_servers(names: &LookedUpNames) -> Vec<Check> {
    let asked: Vec<&LookedUpName> = names
        .values()
        .filter(|name| name.source == AnswerSource::Dns)
        .collect();
    if asked.is_empty() {
        return vec![Check::skip(
            Stage::Resolver,
            "dns",
            "no name needs a DNS server",
        )];
    }
    if let Some(why) = asked.iter().find_map(|name| name.no_resolver.as_deref()) {
        let facts = Facts::of_host(&asked[0].host, 53);
        return vec![Check::ruled(
            &rules::RESOLVER_NONE,
            "dns",
            &shown(why),
            &facts,
        )];
    }
    let mut servers: Vec<Responder> = Vec::new();
    for report in asked.iter().flat_map(|name| &name.servers) {
        if !servers.contains(&report.server) {
            servers.push(report.server);
        }
    }
    if servers.is_empty() {
        let facts = Facts::of_host(&asked[0].host, 53);
        let evidence = format!("no answer within {}s", WITHIN.as_secs());
        return vec![Check::ruled(
            &rules::RESOLVER_ALL_BAD,
            "dns",
            &evidence,
            &facts,
        )];
    }
    let replies = |server: Responder| {
        let reports = asked
            .iter()
            .flat_map(|name| &name.servers)
            .filter(move |report| report.server == server);
        reports.flat_map(|report| &report.replies)
    };
    let sensible =
        |server| replies(server).any(|(_, reply)| is_sensible(&reply.result.as_ref().map(|_| ())));
    let any_good = servers.iter().any(|server| sensible(*server));
    let judge = |server: Responder| {
        let subject = server.to_string();
        let from = match server {
            Responder::Server(address) => format!(", asked {}", ip_route::describe(address)),
            Responder::System => String::new(),
        };
        if sensible(server) {
            let slowest = replies(server)
                .map(|(_, reply)| reply.took)
                .max()
                .unwrap_or_default();
            let evidence = format!("answers, at most {} ms{from}", slowest.as_millis());
            return Check::pass(Stage::Resolver, subject, evidence);
        }
        let worst = replies(server).find_map(|(_, reply)| reply.result.as_ref().err());
        let seen = worst.map_or_else(String::new, |why| {
            format!("{}{from}", shown(&why.to_string()))
        });
        let facts = Facts::of_host(&asked[0].host, 53).with("server", host_of(server));
        let rule = if any_good {
            &rules::RESOLVER_ONE_BAD
        } else {
            &rules::RESOLVER_ALL_BAD
        };
        Check::ruled(rule, subject, &seen, &facts)
    };
    servers.into_iter().map(judge).collect()
}

fn host_of(server: Responder) -> String {
    match server {
        Responder::Server(address) => address.ip().to_string(),
        Responder::System => server.to_string(),
    }
}

fn is_sensible<T>(result: &Result<T, &LookupError>) -> bool {
    matches!(
        result,
        Ok(_) | Err(LookupError::NoData | LookupError::NxDomain)
    )
}

/// Stage `names`: one line an endpoint, one for the candidates of a VPC endpoint, and what is odd about them together.
pub(super) fn check_names(subject: &DoctorInput, names: &LookedUpNames) -> Vec<Check> {
    let mut checks = Vec::new();
    for target in &subject.targets {
        let (remote, ours): (Vec<_>, Vec<_>) = target
            .endpoints
            .iter()
            .partition(|endpoint| endpoint.remote_target().is_some());
        for endpoint in remote {
            let check = Check::skip(Stage::Names, &endpoint.host, "resolved by the hop");
            checks.push(check.of(&target.name));
        }
        if ours.is_empty() {
            continue;
        }
        for endpoint in ours.into_iter().filter(|e| e.role != Role::Zonal) {
            checks.extend(check_name(target, endpoint, names));
        }
        checks.extend(check_zones(target, names));
        checks.extend(check_number(target, names));
    }
    checks
}

fn check_name(
    target: &UpstreamTarget,
    endpoint: &EndpointSpec,
    names: &LookedUpNames,
) -> Vec<Check> {
    let facts = Facts::of_host(&endpoint.host, endpoint.port)
        .or("system", target.system.as_deref())
        .or("region", target.region.as_deref());
    let label = endpoint.host.clone();
    let Some(name) = names.get(&key(&endpoint.host)) else {
        return vec![Check::skip(Stage::Names, label, "the lookup did not end").of(&target.name)];
    };
    let other = sibling(&key(&endpoint.host))
        .filter(|other| names.get(other).is_some_and(|name| name.result.is_ok()));
    let is_pair = target.endpoints.iter().any(|e| Some(key(&e.host)) == other);
    let mut checks = Vec::new();
    match &name.result {
        Ok(ips) => {
            let unused = endpoint.role == Role::PeeredOld && is_pair;
            let list = ips
                .iter()
                .map(IpAddr::to_string)
                .collect::<Vec<_>>()
                .join(" ");
            checks.push(match name.source {
                _ if unused => Check::skip(
                    Stage::Names,
                    label,
                    format!("{list}; not used while entry-http.… answers"),
                ),
                AnswerSource::Literal => {
                    Check::pass(Stage::Names, label, "an address, needs no DNS")
                }
                AnswerSource::Hosts => {
                    Check::pass(Stage::Names, label, format!("{list}, from the hosts file"))
                }
                AnswerSource::Dns => check_ips(&endpoint.host, ips, &list, &facts),
            });
            if let Some(evidence) = name.disagreement() {
                checks.push(Check::ruled(
                    &rules::NAME_DISAGREE,
                    &endpoint.host,
                    &evidence,
                    &facts,
                ));
            }
        }
        // Of the two peered names one is enough.
        Err(why) if is_pair && matches!(why, LookupError::NxDomain | LookupError::NoData) => {
            let evidence = format!("{why}; {} answers", other.as_deref().unwrap_or("the other"));
            checks.push(Check::skip(Stage::Names, label, evidence));
        }
        Err(_) if endpoint.role == Role::PeeredOld => {
            // The line of entry-http. says it for both.
            checks.push(Check::skip(Stage::Names, label, "does not answer either"));
        }
        Err(why) => {
            let system_lives = system_names(target)
                .iter()
                .any(|host| names.get(host).is_some_and(|name| name.result.is_ok()));
            checks.push(match why {
                LookupError::NxDomain if system_lives && other.is_none() => Check::ruled(
                    &rules::NAME_GROUP_MISSING,
                    &endpoint.host,
                    &shown(&why.to_string()),
                    &facts,
                ),
                _ => check_missing(name, why, other, &facts),
            });
        }
    }
    checks
        .into_iter()
        .map(|check| check.of(&target.name))
        .collect()
}

fn check_ips(host: &str, ips: &[IpAddr], list: &str, facts: &Facts) -> Check {
    let private = ips.iter().filter(|ip| is_private(**ip)).count();
    if private == ips.len() {
        Check::pass(Stage::Names, host, list)
    } else if private == 0 {
        Check::ruled(&rules::NAME_PUBLIC, host, list, facts)
    } else {
        Check::ruled(&rules::NAME_MIXED, host, list, facts)
    }
}

fn check_missing(
    name: &LookedUpName,
    why: &LookupError,
    other: Option<String>,
    facts: &Facts,
) -> Check {
    let host = &name.host;
    let seen = shown(&why.to_string());
    if let Some(longer) = &name.search {
        let facts = facts.clone().with("other", longer.as_str());
        return Check::ruled(
            &rules::NAME_SEARCH_ONLY,
            host,
            &format!("{seen}; {longer} exists"),
            &facts,
        );
    }
    let peered = aws::entry_name(host);
    let rule = match why {
        LookupError::NxDomain | LookupError::NoData if other.is_some() => {
            let is_http = peered.is_some_and(|name| name.http);
            let rule = if is_http {
                &rules::NAME_HTTP_IS_ENTRY
            } else {
                &rules::NAME_ENTRY_IS_HTTP
            };
            let other = other.unwrap_or_default();
            let facts = facts.clone().with("other", other.as_str());
            return Check::ruled(rule, host, &format!("{seen}; {other} exists"), &facts);
        }
        LookupError::NxDomain if peered.is_some() => &rules::NAME_PEERED_MISSING,
        LookupError::NxDomain if aws::vpce_name(host).is_some() => &rules::NAME_VPCE_MISSING,
        LookupError::NxDomain => &rules::NAME_MISSING,
        LookupError::NoData => &rules::NAME_EMPTY,
        LookupError::OnlyRefused(_) => &rules::NAME_LOCAL_ONLY,
        _ => &rules::NAME_NO_ANSWER,
    };
    Check::ruled(rule, host, &seen, facts)
}

/// The zones of a VPC endpoint: those that do not answer are no fault, none at all is odd.
fn check_zones(target: &UpstreamTarget, names: &LookedUpNames) -> Option<Check> {
    let candidates: Vec<&EndpointSpec> = target
        .endpoints
        .iter()
        .filter(|e| e.role == Role::Zonal)
        .collect();
    let regional = target.endpoints.iter().find(|e| e.role == Role::Regional)?;
    if candidates.is_empty() || addresses(names, regional).is_empty() {
        return None;
    }
    let zones: Vec<&str> = candidates
        .iter()
        .filter(|e| !addresses(names, e).is_empty())
        .filter_map(|e| e.zone.as_ref().map(Zone::as_str))
        .collect();
    let facts = Facts::of_host(&regional.host, regional.port);
    Some(match zones.is_empty() {
        true => Check::ruled(
            &rules::NAME_ZONES_MISSING,
            &target.name,
            &format!("{} tried", candidates.len()),
            &facts,
        ),
        false => Check::pass(
            Stage::Names,
            &target.name,
            format!("zones with an endpoint: {}", zones.join(" ")),
        ),
    })
    .map(|check| check.of(&target.name))
}

/// One address only.
fn check_number(target: &UpstreamTarget, names: &LookedUpNames) -> Option<Check> {
    let used = in_use(names, target);
    let sockets: BTreeSet<SocketAddr> = used
        .iter()
        .flat_map(|e| {
            addresses(names, e)
                .iter()
                .map(|ip| SocketAddr::new(*ip, e.port))
        })
        .collect();
    let only = match sockets.iter().collect::<Vec<_>>()[..] {
        [only] => only,
        _ => return None,
    };
    let first = used.first()?;
    let facts = Facts::of_host(&first.host, first.port).or("region", target.region.as_deref());
    let mut zones: Vec<&str> = used
        .iter()
        .filter_map(|e| e.zone.as_ref().map(Zone::as_str))
        .collect();
    zones.dedup();
    let check =
        if zones.len() > 1 || used.len() > 1 && used.iter().all(|e| e.role == Role::Configured) {
            let evidence = format!("{} endpoints, all at {only}", used.len());
            Check::ruled(&rules::NAME_SAME_ADDRESS, &target.name, &evidence, &facts)
        } else {
            let zonal = aws::zone_of(&first.host)
                .map(|zone| format!(", {} is the name of zone {zone} alone", first.host));
            let evidence = format!("{only}{}", zonal.unwrap_or_default());
            Check::ruled(&rules::NAME_ONE_ADDRESS, &target.name, &evidence, &facts)
        };
    Some(check.of(&target.name))
}
