//! The pace of lookups, against a script and with a paused clock: no sockets.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::{NAME, ips, spec};
use crate::dns::ask::Ask;
use crate::dns::{AddressFamily, DnsSettings, NameSpec, Records, Resolver, ResolverHandle};
use crate::metrics::Metrics;
use crate::upstream::input::{AnswerSource, LookupError};

/// Answers what the test wants, and records when it is asked.
#[derive(Debug, Default)]
struct Script {
    says: Mutex<Option<Result<Records, LookupError>>>,
    asked: Mutex<Vec<(Instant, String, AddressFamily)>>,
}

impl Ask for Arc<Script> {
    fn known(&self, _host: &str) -> Option<(AnswerSource, Vec<IpAddr>)> {
        None
    }

    async fn ask(&self, host: &str, family: AddressFamily) -> Result<Records, LookupError> {
        let asked = (Instant::now(), host.to_owned(), family);
        self.asked.lock().unwrap().push(asked);
        match family {
            AddressFamily::V4 => self
                .says
                .lock()
                .unwrap()
                .clone()
                .unwrap_or(Err(LookupError::Timeout)),
            AddressFamily::V6 => Err(LookupError::NoData),
        }
    }

    async fn refresh(&self) -> bool {
        false
    }

    fn set(&self, _settings: DnsSettings) {}

    fn skipped(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Script {
    fn say(&self, result: Result<&str, LookupError>, ttl: u64) {
        *self.says.lock().unwrap() = Some(result.map(|text| Records {
            ips: ips(&[text]),
            ttl: Duration::from_secs(ttl),
        }));
    }

    /// Pauses between lookups of a name, in whole seconds (jitter rounded off).
    fn pauses(&self, name: &str) -> Vec<u64> {
        let asked = self.asked.lock().unwrap();
        let times: Vec<_> = asked
            .iter()
            .filter(|(_, host, family)| host == name && *family == AddressFamily::V4)
            .map(|(at, ..)| *at)
            .collect();
        times
            .windows(2)
            .map(|pair| {
                let pause = pair[1] - pair[0];
                assert!(pause >= Duration::from_secs(1), "{pause:?}");
                pause.as_secs_f64().round() as u64
            })
            .collect()
    }
}

fn script(names: &[NameSpec]) -> (Arc<Script>, ResolverHandle, tokio::task::JoinHandle<()>) {
    counted(names, &Metrics::default())
}

fn counted(
    names: &[NameSpec],
    metrics: &Metrics,
) -> (Arc<Script>, ResolverHandle, tokio::task::JoinHandle<()>) {
    let script = Arc::new(Script::default());
    let (handle, run) = Resolver::start_asking(
        Arc::clone(&script),
        DnsSettings::default(),
        names.to_vec(),
        metrics.clone(),
        |_| {},
        |_| {},
    );
    (script, handle, tokio::spawn(run))
}

async fn pass(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

#[tokio::test(start_paused = true)]
async fn ttl_zero_and_impatient_users_cost_one_lookup_a_second() {
    let (script, handle, _run) = script(&[spec(NAME, false)]);
    script.say(Ok("10.0.0.1"), 0);
    for _ in 0..100 {
        handle.refresh_now();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pauses = script.pauses(NAME);
    assert!((8..=10).contains(&pauses.len()), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn no_address_yet_means_every_second_and_a_kept_one_means_backing_off() {
    let (script, _handle, _run) = script(&[spec(NAME, false)]);
    script.say(Err(LookupError::NxDomain), 0);
    pass(5).await;
    assert!(script.pauses(NAME).iter().all(|pause| *pause == 1));
    script.say(Ok("10.0.0.1"), 3600);
    pass(2).await;
    script.asked.lock().unwrap().clear();
    script.say(Err(LookupError::ServFail), 0);
    pass(100).await;
    let pauses = script.pauses(NAME);
    assert_eq!(pauses[..3], [1, 2, 4], "{pauses:?}");
    assert!((7..=8).contains(&pauses[3]), "{pauses:?}");
    assert!(
        pauses[4..].iter().all(|pause| (9..=10).contains(pause)),
        "{pauses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn candidates_are_asked_rarely_but_not_forgotten_when_dns_comes_back() {
    let (script, _handle, _run) = script(&[spec(NAME, false), spec("zonal.test", true)]);
    script.say(Err(LookupError::Timeout), 0);
    pass(10).await;
    assert!(script.pauses("zonal.test").is_empty());
    // DNS works again: the name proper sees it within a second, and the candidate with it.
    script.say(Ok("10.0.0.1"), 30);
    pass(3).await;
    assert_eq!(script.pauses("zonal.test").len(), 1);
    // One that does not exist waits its minute.
    let script = Arc::new(Script::default());
    script.say(Err(LookupError::NxDomain), 0);
    let names = vec![spec("zonal.test", true)];
    let (_handle, run) = Resolver::start_asking(
        Arc::clone(&script),
        DnsSettings::default(),
        names,
        Metrics::default(),
        |_| {},
        |_| {},
    );
    let _run = tokio::spawn(run);
    pass(200).await;
    let pauses = script.pauses("zonal.test");
    assert!((3..=4).contains(&pauses.len()), "{pauses:?}");
    assert!(
        pauses.iter().all(|pause| (54..=60).contains(pause)),
        "{pauses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_resolver_ends_with_its_last_handle() {
    let (_script, handle, run) = script(&[spec(NAME, false)]);
    pass(1).await;
    drop(handle);
    run.await.unwrap();
}

/// However many upstreams use a name, it is looked up and counted once, and its counters go when the name does.
#[tokio::test(start_paused = true)]
async fn lookups_and_changes_are_counted_once_and_removed_with_the_name() {
    let metrics = Metrics::default();
    let names = [spec(NAME, false), spec("zonal.test", true)];
    let (script, handle, _run) = counted(&names, &metrics);
    script.say(Err(LookupError::NxDomain), 0);
    let total = |family: &str, name: &str| metrics.value(family, &[("name", name)]);
    pass(3).await;
    let failed = total("dns_lookups_total", NAME).unwrap();
    let asked = script.pauses(NAME).len() + 1;
    assert_eq!(failed, asked as f64);
    assert_eq!(total("dns_changes_total", NAME), Some(0.0));
    assert_eq!(
        total("dns_lookups_total", "zonal.test"),
        None,
        "a candidate that has no addresses is not missed"
    );
    script.say(Ok("10.0.0.1"), 1);
    pass(5).await;
    script.say(Ok("10.0.0.2"), 1);
    pass(5).await;
    assert_eq!(total("dns_changes_total", NAME), Some(2.0));
    let ok = metrics.value("dns_lookups_total", &[("name", NAME), ("result", "ok")]);
    assert_eq!(ok, Some((script.pauses(NAME).len() + 1 - asked) as f64));
    handle.set_names(vec![spec("zonal.test", true)]);
    pass(1).await;
    assert_eq!(total("dns_lookups_total", NAME), None);
    assert_eq!(total("dns_changes_total", NAME), None);
}
