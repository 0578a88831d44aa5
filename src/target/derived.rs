//! Targets whose names follow from a rule of AWS or Datomic Cloud: a VPC endpoint, a network load balancer, peering.

use super::ResolvedTarget;
use crate::addr::aws::{EntryName, ZONE_LETTERS};
use crate::addr::{NameError, datomic_releases, parse_nlb, parse_vpce};
use crate::types::{EndpointName, Zone};
use crate::upstream::endpoint::{EndpointSpec, Role};

/// A VPC endpoint: its regional name, and a candidate for every zone.
pub(super) fn vpce(text: &str) -> Result<ResolvedTarget, NameError> {
    let (parsed, name) = parse_vpce(text)?;
    let zonal = |zone: &str| name.zonal(zone);
    let mut resolved = with_zones(&name.regional(), parsed.port, &name.region, zonal);
    resolved.notes = vec![datomic_releases::VPCE_NOTE.to_owned()];
    resolved
        .notes
        .extend(name.zone.map(|_| zonal_note(&parsed.host)));
    Ok(resolved)
}

/// A network load balancer of the user's own: its regional name, and a candidate for every zone.
pub(super) fn nlb(text: &str) -> Result<ResolvedTarget, NameError> {
    let (parsed, name) = parse_nlb(text)?;
    let zonal = |zone: &str| name.zonal(zone);
    let mut resolved = with_zones(&name.regional(), parsed.port, &name.region, zonal);
    resolved
        .notes
        .extend(name.zone.as_ref().map(|_| zonal_note(&parsed.host)));
    Ok(resolved)
}

fn zonal_note(host: &str) -> String {
    format!(
        "`{host}` is the name of one zone; the other zones are used too (one zone alone: --endpoint)"
    )
}

fn with_zones(
    regional: &str,
    port: u16,
    region: &str,
    zonal: impl Fn(&str) -> String,
) -> ResolvedTarget {
    let spec = |name: &str, host, zone: Option<&str>, role| EndpointSpec {
        name: EndpointName::new(name),
        host,
        port,
        zone: zone.map(Zone::new),
        role,
        hop: None,
    };
    let mut endpoints = vec![spec(regional, regional.to_owned(), None, Role::Regional)];
    for zone in ZONE_LETTERS.map(|letter| format!("{region}{letter}")) {
        endpoints.push(spec(&zone, zonal(&zone), Some(&zone), Role::Zonal));
    }
    ResolvedTarget {
        endpoints,
        region: Some(region.to_owned()),
        ..ResolvedTarget::default()
    }
}

/// A peered system, or one of its query groups: the current entry name, then the older one.
pub(super) fn peering(group: &str, region: &str, port: u16) -> ResolvedTarget {
    let spec = |(host, role): (String, Role)| EndpointSpec {
        name: EndpointName::new(&host),
        host,
        port,
        zone: None,
        role,
        hop: None,
    };
    ResolvedTarget {
        endpoints: EntryName::both(group, region)
            .into_iter()
            .zip([Role::Peered, Role::PeeredOld])
            .map(spec)
            .collect(),
        region: Some(region.to_owned()),
        notes: vec![datomic_releases::PEERING_NOTE.to_owned()],
        ..ResolvedTarget::default()
    }
}
