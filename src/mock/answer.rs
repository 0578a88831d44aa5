//! What a zone answers to a request, by its mode and behaviour.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Channel, Either, Full, channel};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::config::filler;
use super::mode::ZoneMode;
use super::stream::MockStream;
use super::zone::Zone;

/// The longest body that is echoed.
const LARGEST_BODY: u64 = 64 << 20;
/// Frames of a body that are kept while the client does not read its answer yet. Clients may send all of a request
/// before they read, so what a socket does not take must be kept here.
const FRAMES_KEPT: usize = 64 * 1024;
/// An identity answer is padded up to this size and no further: a probe reads at most 64 KiB.
const LARGEST_IDENTITY: usize = 60 * 1024;
/// Pieces that mode `slow-body` sends a body in.
const PIECES: usize = 10;
/// Content type of Datomic's own identity answer: exactly this, without a charset.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const MSGPACK: HeaderValue = HeaderValue::from_static("application/transit+msgpack");
const PAGE: HeaderValue = HeaderValue::from_static("text/html");
const PORTAL: &str = "<!doctype html>\n<html><head><title>Sign in</title></head>\
    <body><h1>Welcome to this network</h1><p>Please sign in.</p></body></html>\n";
const NO_TARGETS: &str = "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n\
    <body>\r\n<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n</body>\r\n</html>\r\n";

type MockBody = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

/// Serves one connection until its client ends it, it is cut, or its zone is dead.
pub(super) async fn serve(zone: Arc<Zone>, stream: TcpStream) {
    let reset = Arc::new(AtomicBool::new(false));
    let stream = MockStream::new(stream, Arc::clone(&zone), Arc::clone(&reset));
    let mut mode = zone.mode.subscribe();
    let service = service_fn(move |request| {
        let zone = Arc::clone(&zone);
        async move { Ok::<_, Infallible>(answer(&zone, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .pipeline_flush(true)
        // As real servers write them; some scripts compare letter by letter.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A connection that breaks is what tests are about, not a fault of the mock.
        _ = connection => {}
        // The flag is set in here, because the connection is dropped before the branch's own code runs.
        () = dead(&mut mode, &reset) => {}
    }
}

/// Ends when the zone is dead; closing the connection resets it then.
async fn dead(mode: &mut watch::Receiver<ZoneMode>, reset: &AtomicBool) {
    if mode.wait_for(|mode| *mode == ZoneMode::Dead).await.is_err() {
        std::future::pending::<()>().await;
    }
    reset.store(true, Relaxed);
}

async fn answer(zone: &Zone, request: Request<Incoming>) -> Response<MockBody> {
    zone.requests.fetch_add(1, Relaxed);
    let (head, body) = request.into_parts();
    let is_post = head.method == Method::POST;
    if is_post {
        zone.posts.fetch_add(1, Relaxed);
    }
    if body.size_hint().lower() > LARGEST_BODY {
        return reply(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "body over 64 MiB\n");
    }
    let behaviour = zone.behaviour.load_full();
    // The request is taken off the connection at once, whenever its answer comes.
    let echo = match is_post && behaviour.body.is_none() {
        true => Some(read_on(body)),
        false => {
            discard(body).await;
            None
        }
    };
    let mode = answering_mode(zone).await;
    let mut latency = behaviour.latency.sample();
    if mode == ZoneMode::Slow {
        latency += behaviour.slow_by;
    }
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    match mode {
        ZoneMode::Status503 => {
            let mut response = reply(StatusCode::SERVICE_UNAVAILABLE, PAGE, NO_TARGETS);
            let balancer = HeaderValue::from_static("awselb/2.0");
            response.headers_mut().insert(SERVER, balancer);
            return response;
        }
        ZoneMode::Status429 => return reply(StatusCode::TOO_MANY_REQUESTS, TEXT, "busy"),
        ZoneMode::Html => return reply(StatusCode::OK, PAGE, PORTAL),
        _ => {}
    }
    let response = match (head.method, echo) {
        (Method::POST, Some(echo)) => {
            let mut response = Response::new(Either::Right(echo));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, transit_type(&head.headers));
            if let Some(length) = head.headers.get(CONTENT_LENGTH) {
                headers.insert(CONTENT_LENGTH, length.clone());
            }
            response
        }
        (Method::POST, None) => {
            let body = filler(behaviour.body.unwrap_or_default());
            reply(StatusCode::OK, transit_type(&head.headers), body)
        }
        (Method::GET, _) if head.uri.path() == "/" => {
            let identity = zone.identity(mode == ZoneMode::OtherIdentity);
            let size = behaviour.body.unwrap_or_default().min(LARGEST_IDENTITY);
            reply(StatusCode::OK, TEXT, padded(identity, size))
        }
        (Method::GET, _) if behaviour.body.is_some() => {
            let body = filler(behaviour.body.unwrap_or_default());
            reply(StatusCode::OK, TEXT, body)
        }
        _ => reply(
            StatusCode::NOT_FOUND,
            TEXT,
            "this is a mock: GET / or POST\n",
        ),
    };
    match mode {
        ZoneMode::SlowBody => slowly(response, behaviour.slow_by),
        _ => response,
    }
}

/// The media type of a POST's answer: the one it came with, as Datomic does.
fn transit_type(headers: &HeaderMap) -> HeaderValue {
    match headers.get(CONTENT_TYPE) {
        Some(kind) if kind.as_bytes().starts_with(b"application/transit+") => kind.clone(),
        _ => MSGPACK,
    }
}

/// Blanks after an EDN map change nothing for its reader.
fn padded(identity: Bytes, size: usize) -> Bytes {
    if identity.len() >= size {
        return identity;
    }
    let mut bytes = identity.to_vec();
    bytes.resize(size, b' ');
    bytes.into()
}

/// Reads a body on a task of its own and hands it on as it comes.
fn read_on(mut body: Incoming) -> Channel<Bytes, io::Error> {
    let (mut sender, channel) = Channel::new(FRAMES_KEPT);
    tokio::spawn(async move {
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let Ok(Ok(data)) = frame.map(hyper::body::Frame::into_data) else {
                sender.abort(io::Error::other("the request broke off"));
                return;
            };
            length += data.len() as u64;
            if length > LARGEST_BODY {
                sender.abort(io::Error::other("body over 64 MiB"));
                return;
            }
            // The client may have gone away; then the connection ends too.
            if sender.send_data(data).await.is_err() {
                return;
            }
        }
    });
    channel
}

async fn discard(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// The same answer: its head at once, its body in pieces over `time`.
fn slowly(response: Response<MockBody>, time: Duration) -> Response<MockBody> {
    let (head, body) = response.into_parts();
    let (sender, channel) = Channel::new(PIECES);
    tokio::spawn(send_pieces(body, sender, time));
    let mut response = Response::from_parts(head, Either::Right(channel));
    response.headers_mut().remove(CONTENT_LENGTH);
    response
}

async fn send_pieces(
    body: MockBody,
    mut sender: channel::Sender<Bytes, io::Error>,
    time: Duration,
) {
    let Ok(body) = body.collect().await else {
        sender.abort(io::Error::other("the request broke off"));
        return;
    };
    let mut rest = body.to_bytes();
    let piece = rest.len().div_ceil(PIECES).max(1);
    let pieces = rest.len().div_ceil(piece).max(1);
    while !rest.is_empty() {
        tokio::time::sleep(time / pieces as u32).await;
        let data = rest.split_to(piece.min(rest.len()));
        if sender.send_data(data).await.is_err() {
            return;
        }
    }
}

/// The mode to answer by, once the zone answers at all.
async fn answering_mode(zone: &Zone) -> ZoneMode {
    let mode = zone.mode();
    if !mode.is_mute() {
        return mode;
    }
    let mut modes = zone.mode.subscribe();
    // The zone holds the sender: an error cannot be, and would only end the wait.
    match modes.wait_for(|mode| !mode.is_mute()).await {
        Ok(mode) => *mode,
        Err(_) => mode,
    }
}

fn reply(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<MockBody> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
