//! One DNS server: ask it one question over UDP, over TCP where the answer was truncated, and read what it says.
//!
//! Stands on hickory's wire level, not on its `Resolver`: that one sends a silent server the question four times a
//! second, chases a CNAME loop eight times per lookup, and takes a fast SERVFAIL of one server for the answer while
//! another would have known. Here a question is sent once and again after a second (a packet may be lost), and what
//! follows CNAMEs is the server's work: only the chain within the answer is followed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsHandle, DnsRequestSender, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::{Instant, timeout, timeout_at};

use crate::upstream::input::LookupError;

/// The longest CNAME chain that is followed.
const MAX_CNAMES: usize = 8;

/// Which of the two kinds of address; each is asked for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
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
pub struct Reply {
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
    /// Cleared when the server says FORMERR: it does not know EDNS.
    edns: AtomicBool,
}

// === impl Family ===

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn record_type(self) -> RecordType {
        match self {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        }
    }

    /// The record type's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "A",
            Family::V6 => "AAAA",
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
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            provider: TokioRuntimeProvider::default(),
            edns: AtomicBool::new(true),
        }
    }

    /// Asks for one family of a name; done within `within`.
    pub(crate) async fn ask(&self, name: &Name, family: Family, within: Duration) -> Reply {
        let started = Instant::now();
        let deadline = started + within;
        let udp = timeout_at(deadline, self.over_udp(name, family, within)).await;
        let mut tcp = false;
        let response = match udp.unwrap_or(Err(NetError::Timeout)) {
            Ok(message) if message.metadata.truncation => {
                tcp = true;
                timeout_at(deadline, self.over_tcp(name, family, within))
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
        if rcode == Some("FORMERR") {
            self.edns.store(false, Relaxed);
        }
        Reply {
            result: response.and_then(|message| read(&message, name, family)),
            rcode,
            took: started.elapsed(),
            tcp,
        }
    }

    fn request(&self, name: &Name, family: Family) -> DnsRequest {
        let mut options = DnsRequestOptions::default();
        options.use_edns = self.edns.load(Relaxed);
        DnsRequest::from_query(Query::query(name.clone(), family.record_type()), options)
    }

    /// A new socket and port per question: what a forger would have to guess. Answers from elsewhere, with another id
    /// or to another question are passed over.
    async fn over_udp(
        &self,
        name: &Name,
        family: Family,
        within: Duration,
    ) -> Result<Message, NetError> {
        let mut stream = UdpClientStream::builder(self.addr, self.provider.clone())
            .with_timeout(Some(within))
            .with_max_retries(2)
            .with_retry_interval_floor(1000)
            .build();
        let response = stream.send_message(self.request(name, family));
        Ok(response.first_answer().await?.into_message())
    }

    async fn over_tcp(
        &self,
        name: &Name,
        family: Family,
        within: Duration,
    ) -> Result<Message, NetError> {
        let provider = self.provider.clone();
        let exchange = TcpClientStream::exchange(self.addr, None, within, None, provider);
        let exchange = timeout(within, exchange)
            .await
            .map_err(|_| NetError::Timeout)??;
        let response = exchange.send(self.request(name, family));
        Ok(response.first_answer().await?.into_message())
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
        _ => "other",
    }
}

/// Follows the CNAMEs of an answer from the name that was asked for and takes the addresses at their end.
fn read(message: &Message, name: &Name, family: Family) -> Result<Records, LookupError> {
    if let Some(bad) = bad_code(message.metadata.response_code) {
        return Err(bad);
    }
    let cnames: HashMap<&Name, (&Name, u32)> = message
        .answers
        .iter()
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
    for record in message.answers.iter().filter(|r| r.name == *owner) {
        let ip: IpAddr = match (&record.data, family) {
            (RData::A(ip), Family::V4) => ip.0.into(),
            (RData::AAAA(ip), Family::V6) => ip.0.into(),
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
