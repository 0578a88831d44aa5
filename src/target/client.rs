//! The target in the client map of an application.

use std::net::IpAddr;

use super::{EndpointSettings, ResolvedTarget, Target, derived, explicit};
use crate::addr::aws::{entry_name, invalid_region, invalid_system, nlb_name, vpce_name};
use crate::addr::{HostPort, NameError, PORT, parse_endpoint};
use crate::edn::{ClientMap, EdnError, MapValue};
use crate::target::TargetError;

/// What is wrong with a client map.
#[derive(Debug)]
pub(super) enum Error {
    /// At a place of the file.
    At(EdnError),
    What(String),
}

/// The endpoints that a client map leads to. `--system`, `--region` and `--query-group` win over the map's values.
pub(super) fn resolve(map: &ClientMap, target: &Target<'_>) -> Result<ResolvedTarget, Error> {
    check_server_type(map).map_err(Error::What)?;
    let system = Wanted::of(target.system, &map.system, ":system", "--system SYSTEM");
    let region = Wanted::of(target.region, &map.region, ":region", "--region REGION");
    let group = Wanted::of(
        target.query_group,
        &map.query_group,
        ":query-group",
        "--query-group GROUP",
    );
    system.check(invalid_system)?;
    region.check(invalid_region)?;
    group.check(invalid_system)?;
    let derivable = system.text.is_some() && region.text.is_some();
    let mut warnings = Vec::new();
    let endpoint = match &map.endpoint {
        Some(Err(error)) if derivable => {
            let what = format!("{error}; the entry names of :system and :region are used instead");
            warnings.push(TargetError::new("from_client", what));
            None
        }
        Some(Err(error)) => {
            let mut error = error.clone();
            error.what += "; give --system SYSTEM and --region REGION, or --endpoint HOST:PORT instead of the file";
            return Err(Error::At(error));
        }
        Some(Ok(text)) => endpoint(text)?,
        None => None,
    };
    let mut resolved = match endpoint {
        Some(address) => from_endpoint(&address)?,
        None => {
            let (Some(system), Some(region)) = (system.needed()?, region.needed()?) else {
                return nowhere(map);
            };
            derived::peering(group.needed()?.unwrap_or(system), region, PORT)
        }
    };
    let known = |wanted: &Wanted<'_>| wanted.text.map(str::to_owned);
    resolved.region = known(&region).or(resolved.region);
    resolved.query_group = known(&group).or(resolved.query_group);
    // An entry name contains the name of a group; it is the system's unless the map names another system.
    let entry = resolved
        .endpoints
        .first()
        .and_then(|spec| entry_name(&spec.host.to_ascii_lowercase()));
    match (entry, known(&system)) {
        (Some(name), Some(system)) if !name.group.eq_ignore_ascii_case(&system) => {
            resolved.query_group.get_or_insert(name.group);
            resolved.system = Some(system);
        }
        (Some(name), system) => {
            resolved.system = system.or(resolved.system).or(Some(name.group));
        }
        (None, system) => resolved.system = system.or(resolved.system),
    }
    if !map.proxy_keys.is_empty() {
        let what = format!(
            "the client map has {}, so the client connects to a proxy and not to entryway; `entryway snippet edn \
             --patch` removes it",
            map.proxy_keys.join(" and ")
        );
        warnings.push(TargetError::new("from_client", what));
    }
    resolved.warnings.extend(warnings);
    Ok(resolved)
}

/// A value that a flag or the map gives.
struct Wanted<'a> {
    key: &'static str,
    flag: &'static str,
    text: Option<&'a str>,
    unreadable: Option<&'a EdnError>,
}

impl<'a> Wanted<'a> {
    fn of(
        given: Option<&'a str>,
        in_map: &'a MapValue,
        key: &'static str,
        flag: &'static str,
    ) -> Self {
        let (text, unreadable) = match (given, in_map) {
            (Some(text), _) => (Some(text), None),
            (None, Some(Ok(text))) => (Some(text.as_str()), None),
            (None, Some(Err(error))) => (None, Some(error)),
            (None, None) => (None, None),
        };
        Self {
            key,
            flag,
            text,
            unreadable,
        }
    }

    /// The text where the target depends on it; what cannot be read is an error then.
    fn needed(&self) -> Result<Option<&'a str>, Error> {
        match self.unreadable {
            Some(error) => {
                let mut error = error.clone();
                error.what = format!("{}; give {}", error.what, self.flag);
                Err(Error::At(error))
            }
            None => Ok(self.text),
        }
    }

    fn check(&self, invalid: fn(&str) -> Option<String>) -> Result<(), Error> {
        match self.text.and_then(invalid) {
            Some(what) => wrong(format!("{}: {what}", self.key)),
            None => Ok(()),
        }
    }
}

fn wrong<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::What(what.into()))
}

/// Whether the map is one of a database inside the application: there is nothing to connect to then.
pub fn check_server_type(map: &ClientMap) -> Result<(), String> {
    match map.server_type.as_deref() {
        Some(kind @ ("datomic-local" | "dev-local" | "local")) => Err(format!(
            ":server-type :{kind} is com.datomic/local, a database inside the application, so there is nothing to \
             connect to; give the :cloud map of the real system here, and let tests divert it with \
             datomic.local/divert-system"
        )),
        _ => Ok(()),
    }
}

fn nowhere(map: &ClientMap) -> Result<ResolvedTarget, Error> {
    wrong(match &map.endpoint {
        Some(Ok(endpoint)) => format!(
            ":endpoint {endpoint:?} is this machine, and :system and :region are not both there to find the system by"
        ),
        _ => "there is neither an :endpoint nor both :system and :region".to_owned(),
    })
}

/// Host and port of `:endpoint`; `None` where it is this machine.
fn endpoint(text: &str) -> Result<Option<HostPort>, Error> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    // Client maps come without a port too; Datomic Cloud has one only.
    let named = match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{bare}]:{PORT}"),
        _ if bare.contains(':') || bare.is_empty() => bare.to_owned(),
        _ => format!("{bare}:{PORT}"),
    };
    let parsed =
        parse_endpoint(&named).or_else(|NameError(what)| wrong(format!(":endpoint: {what}")))?;
    let local = match parsed.host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => parsed.host.eq_ignore_ascii_case("localhost"),
    };
    Ok((!local).then_some(parsed))
}

fn from_endpoint(address: &HostPort) -> Result<ResolvedTarget, Error> {
    let HostPort { host, port } = address;
    let lower = host.to_ascii_lowercase();
    let named = |resolved: Result<ResolvedTarget, NameError>| {
        resolved.or_else(|NameError(what)| wrong(format!(":endpoint: {what}")))
    };
    if vpce_name(&lower).is_some() {
        return named(derived::vpce(&format!("{lower}:{port}")));
    }
    if nlb_name(&lower).is_some_and(|name| name.zone.is_none()) {
        return named(derived::nlb(&format!("{lower}:{port}")));
    }
    if let Some(name) = entry_name(&lower) {
        return Ok(derived::peering(&name.group, &name.region, *port));
    }
    let address = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let endpoint = EndpointSettings {
        address,
        zone: None,
        name: None,
        via: None,
    };
    let mut errors = Vec::new();
    let resolved = explicit::resolve(&[endpoint], &mut errors);
    match errors.pop() {
        Some(error) => wrong(error.what),
        None => Ok(resolved),
    }
}
