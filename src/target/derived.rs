//! Targets whose names follow from a rule of AWS or Datomic Cloud: a VPC endpoint, peering.

use super::input::ResolvedTarget;
use crate::addr::aws::{LETTERS, PeeredName, vpce_name};
use crate::addr::datomic_releases;
use crate::addr::{HostPort, NameError, NameKind, check_name};
use crate::types::{EndpointName, Zone};
use crate::upstream::endpoint::{EndpointSpec, Role};

/// A VPC endpoint: its regional name, and a candidate for every zone.
pub(super) fn vpce(text: &str) -> Result<ResolvedTarget, NameError> {
    let HostPort { host, port } = check_name(NameKind::Vpce, text)?;
    let Some(name) = vpce_name(&host.to_ascii_lowercase()) else {
        return Err(NameError(format!(
            "`{host}` is not a VPC endpoint's DNS name"
        )));
    };
    let mut notes = vec![datomic_releases::VPCE_NOTE.to_owned()];
    let regional = if name.zone.is_some() {
        notes.push(format!(
            "`{host}` is the name of one zone; the endpoint's other zones are used too (one zone alone: --endpoint)"
        ));
        name.regional()
    } else {
        host
    };
    let spec = |name: String, host, zone: Option<&String>, role| EndpointSpec {
        name: EndpointName::new(name),
        host,
        port,
        zone: zone.map(Zone::new),
        role,
    };
    let mut endpoints = vec![spec(regional.clone(), regional, None, Role::Regional)];
    for zone in LETTERS.map(|letter| format!("{}{letter}", name.region)) {
        let host = name.zonal(&zone);
        endpoints.push(spec(zone.clone(), host, Some(&zone), Role::Zonal));
    }
    Ok(ResolvedTarget {
        endpoints,
        region: Some(name.region),
        notes,
        ..ResolvedTarget::default()
    })
}

/// A peered system: the current entry name, then the older one.
pub(super) fn peering(system: &str, region: &str, port: u16) -> ResolvedTarget {
    let names = PeeredName::both(system, region);
    let spec = |(host, role): (String, Role)| EndpointSpec {
        name: EndpointName::new(&host),
        host,
        port,
        zone: None,
        role,
    };
    ResolvedTarget {
        endpoints: names
            .into_iter()
            .zip([Role::Peered, Role::PeeredOld])
            .map(spec)
            .collect(),
        system: Some(system.to_owned()),
        region: Some(region.to_owned()),
        query_group: None,
        notes: vec![datomic_releases::PEERING_NOTE.to_owned()],
    }
}
