//! Question: what does it cost to count something?
//!
//! `cargo bench --bench recorder`. Last answer: README.md, "Measured".

use std::hint::black_box;

use entryway::metrics::{Metrics, family};
use tokio::time::Instant;

const CALLS: u32 = 2_000_000;

fn each(what: &str, mut call: impl FnMut(u32)) {
    let mut rounds: Vec<f64> = (0..9)
        .map(|_| {
            let began = Instant::now();
            (0..CALLS).for_each(&mut call);
            began.elapsed().as_nanos() as f64 / f64::from(CALLS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{what}: {:.1} ns (median of 9 rounds)", rounds[4]);
}

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let metrics = Metrics::default();
    let counter = metrics.counter(&family::CONNECTIONS_ACCEPTED, &["l"]);
    let gauge = metrics.gauge(&family::CONNECTIONS_PARKED, &["l"]);
    let histogram = metrics.histogram(&family::SETUP_SECONDS, &[]);
    each("counter.increment", |_| black_box(&counter).increment(1));
    each("gauge.increment", |_| black_box(&gauge).increment(1.0));
    each("histogram.record", |call| {
        black_box(&histogram).record(f64::from(call % 1000) / 1e4);
    });
    each("metrics.counter (a handle asked for)", |_| {
        let _handle = black_box(metrics.counter(&family::CONNECTIONS_ACCEPTED, &["l"]));
    });
}
