//! One request, one answer, over TCP or a Unix socket, within a time and a size. No pool, no redirects, no TLS.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

/// A line of a body that is read line by line.
const LINE_MAX: usize = 1 << 20;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpTarget {
    /// `HOST:PORT`.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// How long and how much at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For all of it: connect, send, the whole answer.
    pub time: Duration,
    /// Of the answer's body, in bytes.
    pub body: usize,
}

/// An answer, its body read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// One connection for many questions, one after the other; made anew when it has ended.
#[derive(Debug)]
pub struct Session {
    target: HttpTarget,
    bounds: Bounds,
    sender: Option<SendRequest<Full<Bytes>>>,
    /// Drives the connection, and ends with this.
    driving: JoinSet<()>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody there, or not for us.
    #[error("connect {0}: {1}")]
    Connect(String, #[source] io::Error),
    /// Not within the time.
    #[error("{0}: no answer within {1:?}")]
    Timeout(String, Duration),
    /// The body is longer than the bound.
    #[error("{0}: answer longer than {1} bytes")]
    TooLong(String, usize),
    /// Not HTTP, or broken off.
    #[error("{0}: {1}")]
    Http(String, String),
}

/// `GET path`.
pub async fn get(target: &HttpTarget, path: &str, bounds: Bounds) -> Result<Answer, Error> {
    request(target, Method::GET, path, &[], bounds).await
}

/// `POST path` without a body.
pub async fn post(
    target: &HttpTarget,
    path: &str,
    headers: &[(&str, &str)],
    bounds: Bounds,
) -> Result<Answer, Error> {
    request(target, Method::POST, path, headers, bounds).await
}

/// Any request without a body. `Host` is the target's, unless given.
pub async fn request(
    target: &HttpTarget,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    bounds: Bounds,
) -> Result<Answer, Error> {
    let connect = |error| Error::Connect(target.to_string(), error);
    let all = async {
        match target {
            HttpTarget::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(connect)?;
                exchange(stream, target, method, path, headers, bounds).await
            }
            HttpTarget::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(connect)?;
                exchange(stream, target, method, path, headers, bounds).await
            }
        }
    };
    match tokio::time::timeout(bounds.time, all).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Timeout(target.to_string(), bounds.time)),
    }
}

/// `GET path`: `each` is called with every line of the body, for as long as it lasts.
pub async fn lines(
    target: &HttpTarget,
    path: &str,
    headers: &[(&str, &str)],
    each: impl FnMut(&str),
) -> Result<(), Error> {
    let connect = |error| Error::Connect(target.to_string(), error);
    match target {
        HttpTarget::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(connect)?;
            follow(stream, target, path, headers, each).await
        }
        HttpTarget::Unix(socket) => {
            let stream = UnixStream::connect(socket).await.map_err(connect)?;
            follow(stream, target, path, headers, each).await
        }
    }
}

async fn follow(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    target: &HttpTarget,
    path: &str,
    headers: &[(&str, &str)],
    mut each: impl FnMut(&str),
) -> Result<(), Error> {
    let request = build(target, Method::GET, path, headers)?;
    converse(stream, target, request, async |answer| {
        if !answer.status().is_success() {
            return Err(broken(target, answer.status()));
        }
        let mut body = answer.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(target, error))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            rest.extend_from_slice(data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                each(String::from_utf8_lossy(&line).trim_end());
            }
            if rest.len() > LINE_MAX {
                return Err(Error::TooLong(target.to_string(), LINE_MAX));
            }
        }
        Ok(())
    })
    .await
}

fn build(
    target: &HttpTarget,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<hyper::Request<Full<Bytes>>, Error> {
    let mut request = hyper::Request::builder().method(method).uri(path);
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        request = request.header(HOST, target.host());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
        .body(Full::default())
        .map_err(|error| Error::Http(target.to_string(), error.to_string()))
}

/// An answer with all of its body, which may be this long.
async fn whole(
    target: &HttpTarget,
    answer: hyper::Response<hyper::body::Incoming>,
    most: usize,
) -> Result<Answer, Error> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, most).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Error::TooLong(target.to_string(), most)
        } else {
            Error::Http(target.to_string(), error.to_string())
        }
    })?;
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    target: &HttpTarget,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    bounds: Bounds,
) -> Result<Answer, Error> {
    let request = build(target, method, path, headers)?;
    converse(stream, target, request, async |answer| {
        whole(target, answer, bounds.body).await
    })
    .await
}

/// Sends one request over `stream` and lets `read` take the answer. The connection is driven beside it, not in a task of
/// its own: nothing is left behind when we are dropped.
async fn converse<T>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    target: &HttpTarget,
    request: hyper::Request<Full<Bytes>>,
    read: impl AsyncFnOnce(hyper::Response<hyper::body::Incoming>) -> Result<T, Error>,
) -> Result<T, Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(target, error))?;
    let talk = async {
        let answer = sender.send_request(request).await;
        read(answer.map_err(|error| broken(target, error))?).await
    };
    tokio::pin!(talk, connection);
    tokio::select! {
        outcome = &mut talk => return outcome,
        _ = &mut connection => {}
    }
    // The connection has ended: what it read is still to be taken, and so is the error.
    talk.await
}

fn broken(target: &HttpTarget, error: impl std::fmt::Display) -> Error {
    Error::Http(target.to_string(), error.to_string())
}

// === impl Session ===

impl Session {
    /// Connects with the first question.
    pub fn new(target: HttpTarget, bounds: Bounds) -> Self {
        Self {
            target,
            bounds,
            sender: None,
            driving: JoinSet::new(),
        }
    }

    /// `GET path`. On a connection that has ended meanwhile it is asked a second time.
    pub async fn get(&mut self, path: &str) -> Result<Answer, Error> {
        let within = self.bounds.time;
        let was_open = self.sender.is_some();
        let asked = async {
            match self.ask(path).await {
                Err(Error::Http(..)) if was_open => {
                    self.sender = None;
                    self.ask(path).await
                }
                other => other,
            }
        };
        match tokio::time::timeout(within, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                self.sender = None;
                Err(Error::Timeout(self.target.to_string(), within))
            }
        }
    }

    async fn ask(&mut self, path: &str) -> Result<Answer, Error> {
        let target = self.target.clone();
        let broken = |error: hyper::Error| Error::Http(target.to_string(), error.to_string());
        let request = build(&target, Method::GET, path, &[])?;
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        sender.ready().await.map_err(broken)?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let answer = whole(&target, answer, self.bounds.body).await?;
        self.sender = Some(sender);
        Ok(answer)
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let failed = |error| Error::Connect(self.target.to_string(), error);
        self.driving.abort_all();
        match &self.target {
            HttpTarget::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                self.drive(stream).await
            }
            HttpTarget::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(failed)?;
                self.drive(stream).await
            }
        }
    }

    async fn drive(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<SendRequest<Full<Bytes>>, Error> {
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) =
            shaken.map_err(|error| Error::Http(self.target.to_string(), error.to_string()))?;
        self.driving.spawn(async move {
            // Its error is the next question's.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

// === impl HttpTarget ===

impl HttpTarget {
    fn host(&self) -> &str {
        match self {
            HttpTarget::Tcp(address) => address,
            HttpTarget::Unix(_) => "localhost",
        }
    }
}

impl std::fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HttpTarget::Tcp(address) => f.write_str(address),
            HttpTarget::Unix(path) => path.display().fmt(f),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// The body as text; what is not UTF-8 becomes the replacement character.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
