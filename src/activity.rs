//! Wakes a periodic task that sleeps because nothing happens.
//!
//! A task that has to look at everything every 100 ms while something is under way would wake an idle process ten times
//! a second. It [arms](Activity::arm) an [`Activity`] instead and sleeps; whoever does something worth a look
//! [records](Activity::record) it, which costs one relaxed load while the task is awake.
//!
//! The two sides are not ordered by a fence, because `record` stands on the path of every byte: something that happens
//! within nanoseconds of arming may go unnoticed. So the task arms first, looks once more a tick later, and sleeps only
//! if that look has found nothing either.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::clock::{self, Moment};

/// What a sleeping task waits for. Any number of threads may record; one task waits.
#[derive(Debug, Default)]
pub struct Activity {
    armed: AtomicBool,
    /// When the task was woken, in micros of [`Moment`].
    recorded_at: AtomicU64,
    notify: Notify,
}

// === impl Activity ===

impl Activity {
    /// Something happened: the task has to look.
    pub fn record(&self) {
        if self.armed.load(Relaxed) && self.armed.swap(false, Relaxed) {
            let now = clock::now().as_micros();
            self.recorded_at.store(now, Relaxed);
            self.notify.notify_one();
        }
    }

    /// From now on the next [`Activity::record`] wakes the task. Says whether it was armed before, so that nothing has
    /// been recorded since.
    pub fn arm(&self) -> bool {
        self.armed.swap(true, Relaxed)
    }

    /// Resolves when something has been recorded after arming; says when, so that the task knows whether it was late.
    pub async fn recorded(&self) -> Moment {
        self.notify.notified().await;
        Moment::at(std::time::Duration::from_micros(
            self.recorded_at.load(Relaxed),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn only_an_armed_one_wakes() {
        let activity = Activity::default();
        activity.record();
        let quiet = tokio::time::timeout(Duration::from_secs(1), activity.recorded()).await;
        assert!(quiet.is_err(), "nobody had armed it");
        assert!(!activity.arm());
        assert!(activity.arm(), "nothing was recorded in between");
        activity.record();
        activity.record();
        activity.recorded().await;
        assert!(!activity.arm(), "it was recorded");
    }
}
