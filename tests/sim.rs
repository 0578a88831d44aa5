//! A seeded simulation of the pool: random networks, probes, dials, answers of DNS, stalls and orders of the operator
//! over the pure core, and after every step the invariants of reference-behaviour.md.
//!
//! `ENTRYWAY_SIM_SEEDS` (256) and `ENTRYWAY_SIM_STEPS` (1000) say how much, `ENTRYWAY_SIM_SEED` replays one seed. A failure
//! prints its seed; the same seed is the same run.

mod sim {
    pub(crate) mod check;
    pub(crate) mod world;
}

use std::time::Duration;

use entryway::clock::Moment;
use entryway::upstream::health::{AddressHealth, ProbeVerdict};
use entryway::upstream::input::{Input, ProbeOutcome};
use entryway::upstream::settings::HealthSettings;
use entryway::upstream::snapshot::ProbeMode;
use sim::check::Checker;
use sim::world::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// One run; gives a digest of everything that was seen, to compare runs.
fn run(seed: u64, steps: u64) -> u64 {
    let mut world = World::new(seed);
    let mut checker = Checker::new(&world);
    for _ in 0..steps {
        for fact in world.step() {
            checker.before(&world, &fact);
            let changes = world.pool.apply(world.now, fact.clone());
            checker.after(&mut world, Some(&fact), &changes);
        }
        let changes = world.pool.tick(world.now);
        checker.after(&mut world, None, &changes);
    }
    checker.digest()
}

#[test]
fn the_invariants_hold() {
    let steps = number("ENTRYWAY_SIM_STEPS").unwrap_or(1000);
    let seeds: Vec<u64> = match number("ENTRYWAY_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("ENTRYWAY_SIM_SEEDS").unwrap_or(256)).collect(),
    };
    for seed in seeds {
        if std::panic::catch_unwind(|| run(seed, steps)).is_err() {
            panic!(
                "seed {seed} failed; replay it with ENTRYWAY_SIM_SEED={seed} ENTRYWAY_SIM_STEPS={steps}"
            );
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1000..1004 {
        assert_eq!(run(seed, 400), run(seed, 400), "seed {seed}");
    }
}

#[test]
fn every_second_probe_fails_for_ten_minutes() {
    // Through the whole pool, with traffic that meets the failures too: see `health` for the machine alone.
    for outcome in [
        ProbeOutcome::Timeout,
        ProbeOutcome::Refused,
        ProbeOutcome::Reset,
    ] {
        let mut world = World::calm(3);
        let end = world.now + Duration::from_secs(600);
        let (mut flips, mut fails) = (0, false);
        while world.now < end {
            world.now = world.now + Duration::from_millis(100);
            world.pool.check_stall(world.now);
            let seen = world.see();
            for (_, view) in seen.all() {
                let socket = view.address.socket;
                let flaky = socket == world.sockets()[0];
                if view.probe_at > world.now
                    || (matches!(view.pace, ProbeMode::Fast(_))
                        && !world.now.as_millis().is_multiple_of(200))
                {
                    continue;
                }
                let outcome = if flaky && fails {
                    outcome.clone()
                } else {
                    ProbeOutcome::Success { identity: None }
                };
                fails ^= flaky;
                let changes = world.pool.apply(
                    world.now,
                    Input::Probed {
                        socket,
                        sent: world.now,
                        outcome,
                        took: Duration::from_millis(1),
                    },
                );
                flips += sim::check::flips(&changes);
            }
            flips += sim::check::flips(&world.pool.tick(world.now));
        }
        // The first success of each address is a transition, too.
        assert!(flips < 6 + world.sockets().len(), "{outcome:?}: {flips}");
    }
}

#[test]
fn random_evidence_flips_only_after_its_threshold() {
    // The machine alone, against a plain count of what it was told.
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..200 {
        let settings = HealthSettings {
            fall: random.u32(1..6),
            rise: random.u32(1..4),
            ..HealthSettings::default()
        };
        let mut health = AddressHealth::new(Moment::default(), true);
        let (mut wins, mut fails, mut hard) = (0, 0, 0);
        for step in 1..300u64 {
            let now = Moment::at(Duration::from_millis(step * 200));
            let evidence = match random.u8(0..5) {
                0 | 1 => ProbeVerdict::Ok,
                2 => ProbeVerdict::Unreachable("refused"),
                3 => ProbeVerdict::Timeout,
                _ => ProbeVerdict::BadResponse("http_503".to_owned()),
            };
            let before = health.state();
            let transition = health.probed(now, now, &evidence, true, &settings);
            match evidence {
                ProbeVerdict::Ok => (wins, fails, hard) = (wins + 1, 0, 0),
                ProbeVerdict::Unreachable(_) => (wins, fails, hard) = (0, fails + 1, hard + 1),
                _ => (wins, fails, hard) = (0, fails + 1, 0),
            }
            use entryway::upstream::snapshot::HealthState::{Down, Returning, Unknown};
            match transition.map(|transition| transition.to) {
                Some(Down) => {
                    assert!(
                        fails >= settings.fall || hard >= 2 || (before == Unknown && hard >= 1)
                    );
                    wins = 0;
                }
                Some(Returning) => assert!(wins >= settings.rise),
                Some(_) => assert!(wins >= 1),
                None => assert!(before == Down || (fails < settings.fall && hard < 2)),
            }
        }
    }
}
