//! The routes: which request gets which answer, after the rules have had their say.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::access;
use super::api_types::{self, versioned};
use super::backend::{Backend, EndpointAction};
use super::health::all_ok;
use super::responses::{bad, connections, health, not_allowed};
use crate::clock;
use crate::events::Event;
use crate::events::{Events, parse_level};
use crate::http::query::decode;
use crate::http::{self, Body, Caller, Method, Reply, Request, StatusCode};

/// `/v1/connections` without `?limit=`.
const CONNECTIONS: usize = 1000;

/// What every listener knows.
const PUBLIC_PATHS: &str = "/livez /startupz /readyz /metrics";

/// What admin and the control socket know besides.
const PATHS: &str =
    "/v1/status /v1/endpoints /v1/connections /v1/dns /v1/config /v1/explain /v1/version";

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `admin.bind`.
    Admin,
    /// `admin.metrics_bind`.
    Metrics,
    /// The control socket.
    Control,
}

/// Everything a request needs.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) events: Events,
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
    Config,
    Explain,
    Version,
    EndpointAction(EndpointAction, Option<String>),
    Reload,
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
            "/v1/config" => Route::Config,
            "/v1/explain" => Route::Explain,
            "/v1/version" => Route::Version,
            "/v1/probe" => Route::EndpointAction(EndpointAction::Probe, None),
            "/v1/reload" => Route::Reload,
            "/v1/loglevel" => Route::LogLevel,
            "/v1/shutdown" => Route::Shutdown,
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
            Route::EndpointAction(..) | Route::Reload | Route::LogLevel | Route::Shutdown
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
    fn now(&self) -> bool {
        let now = clock::now().as_millis() + 1000;
        let last = self.0.load(Relaxed);
        now - last >= 1000 && self.0.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }
}

// === impl Handler ===

impl Handler {
    /// Answers one request.
    pub(super) async fn answer(&self, kind: Kind, request: Request) -> Reply {
        if kind == Kind::Admin && !access::host_allowed(&request, &self.hosts) {
            return http::problem(
                StatusCode::MISDIRECTED_REQUEST,
                "host",
                "not a host of ours",
                "the Host of the request is not in admin.allowed_hosts",
                "ask 127.0.0.1 or localhost, or add the name to admin.allowed_hosts",
            );
        }
        if kind == Kind::Control && !access::peer_allowed(request.caller, self.own_uid) {
            self.tell_refusal(&request, "peer is neither our user nor root");
            return http::problem(
                StatusCode::FORBIDDEN,
                "peer",
                "not your control socket",
                "only the user that runs entryway, or root, may use it",
                "run the command as that user",
            );
        }
        let route =
            Route::of(&request.path).filter(|route| kind != Kind::Metrics || route.is_public());
        let Some(route) = route else {
            return http::problem(
                StatusCode::NOT_FOUND,
                "path",
                "no such path",
                format!("{} is not known at this listener", request.path),
                match kind {
                    Kind::Metrics => PUBLIC_PATHS.to_owned(),
                    Kind::Admin | Kind::Control => format!("{PUBLIC_PATHS} {PATHS}"),
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
        if kind == Kind::Admin
            && let Some(why) = access::change_refused(&request, self.token_file.as_deref())
        {
            self.tell_refusal(&request, why);
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
        let reply = self.change(&route, &request).await;
        self.tell_change(&request, reply.status());
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
            Route::Status => {
                let health = self.backend.health();
                let mut value = self.backend.status();
                value.version = api_types::version().version;
                value.pid = std::process::id();
                value.ready = all_ok(&health.ready(None));
                value.draining = health.draining;
                value.control_socket.clone_from(&self.control_socket);
                http::json(StatusCode::OK, &versioned(value))
            }
            Route::Endpoints => http::json(StatusCode::OK, &versioned(self.backend.endpoints())),
            Route::Connections => match request.param("limit").map(str::parse).transpose() {
                Ok(limit) => connections(self.backend.connections(limit.unwrap_or(CONNECTIONS))),
                Err(_) => bad("`limit` is not a number"),
            },
            Route::Dns => http::json(StatusCode::OK, &versioned(self.backend.dns())),
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
            Route::EndpointAction(..) | Route::Reload | Route::LogLevel | Route::Shutdown => {
                not_allowed(route.changes())
            }
        }
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
            Route::Reload => match self.backend.reload(request.flag("dry_run")).await {
                Ok(reloaded) => http::json(StatusCode::OK, &versioned(reloaded)),
                Err(refusal) => refusal.reply(),
            },
            Route::LogLevel => match request.param("level").map(parse_level) {
                Some(Ok(level)) => {
                    self.events.log().set_level(level);
                    let now = serde_json::json!({ "level": level.as_str() });
                    http::json(StatusCode::OK, &versioned(now))
                }
                Some(Err(what)) => bad(what),
                None => bad("say ?level=error|warn|info|debug"),
            },
            Route::Shutdown => {
                self.backend.shutdown();
                let now = serde_json::json!({ "draining": true });
                http::json(StatusCode::ACCEPTED, &versioned(now))
            }
            _ => not_allowed(route.changes()),
        }
    }

    fn tell_change(&self, request: &Request, status: StatusCode) {
        let event = Event::info(
            "admin.change",
            if status.is_success() {
                "done"
            } else {
                "not done"
            },
        );
        self.events
            .emit(whose(event, request).with("http.status", status.as_u16()));
    }

    fn tell_refusal(&self, request: &Request, why: &'static str) {
        if self.refusals.now() {
            let event = Event::warn("admin.change", "refused");
            self.events.emit(whose(event, request).with("error", why));
        }
    }
}

fn whose(event: Event, request: &Request) -> Event {
    let query: Vec<String> = request
        .query
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let event = event
        .with("admin.path", request.path.clone())
        .maybe("admin.query", (!query.is_empty()).then(|| query.join("&")));
    match request.caller {
        Caller::Tcp(address) => event
            .with("client.address", address.ip().to_string())
            .with("client.port", address.port()),
        Caller::Unix(uid) => event.maybe("client.uid", uid),
    }
}
