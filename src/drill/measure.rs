//! From what was seen to numbers. Pure.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::{DrillPlan, Times};
use crate::clock::Moment;
use crate::load::Sample;

/// What a drill has seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) samples: Vec<Sample>,
    pub(super) skipped: u64,
    /// When an address was first marked down.
    pub(super) detection: Option<Moment>,
    /// When another zone first answered.
    pub(super) failover: Option<Moment>,
    /// When the zone was used again.
    pub(super) failback: Option<Moment>,
    /// New connections went elsewhere.
    pub(super) has_left: bool,
    /// Before the fault: the count so far. At the end: how many were held.
    pub(super) held: Option<u64>,
    /// Where our connections lead, by the port on our side.
    pub(super) zones: HashMap<u16, String>,
}

/// Latency beyond what was usual before the fault, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyIncrease {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

/// A piece of the timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Slice {
    /// Its beginning, in seconds since the fault was set; negative before that.
    pub t_s: f64,
    /// Requests that were due in it and answered.
    pub ok: u64,
    /// Those that failed.
    pub failed: u64,
    pub p50_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

// === impl Seen ===

impl Seen {
    /// Whether an answer since `set` came over a connection, made since, whose zone is not known.
    pub(super) fn has_unknown_connection(&self, set: Moment) -> bool {
        self.answers_since(set)
            .any(|(port, _)| !self.zones.contains_key(&port))
    }

    /// Answers over connections that were made after `set`: port and time.
    fn answers_since(&self, set: Moment) -> impl Iterator<Item = (u16, Moment)> {
        let new = self.samples.iter().filter(move |one| one.done >= set);
        let new = new.filter(move |one| one.error.is_none());
        let new = new.filter(move |one| one.connected.is_some_and(|at| at >= set));
        new.filter_map(|one| Some((one.local_port?, one.done)))
    }

    /// When the first answer came from a zone that is not the drilled one.
    pub(super) fn first_other_answer(&self, set: Moment, plan: &DrillPlan) -> Option<Moment> {
        let drilled = plan.zone.as_ref()?;
        let answers = self.answers_since(set).filter(|(port, _)| {
            let zone = self.zones.get(port);
            zone.is_some_and(|zone| zone != drilled)
        });
        answers.map(|(_, done)| done).min()
    }

    pub(super) fn failed(&self) -> u64 {
        self.samples
            .iter()
            .filter(|one| one.error.is_some())
            .count() as u64
    }

    pub(super) fn repeated(&self) -> u64 {
        self.samples.iter().filter(|one| one.repeated).count() as u64
    }

    /// Latencies of answered requests that were due in this time, in ascending order.
    fn latencies(&self, from: Moment, to: Moment) -> Vec<Duration> {
        let within = |one: &&Sample| one.intended >= from && one.intended < to;
        let answered = self.samples.iter().filter(within);
        let answered = answered.filter(|one| one.error.is_none());
        let mut all: Vec<Duration> = answered.map(|one| one.done.since(one.intended)).collect();
        all.sort_unstable();
        all
    }

    /// How much longer requests took while the fault stood than the usual one before it.
    pub(super) fn added(&self, times: Times) -> LatencyIncrease {
        let before = self.latencies(times.began, times.set);
        let during = self.latencies(times.set, times.cleared);
        let Some(usual) = quantile(&before, 0.5) else {
            return LatencyIncrease::default();
        };
        let beyond = |share| quantile(&during, share).map(|it| millis(it.saturating_sub(usual)));
        LatencyIncrease {
            p50: beyond(0.5),
            p99: beyond(0.99),
            max: beyond(1.0),
        }
    }

    /// What happened when, in at most this many pieces of at least a tenth of a second.
    pub(super) fn timeline(&self, times: Times, most: usize) -> Vec<Slice> {
        let length = times.ended.since(times.began);
        let tenths = length.as_secs_f64() * 10.0;
        let step = Duration::from_millis(100) * (tenths / most as f64).ceil().max(1.0) as u32;
        let before = times.set.since(times.began).as_secs_f64();
        let mut slices = Vec::new();
        let mut from = times.began;
        while from < times.ended {
            let to = from + step;
            let latencies = self.latencies(from, to);
            let failed = self
                .samples
                .iter()
                .filter(|one| one.error.is_some() && one.intended >= from && one.intended < to);
            let since = from.since(times.began).as_secs_f64() - before;
            slices.push(Slice {
                t_s: (since * 1000.0).round() / 1000.0,
                ok: latencies.len() as u64,
                failed: failed.count() as u64,
                p50_ms: quantile(&latencies, 0.5).map(millis),
                max_ms: latencies.last().copied().map(millis),
            });
            from = to;
        }
        slices
    }
}

/// The value below which this share lies, of values in ascending order.
fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Milliseconds with microseconds behind the point.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::DrillKind;

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    fn sample(intended: u64, took: u64, port: u16, error: Option<&str>) -> Sample {
        Sample {
            intended: at(intended),
            done: at(intended + took),
            local_port: Some(port),
            connected: Some(at(intended)),
            repeated: false,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn numbers_come_from_requests_by_the_time_they_were_due() {
        let times = Times {
            began: at(0),
            set: at(1000),
            cleared: at(2000),
            ended: at(3000),
        };
        let samples = (0..300).map(|nth| {
            let took = match nth {
                100..110 => 500,
                110..200 => 4,
                _ => 2,
            };
            let error = (nth == 150).then_some("reset");
            sample(nth * 10, took, 1000 + nth as u16, error)
        });
        let mut seen = Seen {
            samples: samples.collect(),
            ..Seen::default()
        };
        seen.samples.sort_by_key(|one| one.done);
        let added = seen.added(times);
        assert_eq!(
            (added.p50, added.p99, added.max),
            (Some(2.0), Some(498.0), Some(498.0))
        );
        assert_eq!(seen.failed(), 1);
        let timeline = seen.timeline(times, 600);
        assert_eq!(timeline.len(), 30);
        assert_eq!((timeline[0].t_s, timeline[0].ok), (-1.0, 10));
        assert_eq!((timeline[10].t_s, timeline[10].max_ms), (0.0, Some(500.0)));
        assert_eq!(timeline[15].failed, 1);
        assert_eq!(seen.timeline(times, 10).len(), 10);
    }

    #[test]
    fn the_first_answer_from_another_zone_is_by_its_time() {
        let plan = DrillPlan {
            kind: DrillKind::ZoneDown,
            zone: Some("a".to_owned()),
            length: Duration::from_secs(1),
            rate: 1.0,
            asserts: Vec::new(),
            patience: Duration::ZERO,
        };
        let mut seen = Seen {
            samples: vec![
                sample(900, 1, 1, None),
                sample(1010, 1, 2, Some("reset")),
                sample(1020, 1, 3, None),
                sample(1030, 1, 4, None),
            ],
            ..Seen::default()
        };
        let set = at(1000);
        assert!(seen.has_unknown_connection(set));
        assert_eq!(seen.first_other_answer(set, &plan), None);
        seen.zones = [(3, "a"), (4, "b"), (1, "b")]
            .map(|(port, zone)| (port, zone.to_owned()))
            .into();
        assert!(!seen.has_unknown_connection(set));
        assert_eq!(seen.first_other_answer(set, &plan), Some(at(1031)));
    }
}
