//! The system's resolver, `getaddrinfo`: sees what a stub cannot, such as a VPN's split DNS, systemd-resolved, sssd or
//! the scoped resolvers of macOS.
//!
//! `getaddrinfo` blocks, for as long as it likes, so each call has a thread of its own, and there are at most
//! [`MAX_THREADS`] of them: a resolver that hangs costs that many threads and never the control loop.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dns_lookup::{
    AddrFamily, AddrInfoHints, LookupError as AddrInfoError, LookupErrorKind, SockType, getaddrinfo,
};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::server::{AddressFamily, Records};
use crate::upstream::input::LookupError;

/// Calls at the same time, those that hang included.
const MAX_THREADS: usize = 8;

type SystemLookup = fn(&str, AddressFamily) -> Result<Vec<IpAddr>, LookupError>;

/// Asks the system's resolver.
#[derive(Debug)]
pub(crate) struct SystemResolver {
    threads: Arc<Semaphore>,
    lookup: SystemLookup,
}

// === impl SystemResolver ===

impl Default for SystemResolver {
    fn default() -> Self {
        Self::with(look_up)
    }
}

impl SystemResolver {
    fn with(lookup: SystemLookup) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(MAX_THREADS)),
            lookup,
        }
    }

    /// Asks for one family of a name; done within `within`. Answers say nothing about how long they hold: `ttl` is it.
    pub(crate) async fn ask(
        &self,
        host: &str,
        family: AddressFamily,
        within: Duration,
        ttl: Duration,
    ) -> Result<Records, LookupError> {
        let deadline = Instant::now() + within;
        let thread = timeout_at(deadline, Arc::clone(&self.threads).acquire_owned());
        let Ok(Ok(permit)) = thread.await else {
            return Err(LookupError::NoResolver(format!(
                "the system's resolver hangs: {MAX_THREADS} lookups have not returned"
            )));
        };
        let (sender, answer) = oneshot::channel();
        let (lookup, host) = (self.lookup, host.to_owned());
        let started = std::thread::Builder::new()
            .name("dns-system".to_owned())
            .spawn(move || {
                let _permit = permit;
                // Nobody waits any more where it took too long.
                let _ = sender.send(lookup(&host, family));
            });
        if let Err(error) = started {
            return Err(LookupError::NoResolver(format!("start a thread: {error}")));
        }
        let answer = timeout_at(deadline, answer).await;
        let mut ips = match answer.map_err(|_| LookupError::Timeout)? {
            Ok(answer) => answer?,
            Err(_) => return Err(LookupError::NoResolver("the lookup panicked".to_owned())),
        };
        ips.sort_unstable();
        ips.dedup();
        match ips.is_empty() {
            true => Err(LookupError::NoData),
            false => Ok(Records { ips, ttl }),
        }
    }
}

/// One call of `getaddrinfo`; blocks.
fn look_up(host: &str, family: AddressFamily) -> Result<Vec<IpAddr>, LookupError> {
    let hints = AddrInfoHints {
        socktype: SockType::Stream.into(),
        address: match family {
            AddressFamily::V4 => AddrFamily::Inet.into(),
            AddressFamily::V6 => AddrFamily::Inet6.into(),
        },
        ..AddrInfoHints::default()
    };
    let found = getaddrinfo(Some(host), None, Some(hints)).map_err(no_answer)?;
    let ips = found.filter_map(Result::ok);
    let ips = ips.map(|found| found.sockaddr.ip().to_canonical());
    // An IPv4-mapped answer belongs to the other family's question.
    Ok(ips
        .filter(|ip| ip.is_ipv4() == (family == AddressFamily::V4))
        .collect())
}

fn no_answer(error: AddrInfoError) -> LookupError {
    match error.kind() {
        LookupErrorKind::NoName => LookupError::NxDomain,
        LookupErrorKind::NoData => LookupError::NoData,
        // "Temporary failure in name resolution": the servers failed or were silent.
        LookupErrorKind::Again => LookupError::ServFail,
        _ => LookupError::NoResolver(std::io::Error::from(error).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);
    const TTL: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_systems_own_names_are_found() {
        let system = SystemResolver::default();
        let records = system
            .ask("localhost", AddressFamily::V4, WITHIN, TTL)
            .await
            .unwrap();
        assert_eq!(records.ips, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(records.ttl, TTL);
        let records = system
            .ask("10.1.2.3", AddressFamily::V4, WITHIN, TTL)
            .await
            .unwrap();
        assert_eq!(records.ips, ["10.1.2.3".parse::<IpAddr>().unwrap()]);
    }

    /// A resolver that never returns is bounded in time and in threads, and its state is named.
    #[tokio::test]
    async fn a_resolver_that_hangs_is_bounded_and_said() {
        let system = SystemResolver::with(|_, _| {
            loop {
                std::thread::park();
            }
        });
        let within = Duration::from_millis(50);
        for _ in 0..MAX_THREADS {
            let answer = system.ask("x.test", AddressFamily::V4, within, TTL).await;
            assert_eq!(answer, Err(LookupError::Timeout));
        }
        let answer = system.ask("x.test", AddressFamily::V4, within, TTL).await;
        let Err(LookupError::NoResolver(why)) = answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains("hangs"), "{why}");
    }

    #[tokio::test]
    async fn answers_are_sorted_and_failures_classed() {
        let system = SystemResolver::with(|host, _| match host {
            "two.test" => Ok(vec![
                [10, 0, 0, 2].into(),
                [10, 0, 0, 1].into(),
                [10, 0, 0, 2].into(),
            ]),
            "none.test" => Ok(Vec::new()),
            "panic.test" => panic!("as a broken module would"),
            _ => Err(LookupError::NxDomain),
        });
        let ask = |host: &'static str| system.ask(host, AddressFamily::V4, WITHIN, TTL);
        let two: Vec<IpAddr> = vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        assert_eq!(ask("two.test").await.unwrap().ips, two);
        assert_eq!(ask("none.test").await, Err(LookupError::NoData));
        assert_eq!(ask("other.test").await, Err(LookupError::NxDomain));
        assert!(matches!(
            ask("panic.test").await,
            Err(LookupError::NoResolver(_))
        ));
        // A thread gives its permit back after its answer has gone out.
        let all = u32::try_from(MAX_THREADS).unwrap();
        let back = tokio::time::timeout(WITHIN, system.threads.acquire_many(all)).await;
        drop(back.expect("every thread has ended").unwrap());
    }
}
