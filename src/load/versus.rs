//! `--versus`: what the target costs against another one, by interleaved rounds.
//!
//! Rounds run in the order A B B A, so that a machine whose speed drifts slowly adds the same to both sides. Each block of
//! four gives one difference per percentile; the interval is Student's t over the blocks.

use std::io;
use std::time::Duration;

use super::engine::{Progress, RequestOutcome, Stop, execute};
use super::recorder::Results;
use super::report::{Deltas, Versus};
use super::{LoadPlan, LoadTarget, Report, Workload};

/// Measured time of one round, where the whole is long enough.
const ROUND: Duration = Duration::from_millis(250);

/// Fewest blocks of four rounds.
const FEWEST_BLOCKS: usize = 5;

/// Most blocks of four rounds.
const MOST_BLOCKS: usize = 30;

/// Unmeasured part of a round: connections are opened in it.
const ROUND_WARMUP: Duration = Duration::from_millis(50);

/// Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1 on; the last one for more.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// The verdict looks at three percentiles at once. Its own interval is wider by this factor, so that the chance of a
/// difference where there is none stays below 5 % for all three together (Bonferroni: 98.3 % against 95 % at 4 degrees of
/// freedom, the fewest there are).
const FAMILY: f64 = 1.45;

const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
const NAMES: [&str; 3] = ["p50", "p99", "p99.9"];

/// Runs both in turn; the report is the first target's, with the comparison.
///
/// # Errors
///
/// A thread or its event loop cannot be had.
pub fn run(
    plan: &LoadPlan,
    versus: &(LoadTarget, Workload),
    stop: &Stop,
    mut progress: impl FnMut(&Progress),
) -> io::Result<Report> {
    let whole = plan.measured();
    let blocks = (whole.as_secs_f64() / ROUND.as_secs_f64() / 4.0).round() as usize;
    let blocks = blocks.clamp(FEWEST_BLOCKS, MOST_BLOCKS);
    let round = whole / u32::try_from(blocks * 4).unwrap_or(1);
    let mine = LoadPlan {
        duration: round,
        warmup: ROUND_WARMUP,
        ..plan.clone()
    };
    let other = LoadPlan {
        target: versus.0.clone(),
        workload: versus.1.clone(),
        ..mine.clone()
    };
    let mut total = Rounds::default();
    let mut differences: [Vec<f64>; 3] = Default::default();
    'blocks: for _ in 0..blocks {
        let mut block = [Results::new(), Results::new()];
        for side in [0, 1, 1, 0] {
            let plan = if side == 0 { &mine } else { &other };
            let outcome = execute(plan, stop, None, &mut progress)?;
            block[side].add(&outcome.results);
            if side == 0 {
                total.add(outcome);
            }
            if stop.is_asked() {
                break 'blocks;
            }
        }
        let [mine, other] = &block;
        if mine.ok > 0 && other.ok > 0 {
            for (quantile, differences) in QUANTILES.iter().zip(&mut differences) {
                let at =
                    |results: &Results| results.corrected.value_at_quantile(*quantile) as f64 / 1e6;
                differences.push(at(mine) - at(other));
            }
        }
    }
    let rounds = total.rounds;
    let measured = LoadPlan {
        // Half of the rounds were this target's.
        duration: round * u32::try_from(rounds.max(1)).unwrap_or(1),
        ..plan.clone()
    };
    let mut report = Report::new(&measured, total.outcome(round, stop.is_asked()));
    let intervals = differences
        .each_ref()
        .map(|differences| interval(differences, 1.0));
    report.summary.versus = Some(Versus {
        target: versus.0.authority.clone(),
        rounds,
        delta_ms: Deltas {
            p50: intervals[0],
            p99: intervals[1],
            p999: intervals[2],
        },
        verdict: verdict(&differences),
    });
    Ok(report)
}

/// The first target's rounds, one behind the other.
#[derive(Default)]
struct Rounds {
    rounds: usize,
    first: Option<RequestOutcome>,
}

impl Rounds {
    fn add(&mut self, outcome: RequestOutcome) {
        self.rounds += 1;
        match &mut self.first {
            Some(first) => {
                let overrun = first.results.overrun + outcome.results.overrun;
                first.results.add(&outcome.results);
                first.results.overrun = overrun;
                first.stopped += outcome.stopped;
            }
            None => self.first = Some(outcome),
        }
    }

    fn outcome(self, round: Duration, interrupted: bool) -> RequestOutcome {
        let elapsed = round * u32::try_from(self.rounds.max(1)).unwrap_or(1);
        let (results, stopped) = self
            .first
            .map_or((Results::new(), Duration::ZERO), |first| {
                (first.results, first.stopped)
            });
        RequestOutcome {
            results,
            // Rounds are shorter than the seconds of a timeline.
            timeline: Vec::new(),
            elapsed,
            interrupted,
            stopped,
        }
    }
}

/// Low end, mean and high end; `None` for fewer than two blocks.
fn interval(differences: &[f64], widen: f64) -> Option<[f64; 3]> {
    let count = differences.len();
    let t = T_95.get(count.checked_sub(2)?).or(T_95.last())?;
    let mean = differences.iter().sum::<f64>() / count as f64;
    let squares: f64 = differences
        .iter()
        .map(|difference| (difference - mean).powi(2))
        .sum();
    let error = (squares / (count - 1) as f64 / count as f64).sqrt();
    let half = widen * t * error;
    let round = |value: f64| (value * 10_000.0).round() / 10_000.0;
    Some([mean - half, mean, mean + half].map(round))
}

fn verdict(differences: &[Vec<f64>; 3]) -> String {
    let intervals = differences
        .each_ref()
        .map(|differences| interval(differences, FAMILY));
    if intervals.iter().all(Option::is_none) {
        return "not measured: too few answers from one of the two".to_owned();
    }
    let clear: Vec<String> = NAMES
        .iter()
        .zip(intervals)
        .filter_map(|(name, interval)| {
            let [low, middle, high] = interval?;
            let word = if low > 0.0 {
                "slower"
            } else if high < 0.0 {
                "faster"
            } else {
                return None;
            };
            Some(format!("{:.3} ms {word} at {name}", middle.abs()))
        })
        .collect();
    match clear.is_empty() {
        true => "no difference beyond the noise of this run".to_owned(),
        false => clear.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_no_difference_and_a_shift_is_one() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut noise = |shift: f64| {
            (0..10)
                .map(|_| shift + random.f64() - 0.5)
                .collect::<Vec<_>>()
        };
        let mut alarms = 0;
        for _ in 0..200 {
            let blocks = [noise(0.0), noise(0.0), noise(0.0)];
            alarms += usize::from(!verdict(&blocks).contains("no difference"));
        }
        assert!(
            alarms <= 20,
            "{alarms} of 200 comparisons of equals found a difference"
        );
        let shifted = verdict(&[noise(2.0), noise(0.0), noise(-3.0)]);
        assert!(
            shifted.contains("slower at p50") && shifted.contains("faster at p99.9"),
            "{shifted}"
        );
        assert_eq!(interval(&[1.0], 1.0), None);
        assert_eq!(interval(&[1.0, 1.0, 1.0], 1.0), Some([1.0, 1.0, 1.0]));
    }
}
