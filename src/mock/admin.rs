//! The HTTP port that switches zones (`POST /zones/ZONE?mode=MODE`) and counts (`GET /zones`).

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
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

use super::mode::Mode;
use super::zone::{Zone, find};

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
    let asked = query.split('&').find_map(|part| part.strip_prefix("mode="));
    match asked.unwrap_or_default().parse::<Mode>() {
        Err(unknown) => problem(StatusCode::BAD_REQUEST, &unknown.to_string()),
        Ok(mode) => match zone.set_mode(mode).await {
            Ok(()) => reply(StatusCode::OK, &row(zone)),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
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
