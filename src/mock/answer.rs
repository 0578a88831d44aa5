//! What a zone answers to a request, by its mode.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::mode::Mode;
use super::zone::Zone;

/// The longest body that is echoed.
const LARGEST_BODY: usize = 64 << 20;
/// What Datomic's own entry point calls its identity answer: exactly this, without a charset.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const MSGPACK: HeaderValue = HeaderValue::from_static("application/transit+msgpack");
const PAGE: HeaderValue = HeaderValue::from_static("text/html");
const PORTAL: &str = "<!doctype html>\n<html><head><title>Sign in</title></head>\
    <body><h1>Welcome to this network</h1><p>Please sign in.</p></body></html>\n";
const NO_TARGETS: &str = "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n\
    <body>\r\n<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n</body>\r\n</html>\r\n";

/// Serves one connection until its client ends it.
pub(super) async fn serve(zone: Arc<Zone>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let zone = Arc::clone(&zone);
        async move { Ok::<_, Infallible>(answer(&zone, request).await) }
    });
    // A connection that breaks is what tests are about, not a fault of the mock.
    let _ = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        // As real servers write them; some scripts compare letter by letter.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(zone: &Zone, request: Request<Incoming>) -> Response<Full<Bytes>> {
    zone.requests.fetch_add(1, Relaxed);
    let (head, body) = request.into_parts();
    if head.method == Method::POST {
        zone.posts.fetch_add(1, Relaxed);
    }
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        return reply(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "body over 64 MiB\n");
    };
    let mode = settled(zone).await;
    if !zone.latency.is_zero() {
        tokio::time::sleep(zone.latency).await;
    }
    match mode {
        Mode::Slow => tokio::time::sleep(zone.slow_by).await,
        Mode::Status503 => {
            let mut response = reply(StatusCode::SERVICE_UNAVAILABLE, PAGE, NO_TARGETS);
            let balancer = HeaderValue::from_static("awselb/2.0");
            response.headers_mut().insert(SERVER, balancer);
            return response;
        }
        Mode::Status429 => return reply(StatusCode::TOO_MANY_REQUESTS, TEXT, "busy"),
        Mode::Html => return reply(StatusCode::OK, PAGE, PORTAL),
        _ => {}
    }
    match head.method {
        Method::GET if head.uri.path() == "/" => {
            let other = if mode == Mode::OtherIdentity {
                "other-"
            } else {
                ""
            };
            let text = format!("{{:s3-auth-path \"{other}{}\"}}", zone.identity);
            reply(StatusCode::OK, TEXT, text)
        }
        Method::POST => {
            let content_type = match head.headers.get(CONTENT_TYPE) {
                Some(kind) if kind.as_bytes().starts_with(b"application/transit+") => kind.clone(),
                _ => MSGPACK,
            };
            reply(StatusCode::OK, content_type, body.to_bytes())
        }
        _ => reply(
            StatusCode::NOT_FOUND,
            TEXT,
            "this is a mock: GET / or POST\n",
        ),
    }
}

/// The mode to answer by: a frozen zone has none until it thaws.
async fn settled(zone: &Zone) -> Mode {
    let mut seen = zone.mode.subscribe();
    loop {
        let mode = *seen.borrow_and_update();
        if mode != Mode::Freeze {
            return mode;
        }
        // The zone holds the sender: an error cannot be, and would only end the wait.
        if seen.changed().await.is_err() {
            return mode;
        }
    }
}

fn reply(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
