//! The core as admin sees it: what it can be asked, and what it may refuse.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::api_types;
use super::health::Health;
use crate::http::{self, Reply, StatusCode};
use crate::metrics::Metrics;
use crate::upstream::snapshot::Snapshot;

/// What an operator wants of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointAction {
    /// Use it last, close its connections at rest.
    Drain,
    /// Use it.
    Ready,
    /// Probe it now.
    Probe,
}

/// `POST /v1/upgrade`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpgradeOrder {
    pub binary: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub max_drain: Option<Duration>,
}

/// Why the backend does not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// Nothing has this name: 404.
    Unknown {
        what: String,
        /// The command that lists the names.
        list: &'static str,
    },
    /// The request makes no sense: 400.
    Bad(String),
    /// The new settings are wrong; the report as `check` prints it: 422.
    Invalid(String),
    /// Not now, and nothing was changed: 503.
    NotNow(String),
    /// It failed for another reason: 500.
    Failed(String),
}

/// An answer that takes time.
pub type ApiFuture<T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send>>;

/// The core as admin sees it. Methods are called on the control thread and must not block it.
pub trait Backend: std::fmt::Debug + Send + Sync + 'static {
    /// The numbers behind the health answers.
    fn health(&self) -> Health;
    /// Uptime, listeners and upstreams; admin fills in the rest.
    fn status(&self) -> api_types::StatusJson;
    fn endpoints(&self) -> api_types::Endpoints;
    /// The first so many open connections.
    fn connections(&self, limit: usize) -> Vec<api_types::ConnectionJson>;
    /// All names.
    fn dns(&self) -> api_types::DnsJson;
    fn hops(&self) -> api_types::HopsJson;
    /// The effective settings, each `{value, source}`, secrets left out.
    fn config(&self) -> serde_json::Value;
    /// Where a new connection would go, for one upstream or all; `what_if` as in the query (`zone-down=Z`).
    fn explain(
        &self,
        upstream: Option<&str>,
        what_if: &[String],
    ) -> Result<api_types::Explain, BackendError>;
    /// One per upstream, for the history.
    fn snapshots(&self) -> Vec<Arc<Snapshot>>;
    /// Every series, for the service level.
    fn registry(&self) -> Metrics;
    /// The exposition, in slices (`Metrics::slices`), with what is measured on demand brought up to date.
    fn metrics(&self) -> Box<dyn Iterator<Item = String> + Send + Sync>;
    /// An order about endpoints: one by name (in one upstream, or all that have the name), or all.
    fn order(
        &self,
        order: EndpointAction,
        upstream: Option<&str>,
        name: Option<&str>,
    ) -> Result<api_types::Changed, BackendError>;
    /// Resets both sides of one connection.
    fn close(&self, id: u64) -> Result<(), BackendError>;
    /// Reads the settings again; with `dry_run` changes nothing.
    fn reload(&self, dry_run: bool) -> ApiFuture<api_types::Reloaded>;
    /// Starts the process that takes over from this one; returns once it serves.
    fn upgrade(&self, order: UpgradeOrder) -> ApiFuture<api_types::UpgradedJson>;
    /// Begins the drain; a second time ends it now.
    fn shutdown(&self);
}

// === impl EndpointAction ===

impl EndpointAction {
    /// As it stands in a path.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndpointAction::Drain => "drain",
            EndpointAction::Ready => "ready",
            EndpointAction::Probe => "probe",
        }
    }
}

// === impl BackendError ===

impl BackendError {
    pub fn unknown_endpoint(name: &str) -> Self {
        Self::Unknown {
            what: format!("no endpoint is named `{name}`"),
            list: "endpoint list",
        }
    }

    pub fn unknown_incident(id: &str) -> Self {
        Self::Unknown {
            what: format!("no incident has the id `{id}`"),
            list: "incident list",
        }
    }

    pub fn unknown_connection(id: u64) -> Self {
        Self::Unknown {
            what: format!("no open connection has the id {id}"),
            list: "connections",
        }
    }

    /// As a reply.
    pub(super) fn reply(self) -> Reply {
        match self {
            BackendError::Unknown { what, list } => http::problem(
                StatusCode::NOT_FOUND,
                "unknown",
                "no such thing",
                what,
                format!("`entryway {list}` lists them"),
            ),
            BackendError::Bad(what) => http::problem(
                StatusCode::BAD_REQUEST,
                "bad-request",
                "request not understood",
                what,
                "",
            ),
            BackendError::Invalid(report) => http::problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-settings",
                "settings are wrong; nothing was changed",
                report,
                "correct them and reload again; `entryway check` prints the same report",
            ),
            BackendError::NotNow(what) => http::problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "not-now",
                "not done; the instance goes on as before",
                what,
                "",
            ),
            BackendError::Failed(what) => http::problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "failed",
                "it failed",
                what,
                "",
            ),
        }
    }
}
