//! One CONNECT request inside TLS: from its head to a status, and from there to the relay.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode, Version, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;
use tokio_rustls::server::TlsStream;

use super::authority::Access;
use super::handshake::{Peer, Ticket};
use super::shared::Shared;
use crate::connection::{self, AtHome, ClientReply, Home};
use crate::events::Reason;
use crate::stream::Stream;
use crate::tls::identity::Identity;
use crate::tls::reload::ServerTls;
use crate::tls::{self, TlsSocket};

/// Largest request head.
const MAX_HEAD: usize = 16 * 1024;

/// Serves the one request of a peer, whose ticket ends when the request is there.
pub(super) async fn serve(
    peer: Peer,
    ticket: Ticket<'_>,
    verified_by: Arc<ServerTls>,
    client: SocketAddr,
    home: Arc<Home>,
    shared: Arc<Shared>,
) {
    let Peer {
        tls,
        identity,
        chain,
    } = peer;
    // hyper wants a service that can be called again; there is one request.
    let chain = std::cell::RefCell::new(Some(chain));
    let give_way = ticket.give_way();
    let ticket = std::cell::Cell::new(Some(ticket));
    let service = hyper::service::service_fn(|request| {
        let (shared, identity) = (Arc::clone(&shared), identity.clone());
        drop(ticket.take());
        let chain = chain.borrow_mut().take();
        let (verified_by, home) = (Arc::clone(&verified_by), Arc::clone(&home));
        async move {
            let status = match chain {
                Some(chain) if shared.is_refused_since(&verified_by, &chain) => {
                    Err((StatusCode::FORBIDDEN, "the certificate has been revoked"))
                }
                Some(chain) => connect(request, client, &home, &shared, identity, chain).await,
                None => Err((StatusCode::BAD_REQUEST, "one request on each connection")),
            };
            Ok::<_, Infallible>(answer(status, &shared))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.settings.load().handshake_timeout)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades();
    let served = tokio::select! {
        served = served => served,
        () = give_way.notified() => return,
    };
    if served.is_err_and(|error| error.is_parse()) {
        // Answered by hyper itself.
        shared.metrics.request(StatusCode::BAD_REQUEST);
    }
}

type RequestRefusal = (StatusCode, &'static str);

fn answer(outcome: Result<(), RequestRefusal>, shared: &Shared) -> Response<Full<Bytes>> {
    let (status, body) = match outcome {
        Ok(()) => (StatusCode::OK, String::new()),
        Err((status, why)) => (status, format!("{why}\n")),
    };
    shared.metrics.request(status);
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if status != StatusCode::OK {
        let text = header::HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
    }
    response
}

/// Decides about the request and, where it is allowed, dials. On success the connection goes on in a task of its own.
async fn connect(
    mut request: Request<Incoming>,
    client: SocketAddr,
    home: &Arc<Home>,
    shared: &Arc<Shared>,
    identity: Identity,
    chain: Vec<CertificateDer<'static>>,
) -> Result<(), RequestRefusal> {
    if shared.stop.has_fired() {
        return Err((
            StatusCode::SERVICE_UNAVAILABLE,
            "the gateway is shutting down",
        ));
    }
    if request.method() != Method::CONNECT {
        return Err((
            StatusCode::METHOD_NOT_ALLOWED,
            "only CONNECT is served here",
        ));
    }
    let has_body = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
        .iter()
        .any(|name| request.headers().contains_key(name));
    let authority = request
        .uri()
        .authority()
        .filter(|_| request.uri().scheme().is_none());
    let authority = match authority {
        // Python before 3.12, for one, asks for a tunnel with HTTP/1.0.
        Some(authority) if is_http_1(request.version()) && !has_body => authority.as_str(),
        _ => {
            return Err((
                StatusCode::BAD_REQUEST,
                "expected CONNECT NAME:PORT HTTP/1.1 without a body",
            ));
        }
    };
    let index = match shared.routes.load().find(authority, &identity) {
        Access::Upstream(index) => index,
        Access::NotAllowed => return Err((StatusCode::FORBIDDEN, "not allowed for this client")),
        Access::NoSuchUpstream => {
            return Err((
                StatusCode::NOT_FOUND,
                "no upstream or endpoint has this name",
            ));
        }
        Access::Malformed => {
            return Err((
                StatusCode::BAD_REQUEST,
                "expected the NAME:PORT of an upstream or endpoint",
            ));
        }
    };
    let Some(context) = shared.contexts.get(index) else {
        return Err((
            StatusCode::NOT_FOUND,
            "no upstream or endpoint has this name",
        ));
    };
    let Some(mut guard) = connection::admit(client, context, shared.max_connections) else {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "too many connections"));
    };
    guard.set_home(AtHome::new(home));
    guard.set_tls_identity(identity.as_str());
    let peer_guard = shared.peers.enter(guard.id(), chain);
    let (decided, decision) = oneshot::channel();
    let reply = ConnectReply {
        decided: Some(decided),
        upgrade: hyper::upgrade::on(&mut request),
    };
    tokio::task::spawn_local(async move {
        let _peer_guard = peer_guard;
        connection::serve_after_reply(guard, reply).await;
    });
    match decision.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err((StatusCode::BAD_GATEWAY, reason.code())),
        // The task was cancelled by the shutdown.
        Err(_) => Err((
            StatusCode::SERVICE_UNAVAILABLE,
            "the gateway is shutting down",
        )),
    }
}

fn is_http_1(version: Version) -> bool {
    matches!(version, Version::HTTP_10 | Version::HTTP_11)
}

/// Tells the HTTP side how the dial ended, and takes the stream over once 200 has been sent.
struct ConnectReply {
    decided: Option<oneshot::Sender<Result<(), Reason>>>,
    upgrade: OnUpgrade,
}

impl ClientReply for ConnectReply {
    async fn reached(&mut self) -> Option<Stream> {
        // The receiver is gone when the client is.
        self.decided.take()?.send(Ok(())).ok()?;
        let upgraded = (&mut self.upgrade).await.ok()?;
        stream_of(upgraded)
    }

    async fn failed(&mut self, reason: Reason) {
        if let Some(decided) = self.decided.take() {
            let _ = decided.send(Err(reason));
        }
    }
}

fn stream_of(upgraded: Upgraded) -> Option<Stream> {
    let parts = upgraded.downcast::<TokioIo<TlsStream<TlsSocket>>>().ok()?;
    let stream = tls::TlsStream::new(parts.io.into_inner(), parts.read_buf);
    Some(Stream::Wrapped(Box::new(stream)))
}
