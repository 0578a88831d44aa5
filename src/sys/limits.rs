//! What this process may use and does use: file descriptors, pipes, CPU, memory.
//!
//! Owns the arithmetic from RLIMIT_NOFILE to the connection limit. A connection costs two descriptors; what probes,
//! DNS, admin and pipes need is kept back first, so that a full proxy still answers its admin port.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Size of a large pipe, in pages of 4 KiB (1 MiB).
const LARGE_PIPE_PAGES: u64 = 256;

/// Large pipes a process uses at most, however much it may.
const LARGE_PIPES: u64 = 32;

/// Descriptors of one data thread: its event loop, what wakes it, its signals, its copies of two listening sockets.
const PER_WORKER: u64 = 6;

/// Descriptors in use where they cannot be counted.
const STANDARD: u64 = 16;

/// What Linux allows an ordinary user by default; taken where the setting cannot be read.
const PIPE_PAGES_DEFAULT: u64 = 16384;

/// What follows from the limits of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Descriptors the process may open.
    pub descriptors: u64,
    /// Connections at once, over all listeners, two descriptors each.
    pub max_connections: usize,
    /// Connections above the limit that may be open for a moment, to be told so with a FIN.
    pub turned_away: usize,
    /// Pipes at once, two descriptors each.
    pub pipes: usize,
    /// Of these, pipes of 1 MiB.
    pub large_pipes: usize,
}

/// Raises the soft limit of open files to the hard one; what holds afterwards.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let raised = limit.current != limit.maximum && setrlimit(Resource::Nofile, wanted).is_ok();
    let holds = if raised { limit.maximum } else { limit.current };
    // No limit at all: count as if a million, or the arithmetic loses its meaning.
    holds.unwrap_or(1 << 20)
}

/// The soft limit of open files.
pub fn max_descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
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

// === impl Budget ===

impl Budget {
    /// The budget of this process; raises its soft limit first. `workers`: data threads that are still to be started.
    pub fn of_process(workers: usize) -> Self {
        let pages = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(PIPE_PAGES_DEFAULT);
        let used = open_descriptors().unwrap_or(STANDARD) + workers as u64 * PER_WORKER;
        Self::from_limits(raise_descriptors(), used, pages)
    }

    /// The budget under these limits: open files, those of them that are in use for good, and pages an ordinary user's
    /// pipes may hold (0 = no limit).
    pub fn from_limits(descriptors: u64, used: u64, pipe_pages: u64) -> Self {
        // 20000 - 20 -> 1000 kept back; 64 - 20 -> 16. A quarter of it for pipes, an eighth for those turned away.
        let free = descriptors.saturating_sub(used);
        let kept = (free * 3 / 8).min(1000);
        let pages = if pipe_pages == 0 {
            u64::MAX
        } else {
            pipe_pages / 2
        };
        let pipes = kept / 8;
        Self {
            descriptors,
            max_connections: ((free - kept) / 2).max(1) as usize,
            turned_away: (kept / 8).max(1) as usize,
            pipes: pipes as usize,
            large_pipes: (pages / LARGE_PIPE_PAGES).min(LARGE_PIPES).min(pipes / 2) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_limit_still_leaves_room_for_the_rest() {
        let small = Budget::from_limits(64, 24, 16384);
        assert_eq!(small.max_connections, 12);
        // Eight and more for probes, DNS and admin.
        assert!(24 + small.max_connections * 2 + small.turned_away + small.pipes * 2 <= 56);
        let large = Budget::from_limits(20_000, 24, 16384);
        assert_eq!(large.max_connections, 9488);
        assert_eq!(large.large_pipes, 32);
        assert_eq!(Budget::from_limits(20_000, 24, 1024).large_pipes, 2);
        assert_eq!(Budget::from_limits(16, 24, 1024).max_connections, 1);
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
