//! Time as the pure core sees it: a [`Moment`] is a distance from the start of the process.
//!
//! Owns the one place where the clock is read. The state machines under `pool` take a `Moment` as an argument and
//! never ask for the time themselves. Reads tokio's clock, so that tests with a paused clock stay true.

use std::ops::Add;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// A point in time, as a distance from the start of the process. Monotonic; stands still while the machine sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

/// The present moment.
pub fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    Moment(START.get_or_init(Instant::now).elapsed())
}

// === impl Moment ===

impl Moment {
    /// The moment this long after the start of the process.
    pub const fn at(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// Distance from the start of the process.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to this moment; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole milliseconds since the start of the process.
    pub fn as_millis(self) -> u64 {
        self.0.as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Whole microseconds since the start of the process.
    pub fn as_micros(self) -> u64 {
        self.0.as_micros().try_into().unwrap_or(u64::MAX)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }
}
