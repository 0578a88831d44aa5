//! HTTP/1.1 for the admin listeners: a server with limits, a client with limits, problem replies.
//!
//! Owns everything that knows hyper. [`serve`] bounds headers (5 s, 16 KiB), bodies, and the number of connections (the
//! oldest is closed for a new one, so that idle ones cannot lock out others), and waits at the end for answers under way.
//! It knows no routes. The client is [`client`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as HttpBody, Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::drain::DrainWatcher;

pub use hyper::header::{HeaderMap, HeaderValue};
pub use hyper::{Method, StatusCode};

pub mod client;
pub mod query;

/// A request's header must be there within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A request's header may be this long.
const HEADER_MAX: usize = 16 * 1024;

/// A request's body may be this long, and take as long as a header.
pub const BODY_MAX: usize = 64 * 1024;

/// How long a connection without any request stays when the listener ends: the request may be on its way.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// A connection is asked to end after this time, and ended `PATIENCE` later: bounds readers that never read.
const AGE_MAX: Duration = Duration::from_secs(120);

/// How long answers under way may take once the end is asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that requests come in on.
#[derive(Debug)]
pub enum HttpListener {
    /// A TCP port.
    Tcp(tokio::net::TcpListener),
    /// A Unix socket.
    Unix(tokio::net::UnixListener),
}

/// The peer of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Tcp(SocketAddr),
    /// A local process with this user id; `None` where the kernel does not say.
    Unix(Option<u32>),
}

/// A request, its body read.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    /// The path as sent, not decoded.
    pub path: String,
    /// The query, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The host of an absolute request target, which counts before `Host`.
    pub authority: Option<String>,
    /// The header fields.
    pub headers: HeaderMap,
    /// The peer of a request.
    pub caller: Caller,
    pub body: Bytes,
}

/// A reply.
pub type Reply = hyper::Response<Body>;

/// A reply's body: one piece, or slices made one by one as they are asked for.
pub struct Body(Inside);

enum Inside {
    Whole(Full<Bytes>),
    Channel(mpsc::Receiver<Bytes>),
    Slices {
        left: Box<dyn Iterator<Item = String> + Send + Sync>,
        /// Whether this poll may make a slice; between two slices other tasks get their turn.
        turn: bool,
    },
}

/// The JSON of an error reply (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URN that names the kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// A few words.
    pub title: String,
    /// What exactly.
    pub detail: String,
    /// What to do.
    pub hint: String,
}

/// Answers requests until `stop` fires, then lets answers under way finish. `handler` is called once per request, whose
/// body has at most `body_max` bytes. Of more than `max_connections` at once the oldest is closed.
pub async fn serve<H, F>(
    listener: HttpListener,
    max_connections: usize,
    body_max: usize,
    mut stop: DrainWatcher,
    handler: H,
) where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    // Held until the listener is closed: whoever stops us can wait for that.
    let blocker = stop.blocker();
    let mut tasks = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = stop.fired() => break,
            Some(_) = tasks.join_next() => {
                oldest.retain(|task| !task.is_finished());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, caller) = match accepted {
            Ok(accepted) => accepted,
            Err(_) => {
                // Out of descriptors, or the caller left again: the next one may do better.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if oldest.len() >= max_connections
            && let Some(task) = oldest.pop_front()
        {
            task.abort();
        }
        let (handler, stop) = (handler.clone(), stop.clone());
        oldest.push_back(tasks.spawn(converse(stream, caller, stop, body_max, handler)));
    }
    drop((listener, blocker));
    // What takes longer is dropped with the set.
    let _ = timeout(PATIENCE, async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
}

async fn converse<H, F>(
    stream: Box<dyn Duplex>,
    caller: Caller,
    mut stop: DrainWatcher,
    body_max: usize,
    handler: H,
) where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let begun = Arc::new(Notify::new());
    let first_request = Arc::clone(&begun);
    let service = service_fn(move |request| {
        begun.notify_one();
        let handler = handler.clone();
        async move {
            Ok::<_, Infallible>(match read(request, caller, body_max).await {
                Ok(request) => handler(request).await,
                Err(refusal) => *refusal,
            })
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // A broken request or a caller that leaves ends its own connection only.
        _ = connection.as_mut() => return,
        () = stop.fired() => {}
        () = tokio::time::sleep(AGE_MAX) => {}
    }
    // hyper ends a connection on which nothing was read yet at once, and the request that is on its way with it.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = first_request.notified() => {}
        () = tokio::time::sleep(FIRST_REQUEST) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(PATIENCE, connection).await;
}

/// Reads the body, within its bounds.
async fn read(
    request: hyper::Request<Incoming>,
    caller: Caller,
    body_max: usize,
) -> Result<Request, Box<Reply>> {
    let (head, body) = request.into_parts();
    let refuse = |status, detail: &str| {
        Box::new(problem(status, "body", "request body not read", detail, ""))
    };
    let body = match timeout(HEADER_TIMEOUT, Limited::new(body, body_max).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return Err(refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("broken, or longer than {} KiB", body_max / 1024),
            ));
        }
        Err(_) => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "not there within 5 s")),
    };
    Ok(Request {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: query::parse(head.uri.query().unwrap_or_default()),
        authority: head.uri.authority().map(ToString::to_string),
        headers: head.headers,
        caller,
        body,
    })
}

/// A reply with a body of this content type, not to be cached.
pub fn reply(status: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Reply::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// A text reply.
pub fn text(status: StatusCode, body: impl Into<String>) -> Reply {
    reply(
        status,
        "text/plain; charset=utf-8",
        Body::whole(body.into()),
    )
}

/// A JSON reply.
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            reply(status, "application/json", Body::whole(body))
        }
        Err(error) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "answer could not be written as JSON",
            error.to_string(),
            "this is a bug; please report it",
        ),
    }
}

/// An error reply; `kind` is one word, `hint` says what to do.
pub fn problem(
    status: StatusCode,
    kind: &str,
    title: &str,
    detail: impl Into<String>,
    hint: impl Into<String>,
) -> Reply {
    let problem = Problem {
        kind: format!("urn:entryway:problem:{kind}"),
        title: title.to_owned(),
        detail: detail.into(),
        hint: hint.into(),
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    reply(status, "application/problem+json", Body::whole(body))
}

/// A byte stream of either kind of listener.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

// === impl HttpListener ===

impl HttpListener {
    async fn accept(&self) -> io::Result<(Box<dyn Duplex>, Caller)> {
        match self {
            HttpListener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Small answers: waiting for more to send would only cost the caller time.
                let _ = stream.set_nodelay(true);
                Ok((Box::new(stream), Caller::Tcp(address)))
            }
            HttpListener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                Ok((Box::new(stream), Caller::Unix(uid)))
            }
        }
    }
}

// === impl Request ===

impl Request {
    /// The first value of a query key.
    pub fn param(&self, key: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a query key is there and does not say no.
    pub fn flag(&self, key: &str) -> bool {
        self.param(key)
            .is_some_and(|value| !matches!(value, "0" | "false"))
    }

    /// A header field as text; `None` where it is absent or not ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

// === impl Body ===

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Inside::Whole(_) => "Body::Whole",
            Inside::Channel(_) => "Body::Channel",
            Inside::Slices { .. } => "Body::Slices",
        })
    }
}

impl Body {
    /// A body in one piece.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Inside::Whole(Full::new(bytes.into())))
    }

    /// A body that goes on for as long as its sender lives; at most `buffered` pieces wait to be sent.
    pub fn channel(buffered: usize) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(buffered);
        (sender, Self(Inside::Channel(receiver)))
    }

    /// A body in slices, each made when the one before is on its way.
    pub fn slices(slices: impl Iterator<Item = String> + Send + Sync + 'static) -> Self {
        Self(Inside::Slices {
            left: Box::new(slices),
            turn: true,
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Inside::Whole(body) => Pin::new(body).poll_frame(cx),
            Inside::Channel(receiver) => receiver
                .poll_recv(cx)
                .map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
            Inside::Slices { left, turn } => {
                *turn = !*turn;
                if *turn {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(left.next().map(|slice| Ok(Frame::data(Bytes::from(slice)))))
            }
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match &self.0 {
            Inside::Whole(body) => body.size_hint(),
            Inside::Channel(_) | Inside::Slices { .. } => hyper::body::SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests;
