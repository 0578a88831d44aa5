//! The comparison in words and JSON: medians, spreads, and each against the best peer, round by round.

use super::proxies::Peer;
use super::{Row, Sample, Samples, is_beside, is_bulk};

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
    }
}

// === impl Samples ===

impl Samples {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.rounds.iter().flatten().map(of))
    }

    pub(crate) fn rate(&self) -> f64 {
        self.median(|sample| sample.per_second)
    }

    /// From the lowest to the highest, in parts of the median.
    fn spread(&self) -> f64 {
        let rates = || self.rounds.iter().flatten().map(|sample| sample.per_second);
        (rates().fold(0.0, f64::max) - rates().fold(f64::MAX, f64::min)) / self.rate()
    }

    /// Ratios to another, of the rounds in which both have a run.
    fn against(&self, other: &Samples, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let both = self.rounds.iter().zip(&other.rounds);
        both.filter_map(|(ours, theirs)| Some(of(ours.as_ref()?) / of(theirs.as_ref()?)))
            .collect()
    }
}

/// The peer with the highest median; without peers our own plain one, which its variants are then compared with.
fn best(peers: &[Peer], samples: &[Samples]) -> Option<usize> {
    (1..peers.len())
        .filter(|place| !is_beside(peers[*place].name) && samples[*place].rate().is_finite())
        .max_by(|a, b| samples[*a].rate().total_cmp(&samples[*b].rate()))
        .or_else(|| peers.iter().position(|peer| peer.name == "entryway"))
}

/// One row. The columns after `of best` are ratios to the best peer too: of CPU for a unit, and of the p99.
pub(crate) fn print(peers: &[Peer], row: &Row, samples: &[Samples]) {
    let direct = samples[0].rate();
    let best = best(peers, samples);
    println!("\n### {}\n", row.name);
    println!(
        "| {:<22} | {:>13} | spread | of direct | of best | won | {:>11} | of best | p99 | of best | disturbed |",
        "", "median", "CPU"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (peer, sample) in peers.iter().zip(samples) {
        let middle = sample.rate();
        if middle.is_nan() {
            continue;
        }
        let cpu = sample.median(|sample| sample.cpu);
        let p99 = sample.median(|sample| sample.p99_us);
        let (value, cpu) = if is_bulk(row) {
            (
                format!("{:.2} Gbit/s", middle * 8.0 / 1e9),
                format!("{:.1} ms/Gbit", cpu * 1e9 / 8.0 * 1e3),
            )
        } else {
            (format!("{middle:.0}/s"), format!("{:.1} us", cpu * 1e6))
        };
        let mut against = [const { String::new() }; 4];
        if let Some(best) = best.map(|best| &samples[best]) {
            let rates = sample.against(best, |sample| sample.per_second);
            let won = rates.iter().filter(|ratio| **ratio > 1.0).count();
            against = [
                format!("{:.2}", median(rates.iter().copied())),
                format!("{won}/{}", rates.len()),
                format!("{:.2}", median(sample.against(best, |sample| sample.cpu))),
                format!(
                    "{:.2}",
                    median(sample.against(best, |sample| sample.p99_us))
                ),
            ];
        }
        let [of_best, won, cpu_of_best, p99_of_best] = against;
        println!(
            "| {:<22} | {value:>13} | {:>4.0} % | {:>9.2} | {of_best:>7} | {won:>5} | {cpu:>12} | {cpu_of_best:>5} | {p99:>5.0} us | {p99_of_best:>5} | {} |",
            peer.name,
            sample.spread() * 100.0,
            middle / direct,
            sample.disturbed,
        );
    }
}

pub(crate) fn as_json(peers: &[Peer], samples: &[Samples]) -> serde_json::Value {
    let best = best(peers, samples);
    let rows = peers.iter().zip(samples).map(|(peer, sample)| {
        let of_best = best.map(|best| {
            serde_json::json!({
                "peer": peers[best].name,
                "per_second": sample.against(&samples[best], |sample| sample.per_second),
                "cpu": median(sample.against(&samples[best], |sample| sample.cpu)),
                "p99": median(sample.against(&samples[best], |sample| sample.p99_us)),
            })
        });
        let value = serde_json::json!({
            "per_second": sample.rounds.iter().flatten().map(|sample| sample.per_second).collect::<Vec<_>>(),
            "median": sample.rate(),
            "cpu_seconds_per_unit": sample.median(|sample| sample.cpu),
            "p99_us": sample.median(|sample| sample.p99_us),
            "disturbed": sample.disturbed,
            "of_best": of_best,
        });
        (peer.name.to_owned(), value)
    });
    serde_json::Value::Object(rows.collect())
}
