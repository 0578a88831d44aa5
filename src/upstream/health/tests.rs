//! One table per rule: what happens, at which millisecond, and the state after it.

use super::*;

enum Do {
    Ok,
    Refused,
    Silent,
    Bad,
    /// A timeout while the limit on silence holds.
    TimeoutHeld,
    Suspect,
    Slow,
    Mute,
    /// It ends a connection that has been used since this moment, or since the one given, without an answer.
    End,
    EndOf(u64),
    /// It answers a request.
    Answer,
    Tick,
    Forgive,
    Back,
}

use Do::*;

fn at(ms: u64) -> Moment {
    Moment::at(Duration::from_millis(ms))
}

fn end(health: &mut AddressHealth, now: Moment, started: Moment) -> Option<Transition> {
    health.ended_unanswered(now, started);
    health.suspect(now, "unanswered", SuspicionKind::Immediate)
}

fn run(name: &str, script: &[(u64, Do, HealthState)]) -> AddressHealth {
    run_with(name, script, &HealthSettings::default())
}

fn run_with(
    name: &str,
    script: &[(u64, Do, HealthState)],
    settings: &HealthSettings,
) -> AddressHealth {
    let failback = FailbackSettings::default();
    let mut health = AddressHealth::new(at(0), settings.probes());
    let mut answers = 0;
    for (step, (ms, what, expected)) in script.iter().enumerate() {
        let now = at(*ms);
        let mut probe = |verdict, may| health.probed(now, now, &verdict, may, settings);
        match what {
            Ok => probe(ProbeVerdict::Ok, true),
            Refused => probe(ProbeVerdict::Unreachable("refused"), true),
            Silent => probe(ProbeVerdict::Timeout, true),
            TimeoutHeld => probe(ProbeVerdict::Timeout, false),
            Bad => probe(ProbeVerdict::BadResponse("http_503".to_owned()), true),
            Suspect => health.suspect(now, "lost_hedge", SuspicionKind::Immediate),
            Slow => health.suspect(now, "slow_answer", SuspicionKind::SlowAnswer),
            Mute => health.suspect(now, "mute", SuspicionKind::Mute),
            End => end(&mut health, now, now),
            EndOf(started) => end(&mut health, now, at(*started)),
            Answer => {
                answers += 1;
                health.answered(answers);
                None
            }
            Tick => health.tick(now, true, None, settings, &failback),
            Forgive => {
                health.reset_failures();
                None
            }
            Back => health.readmit(now, settings.probes()),
        };
        assert_eq!(health.state(), *expected, "{name}, step {step} at {ms} ms");
    }
    health
}

use HealthState::{Down, Returning, Suspect as InDoubt, Unknown, Up};

#[test]
fn the_first_answer_decides() {
    run("up", &[(1, Ok, Up)]);
    run("refused", &[(1, Refused, Down)]);
    run(
        "timeout",
        &[
            (1, Silent, Unknown),
            (2, Silent, Unknown),
            (3, Silent, Down),
        ],
    );
    run(
        "bad",
        &[(1, Bad, Unknown), (2, Bad, Unknown), (3, Bad, Down)],
    );
    run("late", &[(1, Silent, Unknown), (2, Ok, Up)]);
}

/// Its probe says that it is well, its traffic that it is not.
#[test]
fn ends_without_an_answer_outweigh_a_probe() {
    run(
        "three in a row",
        &[
            (1, Ok, Up),
            (100, End, InDoubt),
            (101, Ok, Up),
            (200, End, InDoubt),
            (201, Ok, Up),
            (300, End, InDoubt),
            (301, Ok, InDoubt),
            (10_299, Ok, InDoubt),
            (10_300, Ok, Up),
            // Once more: twice as long.
            (10_400, End, InDoubt),
            (30_399, Ok, InDoubt),
            (30_400, Ok, Up),
        ],
    );
    run(
        "answers in between",
        &[
            (1, Ok, Up),
            (100, End, InDoubt),
            (101, Ok, Up),
            (200, End, InDoubt),
            (201, Ok, Up),
            (202, Answer, Up),
            (300, End, InDoubt),
            (301, Ok, Up),
        ],
    );
    run(
        "an answer ends it",
        &[
            (1, Ok, Up),
            (100, End, InDoubt),
            (101, Ok, Up),
            (200, End, InDoubt),
            (201, Ok, Up),
            (300, End, InDoubt),
            (301, Ok, InDoubt),
            (302, Answer, InDoubt),
            (303, Ok, Up),
        ],
    );
    run(
        "all of one moment are one",
        &[
            (1, Ok, Up),
            (100, End, InDoubt),
            (100, End, InDoubt),
            (100, End, InDoubt),
            (101, Ok, Up),
            (102, EndOf(99), InDoubt),
            (103, Ok, Up),
            (104, EndOf(99), InDoubt),
            (105, Ok, Up),
        ],
    );
    run(
        "refused meanwhile",
        &[
            (1, Ok, Up),
            (100, End, InDoubt),
            (101, Ok, Up),
            (200, End, InDoubt),
            (201, Ok, Up),
            (300, End, InDoubt),
            (301, Refused, InDoubt),
            (302, Refused, Down),
        ],
    );
}

#[test]
fn a_failed_regular_probe_changes_no_state_but_brings_fast_ones() {
    let health = run("one", &[(1, Ok, Up), (5000, Silent, Up)]);
    let settings = HealthSettings::default();
    assert_eq!(
        health.pace(&settings),
        ProbeMode::Fast(settings.fast_interval)
    );
    let health = run(
        "cleared",
        &[(1, Ok, Up), (5000, Silent, Up), (5200, Ok, Up)],
    );
    assert_eq!(health.pace(&settings), ProbeMode::Regular);
}

#[test]
fn thresholds() {
    run(
        "two refused",
        &[(1, Ok, Up), (2, Refused, Up), (3, Refused, Down)],
    );
    run(
        "refused, not running",
        &[
            (1, Ok, Up),
            (2, Refused, Up),
            (3, Silent, Up),
            (4, Refused, Down),
        ],
    );
    run(
        "fall",
        &[
            (1, Ok, Up),
            (2, Silent, Up),
            (3, Silent, Up),
            (4, Silent, Down),
        ],
    );
    run(
        "interrupted",
        &[
            (1, Ok, Up),
            (2, Silent, Up),
            (3, Silent, Up),
            (4, Ok, Up),
            (5, Silent, Up),
        ],
    );
    run(
        "rise",
        &[(1, Refused, Down), (2, Ok, Down), (3, Ok, Returning)],
    );
    run(
        "rise, interrupted",
        &[
            (1, Refused, Down),
            (2, Ok, Down),
            (3, Silent, Down),
            (4, Ok, Down),
        ],
    );
}

#[test]
fn suspicion() {
    run(
        "cleared by one success",
        &[(1, Ok, Up), (2, Suspect, InDoubt), (3, Ok, Up)],
    );
    run(
        "down by fall",
        &[
            (1, Ok, Up),
            (2, Suspect, InDoubt),
            (3, Silent, InDoubt),
            (4, Silent, InDoubt),
            (5, Silent, Down),
        ],
    );
    run("down stays down", &[(1, Refused, Down), (2, Suspect, Down)]);
    run(
        "never by itself",
        &[
            (1, Ok, Up),
            (2, Suspect, InDoubt),
            (3, Suspect, InDoubt),
            (99_000, Tick, InDoubt),
        ],
    );
    run(
        "slow once in 10 s",
        &[
            (1, Ok, Up),
            (2, Slow, InDoubt),
            (3, Ok, Up),
            (9_000, Slow, Up),
            (10_002, Slow, InDoubt),
        ],
    );
    run(
        "slow again after a failure",
        &[
            (1, Ok, Up),
            (2, Slow, InDoubt),
            (3, Silent, InDoubt),
            (4, Ok, Up),
            (5, Slow, InDoubt),
        ],
    );
}

#[test]
fn a_success_sent_before_the_doubt_does_not_clear_it() {
    let settings = HealthSettings::default();
    let mut health = run("up", &[(1, Ok, Up), (1000, Suspect, InDoubt)]);
    assert_eq!(
        health.probed(at(1001), at(999), &ProbeVerdict::Ok, true, &settings),
        None
    );
    assert_eq!(health.state(), InDoubt);
    assert!(
        health
            .probed(at(1300), at(1200), &ProbeVerdict::Ok, true, &settings)
            .is_some()
    );
}

#[test]
fn a_failure_older_than_a_success_is_old_news() {
    let settings = HealthSettings::default();
    let mut health = run(
        "up",
        &[(1, Ok, Up), (1000, Suspect, InDoubt), (1500, Ok, Up)],
    );
    health.probed(at(2000), at(1000), &ProbeVerdict::Timeout, true, &settings);
    assert_eq!(health.failures(), 0);
}

#[test]
fn returning_takes_its_time_and_keeps_it_through_doubt() {
    run(
        "after",
        &[
            (1, Refused, Down),
            (2, Ok, Down),
            (3, Ok, Returning),
            (59_000, Tick, Returning),
            (60_003, Tick, Up),
        ],
    );
    run(
        "mark_suspect",
        &[
            (1, Refused, Down),
            (2, Ok, Down),
            (3, Ok, Returning),
            (30_000, Suspect, InDoubt),
            (30_100, Ok, Returning),
            (60_003, Tick, Returning),
            (60_004, Ok, Returning),
            (60_005, Tick, Up),
        ],
    );
    run(
        "failures again",
        &[
            (1, Refused, Down),
            (2, Ok, Down),
            (3, Ok, Returning),
            (9, Refused, Returning),
            (10, Refused, Down),
        ],
    );
}

#[test]
fn silence_is_held_back_and_then_marks() {
    run(
        "endpoint_state",
        &[
            (1, Ok, Up),
            (2, TimeoutHeld, Up),
            (3, TimeoutHeld, Up),
            (4, TimeoutHeld, InDoubt),
            (5, TimeoutHeld, InDoubt),
            (6, Tick, Down),
        ],
    );
    run(
        "hard verdict is not endpoint_state",
        &[
            (1, Ok, Up),
            (2, TimeoutHeld, Up),
            (3, Refused, Up),
            (4, Refused, Down),
        ],
    );
    let mut limit = TimeoutMarkdownLimit::default();
    assert!(limit.allows(at(0), "a", true));
    limit.marked(at(0), "a");
    for (ms, zone, another_up, expected) in [
        (1, "a", true, true),
        (1, "b", true, false),
        (29_999, "b", true, false),
        (30_000, "b", true, true),
        (1, "b", false, true),
    ] {
        assert_eq!(
            limit.allows(at(ms), zone, another_up),
            expected,
            "{ms} {zone} {another_up}"
        );
    }
}

#[test]
fn down_by_silence_names_the_first_probe() {
    let settings = HealthSettings::default();
    let down = |script| run("silence", script).down_by_silence(&settings);
    assert_eq!(
        down(&[
            (1, Ok, Up),
            (7, Silent, Up),
            (8, Silent, Up),
            (9, Silent, Down)
        ]),
        Some(at(7))
    );
    assert_eq!(
        down(&[
            (1, Ok, Up),
            (7, Refused, Up),
            (8, Refused, Down),
            (9, Silent, Down)
        ]),
        None
    );
    assert_eq!(
        down(&[
            (1, Ok, Up),
            (7, Silent, Up),
            (8, Silent, Up),
            (9, Silent, Down),
            (10, Refused, Down)
        ]),
        None
    );
}

/// Queries that are slow for good must not make their address suspect in a loop; a frozen one is found at once.
#[test]
fn mute_suspicions_pause_after_each_that_is_cleared() {
    run(
        "mute",
        &[
            (1, Ok, Up),
            (100, Mute, InDoubt),
            (200, Ok, Up),
            // Paused for 10 s: only like a slow answer, once in 10 s.
            (300, Mute, Up),
            (10_050, Mute, Up),
            (10_250, Mute, InDoubt),
            (10_300, Ok, Up),
            // Now for 20 s; the slow answer's 10 s count beside it.
            (10_400, Mute, Up),
            (20_400, Mute, InDoubt),
            (20_500, Ok, Up),
            (30_250, Mute, Up),
            (30_500, Mute, InDoubt),
        ],
    );
    run(
        "a suspicion that proves true ends the pause",
        &[
            (1, Ok, Up),
            (100, Mute, InDoubt),
            (200, Ok, Up),
            (300, Refused, Up),
            (400, Refused, Down),
            (5_000, Ok, Down),
            (5_200, Ok, Returning),
            (5_300, Mute, InDoubt),
        ],
    );
}

#[test]
fn a_cleared_suspicion_does_not_interrupt_being_up() {
    let failback = FailbackSettings::default();
    let health = run(
        "up",
        &[(1, Ok, Up), (50_000, Suspect, InDoubt), (50_100, Ok, Up)],
    );
    assert_eq!(health.since(), at(50_100));
    assert_eq!(health.settled(at(60_000), &failback), None);
    assert_eq!(health.settled(at(60_001), &failback), Some(at(60_001)));
}

#[test]
fn probes_off() {
    let settings = HealthSettings {
        kind: crate::upstream::settings::ProbeKind::Off,
        ..HealthSettings::default()
    };
    let health = run_with(
        "off",
        &[
            (1, Suspect, InDoubt),
            (9_000, Tick, InDoubt),
            (10_001, Tick, Up),
        ],
        &settings,
    );
    assert_eq!(health.pace(&settings), ProbeMode::Off);
}

#[test]
fn being_away_blames_nobody() {
    run(
        "resumed",
        &[
            (1, Ok, Up),
            (2, Silent, Up),
            (3, Silent, Up),
            (4, Forgive, Up),
            (5, Silent, Up),
        ],
    );
    run(
        "back, was up",
        &[(1, Ok, Up), (2, Back, Unknown), (3, Ok, Up)],
    );
    run(
        "back, was down",
        &[
            (1, Refused, Down),
            (2, Back, Down),
            (3, Ok, Down),
            (4, Ok, Returning),
        ],
    );
}

#[test]
fn every_second_probe_fails_for_ten_minutes() {
    for verdict in [
        ProbeVerdict::Timeout,
        ProbeVerdict::BadResponse("http_503".to_owned()),
        ProbeVerdict::Unreachable("refused"),
    ] {
        for first_fails in [false, true] {
            let (settings, failback) = (HealthSettings::default(), FailbackSettings::default());
            let mut health = AddressHealth::new(at(0), true);
            let (mut now, mut transitions, mut failures) = (at(0), 0, first_fails);
            while now < at(600_000) {
                let what = if failures {
                    verdict.clone()
                } else {
                    ProbeVerdict::Ok
                };
                transitions +=
                    usize::from(health.probed(now, now, &what, true, &settings).is_some());
                transitions +=
                    usize::from(health.tick(now, true, None, &settings, &failback).is_some());
                failures = !failures;
                now = now
                    + match health.pace(&settings) {
                        ProbeMode::Fast(every) => every,
                        _ => settings.interval,
                    };
            }
            assert!(transitions <= 6, "{verdict:?}: {transitions}");
        }
    }
}
