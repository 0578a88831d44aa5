//! What a resolved is made from, what comes of it, and how it is wrong.

use crate::addr::NameError;
use crate::edn::ClientMap;
use crate::upstream::endpoint::EndpointSpec;

/// One explicit endpoint, as flag or file gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explicit {
    /// `HOST:PORT`.
    pub address: String,
    /// Its zone, where given.
    pub zone: Option<String>,
    /// Its name, where given.
    pub name: Option<String>,
}

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
pub struct ResolvedTarget {
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
pub enum TargetPart {
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
pub struct TargetError {
    /// Where.
    pub part: TargetPart,
    /// What: a sentence without a final dot.
    pub what: String,
}

// === impl Explicit ===

impl Explicit {
    /// Reads the flag's form, `HOST:PORT[?zone=Z&name=N]`. The address itself is checked later.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some((address, query)) = text.split_once('?') else {
            return Ok(Self {
                address: text.to_owned(),
                ..Self::default()
            });
        };
        let mut explicit = Self {
            address: address.to_owned(),
            ..Self::default()
        };
        for pair in query.split('&') {
            let slot = match pair.split_once('=') {
                Some(("zone", _)) => &mut explicit.zone,
                Some(("name", _)) => &mut explicit.name,
                _ => {
                    let what = format!(
                        "`{}` after the ? is neither zone= nor name=",
                        pair.escape_debug()
                    );
                    return Err(NameError(what));
                }
            };
            let (key, value) = pair.split_once('=').unwrap_or_default();
            if slot.replace(value.to_owned()).is_some() {
                return Err(NameError(format!("{key}= is given twice")));
            }
        }
        Ok(explicit)
    }
}
