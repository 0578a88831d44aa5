//! From the settings of an upstream to its endpoints: the one place where a target is validated and resolved, for
//! `run`, `check`, `plan`, `doctor`, `explain` and `snippet` alike.
//!
//! A target is given in exactly one way: explicit endpoints, a VPC endpoint, a network load balancer, peering, or the
//! client map of an application. Nothing is looked up in DNS and nothing is connected to; the client map's file is the
//! only thing read. Derived names are candidates (`Role::Zonal`, `Role::PeeredOld`): whether they resolve is found out
//! by `dns`. [`ResolvedTarget::flags`] is the way back, so that what is generated from a target leads to the same place.

use crate::addr::aws::{invalid_region, invalid_system};
use crate::dial::hop::ViaSettings;
use crate::edn;
use crate::types::{EndpointName, Zone};
use crate::upstream::endpoint::EndpointSpec;

mod client;
mod derived;
mod explicit;
mod flags;

use serde::{Deserialize, Deserializer, Serialize};

pub use client::check_server_type;

/// The keys of which exactly one says where an upstream leads.
pub const TARGET_KEYS: [&str; 5] = ["endpoint", "vpce", "nlb", "peering", "from_client"];

/// One `[[upstream.endpoint]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSettings {
    /// `HOST:PORT`, as typed.
    pub address: String,
    #[serde(default)]
    pub zone: Option<Zone>,
    /// Where the default (zone or host) is not wanted.
    #[serde(default)]
    pub name: Option<EndpointName>,
    /// How it is reached, where not as the upstream is.
    #[serde(default, deserialize_with = "text_or_table")]
    pub via: Option<ViaSettings>,
}

/// A `via` in its short form, a text, or as a table.
fn text_or_table<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ViaSettings>, D::Error> {
    struct Reads;
    impl<'de> serde::de::Visitor<'de> for Reads {
        type Value = Option<ViaSettings>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a URL or a table")
        }

        fn visit_str<E: serde::de::Error>(self, url: &str) -> Result<Self::Value, E> {
            Ok(Some(ViaSettings {
                url: url.to_owned(),
                ..ViaSettings::default()
            }))
        }

        // Settings that were shown are read back at a reload: there an absent value is a null.
        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            ViaSettings::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Some)
        }
    }
    deserializer.deserialize_any(Reads)
}

/// Everything that can say where an upstream leads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    pub endpoints: &'a [EndpointSettings],
    /// A VPC endpoint's name, `NAME[:PORT]`.
    pub vpce: Option<&'a str>,
    /// A network load balancer's name, `NAME[:PORT]`.
    pub nlb: Option<&'a str>,
    pub peering: bool,
    pub system: Option<&'a str>,
    pub region: Option<&'a str>,
    pub query_group: Option<&'a str>,
    /// `FILE[#KEY/KEY…]`.
    pub from_client: Option<&'a str>,
}

/// The endpoints of a target, and what is known of the system behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedTarget {
    /// In the order given or derived; empty where no target is given.
    pub endpoints: Vec<EndpointSpec>,
    /// As given, or as a name contains it.
    pub system: Option<String>,
    pub region: Option<String>,
    pub query_group: Option<String>,
    /// What is worth knowing about this way in.
    pub notes: Vec<String>,
    /// What looks odd, each at its key.
    pub warnings: Vec<TargetError>,
}

/// Something wrong or odd about a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct TargetError {
    /// The key below the upstream that it is about: `vpce`, `endpoint[1].address`; empty for the target as a whole.
    pub key: String,
    /// A sentence without a final dot.
    pub what: String,
    /// What to do about it.
    pub help: Vec<String>,
    /// The key of an earlier value that this one collides with.
    pub first: Option<String>,
}

// === impl Target ===

impl<'a> Target<'a> {
    /// The target keys that are set.
    pub fn keys(&self) -> Vec<&'static str> {
        let set = [
            !self.endpoints.is_empty(),
            self.vpce.is_some(),
            self.nlb.is_some(),
            self.peering,
            self.from_client.is_some(),
        ];
        let set = TARGET_KEYS.into_iter().zip(set);
        set.filter_map(|(key, set)| set.then_some(key)).collect()
    }

    /// The endpoints, or everything that is wrong. A target that is not given at all has no endpoints; whether that is
    /// an error is for the caller to say.
    pub fn resolve(&self) -> Result<ResolvedTarget, Vec<TargetError>> {
        let mut errors = self.check_names();
        let mut resolved = match self.keys()[..] {
            [first, second, ..] => {
                let what = format!("two targets: {} and {}", flag_of(first), flag_of(second));
                let error = TargetError::new(second, what)
                    .first(first)
                    .help("an upstream is one Datomic system, found in one way; keep one of them");
                // What is wrong inside of either is said when one of them is gone.
                return Err(vec![error]);
            }
            [key] => self.resolve_by(key, &mut errors).unwrap_or_else(|error| {
                errors.push(error);
                ResolvedTarget::default()
            }),
            [] => ResolvedTarget::default(),
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        resolved.system = owned(self.system).or(resolved.system);
        resolved.region = owned(self.region).or(resolved.region);
        resolved.query_group = owned(self.query_group).or(resolved.query_group);
        if let Some(group) = &resolved.query_group
            && resolved.system.as_ref() == Some(group)
        {
            let what = format!(
                "query group `{group}` has the system's own name, which is the primary compute group"
            );
            resolved
                .warnings
                .push(TargetError::new("query_group", what));
        }
        Ok(resolved)
    }

    fn resolve_by(
        &self,
        key: &'static str,
        errors: &mut Vec<TargetError>,
    ) -> Result<ResolvedTarget, TargetError> {
        match key {
            "from_client" => {
                let spec = self.from_client.unwrap_or_default();
                let wrong = |what: String| TargetError::new("from_client", what);
                let map = edn::load_client_map(spec).map_err(|error| wrong(error.to_string()))?;
                client::resolve(&map, self).map_err(|what| match what {
                    client::Error::At(error) => {
                        wrong(format!("{}:{error}", edn::split_spec(spec).0))
                    }
                    client::Error::What(what) => wrong(what),
                })
            }
            "vpce" => derived::vpce(self.vpce.unwrap_or_default())
                .map_err(|error| TargetError::new("vpce", error.0)),
            "nlb" => derived::nlb(self.nlb.unwrap_or_default())
                .map_err(|error| TargetError::new("nlb", error.0)),
            "peering" => {
                for (key, value) in [("system", self.system), ("region", self.region)] {
                    if value.is_none() {
                        let what = format!("peering needs a {key}");
                        let help = format!("add --{key} or `upstream.{key}`");
                        errors.push(TargetError::new("peering", what).help(help));
                    }
                }
                let (system, region) = (self.system, self.region);
                let group = self.query_group.or(system).unwrap_or_default();
                let mut resolved =
                    derived::peering(group, region.unwrap_or_default(), crate::addr::PORT);
                resolved.system = system.map(str::to_owned);
                Ok(resolved)
            }
            _ => Ok(explicit::resolve(self.endpoints, errors)),
        }
    }

    /// What is wrong with the names that go with any target.
    fn check_names(&self) -> Vec<TargetError> {
        let system = self.system.and_then(invalid_system);
        let region = self.region.and_then(invalid_region);
        let group = self.query_group.and_then(invalid_system);
        let group = group.map(|what| what.replace("Datomic system", "query group"));
        [
            ("system", system),
            ("region", region),
            ("query_group", group),
        ]
        .into_iter()
        .filter_map(|(key, what)| Some(TargetError::new(key, what?)))
        .collect()
    }
}

/// The flag that sets a target key.
fn flag_of(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

// === impl TargetError ===

impl TargetError {
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            what: what.into(),
            help: Vec::new(),
            first: None,
        }
    }

    #[must_use]
    fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    #[must_use]
    fn first(mut self, key: impl Into<String>) -> Self {
        self.first = Some(key.into());
        self
    }
}

#[cfg(test)]
mod tests;
