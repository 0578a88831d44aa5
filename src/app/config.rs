//! From validated settings to what is started: [`Config`] holds the settings with the target of each upstream resolved.

use crate::edn;
use crate::settings::{Diagnostics, Loaded, Settings, UpstreamSettings};
use crate::target::{self, ResolvedTarget, TargetPart};
use crate::upstream::endpoint::EndpointSpec;

/// What [`super::start`] starts and what a reload applies.
#[derive(Clone, Debug)]
pub struct Config {
    pub settings: Settings,
    /// One per upstream of the settings, in their order.
    pub upstreams: Vec<UpstreamConfig>,
    /// Whether the user named the addresses to listen on. Of the default addresses, `::1` may be missing.
    pub binds_are_explicit: bool,
}

/// An upstream's settings with its target resolved.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    pub settings: UpstreamSettings,
    pub endpoints: Vec<EndpointSpec>,
    /// The Datomic system, where the target names one.
    pub system: Option<String>,
    pub region: Option<String>,
    /// What a user should know about this kind of target.
    pub notes: Vec<String>,
}

/// Resolves the target of every upstream, in the order of the settings.
pub fn targets(loaded: &Loaded) -> Result<Vec<ResolvedTarget>, Box<Diagnostics>> {
    let mut wrong = Vec::new();
    let mut targets = Vec::new();
    for (index, upstream) in loaded.settings.upstreams.iter().enumerate() {
        match target_of(upstream) {
            Ok(target) => targets.push(target),
            Err(problems) => wrong.extend(problems.into_iter().map(|problem| {
                let key = key_of(problem.part);
                (format!("upstream[{index}]{key}"), problem.what)
            })),
        }
    }
    if wrong.is_empty() {
        Ok(targets)
    } else {
        Err(Box::new(loaded.report(wrong)))
    }
}

fn target_of(upstream: &UpstreamSettings) -> Result<ResolvedTarget, Vec<target::TargetError>> {
    let wrong = |what| {
        let part = TargetPart::FromClient;
        vec![target::TargetError { part, what }]
    };
    let map = match &upstream.from_client {
        None => None,
        Some(file) => {
            let text = edn::load(file.as_ref()).map_err(|error| wrong(error.to_string()))?;
            let map =
                edn::read_client_map(&text).map_err(|error| wrong(format!("{file}: {error}")))?;
            Some(map)
        }
    };
    target::of(upstream, map.as_ref())
}

/// The key below an upstream that a part of its target is set with.
fn key_of(part: TargetPart) -> String {
    match part {
        TargetPart::Target => String::new(),
        TargetPart::Endpoint(index) => format!(".endpoint[{index}]"),
        TargetPart::Vpce => ".vpce".to_owned(),
        TargetPart::System => ".system".to_owned(),
        TargetPart::Region => ".region".to_owned(),
        TargetPart::FromClient => ".from_client".to_owned(),
    }
}

// === impl Config ===

impl Config {
    /// Fails with a report about targets that cannot be resolved, each at the setting it comes from.
    pub fn resolve(loaded: &Loaded) -> Result<Self, Box<Diagnostics>> {
        let targets = targets(loaded)?;
        let upstream = |(settings, target): (&UpstreamSettings, ResolvedTarget)| UpstreamConfig {
            settings: settings.clone(),
            endpoints: target.endpoints,
            system: target.system,
            region: target.region,
            notes: target.notes,
        };
        let settings = loaded.settings.clone();
        Ok(Self {
            upstreams: settings
                .upstreams
                .iter()
                .zip(targets)
                .map(upstream)
                .collect(),
            binds_are_explicit: (0..settings.listeners.len())
                .any(|index| loaded.source(&format!("listener[{index}].bind")) != "default"),
            settings,
        })
    }
}
