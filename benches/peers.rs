//! Question: how does entryway compare with every proxy found on this machine, and with no proxy at all?
//!
//! `cargo bench --bench peers [-- --rounds N --seconds S --only NAME,NAME --rows ROW,ROW --held N --noisy --json FILE]`
//! `cargo bench --bench peers -- --compare builds|VARIANT` compares two of our own instead (`peers/compare.rs`).
//!
//! One run, all proxies side by side with two workers each and no access log (but in the row that shows its cost);
//! rounds alternate them, so a machine that drifts drifts for all, and each is compared with the best peer round by
//! round. A run that another process disturbed (more than 10 % of a core) is set aside and repeated, at most three
//! times; `--noisy` keeps it, for machines that are never quiet. A run with a wrong byte is never compared.
//! One row has its upstream 4 ms away, where the machine can do that (`distance`). The rows of `gateway` have pairs of
//! processes with TLS between them, in one of them 50 ms apart; `--rows gateway` measures these alone.
//! `--only 'entryway faults'` compares entryway with its faults API open to itself without it.
//! `PEER_ENTRYWAY=/path` adds another build of entryway, `PEER_HAPROXY`, `PEER_NGINX`, … name peers by path.
//! Last answer: README.md, "Measured".
#![allow(clippy::expect_used, reason = "a bench may stop at the first surprise")]

#[path = "peers/blocks.rs"]
mod blocks;
#[path = "peers/compare.rs"]
mod compare;
#[path = "peers/cpu.rs"]
mod cpu;
#[path = "peers/distance.rs"]
mod distance;
#[path = "peers/fairness.rs"]
mod fairness;
#[path = "peers/gateway.rs"]
mod gateway;
#[path = "peers/load.rs"]
mod load;
#[path = "peers/proxies.rs"]
mod proxies;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use cpu::{machine_cpu, own_cpu};
use load::{Bytes, Work, drive, hold};
use proxies::{Peer, start_all};
use tokio::time::Instant;

/// The profile of `cargo bench`, see Cargo.toml. A program cannot ask which one it was built with.
const PROFILE: &str =
    "profile bench = dist (fat LTO, one codegen unit), unless cargo was given --profile";

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
        name: "up x64",
        work: Work::Up,
        connections: 64,
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
    Row {
        name: "burst x16",
        work: Work::Burst,
        connections: 16,
    },
];

/// The row of [`distance`], and half a round trip in it: two zones of a region are about 1 ms apart.
const FAR_ONE_WAY: Duration = Duration::from_millis(2);
const FAR: Row = Row {
    name: "far connect x16",
    work: Work::Connect,
    connections: 16,
};

#[path = "peers/table.rs"]
mod table;

/// Ours, or one that does less than ours: shown, and not among the peers that a row is won against.
fn is_beside(name: &str) -> bool {
    name.starts_with("entryway") || name.ends_with(" resumed")
}

/// Whether this variant of ours says anything in this row.
fn belongs(name: &str, row: &Row) -> bool {
    let connects = matches!(row.work, Work::Connect | Work::Burst);
    match name {
        "entryway warm" | "entryway access log" => connects,
        "entryway loopback rule" => !connects && row.name != "1 KiB x1",
        _ => true,
    }
}

/// Whether it says anything where connections stay open, as mice and their elephant do.
fn belongs_beside(name: &str) -> bool {
    !matches!(name, "entryway warm" | "entryway access log")
}

/// What one run of one proxy came to.
#[derive(Clone, Copy)]
struct Sample {
    per_second: f64,
    /// CPU seconds of the proxy per unit.
    cpu: f64,
    p99_us: f64,
}

/// All runs of one proxy in one row, by round; `None` where none was good.
#[derive(Default)]
struct Samples {
    rounds: Vec<Option<Sample>>,
    disturbed: usize,
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next().and_then(|_| arguments.next())
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    argument(name).map(|text| match text.parse() {
        Ok(number) => number,
        Err(_) => panic!("{name} takes a number"),
    })
}

/// Flags with a value, and without. A flag that is not known would start half an hour of something else.
const VALUES: [&str; 9] = [
    "--compare",
    "--held",
    "--json",
    "--only",
    "--rounds",
    "--rows",
    "--seconds",
    distance::INSIDE,
    distance::ROW,
];
const SWITCHES: [&str; 2] = ["--noisy", "--bench"];

fn refuse_unknown_flags() {
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if VALUES.contains(&argument.as_str()) {
            arguments.next();
        } else if !SWITCHES.contains(&argument.as_str()) {
            eprintln!(
                "{argument} is none of {VALUES:?} with a value, {SWITCHES:?}; see benches/README.md"
            );
            std::process::exit(2);
        }
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    refuse_unknown_flags();
    // Both ends of a thousand connections are here, and the peers inherit it.
    entryway::sys::limits::raise_descriptors();
    let seconds = number::<f64>("--seconds").unwrap_or(0.8);
    let rounds = number::<usize>("--rounds");
    let listed = |option: &str, name: &str| {
        argument(option).is_none_or(|list| list.split(',').any(|one| one == name))
    };
    let dir = std::env::temp_dir().join(format!("entryway-peers-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary folder");
    let wanted = |name: &str| listed("--only", name) || name == "entryway";
    let time = Duration::from_secs_f64(seconds);
    if let Some(file) = argument(distance::INSIDE) {
        if argument(distance::ROW).as_deref() == Some(gateway::FAR.name) {
            let pairs = || gateway::start_far(&dir, wanted);
            let time = time.max(Duration::from_secs(1));
            far(
                &gateway::FAR,
                gateway::FAR_ONE_WAY,
                pairs,
                rounds.unwrap_or(5),
                time,
                &file,
            );
        } else {
            let peers = || start_all(&dir, distance::FAR, wanted);
            far(&FAR, FAR_ONE_WAY, peers, rounds.unwrap_or(7), time, &file);
        }
        let _ = std::fs::remove_dir_all(dir);
        return;
    }
    println!("built with: {}", PROFILE);
    let held = number("--held").unwrap_or(2000);
    if let Some(name) = argument("--compare") {
        let rows = argument("--rows");
        let time = Duration::from_secs_f64(number("--seconds").unwrap_or(0.3));
        let rounds = rounds.unwrap_or(15);
        let report = compare::run(&name, &dir, rows.as_deref(), rounds, time, held);
        save(&report);
        let _ = std::fs::remove_dir_all(dir);
        return;
    }
    let peers = start_all(&dir, Ipv4Addr::LOCALHOST, wanted);
    let mut report = BTreeMap::new();
    for row in ROWS.iter().filter(|row| listed("--rows", row.name)) {
        let rounds = rounds.unwrap_or(if is_bulk(row) { 7 } else { 15 });
        let samples = measure(&peers, row, belongs, rounds, time, Bytes::Raw);
        table::print(&peers, row, &samples);
        report.insert(row.name, table::as_json(&peers, &samples));
    }
    if listed("--rows", "mice") {
        let time = Duration::from_secs_f64(number("--seconds").unwrap_or(1.0));
        report.insert("mice", fairness::mice(&peers, rounds.unwrap_or(5), time));
    }
    if listed("--rows", FAR.name)
        && let Some(row) = distance::run_apart(&dir, FAR.name)
    {
        report.insert(FAR.name, row);
    }
    if listed("--rows", "idle memory") {
        report.insert("idle memory", idle_memory(&peers, held, Bytes::Raw));
    }
    drop(peers);
    gateway::run(
        &dir,
        argument("--rows").as_deref(),
        wanted,
        rounds,
        time,
        held,
        &mut report,
    );
    save(&report);
    let _ = std::fs::remove_dir_all(dir);
}

/// The run inside the namespace of [`distance`].
fn far(
    row: &Row,
    one_way: Duration,
    start: impl FnOnce() -> Vec<Peer>,
    rounds: usize,
    time: Duration,
    file: &str,
) {
    let _way = distance::open(one_way).expect("a way to somewhere far away");
    let peers = start();
    let samples = measure(&peers, row, belongs, rounds, time, Bytes::Raw);
    table::print(&peers, row, &samples);
    let json = table::as_json(&peers, &samples);
    std::fs::write(file, json.to_string()).expect("a writable file");
}

fn is_bulk(row: &Row) -> bool {
    matches!(row.work, Work::Up | Work::Down | Work::Both)
}

fn save(report: &BTreeMap<&str, serde_json::Value>) {
    let read = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.trim().to_owned()
    };
    let machine = serde_json::json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "congestion": read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "noisy": std::env::args().any(|argument| argument == "--noisy"),
    });
    let file =
        argument("--json").unwrap_or_else(|| format!("{}/peers.json", env!("CARGO_TARGET_TMPDIR")));
    let text = serde_json::to_string_pretty(
        &serde_json::json!({"schema_version": 1, "machine": machine, "rows": report}),
    );
    std::fs::write(&file, text.expect("numbers and text")).expect("a writable file");
    println!("\nsaved {file}");
}

fn measure(
    peers: &[Peer],
    row: &Row,
    belongs: fn(&str, &Row) -> bool,
    rounds: usize,
    time: Duration,
    bytes: Bytes,
) -> Vec<Samples> {
    let mut samples: Vec<Samples> = peers.iter().map(|_| Samples::default()).collect();
    for round in 0..rounds {
        for place in 0..peers.len() {
            // Who starts differs from round to round.
            let place = (place + round) % peers.len();
            let disturbed = &mut samples[place].disturbed;
            let found = belongs(peers[place].name, row)
                .then(|| measure_one(&peers[place], row, time, bytes, disturbed))
                .flatten();
            samples[place].rounds.push(found);
        }
    }
    samples
}

fn measure_one(
    peer: &Peer,
    row: &Row,
    time: Duration,
    bytes: Bytes,
    disturbed: &mut usize,
) -> Option<Sample> {
    let (run, cpu) = undisturbed(peer, disturbed, || {
        let run = drive(peer.address, row.work, bytes, row.connections, time);
        if run.errors > 0 {
            let (row, name, errors) = (row.name, peer.name, run.errors);
            eprintln!("{row}: {name}: {errors} errors; not compared");
            return None;
        }
        Some(run)
    })?;
    Some(Sample {
        per_second: run.per_second,
        cpu: cpu / run.units.max(1) as f64,
        p99_us: run.p99_us as f64,
    })
}

/// The first run that no other process disturbed, or any with `--noisy`, and the peer's CPU seconds in it. Nothing
/// where a run went wrong (it says why itself), or three were disturbed.
fn undisturbed<T>(
    peer: &Peer,
    disturbed: &mut usize,
    mut run: impl FnMut() -> Option<T>,
) -> Option<(T, f64)> {
    let noisy = std::env::args().any(|argument| argument == "--noisy");
    for _ in 0..3 {
        let busy = || (machine_cpu(), own_cpu(), peer.cpu_seconds());
        let (before, began) = (busy(), Instant::now());
        let found = run()?;
        let after = busy();
        let cpu = after.2 - before.2;
        let others = after.0 - before.0 - (after.1 - before.1) - cpu;
        if others > 0.1 * began.elapsed().as_secs_f64() {
            *disturbed += 1;
            if !noisy {
                continue;
            }
        }
        return Some((found, cpu));
    }
    None
}

/// User memory and descriptors of each proxy for each connection that does nothing; of a pair, of each side.
fn idle_memory(peers: &[Peer], held: usize, bytes: Bytes) -> serde_json::Value {
    println!("\nidle memory per connection, {held} held");
    let mut rows = serde_json::Map::new();
    for peer in peers.iter().filter(|peer| !peer.sides().is_empty()) {
        // The first lot makes the allocator's own room; the second is what a connection costs.
        let Ok(first) = hold(peer.address, bytes, 500) else {
            continue;
        };
        let figures = || -> Vec<[f64; 2]> {
            let sides = peer.sides().into_iter();
            sides
                .map(|side| [side.memory() as f64, side.descriptors() as f64])
                .collect()
        };
        let before = figures();
        let Ok(second) = hold(peer.address, bytes, held) else {
            eprintln!("{}: does not hold {held}", peer.name);
            continue;
        };
        let after = figures();
        drop((first, second));
        for (place, (before, after)) in before.iter().zip(&after).enumerate() {
            let name = match (before.len(), place) {
                (1, _) => peer.name.to_owned(),
                (_, 0) => format!("{}, near end", peer.name),
                _ => format!("{}, far end", peer.name),
            };
            let each = [0, 1].map(|figure| (after[figure] - before[figure]) / held as f64);
            println!("  {name:<24} {:>8.0} B {:>6.2} fds", each[0], each[1]);
            let value = serde_json::json!({"bytes": each[0], "descriptors": each[1]});
            rows.insert(name, value);
        }
    }
    serde_json::Value::Object(rows)
}
