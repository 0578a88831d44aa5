//! CPU seconds, from /proc: of a process, of the machine, of the load itself.

use std::fs;
use std::sync::OnceLock;

/// User plus system time of a process and its ended children, in seconds.
pub(crate) fn cpu_of(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    // utime, stime, and those of children that have ended (socat forks).
    let ticks: u64 = fields
        .get(11..15)?
        .iter()
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Some(ticks as f64 / 100.0)
}

/// CPU seconds that the whole machine has spent working so far, but for the kernel's network threads: what they do is
/// the load's own (the timers of a paced stream run there), and they belong to no process.
pub(crate) fn machine_cpu() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    let busy: u64 = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|place| fields.get(*place))
        .sum();
    let network: f64 = network_threads().iter().copied().filter_map(cpu_of).sum();
    busy as f64 / 100.0 - network
}

/// The kernel's threads for what interrupts leave over.
fn network_threads() -> &'static [u32] {
    static THREADS: OnceLock<Vec<u32>> = OnceLock::new();
    THREADS.get_or_init(|| {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("ksoftirqd"))
        })
        .collect()
    })
}

/// CPU seconds of this process (both ends of the load), and of a helper that it has.
pub(crate) fn own_cpu() -> f64 {
    let own = HELPER
        .get()
        .copied()
        .into_iter()
        .chain([std::process::id()]);
    own.filter_map(cpu_of).sum()
}

static HELPER: OnceLock<u32> = OnceLock::new();

/// A child that is part of the load.
pub(crate) fn count_as_own(pid: u32) {
    HELPER.get_or_init(|| pid);
}
