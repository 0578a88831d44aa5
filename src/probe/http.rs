//! One HTTP/1.1 GET, and an answer read within limits that do not depend on the other side.
//!
//! Heads (1xx included) are 8 KiB at most, of a body the first 64 KiB are kept, nothing is decompressed, no redirect is
//! followed, one request is sent per connection. The deadline is the caller's: whoever awaits [`get`] bounds it. A
//! library would read on: a probe answers to an address, and an address may answer with anything.

use std::io;

use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::failure::{ProbeEnd, excerpt};
use crate::upstream::input::{BadAnswer, ProbeOutcome};
use crate::upstream::settings::{HealthSettings, ProbeKind};

/// All heads of an answer together.
const MAX_HEAD: usize = 8 * 1024;
/// What is kept of a body.
const MAX_BODY: usize = 64 * 1024;
/// Asked of the stream in one read.
const READ: usize = 4 * 1024;
/// What is read of a body with its chunk sizes and chunk extensions.
const MAX_RAW_BODY: usize = 128 * 1024;
/// Interim answers before the final one.
const MAX_INTERIM: usize = 8;
const MAX_HEADERS: usize = 64;

/// An answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) server: Option<String>,
    /// A `Content-Encoding` other than identity.
    pub(super) encoding: Option<String>,
    content_type: String,
    /// Headers that only API Gateway sends.
    api_gateway: bool,
    /// At most the first [`MAX_BODY`] bytes.
    pub(super) body: Vec<u8>,
    /// Whether that was all of it.
    pub(super) whole: bool,
}

/// How a body ends.
enum Length {
    Bytes(u64),
    Chunked,
    UntilClose,
}

/// Reads at most so much of a stream, and keeps what is not used yet.
struct ResponseReader<'a, S> {
    stream: &'a mut S,
    buffer: Vec<u8>,
    /// How many more bytes may be read.
    budget: usize,
}

/// A body that has not been read yet.
pub(super) struct UnreadBody<'a, S> {
    reader: ResponseReader<'a, S>,
    length: Length,
}

/// Asks for `path` and reads the head of the answer; `host` is the Host header.
pub(super) async fn get<'a, S>(
    stream: &'a mut S,
    path: &str,
    host: &str,
) -> Result<(Response, UnreadBody<'a, S>), ProbeEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: entryway\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut reader = ResponseReader {
        stream,
        buffer: Vec::with_capacity(1024),
        budget: MAX_HEAD,
    };
    let (response, length) = reader.head().await?;
    reader.budget = MAX_RAW_BODY.saturating_sub(reader.buffer.len());
    Ok((response, UnreadBody { reader, length }))
}

/// Kind `http`: any 2xx, and the wanted text within the first 64 KiB of the body.
pub(super) fn evaluate(response: &Response, settings: &HealthSettings) -> ProbeOutcome {
    if !response.is_wanted(ProbeKind::Http) {
        return response.wrong_status();
    }
    let wanted = settings.expect_body.as_bytes();
    let found = wanted.is_empty()
        || response
            .body
            .windows(wanted.len())
            .any(|part| part == wanted);
    if !found {
        return bad_response("body_mismatch", excerpt(&response.body));
    }
    ProbeOutcome::Success { identity: None }
}

pub(super) fn bad_response(code: impl Into<String>, detail: impl Into<String>) -> ProbeOutcome {
    ProbeOutcome::BadAnswer(BadAnswer {
        code: code.into(),
        detail: detail.into(),
    })
}

fn fail(code: &str, detail: impl Into<String>) -> ProbeEnd {
    ProbeEnd::Outcome(bad_response(code, detail))
}

// === impl Response ===

impl Response {
    /// Whether the status is the one that a kind of probe wants.
    pub(super) fn is_wanted(&self, kind: ProbeKind) -> bool {
        match kind {
            ProbeKind::Datomic => self.status == 200,
            _ => (200..300).contains(&self.status),
        }
    }

    pub(super) fn is_html(&self) -> bool {
        self.content_type.starts_with("text/html") || self.body.trim_ascii_start().starts_with(b"<")
    }

    /// What a status says that is not the wanted one.
    pub(super) fn wrong_status(&self) -> ProbeOutcome {
        let mut detail = Vec::new();
        if self.api_gateway {
            detail.push("from API Gateway".to_owned());
        }
        if let Some(server) = &self.server {
            detail.push(format!("server {server}"));
        }
        if self.is_html() {
            detail.push("an HTML page".to_owned());
        } else if !self.body.is_empty() {
            detail.push(excerpt(&self.body));
        }
        bad_response(format!("http_{}", self.status), detail.join(", "))
    }
}

// === impl Body ===

impl<S: AsyncRead + Unpin> UnreadBody<'_, S> {
    /// Reads what is wanted of it into the answer.
    pub(super) async fn read(mut self, response: &mut Response) -> Result<(), ProbeEnd> {
        (response.body, response.whole) = match self.length {
            Length::Bytes(length) => self.reader.counted(length).await?,
            Length::Chunked => self.reader.chunked().await?,
            Length::UntilClose => self.reader.until_close().await?,
        };
        Ok(())
    }
}

// === impl ResponseReader ===

impl<S: AsyncRead + Unpin> ResponseReader<'_, S> {
    /// Reads some more; false at the end of the stream.
    async fn more(&mut self) -> Result<bool, ProbeEnd> {
        let room = self.budget.min(READ);
        if room == 0 {
            return Err(fail("too_long", "the answer does not end"));
        }
        let start = self.buffer.len();
        self.buffer.resize(start + room, 0);
        let read = self.stream.read(&mut self.buffer[start..]).await;
        let count = *read.as_ref().unwrap_or(&0);
        self.buffer.truncate(start + count);
        self.budget -= count;
        Ok(read? > 0)
    }

    /// The final head; what follows it stays in the buffer.
    async fn head(&mut self) -> Result<(Response, Length), ProbeEnd> {
        for _ in 0..=MAX_INTERIM {
            let (end, response, length) = loop {
                if let Some(head) = parse_head(&self.buffer)? {
                    break head;
                }
                if !self.more().await? {
                    return Err(match self.buffer.is_empty() {
                        // Accepted and ended without a byte: what a balancer does without a healthy target.
                        true => fail("empty", "closed without an answer"),
                        false => fail("truncated", "closed within the head"),
                    });
                }
            };
            self.buffer.drain(..end);
            // 101 is final: nothing of what follows is HTTP.
            if !(100..200).contains(&response.status) || response.status == 101 {
                return Ok((response, length));
            }
        }
        Err(fail("too_long", "interim answers (1xx) do not end"))
    }

    async fn counted(&mut self, length: u64) -> Result<(Vec<u8>, bool), ProbeEnd> {
        let whole = length <= MAX_BODY as u64;
        let wanted = if whole { length as usize } else { MAX_BODY };
        self.at_least(wanted).await?;
        Ok((self.buffer[..wanted].to_vec(), whole))
    }

    async fn until_close(&mut self) -> Result<(Vec<u8>, bool), ProbeEnd> {
        while self.buffer.len() <= MAX_BODY {
            if !self.more().await? {
                return Ok((std::mem::take(&mut self.buffer), true));
            }
        }
        self.buffer.truncate(MAX_BODY);
        Ok((std::mem::take(&mut self.buffer), false))
    }

    async fn chunked(&mut self) -> Result<(Vec<u8>, bool), ProbeEnd> {
        let mut body = Vec::new();
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(Status::Complete(chunk)) => break chunk,
                    Ok(Status::Partial) if self.more().await? => {}
                    Ok(Status::Partial) => return Err(fail("truncated", "closed within the body")),
                    Err(_) => return Err(fail("not_http", "a chunk size that is none")),
                }
            };
            self.buffer.drain(..line);
            if size == 0 {
                // The trailers say nothing about the body.
                return Ok((body, true));
            }
            let left = MAX_BODY - body.len();
            if size > left as u64 {
                self.at_least(left).await?;
                body.extend(&self.buffer[..left]);
                return Ok((body, false));
            }
            // Its data and the line end behind it.
            let size = size as usize;
            self.at_least(size + 2).await?;
            body.extend(&self.buffer[..size]);
            self.buffer.drain(..size + 2);
        }
    }

    async fn at_least(&mut self, wanted: usize) -> Result<(), ProbeEnd> {
        while self.buffer.len() < wanted {
            if !self.more().await? {
                return Err(fail("truncated", "closed within the body"));
            }
        }
        Ok(())
    }
}

/// Length of the head, the answer without its body, how the body ends. None: more is needed.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Response, Length)>, ProbeEnd> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = ParserConfig::default().parse_response(&mut parsed, bytes);
    let end = match status {
        Ok(Status::Complete(end)) => end,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(fail("too_long", format!("more than {MAX_HEADERS} headers")));
        }
        // A TLS record: alert (21) or handshake (22), version 3.x.
        Err(_) if matches!(bytes, [0x15 | 0x16, 0x03, ..]) => {
            return Err(fail("tls", "TLS on a port where plain HTTP is spoken"));
        }
        Err(_) => return Err(fail("not_http", excerpt(bytes))),
    };
    let status = parsed.code.unwrap_or_default();
    let find = |name: &str| {
        let header = parsed
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case(name));
        header.map(|header| excerpt(header.value))
    };
    let response = Response {
        status,
        server: find("server"),
        encoding: find("content-encoding")
            .filter(|coding| !coding.eq_ignore_ascii_case("identity")),
        content_type: find("content-type")
            .unwrap_or_default()
            .to_ascii_lowercase(),
        api_gateway: ["apigw-requestid", "x-amz-apigw-id", "x-amzn-errortype"]
            .into_iter()
            .any(|name| find(name).is_some()),
        body: Vec::new(),
        whole: true,
    };
    let length = match status {
        100..200 | 204 | 304 => Length::Bytes(0),
        _ => body_length(parsed.headers)?,
    };
    Ok(Some((end, response, length)))
}

fn body_length(headers: &[Header<'_>]) -> Result<Length, ProbeEnd> {
    let all = |name: &'static str| {
        let named = headers
            .iter()
            .filter(move |h| h.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.trim_ascii())
    };
    let mut codings = all("transfer-encoding");
    match (codings.next(), codings.next()) {
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
            return Ok(Length::Chunked);
        }
        (Some(coding), _) => {
            return Err(fail(
                "not_http",
                format!("transfer-encoding {}", excerpt(coding)),
            ));
        }
        (None, _) => {}
    }
    let mut lengths = all("content-length");
    let Some(length) = lengths.next() else {
        return Ok(Length::UntilClose);
    };
    let number = std::str::from_utf8(length)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|_| lengths.all(|other| other == length));
    match number {
        Some(number) => Ok(Length::Bytes(number)),
        None => Err(fail(
            "not_http",
            format!("content-length {}", excerpt(length)),
        )),
    }
}

impl From<io::Error> for ProbeEnd {
    fn from(error: io::Error) -> Self {
        ProbeEnd::Io(error)
    }
}
