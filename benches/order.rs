//! Question: what does it cost to be told where the next connection goes, while the pool publishes new pictures?
//!
//! `cargo bench --bench order`. Last answer: README.md, "Measured".
#![allow(clippy::expect_used, reason = "a bench may stop at the first surprise")]

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use entryway::clock;
use entryway::events::{Events, Log};
use entryway::metrics::Metrics;
use entryway::types::{EndpointName, UpstreamName, Zone};
use entryway::upstream::endpoint::{EndpointSpec, Role};
use entryway::upstream::input::{Addresses, AnswerSource, DnsAnswer, Input, ProbeOutcome};
use entryway::upstream::{UpstreamArgs, start};
use tokio::time::Instant;

const CALLS: u32 = 200_000;
const ENDPOINTS: u8 = 6;

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let specs = (1..=ENDPOINTS).map(|number| EndpointSpec {
        name: EndpointName::new(format!("e{number}")),
        host: format!("e{number}.test"),
        port: 8182,
        zone: Some(Zone::new(["a", "b", "c"][usize::from(number) % 3])),
        role: Role::Configured,
        hop: None,
    });
    let (feed, view, actor) = start(UpstreamArgs {
        upstream: UpstreamName::new("u"),
        endpoints: specs.collect(),
        settings: entryway::upstream::settings::UpstreamPolicy::default(),
        metrics: Metrics::default(),
        events: Events::new(Log::default()),
        own_listeners: Vec::new(),
        names: Default::default(),
    });
    // Like the control thread: its own runtime, and something new 20 times a millisecond.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let facts = async {
                for number in 1..=ENDPOINTS {
                    feed.send(Input::Answer(DnsAnswer {
                        name: format!("e{number}.test"),
                        at: clock::now(),
                        result: Ok(Addresses {
                            ips: vec![IpAddr::from([10, 0, 0, number])],
                            ttl: Duration::from_secs(60),
                            source: AnswerSource::Dns,
                            refused: Vec::new(),
                        }),
                    }));
                }
                for round in 0u64.. {
                    for _ in 0..20 {
                        let number = (round % u64::from(ENDPOINTS)) as u8 + 1;
                        feed.send(Input::Probed {
                            socket: ([10, 0, 0, number], 8182).into(),
                            sent: clock::now(),
                            outcome: ProbeOutcome::Success { identity: None },
                            took: Duration::from_millis(1),
                        });
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::join!(actor, facts);
        });
    });
    let until = Instant::now() + Duration::from_secs(5);
    while view.load().addresses < usize::from(ENDPOINTS) {
        assert!(
            Instant::now() < until,
            "the pool never learnt its addresses"
        );
        std::thread::yield_now();
    }
    let first = view.load().generation;
    let mut rounds: Vec<f64> = (0..9)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..CALLS {
                black_box(view.load().order(clock::now(), 0.5));
            }
            began.elapsed().as_nanos() as f64 / f64::from(CALLS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    let published = view.load().generation - first;
    println!(
        "order() of {ENDPOINTS} addresses: {:.0} ns (median of 9 rounds, {published} pictures published meanwhile)",
        rounds[4]
    );
}
