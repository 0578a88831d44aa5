//! Whether the machine was suspended or this process was stopped, so that everything is resolved and probed again at once.
//!
//! Two comparisons: boot time ran on while monotonic time stood still (a suspend), or our own tick of one second came more
//! than 5 s late (SIGSTOP, a frozen container, a starved machine). [`SuspendDetector`] is pure; [`watch`] feeds it.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use crate::clock;
use crate::interference::Interference;

/// How often the clocks are compared.
pub const TICK: Duration = Duration::from_secs(1);

/// A tick later than this was no slow machine: we were stopped.
const LATE: Duration = Duration::from_secs(5);

/// A shorter sleep breaks no connection, and clocks are read one after the other.
const SLEEP: Duration = Duration::from_secs(1);

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Stands still while the machine sleeps.
    pub monotonic: Duration,
    pub boot: Duration,
}

/// What happened since the last tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The machine slept for this long.
    Suspended(Duration),
    /// The process did not run for this long.
    Stopped(Duration),
}

/// Compares one reading with the one before.
#[derive(Clone, Copy, Debug)]
pub struct SuspendDetector {
    last: ClockReading,
}

/// Reads both clocks.
pub fn read() -> ClockReading {
    ClockReading {
        monotonic: clock::monotonic(),
        boot: clock::boot(),
    }
}

/// Calls `resumed` at every wake-up, one that is played included; ends only by being dropped.
pub async fn watch(
    interference: &Interference,
    mut resumed: impl FnMut(Interruption),
) -> Infallible {
    let read_ahead = |slept| {
        let mut reading = read();
        reading.boot += slept;
        reading
    };
    let mut slept = interference.slept();
    let mut detector = SuspendDetector::new(read_ahead(slept));
    loop {
        tokio::select! {
            () = clock::aligned_sleep(TICK) => {}
            () = interference.sleep_changed(slept) => {}
        }
        slept = interference.slept();
        if let Some(event) = detector.tick(read_ahead(slept)) {
            resumed(event);
        }
    }
}

// === impl SuspendDetector ===

impl SuspendDetector {
    /// Starts from a first reading.
    pub const fn new(first: ClockReading) -> Self {
        Self { last: first }
    }

    /// Takes the next reading, meant to be at most [`TICK`] after the last.
    pub fn tick(&mut self, now: ClockReading) -> Option<Interruption> {
        let ran = now.monotonic.saturating_sub(self.last.monotonic);
        let passed = now.boot.saturating_sub(self.last.boot);
        self.last = now;
        let slept = passed.saturating_sub(ran);
        let late = ran.saturating_sub(TICK);
        if slept > SLEEP {
            Some(Interruption::Suspended(slept))
        } else if late > LATE {
            Some(Interruption::Stopped(late))
        } else {
            None
        }
    }
}

// === impl Interruption ===

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interruption::Suspended(time) => write!(f, "slept {}", spoken(*time)),
            Interruption::Stopped(time) => write!(f, "stopped for {}", spoken(*time)),
        }
    }
}

/// The two biggest units that are not zero: `2 h 13 min`, `9 s`. Rounded, because the clocks are read one after the other.
fn spoken(time: Duration) -> String {
    let seconds = (time + Duration::from_millis(500)).as_secs();
    let units = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let parts: Vec<String> = units
        .into_iter()
        .skip_while(|(count, unit)| *count == 0 && *unit != "s")
        .take(2)
        .filter(|(count, unit)| *count > 0 || *unit == "s" && seconds == 0)
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic: u64, boot: u64) -> ClockReading {
        ClockReading {
            monotonic: Duration::from_millis(monotonic),
            boot: Duration::from_millis(boot),
        }
    }

    #[test]
    fn sleep_and_stop_are_told_apart() {
        let mut detector = SuspendDetector::new(at(1000, 5000));
        assert_eq!(detector.tick(at(2000, 6000)), None);
        assert_eq!(
            detector.tick(at(8000, 12_000)),
            None,
            "5 s late is not more than 5 s"
        );
        let stopped = Interruption::Stopped(Duration::from_secs(6));
        assert_eq!(detector.tick(at(15_000, 19_000)), Some(stopped));
        let slept = Interruption::Suspended(Duration::from_secs(3600));
        assert_eq!(detector.tick(at(16_000, 3_620_000)), Some(slept));
        assert_eq!(detector.tick(at(17_000, 3_621_000)), None);
        assert_eq!(slept.to_string(), "slept 1 h");
    }

    #[test]
    fn clocks_that_step_back_are_no_wake_up() {
        let mut detector = SuspendDetector::new(at(5000, 5000));
        assert_eq!(detector.tick(at(4000, 4000)), None);
        assert_eq!(detector.tick(at(5000, 5900)), None);
    }

    #[test]
    fn the_clocks_run() {
        let first = read();
        let second = read();
        assert!(second.monotonic >= first.monotonic && second.boot >= second.monotonic);
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_is_quiet_while_nothing_happens() {
        let interference = Interference::default();
        let watched = tokio::time::timeout(
            Duration::from_secs(60),
            watch(&interference, |resumed| panic!("{resumed}")),
        );
        assert!(watched.await.is_err());
    }

    #[tokio::test]
    async fn a_suspend_that_is_played_is_told_once_and_its_end_is_none() {
        let interference = Interference::default();
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let watched = watch(&interference, |resumed| told.send(resumed).unwrap());
        let played = async {
            interference.set(crate::interference::Disturbance {
                slept: Duration::from_secs(3600),
                ..Default::default()
            });
            let first = hears.recv().await.unwrap();
            assert_eq!(first.to_string(), "slept 1 h");
            interference.set(Default::default());
            // The watch looks first whenever both can go on.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(hears.try_recv().is_err());
        };
        tokio::select! {
            // It has read the clocks before the suspend is played.
            biased;
            never = watched => match never {},
            () = played => {}
        }
    }
}
