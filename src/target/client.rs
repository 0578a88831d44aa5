//! The target in an application's client map.

use std::net::IpAddr;

use super::derived;
use super::explicit;
use super::input::{Explicit, ResolvedTarget, Target, TargetError, TargetPart};
use crate::addr::aws::{peered_name, vpce_name, wrong_region, wrong_system};
use crate::addr::{HostPort, NameError, NameKind, PORT, check_name};
use crate::edn::ClientMap;

/// What a client map leads to. Flags (`target`) win over its `:system` and `:region`.
pub(super) fn resolve(map: &ClientMap, target: &Target<'_>) -> Result<ResolvedTarget, TargetError> {
    wrong_kind(map)?;
    let system = target.system.or(map.system.as_deref());
    let region = target.region.or(map.region.as_deref());
    if let Some(what) = system.and_then(wrong_system) {
        return wrong(format!(":system: {what}"));
    }
    if let Some(what) = region.and_then(wrong_region) {
        return wrong(format!(":region: {what}"));
    }
    let mut resolved = match place(map)? {
        Some(place) => from_endpoint(&place)?,
        None => match (system, region) {
            (Some(system), Some(region)) => derived::peering(system, region, PORT),
            _ => return nowhere(map),
        },
    };
    resolved.system = system.map(str::to_owned).or(resolved.system);
    resolved.region = region.map(str::to_owned).or(resolved.region);
    resolved.query_group.clone_from(&map.query_group);
    Ok(resolved)
}

fn wrong<T>(what: impl Into<String>) -> Result<T, TargetError> {
    Err(TargetError {
        part: TargetPart::FromClient,
        what: what.into(),
    })
}

fn wrong_kind(map: &ClientMap) -> Result<(), TargetError> {
    match map.server_type.as_deref() {
        Some(kind @ ("datomic-local" | "dev-local")) => wrong(format!(
            ":server-type :{kind} runs inside the application; there is nothing to connect to"
        )),
        _ => Ok(()),
    }
}

fn nowhere(map: &ClientMap) -> Result<ResolvedTarget, TargetError> {
    wrong(match &map.endpoint {
        Some(endpoint) => format!(
            ":endpoint {endpoint:?} is this machine, and :system and :region are not both there to find the system by"
        ),
        None => "there is neither an :endpoint nor both :system and :region".to_owned(),
    })
}

/// The host and port of `:endpoint`; `None` where there is none or it is this machine.
fn place(map: &ClientMap) -> Result<Option<HostPort>, TargetError> {
    let Some(endpoint) = &map.endpoint else {
        return Ok(None);
    };
    let bare = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    // Client maps come without a port too; Datomic Cloud has one only.
    let named = match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{bare}]:{PORT}"),
        _ if bare.contains(':') || bare.is_empty() => bare.to_owned(),
        _ => format!("{bare}:{PORT}"),
    };
    let place = check_name(NameKind::Endpoint, &named)
        .or_else(|NameError(what)| wrong(format!(":endpoint: {what}")))?;
    let local = match place.host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => place.host.eq_ignore_ascii_case("localhost"),
    };
    Ok((!local).then_some(place))
}

fn from_endpoint(place: &HostPort) -> Result<ResolvedTarget, TargetError> {
    let HostPort { host, port } = place;
    let lower = host.to_ascii_lowercase();
    if vpce_name(&lower).is_some() {
        return derived::vpce(&format!("{host}:{port}")).or_else(|NameError(what)| wrong(what));
    }
    if let Some(name) = peered_name(&lower) {
        return Ok(derived::peering(&name.system, &name.region, *port));
    }
    let address = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let explicit = Explicit {
        address,
        ..Explicit::default()
    };
    let mut problems = Vec::new();
    let resolved = explicit::resolve(&[explicit], &mut problems);
    match problems.pop() {
        Some(problem) => wrong(problem.what),
        None => Ok(resolved),
    }
}
