//! Durations and counts of health, failback and DNS membership that are not settings.

use std::time::Duration;

/// The upstream's tick.
pub const TICK: Duration = Duration::from_millis(100);
/// A tick this late is a stall of ours.
pub const STALL: Duration = Duration::from_millis(250);
/// No address is probed more often than this.
pub const PROBE_GAP: Duration = Duration::from_millis(200);
/// Probes a second and address at most.
pub const PROBE_CAP: f64 = 5.0;
/// Consecutive refused or unreachable probes that mark down at once.
pub const HARD_FALL: u32 = 2;
/// Silence marks at most one zone down in this time, while another zone is up.
pub const SILENCE_GAP: Duration = Duration::from_secs(30);
/// Traffic stands in for probes at most this long.
pub const TRAFFIC_STANDS_IN: Duration = Duration::from_secs(30);
/// With probes off suspicion ends by itself.
pub const SUSPECT_UNPROBED: Duration = Duration::from_secs(10);
/// The first round ends at most this long after the first answer.
pub const FIRST_ROUND: Duration = Duration::from_secs(2);
/// Consecutive answers without an address before it departs.
pub const MISSED_ANSWERS: u32 = 3;
/// A departed address is removed after this.
pub const DEPARTED_FOR: Duration = Duration::from_secs(600);
/// The history of a removed address is kept this long.
pub const HISTORY: Duration = Duration::from_secs(3600);
/// Addresses of one name at most.
pub const ADDRESSES: usize = 64;
/// Nearer means a connect time this much shorter, as a factor, …
pub const NEARER_FACTOR: f64 = 1.3;
/// … and shorter by this.
pub const NEARER_GAP: Duration = Duration::from_micros(200);
/// How often nearness is looked at.
pub const NEARER_EVERY: Duration = Duration::from_secs(1);
/// Connects of an address before its time means something.
pub const NEARER_SAMPLES: u64 = 3;
/// How long another zone must lead, while ours is only suspect, before that counts as a move.
pub const MOVE_SETTLES: Duration = Duration::from_secs(1);
/// Connections that wait on a silent address are cut this long after its first failed probe was sent.
pub const CUT_SILENT: Duration = Duration::from_secs(5);

/// A request without a first answer byte for this long is suspicious, on a path whose round trip does not ask for more.
pub const SILENCE_FLOOR: Duration = Duration::from_millis(250);
/// Upper bound of the delay before a second connection attempt, on a path whose round trip does not ask for more.
pub const STAGGER_CAP: Duration = Duration::from_millis(250);
/// Both of these are at least so many round trips of the address.
pub const ROUND_TRIPS: u32 = 3;
/// Nothing can be reached: said once this has lasted so long …
pub const UNREACHABLE_AFTER: Duration = Duration::from_millis(500);
/// … or this long, where no lookup has ended yet, …
pub const UNANSWERED_AFTER: Duration = Duration::from_millis(1500);
/// … and again every so often.
pub const UNREACHABLE_EVERY: Duration = Duration::from_secs(30);
