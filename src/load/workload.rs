//! What a request looks like, and when its answer is complete.

use std::ops::Range;

/// Largest head of an answer that is read.
const MAX_HEAD: usize = 64 * 1024;

/// Most header lines of an answer.
const MAX_HEADERS: usize = 128;

/// What is sent and what counts as an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Connects and sends nothing; the time is that of the connect.
    Connect,
    /// Sends bytes over TCP and waits until as many have come back.
    Echo {
        /// Bytes of one message.
        body: usize,
        /// Whether a connection carries more than one message.
        keepalive: bool,
    },
    /// One HTTP/1.1 request and its answer.
    Http(HttpRequest),
}

/// The request of an HTTP workload, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// Name of the workload in the report: `http` or `datomic`.
    pub name: &'static str,
    /// Head and body.
    pub bytes: Vec<u8>,
    /// Whether the answer has no body whatever its head says.
    pub head_only: bool,
    /// Whether a connection carries more than one request.
    pub keepalive: bool,
}

/// Content type of the requests of the Datomic client.
const TRANSIT: &str = "application/transit+msgpack";

// === impl Workload ===

impl Workload {
    /// An HTTP request. `method` defaults to GET, or POST where there is a body.
    pub fn http(
        authority: &str,
        path: &str,
        method: Option<&str>,
        body: usize,
        keepalive: bool,
    ) -> Self {
        let method = method.unwrap_or(if body > 0 { "POST" } else { "GET" });
        Self::Http(HttpRequest::new(
            "http", authority, path, method, body, keepalive, None,
        ))
    }

    /// The requests of the Datomic client: `POST /api` with a transit body over kept connections.
    pub fn datomic(authority: &str, path: Option<&str>, body: usize, keepalive: bool) -> Self {
        let (path, body) = (path.unwrap_or("/api"), body.max(1));
        let media = Some(TRANSIT);
        Self::Http(HttpRequest::new(
            "datomic", authority, path, "POST", body, keepalive, media,
        ))
    }

    /// The name in the report.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Echo { .. } => "echo",
            Self::Http(request) => request.name,
        }
    }

    /// Whether a connection serves more than one request.
    pub fn keepalive(&self) -> bool {
        match self {
            Self::Connect => false,
            Self::Echo { keepalive, .. } => *keepalive,
            Self::Http(request) => request.keepalive,
        }
    }
}

// === impl HttpRequest ===

impl HttpRequest {
    fn new(
        name: &'static str,
        authority: &str,
        path: &str,
        method: &str,
        body: usize,
        keepalive: bool,
        media_type: Option<&str>,
    ) -> Self {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: entryway-load\r\n"
        );
        if let Some(media_type) = media_type {
            head.push_str(&format!(
                "Accept: {media_type}\r\nContent-Type: {media_type}\r\n"
            ));
        }
        if body > 0 || matches!(method, "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("Content-Length: {body}\r\n"));
        }
        if !keepalive {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + body, b'x');
        Self {
            name,
            bytes,
            head_only: method == "HEAD",
            keepalive,
        }
    }
}

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnswerHead {
    pub(super) status: u16,
    /// Bytes of the head.
    pub(super) len: usize,
    pub(super) body: BodyEnd,
    /// Whether the server closes the connection after this answer.
    pub(super) closes: bool,
}

/// Reads the head of an answer; `None` while it is incomplete. An interim answer (1xx) is returned as it is.
///
/// # Errors
///
/// What is wrong with it, in a few words.
pub(super) fn read_head(bytes: &[u8], head_only: bool) -> Result<Option<AnswerHead>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let len = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() > MAX_HEAD => return Err("head too long"),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) if looks_like_tls(bytes) => return Err("TLS instead of HTTP"),
        Err(_) => return Err("not HTTP/1"),
    };
    let status = answer.code.unwrap_or(0);
    let old = answer.version == Some(0);
    let (mut length, mut chunked, mut close, mut keep) = (None, false, false, false);
    for header in answer.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or("").trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            let Ok(value) = value.parse::<u64>() else {
                return Err("unreadable Content-Length");
            };
            if length.is_some_and(|length| length != value) {
                return Err("two different Content-Lengths");
            }
            length = Some(value);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.to_ascii_lowercase().ends_with("chunked");
        } else if header.name.eq_ignore_ascii_case("connection") {
            let value = value.to_ascii_lowercase();
            close |= value.contains("close");
            keep |= value.contains("keep-alive");
        }
    }
    let bodiless = head_only || status < 200 || status == 204 || status == 304;
    let body = match (bodiless, chunked, length) {
        (true, _, _) => BodyEnd::Length(0),
        (false, true, _) => BodyEnd::Chunked,
        (false, false, Some(length)) => BodyEnd::Length(length),
        (false, false, None) => BodyEnd::Close,
    };
    let closes = close || (old && !keep) || body == BodyEnd::Close;
    Ok(Some(AnswerHead {
        status,
        len,
        body,
        closes,
    }))
}

/// A TLS record (alert or handshake) begins with its type and the major version 3.
fn looks_like_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 3, ..])
}

/// Follows a chunked body from chunk to chunk without keeping its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    state: ChunkState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    /// In the digits of a chunk's size.
    #[default]
    Start,
    Size(u64),
    /// Behind the digits, up to the line feed.
    Extension(u64),
    /// In a chunk's data, so many bytes are left; its line end follows.
    Data(u64),
    DataEnd,
    /// At the start of a trailer line.
    Trailer,
    /// Inside a trailer line.
    TrailerLine,
}

// === impl Chunks ===

impl Chunks {
    /// Takes bytes of the body. Returns how many belong to it once it is complete.
    ///
    /// # Errors
    ///
    /// The body is not chunked as RFC 9112 section 7.1 says.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, &'static str> {
        const BAD: &str = "bad chunk";
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            self.state = match self.state {
                ChunkState::Data(left) => {
                    let here = usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len() - at);
                    at += here;
                    match left - here as u64 {
                        0 => ChunkState::DataEnd,
                        left => ChunkState::Data(left),
                    }
                }
                state => {
                    at += 1;
                    match (state, byte) {
                        (ChunkState::Start, _) => ChunkState::Size(digit(byte).ok_or(BAD)?),
                        (ChunkState::Size(size), b'\n') | (ChunkState::Extension(size), b'\n') => {
                            match size {
                                0 => ChunkState::Trailer,
                                size => ChunkState::Data(size),
                            }
                        }
                        (ChunkState::Size(size), b'\r' | b';' | b' ' | b'\t') => {
                            ChunkState::Extension(size)
                        }
                        (ChunkState::Size(size), _) => {
                            let grown = size.checked_mul(16).ok_or(BAD)?;
                            ChunkState::Size(grown + digit(byte).ok_or(BAD)?)
                        }
                        (ChunkState::Extension(size), _) => ChunkState::Extension(size),
                        (ChunkState::DataEnd, b'\r') => ChunkState::DataEnd,
                        (ChunkState::DataEnd, b'\n') => ChunkState::Start,
                        (ChunkState::DataEnd, _) => return Err(BAD),
                        (ChunkState::Trailer, b'\r') => ChunkState::Trailer,
                        (ChunkState::Trailer, b'\n') => return Ok(Some(0..at)),
                        (ChunkState::TrailerLine, b'\n') => ChunkState::Trailer,
                        (ChunkState::Trailer | ChunkState::TrailerLine, _) => {
                            ChunkState::TrailerLine
                        }
                        (ChunkState::Data(_), _) => return Err(BAD),
                    }
                }
            };
        }
        Ok(None)
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}
