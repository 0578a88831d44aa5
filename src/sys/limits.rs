//! What this process may use and does use: file descriptors, CPU, memory.
//!
//! [`DescriptorBudget`] is the only formula from the limit of open files (RLIMIT_NOFILE) and what the settings ask for
//! ([`DescriptorUse`]) to what may be opened for which purpose. `run` enforces it, `check` and `doctor` show it. Admin,
//! probes and DNS have a share of their own, so that a proxy at its connection limit still answers its admin port and
//! sees its upstreams.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fewer connections than this are worth a word at start: one application with two clients may open half as many.
pub const FEW_CONNECTIONS: usize = 256;

/// Descriptors that one data thread holds, and the one for bulk beside it: event loops, what wakes them, their signals.
const PER_WORKER: u64 = 8;

/// Data threads that accept, each with copies of the listening sockets.
pub const ACCEPTING: usize = 2;

/// Descriptors that are open whatever happens: standard streams, the control thread's event loop, listening sockets of
/// admin, of the control socket and of the registration, signals.
const FIXED: u64 = 16;

/// What counts where there is no limit.
const UNLIMITED: u64 = 1 << 20;

/// A file being read: settings, certificates, the system's files.
const OTHER: u64 = 1;

/// What of a process opens descriptors, beside what every process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorUse {
    /// Data threads.
    pub workers: usize,
    /// Preconnected sockets, over all upstreams.
    pub spares: usize,
    /// Addresses on which clients are listened for.
    pub listening: usize,
    /// Descriptors of one connection: its client and its way to an address.
    pub per_connection: usize,
    /// TLS handshakes at once; 0 where there is no gateway.
    pub handshakes: usize,
    /// Whether the API that sets faults listens.
    pub faults: bool,
}

/// The shares of one process in its limit of open files. The default is what `run` has with the limits of this process
/// and the default settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorBudget {
    /// The limit.
    pub descriptors: u64,
    /// Connections at once, over all listeners.
    pub max_connections: usize,
    /// Connections above the limit that are being closed.
    pub rejecting: usize,
    /// Pipes for splicing, in excess of what the connections use: two descriptors each.
    pub pipes: usize,
    /// Preconnected sockets.
    pub spares: usize,
    /// Probes at once.
    pub probes: usize,
    /// Connections to admin HTTP, to the metrics port, to the control socket and to the faults API, each.
    pub admin: usize,
    /// DNS sockets at once.
    pub dns: usize,
    /// Peers of a gateway in their TLS handshake.
    pub handshakes: usize,
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

// === impl DescriptorUse ===

impl Default for DescriptorUse {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            spares: 0,
            listening: 2,
            per_connection: 2,
            handshakes: 0,
            faults: false,
        }
    }
}

impl DescriptorUse {
    /// What is open before the first connection.
    fn fixed(&self) -> u64 {
        let copies = self.listening * (1 + self.workers.min(ACCEPTING));
        FIXED + self.workers as u64 * PER_WORKER + copies as u64
    }

    /// Listening sockets of HTTP whose connections are bounded by the same share.
    fn admin_sockets(&self) -> u64 {
        3 + u64::from(self.faults)
    }
}

// === impl DescriptorBudget ===

impl Default for DescriptorBudget {
    fn default() -> Self {
        Self::planned(&DescriptorUse::default())
    }
}

impl DescriptorBudget {
    /// The budget of this process, whose soft limit is raised to the hard one first.
    pub fn of_process(wanted: &DescriptorUse) -> Self {
        Self::from_limit(raise_descriptors(), wanted)
    }

    /// The budget that `run` would have with the limits of this process; changes nothing.
    pub fn planned(wanted: &DescriptorUse) -> Self {
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(UNLIMITED);
        Self::from_limit(limit, wanted)
    }

    /// The budget under a limit of open files.
    pub fn from_limit(descriptors: u64, wanted: &DescriptorUse) -> Self {
        let free = descriptors.saturating_sub(wanted.fixed());
        let admin = (free / 48).clamp(2, 64);
        let probes = (free / 16).clamp(4, 128);
        let rejecting = (free / 32).clamp(1, 64);
        let pipes = (free / 32).min(512);
        // A reload may ask for some where none were configured at start.
        let spares = (wanted.spares as u64).clamp((free / 32).min(32), (free / 4).max(1));
        let dns = (free / 64).clamp(3, 32);
        let handshakes = (wanted.handshakes as u64).min((free / 8).max(2));
        let others = probes + dns + OTHER + rejecting + 2 * pipes + spares + handshakes;
        let kept = wanted.admin_sockets() * admin + others;
        let each = wanted.per_connection.max(1) as u64;
        Self {
            descriptors,
            max_connections: (free.saturating_sub(kept) / each).max(1) as usize,
            rejecting: rejecting as usize,
            pipes: pipes as usize,
            spares: spares as usize,
            probes: probes as usize,
            admin: admin as usize,
            dns: dns as usize,
            handshakes: handshakes as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(budget: &DescriptorBudget, wanted: &DescriptorUse) -> u64 {
        let shares = wanted.per_connection * budget.max_connections
            + 2 * budget.pipes
            + budget.rejecting
            + budget.spares
            + budget.probes
            + budget.dns
            + budget.handshakes;
        let admin = wanted.admin_sockets() * budget.admin as u64;
        wanted.fixed() + OTHER + admin + shares as u64
    }

    fn with(workers: usize, spares: usize) -> DescriptorUse {
        DescriptorUse {
            workers,
            spares,
            ..DescriptorUse::default()
        }
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
            for wanted in [
                with(workers, spares),
                DescriptorUse {
                    per_connection: 4,
                    faults: true,
                    ..with(workers, spares)
                },
                DescriptorUse {
                    listening: 3,
                    handshakes: 256,
                    ..with(workers, spares)
                },
            ] {
                let budget = DescriptorBudget::from_limit(limit, &wanted);
                assert!(used(&budget, &wanted) <= limit, "{wanted:?} {budget:?}");
                assert!(budget.max_connections > 1, "{wanted:?} {budget:?}");
            }
        }
        // Nothing works with so few, but nothing divides by zero either.
        let few = DescriptorBudget::from_limit(16, &with(2, 0));
        assert_eq!(few.max_connections, 1);
    }

    #[test]
    fn what_usual_limits_allow() {
        let connections = |limit| DescriptorBudget::from_limit(limit, &with(2, 0)).max_connections;
        assert_eq!([64, 256, 1024, 20_000].map(connections), [5, 82, 364, 9244]);
        assert_eq!(DescriptorBudget::from_limit(1024, &with(2, 8)).spares, 30);
        assert_eq!(
            DescriptorBudget::from_limit(1024, &with(2, 1000)).spares,
            246
        );
    }

    /// Whatever opens descriptors leaves fewer for connections.
    #[test]
    fn what_is_asked_for_is_kept() {
        let plain = with(2, 0);
        let of = |wanted: DescriptorUse| DescriptorBudget::from_limit(1024, &wanted);
        let usual = of(plain).max_connections;
        // Per address: the socket and its copies on two data threads.
        let listening = of(DescriptorUse {
            listening: 12,
            ..plain
        });
        assert!((usual - 15..usual).contains(&listening.max_connections));
        // A command per connection: two descriptors more.
        let commands = of(DescriptorUse {
            per_connection: 4,
            ..plain
        });
        assert_eq!(commands.max_connections, usual / 2);
        let gateway = of(DescriptorUse {
            handshakes: 256,
            ..plain
        });
        assert_eq!(gateway.handshakes, 123);
        assert_eq!(gateway.max_connections, usual - gateway.handshakes / 2);
        let faults = of(DescriptorUse {
            faults: true,
            ..plain
        });
        assert_eq!(faults.max_connections, usual - faults.admin / 2);
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
