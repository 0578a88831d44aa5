//! Time as the pure core sees it: a [`Moment`] is a distance from the start of the process.
//!
//! Owns the one place where the clock is read. The state machines under `upstream::state` take a `Moment` as an argument and
//! never ask for the time themselves. Reads tokio's clock, so that tests with a paused clock stay true.

use std::ops::Add;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::time::Instant;

/// A point in time, as a distance from the start of the process. Monotonic; stands still while the machine sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// One word, because every connection keeps several: nanoseconds, enough for 584 years.
    nanos: u64,
}

#[cfg(all(target_os = "linux", not(entryway_portable)))]
const BOOT: ClockId = ClockId::Boottime;
/// On macOS it is this one that runs on, and Rust's `Instant` that stands still.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
const BOOT: ClockId = ClockId::Monotonic;

/// Tokio sorts timers by slots of this length: it wakes at the beginning of a slot and once more at each moment in it that
/// somebody waits for. Who waits for the beginning wakes it once.
const TIMER_SLOT: Duration = Duration::from_millis(64);

/// Shorter periods would be distorted by it.
const ALIGNED_FROM: Duration = Duration::from_secs(1);

/// The present moment.
pub fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    Moment::at(START.get_or_init(real_now).elapsed())
}

/// Not tokio's clock: where a test with a paused one that has advanced asks first, the start would lie in the future of all
/// others, and their time would stand still.
#[expect(clippy::disallowed_types, reason = "the real clock is meant")]
fn real_now() -> Instant {
    Instant::from_std(std::time::Instant::now())
}

/// Makes this moment the start of the process, unless the time has been asked for before. To be called right before the
/// control runtime is made, so that [`Moment::next_aligned`] and its timer agree on where a slot begins.
pub fn start() {
    now();
    slept();
}

/// The clock that stands still while the machine sleeps.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
pub fn monotonic() -> Duration {
    duration(clock_gettime(ClockId::Monotonic))
}

/// Since the first call: only differences matter.
#[cfg(any(not(target_os = "linux"), entryway_portable))]
#[expect(
    clippy::disallowed_types,
    reason = "it is the real clock that is compared with another one"
)]
pub fn monotonic() -> Duration {
    static FIRST: OnceLock<std::time::Instant> = OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

/// The clock that runs on while the machine sleeps.
pub fn boot() -> Duration {
    duration(clock_gettime(BOOT))
}

/// How long the machine has slept since this was asked first, or since the [start]. To be added to a [`Moment`] where the
/// time counts that has passed for people.
pub fn slept() -> Duration {
    // The clocks are read one after the other.
    const NONE: Duration = Duration::from_secs(1);
    static FIRST: OnceLock<(Duration, Duration)> = OnceLock::new();
    let (first_boot, first) = *FIRST.get_or_init(|| (boot(), monotonic()));
    let passed = boot().saturating_sub(first_boot);
    let slept = passed.saturating_sub(monotonic().saturating_sub(first));
    if slept < NONE { Duration::ZERO } else { slept }
}

fn duration(time: Timespec) -> Duration {
    // Both clocks count up from zero.
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

/// Sleeps until the next moment that is [aligned](Moment::next_aligned) to `period`. Periodic work that may happen at any
/// time uses it, so that an idle process wakes once for all of it.
pub async fn aligned_sleep(period: Duration) {
    let pause = now().next_aligned(period).since(now());
    tokio::time::sleep(pause).await;
}

// === impl Moment ===

impl Moment {
    /// The moment this long after the start of the process.
    pub const fn at(since_start: Duration) -> Self {
        let nanos = since_start.as_nanos();
        Self {
            nanos: if nanos > u64::MAX as u128 {
                u64::MAX
            } else {
                nanos as u64
            },
        }
    }

    /// Distance from the start of the process.
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// Time from `earlier` to this moment; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }

    /// The first whole multiple of `period` since the start after this moment; from [`ALIGNED_FROM`] on moved to the end of
    /// the [`TIMER_SLOT`] it lies in.
    pub fn next_aligned(self, period: Duration) -> Moment {
        let next = self.next_multiple(period);
        match period >= ALIGNED_FROM {
            true => {
                let slot = Moment::at(TIMER_SLOT).nanos;
                let nanos = next.nanos.checked_next_multiple_of(slot);
                Moment {
                    nanos: nanos.unwrap_or(u64::MAX),
                }
            }
            false => next,
        }
    }

    fn next_multiple(self, period: Duration) -> Moment {
        let period = Moment::at(period).nanos.max(1);
        let nanos = (self.nanos / period)
            .saturating_add(1)
            .saturating_mul(period);
        Moment { nanos }
    }

    /// Whole milliseconds since the start of the process.
    pub fn as_millis(self) -> u64 {
        self.nanos / 1_000_000
    }

    /// Whole microseconds since the start of the process.
    pub fn as_micros(self) -> u64 {
        self.nanos / 1_000
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, by: Duration) -> Moment {
        let by = Moment::at(by).nanos;
        Moment {
            nanos: self.nanos.saturating_add(by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_moments_are_shared_and_begin_a_slot() {
        let next = |now, period| {
            let next = Moment::at(Duration::from_millis(now));
            next.next_aligned(Duration::from_millis(period)).as_millis()
        };
        for (now, period, expected) in [
            (0, 1000, 1024),
            (1024, 1000, 2048),
            (1023, 2000, 2048),
            (7999, 1000, 8000),
            (8000, 1000, 9024),
            (3000, 10_000, 10_048),
            (0, 100, 100),
            (100, 100, 200),
        ] {
            assert_eq!(next(now, period), expected, "{now} {period}");
        }
    }
}
