//! The schedule of what was sent: pure, times are arguments.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::probe::scheduler::{DueProbe, Schedule};
use crate::upstream::endpoint::Address;
use crate::upstream::settings::HealthSettings;
use crate::upstream::snapshot::ProbeMode;

const fn ms(millis: u64) -> Moment {
    Moment::at(Duration::from_millis(millis))
}

fn probe(port: u16, probe_at: Moment, pace: ProbeMode) -> DueProbe {
    DueProbe {
        address: Arc::new(Address::new(([127, 0, 0, 1], port).into())),
        host: String::new(),
        probe_at,
        pace,
    }
}

/// Whether the one probe is sent now, and when to look again.
fn ask(schedule: &mut Schedule, now: Moment, probe: &DueProbe) -> (bool, Option<Moment>) {
    let settings = HealthSettings::default();
    let (due, next) = schedule.take_due(vec![probe.clone()], now, &settings);
    (!due.is_empty(), next)
}

const FAST: ProbeMode = ProbeMode::Fast(Duration::from_millis(200));

#[test]
fn a_regular_probe_goes_when_its_time_comes_and_alone() {
    let mut schedule = Schedule::default();
    let first = probe(1, ms(500), ProbeMode::Regular);
    assert_eq!(ask(&mut schedule, ms(0), &first), (false, Some(ms(500))));
    assert_eq!(ask(&mut schedule, ms(500), &first), (true, None));
    // Asked for again while it is under way: after it has finished.
    let again = probe(1, ms(900), ProbeMode::Regular);
    assert_eq!(ask(&mut schedule, ms(900), &again), (false, None));
    schedule.finished(first.address.socket, ms(500));
    assert!(ask(&mut schedule, ms(950), &again).0);
    // Landed, and the snapshot is still the old one: not again before the interval is over.
    schedule.finished(first.address.socket, ms(950));
    assert_eq!(ask(&mut schedule, ms(960), &again), (false, Some(ms(6950))));
}

#[test]
fn fast_probes_overlap_and_keep_the_cap() {
    let mut schedule = Schedule::default();
    let fast = probe(1, ms(0), FAST);
    let sent = (0..2000).filter(|now| ask(&mut schedule, ms(*now), &fast).0);
    assert_eq!(sent.count(), 10);
    // A time that moves on with every snapshot is no way around the cap either.
    let mut schedule = Schedule::default();
    let sent = (0..2000).filter(|now| {
        let pushy = probe(1, ms(*now), ProbeMode::Regular);
        let (sent, _) = ask(&mut schedule, ms(*now), &pushy);
        if sent {
            schedule.finished(pushy.address.socket, ms(*now));
        }
        sent
    });
    assert_eq!(sent.count(), 10);
}

#[test]
fn a_pile_of_unanswered_fast_probes_is_bounded() {
    let mut schedule = Schedule::default();
    let fast = probe(1, ms(0), FAST);
    let sent = (0..60_000)
        .step_by(10)
        .filter(|now| ask(&mut schedule, ms(*now), &fast).0);
    assert_eq!(sent.count(), 16);
}

/// The gap is kept to when a probe was sent, not to when it was taken.
#[test]
fn one_that_waits_for_others_to_end_holds_the_next_back() {
    let mut schedule = Schedule::default();
    let fast = probe(1, ms(0), FAST);
    let socket = fast.address.socket;
    assert!(ask(&mut schedule, ms(0), &fast).0);
    assert!(ask(&mut schedule, ms(200), &fast).0);
    schedule.waits(socket);
    // An earlier one's end changes nothing.
    schedule.finished(socket, ms(0));
    assert_eq!(ask(&mut schedule, ms(900), &fast), (false, None));
    schedule.finished(socket, ms(950));
    assert_eq!(ask(&mut schedule, ms(1000), &fast), (false, Some(ms(1150))));
    assert!(ask(&mut schedule, ms(1150), &fast).0);
}

#[test]
fn off_means_off_and_an_address_that_left_is_forgotten() {
    let mut schedule = Schedule::default();
    assert_eq!(
        ask(&mut schedule, ms(5), &probe(1, ms(0), ProbeMode::Off)),
        (false, None)
    );
    let gone = probe(1, ms(0), ProbeMode::Regular);
    assert!(ask(&mut schedule, ms(10), &gone).0);
    schedule.finished(gone.address.socket, ms(10));
    assert!(ask(&mut schedule, ms(300), &probe(2, ms(0), ProbeMode::Regular)).0);
    // Back with its old time: a new address as far as the schedule goes.
    assert!(ask(&mut schedule, ms(310), &gone).0);
}
