//! From validated settings to what is started: [`Config`] holds the settings with the resolved target of each upstream.

use crate::settings::{Loaded, Settings, UpstreamSettings};
use crate::target::ResolvedTarget;
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

// === impl Config ===

impl Config {
    pub fn new(loaded: &Loaded) -> Self {
        let upstream = |(settings, target): (&UpstreamSettings, &ResolvedTarget)| UpstreamConfig {
            settings: settings.clone(),
            endpoints: target.endpoints.clone(),
            system: target.system.clone(),
            region: target.region.clone(),
            notes: target.notes.clone(),
        };
        let settings = loaded.settings.clone();
        Self {
            upstreams: settings
                .upstreams
                .iter()
                .zip(&loaded.targets)
                .map(upstream)
                .collect(),
            binds_are_explicit: (0..settings.listeners.len())
                .any(|index| loaded.source(&format!("listener[{index}].bind")) != "default"),
            settings,
        }
    }
}
