//! Explicit endpoints: read, named by the contract's rule, checked against each other.

use std::collections::HashSet;

use super::input::{Explicit, ResolvedTarget, TargetError, TargetPart};
use crate::addr::aws::{peered_name, region_of, zone_of};
use crate::addr::{HostPort, NameError, NameKind, check_name};
use crate::types::{EndpointName, Zone};
use crate::upstream::endpoint::{EndpointSpec, Role};

/// An explicit endpoint before it has its name.
#[derive(Debug)]
struct Draft {
    place: HostPort,
    zone: Option<String>,
    name: Option<String>,
}

/// The resolved of explicit endpoints; what is wrong with them goes to `problems`.
pub(super) fn resolve(given: &[Explicit], problems: &mut Vec<TargetError>) -> ResolvedTarget {
    let mut drafts = Vec::new();
    let mut given_at = Vec::new();
    for (index, explicit) in given.iter().enumerate() {
        match Draft::read(explicit) {
            Ok(draft) => {
                drafts.push(draft);
                given_at.push(index);
            }
            Err(NameError(what)) => problems.push(TargetError {
                part: TargetPart::Endpoint(index),
                what,
            }),
        }
    }
    let region = drafts.iter().find_map(|draft| region_of(&draft.place.host));
    let system = drafts
        .iter()
        .find_map(|draft| peered_name(&draft.place.host.to_ascii_lowercase()))
        .map(|name| name.system);
    let specs = name_all(drafts);
    let mut seen = HashSet::new();
    for (index, spec) in specs.iter().enumerate() {
        let part = TargetPart::Endpoint(given_at[index]);
        if !seen.insert((spec.host.to_ascii_lowercase(), spec.port.to_string())) {
            let what = format!("`{}:{}` is given twice", spec.host, spec.port);
            problems.push(TargetError { part, what });
        } else if specs[..index].iter().any(|other| other.name == spec.name) {
            let what = format!(
                "two endpoints are named `{}`; give one another ?name=",
                spec.name
            );
            problems.push(TargetError { part, what });
        }
    }
    ResolvedTarget {
        endpoints: specs,
        system,
        region,
        ..ResolvedTarget::default()
    }
}

/// Names by the contract's rule: the given one, else the zone when it is known and unique, else the host, with the
/// port where two share a host.
fn name_all(drafts: Vec<Draft>) -> Vec<EndpointSpec> {
    let zones: Vec<Option<String>> = drafts.iter().map(|draft| draft.zone.clone()).collect();
    let hosts: Vec<String> = drafts
        .iter()
        .map(|draft| draft.place.host.clone())
        .collect();
    let spec = |draft: Draft| {
        let HostPort { host, port } = draft.place;
        let unique = |zone: &String| zones.iter().flatten().filter(|z| *z == zone).count() == 1;
        let shared = hosts.iter().filter(|other| **other == host).count() > 1;
        let name = match (draft.name, draft.zone.clone().filter(unique)) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) if shared && host.contains(':') => format!("[{host}]:{port}"),
            (None, None) if shared => format!("{host}:{port}"),
            (None, None) => host.clone(),
        };
        EndpointSpec {
            name: EndpointName::new(name),
            host,
            port,
            zone: draft.zone.map(Zone::new),
            role: Role::Configured,
        }
    };
    drafts.into_iter().map(spec).collect()
}

fn wrong_word(what: &str, text: &str) -> Option<NameError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (text.is_empty() || !text.chars().all(plain)).then(|| {
        NameError(format!(
            "`{}` is no {what}: letters, digits and -_.: only",
            text.escape_debug()
        ))
    })
}

// === impl Draft ===

impl Draft {
    fn read(explicit: &Explicit) -> Result<Self, NameError> {
        let place = check_name(NameKind::Endpoint, &explicit.address)?;
        for (what, text) in [("zone", &explicit.zone), ("name", &explicit.name)] {
            if let Some(error) = text.as_deref().and_then(|text| wrong_word(what, text)) {
                return Err(error);
            }
        }
        let zone = explicit.zone.clone().or_else(|| zone_of(&place.host));
        Ok(Self {
            place,
            zone,
            name: explicit.name.clone(),
        })
    }
}
