//! Asks each DNS server for each name, and says which answer entryway would use. `dns_checks` says what that means.
//!
//! All names and servers are asked at once, each name within [`WITHIN`]. The answer that counts is the one entryway
//! would believe: that of the first server, in the configured order, that says anything sensible.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::input::{DoctorInput, UpstreamTarget};
use super::types::is_private;
use crate::addr::aws::{self, EntryName};
use crate::dns::{self, DnsSettings, Responder, ServerReplies};
use crate::upstream::endpoint::{EndpointSpec, Role};
use crate::upstream::input::{AnswerSource, LookupError};

/// For one name with all servers, search domains included.
pub(super) const WITHIN: Duration = Duration::from_secs(5);
/// One server's silence for that long is silence.
const SERVER_WITHIN: Duration = Duration::from_secs(2);
/// As entryway does, of too many addresses the first are taken.
const MAX_ADDRESSES: usize = 16;

/// What became of one name.
#[derive(Clone, Debug)]
pub(super) struct LookedUpName {
    pub(super) host: String,
    /// The addresses entryway would use, or why there are none.
    pub(super) result: Result<Vec<IpAddr>, LookupError>,
    pub(super) source: AnswerSource,
    /// The name with a search domain, where only that exists.
    pub(super) search: Option<String>,
    pub(super) servers: Vec<ServerReplies>,
    pub(super) no_resolver: Option<String>,
}

/// All names, by host in lower case.
pub(super) type LookedUpNames = BTreeMap<String, LookedUpName>;

/// Looks up every name of every target, the sibling of each peered name, and of a query group also the system's names.
pub(super) async fn look_up(subject: &DoctorInput) -> LookedUpNames {
    let mut hosts = BTreeSet::new();
    // The names of others are resolved by their hops.
    let endpoints = subject.targets.iter().flat_map(|target| &target.endpoints);
    for endpoint in endpoints.filter(|endpoint| endpoint.remote_target().is_none()) {
        let host = key(&endpoint.host);
        hosts.extend(sibling(&host));
        hosts.insert(host);
    }
    hosts.extend(subject.targets.iter().flat_map(system_names));
    let settings = DnsSettings {
        timeout: subject.dns.timeout.min(SERVER_WITHIN),
        ..subject.dns.clone()
    };
    let mut asked = JoinSet::new();
    for host in hosts {
        let (settings, files) = (settings.clone(), subject.files.clone());
        asked.spawn(async move {
            let looked = timeout(WITHIN, dns::lookup_with(&settings, &host, &files)).await;
            let name = match looked {
                Ok(report) => LookedUpName::read(report, settings.allow_local_answers),
                Err(_) => LookedUpName::silent(&host),
            };
            (host, name)
        });
    }
    let mut names = LookedUpNames::new();
    while let Some(ended) = asked.join_next().await {
        // A lookup that panicked says nothing; its name is missing and reported as such.
        names.extend(ended);
    }
    names
}

/// The addresses of an endpoint, if its name has any.
pub(super) fn addresses<'n>(names: &'n LookedUpNames, endpoint: &EndpointSpec) -> &'n [IpAddr] {
    let name = names.get(&key(&endpoint.host));
    name.and_then(|name| name.result.as_deref().ok())
        .unwrap_or_default()
}

/// The endpoints that take part: those whose name answers; of peered names the older only while the newer has none.
pub(super) fn in_use<'w>(
    names: &LookedUpNames,
    target: &'w UpstreamTarget,
) -> Vec<&'w EndpointSpec> {
    let new_lives = target
        .endpoints
        .iter()
        .any(|e| e.role == Role::Peered && !addresses(names, e).is_empty());
    let wanted = |e: &&EndpointSpec| {
        (e.role != Role::PeeredOld || !new_lives) && !addresses(names, e).is_empty()
    };
    let resolved = target.endpoints.iter();
    resolved
        .filter(|endpoint| endpoint.remote_target().is_none())
        .filter(wanted)
        .collect()
}

pub(super) fn key(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// The system's own entry names, where a target leads to one of its query groups.
pub(super) fn system_names(target: &UpstreamTarget) -> Vec<String> {
    let group = target
        .endpoints
        .iter()
        .find_map(|e| aws::entry_name(&key(&e.host)));
    match (group, &target.system) {
        (Some(name), Some(system)) if !name.group.eq_ignore_ascii_case(system) => {
            EntryName::both(&key(system), &name.region).to_vec()
        }
        _ => Vec::new(),
    }
}

/// The other name of a peered entry point.
pub(super) fn sibling(host: &str) -> Option<String> {
    let name = aws::entry_name(host)?;
    let entry = if name.http { "entry" } else { "entry-http" };
    Some(format!(
        "{entry}.{}.{}.datomic.net",
        name.group, name.region
    ))
}

// === impl Name ===

impl LookedUpName {
    fn silent(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            result: Err(LookupError::Timeout),
            source: AnswerSource::Dns,
            search: None,
            servers: Vec::new(),
            no_resolver: None,
        }
    }

    fn read(report: dns::Lookup, allow_local: bool) -> Self {
        let mut name = Self {
            no_resolver: report.no_resolver.filter(|_| report.known.is_none()),
            search: report.search.map(|(longer, _)| longer),
            servers: report.servers,
            ..Self::silent(&report.host)
        };
        if let Some((source, mut ips)) = report.known {
            ips.truncate(MAX_ADDRESSES);
            (name.source, name.result) = (source, Ok(ips));
            return name;
        }
        if let Some(why) = &name.no_resolver {
            name.result = Err(LookupError::NoResolver(why.clone()));
            return name;
        }
        name.result = name.believed().and_then(|all| {
            let (refused, mut ips): (Vec<IpAddr>, Vec<IpAddr>) = all
                .into_iter()
                .partition(|ip| dns::is_local(*ip) && !allow_local);
            ips.truncate(MAX_ADDRESSES);
            if ips.is_empty() {
                Err(LookupError::OnlyRefused(refused))
            } else {
                Ok(ips)
            }
        });
        name
    }

    /// The answer of the first server that says anything sensible.
    fn believed(&self) -> Result<Vec<IpAddr>, LookupError> {
        let mut worst = LookupError::Timeout;
        for server in &self.servers {
            let said = answer_of(server);
            match said {
                Ok(_) | Err(LookupError::NoData | LookupError::NxDomain) => return said,
                Err(why) if worst == LookupError::Timeout => worst = why,
                Err(_) => {}
            }
        }
        Err(worst)
    }

    /// How the servers' sensible answers differ, if they do. Servers that rotate their answers do not count: only the
    /// kind of answer does (addresses or none, private or public).
    pub(super) fn disagreement(&self) -> Option<String> {
        let kinds: Vec<(Responder, &str)> = self
            .servers
            .iter()
            .filter_map(|server| {
                let kind = match answer_of(server) {
                    Ok(ips) if ips.iter().all(|ip| is_private(*ip)) => "private addresses",
                    Ok(_) => "public addresses",
                    Err(LookupError::NxDomain) => "no such name",
                    Err(LookupError::NoData) => "no addresses",
                    Err(_) => return None,
                };
                Some((server.server, kind))
            })
            .collect();
        let differ = kinds.windows(2).any(|pair| pair[0].1 != pair[1].1);
        let say = |(server, kind): &(Responder, &str)| format!("{server}: {kind}");
        differ.then(|| kinds.iter().map(say).collect::<Vec<_>>().join(", "))
    }
}

/// What one server says, both families together.
fn answer_of(server: &ServerReplies) -> Result<Vec<IpAddr>, LookupError> {
    let results = || server.replies.iter().map(|(_, reply)| &reply.result);
    let ips: Vec<IpAddr> = results()
        .flatten()
        .flat_map(|records| records.ips.iter().copied())
        .collect();
    if !ips.is_empty() {
        return Ok(ips);
    }
    let errors: Vec<&LookupError> = results()
        .filter_map(|result| result.as_ref().err())
        .collect();
    // What tells of trouble goes before what tells of absence, as in entryway's own lookups.
    let trouble = errors
        .iter()
        .find(|why| !matches!(why, LookupError::NoData | LookupError::NxDomain));
    let gone = errors
        .iter()
        .find(|why| matches!(why, LookupError::NxDomain));
    Err(trouble
        .or(gone)
        .or(errors.first())
        .map_or(LookupError::Timeout, |why| (**why).clone()))
}
