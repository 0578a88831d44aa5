//! Explicit endpoints: parsed, named, and checked against each other.

use std::collections::BTreeMap;

use super::{EndpointSettings, ResolvedTarget, TargetError};
use crate::addr::aws::{entry_name, region_of, zone_of};
use crate::addr::{self, HTTP_DIRECT_PORT, HostPort, parse_endpoint};
use crate::types::{EndpointName, Zone};
use crate::upstream::endpoint::{EndpointSpec, Role};

/// The endpoints; what is wrong with them goes to `errors`.
pub(super) fn resolve(given: &[EndpointSettings], errors: &mut Vec<TargetError>) -> ResolvedTarget {
    let mut resolved = ResolvedTarget::default();
    let mut parsed = Vec::new();
    let mut addresses: BTreeMap<(String, u16), usize> = BTreeMap::new();
    for (index, endpoint) in given.iter().enumerate() {
        let key = format!("endpoint[{index}].address");
        match parse_endpoint(&endpoint.address) {
            Err(error) => {
                let shown = endpoint.address.escape_debug();
                errors.push(TargetError::new(
                    key,
                    format!("endpoint `{shown}`: {error}"),
                ));
            }
            Ok(address) => {
                let lower = (address.host.to_ascii_lowercase(), address.port);
                if let Some(first) = addresses.get(&lower) {
                    let what = format!("endpoint {} is there twice", endpoint.address);
                    let first = format!("endpoint[{first}].address");
                    errors.push(TargetError::new(key, what).first(first));
                } else {
                    addresses.insert(lower, index);
                }
                if let Some(odd) = addr::oddity(&address.host) {
                    let what = format!("endpoint {} looks odd: {odd}", endpoint.address);
                    let key = format!("endpoint[{index}].address");
                    resolved.warnings.push(TargetError::new(key, what));
                }
                parsed.push((index, endpoint, address));
            }
        }
        for (key, label) in [
            ("name", endpoint.name.as_ref().map(EndpointName::as_str)),
            ("zone", endpoint.zone.as_ref().map(Zone::as_str)),
        ] {
            if let Some(Err(why)) = label.map(crate::types::check_label) {
                errors.push(TargetError::new(format!("endpoint[{index}].{key}"), why));
            }
        }
    }
    let lower = |host: &str| host.to_ascii_lowercase();
    let hosts = || parsed.iter().map(|(.., address)| lower(&address.host));
    resolved.region = hosts().find_map(|host| region_of(&host));
    resolved.system = hosts()
        .find_map(|host| entry_name(&host))
        .map(|name| name.group);
    let ports = parsed.iter().map(|(.., address)| address.port);
    if ports.clone().any(|port| port == HTTP_DIRECT_PORT) {
        resolved.notes.push(
            "port 8184 is Datomic's HTTP direct, for web services of your own ions; Datomic clients connect to \
             port 8182, and a probe of kind datomic is not answered on 8184"
                .to_owned(),
        );
    }
    let named: Vec<(usize, EndpointSpec)> = name_all(parsed);
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, spec) in &named {
        if let Some(first) = names.get(spec.name.as_str()) {
            let what = format!("two endpoints are called `{}`", spec.name);
            let key = |index: &usize| match given[*index].name {
                Some(_) => format!("endpoint[{index}].name"),
                None => format!("endpoint[{index}].address"),
            };
            let error = TargetError::new(key(index), what).first(key(first));
            // Two that are the same endpoint were said to be so.
            if !errors
                .iter()
                .any(|error| error.key == format!("endpoint[{index}].address"))
            {
                errors.push(error.help("give one of them another name: HOST:PORT?name=NAME"));
            }
        } else {
            names.insert(spec.name.as_str(), *index);
        }
    }
    resolved.endpoints = named.into_iter().map(|(_, spec)| spec).collect();
    resolved
}

/// Names the endpoints: by the given name, else by the zone where it is known and unique, else by the host, with its
/// port where two share a host.
fn name_all(parsed: Vec<(usize, &EndpointSettings, HostPort)>) -> Vec<(usize, EndpointSpec)> {
    let zone = |endpoint: &EndpointSettings, address: &HostPort| {
        let derived = || zone_of(&address.host.to_ascii_lowercase()).map(Zone::new);
        endpoint.zone.clone().or_else(derived)
    };
    let zones: Vec<Option<Zone>> = parsed
        .iter()
        .map(|(_, endpoint, address)| zone(endpoint, address))
        .collect();
    let hosts: Vec<String> = parsed
        .iter()
        .map(|(.., address)| address.host.clone())
        .collect();
    let spec = |((index, endpoint, address), zone): (
        (usize, &EndpointSettings, HostPort),
        &Option<Zone>,
    )| {
        let HostPort { host, port } = address;
        let unique = |zone: &&Zone| zones.iter().flatten().filter(|z| z == zone).count() == 1;
        let shared = hosts.iter().filter(|other| **other == host).count() > 1;
        let name = match (&endpoint.name, zone.as_ref().filter(unique)) {
            (Some(name), _) => name.clone(),
            (None, Some(zone)) => EndpointName::new(zone.as_str()),
            (None, None) if shared && host.contains(':') => {
                EndpointName::new(format!("[{host}]:{port}"))
            }
            (None, None) if shared => EndpointName::new(format!("{host}:{port}")),
            (None, None) => EndpointName::new(&host),
        };
        let spec = EndpointSpec {
            name,
            host,
            port,
            zone: zone.clone(),
            role: Role::Configured,
            hop: None,
        };
        (index, spec)
    };
    parsed.into_iter().zip(&zones).map(spec).collect()
}
