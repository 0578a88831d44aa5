//! What must hold after every step, checked against a plain record of what the pool was told.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use entryway::addr::HostPort;
use entryway::clock::Moment;
use entryway::upstream::change::Change;
use entryway::upstream::constants;
use entryway::upstream::input::{Input, Intent};
use entryway::upstream::snapshot::{EndpointView, HealthState, Snapshot};

use super::world::World;

/// One probe's word on an address.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Word {
    Win,
    Hard,
    Other,
}

pub(crate) struct Checker {
    /// All that each address's probes said, in the order in which it counts.
    words: BTreeMap<SocketAddr, Vec<Word>>,
    last_win: BTreeMap<SocketAddr, Moment>,
    /// When silence marked which place, while another was up.
    silent: Vec<(Moment, String)>,
    before: Option<Snapshot>,
    digest: DefaultHasher,
}

/// Changes of state in this list.
pub(crate) fn flips(changes: &[Change]) -> usize {
    changes
        .iter()
        .filter(|change| matches!(change, Change::Transition { .. }))
        .count()
}

fn sockets(seen: &Snapshot) -> BTreeSet<SocketAddr> {
    seen.all().map(|(_, view)| view.address.socket).collect()
}

fn place(view: &EndpointView) -> String {
    view.endpoint
        .zone()
        .map_or_else(|| view.endpoint.name().to_string(), ToString::to_string)
}

/// Whether an address of another place is up. One that several endpoints have counts with the first.
fn another_up(seen: &Snapshot, mine: &str) -> bool {
    let first = |socket| {
        seen.all()
            .find(|(_, view)| view.address.socket == socket)
            .is_some_and(|(of, _)| place(of) != mine)
    };
    seen.all().any(|(_, view)| {
        view.state == HealthState::Up && !view.forbidden && first(view.address.socket)
    })
}

impl Checker {
    pub(crate) fn new(world: &World) -> Self {
        Self {
            words: BTreeMap::new(),
            last_win: BTreeMap::new(),
            silent: Vec::new(),
            before: Some(world.see()),
            digest: DefaultHasher::new(),
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub(crate) fn before(&mut self, world: &World, fact: &Input) {
        self.before = Some(world.see());
        if matches!(fact, Input::Resumed) {
            // Failures are forgiven; successes running go on.
            for words in self.words.values_mut() {
                let wins = words
                    .iter()
                    .rev()
                    .take_while(|word| **word == Word::Win)
                    .count();
                words.drain(..words.len() - wins);
            }
        }
    }

    pub(crate) fn after(&mut self, world: &mut World, fact: Option<&Input>, changes: &[Change]) {
        let seen = world.see();
        if let Some(Input::Probed { socket, sent, .. }) = fact {
            self.heard(*socket, *sent, changes);
        }
        self.flips_have_reasons(world, &seen, fact, changes);
        self.the_order(world, &seen);
        self.the_set(world, &seen, fact);
        self.the_cap(world);
        self.rebalance(world, &seen);
        format!("{changes:?}{:?}", seen.active_zone).hash(&mut self.digest);
        self.before = Some(seen);
    }

    /// Notes what the probe said, as the pool told it (void and stale ones say nothing).
    fn heard(&mut self, socket: SocketAddr, sent: Moment, changes: &[Change]) {
        let result = changes.iter().find_map(|change| match change {
            Change::Probed {
                address, result, ..
            } if socket_of(address) == socket => Some(result.as_str()),
            _ => None,
        });
        let word = match result {
            None | Some("void" | "local") => return,
            Some("ok") => Word::Win,
            Some("refused" | "unreachable") => Word::Hard,
            Some(_) => Word::Other,
        };
        if word == Word::Win {
            let last = self.last_win.entry(socket).or_insert(sent);
            *last = (*last).max(sent);
        } else if self.last_win.get(&socket).is_some_and(|win| *win > sent) {
            return;
        }
        self.words.entry(socket).or_default().push(word);
    }

    fn flips_have_reasons(
        &mut self,
        world: &World,
        seen: &Snapshot,
        fact: Option<&Input>,
        changes: &[Change],
    ) {
        let mut done = BTreeSet::new();
        let (fall, rise) = (
            world.pool.settings().health.fall as usize,
            world.pool.settings().health.rise as usize,
        );
        for change in changes {
            let Change::Transition {
                address,
                transition,
                endpoint,
                ..
            } = change
            else {
                continue;
            };
            let socket = &socket_of(address);
            if !done.insert((*socket, transition.to)) {
                continue;
            }
            let words = self.words.get(socket).map_or(&[][..], Vec::as_slice);
            let last = |n: usize, what: fn(&Word) -> bool| {
                words.len() >= n && words.iter().rev().take(n).all(what)
            };
            let back = transition.reason == "was_down"
                || transition.reason == "back_in_dns"
                || transition.reason == "unprobed";
            match (transition.from, transition.to) {
                _ if back => {
                    self.words.remove(socket);
                }
                (from, HealthState::Down) => {
                    let hard = last(2, |word| *word == Word::Hard);
                    let first = from == HealthState::Unknown && last(1, |word| *word == Word::Hard);
                    assert!(
                        hard || first || last(fall, |word| *word != Word::Win),
                        "{socket} down ({}) after {words:?}",
                        transition.reason
                    );
                }
                (HealthState::Down, to) => {
                    assert_eq!(to, HealthState::Returning, "{socket}");
                    assert!(
                        last(rise, |word| *word == Word::Win),
                        "{socket} returning after {words:?}"
                    );
                }
                (HealthState::Returning, HealthState::Up) => {
                    assert!(fact.is_none(), "by time only");
                    assert!(
                        last(rise, |word| *word == Word::Win),
                        "{socket} up after {words:?}"
                    );
                }
                (_, HealthState::Up) => assert!(
                    last(1, |word| *word == Word::Win),
                    "{socket} up after {words:?}"
                ),
                _ => {}
            }
            if transition.silent {
                let mine = endpoint
                    .zone()
                    .map_or_else(|| endpoint.name().to_string(), ToString::to_string);
                // Before and after: within one tick others may come up after this one went.
                let both = [self.before.as_ref(), Some(seen)];
                if both
                    .into_iter()
                    .flatten()
                    .all(|seen| another_up(seen, &mine))
                {
                    let near = |(at, other): &&(Moment, String)| {
                        world.now.since(*at) < constants::SILENCE_GAP && *other != mine
                    };
                    let clash = self.silent.iter().find(near);
                    assert!(clash.is_none(), "silence marked {clash:?} and now {mine}");
                }
                self.silent.push((world.now, mine));
            }
        }
    }

    fn the_order(&self, world: &mut World, seen: &Snapshot) {
        let draw = world.draw();
        let order = seen.order(world.now, draw);
        assert_eq!(
            order,
            seen.order(world.now, draw),
            "the same question, the same answer"
        );
        let offered: BTreeSet<SocketAddr> = order
            .iter()
            .map(|candidate| candidate.address.socket)
            .collect();
        assert_eq!(offered.len(), order.len(), "each address once");
        let allowed: BTreeSet<SocketAddr> = seen
            .all()
            .filter(|(_, view)| !view.forbidden)
            .map(|(_, view)| view.address.socket)
            .collect();
        assert_eq!(
            offered, allowed,
            "every address that may be used, and no other"
        );
        assert!(
            seen.identity_conflict.is_none() || order.is_empty(),
            "two systems: nothing is used"
        );
        let mut last = None;
        for candidate in &order {
            let found = seen.all().find(|(of, view)| {
                of.endpoint == candidate.endpoint && view.address.socket == candidate.address.socket
            });
            let Some((of, view)) = found else {
                panic!("not in the snapshot: {candidate:?}");
            };
            if let (Some(pinned), Some(got)) = (&seen.identity, &view.identity) {
                let off = world.pool.settings().health.expect_s3_auth_path
                    == entryway::upstream::settings::ExpectIdentity::Off;
                assert!(off || pinned == got, "a mismatch is offered");
            }
            let ramping = view.ramp_from.is_some_and(|from| {
                draw > world.now.since(from).as_secs_f64()
                    / world.pool.settings().failback.ramp.as_secs_f64()
            });
            let health = match view.state {
                HealthState::Up if ramping => 1,
                HealthState::Up => 0,
                HealthState::Unknown => continue,
                HealthState::Returning => 1,
                HealthState::Suspect => 3,
                HealthState::Down => 4,
            };
            let key = (of.intent == Intent::Drain, health, !view.in_dns, view.tier);
            assert!(
                last.is_none_or(|last| last <= key),
                "{last:?} before {key:?}"
            );
            last = Some(key);
        }
        let explained = seen.explain(world.now, &[]);
        let ranked: Vec<String> = explained
            .order
            .iter()
            .filter(|one| one.rank.is_some())
            .map(|one| one.address.clone())
            .collect();
        let plain: Vec<String> = seen
            .order(world.now, 0.0)
            .iter()
            .map(|candidate| candidate.address.socket.to_string())
            .collect();
        assert_eq!(ranked, plain, "explain and order agree");
        let all_down = !plain.is_empty()
            && seen
                .all()
                .all(|(_, view)| view.forbidden || view.state == HealthState::Down);
        assert_eq!(seen.fail_open, all_down);
    }

    fn the_set(&self, world: &World, seen: &Snapshot, fact: Option<&Input>) {
        let now = sockets(seen);
        assert!(
            world.own.iter().all(|own| !now.contains(own)),
            "our own listener"
        );
        let per_endpoint = seen
            .endpoints
            .iter()
            .map(|view| view.addresses.len())
            .max()
            .unwrap_or(0);
        assert!(per_endpoint <= constants::ADDRESSES);
        let bad = matches!(fact, Some(Input::Answer(answer)) if answer.result.is_err());
        let observed = matches!(
            fact,
            Some(Input::Probed { .. } | Input::Dialled { .. } | Input::Suspect { .. })
        );
        if let Some(before) = self.before.as_ref().filter(|_| bad || observed) {
            assert_eq!(
                sockets(before),
                now,
                "only an answer with addresses changes the set"
            );
        }
        if seen
            .endpoints
            .iter()
            .any(|view| view.endpoint.spec.host.starts_with("10."))
        {
            assert!(!now.is_empty());
        }
        assert_eq!(seen.addresses, now.len());
    }

    /// No address is probed more than five times a second.
    fn the_cap(&self, world: &World) {
        for (socket, launches) in &world.launches {
            if let [.., first, _, _, _, _, last] = launches[..] {
                assert!(
                    last.since(first) >= Duration::from_secs(1),
                    "{socket} is probed too often"
                );
            }
        }
    }

    /// Connections move only from farther addresses, while a nearer one is up and has been for long enough.
    fn rebalance(&self, world: &World, seen: &Snapshot) {
        let Some(farther) = &seen.rebalance else {
            return;
        };
        for socket in &farther.sockets {
            let tier = seen
                .all()
                .filter(|(_, view)| view.address.socket == *socket)
                .map(|(_, view)| view.tier)
                .max();
            let nearer = seen
                .all()
                .any(|(_, view)| Some(view.tier) < tier && view.state == HealthState::Up);
            // A suspicion that is cleared does not interrupt the time of being up, so the start of the state itself
            // says nothing; the snapshot says since when connections may move.
            assert!(
                farther.since <= world.now,
                "{socket} gives its pairs away too early"
            );
            assert!(nearer, "{socket} gives its pairs away to nobody nearer");
        }
    }
}

/// No address of these worlds is behind a hop.
fn socket_of(address: &HostPort) -> SocketAddr {
    let Ok(host) = address.host.parse() else {
        panic!("{} is no address", address.host);
    };
    SocketAddr::new(host, address.port)
}
