//! From what somebody typed to the endpoints of an upstream: explicit ones, a VPC endpoint with its zones, peering, or
//! an application's client map.
//!
//! Pure: resolves nothing, connects nowhere. Owns the knowledge of how names of AWS and Datomic Cloud are made, what
//! the releases' ways in were, and what a wrong name is. The derived zonal names and the second peering name are
//! candidates ([`Role::Zonal`], [`Role::PeeredOld`]); whether they answer is found out by others.

use crate::edn::ClientMap;
use crate::names::{EndpointName, Zone};
use crate::pool::endpoint::{EndpointSpec, Role};

mod aws;
mod client;
mod explicit;
pub mod history;
mod name;

pub use aws::{PeeredName, VpceName, is_region, peered_name, region_of_zone, vpce_name, zone_of};
pub use explicit::Explicit;
pub use name::{HostPort, Kind, NameError, PORT, check_name};

/// Everything that can say where an upstream leads. Exactly one of endpoints, vpce, peering and client map is asked
/// for; system and region go with each of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// Explicit endpoints.
    pub endpoints: &'a [Explicit],
    /// A VPC endpoint's name, `NAME[:PORT]`.
    pub vpce: Option<&'a str>,
    /// Whether the system's VPC is peered.
    pub peering: bool,
    /// The Datomic system.
    pub system: Option<&'a str>,
    /// The region.
    pub region: Option<&'a str>,
    /// The application's client map.
    pub from_client: Option<&'a ClientMap>,
}

/// What came of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The endpoints, in the order given or derived.
    pub endpoints: Vec<EndpointSpec>,
    /// The Datomic system, where told.
    pub system: Option<String>,
    /// The region, where told or read from a name.
    pub region: Option<String>,
    /// The query group, where a client map names one.
    pub query_group: Option<String>,
    /// What is worth knowing about this way in.
    pub notes: Vec<String>,
}

/// Which part of the target is wrong; settings find the flag or line by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// None was given, or several that exclude each other.
    Target,
    /// The explicit endpoint of this index.
    Endpoint(usize),
    /// `vpce`.
    Vpce,
    /// `system`.
    System,
    /// `region`.
    Region,
    /// `from_client`.
    FromClient,
}

/// Something wrong with a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Problem {
    /// Where.
    pub part: Part,
    /// What: a sentence without a final dot.
    pub what: String,
}

/// The endpoints of a target, or everything that is wrong with it.
pub fn cook(target: &Target<'_>) -> Result<Recipe, Vec<Problem>> {
    let mut problems = Vec::new();
    check_facts(target, &mut problems);
    let mut recipe = match one_of(target) {
        Err(problem) => {
            problems.push(problem);
            Recipe::default()
        }
        Ok(()) => cook_one(target, &mut problems),
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    recipe.system = target.system.map(str::to_owned).or(recipe.system);
    recipe.region = target.region.map(str::to_owned).or(recipe.region);
    Ok(recipe)
}

fn cook_one(target: &Target<'_>, problems: &mut Vec<Problem>) -> Recipe {
    if let Some(map) = target.from_client {
        client::cook(map, target).unwrap_or_else(|problem| {
            problems.push(problem);
            Recipe::default()
        })
    } else if let Some(vpce) = target.vpce {
        vpce_recipe(vpce).unwrap_or_else(|NameError(what)| {
            let part = Part::Vpce;
            problems.push(Problem { part, what });
            Recipe::default()
        })
    } else if target.peering {
        // What is missing was said by the check of the facts.
        let (system, region) = (target.system, target.region);
        peering_recipe(system.unwrap_or_default(), region.unwrap_or_default(), PORT)
    } else {
        explicit::cook(target.endpoints, problems)
    }
}

fn one_of(target: &Target<'_>) -> Result<(), Problem> {
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
    let part = Part::Target;
    Err(Problem { part, what })
}

fn check_facts(target: &Target<'_>, problems: &mut Vec<Problem>) {
    let mut wrong = |part, what: String| problems.push(Problem { part, what });
    match target.system {
        None if target.peering => wrong(
            Part::System,
            "--peering needs --system, the Datomic system's name".to_owned(),
        ),
        Some(system) => {
            if let Some(what) = wrong_system(system) {
                wrong(Part::System, what);
            }
        }
        None => {}
    }
    match target.region {
        None if target.peering => wrong(
            Part::Region,
            "--peering needs --region, such as us-east-1".to_owned(),
        ),
        Some(region) if !is_region(region) => wrong(
            Part::Region,
            match region_of_zone(region) {
                Some(whole) => format!("`{region}` is a zone; its region is {whole}"),
                None => format!("`{region}` is no region; one looks like us-east-1"),
            },
        ),
        _ => {}
    }
}

fn wrong_system(system: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if system.is_empty() {
        Some("the system's name is empty".to_owned())
    } else if let Some(name) = peered_name(system) {
        Some(format!(
            "`{system}` is an entry name; the system's name in it is {}",
            name.system
        ))
    } else if !system.chars().all(plain) {
        Some(format!(
            "`{}` is no system's name, which has letters, digits and hyphens only",
            system.escape_debug()
        ))
    } else {
        None
    }
}

fn vpce_recipe(text: &str) -> Result<Recipe, NameError> {
    let HostPort { host, port } = check_name(Kind::Vpce, text)?;
    let Some(name) = vpce_name(&host.to_ascii_lowercase()) else {
        return Err(NameError(format!(
            "`{host}` is not a VPC endpoint's DNS name"
        )));
    };
    let mut notes = vec![history::VPCE_NOTE.to_owned()];
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
    for zone in aws::LETTERS.map(|letter| format!("{}{letter}", name.region)) {
        let host = name.zonal(&zone);
        endpoints.push(spec(zone.clone(), host, Some(&zone), Role::Zonal));
    }
    Ok(Recipe {
        endpoints,
        region: Some(name.region),
        notes,
        ..Recipe::default()
    })
}

fn peering_recipe(system: &str, region: &str, port: u16) -> Recipe {
    let names = PeeredName::both(system, region);
    let spec = |(host, role): (String, Role)| EndpointSpec {
        name: EndpointName::new(&host),
        host,
        port,
        zone: None,
        role,
    };
    Recipe {
        endpoints: names
            .into_iter()
            .zip([Role::Peered, Role::PeeredOld])
            .map(spec)
            .collect(),
        system: Some(system.to_owned()),
        region: Some(region.to_owned()),
        query_group: None,
        notes: vec![history::PEERING_NOTE.to_owned()],
    }
}

#[cfg(test)]
mod tests;
