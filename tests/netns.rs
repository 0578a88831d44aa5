//! Faults of a real network, one namespace per zone, a router between: what new and established connections see.
//!
//! Needs root (or unprivileged user namespaces), `ip`, `tc`, `setpriv` and `curl`; builds its own namespaces and takes
//! nothing from the machine's network. Plain `cargo test` says so and goes on; with `ENTRYWAY_NETNS=1`, as CI sets it, whatever
//! is missing is a failure. Prints a table: fault → required → measured, with HAProxy (default checks) as the control.
//! A word as argument runs the rows that contain it; `ENTRYWAY_LONG=1` runs the long ones in full, `ENTRYWAY_TRIALS=N`
//! repeats detection N times. A group with a failed row is run once more, because milliseconds are measured on a machine
//! that may be doing something else; one that fails twice is a failure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs,
    reason = "a test may stop at the first surprise, and has no outside"
)]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;
use topology::{Fault, Topology, build};

#[path = "netns/client.rs"]
mod client;
#[path = "netns/doctor.rs"]
mod doctor;
#[path = "netns/flips.rs"]
mod flips;
#[path = "netns/live_connections.rs"]
mod live_connections;
#[path = "netns/names.rs"]
mod names;
#[path = "netns/new_connections.rs"]
mod new_connections;
#[path = "netns/outage.rs"]
mod outage;
#[path = "netns/path.rs"]
mod path;
#[path = "netns/process.rs"]
mod process;
#[path = "netns/self_faults.rs"]
mod self_faults;
#[path = "netns/server.rs"]
mod server;
#[path = "netns/topology.rs"]
mod topology;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn main() {
    if std::env::var_os("ENTRYWAY_NETNS").is_none() {
        println!(
            "netns: not run. It needs root: ENTRYWAY_NETNS=1 cargo test --release --test netns -- --nocapture (CI does)"
        );
        return;
    }
    if std::env::var_os("ENTRYWAY_NETNS_INSIDE").is_none() {
        // Before any thread exists: the whole test moves into namespaces of its own. All its processes go with it.
        let root = std::fs::metadata("/proc/self").is_ok_and(|own| {
            use std::os::unix::fs::MetadataExt;
            own.uid() == 0
        });
        let mut command = Command::new("unshare");
        command.args(["-n", "-m", "-p", "-f", "--mount-proc", "--kill-child"]);
        if !root {
            command.arg("-r");
        }
        let error = command
            .arg(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env("ENTRYWAY_NETNS_INSIDE", "1")
            .exec();
        panic!("netns: unshare: {error}");
    }
    build();
    let topology = Topology::start();
    let mut table = Table::default();
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| {
        only.as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    };
    for (name, row) in ROWS.iter().filter(|(name, _)| wanted(name)) {
        let began = Instant::now();
        let mut seen = Table::default();
        row(&topology, &mut seen);
        if !seen.failed.is_empty() {
            println!("      -- {name}: once more; both tries are shown, the second counts");
            seen = Table::default();
            row(&topology, &mut seen);
        }
        table.passed += seen.passed;
        table.failed.extend(seen.failed);
        println!("      -- {name}: {:.1?}", began.elapsed());
    }
    table.end();
}

/// The full length of what CI runs short.
fn long() -> bool {
    std::env::var_os("ENTRYWAY_LONG").is_some_and(|value| value == "1")
}

type Row = fn(&Topology, &mut Table);

const ROWS: &[(&str, Row)] = &[
    ("refuse", |topology, table| {
        new_connections::connections(topology, table, Fault::Refuse)
    }),
    ("unreachable", |topology, table| {
        new_connections::connections(topology, table, Fault::Unreachable)
    }),
    ("blackhole", |topology, table| {
        new_connections::connections(topology, table, Fault::BlackHole)
    }),
    ("one-way", |topology, table| {
        new_connections::connections(topology, table, Fault::OneWay)
    }),
    ("frozen", new_connections::frozen),
    ("detection", new_connections::detection_against_plan),
    ("races", new_connections::races),
    ("ports", new_connections::local_ports_run_out),
    ("all-dead-try", outage::all_dead_try),
    ("all-dead-hold", outage::all_dead_hold),
    ("all-dead-refuse", outage::all_dead_refuse),
    ("fail-open", outage::fail_open),
    ("parked", outage::parked),
    ("busy", live_connections::busy),
    ("waiting", live_connections::waiting),
    ("idle", live_connections::idle),
    ("lost-probes", live_connections::lost_probes),
    ("vanished", live_connections::vanished_client),
    ("mtu", path::full_size_packets_vanish),
    ("route", path::blackhole_route),
    ("slow-readers", path::slow_readers),
    ("every-second-probe", flips::every_second_probe),
    ("flips", flips::zone_flips),
    ("stopped", self_faults::stopped),
    ("quota", self_faults::quota),
    ("names", names::servers_die_and_change),
    ("doctor", doctor::doctor),
];

/// What was asked, and what was seen.
#[derive(Default)]
struct Table {
    passed: u32,
    /// The lines of the rows that failed: shown once more at the end, where a reader looks first.
    failed: Vec<String>,
}

impl Table {
    fn row(&mut self, fault: &str, required: &str, measured: String, fine: bool) {
        let word = if fine { "PASS" } else { "FAIL" };
        let line = format!("{word}  {fault:<40} {required:<46} {measured}");
        println!("{line}");
        if fine {
            self.passed += 1
        } else {
            self.failed.push(line);
        }
    }

    /// The control: no requirement.
    fn control(&self, fault: &str, measured: String) {
        println!(
            "      {fault:<40} {:<46} {measured}",
            "(HAProxy, for comparison)"
        );
    }

    /// What this machine does not allow. Said, never silent.
    fn not_here(&self, fault: &str, why: &str) {
        println!("NOT RUN {fault:<37} {why}");
    }

    fn end(self) {
        println!("{} passed, {} failed", self.passed, self.failed.len());
        if !self.failed.is_empty() {
            println!("{}", self.failed.join("\n"));
            // No panic: its backtrace would push these lines out of a log's end.
            std::process::exit(1);
        }
    }
}
