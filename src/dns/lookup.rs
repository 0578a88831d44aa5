//! One look at a name for `doctor`: what each server says, by itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ask::{ResolverConfig, SystemFiles};
use super::hosts::normalize;
use super::server::{AddressFamily, DnsReply, Server};
use super::settings::{DnsSettings, ResolverKind};
use super::stub::absolute;
use super::system::SystemResolver;
use crate::upstream::input::{AnswerSource, LookupError};

/// Of the search domains, as many are tried.
const MAX_SEARCH: usize = 6;

/// What is to be known about how a name resolves.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The name: lower case, without a final dot.
    pub host: String,
    /// What it is without DNS; then no server is asked.
    pub known: Option<(AnswerSource, Vec<IpAddr>)>,
    /// Why there is no server to ask.
    pub no_resolver: Option<String>,
    /// What each server says, in the order of the configuration.
    pub servers: Vec<ServerReplies>,
    /// The name with a search domain of the system, where only that has addresses. entryway never uses search domains,
    /// but other programs on the machine do, so there the name seems to work.
    pub search: Option<(String, Vec<IpAddr>)>,
}

/// Who answers questions about names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Responder {
    Server(SocketAddr),
    /// The system's resolver, `getaddrinfo`.
    System,
}

/// What one server says.
#[derive(Clone, Debug)]
pub struct ServerReplies {
    pub server: Responder,
    /// To A and to AAAA.
    pub replies: [(AddressFamily, DnsReply); 2],
}

// === impl Responder ===

impl fmt::Display for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Responder::Server(address) => write!(f, "{address}"),
            Responder::System => f.write_str("getaddrinfo"),
        }
    }
}

// === impl Lookup ===

impl Lookup {
    /// Every address that any server gave, once.
    pub fn ips(&self) -> Vec<IpAddr> {
        let known = self.known.iter().flat_map(|(_, ips)| ips);
        let replies = self.servers.iter().flat_map(|server| &server.replies);
        let mut ips: Vec<IpAddr> = replies
            .filter_map(|(_, reply)| reply.result.as_ref().ok())
            .flat_map(|records| &records.ips)
            .chain(known)
            .copied()
            .collect();
        ips.sort_unstable();
        ips.dedup();
        ips
    }
}

/// Looks a name up once; within twice `settings.timeout`.
pub async fn lookup(settings: &DnsSettings, host: &str) -> Lookup {
    lookup_with(settings, host, &SystemFiles::default()).await
}

/// As [`lookup`], with other files than the system's.
pub async fn lookup_with(settings: &DnsSettings, host: &str, files: &SystemFiles) -> Lookup {
    let config = ResolverConfig::read(settings, files);
    let host = normalize(host);
    let mut report = Lookup {
        known: config.hosts.find(&host),
        no_resolver: config.servers.as_ref().err().cloned(),
        servers: Vec::new(),
        search: None,
        host,
    };
    if report.known.is_some() {
        return report;
    }
    if settings.resolver == ResolverKind::System {
        report.no_resolver = None;
        report.servers = vec![ask_system(&report.host, settings).await];
        return report;
    }
    let Ok(servers) = &config.servers else {
        return report;
    };
    report.servers = ask_each(servers, &report.host, settings).await;
    if let Some(first) = servers.first()
        && report.ips().is_empty()
    {
        for domain in config
            .search
            .iter()
            .filter(|domain| !domain.is_empty())
            .take(MAX_SEARCH)
        {
            let longer = format!("{}.{domain}", report.host);
            let replies = ask_each(std::slice::from_ref(first), &longer, settings).await;
            let tried = Lookup {
                host: longer,
                servers: replies,
                ..report.clone()
            };
            let silent = tried.servers.iter().flat_map(|server| &server.replies);
            if silent
                .clone()
                .all(|(_, reply)| reply.result == Err(LookupError::Timeout))
            {
                break;
            }
            if !tried.ips().is_empty() {
                report.search = Some((tried.host.clone(), tried.ips()));
                break;
            }
        }
    }
    report
}

/// The system's resolver, both families at once.
async fn ask_system(host: &str, settings: &DnsSettings) -> ServerReplies {
    let system = SystemResolver::default();
    let ask = async |family| {
        let started = Instant::now();
        let result = system.ask(host, family, settings.timeout, settings.system_ttl());
        let reply = DnsReply {
            result: result.await,
            rcode: None,
            took: started.elapsed(),
            tcp: false,
        };
        (family, reply)
    };
    let [v4, v6] = AddressFamily::BOTH;
    let (a, aaaa) = tokio::join!(ask(v4), ask(v6));
    ServerReplies {
        server: Responder::System,
        replies: [a, aaaa],
    }
}

/// All servers at once, both families at once; the replies in the servers' order.
async fn ask_each(
    servers: &[Arc<Server>],
    host: &str,
    settings: &DnsSettings,
) -> Vec<ServerReplies> {
    let Ok(name) = absolute(host) else {
        return Vec::new();
    };
    let within = settings.timeout;
    let mut asked = JoinSet::new();
    for (index, server) in servers.iter().enumerate() {
        let (server, name) = (Arc::clone(server), name.clone());
        asked.spawn(async move {
            let [v4, v6] = AddressFamily::BOTH;
            let (a, aaaa) =
                tokio::join!(server.ask(&name, v4, within), server.ask(&name, v6, within));
            let report = ServerReplies {
                server: Responder::Server(server.addr),
                replies: [(v4, a), (v6, aaaa)],
            };
            (index, report)
        });
    }
    let mut reports = Vec::new();
    while let Some(Ok(report)) = asked.join_next().await {
        reports.push(report);
    }
    reports.sort_by_key(|(index, _)| *index);
    reports.into_iter().map(|(_, report)| report).collect()
}
