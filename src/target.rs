//! From what somebody typed to the endpoints of an upstream: explicit ones, a VPC endpoint with its zones, peering, or
//! an application's client map.
//!
//! Pure: resolves nothing, connects nowhere; the client map comes in as read. What names look like is `place`'s
//! knowledge. The derived zonal names and the second peering name are
//! candidates (`Role::Zonal`, `Role::PeeredOld`); whether they answer is found out by others.

mod client;
mod derived;
mod explicit;
mod input;

use crate::addr::aws::{wrong_region, wrong_system};
use crate::addr::{NameError, PORT};
use crate::edn::ClientMap;
use crate::settings::UpstreamSettings;

pub use input::{Explicit, ResolvedTarget, Target, TargetError, TargetPart};

/// The endpoints of an upstream as set. `client` is the map in its `from_client`, which the caller has read.
pub fn of(
    settings: &UpstreamSettings,
    client: Option<&ClientMap>,
) -> Result<ResolvedTarget, Vec<TargetError>> {
    let explicit = |endpoint: &crate::settings::EndpointSettings| Explicit {
        address: endpoint.address.clone(),
        zone: endpoint.zone.as_ref().map(|zone| zone.as_str().to_owned()),
        name: endpoint.name.as_ref().map(|name| name.as_str().to_owned()),
    };
    let endpoints: Vec<Explicit> = settings.endpoints.iter().map(explicit).collect();
    resolve(&Target {
        endpoints: &endpoints,
        vpce: settings.vpce.as_deref(),
        peering: settings.peering,
        system: settings.system.as_deref(),
        region: settings.region.as_deref(),
        from_client: client,
    })
}

/// The endpoints of a target, or everything that is wrong with it.
pub fn resolve(target: &Target<'_>) -> Result<ResolvedTarget, Vec<TargetError>> {
    let mut problems = Vec::new();
    check_facts(target, &mut problems);
    let mut resolved = match one_of(target) {
        Err(problem) => {
            problems.push(problem);
            ResolvedTarget::default()
        }
        Ok(()) => resolve_one(target, &mut problems),
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    resolved.system = target.system.map(str::to_owned).or(resolved.system);
    resolved.region = target.region.map(str::to_owned).or(resolved.region);
    Ok(resolved)
}

fn resolve_one(target: &Target<'_>, problems: &mut Vec<TargetError>) -> ResolvedTarget {
    if let Some(map) = target.from_client {
        client::resolve(map, target).unwrap_or_else(|problem| {
            problems.push(problem);
            ResolvedTarget::default()
        })
    } else if let Some(vpce) = target.vpce {
        derived::vpce(vpce).unwrap_or_else(|NameError(what)| {
            let part = TargetPart::Vpce;
            problems.push(TargetError { part, what });
            ResolvedTarget::default()
        })
    } else if target.peering {
        // What is missing was said by the check of the facts.
        let (system, region) = (target.system, target.region);
        derived::peering(system.unwrap_or_default(), region.unwrap_or_default(), PORT)
    } else {
        explicit::resolve(target.endpoints, problems)
    }
}

fn one_of(target: &Target<'_>) -> Result<(), TargetError> {
    let asked: Vec<&str> = [
        (!target.endpoints.is_empty(), "--endpoint"),
        (target.vpce.is_some(), "--vpce"),
        (target.peering, "--peering"),
        (target.from_client.is_some(), "--from-client"),
    ]
    .into_iter()
    .filter_map(|(given, name)| given.then_some(name))
    .collect();
    let what = match asked[..] {
        [_] => return Ok(()),
        [] => "no target: give --endpoint HOST:PORT, --vpce NAME, --peering --system S --region R, or --from-client \
               FILE.edn"
            .to_owned(),
        [..] => format!("{} exclude each other; give one", asked.join(" and ")),
    };
    let part = TargetPart::Target;
    Err(TargetError { part, what })
}

fn check_facts(target: &Target<'_>, problems: &mut Vec<TargetError>) {
    let mut wrong = |part, what: String| problems.push(TargetError { part, what });
    match target.system {
        None if target.peering => wrong(
            TargetPart::System,
            "--peering needs --system, the Datomic system's name".to_owned(),
        ),
        Some(system) => {
            if let Some(what) = wrong_system(system) {
                wrong(TargetPart::System, what);
            }
        }
        None => {}
    }
    match target.region {
        None if target.peering => wrong(
            TargetPart::Region,
            "--peering needs --region, such as us-east-1".to_owned(),
        ),
        Some(region) => {
            if let Some(what) = wrong_region(region) {
                wrong(TargetPart::Region, what);
            }
        }
        None => {}
    }
}

#[cfg(test)]
mod tests;
