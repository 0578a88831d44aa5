//! The routes: which request gets which answer, once `access` allows it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::access;
use super::api_types::{self, Incidents, versioned};
use super::backend::{Backend, BackendError, EndpointAction, UpgradeOrder};
use super::health::all_ok;
use super::history::{self, HistoryRecorder};
use super::incidents::IncidentLog;
use super::page::{self, Page};
use super::responses::{bad, connections, health, not_allowed};
use super::{slo, sse};
use crate::clock::{self, Moment};
use crate::drain::DrainWatcher;
use crate::events::{Events, event, parse_level};
use crate::http::query::decode;
use crate::http::{self, Body, Caller, Method, Reply, Request, StatusCode};

/// `/v1/connections` without `?limit=`.
const CONNECTIONS: usize = 1000;

/// What every listener knows.
pub(super) const PUBLIC_PATHS: &str = "/livez /startupz /readyz /metrics";

/// What admin and the control socket know besides.
pub(super) const PATHS: &str = "/ /v1/status /v1/endpoints /v1/connections /v1/dns /v1/hops /v1/config /v1/explain /v1/version /v1/events \
                     /v1/history /v1/slo /v1/incidents";

/// One line of the list of requests in the reference.
#[cfg(test)]
pub(super) struct Documented {
    pub(super) request: &'static str,
    pub(super) answer: &'static str,
}

#[cfg(test)]
const fn doc(request: &'static str, answer: &'static str) -> Documented {
    Documented { request, answer }
}

/// Every request, for the reference page.
#[cfg(test)]
#[rustfmt::skip]
pub(super) const ROUTES: &[Documented] = &[
    doc("GET /", "the status page"),
    doc("GET /livez", "200 while the control loop and every worker make progress (also `/live`, `/liveness`)"),
    doc("GET /startupz", "200 once the listeners accept; never 503 again (also `/startup`)"),
    doc("GET /readyz", "200 while new connections are accepted (also `/ready`, `/readiness`, `/healthz`); `?upstream=any`, `all` or a number asks for that once; `?verbose` lists the checks"),
    doc("GET /metrics", "Prometheus text format; see `entryway guide reference metrics`"),
    doc("GET /v1/status", "listeners and upstreams"),
    doc("GET /v1/endpoints", "endpoints with their addresses, states and probes"),
    doc("GET /v1/connections", "open connections, oldest first; `?limit=` (1000)"),
    doc("GET /v1/dns", "names, their addresses, and what was wrong with the last lookup"),
    doc("GET /v1/hops", "the hops on the way to the upstreams, each with its state and last output"),
    doc("GET /v1/config", "the settings in force, each with its source"),
    doc("GET /v1/explain", "where a new connection would go, and why; `?upstream=`, `?what_if=zone-down=ZONE`"),
    doc("GET /v1/events", "what happens, as server-sent events"),
    doc("GET /v1/history", "probes, connect times and states by minute; `?endpoint=`, `?minutes=` (60, at most 1440)"),
    doc("GET /v1/slo", "connections that reached an upstream since the start, clients that gave up before counted as failed; `?target=` in percent (99.9)"),
    doc("GET /v1/incidents", "snapshots taken when an upstream was down, answered as another system, or changed state repeatedly"),
    doc("GET /v1/incidents/{id}", "one of them, with the state and the events around it"),
    doc("GET /v1/version", "as `entryway version --output json`"),
    doc("POST /v1/endpoints/{name}/drain", "no new connections to it; connections at rest are closed; `?upstream=`"),
    doc("POST /v1/endpoints/{name}/ready", "puts it back into use; `?upstream=`"),
    doc("POST /v1/endpoints/{name}/probe", "probes its addresses now; `?upstream=`"),
    doc("POST /v1/connections/{id}/close", "resets both sides of one connection (`conn.reason` = `killed`)"),
    doc("POST /v1/probe", "probes all addresses now"),
    doc("POST /v1/reload", "reads the settings again; 422 and no change where they are wrong; `?dry_run=1`"),
    doc("POST /v1/upgrade", "starts the process that takes over, and answers once it serves; `?binary=`, `?config=`, `?max_drain=`; at the control socket only; 422 where its settings are wrong, 503 where it does not come up or no upgrade is possible now, and no change"),
    doc("POST /v1/loglevel", "changes the log level until the next reload; `?level=`"),
    doc("POST /v1/shutdown", "begins the drain"),
];

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListenerKind {
    /// `admin.bind`.
    Admin,
    /// `admin.metrics_bind`.
    Metrics,
    /// The control socket.
    Control,
}

/// Everything a request needs.
#[derive(Debug)]
pub(super) struct RequestHandler {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) events: Events,
    pub(super) history: HistoryRecorder,
    pub(super) incidents: IncidentLog,
    /// Ends streams when the listeners close.
    pub(super) stop: DrainWatcher,
    /// Hosts that `admin.bind` answers to.
    pub(super) hosts: Vec<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) control_socket: Option<String>,
    pub(super) own_uid: u32,
    /// Holds back the log lines about refused changes: anybody on the machine can cause them.
    pub(super) refusals: RateLimit,
}

/// At most one in a second.
#[derive(Debug, Default)]
pub(super) struct RateLimit(AtomicU64);

/// Where a path leads.
enum Route {
    Live,
    Started,
    Ready,
    Metrics,
    Status,
    Endpoints,
    Connections,
    Dns,
    Hops,
    Config,
    Explain,
    Version,
    Page,
    Events,
    History,
    Slo,
    Incidents,
    Incident(String),
    EndpointAction(EndpointAction, Option<String>),
    Close(u64),
    Reload,
    Upgrade,
    LogLevel,
    Shutdown,
}

// === impl Route ===

impl Route {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/livez" | "/live" | "/liveness" => Route::Live,
            "/startupz" | "/startup" => Route::Started,
            "/readyz" | "/ready" | "/readiness" | "/healthz" => Route::Ready,
            "/metrics" => Route::Metrics,
            "/v1/status" => Route::Status,
            "/v1/endpoints" => Route::Endpoints,
            "/v1/connections" => Route::Connections,
            "/v1/dns" => Route::Dns,
            "/v1/hops" => Route::Hops,
            "/v1/config" => Route::Config,
            "/v1/explain" => Route::Explain,
            "/v1/version" => Route::Version,
            "/" => Route::Page,
            "/v1/events" => Route::Events,
            "/v1/history" => Route::History,
            "/v1/slo" => Route::Slo,
            "/v1/incidents" => Route::Incidents,
            "/v1/probe" => Route::EndpointAction(EndpointAction::Probe, None),
            "/v1/reload" => Route::Reload,
            "/v1/upgrade" => Route::Upgrade,
            "/v1/loglevel" => Route::LogLevel,
            "/v1/shutdown" => Route::Shutdown,
            _ if path.starts_with("/v1/connections/") => {
                let id = path
                    .strip_prefix("/v1/connections/")?
                    .strip_suffix("/close")?;
                Route::Close(id.parse().ok()?)
            }
            _ if path.starts_with("/v1/incidents/") => {
                Route::Incident(decode(path.trim_start_matches("/v1/incidents/")))
            }
            _ => {
                let (name, order) = path.strip_prefix("/v1/endpoints/")?.split_once('/')?;
                let order = [
                    EndpointAction::Drain,
                    EndpointAction::Ready,
                    EndpointAction::Probe,
                ]
                .into_iter()
                .find(|known| known.as_str() == order)?;
                Route::EndpointAction(order, Some(decode(name)))
            }
        })
    }

    fn changes(&self) -> bool {
        matches!(
            self,
            Route::EndpointAction(..)
                | Route::Close(_)
                | Route::Reload
                | Route::Upgrade
                | Route::LogLevel
                | Route::Shutdown
        )
    }

    /// Whether `metrics_bind` knows it.
    fn is_public(&self) -> bool {
        matches!(
            self,
            Route::Live | Route::Started | Route::Ready | Route::Metrics
        )
    }
}

// === impl RateLimit ===

impl RateLimit {
    fn admits(&self) -> bool {
        let now = clock::now().as_millis() + 1000;
        let last = self.0.load(Relaxed);
        now - last >= 1000 && self.0.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }
}

// === impl Handler ===

impl RequestHandler {
    /// Answers one request.
    pub(super) async fn answer(&self, kind: ListenerKind, request: Request) -> Reply {
        if kind == ListenerKind::Admin && !access::host_allowed(&request, &self.hosts) {
            return http::problem(
                StatusCode::MISDIRECTED_REQUEST,
                "host",
                "not a host of ours",
                "the Host of the request is not in admin.allowed_hosts",
                "ask 127.0.0.1 or localhost, or add the name to admin.allowed_hosts",
            );
        }
        if kind == ListenerKind::Control && !access::peer_allowed(request.caller, self.own_uid) {
            self.record_refusal(&request, "peer is neither our user nor root");
            return http::problem(
                StatusCode::FORBIDDEN,
                "peer",
                "not your control socket",
                "only the user that runs entryway, or root, may use it",
                "run the command as that user",
            );
        }
        let route = Route::of(&request.path)
            .filter(|route| kind != ListenerKind::Metrics || route.is_public());
        let Some(route) = route else {
            return http::problem(
                StatusCode::NOT_FOUND,
                "path",
                "no such path",
                format!("{} is not known at this listener", request.path),
                match kind {
                    ListenerKind::Metrics => PUBLIC_PATHS.to_owned(),
                    ListenerKind::Admin | ListenerKind::Control => {
                        format!("{PUBLIC_PATHS} {PATHS}")
                    }
                },
            );
        };
        let fits = if route.changes() {
            request.method == Method::POST
        } else {
            matches!(request.method, Method::GET | Method::HEAD)
        };
        if !fits {
            return not_allowed(route.changes());
        }
        if !route.changes() {
            return self.read(&route, &request);
        }
        if kind == ListenerKind::Admin
            && let Some(why) = access::change_refused(&request, self.token_file.as_deref()).await
        {
            self.record_refusal(&request, why);
            return http::problem(
                StatusCode::FORBIDDEN,
                "change",
                "changes are not allowed here",
                why,
                match &self.control_socket {
                    Some(path) => format!("use the control socket {path}, or set admin.token_file"),
                    None => {
                        "set admin.token_file and send its content as X-Entryway-Token".to_owned()
                    }
                },
            );
        }
        // It names a program to run: not for whoever holds the token.
        if kind == ListenerKind::Admin && matches!(route, Route::Upgrade) {
            self.record_refusal(&request, "an upgrade is ordered at the control socket only");
            return http::problem(
                StatusCode::FORBIDDEN,
                "change",
                "changes are not allowed here",
                "an upgrade starts a program; only the control socket takes it",
                "entryway upgrade, as the user that runs entryway",
            );
        }
        let reply = self.change(&route, &request).await;
        self.record_change(&request, reply.status());
        reply
    }

    fn read(&self, route: &Route, request: &Request) -> Reply {
        match route {
            Route::Live => health("not alive", &self.backend.health().live(), request),
            Route::Started => health("not started", &self.backend.health().started(), request),
            Route::Ready => match request.param("upstream").map(str::parse).transpose() {
                Ok(wanted) => health("not ready", &self.backend.health().ready(wanted), request),
                Err(what) => bad(what),
            },
            Route::Metrics => http::reply(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                Body::slices(self.backend.metrics()),
            ),
            Route::Status => http::json(StatusCode::OK, &versioned(self.status())),
            Route::Endpoints => http::json(StatusCode::OK, &versioned(self.backend.endpoints())),
            Route::Connections => match request.param("limit").map(str::parse).transpose() {
                Ok(limit) => connections(self.backend.connections(limit.unwrap_or(CONNECTIONS))),
                Err(_) => bad("`limit` is not a number"),
            },
            Route::Dns => http::json(StatusCode::OK, &versioned(self.backend.dns())),
            Route::Hops => http::json(StatusCode::OK, &versioned(self.backend.hops())),
            Route::Config => {
                let settings = serde_json::json!({ "settings": self.backend.config() });
                http::json(StatusCode::OK, &versioned(settings))
            }
            Route::Explain => {
                let what_if: Vec<String> = request
                    .query
                    .iter()
                    .filter(|(key, _)| key == "what_if")
                    .map(|(_, value)| value.clone())
                    .collect();
                match self.backend.explain(request.param("upstream"), &what_if) {
                    Ok(explained) => http::json(StatusCode::OK, &versioned(explained)),
                    Err(refusal) => refusal.reply(),
                }
            }
            Route::Version => http::json(StatusCode::OK, &versioned(api_types::version())),
            Route::Page => page::reply(&self.page()),
            Route::Events => {
                let last = request.header("last-event-id");
                sse::stream(self.events.clone(), last, self.stop.clone())
            }
            Route::History => self.history(request),
            Route::Slo => match request.param("target").unwrap_or("99.9").parse() {
                Ok(target) if target > 0.0 && target <= 100.0 => {
                    let window_s = self.backend.status().uptime_s;
                    let slo = slo::evaluate(&self.backend.registry(), target, window_s);
                    http::json(StatusCode::OK, &versioned(slo))
                }
                _ => bad("`target` is not a percentage above 0 and at most 100"),
            },
            Route::Incidents => {
                let incidents = self.incidents.list();
                http::json(StatusCode::OK, &versioned(Incidents { incidents }))
            }
            Route::Incident(id) => match self.incidents.report(id, self.events.recent()) {
                Some(report) => http::json(StatusCode::OK, &versioned(report)),
                None => BackendError::unknown_incident(id).reply(),
            },
            Route::EndpointAction(..)
            | Route::Close(_)
            | Route::Reload
            | Route::Upgrade
            | Route::LogLevel
            | Route::Shutdown => not_allowed(route.changes()),
        }
    }

    fn status(&self) -> api_types::StatusJson {
        let health = self.backend.health();
        let mut status = self.backend.status();
        status.version = api_types::version().version;
        status.pid = std::process::id();
        status.ready = all_ok(&health.ready(None));
        status.draining = health.draining;
        status.control_socket.clone_from(&self.control_socket);
        status
    }

    fn page(&self) -> Page {
        let recent = self.events.recent();
        let now = self.sample();
        Page {
            status: self.status(),
            faults: self.backend.health().faults,
            hops: self.backend.hops().hops,
            endpoints: self.backend.endpoints().endpoints,
            explain: self.backend.explain(None, &[]).unwrap_or_default(),
            connections: self.backend.connections(page::CONNECTIONS),
            history: self.history.read(None, page::MINUTES, now),
            events: recent.after(
                recent.last().saturating_sub(page::EVENTS as u64),
                page::EVENTS,
            ),
        }
    }

    /// Brings the running minute of the history up to date.
    fn sample(&self) -> Moment {
        let now = clock::now();
        for snapshot in self.backend.snapshots() {
            self.history.sample(&snapshot, now);
        }
        now
    }

    fn history(&self, request: &Request) -> Reply {
        let minutes = match request.param("minutes").map(str::parse).transpose() {
            Ok(minutes) => minutes.unwrap_or(page::MINUTES),
            Err(_) => return bad("`minutes` is not a number"),
        };
        if minutes == 0 || minutes > history::MINUTES {
            return bad(format!("`minutes` is 1 to {}", history::MINUTES));
        }
        let endpoint = request.param("endpoint");
        let known = self.backend.endpoints().endpoints;
        if let Some(name) = endpoint
            && !known.iter().any(|known| known.name == name)
        {
            return BackendError::unknown_endpoint(name).reply();
        }
        let now = self.sample();
        let history = self.history.read(endpoint, minutes, now);
        http::json(StatusCode::OK, &versioned(history))
    }

    async fn change(&self, route: &Route, request: &Request) -> Reply {
        match route {
            Route::EndpointAction(order, name) => {
                match self
                    .backend
                    .order(*order, request.param("upstream"), name.as_deref())
                {
                    Ok(changed) => http::json(StatusCode::OK, &versioned(changed)),
                    Err(refusal) => refusal.reply(),
                }
            }
            Route::Close(id) => match self.backend.close(*id) {
                Ok(()) => {
                    let now = serde_json::json!({ "closed": id });
                    http::json(StatusCode::OK, &versioned(now))
                }
                Err(refusal) => refusal.reply(),
            },
            Route::Reload => match self.backend.reload(request.flag("dry_run")).await {
                Ok(reloaded) => http::json(StatusCode::OK, &versioned(reloaded)),
                Err(refusal) => refusal.reply(),
            },
            Route::Upgrade => self.upgrade(request).await,
            Route::LogLevel => match request.param("level").map(parse_level) {
                Some(Ok(level)) => {
                    self.events.log().set_level(level);
                    let now = serde_json::json!({ "level": request.param("level") });
                    http::json(StatusCode::OK, &versioned(now))
                }
                Some(Err(what)) => bad(what),
                None => bad("say ?level=error|warn|info|debug|trace"),
            },
            Route::Shutdown => {
                self.backend.shutdown();
                let now = serde_json::json!({ "draining": true });
                http::json(StatusCode::ACCEPTED, &versioned(now))
            }
            _ => not_allowed(route.changes()),
        }
    }

    async fn upgrade(&self, request: &Request) -> Reply {
        let path = |key| request.param(key).map(PathBuf::from);
        let max_drain = request.param("max_drain").map(crate::duration::parse);
        let max_drain = match max_drain.transpose() {
            Ok(max_drain) => max_drain,
            Err(_) => return bad("`max_drain` is not a duration, such as 30s or 5m"),
        };
        let order = UpgradeOrder {
            binary: path("binary"),
            config: path("config"),
            max_drain,
        };
        match self.backend.upgrade(order).await {
            Ok(upgraded) => http::json(StatusCode::OK, &versioned(upgraded)),
            Err(refusal) => refusal.reply(),
        }
    }

    fn record_change(&self, request: &Request, status: StatusCode) {
        let message = match status.is_success() {
            true => "done",
            false => "not done",
        };
        let (client, query) = (Client::of(request), query_of(request));
        event!(
            self.events,
            INFO,
            "admin.change",
            message,
            admin.path = request.path,
            admin.query = query,
            client.address = client.address.map(display),
            client.port = client.port,
            client.uid = client.uid,
            http.status = status.as_u16(),
        );
    }

    fn record_refusal(&self, request: &Request, why: &'static str) {
        if !self.refusals.admits() {
            return;
        }
        let (client, query) = (Client::of(request), query_of(request));
        event!(
            self.events,
            WARN,
            "admin.change",
            "refused",
            admin.path = request.path,
            admin.query = query,
            client.address = client.address.map(display),
            client.port = client.port,
            client.uid = client.uid,
            error = why,
        );
    }
}

/// Where a request came from, as fields of an event.
#[derive(Default)]
struct Client {
    address: Option<IpAddr>,
    port: Option<u16>,
    uid: Option<u32>,
}

impl Client {
    fn of(request: &Request) -> Self {
        match request.caller {
            Caller::Tcp(address) => Self {
                address: Some(address.ip()),
                port: Some(address.port()),
                uid: None,
            },
            Caller::Unix(uid) => Self {
                uid,
                ..Self::default()
            },
        }
    }
}

fn query_of(request: &Request) -> Option<String> {
    let pairs: Vec<String> = request
        .query
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_requests_exist_and_change_by_post_alone() {
        for one in ROUTES {
            let (method, path) = one.request.split_once(' ').unwrap();
            let path = path.replace("{name}", "a").replace("{id}", "1");
            let route = Route::of(&path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(route.changes(), method == "POST", "{path}");
        }
    }
}
