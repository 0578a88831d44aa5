//! The world around the pool: what the addresses really do, a prober that follows the snapshot as the real one does,
//! traffic, and DNS.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use entryway::clock::Moment;
use entryway::types::{EndpointName, UpstreamName, Zone};
use entryway::upstream::endpoint::{EndpointSpec, Role};
use entryway::upstream::identity::SystemId;
use entryway::upstream::input::{
    Addresses, AnswerSource, BadAnswer, DialFailure, DnsAnswer, Input, Intent, LookupError,
    ProbeOutcome, Suspicion,
};
use entryway::upstream::publish::snapshot;
use entryway::upstream::settings::{ProbeKind, UpstreamPolicy};
use entryway::upstream::snapshot::{ProbeMode, Snapshot};
use entryway::upstream::state::UpstreamState;

const PORT: u16 = 8182;

/// What an address really does.
#[derive(Clone)]
enum Truth {
    Well(&'static str),
    Refuses,
    Silent,
    Sick,
    Flaky,
}

pub(crate) struct World {
    pub(crate) pool: UpstreamState,
    pub(crate) now: Moment,
    settings: UpstreamPolicy,
    pub(crate) own: Vec<SocketAddr>,
    /// When probes were sent, by address: the cap is checked on it.
    pub(crate) launches: BTreeMap<SocketAddr, Vec<Moment>>,
    specs: Vec<EndpointSpec>,
    truth: BTreeMap<u8, Truth>,
    random: fastrand::Rng,
    /// Probes under way: when they end, and what they tell.
    flying: Vec<(Moment, Input)>,
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let zone = |n: usize| Some(Zone::new(["a", "b", "c"][n % 3]));
        let spec = |name: &str, host: &str, zone, role| EndpointSpec {
            name: EndpointName::new(name),
            host: host.to_owned(),
            port: PORT,
            zone,
            role,
            hop: None,
        };
        let specs = match random.u8(0..4) {
            0 => (0..3)
                .map(|n| {
                    spec(
                        ["a", "b", "c"][n],
                        &format!("10.0.0.{}", n + 1),
                        zone(n),
                        Role::Configured,
                    )
                })
                .collect(),
            1 => vec![
                spec("vpce", "vpce", None, Role::Regional),
                spec("a", "vpce-a", zone(0), Role::Zonal),
                spec("b", "vpce-b", zone(1), Role::Zonal),
                spec("c", "vpce-c", zone(2), Role::Zonal),
            ],
            2 => {
                let old = spec("entry", "entry", None, Role::PeeredOld);
                vec![spec("entry-http", "entry-http", None, Role::Peered), old]
            }
            _ => vec![
                spec("one", "one", None, Role::Configured),
                spec("two", "two", zone(1), Role::Configured),
                spec("lit", "10.0.0.3", None, Role::Configured),
            ],
        };
        let settings = Self::settings(&mut random);
        Self::start(specs, settings, random, seed)
    }

    /// Three zones, default settings; the test moves the time.
    pub(crate) fn calm(seed: u64) -> Self {
        let specs = (1u8..=3)
            .map(|n| EndpointSpec {
                name: EndpointName::new(["a", "b", "c"][usize::from(n) - 1]),
                host: ip(n).to_string(),
                port: PORT,
                zone: Some(Zone::new(["a", "b", "c"][usize::from(n) - 1])),
                role: Role::Configured,
                hop: None,
            })
            .collect();
        let settings = UpstreamPolicy {
            own_zone: Some(Zone::new("a")),
            ..UpstreamPolicy::default()
        };
        Self::start(specs, settings, fastrand::Rng::with_seed(seed), seed)
    }

    fn start(
        specs: Vec<EndpointSpec>,
        settings: UpstreamPolicy,
        random: fastrand::Rng,
        seed: u64,
    ) -> Self {
        let now = Moment::at(Duration::from_secs(1));
        let own = vec![SocketAddr::new(ip(9), PORT)];
        Self {
            pool: UpstreamState::new(
                UpstreamName::new("u"),
                specs.clone(),
                settings.clone(),
                own.clone(),
                now,
                seed,
            ),
            now,
            settings,
            own,
            launches: BTreeMap::new(),
            specs,
            truth: (0..12).map(|n| (n, Truth::Well("x"))).collect(),
            random,
            flying: Vec::new(),
        }
    }

    fn settings(random: &mut fastrand::Rng) -> UpstreamPolicy {
        let mut settings = UpstreamPolicy::default();
        if random.u8(0..12) == 0 {
            settings.health.kind = ProbeKind::Off;
        }
        settings.health.fall = random.u32(1..5);
        settings.health.rise = random.u32(1..4);
        settings.health.interval = Duration::from_millis(random.u64(500..6000));
        settings.health.down_interval = Duration::from_millis(random.u64(500..6000));
        settings.failback.after = Duration::from_secs(random.u64(0..40));
        settings.failback.dwell = Duration::from_secs(random.u64(0..40));
        settings.failback.ramp = Duration::from_secs(random.u64(0..12));
        settings.own_zone = random
            .bool()
            .then(|| Zone::new(["a", "b"][random.usize(0..2)]));
        settings
    }

    pub(crate) fn see(&self) -> Snapshot {
        snapshot(&self.pool, self.now, 0)
    }

    pub(crate) fn sockets(&self) -> Vec<SocketAddr> {
        self.see()
            .all()
            .map(|(_, view)| view.address.socket)
            .collect()
    }

    pub(crate) fn draw(&mut self) -> f64 {
        self.random.f64()
    }

    /// Lets a little time pass; gives the facts that come of it.
    pub(crate) fn step(&mut self) -> Vec<Input> {
        let dice = self.random.u32(0..1000);
        self.now = self.now
            + match dice {
                0..=3 => Duration::from_millis(self.random.u64(400..20_000)),
                4 => Duration::from_secs(self.random.u64(60..4000)),
                _ => Duration::from_millis(self.random.u64(1..150)),
            };
        self.pool.check_stall(self.now);
        let mut facts = self.landed();
        self.launch();
        self.weather();
        facts.extend(self.traffic());
        facts.extend(self.news());
        facts
    }

    fn landed(&mut self) -> Vec<Input> {
        let now = self.now;
        let (landed, flying) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|(ends, _)| *ends <= now);
        self.flying = flying;
        landed
            .into_iter()
            .map(|(_, fact): (Moment, Input)| fact)
            .collect()
    }

    /// As the snapshot's documentation tells the prober to.
    fn launch(&mut self) {
        let seen = self.see();
        for (_, view) in seen.all() {
            let socket = view.address.socket;
            let last = self
                .launches
                .get(&socket)
                .and_then(|all| all.last().copied());
            let under_way = self.flying.iter().any(
                |(_, fact)| matches!(fact, Input::Probed { socket: other, .. } if *other == socket),
            );
            let every = match view.pace {
                ProbeMode::Off => continue,
                ProbeMode::Fast(every) => every,
                ProbeMode::Regular | ProbeMode::Down if under_way => continue,
                ProbeMode::Regular | ProbeMode::Down => Duration::from_millis(200),
            };
            if view.probe_at > self.now || last.is_some_and(|last| self.now < last + every) {
                continue;
            }
            self.launches.entry(socket).or_default().push(self.now);
            let (outcome, took) = self.outcome(socket);
            let (sent, ends) = (self.now, self.now + took);
            self.flying.push((
                ends,
                Input::Probed {
                    socket,
                    sent,
                    outcome,
                    took,
                },
            ));
        }
    }

    fn outcome(&mut self, socket: SocketAddr) -> (ProbeOutcome, Duration) {
        let IpAddr::V4(v4) = socket.ip() else {
            unreachable!()
        };
        let quick = Duration::from_micros(self.random.u64(200..4000));
        let success = |id: &str| ProbeOutcome::Success {
            identity: (id != "-").then(|| SystemId::new(id)),
        };
        if self.random.u8(0..200) == 0 {
            return (ProbeOutcome::Local("EMFILE".to_owned()), quick);
        }
        let transition = self.random.bool();
        match self
            .truth
            .get(&v4.octets()[3])
            .cloned()
            .unwrap_or(Truth::Refuses)
        {
            Truth::Well(id) => (success(id), quick),
            Truth::Refuses if transition => (ProbeOutcome::Unreachable("".into()), quick),
            Truth::Refuses => (ProbeOutcome::Refused, quick),
            Truth::Silent => (ProbeOutcome::Timeout, self.settings.health.timeout),
            Truth::Flaky if transition => (success("x"), quick),
            Truth::Flaky => (ProbeOutcome::Timeout, self.settings.health.timeout),
            Truth::Sick if transition => (ProbeOutcome::Reset, quick),
            Truth::Sick => {
                let (code, detail) = ("http_503".to_owned(), "no targets".to_owned());
                (ProbeOutcome::BadAnswer(BadAnswer { code, detail }), quick)
            }
        }
    }

    fn weather(&mut self) {
        if self.random.u8(0..100) == 0 {
            let n = self.random.u8(1..9);
            let truth = match self.random.u8(0..16) {
                0..=7 => Truth::Well("x"),
                8 => Truth::Well("y"),
                9 => Truth::Well("-"),
                10 | 11 => Truth::Refuses,
                12 | 13 => Truth::Silent,
                14 => Truth::Sick,
                _ => Truth::Flaky,
            };
            self.truth.insert(n, truth);
        }
    }

    fn traffic(&mut self) -> Option<Input> {
        if self.random.u8(0..10) > 0 {
            return None;
        }
        let draw = self.draw();
        let order = self.see().order(self.now, draw);
        let candidate = order.get(self.random.usize(0..3))?;
        let (endpoint, socket) = (candidate.endpoint.name().clone(), candidate.address.socket);
        let started = self.now;
        candidate
            .address
            .dialled(Duration::from_micros(self.random.u64(200..3000)));
        Some(match self.random.u8(0..8) {
            0 => Input::Suspect {
                endpoint,
                socket,
                why: Suspicion::LostHedge,
                started,
            },
            1 => Input::Suspect {
                endpoint,
                socket,
                why: Suspicion::SlowAnswer,
                started,
            },
            2 => Input::Suspect {
                endpoint,
                socket,
                why: Suspicion::Untouched,
                started,
            },
            3 => Input::Dialled {
                endpoint,
                socket,
                failure: DialFailure::Refused,
                started,
            },
            4 => Input::Dialled {
                endpoint,
                socket,
                failure: DialFailure::Timeout,
                started,
            },
            5 => Input::Dialled {
                endpoint,
                socket,
                failure: DialFailure::Local,
                started,
            },
            _ => return None,
        })
    }

    fn news(&mut self) -> Option<Input> {
        let dice = self.random.u16(0..1000);
        let endpoint = self.specs[self.random.usize(0..self.specs.len())].clone();
        Some(match dice {
            0..40 => Input::Answer(self.answer(&endpoint.host)),
            40 => Input::Intent {
                endpoint: endpoint.name,
                intent: Intent::Drain,
            },
            41..44 => Input::Intent {
                endpoint: endpoint.name,
                intent: Intent::Ready,
            },
            44 => Input::OwnZone(self.random.bool().then(|| Zone::new("b"))),
            45 => Input::OwnZoneId(self.random.bool().then(|| Zone::new("c"))),
            46 => Input::Resumed,
            47 => Input::ReprobeNow { endpoint: None },
            48 if self.random.bool() => {
                self.settings = Self::settings(&mut self.random);
                let mut endpoints = self.specs.clone();
                if self.random.bool() && endpoints.len() > 1 {
                    endpoints.remove(self.random.usize(0..endpoints.len()));
                }
                Input::Reconfigure {
                    endpoints,
                    settings: self.settings.clone(),
                }
            }
            _ => return None,
        })
    }

    fn answer(&mut self, host: &str) -> DnsAnswer {
        let result = match (host.parse::<IpAddr>(), self.random.u8(0..12)) {
            (Ok(ip), _) => Ok(vec![ip]),
            (_, 0) => Err(LookupError::NxDomain),
            (_, 1) => Err(LookupError::Timeout),
            (_, 2) => Err(LookupError::Garbage("loop".to_owned())),
            (_, 3) => Err(LookupError::ServFail),
            _ => {
                // Each name has its own addresses, with some overlap; our own listener among them now and then.
                let base = host.bytes().map(u32::from).sum::<u32>() % 5;
                let many = self.random.u32(1..4);
                Ok((0..many)
                    .map(|_| ip(u8::try_from(base).unwrap_or(0) + self.random.u8(1..5)))
                    .collect())
            }
        };
        DnsAnswer {
            name: host.to_owned(),
            at: self.now,
            result: result.map(|ips| Addresses {
                ips,
                ttl: Duration::from_secs(5),
                source: AnswerSource::Dns,
                refused: Vec::new(),
            }),
        }
    }
}
