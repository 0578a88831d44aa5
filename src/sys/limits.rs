//! What this process may use and does use: file descriptors, CPU, memory.
//!
//! [`DescriptorBudget`] is the only formula from the limit of open files (RLIMIT_NOFILE) to what may be opened for which
//! purpose. `run` enforces it, `check` and `doctor` show it. Admin, probes and DNS have a share of their own, so that a
//! proxy at its connection limit still answers its admin port and sees its upstreams.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fewer connections than this are worth a word at start: one application with two clients may open half as many.
pub const FEW_CONNECTIONS: usize = 256;

/// Descriptors that one data thread holds: its event loop, what wakes it, its signals, its copies of two listening
/// sockets.
const PER_WORKER: u64 = 6;

/// Descriptors that are open whatever happens: standard streams, the control thread's event loop, listening sockets of
/// the proxy, of admin and of the control socket, signals.
const FIXED: u64 = 18;

/// What counts where there is no limit.
const UNLIMITED: u64 = 1 << 20;

/// DNS queries under way, and a settings file being read.
const OTHER: u64 = 4;

/// The shares of one process in its limit of open files. The default is what `run` has with the limits of this process,
/// a data thread for each CPU and no spares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorBudget {
    /// The limit.
    pub descriptors: u64,
    /// Connections at once, over all listeners: two descriptors each.
    pub max_connections: usize,
    /// Connections above the limit that are being closed.
    pub rejecting: usize,
    /// Pipes for splicing, in excess of what the connections use: two descriptors each.
    pub pipes: usize,
    /// Preconnected sockets.
    pub spares: usize,
    /// Probes at once.
    pub probes: usize,
    /// Connections to admin HTTP, to the metrics port and to the control socket, each.
    pub admin: usize,
}

/// Raises the soft limit of open files to the hard one; returns what holds afterwards.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let raised = limit.current != limit.maximum && setrlimit(Resource::Nofile, wanted).is_ok();
    let holds = if raised { limit.maximum } else { limit.current };
    holds.unwrap_or(UNLIMITED)
}

/// The soft limit of open files.
pub fn max_descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED)
}

/// How many descriptors are open now.
pub fn open_descriptors() -> io::Result<u64> {
    // The listing itself holds one.
    Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

/// CPU time used so far, user and system.
pub fn cpu_time() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The command, second field, may hold blanks; it ends at the last parenthesis.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

/// Resident memory now, in bytes.
pub fn resident_bytes() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0);
    Ok(pages * rustix::param::page_size() as u64)
}

// === impl DescriptorBudget ===

impl Default for DescriptorBudget {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self::planned(workers, 0)
    }
}

impl DescriptorBudget {
    /// The budget of this process, whose soft limit is raised to the hard one first.
    pub fn of_process(workers: usize, spares: usize) -> Self {
        Self::from_limit(raise_descriptors(), workers, spares)
    }

    /// The budget that `run` would have with the limits of this process; changes nothing.
    pub fn planned(workers: usize, spares: usize) -> Self {
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(UNLIMITED);
        Self::from_limit(limit, workers, spares)
    }

    /// The budget under a limit of open files. `spares`: how many are configured, over all upstreams.
    pub fn from_limit(descriptors: u64, workers: usize, spares: usize) -> Self {
        let free = descriptors.saturating_sub(FIXED + workers as u64 * PER_WORKER);
        let admin = (free / 48).clamp(2, 64);
        let probes = (free / 16).clamp(4, 128);
        let rejecting = (free / 32).clamp(1, 64);
        let pipes = (free / 32).min(512);
        // A reload may ask for some where none were configured at start.
        let spares = (spares as u64).clamp((free / 32).min(32), (free / 4).max(1));
        let kept = 3 * admin + probes + OTHER + rejecting + 2 * pipes + spares;
        Self {
            descriptors,
            max_connections: (free.saturating_sub(kept) / 2).max(1) as usize,
            rejecting: rejecting as usize,
            pipes: pipes as usize,
            spares: spares as usize,
            probes: probes as usize,
            admin: admin as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(budget: &DescriptorBudget, workers: u64) -> u64 {
        let shares = 2 * (budget.max_connections + budget.pipes)
            + budget.rejecting
            + budget.spares
            + budget.probes
            + 3 * budget.admin;
        FIXED + workers * PER_WORKER + OTHER + shares as u64
    }

    #[test]
    fn the_shares_never_exceed_the_limit() {
        for (limit, workers, spares) in [
            (64, 2, 0),
            (128, 2, 1000),
            (256, 2, 0),
            (1024, 8, 32),
            (20_000, 2, 100_000),
            (1 << 20, 64, 0),
        ] {
            let budget = DescriptorBudget::from_limit(limit, workers, spares);
            assert!(used(&budget, workers as u64) <= limit, "{budget:?}");
            assert!(budget.max_connections > 1, "{budget:?}");
        }
        // Nothing works with so few, but nothing divides by zero either.
        assert_eq!(DescriptorBudget::from_limit(16, 2, 0).max_connections, 1);
    }

    #[test]
    fn what_usual_limits_allow() {
        let connections = |limit| DescriptorBudget::from_limit(limit, 2, 0).max_connections;
        assert_eq!([64, 256, 1024, 20_000].map(connections), [8, 84, 372, 9263]);
        assert_eq!(DescriptorBudget::from_limit(1024, 2, 8).spares, 31);
        assert_eq!(DescriptorBudget::from_limit(1024, 2, 1000).spares, 248);
    }

    #[test]
    fn the_process_knows_itself() {
        assert!(raise_descriptors() >= 64);
        let before = open_descriptors().unwrap();
        assert!(before >= 3);
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(cpu_time().is_ok());
    }
}
