//! Toxiproxy's HTTP API over the engine, and what goes beyond it: `/faults` and the dead-man switch.
//!
//! Status codes and bodies are those of Toxiproxy 2.12.0, except that a proxy has no `Logger`. Programs that drive a
//! Toxiproxy drive this one unchanged.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::drill::{DEADMAN, DrillKind};
use super::engine::Engine;
use super::proxy::{EngineError, ProxyView};
use super::toxic::{Invalid, from_json, object};
use crate::http::{Body, Bytes, HeaderValue, Method, Reply, Request, StatusCode, query};

/// The version that clients compare themselves with; ours is in the `Server` header.
const VERSION: &str = "2.12.0";

/// Answers requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    engine: Engine,
}

#[derive(Debug)]
struct ApiError {
    status: StatusCode,
    text: String,
}

/// What a request says about a proxy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ProxyRequest {
    name: Option<String>,
    listen: Option<String>,
    upstream: Option<String>,
    enabled: Option<bool>,
}

type ApiResult = Result<Reply, ApiError>;

/// What a request asks for.
enum Call<'a> {
    Version,
    Reset,
    Proxies,
    Create,
    Populate,
    Proxy(&'a str),
    Update(&'a str),
    Delete(&'a str),
    Toxics(&'a str),
    SetToxic(&'a str),
    Toxic(&'a str, &'a str),
    UpdateToxic(&'a str, &'a str),
    RemoveToxic(&'a str, &'a str),
    Faults,
    Deadman,
    SetDrill,
    KeepDrill,
    EndDrill,
    ClaimDrill,
    ReleaseDrill,
}

// === impl Call ===

impl<'a> Call<'a> {
    fn of(method: &Method, segments: &[&'a str]) -> Result<Self, Box<Reply>> {
        let (get, post) = (*method == Method::GET, *method == Method::POST);
        let patch = post || *method == Method::PATCH;
        let delete = *method == Method::DELETE;
        if segments.iter().skip(1).any(|segment| segment.is_empty()) {
            return Err(Box::new(not_found()));
        }
        Ok(match *segments {
            ["version"] if get => Self::Version,
            ["reset"] if post => Self::Reset,
            ["proxies"] if get => Self::Proxies,
            ["proxies"] if post => Self::Create,
            ["populate"] if post => Self::Populate,
            ["proxies", proxy] if get => Self::Proxy(proxy),
            ["proxies", proxy] if patch => Self::Update(proxy),
            ["proxies", proxy] if delete => Self::Delete(proxy),
            ["proxies", proxy, "toxics"] if get => Self::Toxics(proxy),
            ["proxies", proxy, "toxics"] if post => Self::SetToxic(proxy),
            ["proxies", proxy, "toxics", toxic] if get => Self::Toxic(proxy, toxic),
            ["proxies", proxy, "toxics", toxic] if patch => Self::UpdateToxic(proxy, toxic),
            ["proxies", proxy, "toxics", toxic] if delete => Self::RemoveToxic(proxy, toxic),
            ["faults"] if get => Self::Faults,
            ["faults", "deadman"] if post => Self::Deadman,
            ["faults", "drill"] if post => Self::SetDrill,
            ["faults", "drill"] if delete => Self::EndDrill,
            ["faults", "drill", "alive"] if post => Self::KeepDrill,
            ["faults", "drill", "claim"] if post => Self::ClaimDrill,
            ["faults", "drill", "claim"] if delete => Self::ReleaseDrill,
            ["version" | "reset" | "proxies" | "populate" | "faults"]
            | ["proxies", _]
            | ["proxies", _, "toxics"]
            | ["proxies", _, "toxics", _]
            | ["faults", "deadman" | "drill"]
            | ["faults", "drill", "alive" | "claim"] => {
                let mut reply = plain(StatusCode::METHOD_NOT_ALLOWED, "");
                reply.headers_mut().remove("content-type");
                return Err(Box::new(reply));
            }
            _ => return Err(Box::new(not_found())),
        })
    }
}

// === impl Api ===

impl Api {
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }

    pub async fn answer(&self, request: Request) -> Reply {
        // Decoded before it is split, as Toxiproxy does: a name with a slash is in no path.
        let path = query::decode(&request.path);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let call = match Call::of(&request.method, &segments) {
            Ok(call) => call,
            Err(reply) => return *reply,
        };
        let is_browser = request
            .header("user-agent")
            .is_some_and(|agent| agent.starts_with("Mozilla/"));
        // A page that a browser shows reaches loopback addresses too.
        let from_page = request.method != Method::GET && request.header("origin").is_some();
        if is_browser || from_page {
            return plain(StatusCode::FORBIDDEN, "User agent not allowed\n");
        }
        match self.carry_out(call, &request).await {
            Ok(reply) => reply,
            Err(error) => {
                let body = json!({"error": error.text, "status": error.status.as_u16()});
                plain(error.status, format!("{body}\n"))
            }
        }
    }

    async fn carry_out(&self, call: Call<'_>, request: &Request) -> ApiResult {
        let engine = &self.engine;
        let body = &request.body;
        Ok(match call {
            Call::Version => {
                let body = format!("{{\"version\": \"{VERSION}\"}}\n");
                let mut reply = json_reply(StatusCode::OK, body);
                reply.headers_mut().insert(
                    "content-type",
                    HeaderValue::from_static("application/json;charset=utf-8"),
                );
                reply
            }
            Call::Reset => {
                engine.reset().await?;
                no_content()
            }
            Call::Proxies => {
                let proxies: Map<String, Value> = engine
                    .proxies()
                    .into_iter()
                    .map(|proxy| (proxy.name.clone(), proxy_json(&proxy)))
                    .collect();
                shown(StatusCode::OK, &Value::Object(proxies))
            }
            Call::Create => self.create(body).await?,
            Call::Populate => self.populate(body).await?,
            Call::Proxy(proxy) => shown(StatusCode::OK, &proxy_json(&engine.proxy(proxy)?)),
            Call::Update(proxy) => self.update(proxy, body).await?,
            Call::Delete(proxy) => {
                engine.remove(proxy).await?;
                no_content()
            }
            Call::Toxics(proxy) => shown(StatusCode::OK, &Value::Array(engine.toxics(proxy)?)),
            Call::SetToxic(proxy) => shown(StatusCode::OK, &engine.set_toxic(proxy, body)?),
            Call::Toxic(proxy, toxic) => shown(StatusCode::OK, &engine.toxic(proxy, toxic)?),
            Call::UpdateToxic(proxy, toxic) => {
                shown(StatusCode::OK, &engine.update_toxic(proxy, toxic, body)?)
            }
            Call::RemoveToxic(proxy, toxic) => {
                engine.remove_toxic(proxy, toxic)?;
                no_content()
            }
            Call::Faults => shown(StatusCode::OK, &engine.faults()),
            Call::Deadman => {
                let within = request.param("within").unwrap_or("");
                let within = crate::duration::parse(within)
                    .map_err(|why| ApiError::bad(format!("within: {why}")))?;
                engine.arm_deadman(within);
                no_content()
            }
            Call::SetDrill => shown(StatusCode::OK, &self.set_drill(request)?),
            Call::KeepDrill => {
                engine.keep_drill(DEADMAN)?;
                no_content()
            }
            Call::EndDrill => {
                engine.end_drill()?;
                no_content()
            }
            Call::ClaimDrill => {
                engine.claim_drill(claimant(request)?)?;
                no_content()
            }
            Call::ReleaseDrill => {
                engine.release_drill(claimant(request)?);
                no_content()
            }
        })
    }

    fn set_drill(&self, request: &Request) -> Result<Value, ApiError> {
        let kind = request.param("kind").unwrap_or("");
        let kind = DrillKind::parse(kind).ok_or_else(|| {
            let known: Vec<&str> = DrillKind::ALL.iter().map(|kind| kind.as_str()).collect();
            ApiError::bad(format!("kind must be one of {}", known.join(" ")))
        })?;
        let ttl = request.param("ttl").map(crate::duration::parse).transpose();
        let ttl = ttl.map_err(|why| ApiError::bad(format!("ttl: {why}")))?;
        let zone = request.param("zone").filter(|zone| !zone.is_empty());
        let by = request.param("by");
        Ok(self.engine.set_drill(kind, zone, ttl, by)?)
    }

    async fn create(&self, body: &[u8]) -> ApiResult {
        let request: ProxyRequest = parse(body)?;
        let name = required(request.name, "name")?;
        let upstream = required(request.upstream, "upstream")?;
        let listen = request.listen.unwrap_or_default();
        let enabled = request.enabled.unwrap_or(true);
        let proxy = self
            .engine
            .create(&name, &listen, &upstream, enabled)
            .await?;
        Ok(shown(StatusCode::CREATED, &proxy_json(&proxy)))
    }

    async fn update(&self, name: &str, body: &[u8]) -> ApiResult {
        let proxy = self.engine.proxy(name)?;
        let request: ProxyRequest = parse(body)?;
        let listen = request.listen.unwrap_or(proxy.listen);
        let upstream = request.upstream.unwrap_or(proxy.upstream);
        let enabled = request.enabled.unwrap_or(proxy.enabled);
        let proxy = self
            .engine
            .update(name, &listen, &upstream, enabled)
            .await?;
        Ok(shown(StatusCode::OK, &proxy_json(&proxy)))
    }

    async fn populate(&self, body: &[u8]) -> ApiResult {
        let requests = match parse_all(body) {
            Ok(requests) => requests,
            Err(error) => return Ok(populated(Some(error), None)),
        };
        for (index, request) in requests.iter().enumerate() {
            for (value, what) in [(&request.name, "name"), (&request.upstream, "upstream")] {
                if value.as_ref().is_none_or(String::is_empty) {
                    let text = format!("missing required field: {what} at proxy {}", index + 1);
                    return Ok(populated(Some(ApiError::bad(text)), None));
                }
            }
        }
        let mut done = Vec::new();
        for request in requests {
            match self.replace(request).await {
                Ok(proxy) => done.push(proxy_json(&proxy)),
                Err(error) => return Ok(populated(Some(error), Some(done))),
            }
        }
        Ok(populated(None, Some(done)))
    }

    async fn replace(&self, request: ProxyRequest) -> Result<ProxyView, ApiError> {
        let name = request.name.unwrap_or_default();
        let upstream = request.upstream.unwrap_or_default();
        let listen = request.listen.unwrap_or_default();
        let enabled = request.enabled.unwrap_or(true);
        Ok(self
            .engine
            .create_or_replace(&name, &listen, &upstream, enabled)
            .await?)
    }
}

fn parse(body: &[u8]) -> Result<ProxyRequest, ApiError> {
    ProxyRequest::of(&from_json(body).map_err(EngineError::Invalid)?)
}

fn parse_all(body: &[u8]) -> Result<Vec<ProxyRequest>, ApiError> {
    let requests: Option<Vec<Value>> = from_json(body).map_err(EngineError::Invalid)?;
    requests
        .unwrap_or_default()
        .iter()
        .map(ProxyRequest::of)
        .collect()
}

/// Who drives a drill: any word that the caller has made up, of bounded length.
fn claimant(request: &Request) -> Result<&str, ApiError> {
    let by = request.param("by").unwrap_or("");
    match by.len() {
        1..=64 => Ok(by),
        _ => Err(ApiError::bad(
            "by must be a word of 1 to 64 bytes".to_owned(),
        )),
    }
}

fn required(value: Option<String>, what: &str) -> Result<String, ApiError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| ApiError::bad(format!("missing required field: {what}")))
}

/// The keys in Toxiproxy's order: `enabled listen name upstream toxics`, as its clients print them.
fn proxy_json(proxy: &ProxyView) -> Value {
    json!({
        "name": proxy.name,
        "listen": proxy.listen,
        "upstream": proxy.upstream,
        "enabled": proxy.enabled,
        "toxics": proxy.toxics,
    })
}

fn populated(error: Option<ApiError>, proxies: Option<Vec<Value>>) -> Reply {
    let status = error
        .as_ref()
        .map_or(StatusCode::CREATED, |error| error.status);
    let proxies = proxies.filter(|proxies| !proxies.is_empty());
    let mut body = json!({ "proxies": proxies });
    if let Some(error) = error {
        body["error"] = json!(error.text);
        body["status"] = json!(error.status.as_u16());
    }
    shown(status, &body)
}

fn shown(status: StatusCode, value: &Value) -> Reply {
    json_reply(status, value.to_string())
}

fn json_reply(status: StatusCode, body: String) -> Reply {
    with_server(crate::http::reply(
        status,
        "application/json",
        Body::whole(body),
    ))
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = with_server(crate::http::reply(
        status,
        "text/plain; charset=utf-8",
        Body::whole(body),
    ));
    reply.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    reply
}

fn no_content() -> Reply {
    let mut reply = with_server(crate::http::reply(
        StatusCode::NO_CONTENT,
        "application/json",
        Body::whole(""),
    ));
    reply.headers_mut().remove("content-type");
    reply
}

fn with_server(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(
        "server",
        HeaderValue::from_static(concat!("entryway/", env!("CARGO_PKG_VERSION"))),
    );
    reply
}

fn not_found() -> Reply {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

// === impl ProxyRequest ===

impl ProxyRequest {
    fn of(value: &Value) -> Result<Self, ApiError> {
        let given = object(value, "a proxy").map_err(EngineError::Invalid)?;
        serde_json::from_value(Value::Object(given))
            .map_err(|error| EngineError::Invalid(Invalid::Body(error.to_string())).into())
    }
}

// === impl ApiError ===

impl ApiError {
    fn bad(text: String) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            text,
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let (status, text) = match error {
            EngineError::ProxyNotFound => (StatusCode::NOT_FOUND, "proxy not found".to_owned()),
            EngineError::ProxyExists => (StatusCode::CONFLICT, "proxy already exists".to_owned()),
            EngineError::ToxicNotFound => (StatusCode::NOT_FOUND, "toxic not found".to_owned()),
            EngineError::ToxicExists => (StatusCode::CONFLICT, "toxic already exists".to_owned()),
            EngineError::Invalid(Invalid::Stream) => (
                StatusCode::BAD_REQUEST,
                "stream was invalid, can be either upstream or downstream".to_owned(),
            ),
            EngineError::Invalid(Invalid::Type) => {
                (StatusCode::BAD_REQUEST, "invalid toxic type".to_owned())
            }
            EngineError::Invalid(Invalid::Body(why)) => {
                (StatusCode::BAD_REQUEST, format!("bad request body: {why}"))
            }
            EngineError::Unknown(why) => (StatusCode::BAD_REQUEST, why),
            EngineError::Configured(why) => (StatusCode::FORBIDDEN, why),
            EngineError::DrillRuns(why) => (StatusCode::CONFLICT, why),
            EngineError::NoDrill => (StatusCode::NOT_FOUND, "no drill is set".to_owned()),
            EngineError::Listen(why) => (StatusCode::INTERNAL_SERVER_ERROR, why),
        };
        Self { status, text }
    }
}
