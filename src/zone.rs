//! The availability zone this process runs in: as set, or asked of the metadata of ECS or EC2.
//!
//! A lookup takes at most a second and small answers only, and runs beside the start, never before it. On a laptop there
//! is nothing to find and nothing to wait for. What an answer looks like is
//! checked, so that a captive portal is no zone; whether it is true cannot be.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::settings::ZoneSetting;
use crate::types::Zone;

mod ecs;
mod imds;
mod metadata;

use crate::addr::aws::is_zone_id;
pub use metadata::{InvalidUrl, MetadataUrl};

/// For all lookups together.
pub const WITHIN: Duration = Duration::from_secs(1);

/// ECS answers from the same machine; what is left of [`WITHIN`] after it is for EC2.
const ECS_WITHIN: Duration = Duration::from_millis(400);

/// Where to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataServices {
    /// `ECS_CONTAINER_METADATA_URI_V4`: this task's metadata.
    pub ecs: Option<MetadataUrl>,
    /// The instance's metadata; `None`: not to be asked.
    pub imds: Option<MetadataUrl>,
}

/// Our zone, by both its names where both are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnZone {
    /// `us-east-1a`: means another place in every account.
    pub name: Option<Zone>,
    /// `use1-az1`: means the same place in every account.
    pub id: Option<Zone>,
}

/// Who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneSource {
    Setting,
    /// ECS task metadata, version 4.
    Ecs,
    /// EC2 instance metadata, version 2.
    Imds,
}

/// What came of the lookup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneLookup {
    /// The zone and its source, where one was found.
    pub found: Option<(OwnZone, ZoneSource)>,
    /// Who was asked in vain, and why: sentences without a final dot.
    pub failed: Vec<(ZoneSource, String)>,
    /// What metadata says where it is another zone than the setting's.
    pub contradiction: Option<OwnZone>,
}

/// Finds our zone within [`WITHIN`]. `ids_in_use`: whether endpoints are labelled by zone ids, so that a name alone
/// would match none of them.
pub async fn find(
    setting: &ZoneSetting,
    services: &MetadataServices,
    ids_in_use: bool,
) -> ZoneLookup {
    let mut lookup = ZoneLookup::default();
    let own = match setting {
        ZoneSetting::None => return lookup,
        ZoneSetting::Named(zone) => OwnZone::of(zone.clone()),
        ZoneSetting::Auto => OwnZone::default(),
    };
    ask(services, ids_in_use || own.id.is_some(), &mut lookup).await;
    if let ZoneSetting::Named(_) = setting {
        // The setting wins; metadata only adds the zone's other name, and only if it speaks of the same zone.
        let other = lookup.found.take().map(|(found, _)| found);
        let same = |found: &OwnZone| {
            (own.name.is_some() && own.name == found.name)
                || (own.id.is_some() && own.id == found.id)
        };
        let differs = |ours: &Option<Zone>, theirs: &Option<Zone>| {
            ours.is_some() && theirs.is_some() && ours != theirs
        };
        lookup.contradiction = other
            .clone()
            .filter(|found| differs(&own.name, &found.name) || differs(&own.id, &found.id));
        let own = other.filter(same).unwrap_or(own);
        lookup.found = Some((own, ZoneSource::Setting));
    }
    lookup
}

async fn ask(services: &MetadataServices, want_id: bool, lookup: &mut ZoneLookup) {
    let end = Instant::now() + WITHIN;
    let over = |within: Duration| format!("no answer within {} ms", within.as_millis());
    if let Some(base) = &services.ecs {
        let asked = timeout_at(Instant::now() + ECS_WITHIN, ecs::zone(base)).await;
        match asked.unwrap_or_else(|_| Err(over(ECS_WITHIN))) {
            Ok(own) => lookup.found = Some((own, ZoneSource::Ecs)),
            Err(why) => lookup.failed.push((ZoneSource::Ecs, why)),
        }
    }
    if let Some((own, _)) = &lookup.found
        && (!want_id || own.id.is_some())
    {
        return;
    }
    if let Some(base) = &services.imds {
        match imds::zone(base, end).await {
            Ok((name, id)) => {
                let asked = OwnZone {
                    name: Some(name),
                    id,
                };
                match &mut lookup.found {
                    None => lookup.found = Some((asked, ZoneSource::Imds)),
                    Some((own, _)) if own.name == asked.name => own.id = asked.id,
                    Some(_) => {}
                }
            }
            Err(why) => lookup.failed.push((ZoneSource::Imds, why)),
        }
    }
}

// === impl MetadataServices ===

impl MetadataServices {
    /// What the environment says about metadata (`get` reads a variable), as the AWS SDKs read it. A URL that cannot be
    /// read is in the error list and not asked.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> (Self, Vec<InvalidUrl>) {
        let mut invalid = Vec::new();
        let mut read =
            |name: &str| match MetadataUrl::parse(&get(name).filter(|url| !url.is_empty())?) {
                Ok(url) => Some(url),
                Err(error) => {
                    invalid.push(error);
                    None
                }
            };
        let is = |name: &str, value: &str| get(name).is_some_and(|v| v.eq_ignore_ascii_case(value));
        let ecs = read("ECS_CONTAINER_METADATA_URI_V4");
        let imds = match is("AWS_EC2_METADATA_DISABLED", "true") {
            true => None,
            // The URL wins over the mode.
            false => read("AWS_EC2_METADATA_SERVICE_ENDPOINT").or_else(|| {
                Some(match is("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6") {
                    true => MetadataUrl::imds_ipv6(),
                    false => MetadataUrl::imds(),
                })
            }),
        };
        (Self { ecs, imds }, invalid)
    }
}

// === impl OwnZone ===

impl OwnZone {
    /// A zone known by one name or id.
    pub fn of(zone: Zone) -> Self {
        if is_zone_id(zone.as_str()) {
            Self {
                name: None,
                id: Some(zone),
            }
        } else {
            Self {
                name: Some(zone),
                id: None,
            }
        }
    }

    /// Our zone in the words in which the endpoints' zones are given.
    pub fn matching<'z>(&self, endpoints: impl IntoIterator<Item = &'z Zone>) -> Option<Zone> {
        let known = [&self.name, &self.id];
        let mut zones = endpoints.into_iter();
        let theirs = zones.find(|zone| known.into_iter().flatten().any(|own| own == *zone));
        theirs.or(self.name.as_ref()).or(self.id.as_ref()).cloned()
    }
}

// === impl ZoneSource ===

impl fmt::Display for ZoneSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ZoneSource::Setting => "setting",
            ZoneSource::Ecs => "ECS task metadata",
            ZoneSource::Imds => "EC2 instance metadata",
        })
    }
}

#[cfg(test)]
mod tests;
