//! Which availability zone this process runs in: as set, or asked of ECS or EC2 metadata.
//!
//! Owns the lookups and their bounds (one second in all, small answers only) and what to say when one fails. Meant to
//! run beside the start, never before it. On a laptop there is nothing to find and nothing to wait for. What an
//! answer looks like is checked, so that a captive portal is no zone; whether it is true cannot be.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::settings::ZoneSetting;
use crate::types::Zone;

mod ecs;
mod imds;
mod meta;

pub use meta::{BadBase, Base, is_id};

/// For all lookups together.
pub const WITHIN: Duration = Duration::from_secs(1);

/// ECS answers from the same machine; what is left of [`WITHIN`] after it is for EC2.
const ECS_WITHIN: Duration = Duration::from_millis(400);

/// Where to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// `ECS_CONTAINER_METADATA_URI_V4`: this task's metadata.
    pub ecs: Option<Base>,
    /// The instance's metadata; `None`: not to be asked.
    pub imds: Option<Base>,
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
pub enum Source {
    /// The setting.
    Setting,
    /// ECS task metadata, version 4.
    Ecs,
    /// EC2 instance metadata, version 2.
    Imds,
}

/// What came of the search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The zone and who told, if anybody did.
    pub found: Option<(OwnZone, Source)>,
    /// Who was asked in vain, and why: sentences without a final dot.
    pub failed: Vec<(Source, String)>,
}

/// Finds our zone within [`WITHIN`]. `ids_in_use`: whether endpoints are labelled by zone ids, so that a name alone
/// would match none of them.
pub async fn find(setting: &ZoneSetting, sources: &Sources, ids_in_use: bool) -> Search {
    let mut search = Search::default();
    let own = match setting {
        ZoneSetting::None => return search,
        ZoneSetting::Named(zone) => OwnZone::of(zone.clone()),
        ZoneSetting::Auto => OwnZone::default(),
    };
    let mapped = own.name.is_none() && !ids_in_use || own.id.is_none() && ids_in_use;
    if *setting == ZoneSetting::Auto || mapped {
        ask(sources, ids_in_use || own.id.is_some(), &mut search).await;
    }
    if let ZoneSetting::Named(_) = setting {
        // The setting wins; metadata only adds the zone's other name, and only if it speaks of the same zone.
        let other = search.found.take().map(|(found, _)| found);
        let same = |found: &OwnZone| {
            (own.name.is_some() && own.name == found.name)
                || (own.id.is_some() && own.id == found.id)
        };
        let own = other.filter(same).unwrap_or(own);
        search.found = Some((own, Source::Setting));
    }
    search
}

async fn ask(sources: &Sources, want_id: bool, search: &mut Search) {
    let end = Instant::now() + WITHIN;
    let over = |within: Duration| format!("no answer within {} ms", within.as_millis());
    if let Some(base) = &sources.ecs {
        let asked = timeout_at(Instant::now() + ECS_WITHIN, ecs::zone(base)).await;
        match asked.unwrap_or_else(|_| Err(over(ECS_WITHIN))) {
            Ok(zone) => search.found = Some((OwnZone::of(zone), Source::Ecs)),
            Err(why) => search.failed.push((Source::Ecs, why)),
        }
    }
    if search.found.is_some() && !want_id {
        return;
    }
    if let Some(base) = &sources.imds {
        match imds::zone(base, end).await {
            Ok((name, id)) => {
                let asked = OwnZone {
                    name: Some(name),
                    id,
                };
                match &mut search.found {
                    None => search.found = Some((asked, Source::Imds)),
                    Some((own, _)) if own.name == asked.name => own.id = asked.id,
                    Some(_) => {}
                }
            }
            Err(why) => search.failed.push((Source::Imds, why)),
        }
    }
}

// === impl Sources ===

impl Sources {
    /// What the environment says about metadata (`get` reads a variable). A base that cannot be read is in the error
    /// list and not asked.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> (Self, Vec<BadBase>) {
        let mut bad = Vec::new();
        let mut read = |name: &str| match Base::parse(&get(name)?) {
            Ok(base) => Some(base),
            Err(error) => {
                bad.push(error);
                None
            }
        };
        let ecs = read("ECS_CONTAINER_METADATA_URI_V4");
        let disabled =
            get("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let imds = match disabled {
            true => None,
            false => read("AWS_EC2_METADATA_SERVICE_ENDPOINT").or_else(|| Some(Base::imds())),
        };
        (Self { ecs, imds }, bad)
    }
}

// === impl OwnZone ===

impl OwnZone {
    /// A zone known by one name or id.
    pub fn of(zone: Zone) -> Self {
        if is_id(zone.as_str()) {
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
    pub fn in_words_of<'z>(&self, endpoints: impl IntoIterator<Item = &'z Zone>) -> Option<Zone> {
        let known = [&self.name, &self.id];
        let mut zones = endpoints.into_iter();
        let theirs = zones.find(|zone| known.into_iter().flatten().any(|own| own == *zone));
        theirs.or(self.name.as_ref()).or(self.id.as_ref()).cloned()
    }
}

// === impl Source ===

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Setting => "setting",
            Source::Ecs => "ECS task metadata",
            Source::Imds => "EC2 instance metadata",
        })
    }
}

#[cfg(test)]
mod tests;
