//! The rules that need more than one address, each as a small story.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::types::EndpointName;
use crate::upstream::identity::SystemId;
use crate::upstream::input::ProbeOutcome;
use crate::upstream::input::{Addresses, AnswerSource, DnsAnswer, LookupError};
use crate::upstream::publish::snapshot;
use crate::upstream::snapshot::{HealthState, Snapshot};

mod identity_and_dns;
mod ranking_and_reload;

/// An upstream and its clock. Zones a, b, c are endpoints `a`, `b`, `c` at 10.0.0.1, .2, .3; our own zone is a.
struct Story {
    upstream: UpstreamState,
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
        hop: None,
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

fn own(zone: &str) -> UpstreamPolicy {
    UpstreamPolicy {
        own_zone: Some(Zone::new(zone)),
        ..UpstreamPolicy::default()
    }
}

impl Story {
    fn new(endpoints: Vec<EndpointSpec>, settings: UpstreamPolicy) -> Self {
        let now = Moment::at(Duration::from_secs(1));
        Self {
            upstream: UpstreamState::new(
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

    fn send(&mut self, input: Input) {
        self.told.extend(self.upstream.apply(self.now, input));
    }

    fn probe(&mut self, n: u8, outcome: ProbeOutcome) {
        self.probe_of(at(n), outcome);
    }

    fn probe_of(&mut self, socket: SocketAddr, outcome: ProbeOutcome) {
        let (sent, took) = (self.now, Duration::ZERO);
        self.send(Input::Probed {
            socket,
            sent,
            outcome,
            took,
        });
    }

    fn suspect(&mut self, n: u8) {
        self.send(Input::Suspect {
            endpoint: EndpointName::new("?"),
            socket: at(n),
            why: Suspicion::LostHedge,
            started: self.now,
        });
    }

    fn answer(&mut self, name: &str, ips: &[u8]) {
        let result = if ips.is_empty() {
            Err(LookupError::NxDomain)
        } else {
            Ok(Addresses {
                ips: ips.iter().map(|n| at(*n).ip()).collect(),
                ttl: Duration::from_secs(5),
                source: AnswerSource::Dns,
                refused: Vec::new(),
            })
        };
        self.send(Input::Answer(DnsAnswer {
            name: name.to_owned(),
            at: self.now,
            result,
        }));
    }

    /// Lets time pass in ticks.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.now = self.now + Duration::from_millis(100);
            self.told.extend(self.upstream.check_stall(self.now));
            self.told.extend(self.upstream.tick(self.now));
        }
    }

    fn see(&self) -> Snapshot {
        snapshot(&self.upstream, self.now, 1)
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

    fn state(&self, n: u8) -> HealthState {
        self.see()
            .address(at(n))
            .map_or(HealthState::Unknown, |view| view.state)
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
    story.send(Input::Intent {
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
    assert_eq!(story.state(1), HealthState::Returning);
    assert_eq!(story.order(), "bca");
    story.wait(59_900);
    assert_eq!(story.state(1), HealthState::Returning);
    assert!(story.see().rebalance.is_none());
    story.wait(200);
    assert_eq!(story.state(1), HealthState::Up);
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
fn a_cleared_suspicion_needs_no_failback_and_does_not_delay_rebalancing() {
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
    // A suspicion that a probe clears does not interrupt the time of being up: it would else keep farther connections
    // for good.
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
        (HealthState::Down, HealthState::Suspect)
    );
    assert!(
        story
            .see()
            .address(at(1))
            .is_some_and(|view| view.down_by_silence.is_some())
    );
    story.wait(29_900);
    assert_eq!(story.state(2), HealthState::Suspect);
    story.wait(200);
    assert_eq!(story.state(2), HealthState::Down);
    // Nobody else is up: the last one may go at once.
    for _ in 0..3 {
        story.probe(3, ProbeOutcome::Timeout);
    }
    assert_eq!(story.state(3), HealthState::Down);
}

#[test]
fn our_own_faults_blame_nobody() {
    let mut story = Story::up();
    let sent = story.now;
    story.wait(100);
    // Nothing for 2 s: we were late.
    story.now = story.now + Duration::from_secs(2);
    let late = story.upstream.check_stall(story.now);
    assert!(matches!(late[..], [Change::Stall(_)]));
    for _ in 0..5 {
        story.send(Input::Probed {
            socket: at(1),
            sent,
            outcome: ProbeOutcome::Timeout,
            took: Duration::from_secs(1),
        });
    }
    story.send(Input::Dialled {
        endpoint: EndpointName::new("a"),
        socket: at(1),
        failure: DialFailure::Timeout,
        started: sent,
    });
    story.send(Input::Dialled {
        endpoint: EndpointName::new("a"),
        socket: at(1),
        failure: DialFailure::Local,
        started: story.now,
    });
    story.probe(1, ProbeOutcome::Local("EMFILE".to_owned()));
    assert_eq!(story.state(1), HealthState::Up);
    // Void and repeated.
    let now = story.now;
    assert!(
        story
            .see()
            .address(at(1))
            .is_some_and(|view| view.probe_at <= now + Duration::from_secs(1))
    );
    // What began after the stall counts.
    story.send(Input::Dialled {
        endpoint: EndpointName::new("a"),
        socket: at(1),
        failure: DialFailure::Timeout,
        started: now,
    });
    assert_eq!(story.state(1), HealthState::Suspect);
}

#[test]
fn waking_probes_everything_at_once() {
    let mut story = Story::up();
    story.wait(1000);
    story.send(Input::Resumed);
    let now = story.now;
    assert!(story.see().all().all(|(_, view)| view.probe_at <= now));
}

/// Within two seconds, every half minute while it lasts, and no more once something can be reached.
#[test]
fn that_nothing_can_be_reached_is_said_and_said_again() {
    let is_said = |change: &Change| matches!(change, Change::Unreachable { .. });
    let mut story = Story::new(zones(), own("a"));
    for n in 1..=3 {
        story.probe(n, ProbeOutcome::Refused);
    }
    story.wait(2000);
    assert_eq!(story.told(is_said), 1);
    story.wait(28_000);
    assert_eq!(story.told(is_said), 0);
    story.wait(3000);
    assert_eq!(story.told(is_said), 1);
    for _ in 0..3 {
        story.probe(1, ok("x"));
    }
    story.told.clear();
    story.wait(31_000);
    assert_eq!(story.told(is_said), 0);
    // A name that does not exist, with its error.
    let name = "entry.nosuch.example";
    let mut story = Story::new(vec![spec("e", name, None, Role::Configured)], own("a"));
    story.answer(name, &[]);
    story.wait(2000);
    let names = |change: &Change| matches!(change, Change::Unreachable { why, .. } if why.contains(name) && why.contains("NXDOMAIN"));
    assert_eq!(story.told(names), 1);
}

/// Three addresses behind one hop, and one that is reached directly.
fn behind_a_hop() -> (Story, Vec<SocketAddr>) {
    let hop = crate::upstream::endpoint::EndpointHop {
        id: HopId::of(&1),
        remote_dns: false,
    };
    let mut specs = zones();
    for spec in &mut specs {
        spec.hop = Some(hop);
    }
    specs.push(spec("d", "10.0.0.4", Some("d"), Role::Configured));
    let mut story = Story::new(specs, own("a"));
    let sockets: Vec<_> = story.upstream.set().map(|(socket, _)| socket).collect();
    for socket in &sockets {
        story.probe_of(*socket, ok("x"));
    }
    (story, sockets)
}

#[test]
fn all_behind_a_hop_are_asked_when_one_is_in_doubt() {
    let (mut story, sockets) = behind_a_hop();
    assert_eq!(sockets.len(), 4);
    let paces = |story: &Story| -> Vec<bool> {
        let pace = |socket| story.upstream.address(socket).unwrap().pace;
        let fast = |socket: &SocketAddr| matches!(pace(*socket), ProbeMode::Fast(_));
        sockets.iter().map(fast).collect()
    };
    let is_behind = |socket: &SocketAddr| socket.ip() != at(4).ip();
    let behind: Vec<bool> = sockets.iter().map(is_behind).collect();
    assert_eq!(paces(&story), [false; 4]);
    story.wait(1000);
    let first = *sockets.iter().find(|socket| is_behind(socket)).unwrap();
    story.send(Input::Suspect {
        endpoint: EndpointName::new("?"),
        socket: first,
        why: Suspicion::SlowAnswer,
        started: story.now,
    });
    assert_eq!(paces(&story), behind);
    // Nobody else is worse for it, and an answer ends it.
    let suspects = story
        .upstream
        .set()
        .filter(|(_, state)| state.health.state() == HealthState::Suspect);
    assert_eq!(suspects.count(), 1);
    story.wait(100);
    for socket in &sockets {
        story.probe_of(*socket, ok("x"));
    }
    assert_eq!(paces(&story), [false; 4]);
    // The same when whoever waits for the hop says so.
    story.send(Input::HopDoubted { hop: HopId::of(&1) });
    assert_eq!(paces(&story), behind);
}
