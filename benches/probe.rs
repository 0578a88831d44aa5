//! Question: what does a probe cost, and what of it is the reading of the answer?
//!
//! A server on loopback gives one canned answer; kind `tcp` is the connect alone, the difference is request, parsing
//! and judgement. `cargo bench --bench probe`. Last answer: README.md, "Measured".
#![allow(clippy::expect_used, reason = "a bench may stop at the first surprise")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use entryway::probe::once;
use entryway::upstream::input::ProbeOutcome;
use entryway::upstream::settings::{HealthSettings, ProbeKind};
use tokio::time::Instant;

/// In a round: fewer than the server's queue holds, for probes that end before they are accepted.
const PROBES: u32 = 100;
const ROUNDS: usize = 31;
const BODY: &str = "{:s3-auth-path \"bucket/path\"}";

fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/edn\r\nContent-Length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        for mut stream in listener.incoming().flatten() {
            // A probe of kind tcp ends without a request.
            if matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    address
}

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let address = server();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for (name, kind) in [("tcp", ProbeKind::Tcp), ("datomic", ProbeKind::Datomic)] {
        let settings = HealthSettings {
            kind,
            ..HealthSettings::default()
        };
        let mut rounds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
                let began = Instant::now();
                for _ in 0..PROBES {
                    let report = runtime.block_on(once(&settings, address, "a.test"));
                    assert!(
                        matches!(report.outcome, ProbeOutcome::Success { .. }),
                        "{:?}",
                        report.outcome
                    );
                }
                began.elapsed().as_secs_f64() * 1e6 / f64::from(PROBES)
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        println!(
            "one probe of kind {name}: {:.1} us (median of {ROUNDS} rounds)",
            rounds[ROUNDS / 2]
        );
    }
}
