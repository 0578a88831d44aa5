//! The last events as JSON lines, numbered, for `/v1/events` and the status page.
//!
//! Kept are events of level info and above, and what the log writes besides; lines about connections and probes only
//! as far as the log writes them. Readers ask for what follows a number, so a slow one loses lines and holds up nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;
use tracing::Level;

/// Events kept.
const KEPT: usize = 10_000;

/// Events down to this level are kept whatever the log's level is.
pub(super) const LEVEL: Level = Level::INFO;

#[derive(Debug)]
pub struct RecentEvents {
    /// When this instance began, in ms: makes ids of several instances differ.
    began: i64,
    lines: Mutex<Ring>,
    arrived: Notify,
    warned: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    /// The number of the last event; the first is 1.
    last: u64,
    last_warning: u64,
    lines: VecDeque<Arc<String>>,
}

/// One kept event.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub id: u64,
    /// The log line's JSON object, line feed included.
    pub line: Arc<String>,
}

// === impl RecentEvents ===

impl Default for RecentEvents {
    fn default() -> Self {
        Self {
            began: Timestamp::now().as_millisecond(),
            lines: Mutex::default(),
            arrived: Notify::new(),
            warned: Notify::new(),
        }
    }
}

impl RecentEvents {
    pub(super) fn push(&self, level: Level, line: Arc<String>) {
        let warning = level <= Level::WARN;
        let oldest = {
            let mut ring = self.ring();
            let oldest = (ring.lines.len() >= KEPT).then(|| ring.lines.pop_front());
            ring.lines.push_back(line);
            ring.last += 1;
            if warning {
                ring.last_warning = ring.last;
            }
            oldest
        };
        drop(oldest);
        self.arrived.notify_waiters();
        if warning {
            self.warned.notify_waiters();
        }
    }

    /// An event's number as readers see it: unique over all instances.
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.began)
    }

    /// The number behind an id; `None` where this instance did not give it out.
    pub fn number(&self, id: &str) -> Option<u64> {
        let number = id.strip_prefix(&format!("{}-", self.began))?.parse().ok()?;
        (number <= self.last()).then_some(number)
    }

    /// The number of the last event; 0 before the first.
    pub fn last(&self) -> u64 {
        self.ring().last
    }

    /// The kept events with a number above `id`, oldest first. An `id` that was never given out yields all of them.
    pub fn after(&self, id: u64) -> Vec<Recorded> {
        let ring = self.ring();
        let first = ring.last - ring.lines.len() as u64;
        let skip = if id > ring.last {
            0
        } else {
            id.saturating_sub(first)
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        ring.lines
            .iter()
            .enumerate()
            .skip(skip)
            .map(|(index, line)| Recorded {
                id: first + index as u64 + 1,
                line: Arc::clone(line),
            })
            .collect()
    }

    /// Waits until there is an event with a number above `id`.
    pub async fn wait_after(&self, id: u64) {
        Self::wait(&self.arrived, || self.ring().last > id).await;
    }

    /// Waits until there is a warning or an error with a number above `id`.
    pub async fn wait_for_warning_after(&self, id: u64) {
        Self::wait(&self.warned, || self.ring().last_warning > id).await;
    }

    async fn wait(notify: &Notify, is_there: impl Fn() -> bool) {
        loop {
            let notified = notify.notified();
            tokio::pin!(notified);
            // Before the look, so that nothing is missed in between.
            notified.as_mut().enable();
            if is_there() {
                return;
            }
            notified.await;
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(recent: &RecentEvents, text: &str) {
        recent.push(Level::INFO, Arc::new(text.to_owned()));
    }

    fn texts(recorded: &[Recorded]) -> Vec<(u64, &str)> {
        recorded
            .iter()
            .map(|one| (one.id, one.line.as_str()))
            .collect()
    }

    #[test]
    fn numbers_go_on_and_the_oldest_leave() {
        let recent = RecentEvents::default();
        assert_eq!((recent.last(), recent.after(0).len()), (0, 0));
        push(&recent, "a");
        push(&recent, "b");
        assert_eq!(texts(&recent.after(0)), [(1, "a"), (2, "b")]);
        assert_eq!(texts(&recent.after(1)), [(2, "b")]);
        assert_eq!(recent.after(2).len(), 0);
        // Never given out: a reader of another instance.
        assert_eq!(recent.after(99).len(), 2);
        for _ in 0..KEPT {
            push(&recent, "c");
        }
        let all = recent.after(0);
        assert_eq!((all.len(), all[0].id), (KEPT, 3));
        assert_eq!(recent.after(1).len(), KEPT);
        let id = recent.id(7);
        assert_eq!(recent.number(&id), Some(7));
        assert_eq!(recent.number(&recent.id(KEPT as u64 + 3)), None);
        assert_eq!(recent.number("7"), None);
        assert_eq!(RecentEvents::default().number(&id), None);
    }

    #[tokio::test]
    async fn a_waiter_sees_the_next_event() {
        let recent = Arc::new(RecentEvents::default());
        push(&recent, "a");
        recent.wait_after(0).await;
        let waiter = tokio::spawn({
            let recent = Arc::clone(&recent);
            async move { recent.wait_after(1).await }
        });
        tokio::task::yield_now().await;
        push(&recent, "b");
        waiter.await.unwrap();
    }
}
