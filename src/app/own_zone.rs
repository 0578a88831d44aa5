//! Finds the availability zone this process runs in, for upstreams whose `zone` is `auto`, and keeps looking.
//!
//! The search runs beside the start and never delays it. A metadata service that is slow at boot must not cost
//! cross-zone traffic for the life of the process, so a search that finds nothing is repeated with backoff; one line
//! says that the own zone is unknown. A reload that changes `zone` starts a new search.

use std::time::Duration;

use tokio::time::sleep;

use super::Upstream;
use crate::addr::aws::is_zone_id;
use crate::events::{Events, event};
use crate::settings::ZoneSetting;
use crate::types::Zone;
use crate::upstream::input::Input;
use crate::zone::{self, MetadataServices, OwnZone};

/// Pause after the first search without a result; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// After some minutes there is most likely no metadata service here.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Searches until a zone is found, and again whenever the setting changes. Runs until dropped.
pub(super) async fn keep(upstream: Upstream, events: Events) {
    let (sources, bad) = MetadataServices::from_env(|name| std::env::var(name).ok());
    for base in bad {
        event!(events, WARN, "start", "metadata service", error = %base);
    }
    let mut setting = upstream.zone.subscribe();
    loop {
        let wanted = setting.borrow_and_update().clone();
        tokio::select! {
            () = search(&upstream, &events, &sources, &wanted) => {
                if setting.changed().await.is_err() {
                    return;
                }
            }
            changed = setting.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Returns once the zone is known or there is none to look for.
async fn search(
    upstream: &Upstream,
    events: &Events,
    sources: &MetadataServices,
    setting: &ZoneSetting,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let zones = zones_of(upstream);
        let ids_in_use = zones.iter().any(|zone| is_zone_id(zone.as_str()));
        let search = zone::find(setting, sources, ids_in_use).await;
        let (found, failed) = (search.found, search.failed);
        for (source, why) in &failed {
            event!(
                events,
                DEBUG,
                "start",
                "own zone not found here",
                source = %source,
                error = why,
            );
        }
        let name = upstream.name.as_str();
        if let (Some(other), ZoneSetting::Named(zone)) = (&search.contradiction, setting) {
            let theirs = [&other.name, &other.id];
            let theirs: Vec<&str> = theirs.into_iter().flatten().map(Zone::as_str).collect();
            let warning = format!(
                "zone is set to {zone}, and the metadata of this machine says {}; the setting is used",
                theirs.join(", ")
            );
            event!(
                events,
                WARN,
                "start",
                "the zone that is set is not the one this machine is in",
                upstream = name,
                warning = warning,
                hint = "correct --zone (ENTRYWAY_ZONE), or leave it out where metadata is right",
            );
        }
        match found {
            Some((own, source)) => {
                event!(
                    events,
                    INFO,
                    "start",
                    "own zone",
                    upstream = name,
                    zone = own.name.as_ref().map(|zone| zone.as_str()),
                    zone_id = own.id.as_ref().map(|zone| zone.as_str()),
                    source = %source,
                );
                set(upstream, &own, &zones);
                return;
            }
            None if *setting != ZoneSetting::Auto => {
                set(upstream, &OwnZone::default(), &zones);
                return;
            }
            // Without zones to choose from there is nothing to prefer and nothing to say.
            None if pause == FIRST_PAUSE && !zones.is_empty() => {
                event!(
                    events,
                    INFO,
                    "start",
                    "own zone is unknown; addresses are ranked by connect time",
                    upstream = name,
                    hint = "set --zone, or allow access to the metadata service",
                );
            }
            None => {}
        }
        if sources.ecs.is_none() && sources.imds.is_none() {
            return;
        }
        // Spread, so that a fleet that boots together does not ask together.
        sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

fn set(upstream: &Upstream, own: &OwnZone, zones: &[Zone]) {
    upstream.feed.send(Input::OwnZone(own.matching(zones)));
    upstream.feed.send(Input::OwnZoneId(own.id.clone()));
}

fn zones_of(upstream: &Upstream) -> Vec<Zone> {
    let snapshot = upstream.view.load();
    let zones = snapshot
        .endpoints
        .iter()
        .filter_map(|view| view.endpoint.zone().cloned());
    zones.collect()
}
