//! One DNS server: ask it one question over UDP, over TCP where the answer was truncated, and read what it says.
//!
//! Stands on hickory's wire level, not on its `Resolver`: that one sends a silent server the question four times a
//! second, chases a CNAME loop eight times per lookup, and takes a fast SERVFAIL of one server for the answer while
//! another would have known. Here a question is sent once and again after a second (a packet may be lost), and what
//! follows CNAMEs is the server's work: only the chain within the answer is followed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsHandle, DnsRequestSender, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{
    DnsRequest, DnsRequestOptions, Message, MessageType, OpCode, Query, ResponseCode,
};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::upstream::input::LookupError;

/// The longest CNAME chain that is followed, as unbound has it.
const MAX_CNAMES: usize = 11;
/// After how much silence a question is sent again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Signs that a server does not know EDNS, until it is asked without: a refusal counts for as many as two silences.
const EDNS_DOUBTS: u8 = 2;

/// Which of the two kinds of address; each is asked for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// A.
    V4,
    /// AAAA.
    V6,
}

/// The addresses of one family in one answer; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// Sorted, each once, v4-mapped ones made plain.
    pub ips: Vec<IpAddr>,
    /// The smallest TTL of the chain, as the server gave it.
    pub ttl: Duration,
}

/// One reply and how it came.
#[derive(Clone, Debug)]
pub struct DnsReply {
    /// What it says.
    pub result: Result<Records, LookupError>,
    /// The response code by name, where a message came.
    pub rcode: Option<&'static str>,
    /// How long it took.
    pub took: Duration,
    /// Whether it came over TCP.
    pub tcp: bool,
}

/// One server.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    /// Owns the tasks of its TCP exchanges, so it must live while they do.
    provider: TokioRuntimeProvider,
    /// How much speaks against its knowing EDNS; see [`EDNS_DOUBTS`].
    edns_doubts: AtomicU8,
    /// Sockets at once, over all servers.
    sockets: Arc<Semaphore>,
}

// === impl Family ===

impl AddressFamily {
    /// Both.
    pub const BOTH: [AddressFamily; 2] = [AddressFamily::V4, AddressFamily::V6];

    fn record_type(self) -> RecordType {
        match self {
            AddressFamily::V4 => RecordType::A,
            AddressFamily::V6 => RecordType::AAAA,
        }
    }

    /// The record type's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            AddressFamily::V4 => "A",
            AddressFamily::V6 => "AAAA",
        }
    }
}

// === impl Server ===

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.addr).finish()
    }
}

impl Server {
    pub(crate) fn new(addr: SocketAddr, sockets: Arc<Semaphore>) -> Self {
        Self {
            addr,
            provider: TokioRuntimeProvider::default(),
            edns_doubts: AtomicU8::new(0),
            sockets,
        }
    }

    /// Asks for one family of a name; done within `within`. A server may refuse EDNS in many ways (RFC 6891, section 7:
    /// FORMERR; others answer NOTIMP, BADVERS, SERVFAIL or REFUSED, or are silent), so where it is refused the same
    /// question is put once more without.
    pub(crate) async fn ask(
        &self,
        name: &Name,
        family: AddressFamily,
        within: Duration,
    ) -> DnsReply {
        let started = Instant::now();
        let deadline = started + within;
        let timed = |mut reply: DnsReply| {
            reply.took = started.elapsed();
            reply
        };
        if self.edns_doubts.load(Relaxed) >= EDNS_DOUBTS {
            return timed(self.exchange(name, family, false, deadline).await);
        }
        let mut with = pin!(self.exchange(name, family, true, deadline));
        let (doubts, with, without) = match timeout(RETRY_AFTER, &mut with).await {
            Ok(reply) if reply.knows_edns() => {
                self.edns_doubts.store(0, Relaxed);
                return timed(reply);
            }
            Ok(reply) if reply.rcode.is_none() => return timed(reply),
            Ok(reply) => {
                let without = self.exchange(name, family, false, deadline).await;
                (EDNS_DOUBTS, Some(reply), without)
            }
            // Lost, or dropped for its EDNS: both questions wait for an answer now.
            Err(_) => {
                let mut without = pin!(self.exchange(name, family, false, deadline));
                tokio::select! {
                    reply = &mut with => if reply.knows_edns() {
                        return timed(reply);
                    } else {
                        (1, Some(reply), without.await)
                    },
                    reply = &mut without => (1, None, reply),
                }
            }
        };
        // Only an answer shows that EDNS was the trouble.
        if without.knows_edns() {
            self.edns_doubts.fetch_add(doubts, Relaxed);
            return timed(without);
        }
        timed(with.unwrap_or(without))
    }

    /// One question: over UDP, and over TCP where the answer was truncated.
    async fn exchange(
        &self,
        name: &Name,
        family: AddressFamily,
        edns: bool,
        deadline: Instant,
    ) -> DnsReply {
        let started = Instant::now();
        // One for both: the socket of UDP is closed before one of TCP is opened.
        let Ok(_socket) = timeout_at(deadline, self.sockets.acquire()).await else {
            return DnsReply {
                result: Err(LookupError::Timeout),
                rcode: None,
                took: started.elapsed(),
                tcp: false,
            };
        };
        let within = deadline.saturating_duration_since(Instant::now());
        let request = || {
            let mut options = DnsRequestOptions::default();
            options.use_edns = edns;
            DnsRequest::from_query(Query::query(name.clone(), family.record_type()), options)
        };
        let udp = timeout_at(deadline, self.over_udp(request(), within)).await;
        let mut tcp = false;
        let response = match udp.unwrap_or(Err(NetError::Timeout)) {
            Ok(message) if message.metadata.truncation => {
                tcp = true;
                timeout_at(deadline, self.over_tcp(request(), within))
                    .await
                    .unwrap_or(Err(NetError::Timeout))
                    .and_then(|message| match message.metadata.truncation {
                        true => Err(NetError::Truncated),
                        false => Ok(message),
                    })
                    .map_err(|error| {
                        LookupError::Garbage(format!("truncated, and over TCP: {error}"))
                    })
            }
            other => other.map_err(|error| classify(&error)),
        };
        let rcode = response
            .as_ref()
            .ok()
            .map(|message| code_name(message.metadata.response_code));
        DnsReply {
            result: response.and_then(|message| read(&message, name, family)),
            rcode,
            took: started.elapsed(),
            tcp,
        }
    }

    /// A new socket and port per question: what a forger would have to guess. Answers from elsewhere, with another id
    /// or to another question are passed over.
    async fn over_udp(&self, request: DnsRequest, within: Duration) -> Result<Message, NetError> {
        let mut stream = UdpClientStream::builder(self.addr, self.provider.clone())
            .with_timeout(Some(within))
            .with_max_retries(2)
            .with_retry_interval_floor(u64::try_from(RETRY_AFTER.as_millis()).unwrap_or(1000))
            .build();
        let response = stream.send_message(request);
        Ok(response.first_answer().await?.into_message())
    }

    async fn over_tcp(&self, request: DnsRequest, within: Duration) -> Result<Message, NetError> {
        let provider = self.provider.clone();
        let exchange = TcpClientStream::exchange(self.addr, None, within, None, provider);
        let exchange = timeout(within, exchange)
            .await
            .map_err(|_| NetError::Timeout)??;
        let response = exchange.send(request);
        Ok(response.first_answer().await?.into_message())
    }
}

// === impl Reply ===

impl DnsReply {
    /// Whether it is an answer, if only that there is nothing.
    fn knows_edns(&self) -> bool {
        matches!(self.rcode, Some("NOERROR" | "NXDOMAIN"))
    }
}

/// What a failed exchange means.
fn classify(error: &NetError) -> LookupError {
    match error {
        NetError::Timeout => LookupError::Timeout,
        NetError::Dns(DnsError::ResponseCode(code)) => {
            bad_code(*code).unwrap_or(LookupError::NoData)
        }
        // Garbage as opposed to silence: a message came, and it was none.
        NetError::Proto(error) => LookupError::Garbage(error.to_string()),
        // No route, no permission, no descriptor: nothing was asked, and nothing came.
        other => LookupError::NoResolver(other.to_string()),
    }
}

/// The class of a response code; none where it is NOERROR.
fn bad_code(code: ResponseCode) -> Option<LookupError> {
    match code {
        ResponseCode::NoError => None,
        ResponseCode::NXDomain => Some(LookupError::NxDomain),
        ResponseCode::ServFail => Some(LookupError::ServFail),
        ResponseCode::Refused => Some(LookupError::Refused),
        other => Some(LookupError::Garbage(format!(
            "response code {}",
            code_name(other)
        ))),
    }
}

fn code_name(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}

/// Whether a message is the answer to the question (RFC 5452, section 9; RFC 1035, section 4.1): a query's response, with
/// the name, type and class that were asked for. An error may come without its question.
fn check_question(
    message: &Message,
    name: &Name,
    family: AddressFamily,
) -> Result<(), LookupError> {
    let garbage = |what: &str| Err(LookupError::Garbage(what.to_owned()));
    let metadata = &message.metadata;
    if metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query {
        return garbage("not the response to a query");
    }
    match &message.queries[..] {
        [query]
            if query.name == *name
                && query.query_type == family.record_type()
                && query.query_class == DNSClass::IN =>
        {
            Ok(())
        }
        [] if bad_code(metadata.response_code).is_some() => Ok(()),
        _ => garbage("the answer to another question"),
    }
}

/// Follows the CNAMEs of an answer from the name that was asked for and takes the addresses at their end.
fn read(message: &Message, name: &Name, family: AddressFamily) -> Result<Records, LookupError> {
    check_question(message, name, family)?;
    if let Some(bad) = bad_code(message.metadata.response_code) {
        return Err(bad);
    }
    let records = || {
        let records = message.answers.iter();
        records.filter(|record| record.dns_class == DNSClass::IN)
    };
    let cnames: HashMap<&Name, (&Name, u32)> = records()
        .filter_map(|record| match &record.data {
            RData::CNAME(target) => Some((&record.name, (&target.0, record.ttl))),
            _ => None,
        })
        .collect();
    let (mut owner, mut ttl) = (name, u32::MAX);
    let mut hops = 0;
    while let Some((target, its_ttl)) = cnames.get(owner) {
        hops += 1;
        if hops > MAX_CNAMES {
            let what = format!("a chain of more than {MAX_CNAMES} CNAMEs, or a loop");
            return Err(LookupError::Garbage(what));
        }
        (owner, ttl) = (target, ttl.min(*its_ttl));
    }
    let mut ips = Vec::new();
    for record in records().filter(|record| record.name == *owner) {
        let ip: IpAddr = match (&record.data, family) {
            (RData::A(ip), AddressFamily::V4) => ip.0.into(),
            (RData::AAAA(ip), AddressFamily::V6) => ip.0.into(),
            _ => continue,
        };
        ttl = ttl.min(record.ttl);
        ips.push(ip.to_canonical());
    }
    ips.sort_unstable();
    ips.dedup();
    if ips.is_empty() {
        return Err(LookupError::NoData);
    }
    Ok(Records {
        ips,
        ttl: Duration::from_secs(ttl.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question without a socket is not asked, and counts against nobody for longer than it has.
    #[tokio::test]
    async fn questions_wait_for_a_socket() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let sockets = Arc::new(Semaphore::new(1));
        let server = Server::new(silent.local_addr().unwrap(), Arc::clone(&sockets));
        let name = Name::from_ascii("entry.test.").unwrap();
        let (long, short) = (Duration::from_millis(300), Duration::from_millis(100));
        let (first, second) = tokio::join!(
            server.ask(&name, AddressFamily::V4, long),
            server.ask(&name, AddressFamily::V6, short),
        );
        assert_eq!(first.result, Err(LookupError::Timeout));
        assert_eq!(second.result, Err(LookupError::Timeout));
        let mut question = [0; 512];
        assert!(silent.try_recv_from(&mut question).is_ok());
        assert!(silent.try_recv_from(&mut question).is_err());
        assert_eq!(sockets.available_permits(), 1);
    }
}
