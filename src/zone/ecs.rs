//! The zone of an ECS task, from its metadata (version 4).

use std::time::Duration;

use serde::Deserialize;

use super::OwnZone;
use super::metadata::{LARGEST, MetadataUrl, read_zone};
use crate::addr::aws::is_zone_id;
use crate::http::client::{self, Bounds};
use crate::types::Zone;

/// The fields of a task that matter here.
#[derive(Debug, Deserialize)]
struct Task {
    #[serde(rename = "AvailabilityZone")]
    zone: Option<String>,
    #[serde(rename = "AvailabilityZoneID")]
    zone_id: Option<String>,
}

/// Asks; the caller bounds the time.
pub(super) async fn zone(base: &MetadataUrl) -> Result<OwnZone, String> {
    let bounds = Bounds {
        time: Duration::from_secs(1),
        body: LARGEST,
    };
    let answer = client::get(&base.target, &format!("{}/task", base.prefix), bounds)
        .await
        .map_err(|error| error.to_string())?;
    if !answer.status.is_success() {
        return Err(format!("answered {}", answer.status));
    }
    let task: Task = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("answered something else than a task's JSON ({error})"))?;
    match task.zone {
        Some(zone) => Ok(OwnZone {
            name: Some(read_zone(&zone)?),
            // Newer platforms have it too.
            id: task.zone_id.filter(|id| is_zone_id(id)).map(Zone::new),
        }),
        None => Err(
            "the task's metadata has no AvailabilityZone (Fargate platform below 1.4.0 has none)"
                .to_owned(),
        ),
    }
}
