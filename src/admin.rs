//! The admin API: health, metrics, the status page, `/v1/*` and changes (see `guide/reference-api.md`).
//!
//! Owns the routes, who may use them, and three listeners: `admin.bind` (read-only without a token, Host checked), the
//! control socket (our uid or root) and `metrics_bind` (`/metrics` and health). Knows the core only as a [`Backend`] and
//! decides nothing about connections or endpoints. The history and the incidents are kept here as well.

use std::sync::Arc;

use crate::drain::DrainWatcher;
use crate::events::Events;
use crate::http::{self, HttpListener, Request};

use history::HistoryRecorder;
use incidents::IncidentLog;

pub use backend::{ApiFuture, Backend, BackendError, EndpointAction, UpgradeOrder};
pub use convert::{millis, seconds, wall};
pub use health::{Health, UpstreamCounts};
pub use listeners::{
    AdminBindError, AdminListeners, AdminSockets, BindOptions, InheritedAdmin, control_folder, open,
};
pub use settings::{AdminSettings, Bind, ControlPath};

pub mod api_types;
pub mod registration;
pub mod settings;

mod access;
mod backend;
mod control;
mod convert;
mod health;
mod history;
mod incidents;
mod listeners;
mod page;
mod responses;
mod routes;
mod slo;
mod sse;

/// Serves all listeners until `stop` fires, then lets answers under way finish and removes the control socket.
pub async fn serve(
    listeners: AdminListeners,
    backend: Arc<dyn Backend>,
    events: Events,
    settings: &AdminSettings,
    max_connections: usize,
    stop: DrainWatcher,
) {
    let (history, incidents) = (HistoryRecorder::default(), IncidentLog::default());
    let recorded = {
        let backend = Arc::clone(&backend);
        history::record(history.clone(), move || backend.snapshots())
    };
    let watched = incidents::watch(
        incidents.clone(),
        Arc::clone(&backend),
        history.clone(),
        events.clone(),
    );
    let handler = Arc::new(routes::RequestHandler {
        backend,
        events,
        history,
        incidents,
        stop: stop.clone(),
        hosts: settings.hosts(listeners.admin_address()),
        token_file: settings.token_file.clone(),
        control_socket: listeners
            .control_path()
            .map(|path| path.display().to_string()),
        own_uid: control::own_uid(),
        refusals: routes::RateLimit::default(),
    });
    let (admin, metrics, control, guard) = listeners.split();
    let open = |listener: Option<HttpListener>, kind: routes::ListenerKind| {
        let (handler, stop) = (Arc::clone(&handler), stop.clone());
        async move {
            let Some(listener) = listener else { return };
            let handler = move |request: Request| {
                let handler = Arc::clone(&handler);
                async move { handler.answer(kind, request).await }
            };
            http::serve(listener, max_connections, http::BODY_MAX, stop, handler).await;
        }
    };
    let served = async {
        tokio::join!(
            open(admin, routes::ListenerKind::Admin),
            open(metrics, routes::ListenerKind::Metrics),
            open(control, routes::ListenerKind::Control),
        )
    };
    tokio::select! {
        _ = served => {}
        () = recorded => {}
        () = watched => {}
    }
    drop(guard);
}

#[cfg(test)]
pub(crate) mod tests;
