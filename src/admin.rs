//! Admin: health, metrics, `/v1/*` and changes, on three doors (contract section 5).
//!
//! Owns the routes, who may use them, and the doors: `admin.bind` (read-only without a token, Host checked), the
//! control socket (our uid or root), `metrics_bind` (`/metrics` and health). Knows the core only as a [`House`]; decides
//! nothing about connections or endpoints.

use std::sync::Arc;

use crate::events::Bus;
use crate::http::{self, Door, Request};
use crate::life::Watch;

pub use doors::{Asked, Doors, OpenError, open};
pub use health::{Counts, Health};
pub use house::{House, Later, Order, Refusal};
pub use picture::{millis, seconds, wall};
pub use settings::{AdminSettings, Bind, ControlPath};

pub mod settings;
pub mod status;

mod answers;
mod control;
mod doors;
mod health;
mod house;
mod picture;
mod routes;
mod rules;

/// Serves all doors until `stop` fires, then lets answers under way finish and removes the control socket.
pub async fn serve(
    doors: Doors,
    house: Arc<dyn House>,
    bus: Bus,
    settings: &AdminSettings,
    stop: Watch,
) {
    let hall = Arc::new(routes::Hall {
        house,
        bus,
        hosts: settings.hosts(doors.admin_address()),
        token_file: settings.token_file.clone(),
        control_socket: doors.control_path().map(|path| path.display().to_string()),
        own_uid: control::own_uid(),
        refusals: routes::Pace::default(),
    });
    let (admin, metrics, control, guard) = doors.split();
    let open = |door: Option<Door>, kind: routes::Kind| {
        let (hall, stop) = (Arc::clone(&hall), stop.clone());
        async move {
            let Some(door) = door else { return };
            let handler = move |request: Request| {
                let hall = Arc::clone(&hall);
                async move { hall.answer(kind, request).await }
            };
            http::serve(door, stop, handler).await;
        }
    };
    tokio::join!(
        open(admin, routes::Kind::Admin),
        open(metrics, routes::Kind::Metrics),
        open(control, routes::Kind::Control),
    );
    drop(guard);
}

#[cfg(test)]
pub(crate) mod tests;
