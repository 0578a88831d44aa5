//! The rules of contract section 7 that need more than one address, each as a small story.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::pool::fact::{Addresses, Answer, NoAnswer, Source};
use crate::pool::order::WhatIf;
use crate::pool::publish::snapshot;
use crate::pool::snapshot::{Pace, Snapshot};
use crate::pool::timing::{ExpectIdentity, ProbeKind};

/// A pool and its clock. Zones a, b, c are endpoints `a`, `b`, `c` at 10.0.0.1, .2, .3; our own zone is a.
struct Story {
    pool: Pool,
    now: Moment,
    told: Vec<Change>,
}

fn spec(name: &str, host: &str, zone: Option<&str>, role: Role) -> EndpointSpec {
    EndpointSpec {
        name: EndpointName::new(name),
        host: host.to_owned(),
        port: 8182,
        zone: zone.map(Zone::new),
        role,
    }
}

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 8182))
}

fn ok(id: &str) -> ProbeOutcome {
    ProbeOutcome::Success {
        identity: Some(SystemId::new(id)),
    }
}

fn zones() -> Vec<EndpointSpec> {
    ["a", "b", "c"]
        .iter()
        .zip(1..)
        .map(|(zone, n)| spec(zone, &format!("10.0.0.{n}"), Some(zone), Role::Configured))
        .collect()
}

fn own(zone: &str) -> PoolSettings {
    PoolSettings {
        own_zone: Some(Zone::new(zone)),
        ..PoolSettings::default()
    }
}

impl Story {
    fn new(endpoints: Vec<EndpointSpec>, settings: PoolSettings) -> Self {
        let now = Moment::at(Duration::from_secs(1));
        Self {
            pool: Pool::new(
                UpstreamName::new("u"),
                endpoints,
                settings,
                Vec::new(),
                now,
                7,
            ),
            now,
            told: Vec::new(),
        }
    }

    /// All three zones up, the first round over.
    fn up() -> Self {
        let mut story = Self::new(zones(), own("a"));
        for n in 1..=3 {
            story.probe(n, ok("x"));
        }
        assert_eq!(story.order(), "abc");
        story.told.clear();
        story
    }

    fn tell(&mut self, fact: Fact) {
        self.told.extend(self.pool.apply(self.now, fact));
    }

    fn probe(&mut self, n: u8, outcome: ProbeOutcome) {
        let (socket, sent, took) = (at(n), self.now, Duration::ZERO);
        self.tell(Fact::Probed {
            socket,
            sent,
            outcome,
            took,
        });
    }

    fn suspect(&mut self, n: u8) {
        self.tell(Fact::Suspect {
            endpoint: EndpointName::new("?"),
            socket: at(n),
            why: Suspicion::LostHedge,
            started: self.now,
        });
    }

    fn answer(&mut self, name: &str, ips: &[u8]) {
        let result = if ips.is_empty() {
            Err(NoAnswer::NxDomain)
        } else {
            Ok(Addresses {
                ips: ips.iter().map(|n| at(*n).ip()).collect(),
                ttl: Duration::from_secs(5),
                source: Source::Dns,
                refused: Vec::new(),
            })
        };
        self.tell(Fact::Answer(Answer {
            name: name.to_owned(),
            at: self.now,
            result,
        }));
    }

    /// Lets time pass in ticks.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.now = self.now + Duration::from_millis(100);
            self.told.extend(self.pool.beat(self.now));
            self.told.extend(self.pool.tick(self.now));
        }
    }

    fn see(&self) -> Snapshot {
        snapshot(&self.pool, self.now, 1)
    }

    /// The order as endpoint names, with the last figure of the address where an endpoint has several.
    fn order_at(&self, draw: f64) -> String {
        let seen = self.see();
        seen.order(self.now, draw)
            .iter()
            .map(|candidate| {
                let name = candidate.endpoint.name().to_string();
                let many = seen
                    .endpoints
                    .iter()
                    .any(|view| view.endpoint.name().as_str() == name && view.addresses.len() > 1);
                let IpAddr::V4(ip) = candidate.address.socket.ip() else {
                    unreachable!()
                };
                if many {
                    format!("{name}{}", ip.octets()[3])
                } else {
                    name
                }
            })
            .collect()
    }

    fn order(&self) -> String {
        self.order_at(0.0)
    }

    fn state(&self, n: u8) -> State {
        self.see()
            .address(at(n))
            .map_or(State::Unknown, |view| view.state)
    }

    fn told(&mut self, like: impl Fn(&Change) -> bool) -> usize {
        let count = self.told.iter().filter(|change| like(change)).count();
        self.told.clear();
        count
    }
}

#[test]
fn unknown_sorts_with_up_in_the_first_round_and_behind_returning_after() {
    let mut story = Story::new(zones(), own("a"));
    assert_eq!(story.order(), "abc");
    story.probe(2, ok("x"));
    assert_eq!(
        story.order(),
        "abc",
        "unknown a is near, and the round is not over"
    );
    story.wait(2000);
    assert!(story.see().first_round_done);
    assert_eq!(story.order(), "bac");
    story.probe(1, ok("x"));
    assert_eq!(story.order(), "abc");
}

#[test]
fn the_first_round_is_over_when_all_have_answered_or_failed() {
    let mut story = Story::new(zones(), own("a"));
    story.probe(1, ProbeOutcome::Refused);
    story.probe(2, ok("x"));
    assert!(!story.see().first_round_done);
    story.probe(3, ProbeOutcome::Timeout);
    assert!(story.see().first_round_done);
    assert_eq!(story.order(), "bca");
    assert_eq!(
        story.told(|change| matches!(change, Change::Failover { .. })),
        0
    );
}

#[test]
fn the_order() {
    let mut story = Story::up();
    story.suspect(1);
    assert_eq!(story.order(), "bca");
    story.tell(Fact::Intent {
        endpoint: EndpointName::new("b"),
        intent: Intent::Drain,
    });
    assert_eq!(story.order(), "cab");
    for n in [1, 3] {
        story.probe(n, ProbeOutcome::Refused);
        story.probe(n, ProbeOutcome::Refused);
    }
    // Intent comes first; down is last among its like, not absent.
    assert_eq!(story.order(), "acb");
    story.probe(2, ProbeOutcome::Refused);
    assert!(!story.see().fail_open);
    story.probe(2, ProbeOutcome::Refused);
    assert!(story.see().fail_open);
    assert_eq!(story.order(), "acb");
}

#[test]
fn failover_failback_and_the_ramp() {
    let mut story = Story::up();
    story.probe(1, ProbeOutcome::Refused);
    story.probe(1, ProbeOutcome::Refused);
    assert_eq!(story.order(), "bca");
    assert_eq!(
        story.told(|change| *change
            == Change::Failover {
                from: "a".into(),
                to: "b".into()
            }),
        1
    );
    story.wait(5000);
    story.probe(1, ok("x"));
    story.wait(200);
    story.probe(1, ok("x"));
    assert_eq!(story.state(1), State::Returning);
    assert_eq!(story.order(), "bca");
    story.wait(59_900);
    assert_eq!(story.state(1), State::Returning);
    assert!(story.see().rebalance.is_none());
    story.wait(200);
    assert_eq!(story.state(1), State::Up);
    assert_eq!(
        story.told(|change| matches!(change, Change::Failback { .. })),
        1
    );
    story.wait(5000);
    assert_eq!(
        (story.order_at(0.4).as_str(), story.order_at(0.7).as_str()),
        ("abc", "bca")
    );
    assert!(story.see().rebalance.is_none(), "the ramp is not over");
    story.wait(5100);
    assert_eq!(story.order_at(0.99), "abc");
    let farther = story.see().rebalance.expect("pairs may move");
    assert_eq!(
        farther.endpoints,
        [EndpointName::new("b"), EndpointName::new("c")]
    );
}

#[test]
fn a_cleared_doubt_needs_no_failback_but_farther_pairs_wait_for_it() {
    let mut story = Story::up();
    story.wait(61_000);
    assert!(story.see().rebalance.is_some());
    story.suspect(1);
    assert_eq!(story.order(), "bca");
    assert!(story.see().rebalance.is_none());
    story.wait(300);
    story.probe(1, ok("x"));
    assert_eq!(story.order(), "abc");
    assert_eq!(
        story.told(|change| matches!(change, Change::Failover { .. } | Change::Failback { .. })),
        0
    );
    story.wait(59_000);
    assert!(story.see().rebalance.is_none());
    story.wait(1100);
    assert!(story.see().rebalance.is_some());
}

#[test]
fn silence_takes_one_zone_in_thirty_seconds() {
    let mut story = Story::up();
    for n in [1, 2] {
        for _ in 0..3 {
            story.probe(n, ProbeOutcome::Timeout);
        }
    }
    assert_eq!(
        (story.state(1), story.state(2)),
        (State::Down, State::Suspect)
    );
    assert!(
        story
            .see()
            .address(at(1))
            .is_some_and(|view| view.down_by_silence.is_some())
    );
    story.wait(29_900);
    assert_eq!(story.state(2), State::Suspect);
    story.wait(200);
    assert_eq!(story.state(2), State::Down);
    // Nobody else is up: the last one may go at once.
    for _ in 0..3 {
        story.probe(3, ProbeOutcome::Timeout);
    }
    assert_eq!(story.state(3), State::Down);
}

#[test]
fn our_own_faults_blame_nobody() {
    let mut story = Story::up();
    let sent = story.now;
    story.wait(100);
    // Nothing for 2 s: we were late.
    story.now = story.now + Duration::from_secs(2);
    let late = story.pool.beat(story.now);
    assert!(matches!(late[..], [Change::Stall(_)]));
    for _ in 0..5 {
        story.tell(Fact::Probed {
            socket: at(1),
            sent,
            outcome: ProbeOutcome::Timeout,
            took: Duration::from_secs(1),
        });
    }
    story.tell(Fact::Dialled {
        endpoint: EndpointName::new("a"),
        socket: at(1),
        failure: DialFailure::Timeout,
        started: sent,
    });
    story.tell(Fact::Dialled {
        endpoint: EndpointName::new("a"),
        socket: at(1),
        failure: DialFailure::Local,
        started: story.now,
    });
    story.probe(1, ProbeOutcome::Local("EMFILE".to_owned()));
    assert_eq!(story.state(1), State::Up);
    // Void and repeated.
    let now = story.now;
    assert!(
        story
            .see()
            .address(at(1))
            .is_some_and(|view| view.probe_at <= now + Duration::from_secs(1))
    );
    // What began after the stall counts.
    story.tell(Fact::Dialled {
        endpoint: EndpointName::new("a"),
        socket: at(1),
        failure: DialFailure::Timeout,
        started: now,
    });
    assert_eq!(story.state(1), State::Suspect);
}

#[test]
fn waking_probes_everything_at_once() {
    let mut story = Story::up();
    story.wait(1000);
    story.tell(Fact::Woke);
    let now = story.now;
    assert!(story.see().all().all(|(_, view)| view.probe_at <= now));
}

#[test]
fn a_mismatch_is_never_offered() {
    let mut story = Story::up();
    story.probe(1, ok("y"));
    assert_eq!(story.order(), "bc");
    assert_eq!(
        story.told(|change| matches!(change, Change::Mismatch { .. })),
        1
    );
    assert!(!story.see().endpoints[0].healthy);
    story.probe(2, ok("y"));
    assert_eq!(
        story.order(),
        "",
        "more agree on another value than on the pinned one"
    );
    let conflict = story.see().identity_conflict.expect("both are named");
    assert_eq!((conflict.0.as_str(), conflict.1.as_str()), ("x", "y"));
    story.tell(Fact::Reconfigure {
        endpoints: zones(),
        settings: own("a"),
    });
    assert_eq!(story.order(), "ab", "pinned anew to the majority");
}

#[test]
fn an_expected_identity() {
    let mut settings = own("a");
    settings.health.expect_s3_auth_path = ExpectIdentity::Value("y".to_owned());
    let mut story = Story::new(zones(), settings);
    story.probe(1, ok("x"));
    assert_eq!(story.order(), "");
    story.probe(2, ok("y"));
    assert_eq!(story.order(), "bc");
}

#[test]
fn bad_answers_keep_the_set() {
    let mut story = Story::new(
        vec![spec("db", "db", None, Role::Configured)],
        PoolSettings::default(),
    );
    assert_eq!(story.order(), "");
    story.answer("db", &[1, 2]);
    story.probe(1, ok("x"));
    story.probe(2, ok("x"));
    for _ in 0..500 {
        story.answer("db", &[]);
        story.wait(1000);
    }
    assert_eq!(story.order(), "db1db2");
    let name = &story.see().names[0];
    assert!(name.stale && name.last_error.is_some());
    let errors = story.told(|change| matches!(change, Change::DnsError { .. }));
    assert!((1..=10).contains(&errors), "told once a minute: {errors}");
    story.answer("db.", &[1, 2]);
    assert!(!story.see().names[0].stale);
}

#[test]
fn departing_and_coming_back() {
    let mut story = Story::new(
        vec![spec("db", "db", None, Role::Configured)],
        PoolSettings::default(),
    );
    story.answer("db", &[1, 2]);
    story.probe(1, ok("x"));
    story.probe(2, ok("x"));
    for _ in 0..3 {
        story.answer("db", &[2]);
    }
    assert_eq!(story.order(), "db2db1");
    // It is answered again: behind until it is proven.
    story.answer("db", &[1, 2]);
    assert_eq!(story.order(), "db2db1");
    story.probe(1, ok("x"));
    assert_eq!(story.order(), "db1db2");
    // Departed and failing: removed. Its history stays, so it must prove itself.
    for _ in 0..3 {
        story.answer("db", &[2]);
    }
    story.wait(100);
    story.probe(1, ProbeOutcome::Refused);
    story.probe(1, ProbeOutcome::Refused);
    story.wait(100);
    assert_eq!(story.order(), "db");
    story.wait(60_000);
    story.answer("db", &[1, 2]);
    assert_eq!(story.state(1), State::Down);
    assert_eq!(story.order(), "db2db1");
    // After the hour it is new again.
    for _ in 0..3 {
        story.answer("db", &[2]);
    }
    story.wait(601_000);
    assert_eq!(story.order(), "db");
    story.wait(3_600_000);
    story.answer("db", &[1, 2]);
    assert_eq!(story.state(1), State::Unknown);
}

#[test]
fn regional_and_zonal_names() {
    let mut story = Story::new(
        vec![
            spec("regional", "vpce", None, Role::Regional),
            spec("a", "vpce-a", Some("a"), Role::Zonal),
            spec("b", "vpce-b", Some("b"), Role::Zonal),
            spec("f", "vpce-f", Some("f"), Role::Zonal),
        ],
        own("a"),
    );
    story.answer("vpce-f", &[]);
    assert_eq!(
        story.see().endpoints.len(),
        1,
        "candidates are no endpoints"
    );
    assert_eq!(
        story.told(|change| matches!(change, Change::DnsError { .. } | Change::Lookup { .. })),
        0
    );
    story.answer("vpce", &[1, 2, 3]);
    assert_eq!(story.order(), "regional1regional2regional3");
    story.answer("vpce-a", &[1]);
    story.answer("vpce-b", &[2]);
    assert_eq!(
        story.order(),
        "aregionalb",
        "each address belongs to its zone"
    );
    story.answer("vpce", &[1, 2]);
    story.answer("vpce", &[1, 2]);
    story.answer("vpce", &[1, 2]);
    for n in 1..=3 {
        story.probe(n, ok("x"));
    }
    story.probe(3, ProbeOutcome::Refused);
    story.wait(100);
    story.probe(3, ProbeOutcome::Refused);
    story.wait(100);
    assert_eq!(story.order(), "ab");
    assert_eq!(
        story.see().endpoints.len(),
        2,
        "an empty regional name is no endpoint"
    );
    // A zonal shift: in rank only, and never removed.
    for _ in 0..3 {
        story.answer("vpce", &[2]);
    }
    assert_eq!(story.order(), "ba");
    story.wait(700_000);
    story.probe(1, ok("x"));
    assert_eq!(story.order(), "ba");
    story.answer("vpce", &[1, 2]);
    assert_eq!(story.order(), "ab");
}

#[test]
fn the_old_peered_name_stands_in() {
    let mut story = Story::new(
        vec![
            spec("entry-http", "entry-http", None, Role::Peered),
            spec("entry", "entry", None, Role::PeeredOld),
        ],
        PoolSettings::default(),
    );
    story.answer("entry", &[9]);
    assert_eq!(story.order(), "entry");
    story.answer("entry-http", &[1]);
    assert_eq!(story.order(), "entry-http");
    story.answer("entry-http", &[]);
    assert_eq!(story.order(), "entry-http");
}

#[test]
fn our_own_listener_is_never_used() {
    let mut story = Story::new(
        vec![spec("db", "db", None, Role::Configured)],
        PoolSettings::default(),
    );
    story.tell(Fact::OwnListeners(vec![at(1)]));
    story.answer("db", &[1]);
    assert_eq!(story.order(), "");
    assert!(story.see().names[0].last_error.is_some());
    story.answer("db", &[1, 2]);
    assert_eq!(story.order(), "db");
    story.tell(Fact::OwnListeners(vec![at(2)]));
    assert_eq!(story.order(), "");
}

#[test]
fn own_zone_by_name_or_id() {
    for (set, name, id, expected) in [
        (None, None, None, "abc"),
        (Some("b"), None, None, "bac"),
        (None, Some("c"), None, "cab"),
        (None, Some("us-x"), Some("c"), "cab"),
        // The setting wins, and what was detected translates it.
        (Some("b"), Some("c"), None, "bac"),
        (Some("us-x"), Some("us-x"), Some("c"), "cab"),
        (Some("us-y"), Some("us-x"), Some("c"), "abc"),
    ] {
        let settings = PoolSettings {
            own_zone: set.map(Zone::new),
            ..PoolSettings::default()
        };
        let mut story = Story::new(zones(), settings);
        story.tell(Fact::OwnZone(name.map(Zone::new)));
        story.tell(Fact::OwnZoneId(id.map(Zone::new)));
        assert_eq!(story.order(), expected, "{set:?} {name:?} {id:?}");
    }
}

#[test]
fn nearest_stands_in_for_an_unknown_zone() {
    let mut story = Story::new(zones(), PoolSettings::default());
    for n in 1..=3 {
        story.probe(n, ok("x"));
        let seen = story.see();
        let view = seen.address(at(n)).expect("it is known");
        for _ in 0..5 {
            view.address
                .dialled(Duration::from_micros([2000, 500, 600][usize::from(n) - 1]));
        }
    }
    story.wait(1100);
    assert_eq!(story.order(), "bca");
    let tiers: Vec<u8> = story.see().endpoints.iter().map(|view| view.tier).collect();
    assert_eq!(tiers, [1, 0, 0]);
}

#[test]
fn probes_off() {
    let mut settings = own("a");
    settings.health.kind = ProbeKind::Off;
    let mut story = Story::new(zones(), settings);
    assert_eq!((story.state(1), story.order().as_str()), (State::Up, "abc"));
    story.suspect(1);
    assert_eq!(story.order(), "bca");
    story.wait(9_900);
    assert_eq!(story.order(), "bca");
    story.wait(200);
    assert_eq!(story.order(), "abc");
    assert!(story.see().all().all(|(_, view)| view.pace == Pace::Off));
}

#[test]
fn a_reload_keeps_what_stays() {
    let mut story = Story::up();
    let before = story.see();
    let mut endpoints = zones();
    endpoints.remove(1);
    endpoints.push(spec("d", "10.0.0.4", Some("d"), Role::Configured));
    story.tell(Fact::Reconfigure {
        endpoints,
        settings: own("c"),
    });
    assert_eq!(story.order(), "cad");
    assert_eq!(story.state(1), State::Up);
    assert_eq!(
        story.told(|change| matches!(change, Change::EndpointGone(_))),
        1
    );
    let after = story.see();
    assert!(Arc::ptr_eq(
        &before.endpoints[0].endpoint,
        &after.endpoints[0].endpoint
    ));
    assert!(Arc::ptr_eq(
        &before.endpoints[0].addresses[0].address,
        &after.endpoints[0].addresses[0].address
    ));
}

#[test]
fn explain_answers_what_if_from_the_same_order() {
    let mut story = Story::up();
    story.suspect(2);
    let seen = story.see();
    let explained = seen.explain(story.now, &[]);
    let order: Vec<SocketAddr> = seen
        .order(story.now, 0.0)
        .iter()
        .map(|c| c.address.socket)
        .collect();
    assert_eq!(
        explained
            .order
            .iter()
            .map(|one| one.address)
            .collect::<Vec<_>>(),
        order
    );
    assert!(
        explained.order[0]
            .reasons
            .iter()
            .any(|reason| reason == "own zone a")
    );
    assert!(
        explained.verdict.contains("a at 10.0.0.1:8182"),
        "{}",
        explained.verdict
    );
    let asked = WhatIf::parse("zone-down=a").expect("a question");
    let explained = seen.explain(story.now, &[asked]);
    assert_eq!(explained.order[0].endpoint.as_str(), "c");
    let nowhere = seen.explain(story.now, &[WhatIf::ZoneDown(Zone::new("q"))]);
    assert!(nowhere.verdict.contains("no endpoint is in zone q"));
    assert!(WhatIf::parse("zone=a").is_err());
}

#[test]
fn endpoints_that_share_an_address_share_its_health() {
    let endpoints = vec![
        spec("one", "10.0.0.1", None, Role::Configured),
        spec("two", "db", None, Role::Configured),
    ];
    let mut story = Story::new(endpoints, PoolSettings::default());
    story.answer("db", &[1, 2]);
    story.probe(1, ProbeOutcome::Refused);
    assert_eq!(story.order(), "two2one", "offered once");
    assert_eq!(story.see().addresses, 2);
}
