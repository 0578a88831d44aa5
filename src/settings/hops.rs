//! Which endpoints of an upstream are reached through which hop.

use super::model::UpstreamSettings;
use crate::dial::hop::{Dns, HopSpec, ViaSettings};
use crate::upstream::endpoint::{EndpointHop, EndpointSpec};

/// Puts each endpoint behind its hop: its own `via`, else the upstream's. Returns the hops, each once. Settings that
/// were validated have no `via` that cannot be understood.
pub fn assign_hops(settings: &UpstreamSettings, endpoints: &mut [EndpointSpec]) -> Vec<HopSpec> {
    let mut specs: Vec<HopSpec> = Vec::new();
    for (index, endpoint) in endpoints.iter_mut().enumerate() {
        // Explicit endpoints come in the order of the settings.
        let own = settings
            .endpoints
            .get(index)
            .and_then(|own| own.via.as_ref());
        let via: &ViaSettings = own.unwrap_or(&settings.via);
        let Ok(Some(spec)) = via.hop() else { continue };
        endpoint.hop = Some(EndpointHop {
            id: spec.id,
            remote_dns: spec.dns == Dns::Remote,
        });
        if !specs.iter().any(|known| known.id == spec.id) {
            specs.push(spec);
        }
    }
    specs
}
