//! Time as the pure core sees it: a [`Moment`] is a distance from the start of the process.
//!
//! Owns the one place where the clock is read. The state machines under `upstream::state` take a `Moment` as an argument and
//! never ask for the time themselves. Reads tokio's clock, so that tests with a paused clock stay true.

use std::ops::Add;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// A point in time, as a distance from the start of the process. Monotonic; stands still while the machine sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// One word, because every connection keeps several: nanoseconds, enough for 584 years.
    nanos: u64,
}

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

/// Sleeps until the next whole multiple of `period` since the start of the process. Periodic work that may happen at any
/// time uses it, so that an idle process wakes once for all of it.
pub async fn aligned_sleep(period: Duration) {
    let pause = now().next_multiple(period).since(now());
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

    /// The first whole multiple of `period` after this moment.
    pub fn next_multiple(self, period: Duration) -> Moment {
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
