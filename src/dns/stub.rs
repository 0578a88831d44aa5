//! The stub resolver: how one question is put to several DNS servers.
//!
//! Servers stand in order. The next is asked as well when the ones before have been silent for a moment or gave no
//! sensible answer; that a name does not exist, or has no such address, is believed (as every libc does: behind a VPN
//! the first server knows names that the second does not).

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::server::{AddressFamily, Records, Server};
use crate::upstream::input::LookupError;

/// How long a server may be silent before the next is asked as well.
const STAGGER: Duration = Duration::from_millis(300);

/// Puts one question to the servers; done within `within`.
pub(crate) async fn ask(
    servers: &Result<Vec<Arc<Server>>, String>,
    host: &str,
    family: AddressFamily,
    within: Duration,
) -> Result<Records, LookupError> {
    let servers = match servers {
        Ok(servers) => servers,
        Err(why) => return Err(LookupError::NoResolver(why.clone())),
    };
    let name = absolute(host)?;
    let deadline = Instant::now() + within;
    let mut waiting = servers.iter();
    let mut asked = JoinSet::new();
    let mut worst = LookupError::Timeout;
    let mut next_at = Instant::now();
    loop {
        if Instant::now() >= next_at
            && let Some(server) = waiting.next()
        {
            let (server, name) = (Arc::clone(server), name.clone());
            let within = deadline.saturating_duration_since(Instant::now());
            asked.spawn(async move { server.ask(&name, family, within).await });
            next_at = Instant::now() + STAGGER;
        }
        let more = waiting.len() > 0;
        let reply = tokio::select! {
            Some(reply) = asked.join_next() => reply,
            () = sleep_until(next_at), if more => continue,
            else => return Err(worst),
        };
        match reply.map(|reply| reply.result) {
            Ok(Ok(records)) => return Ok(records),
            Ok(Err(absent @ (LookupError::NoData | LookupError::NxDomain))) => return Err(absent),
            Ok(Err(why)) if matches!(worst, LookupError::Timeout) => worst = why,
            // A second poor answer adds nothing; a task that panicked or was cancelled says nothing.
            Ok(Err(_)) | Err(_) => {}
        }
        next_at = Instant::now();
    }
}

/// A host as an absolute name, so that no search domain is ever tried.
pub(crate) fn absolute(host: &str) -> Result<Name, LookupError> {
    Name::from_ascii(format!("{host}."))
        .map_err(|error| LookupError::Garbage(format!("not a DNS name: {error}")))
}
