//! The whole resolver against `FakeDns`, on real sockets.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::*;
use crate::upstream::input::{Addresses, AnswerSource, DnsAnswer, LookupError};
use fake::{A, AAAA, FakeDns, Reply as Fake};

mod backoff;
#[path = "../../tests/it/harness/dns.rs"]
#[allow(dead_code, unreachable_pub)]
pub(crate) mod fake;
mod system;

const NAME: &str = "entry.test";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn good() -> Fake {
    Fake::Ips(ips(&["10.0.1.5", "fd00::5"]), 30)
}

fn spec(host: &str, candidate: bool) -> NameSpec {
    NameSpec {
        host: host.to_owned(),
        candidate,
    }
}

/// A resolver at work, its answers and what holds it.
struct Rig {
    handle: ResolverHandle,
    answers: mpsc::UnboundedReceiver<DnsAnswer>,
    _task: tokio::task::JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn start(settings: DnsSettings, names: &[NameSpec]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = SystemFiles {
            resolv_conf: folder.path().join("resolv.conf"),
            hosts: folder.path().join("hosts"),
        };
        // Unreadable, so that only servers that a test names are asked.
        std::fs::create_dir(&files.resolv_conf).unwrap();
        let (report, answers) = mpsc::unbounded_channel();
        let (handle, run) = Resolver::start_with(
            settings,
            names.to_vec(),
            files,
            Metrics::default(),
            |_| {},
            move |fact| {
                if let Input::Answer(answer) = fact {
                    let _ = report.send(answer);
                }
            },
        );
        let mut task = tokio::task::JoinSet::new();
        task.spawn(run);
        Self {
            handle,
            answers,
            _task: task,
            _folder: folder,
        }
    }

    fn asking(server: &FakeDns) -> Self {
        Self::start(settings(server), &[spec(NAME, false)])
    }

    async fn next(&mut self) -> DnsAnswer {
        timeout(Duration::from_secs(10), self.answers.recv())
            .await
            .expect("an answer in time")
            .unwrap()
    }

    async fn addresses(&mut self) -> Vec<IpAddr> {
        self.next().await.result.unwrap().ips
    }
}

fn settings(server: &FakeDns) -> DnsSettings {
    DnsSettings {
        servers: vec![server.addr()],
        timeout: Duration::from_millis(400),
        ..DnsSettings::default()
    }
}

fn bad(result: Result<Addresses, LookupError>) -> LookupError {
    result.expect_err("a bad answer")
}

#[tokio::test]
async fn both_families_make_one_answer() {
    let server = FakeDns::start().await;
    server.set_both(NAME, good());
    let mut rig = Rig::start(settings(&server), &[spec("Entry.TEST.", false)]);
    let answer = rig.next().await;
    assert_eq!(answer.name, NAME);
    let addresses = answer.result.unwrap();
    assert_eq!(addresses.ips, ips(&["10.0.1.5", "fd00::5"]));
    assert_eq!(addresses.ttl, Duration::from_secs(30));
    assert_eq!(addresses.source, AnswerSource::Dns);
    assert_eq!((server.asked(NAME, A), server.asked(NAME, AAAA)), (1, 1));
}

/// One table, so it is long: every kind of bad answer, each of them alone at the start: none gives an address, each has its class, and the good
/// answer that follows is taken.
#[tokio::test]
async fn bad_answers_have_their_class_and_are_got_over() {
    let class = |why: LookupError| match why {
        LookupError::Garbage(_) => "garbage",
        LookupError::NoData => "nodata",
        LookupError::NxDomain => "nxdomain",
        LookupError::ServFail => "servfail",
        LookupError::Refused => "refused",
        LookupError::Timeout => "timeout",
        LookupError::OnlyRefused(_) => "only_refused",
        LookupError::NoResolver(_) => "no_resolver",
    };
    let ten = ips(&["10.0.1.5", "fd00::5"]);
    let kinds = [
        (Fake::NoData, "nodata"),
        (Fake::NxDomain, "nxdomain"),
        (Fake::ServFail, "servfail"),
        (Fake::Refused, "refused"),
        (Fake::FormErr, "garbage"),
        (Fake::NotImp, "garbage"),
        (Fake::Silence, "timeout"),
        (Fake::TruncatedNoTcp, "garbage"),
        (Fake::TruncatedTwice, "garbage"),
        (Fake::Truncated(Box::new(Fake::Silence)), "garbage"),
        (Fake::Truncated(Box::new(Fake::ServFail)), "servfail"),
        (Fake::Garbage, "garbage"),
        (Fake::Short, "garbage"),
        (Fake::Empty, "timeout"),
        (Fake::WrongId, "timeout"),
        (Fake::WrongQuestion, "timeout"),
        (Fake::WrongSource, "timeout"),
        (Fake::WrongOwner, "nodata"),
        (Fake::WrongOpcode, "garbage"),
        (Fake::WrongClass, "timeout"),
        (Fake::Truncated(Box::new(Fake::WrongClass)), "garbage"),
        (Fake::WrongRecordClass, "nodata"),
        (Fake::Truncated(Box::new(Fake::WrongQuestion)), "garbage"),
        (Fake::Truncated(Box::new(Fake::WrongOpcode)), "garbage"),
        (Fake::Echo, "garbage"),
        (Fake::LyingCounts, "garbage"),
        (Fake::BadLength, "garbage"),
        (Fake::PointerLoop, "garbage"),
        (Fake::Cnames(12, ten.clone(), 30), "garbage"),
        (Fake::CnameLoop, "garbage"),
        (Fake::CnameNowhere, "nodata"),
        (Fake::Ips(ips(&["127.0.0.1", "::1"]), 30), "only_refused"),
    ];
    let server = FakeDns::start().await;
    let name = |index: usize| format!("kind{index}.test");
    for (index, (kind, _)) in kinds.iter().enumerate() {
        // A refusal may be meant for EDNS: the same lookup asks once more without it.
        let refuses = matches!(
            kind,
            Fake::ServFail | Fake::Refused | Fake::FormErr | Fake::NotImp
        ) || matches!(kind, Fake::Truncated(then) if matches!(**then, Fake::ServFail));
        let times = if refuses { 2 } else { 1 };
        for family in [A, AAAA] {
            let bad = std::iter::repeat_n(kind.clone(), times);
            server.set(&name(index), family, bad.chain([good()]));
        }
    }
    let specs: Vec<_> = (0..kinds.len()).map(|n| spec(&name(n), false)).collect();
    let mut rig = Rig::start(settings(&server), &specs);
    let mut seen: Vec<Vec<&str>> = vec![Vec::new(); kinds.len()];
    while seen.iter().any(|seen| seen.len() < 2) {
        let answer = rig.next().await;
        let index = specs
            .iter()
            .position(|spec| spec.host == answer.name)
            .unwrap();
        seen[index].push(match answer.result {
            Ok(addresses) => {
                assert_eq!(addresses.ips, ten, "{:?}", kinds[index].0);
                "good"
            }
            Err(why) => class(why),
        });
    }
    for (seen, (kind, expected)) in seen.iter().zip(&kinds) {
        assert_eq!(seen[..2], [*expected, "good"], "{kind:?}");
    }
}

/// Every way in which a server that does not know EDNS refuses it (RFC 6891, section 7): the same lookup gets its answer
/// without, and from then on the server is asked without.
#[tokio::test]
async fn a_server_that_refuses_edns_is_asked_without() {
    for refusal in [
        Fake::FormErr,
        Fake::NotImp,
        Fake::ServFail,
        Fake::Refused,
        Fake::BadVers,
        Fake::Silence,
    ] {
        let server = FakeDns::start().await;
        let silent = matches!(refusal, Fake::Silence);
        server.set_both(
            NAME,
            Fake::NoEdns(Box::new(refusal.clone()), Box::new(good())),
        );
        let settings = DnsSettings {
            timeout: Duration::from_secs(10),
            ..settings(&server)
        };
        let mut rig = Rig::start(settings, &[spec(NAME, false)]);
        assert_eq!(
            rig.addresses().await,
            ips(&["10.0.1.5", "fd00::5"]),
            "{refusal:?}"
        );
        let first = server.asked(NAME, A);
        assert!(first >= 2, "{refusal:?}");
        rig.handle.refresh_now();
        rig.addresses().await;
        let second = server.asked(NAME, A) - first;
        // Silence alone may be a lost packet; two of them are enough, whichever family they met.
        assert!(second == 1 || silent, "{refusal:?}: {second}");
        if silent {
            rig.handle.refresh_now();
            let before = server.asked(NAME, A);
            rig.addresses().await;
            assert_eq!(server.asked(NAME, A) - before, 1);
        }
    }
}

#[tokio::test]
async fn what_is_odd_but_good_is_taken() {
    let ten = ips(&["10.0.1.5", "fd00::5"]);
    let server = FakeDns::start().await;
    let odd = [
        ("tcp.test", Fake::Truncated(Box::new(good())), 30),
        ("cnames.test", Fake::Cnames(11, ten.clone(), 20), 20),
        ("ttl0.test", Fake::Ips(ten.clone(), 0), 1),
        ("ttlhuge.test", Fake::Ips(ten.clone(), 1 << 31), 60),
        (
            "mapped.test",
            Fake::Ips(ips(&["::ffff:10.0.1.5", "10.0.1.5", "fd00::5"]), 5),
            5,
        ),
        (
            "mixed.test",
            Fake::Ips(
                ips(&[
                    "10.0.1.5",
                    "127.0.0.1",
                    "169.254.169.254",
                    "fd00::5",
                    "::ffff:127.0.0.1",
                ]),
                5,
            ),
            5,
        ),
        (
            "late.test",
            Fake::Delay(Duration::from_millis(100), Box::new(good())),
            30,
        ),
    ];
    for (name, reply, _) in &odd {
        server.set_both(name, reply.clone());
    }
    let specs = odd.each_ref().map(|(name, ..)| spec(name, false));
    let mut rig = Rig::start(settings(&server), &specs);
    let mut left: Vec<_> = odd.iter().map(|(name, _, ttl)| (*name, *ttl)).collect();
    while !left.is_empty() {
        let answer = rig.next().await;
        let addresses = answer
            .result
            .unwrap_or_else(|why| panic!("{}: {why:?}", answer.name));
        if addresses.ips.len() < 2 {
            continue; // the first family, while the second is late
        }
        let mut got = addresses.ips.clone();
        got.dedup();
        assert_eq!(got, ten, "{}", answer.name);
        if let Some(index) = left.iter().position(|(name, _)| *name == answer.name) {
            let (name, ttl) = left.swap_remove(index);
            assert_eq!(addresses.ttl, Duration::from_secs(ttl), "{name}");
            if name == "mixed.test" {
                assert_eq!(
                    addresses.refused,
                    ips(&["127.0.0.1", "169.254.169.254", "127.0.0.1"])
                );
            }
        }
    }
}

#[tokio::test]
async fn five_hundred_records_are_all_reported_and_the_same_ones() {
    let server = FakeDns::start().await;
    server.set(NAME, A, [Fake::Many(500)]);
    server.set(NAME, AAAA, [Fake::NoData]);
    let mut rig = Rig::asking(&server);
    let first = rig.addresses().await;
    assert_eq!(first.len(), 500);
    rig.handle.refresh_now();
    assert_eq!(rig.addresses().await, first);
}

#[tokio::test]
async fn one_family_is_used_while_the_other_hangs() {
    for (fast, hung) in [(A, AAAA), (AAAA, A)] {
        let server = FakeDns::start().await;
        server.set(NAME, fast, [good()]);
        server.set(NAME, hung, [Fake::Silence]);
        let settings = DnsSettings {
            timeout: Duration::from_secs(2),
            ..settings(&server)
        };
        let started = Instant::now();
        let mut rig = Rig::start(settings, &[spec(NAME, false)]);
        assert_eq!(rig.addresses().await.len(), 1);
        // 50 ms of grace, and what a busy test machine takes.
        let took = started.elapsed();
        assert!(took < Duration::from_millis(1000), "{took:?}");
    }
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails_but_absence_is_believed() {
    let (bad_one, good_one) = (FakeDns::start().await, FakeDns::start().await);
    good_one.set_both(NAME, good());
    for reply in [Fake::ServFail, Fake::Refused, Fake::Garbage, Fake::Silence] {
        bad_one.set_both(NAME, reply.clone());
        let servers = vec![bad_one.addr(), good_one.addr()];
        let settings = DnsSettings {
            servers,
            timeout: Duration::from_secs(2),
            ..DnsSettings::default()
        };
        let mut rig = Rig::start(settings, &[spec(NAME, false)]);
        assert!(!rig.addresses().await.is_empty(), "{reply:?}");
    }
    let before = good_one.asked(NAME, A);
    bad_one.set_both(NAME, Fake::NxDomain);
    let settings = DnsSettings {
        servers: vec![bad_one.addr(), good_one.addr()],
        ..DnsSettings::default()
    };
    let mut rig = Rig::start(settings, &[spec(NAME, false)]);
    assert_eq!(bad(rig.next().await.result), LookupError::NxDomain);
    assert_eq!(good_one.asked(NAME, A), before);
}

#[tokio::test]
async fn a_family_that_fails_keeps_its_addresses_and_one_that_is_gone_does_not() {
    let server = FakeDns::start().await;
    server.set(
        NAME,
        A,
        [
            good(),
            Fake::Silence,
            Fake::ServFail,
            Fake::ServFail,
            Fake::NoData,
        ],
    );
    server.set(NAME, AAAA, [good()]);
    let mut rig = Rig::asking(&server);
    let both = ips(&["10.0.1.5", "fd00::5"]);
    for expected in [&both[..], &both, &both, &both[1..]] {
        assert_eq!(rig.addresses().await, expected);
        rig.handle.refresh_now();
    }
}

/// One address of three at a time: each answer is reported as it is; the upstream knows that three must miss an address.
#[tokio::test]
async fn rotating_answers_are_told_as_they_come() {
    let server = FakeDns::start().await;
    let three = ips(&["10.0.1.5", "10.0.2.5", "10.0.3.5"]);
    server.set(NAME, A, [Fake::Rotate(three.clone(), 1)]);
    server.set(NAME, AAAA, [Fake::NoData]);
    let mut rig = Rig::asking(&server);
    for expected in three {
        assert_eq!(rig.addresses().await, [expected]);
    }
}

#[tokio::test]
async fn names_come_and_go() {
    let server = FakeDns::start().await;
    server.set_both(NAME, good());
    server.set_both("other.test", Fake::Ips(ips(&["10.0.2.5"]), 30));
    let mut rig = Rig::asking(&server);
    assert_eq!(rig.next().await.name, NAME);
    rig.handle.set_names(vec![spec("other.test", false)]);
    assert_eq!(rig.next().await.name, "other.test");
    rig.handle.refresh_now();
    assert_eq!(rig.next().await.name, "other.test");
    assert_eq!(server.asked(NAME, A), 1);
}
