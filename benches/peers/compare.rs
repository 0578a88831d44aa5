//! Question: what does a change cost, or save? Two of our own, side by side in one run: two builds, or one build in
//! two configurations.
//!
//! `--compare builds` takes the binaries in `ENTRYWAY_BIN_A` and `ENTRYWAY_BIN_B`; `--compare NAME` runs one binary
//! (`ENTRYWAY_BIN_A`, or the one that was built with this bench) without and with a variant of the list below. A
//! variable that is not set stands for the binary of this bench. Two processes of each side are measured in the order
//! A B B A, round by round. What halves differ by that have one process of each side is the noise, and a difference
//! between the sides counts when it is larger. All messages are HTTP, because that is what the proxy carries.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use crate::load::{Bytes, upstreams};
use crate::proxies::{Peer, entryway, free_port, launch};
use crate::table::median;
use crate::{ROWS, Row, Sample, Samples, belongs, idle_memory, measure};

/// One way to run entryway, compared with the plain one.
struct Variant {
    name: &'static str,
    /// Of the settings file.
    lines: &'static str,
    /// Flags; `{free}` becomes a free port.
    flags: &'static [&'static str],
}

const VARIANTS: &[Variant] = &[
    Variant {
        name: "framing",
        lines: "[upstream]\nframing = \"http\"\n",
        flags: &[],
    },
    Variant {
        name: "faults",
        lines: "",
        flags: &["--faults", "127.0.0.1:{free}"],
    },
    Variant {
        name: "front",
        lines: "",
        flags: &["--front", "auto"],
    },
    Variant {
        name: "access-log",
        lines: "[log]\nformat = \"json\"\n",
        flags: &[],
    },
    Variant {
        name: "one-worker",
        lines: "",
        flags: &["--workers", "1"],
    },
];

/// Two builds, each plain.
const BUILDS: &str = "builds";

/// What is measured unless `--rows` says otherwise.
const DEFAULT_ROWS: &[&str] = &["1 KiB x32", "1 KiB x256", "up x1", "down x8", "connect x16"];

/// The places of the processes, in the order in which they are measured.
const A: [usize; 2] = [0, 3];
const B: [usize; 2] = [1, 2];

/// What is compared: its name, and of what in a sample.
type Measure = (&'static str, fn(&Sample) -> f64);

const MEASURES: [Measure; 3] = [
    ("rate", |sample| sample.per_second),
    ("CPU", |sample| sample.cpu),
    ("p99", |sample| sample.p99_us),
];

/// B in parts of A, and how much that differs when nothing does.
struct Difference {
    ratio: f64,
    noise: f64,
}

/// Runs the comparison of this name, prints it and returns it.
pub(crate) fn run(
    name: &str,
    dir: &Path,
    rows: Option<&str>,
    rounds: usize,
    time: Duration,
    held: usize,
) -> BTreeMap<&'static str, serde_json::Value> {
    let peers = start(name, dir);
    let is_listed = |name: &str| match rows {
        Some(rows) => rows.split(',').any(|row| row == name),
        None => DEFAULT_ROWS.contains(&name),
    };
    println!(
        "\ncomparison: {name}; B in parts of A, and what halves of one process of each side differ by\n"
    );
    println!(
        "| {:<12} | {:>14} | rate B/A | noise | CPU B/A | noise | p99 B/A | noise | disturbed |",
        "", "A"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut report = BTreeMap::new();
    let mut beyond = Vec::new();
    for row in ROWS.iter().filter(|row| is_listed(row.name)) {
        let samples = measure(&peers, row, belongs, rounds, time, Bytes::Http);
        let found = MEASURES.map(|(what, of)| (what, compare(&samples, of)));
        print(row, &samples, &found);
        for (what, difference) in &found {
            if difference.exceeds_noise() {
                let Difference { ratio, noise } = difference;
                beyond.push(format!(
                    "{}: {what} {ratio:.3} (noise {noise:.3})",
                    row.name
                ));
            }
        }
        report.insert(row.name, as_json(&found));
    }
    if is_listed("idle memory") {
        report.insert("idle memory", idle_memory(&peers, held, Bytes::Http));
    }
    println!(
        "\nbeyond the noise: {}",
        if beyond.is_empty() { "nothing" } else { "" }
    );
    for line in beyond {
        println!("  {line}");
    }
    report
}

fn start(name: &str, dir: &Path) -> Vec<Peer> {
    let variant = VARIANTS.iter().find(|variant| variant.name == name);
    let names = || VARIANTS.iter().map(|variant| variant.name);
    assert!(
        variant.is_some() || name == BUILDS,
        "--compare takes {BUILDS} or one of {:?}",
        names().collect::<Vec<_>>()
    );
    let binary = |variable: &str| std::env::var_os(variable);
    let a = binary("ENTRYWAY_BIN_A");
    let b = match variant {
        Some(_) => a.clone(),
        None => binary("ENTRYWAY_BIN_B"),
    };
    let ups = upstreams(4, Ipv4Addr::LOCALHOST).expect("upstreams");
    let sides = [("A1", false), ("B1", true), ("B2", true), ("A2", false)];
    let started = sides.into_iter().zip(ups).map(|((name, is_b), up)| {
        let binary: Option<OsString> = if is_b { b.clone() } else { a.clone() };
        let variant = variant.filter(|_| is_b);
        let lines = variant.map_or("", |variant| variant.lines);
        let port = free_port();
        let mut command =
            entryway(dir, port, up, binary, "system", lines).expect("a settings file");
        for flag in variant.map_or(&[][..], |variant| variant.flags) {
            command.arg(flag.replace("{free}", &free_port().to_string()));
        }
        launch(name, &mut command, port, None).expect("a proxy that listens")
    });
    started.collect()
}

/// The difference of one measure over all rounds. The noise is what the same four processes differ by when each half
/// has one of either side, so that the sides cannot matter: the larger of what these halves differ by throughout, and
/// three times the standard error of a median, as their differences by round tell it.
fn compare(samples: &[Samples], of: fn(&Sample) -> f64) -> Difference {
    let ratios = |above: [usize; 2], below: [usize; 2]| -> Vec<f64> {
        let of_round = |place: usize, round: usize| samples[place].rounds[round].as_ref().map(of);
        let sum = |places: [usize; 2], round: usize| {
            Some(of_round(places[0], round)? + of_round(places[1], round)?)
        };
        let rounds = 0..samples[0].rounds.len();
        let ratio = |round| Some((sum(above, round)? / sum(below, round)?).ln());
        rounds.filter_map(ratio).collect()
    };
    let between = ratios(B, A);
    let mixed = [
        ratios([A[0], B[0]], [A[1], B[1]]),
        ratios([A[0], B[1]], [A[1], B[0]]),
    ];
    let throughout = mixed
        .each_ref()
        .map(|ratios| median(ratios.iter().copied()).abs());
    // 1.48 × the median deviation is a normal distribution's standard deviation, and 1.25 of it over the root of the
    // count the standard error of a median.
    let deviation = 1.48 * median(mixed.iter().flatten().map(|ratio| ratio.abs()));
    let error = 1.25 * deviation / (between.len().max(1) as f64).sqrt();
    Difference {
        ratio: median(between).exp(),
        noise: throughout.into_iter().fold(3.0 * error, f64::max),
    }
}

// === impl Difference ===

impl Difference {
    fn exceeds_noise(&self) -> bool {
        self.ratio.ln().abs() > self.noise
    }
}

fn print(row: &Row, samples: &[Samples], found: &[(&str, Difference)]) {
    let rates = A.map(|place| samples[place].rate());
    let rate = (rates[0] + rates[1]) / 2.0;
    let rate = if crate::is_bulk(row) {
        format!("{:.2} Gbit/s", rate * 8.0 / 1e9)
    } else {
        format!("{rate:.0}/s")
    };
    let mut line = format!("| {:<12} | {rate:>14} |", row.name);
    for (_, difference) in found {
        // Bulk has no p99.
        line += &if difference.ratio.is_nan() {
            "       – |     – |".to_owned()
        } else {
            let mark = if difference.exceeds_noise() { "*" } else { " " };
            format!(
                " {:>6.3}{mark} | {:>5.3} |",
                difference.ratio, difference.noise
            )
        };
    }
    let disturbed: usize = samples.iter().map(|samples| samples.disturbed).sum();
    println!("{line} {disturbed} |");
}

fn as_json(found: &[(&str, Difference)]) -> serde_json::Value {
    let all = found.iter().map(|(what, difference)| {
        let value = serde_json::json!({
            "b_of_a": difference.ratio,
            "noise": difference.noise,
            "exceeds_noise": difference.exceeds_noise(),
        });
        ((*what).to_owned(), value)
    });
    serde_json::Value::Object(all.collect())
}
