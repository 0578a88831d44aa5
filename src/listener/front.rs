//! What a listener speaks: plain bytes, or SOCKS and HTTP CONNECT in front of them.
//!
//! A client that is configured for a proxy asks for a host by name. The name must be one that this listener leads to
//! anyway; the connection then goes where every connection of the listener goes, so that no client can reach anything
//! else. The bytes of the request are peeked and only taken once it is complete, so that what follows them stays in the
//! client's socket for the relay.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::addr::{self, HostPort};
use crate::connection::{self, ClientReply, ConnectionGuard};
use crate::drain::DrainWatcher;
use crate::events::Reason;
use crate::metrics::{Metrics, family};
use crate::stream::Stream;
use crate::sys::socket;
use crate::workers::ConnectionHandler;
use parse::{Bad, MAX_REQUEST, Parsed, Protocol};

/// Public for fuzzing.
pub mod parse;

/// Time for a request to be complete, from its first byte on (with `socks`: from accept on).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that was refused may take to close its side.
const LINGER: Duration = Duration::from_secs(1);

/// `listener.front`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontKind {
    /// Every byte is for the upstream.
    #[default]
    Tcp,
    /// SOCKS4, SOCKS4a, SOCKS5 and HTTP CONNECT; nothing else.
    Socks,
    /// The same, and everything else is plain bytes.
    Auto,
}

/// The front of one listener.
#[derive(Debug)]
pub struct Front {
    kind: FrontKind,
    names: FrontNames,
    /// `listener.front_allow`.
    allowed: Vec<FrontName>,
    listener: String,
    metrics: Metrics,
}

/// The names that a listener leads to anyway. Asked at each request, because a reload changes them.
#[derive(Clone)]
pub struct FrontNames(Arc<dyn Fn() -> Vec<String> + Send + Sync>);

/// A name that clients may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FrontName {
    host: String,
    /// Any port where absent.
    port: Option<u16>,
}

/// Why a client is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejection {
    Name,
    Command,
    Method,
    Protocol,
    Timeout,
}

/// What came of the first bytes.
enum Negotiated {
    /// They are for the upstream.
    Plain,
    Asked(Protocol),
    Rejected(Option<Protocol>, Rejection),
    /// The client has ended before it said what it wants.
    Gone,
    /// The listener is shutting down, and the client has said nothing.
    Drained,
    /// The connection is to be ended at once.
    Cut(Reason),
}

// === impl FrontName ===

impl FrontName {
    /// Reads `HOST[:PORT]`; `None`: it is neither, which the validation of the settings has refused.
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = addr::parse_host_maybe_port(text).ok()?;
        let host = normal(&host);
        Some(Self { host, port })
    }

    fn covers(&self, target: &HostPort) -> bool {
        self.host == normal(&target.host) && self.port.is_none_or(|port| port == target.port)
    }
}

/// Case, a final dot and the spelling of an address make no difference.
fn normal(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    }
}

// === impl FrontNames ===

impl FrontNames {
    pub fn new(names: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(names))
    }
}

impl fmt::Debug for FrontNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)().fmt(f)
    }
}

// === impl Front ===

impl Front {
    /// `names`: what the listener leads to anyway; `allow`: `listener.front_allow`.
    pub fn new(
        kind: FrontKind,
        allow: &[String],
        names: FrontNames,
        listener: &str,
        metrics: &Metrics,
    ) -> Self {
        Self {
            kind,
            names,
            allowed: allow
                .iter()
                .filter_map(|text| FrontName::parse(text))
                .collect(),
            listener: listener.to_owned(),
            metrics: metrics.clone(),
        }
    }

    /// What serves the connections of the listener.
    pub(super) fn handler(self, drain: DrainWatcher) -> ConnectionHandler {
        let front = Arc::new(self);
        ConnectionHandler::new(move |stream, guard| {
            Arc::clone(&front).serve(stream, guard, drain.clone())
        })
    }

    pub(super) fn is_plain(&self) -> bool {
        self.kind == FrontKind::Tcp
    }

    fn is_allowed(&self, target: &HostPort) -> bool {
        let host = normal(&target.host);
        (self.names.0)().iter().any(|name| normal(name) == host)
            || self.allowed.iter().any(|allowed| allowed.covers(target))
    }

    /// Serves one accepted connection to its end.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: std::net::TcpStream,
        mut guard: Box<ConnectionGuard>,
        mut drain: DrainWatcher,
    ) {
        let Ok(mut tcp) = TcpStream::from_std(stream) else {
            return guard.rejected(Reason::Resource);
        };
        let negotiated = tokio::select! {
            biased;
            reason = guard.cut() => Negotiated::Cut(reason),
            negotiated = Box::pin(self.negotiate(&mut tcp, &mut drain)) => negotiated,
        };
        match negotiated {
            Negotiated::Plain => match tcp.into_std() {
                Ok(stream) => connection::serve(stream, guard).await,
                Err(_) => guard.rejected(Reason::Resource),
            },
            Negotiated::Asked(protocol) => {
                let reply = FrontReply {
                    protocol,
                    client: Some(tcp),
                };
                connection::serve_after_reply(guard, reply).await;
            }
            Negotiated::Rejected(protocol, rejection) => {
                let labels = [self.listener.as_str(), rejection.as_str()];
                self.metrics
                    .counter(&family::FRONT_REJECTED, &labels)
                    .increment(1);
                guard.rejected(match rejection {
                    Rejection::Timeout => Reason::FrontTimeout,
                    _ => Reason::FrontRejected,
                });
                let denial = protocol.map_or(&b""[..], |protocol| denial(protocol, rejection));
                finish(tcp, denial).await;
            }
            Negotiated::Gone => guard.rejected(Reason::ClientGone),
            Negotiated::Cut(reason) => {
                guard.rejected(reason);
                let _ = socket::reset_on_close(&tcp);
            }
            Negotiated::Drained => {
                guard.rejected(Reason::DrainIdle);
                finish(tcp, b"").await;
            }
        }
    }

    async fn negotiate(&self, tcp: &mut TcpStream, drain: &mut DrainWatcher) -> Negotiated {
        let mut deadline = Instant::now() + REQUEST_TIMEOUT;
        // A client that has said nothing is at rest: without a limit in `auto`, and first to go at a drain.
        let first = tokio::select! {
            ready = readable(tcp, 0) => ready,
            () = drain.fired() => return Negotiated::Drained,
            () = sleep_until(deadline), if self.kind == FrontKind::Socks => {
                return Negotiated::Rejected(None, Rejection::Timeout);
            }
        };
        if !first {
            // A plain client may end its side first.
            return match self.kind {
                FrontKind::Auto => Negotiated::Plain,
                _ => Negotiated::Gone,
            };
        }
        if self.kind == FrontKind::Auto {
            deadline = Instant::now() + REQUEST_TIMEOUT;
        }
        let read = self.read_request(tcp);
        match timeout_at(deadline, read).await {
            Ok(negotiated) => negotiated,
            Err(_late) => Negotiated::Rejected(None, Rejection::Timeout),
        }
    }

    async fn read_request(&self, tcp: &mut TcpStream) -> Negotiated {
        let protocol = match take(tcp, parse::detect).await {
            Ok(Some(protocol)) => protocol,
            Ok(None) if self.kind == FrontKind::Auto => return Negotiated::Plain,
            Ok(None) => return Negotiated::Rejected(None, Rejection::Protocol),
            // Bytes that might have become a CONNECT, and then an end.
            Err(_) if self.kind == FrontKind::Auto => return Negotiated::Plain,
            Err(_) => return Negotiated::Gone,
        };
        if protocol == Protocol::Socks5 {
            match take(tcp, parse::socks5_greeting).await {
                Ok(()) => {}
                Err(ended) => return ended.rejected(protocol),
            }
            if tcp.write_all(&[5, 0]).await.is_err() {
                return Negotiated::Gone;
            }
        }
        let target = match protocol {
            Protocol::Socks4 => take(tcp, parse::socks4_request).await,
            Protocol::Socks5 => take(tcp, parse::socks5_request).await,
            Protocol::Connect => take(tcp, parse::connect_request).await,
        };
        match target {
            Ok(target) if self.is_allowed(&target) => Negotiated::Asked(protocol),
            Ok(_) => Negotiated::Rejected(Some(protocol), Rejection::Name),
            Err(ended) => ended.rejected(protocol),
        }
    }
}

/// Why there is no complete request.
enum NoRequest {
    Gone,
    Bad(Bad),
}

// === impl Ended ===

impl NoRequest {
    fn rejected(self, protocol: Protocol) -> Negotiated {
        match self {
            NoRequest::Gone => Negotiated::Gone,
            NoRequest::Bad(bad) => Negotiated::Rejected(
                Some(protocol),
                match bad {
                    Bad::Command => Rejection::Command,
                    Bad::Method => Rejection::Method,
                    Bad::Protocol => Rejection::Protocol,
                },
            ),
        }
    }
}

/// Peeks until `parse` has what it needs, then takes exactly that from the socket.
async fn take<T>(tcp: &mut TcpStream, parse: impl Fn(&[u8]) -> Parsed<T>) -> Result<T, NoRequest> {
    let mut buf = vec![0; 512];
    let mut seen = 0;
    loop {
        if !readable(tcp, seen).await {
            return Err(NoRequest::Gone);
        }
        seen = tcp.peek(&mut buf).await.map_err(|_| NoRequest::Gone)?;
        match parse(&buf[..seen]) {
            Parsed::Complete(parsed, length) => {
                let taken = tcp.read_exact(&mut buf[..length]).await;
                return taken.map(|_| parsed).map_err(|_| NoRequest::Gone);
            }
            Parsed::Bad(bad) => return Err(NoRequest::Bad(bad)),
            Parsed::Incomplete if seen >= MAX_REQUEST => return Err(NoRequest::Bad(Bad::Protocol)),
            Parsed::Incomplete => buf.resize(buf.len().max(seen + 1).next_power_of_two(), 0),
        }
        if seen == buf.len() {
            buf.resize((2 * seen).min(MAX_REQUEST + 1), 0);
        }
    }
}

/// Waits until more than `seen` bytes can be read; false when the client has ended before.
async fn readable(tcp: &TcpStream, seen: usize) -> bool {
    loop {
        let Ok(ready) = tcp.ready(Interest::READABLE).await else {
            return false;
        };
        let mut buf = vec![0; seen + 1];
        // Inside `try_io`, so that the event loop reports only what comes in addition.
        let peeked = tcp.try_io(Interest::READABLE, || {
            let read = socket::peek(tcp, &mut buf)?;
            match read > seen || read == 0 {
                true => Ok(read),
                false => Err(std::io::ErrorKind::WouldBlock.into()),
            }
        });
        match peeked {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if ready.is_read_closed() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
}

/// Sends what is left to say, then a FIN, and waits a moment for the client's.
async fn finish(mut tcp: TcpStream, last: &[u8]) {
    let ended = async {
        tcp.write_all(last).await?;
        tcp.shutdown().await?;
        while tcp.read(&mut [0; 1024]).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    let _ = timeout(LINGER, ended).await;
}

fn denial(protocol: Protocol, rejection: Rejection) -> &'static [u8] {
    match (protocol, rejection) {
        (Protocol::Socks5, Rejection::Method) => b"\x05\xff",
        (Protocol::Socks5, Rejection::Command) => b"\x05\x07\0\x01\0\0\0\0\0\0",
        (Protocol::Socks5, _) => b"\x05\x02\0\x01\0\0\0\0\0\0",
        (Protocol::Socks4, _) => b"\0\x5b\0\0\0\0\0\0",
        (Protocol::Connect, Rejection::Name) => {
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        }
        (Protocol::Connect, _) => {
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        }
    }
}

/// Answers the request once the dial has ended.
struct FrontReply {
    protocol: Protocol,
    client: Option<TcpStream>,
}

impl ClientReply for FrontReply {
    fn client(&self) -> Option<&TcpStream> {
        self.client.as_ref()
    }

    async fn reached(&mut self) -> Option<Stream> {
        let mut tcp = self.client.take()?;
        let answer: &[u8] = match self.protocol {
            Protocol::Socks5 => b"\x05\0\0\x01\0\0\0\0\0\0",
            Protocol::Socks4 => b"\0\x5a\0\0\0\0\0\0",
            Protocol::Connect => b"HTTP/1.1 200 OK\r\n\r\n",
        };
        tcp.write_all(answer).await.ok()?;
        Some(Stream::from(tcp))
    }

    async fn failed(&mut self, _reason: Reason) {
        let Some(tcp) = self.client.take() else {
            return;
        };
        let answer: &[u8] = match self.protocol {
            Protocol::Socks5 => b"\x05\x04\0\x01\0\0\0\0\0\0",
            Protocol::Socks4 => b"\0\x5b\0\0\0\0\0\0",
            Protocol::Connect => {
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
        };
        finish(tcp, answer).await;
    }
}

// === impl Rejection ===

impl Rejection {
    const fn as_str(self) -> &'static str {
        match self {
            Rejection::Name => "name",
            Rejection::Command => "command",
            Rejection::Method => "method",
            Rejection::Protocol => "protocol",
            Rejection::Timeout => "timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_listener_leads_to() {
        let names = || ["entry.prod.us-east-1.datomic.net", "a", "10.0.0.1"].map(str::to_owned);
        let more = ["Other.Example:8182".to_owned(), "[::1]".to_owned()];
        let front = Front::new(
            FrontKind::Socks,
            &more,
            FrontNames::new(move || names().to_vec()),
            "l",
            &Metrics::default(),
        );
        let is_allowed = |host: &str, port| {
            let host = host.to_owned();
            front.is_allowed(&HostPort { host, port })
        };
        assert!(is_allowed("ENTRY.prod.us-east-1.datomic.net.", 8182));
        assert!(is_allowed("a", 1) && is_allowed("::1", 80) && is_allowed("0:0::1", 80));
        assert!(is_allowed("10.0.0.1", 1) && is_allowed("::ffff:10.0.0.1", 1));
        assert!(is_allowed("other.example", 8182) && !is_allowed("other.example", 80));
        for other in [
            "127.0.0.1",
            "169.254.169.254",
            "entry.prod.us-east-1.datomic.net.evil",
            "evil.entry.prod.us-east-1.datomic.net",
            "010.0.0.1",
            "167772161",
            "a..",
            "[::1]",
            "",
        ] {
            assert!(!is_allowed(other, 8182), "{other}");
        }
    }
}
