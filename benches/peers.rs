//! Question: how does entryway compare with every proxy found on this machine, and with no proxy at all?
//!
//! `cargo bench --bench peers [-- --rounds N --seconds S --only NAME,NAME --rows ROW,ROW --json FILE]`
//!
//! One run, all proxies side by side with two workers each and no access log (but in the row that shows its cost);
//! rounds alternate them, so a machine that drifts drifts for all. A run that another process disturbed (more than
//! 10 % of a core) is set aside and repeated, at most three times; a run with a wrong byte is never compared.
//! Last answer: README.md, "Measured".
#![allow(clippy::expect_used, reason = "a bench may stop at the first surprise")]

#[path = "peers/load.rs"]
mod load;
#[path = "peers/proxies.rs"]
mod proxies;

use std::collections::BTreeMap;
use std::time::Duration;

use load::{Work, drive, hold, upstream};
use proxies::{Peer, machine_cpu, own_cpu, start_all};
use tokio::time::Instant;

struct Row {
    name: &'static str,
    work: Work,
    connections: usize,
}

const ROWS: &[Row] = &[
    Row {
        name: "1 KiB x1",
        work: Work::RoundTrips(1024),
        connections: 1,
    },
    Row {
        name: "1 KiB x32",
        work: Work::RoundTrips(1024),
        connections: 32,
    },
    Row {
        name: "1 KiB x256",
        work: Work::RoundTrips(1024),
        connections: 256,
    },
    Row {
        name: "64 KiB x8",
        work: Work::RoundTrips(64 * 1024),
        connections: 8,
    },
    Row {
        name: "up x1",
        work: Work::Up,
        connections: 1,
    },
    Row {
        name: "down x1",
        work: Work::Down,
        connections: 1,
    },
    Row {
        name: "up x8",
        work: Work::Up,
        connections: 8,
    },
    Row {
        name: "down x8",
        work: Work::Down,
        connections: 8,
    },
    Row {
        name: "both x1",
        work: Work::Both,
        connections: 1,
    },
    Row {
        name: "both x8",
        work: Work::Both,
        connections: 8,
    },
    Row {
        name: "connect x16",
        work: Work::Connect,
        connections: 16,
    },
];

/// Shown for itself and not among the peers that a row is won against.
fn is_ours(name: &str) -> bool {
    name.starts_with("entryway")
}

#[derive(Default)]
struct Samples {
    per_second: Vec<f64>,
    /// CPU seconds of the proxy per unit.
    cpu: Vec<f64>,
    p99_us: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
    }
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next().and_then(|_| arguments.next())
}

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let seconds: f64 =
        argument("--seconds").map_or(0.8, |text| text.parse().expect("--seconds takes a number"));
    let rounds: Option<usize> =
        argument("--rounds").map(|text| text.parse().expect("--rounds takes a number"));
    let listed = |option: &str, name: &str| {
        argument(option).is_none_or(|list| list.split(',').any(|one| one == name))
    };
    let dir = std::env::temp_dir().join(format!("entryway-peers-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary folder");
    let upstream = upstream().expect("an upstream");
    let peers = start_all(&dir, upstream, |name| {
        listed("--only", name) || name == "entryway"
    });
    let mut report = BTreeMap::new();
    for row in ROWS.iter().filter(|row| listed("--rows", row.name)) {
        let small = matches!(row.work, Work::RoundTrips(_) | Work::Connect);
        let rounds = rounds.unwrap_or(if small { 15 } else { 5 });
        let samples = measure(&peers, row, rounds, Duration::from_secs_f64(seconds));
        print_row(&peers, row, &samples);
        report.insert(row.name, as_json(&peers, &samples));
    }
    if listed("--rows", "idle memory") {
        report.insert("idle memory", idle_memory(&peers));
    }
    let machine = serde_json::json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "congestion": std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default().trim(),
    });
    let file =
        argument("--json").unwrap_or_else(|| format!("{}/peers.json", env!("CARGO_TARGET_TMPDIR")));
    let text = serde_json::to_string_pretty(
        &serde_json::json!({"schema_version": 1, "machine": machine, "rows": report}),
    );
    std::fs::write(&file, text.expect("numbers and text")).expect("a writable file");
    println!("\nsaved {file}");
    drop(peers);
    let _ = std::fs::remove_dir_all(dir);
}

fn measure(peers: &[Peer], row: &Row, rounds: usize, time: Duration) -> Vec<Samples> {
    let mut samples: Vec<Samples> = peers.iter().map(|_| Samples::default()).collect();
    for round in 0..rounds {
        for place in 0..peers.len() {
            // Who starts differs from round to round.
            let place = (place + round) % peers.len();
            let peer = &peers[place];
            for _ in 0..3 {
                let before = (
                    machine_cpu(),
                    own_cpu(),
                    peer.cpu_seconds().unwrap_or(0.0),
                    Instant::now(),
                );
                let run = drive(peer.address, row.work, row.connections, time);
                let cpu = peer.cpu_seconds().unwrap_or(0.0) - before.2;
                let others = machine_cpu() - before.0 - (own_cpu() - before.1) - cpu;
                if run.errors > 0 {
                    eprintln!(
                        "{}: {}: {} errors; not compared",
                        row.name, peer.name, run.errors
                    );
                    break;
                }
                if others > 0.1 * before.3.elapsed().as_secs_f64() {
                    continue;
                }
                samples[place].per_second.push(run.per_second);
                samples[place].cpu.push(cpu / run.units.max(1) as f64);
                samples[place].p99_us.push(run.p99_us as f64);
                break;
            }
        }
    }
    samples
}

fn print_row(peers: &[Peer], row: &Row, samples: &[Samples]) {
    let bulk = !matches!(row.work, Work::RoundTrips(_) | Work::Connect);
    let direct = median(&samples[0].per_second);
    let best = (1..peers.len())
        .filter(|place| !is_ours(peers[*place].name))
        .max_by(|a, b| median(&samples[*a].per_second).total_cmp(&median(&samples[*b].per_second)));
    println!("\n{}", row.name);
    println!(
        "  {:<24} {:>14} {:>7} {:>7} {:>8} {:>6} {:>12} {:>9}",
        "", "median", "spread", "direct", "of best", "won", "CPU/unit", "p99 us"
    );
    for (peer, sample) in peers.iter().zip(samples) {
        let middle = median(&sample.per_second);
        let spread = sample
            .per_second
            .iter()
            .fold((f64::MAX, 0.0f64), |(low, high), one| {
                (low.min(*one), high.max(*one))
            });
        let (of_best, won) = best.map_or((f64::NAN, String::new()), |best| {
            let theirs = &samples[best].per_second;
            let won = sample
                .per_second
                .iter()
                .zip(theirs)
                .filter(|(ours, theirs)| ours > theirs)
                .count();
            (
                middle / median(theirs),
                format!("{won}/{}", sample.per_second.len().min(theirs.len())),
            )
        });
        let (value, cpu) = if bulk {
            (
                format!("{:.2} Gbit/s", middle * 8.0 / 1e9),
                format!("{:.1} ms/Gb", median(&sample.cpu) * 1e9 / 8.0 * 1e3),
            )
        } else {
            (
                format!("{middle:.0}/s"),
                format!("{:.1} us", median(&sample.cpu) * 1e6),
            )
        };
        println!(
            "  {:<24} {value:>14} {:>6.0}% {:>7.2} {of_best:>8.2} {won:>6} {cpu:>12} {:>9.0}",
            peer.name,
            (spread.1 - spread.0) / middle * 100.0,
            middle / direct,
            median(&sample.p99_us),
        );
    }
}

fn as_json(peers: &[Peer], samples: &[Samples]) -> serde_json::Value {
    let rows = peers.iter().zip(samples).map(|(peer, sample)| {
        let value = serde_json::json!({
            "per_second": sample.per_second, "median": median(&sample.per_second),
            "cpu_seconds_per_unit": median(&sample.cpu), "p99_us": median(&sample.p99_us),
        });
        (peer.name.to_owned(), value)
    });
    serde_json::Value::Object(rows.collect())
}

fn idle_memory(peers: &[Peer]) -> serde_json::Value {
    const COUNT: usize = 1000;
    println!("\nidle memory per connection, {COUNT} held");
    let mut rows = serde_json::Map::new();
    for peer in peers.iter().filter(|peer| peer.memory().is_some()) {
        // The first lot makes the allocator's own room; the second is what a connection costs.
        let Ok(first) = hold(peer.address, COUNT) else {
            continue;
        };
        let before = peer.memory().unwrap_or(0);
        let Ok(second) = hold(peer.address, COUNT) else {
            continue;
        };
        let each = peer.memory().unwrap_or(0).saturating_sub(before) / COUNT as u64;
        drop((first, second));
        println!("  {:<24} {each:>8} B", peer.name);
        rows.insert(peer.name.to_owned(), each.into());
    }
    serde_json::Value::Object(rows)
}
