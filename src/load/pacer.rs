//! Waits until a moment with the precision of the kernel's high-resolution timers.
//!
//! tokio's own timers tick once a millisecond; at an answer time of a few milliseconds that error would stand in every
//! percentile. On Linux a timer descriptor (`timerfd_create(2)`) is used instead. A thread still needs some time to wake up;
//! the timer is set earlier by what it took lately, and the rest is spun.

#[cfg(all(target_os = "linux", not(entryway_portable)))]
use std::cell::Cell;
use std::io;
use std::time::Duration;

use crate::clock::{self, Moment};

/// The most that a timer is set too early. Answers of the thread wait while it spins.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
const LONGEST_LEAD: Duration = Duration::from_micros(200);

/// The share of a wait that may be spun: at high rates the CPU belongs to the requests.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
const SPUN: u32 = 10;

/// A timer of one thread.
#[derive(Debug)]
pub(super) struct Pacer {
    #[cfg(all(target_os = "linux", not(entryway_portable)))]
    timer: tokio::net::unix::pipe::Receiver,
    /// How long waking up took lately.
    #[cfg(all(target_os = "linux", not(entryway_portable)))]
    waking: Cell<Duration>,
}

// === impl Pacer ===

#[cfg(all(target_os = "linux", not(entryway_portable)))]
impl Pacer {
    /// Must be called inside a runtime.
    pub(super) fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // tokio has no timer descriptor; the reading end of a pipe is registered and read in the same way.
        Ok(Self {
            timer: tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(timer)?,
            waking: Cell::new(Duration::ZERO),
        })
    }

    /// Returns at `moment`, at once where it has passed.
    pub(super) async fn until(&self, moment: Moment) -> io::Result<()> {
        let now = clock::now();
        let wait = moment.since(now);
        if wait.is_zero() {
            return Ok(());
        }
        let early = wait - self.waking.get().min(wait / SPUN);
        self.sleep(early).await?;
        let late = clock::now().since(now + early).min(LONGEST_LEAD);
        self.waking.set((self.waking.get() * 7 + late) / 8);
        while clock::now() < moment {
            std::hint::spin_loop();
        }
        Ok(())
    }

    async fn sleep(&self, wait: Duration) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let spec = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                // A timer of nothing would be no timer.
                tv_nsec: wait
                    .subsec_nanos()
                    .max(u32::from(wait.as_secs() == 0))
                    .into(),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        loop {
            self.timer.readable().await?;
            let mut expired = [0u8; 8];
            match self.timer.try_read(&mut expired) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(any(not(target_os = "linux"), entryway_portable))]
impl Pacer {
    /// Must be called inside a runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Returns at `moment`, at once where it has passed; up to a millisecond late.
    pub(super) async fn until(&self, moment: Moment) -> io::Result<()> {
        let wait = moment.since(clock::now());
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }
}

/// Intended times of sending of one thread, as distances from the start of its stage.
#[derive(Debug)]
pub(super) struct Arrivals {
    poisson: bool,
    /// Arrivals still to come.
    left: u64,
    /// Of all threads together, in an even spacing.
    interval: f64,
    stride: f64,
    /// Seconds from the start of the stage to the latest arrival.
    at: f64,
    length: f64,
    random: fastrand::Rng,
}

// === impl Arrivals ===

impl Arrivals {
    /// The share of thread `index` of `threads` in `rate × length` arrivals.
    pub(super) fn new(
        rate: f64,
        length: Duration,
        poisson: bool,
        index: usize,
        threads: usize,
    ) -> Self {
        let length = length.as_secs_f64();
        let total = (rate * length).round() as u64;
        let (index, threads) = (index as u64, threads as u64);
        let interval = 1.0 / rate;
        Self {
            poisson,
            left: total / threads + u64::from(index < total % threads),
            interval: interval * index as f64,
            stride: interval * threads as f64,
            at: 0.0,
            length,
            random: fastrand::Rng::with_seed(0x9e37_79b9 ^ (index + 1)),
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.left == 0 {
            return None;
        }
        if self.poisson {
            // The next of `left` points spread uniformly over the rest of the stage: a Poisson process, given its count.
            let share = 1.0 - self.random.f64().powf(1.0 / self.left as f64);
            self.at += (self.length - self.at) * share;
        } else {
            self.at = self.interval;
            self.interval += self.stride;
        }
        self.left -= 1;
        Some(Duration::from_secs_f64(self.at))
    }
}
