//! The life of one name: ask, report, wait, ask again; and the set of all names.
//!
//! A and AAAA are asked for at the same time and reported as soon as one has addresses and the other has had 50 ms; what
//! comes later is reported later. A family that fails keeps the addresses it had: only an answer changes the set.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::ask::Ask;
use super::backoff::{Backoff, FLOOR};
use super::hosts::{is_local, normalize};
use super::server::{AddressFamily, Records};
use super::settings::{DnsSettings, NameSpec};
use crate::clock;
use crate::metrics::{self, Metrics, family};
use crate::upstream::input::{Addresses, AnswerSource, DnsAnswer, Input, LookupError};

/// How long the second family is waited for once the first has answered (RFC 8305's resolution delay).
const GRACE: Duration = Duration::from_millis(50);
/// How often the system's files are checked for changes.
const FILES_EVERY: Duration = Duration::from_secs(2);

/// The counters of a name, which end with the last upstream that uses it.
const COUNTERS: [&metrics::Family; 2] = [&family::DNS_LOOKUPS, &family::DNS_CHANGES];

/// What every name's loop shares.
pub(crate) struct Shared<A> {
    pub(crate) ask: A,
    pub(crate) metrics: Metrics,
    pub(crate) report: Box<dyn Fn(Input) + Send + Sync>,
    /// Takes what of the system's files cannot be used.
    pub(crate) notice: Box<dyn Fn(&str) + Send + Sync>,
    /// A new value means: all names, now.
    pub(crate) wanted: watch::Sender<DnsSettings>,
    /// Signals that DNS works again, after it did not.
    pub(crate) recovered: watch::Sender<()>,
}

/// What a handle needs of the loops' shared part, whatever answers them.
pub(crate) trait RefreshControl: Send + Sync + std::fmt::Debug {
    fn refresh(&self);
    fn set(&self, settings: DnsSettings);
}

/// The result for one family within one lookup; none while it is awaited.
type Got = Option<Result<Records, LookupError>>;

/// One name.
struct NameRefresher<A> {
    shared: Arc<Shared<A>>,
    host: String,
    backoff: Backoff,
    /// The last good records of each family.
    kept: [Option<Records>; 2],
    /// Whether the last answer was one that working DNS would not have given.
    broken: bool,
    /// The addresses of the last good answer, sorted.
    addresses: Vec<IpAddr>,
}

/// Keeps one loop per wanted name until the last handle is dropped.
pub(crate) async fn run<A: Ask>(shared: Arc<Shared<A>>, mut names: watch::Receiver<Vec<NameSpec>>) {
    let mut loops: HashMap<(String, bool), AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut noticed = Vec::new();
    loop {
        // Each line once, for as long as it stands there.
        let skipped = shared.ask.skipped();
        for line in skipped.iter().filter(|line| !noticed.contains(*line)) {
            (shared.notice)(line);
        }
        noticed = skipped;
        let wanted = by_host(&names.borrow_and_update());
        loops.retain(|(host, candidate), task| {
            let keep = wanted.get(host) == Some(candidate) && !task.is_finished();
            if !keep {
                task.abort();
            }
            if !wanted.contains_key(host) {
                shared.metrics.remove_from(&COUNTERS, &[("name", host)]);
            }
            keep
        });
        for key in wanted {
            let shared = &shared;
            loops.entry(key).or_insert_with_key(|(host, candidate)| {
                tasks.spawn(NameRefresher::new(Arc::clone(shared), host, *candidate).run())
            });
        }
        tokio::select! {
            changed = names.changed() => if changed.is_err() {
                return;
            },
            // Also the pace at which a loop that panicked is started anew.
            () = clock::aligned_sleep(FILES_EVERY) => if shared.ask.refresh().await {
                shared.refresh();
            },
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// The names to follow. One that is a candidate here and an endpoint there is no candidate.
fn by_host(names: &[NameSpec]) -> HashMap<String, bool> {
    let mut wanted = HashMap::new();
    for spec in names {
        *wanted.entry(normalize(&spec.host)).or_insert(true) &= spec.candidate;
    }
    wanted
}

// === impl Shared ===

impl<A> std::fmt::Debug for Shared<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<A: Ask> RefreshControl for Shared<A> {
    fn refresh(&self) {
        self.wanted.send_modify(|_| ());
    }

    fn set(&self, settings: DnsSettings) {
        self.ask.set(settings.clone());
        self.wanted.send_replace(settings);
    }
}

// === impl NameRefresher ===

impl<A: Ask> NameRefresher<A> {
    fn new(shared: Arc<Shared<A>>, host: &str, candidate: bool) -> Self {
        Self {
            shared,
            host: host.to_owned(),
            backoff: Backoff::new(candidate),
            kept: [None, None],
            broken: false,
            addresses: Vec::new(),
        }
    }

    async fn run(mut self) {
        let mut wanted = self.shared.wanted.subscribe();
        let mut recovered = self.shared.recovered.subscribe();
        loop {
            let started = Instant::now();
            let settings = wanted.borrow_and_update().clone();
            recovered.mark_unchanged();
            let pause = match self.shared.ask.known(&self.host) {
                // Nothing changes before a file or a setting does.
                Some((source, ips)) => {
                    self.report_known(source, ips, &settings);
                    None
                }
                None => Some(self.lookup(&settings).await),
            };
            let next = started + pause.unwrap_or_default();
            tokio::select! {
                () = sleep_until(next), if pause.is_some() => {}
                changed = wanted.changed() => if changed.is_err() {
                    return;
                },
                // A candidate waits a minute; not when all that failed was the way to the server.
                _ = recovered.changed(), if self.broken && !self.backoff.answered() => {}
            }
            sleep_until(started + FLOOR).await;
        }
    }

    /// One lookup; the pause until the next, counted from its start.
    async fn lookup(&mut self, settings: &DnsSettings) -> Duration {
        let shared = Arc::clone(&self.shared);
        let host = self.host.clone();
        let mut v4 = pin!(shared.ask.ask(&host, AddressFamily::V4));
        let mut v6 = pin!(shared.ask.ask(&host, AddressFamily::V6));
        let mut got: [Got; 2] = [None, None];
        let mut grace = None;
        let mut reported = None;
        while got.iter().any(Option::is_none) {
            tokio::select! {
                result = &mut v4, if got[0].is_none() => got[0] = Some(result),
                result = &mut v6, if got[1].is_none() => got[1] = Some(result),
                () = sleep_until(grace.unwrap_or_else(Instant::now)), if grace.is_some() && reported.is_none() => {
                    let early = merge(&got, &self.kept, settings);
                    self.report(early.clone());
                    reported = Some(early);
                }
            }
            if grace.is_none() && got.iter().flatten().any(Result::is_ok) {
                grace = Some(Instant::now() + GRACE);
            }
        }
        let result = merge(&got, &self.kept, settings);
        if reported.as_ref() != Some(&result) {
            self.report(result.clone());
        }
        let good = got.iter().flatten().any(Result::is_ok);
        for (kept, got) in self.kept.iter_mut().zip(got) {
            match got {
                Some(Ok(records)) => *kept = Some(records),
                Some(Err(why)) if good && is_final(&why) => *kept = None,
                _ => {}
            }
        }
        let pause = self.next(&result);
        if self.backoff.is_expected() {
            self.count(&result);
        }
        pause
    }

    /// The pause after this answer; lets waiting candidates know when DNS works again.
    fn next(&mut self, result: &Result<Addresses, LookupError>) -> Duration {
        let was_broken = self.broken;
        self.broken = matches!(
            result,
            Err(LookupError::ServFail
                | LookupError::Refused
                | LookupError::Timeout
                | LookupError::Garbage(_)
                | LookupError::NoResolver(_))
        );
        if was_broken && !self.broken {
            self.shared.recovered.send_modify(|()| ());
        }
        match result {
            Ok(addresses) => self.backoff.good(addresses.ttl, fastrand::f64()),
            Err(_) => self.backoff.bad(fastrand::f64()),
        }
    }

    /// A name that needs no DNS; its addresses are taken as they are.
    fn report_known(&mut self, source: AnswerSource, ips: Vec<IpAddr>, settings: &DnsSettings) {
        let result = Ok(Addresses {
            ips,
            ttl: settings.max_ttl,
            source,
            refused: Vec::new(),
        });
        self.report(result.clone());
        if self.host.parse::<IpAddr>().is_err() {
            self.count(&result);
        }
    }

    fn count(&mut self, result: &Result<Addresses, LookupError>) {
        let metrics = &self.shared.metrics;
        let code = result.as_ref().map_or_else(LookupError::as_str, |_| "ok");
        metrics
            .counter(&family::DNS_LOOKUPS, &[&self.host, code])
            .increment(1);
        let changes = metrics.counter(&family::DNS_CHANGES, &[&self.host]);
        if let Ok(found) = result {
            let mut addresses = found.ips.clone();
            addresses.sort_unstable();
            if addresses != self.addresses {
                changes.increment(1);
                self.addresses = addresses;
            }
        }
    }

    fn report(&self, result: Result<Addresses, LookupError>) {
        (self.shared.report)(Input::Answer(DnsAnswer {
            name: self.host.clone(),
            at: clock::now(),
            result,
        }));
    }
}

/// Whether a bad answer says that there are no such addresses, as opposed to saying nothing.
fn is_final(why: &LookupError) -> bool {
    matches!(why, LookupError::NoData | LookupError::NxDomain)
}

/// What both families together say, with what is kept of a family that says nothing (yet).
fn merge(
    got: &[Got; 2],
    kept: &[Option<Records>; 2],
    settings: &DnsSettings,
) -> Result<Addresses, LookupError> {
    let Some(ttl) = got.iter().flatten().flatten().map(|r| r.ttl).min() else {
        let mut bad = got.iter().flatten().filter_map(|got| got.as_ref().err());
        let first = bad.next().cloned().unwrap_or(LookupError::Timeout);
        // What tells of trouble goes before what tells of absence.
        return Err(match bad.next() {
            Some(second) if is_final(&first) && !is_final(second) => second.clone(),
            Some(LookupError::NxDomain) if is_final(&first) => LookupError::NxDomain,
            _ => first,
        });
    };
    let found = got.iter().zip(kept).filter_map(|(got, kept)| match got {
        Some(Ok(records)) => Some(records),
        Some(Err(why)) if is_final(why) => None,
        _ => kept.as_ref(),
    });
    let (refused, ips): (Vec<IpAddr>, Vec<IpAddr>) = found
        .flat_map(|records| records.ips.iter().copied())
        .partition(|ip| is_local(*ip) && !settings.allow_local_answers);
    if ips.is_empty() {
        return Err(LookupError::OnlyRefused(refused));
    }
    Ok(Addresses {
        ips,
        ttl: ttl.clamp(settings.min_ttl, settings.max_ttl.max(settings.min_ttl)),
        source: AnswerSource::Dns,
        refused,
    })
}
