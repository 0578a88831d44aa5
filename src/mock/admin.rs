//! The HTTP port that switches zones (`POST /zones/ZONE?mode=MODE&latency=D…`) and shows their counts (`GET /zones`).

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::config::Behaviour;
use super::mode::ZoneMode;
use super::zone::{Zone, find};
use crate::duration;
use crate::settings::byte_size;

/// Serves the port until the mock ends.
pub(super) async fn serve(socket: StdListener, zones: Vec<Arc<Zone>>) {
    let Ok(listener) = TcpListener::from_std(socket) else {
        return;
    };
    let zones: Arc<[Arc<Zone>]> = zones.into();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let zones = Arc::clone(&zones);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let zones = Arc::clone(&zones);
                async move { Ok::<_, Infallible>(answer(&zones, &request).await) }
            });
            // A client that goes away needs no message.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(zones: &[Arc<Zone>], request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().trim_end_matches('/');
    if path == "/zones" {
        return if request.method() == Method::GET {
            reply(
                StatusCode::OK,
                &zones.iter().map(|zone| row(zone)).collect(),
            )
        } else {
            problem(StatusCode::METHOD_NOT_ALLOWED, "GET /zones lists the zones")
        };
    }
    let Some(name) = path.strip_prefix("/zones/") else {
        return problem(
            StatusCode::NOT_FOUND,
            "paths: GET /zones, POST /zones/ZONE?mode=MODE",
        );
    };
    let Some(zone) = find(zones, name) else {
        let names: Vec<&str> = zones.iter().map(|zone| zone.name()).collect();
        let detail = format!("no zone {name:?}; zones: {}", names.join(" "));
        return problem(StatusCode::NOT_FOUND, &detail);
    };
    match *request.method() {
        Method::GET => return reply(StatusCode::OK, &row(zone)),
        Method::POST => {}
        _ => return problem(StatusCode::METHOD_NOT_ALLOWED, "POST ?mode=MODE switches"),
    }
    let query = request.uri().query().unwrap_or_default();
    let (mode, behaviour) = match read_changes(query, zone.behaviour()) {
        Ok(changes) => changes,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, &detail),
    };
    if let Some(mode) = mode
        && let Err(error) = zone.set_mode(mode).await
    {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
    }
    zone.set_behaviour(behaviour);
    reply(StatusCode::OK, &row(zone))
}

/// What a query asks for: a mode, and the behaviour with the values it names.
fn read_changes(
    query: &str,
    mut behaviour: Behaviour,
) -> Result<(Option<ZoneMode>, Behaviour), String> {
    let mut mode = None;
    let mut count = 0;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        count += 1;
        let limit = || match &*value {
            "off" => Ok(None),
            value => duration::parse(value).map(Some),
        };
        match &*key {
            "mode" => mode = Some(value.parse().map_err(|error| format!("{error}"))?),
            "latency" => behaviour.latency = value.parse().map_err(|error| format!("{error}"))?,
            "slow-by" => behaviour.slow_by = duration::parse(&value)?,
            "body" if value == "off" => behaviour.body = None,
            "body" => behaviour.body = Some(byte_size::parse(&value)?.0 as usize),
            "idle-cut" => behaviour.idle_cut = limit()?,
            "idle-cut-silent" => behaviour.idle_cut_silent = limit()?,
            other => {
                return Err(format!(
                    "unknown parameter {other:?}; parameters: mode latency slow-by body idle-cut idle-cut-silent"
                ));
            }
        }
    }
    match count {
        0 => Err(ZoneMode::from_str("").map_or_else(|error| error.to_string(), |_| String::new())),
        _ => Ok((mode, behaviour)),
    }
}

fn row(zone: &Zone) -> Value {
    let counts = zone.counts();
    json!({
        "zone": zone.name(),
        "address": zone.address(),
        "mode": zone.mode().as_str(),
        "accepted": counts.accepted,
        "requests": counts.requests,
    })
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({ "type": "about:blank", "title": title, "detail": detail });
    let mut response = reply(status, &body);
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}
