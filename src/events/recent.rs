//! The last events as JSON lines, numbered, for `/v1/events` and the status page.
//!
//! Kept are events of level info and above, and what the log writes besides; lines about connections and probes only
//! as far as the log writes them. Readers ask for what follows a number, so a slow one loses lines and holds up nothing.
//!
//! The lines lie one behind the other in blocks that are used again: an allocation for each line, freed when its memory
//! has long left the processor's caches, was a good part of what the access log cost.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;
use tracing::Level;

/// Events kept.
const KEPT: usize = 10_000;

/// Bytes in one block: some 100 lines about connections.
const BLOCK: usize = 64 * 1024;

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
    /// At least the last [`KEPT`] lines, oldest first.
    blocks: VecDeque<Block>,
    /// Lines in all blocks.
    lines: usize,
}

#[derive(Debug, Default)]
struct Block {
    text: String,
    /// Where each line ends in the text.
    ends: Vec<usize>,
}

/// One kept event.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub id: u64,
    /// The log line's JSON object, line feed included.
    pub line: String,
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
    pub(super) fn push(&self, level: Level, line: &str) {
        let warning = level <= Level::WARN;
        {
            let mut ring = self.ring();
            ring.push(line);
            if warning {
                ring.last_warning = ring.last;
            }
        }
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

    /// The kept events with a number above `id`, oldest first, at most so many. An `id` that was never given out yields
    /// the oldest ones.
    pub fn after(&self, id: u64, at_most: usize) -> Vec<Recorded> {
        let ring = self.ring();
        let oldest = ring.last - ring.lines.min(KEPT) as u64;
        let after = if id > ring.last {
            oldest
        } else {
            id.max(oldest)
        };
        let mut end = ring.last - ring.lines as u64;
        let mut found = Vec::new();
        for block in &ring.blocks {
            let before = end;
            end += block.ends.len() as u64;
            // All of the block but what comes before; an index is at most a block's number of lines.
            for index in after.saturating_sub(before)..end - before {
                if found.len() == at_most {
                    return found;
                }
                found.push(Recorded {
                    id: before + index + 1,
                    line: block.line(index as usize).to_owned(),
                });
            }
        }
        found
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

// === impl Ring ===

impl Ring {
    fn push(&mut self, line: &str) {
        let has_room = |block: &&mut Block| block.text.len() + line.len() <= BLOCK;
        let block = match self.blocks.back_mut().filter(has_room) {
            Some(block) => block,
            None => {
                let block = self.unused_block();
                self.blocks.push_back_mut(block)
            }
        };
        block.text.push_str(line);
        block.ends.push(block.text.len());
        self.lines += 1;
        self.last += 1;
    }

    /// The oldest block where the others hold enough lines, else a new one.
    fn unused_block(&mut self) -> Block {
        let spare = |block: &mut Block| self.lines - block.ends.len() >= KEPT;
        match self.blocks.pop_front_if(spare) {
            Some(mut block) => {
                self.lines -= block.ends.len();
                block.text.clear();
                block.ends.clear();
                block
            }
            None => Block {
                text: String::with_capacity(BLOCK),
                ends: Vec::new(),
            },
        }
    }
}

// === impl Block ===

impl Block {
    fn line(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[index]]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn push(recent: &RecentEvents, text: &str) {
        recent.push(Level::INFO, text);
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
        assert_eq!((recent.last(), recent.after(0, KEPT).len()), (0, 0));
        push(&recent, "a");
        push(&recent, "b");
        assert_eq!(texts(&recent.after(0, KEPT)), [(1, "a"), (2, "b")]);
        assert_eq!(texts(&recent.after(0, 1)), [(1, "a")]);
        assert_eq!(texts(&recent.after(1, KEPT)), [(2, "b")]);
        assert_eq!(recent.after(2, KEPT).len(), 0);
        // Never given out: a reader of another instance.
        assert_eq!(recent.after(99, KEPT).len(), 2);
        for _ in 0..KEPT {
            push(&recent, "c");
        }
        let all = recent.after(0, usize::MAX);
        assert_eq!((all.len(), all[0].id), (KEPT, 3));
        assert_eq!(recent.after(1, KEPT).len(), KEPT);
        let id = recent.id(7);
        assert_eq!(recent.number(&id), Some(7));
        assert_eq!(recent.number(&recent.id(KEPT as u64 + 3)), None);
        assert_eq!(recent.number("7"), None);
        assert_eq!(RecentEvents::default().number(&id), None);
    }

    #[test]
    fn long_lines_take_no_more_blocks_than_their_number_needs() {
        let recent = RecentEvents::default();
        // Of many lengths, one longer than a block, so that lines meet the ends of blocks everywhere.
        let line = |number: u64| match number {
            4000 => "x".repeat(2 * BLOCK),
            _ => format!("{number} {}", "y".repeat((number * 37 % 1500) as usize)),
        };
        let count = 3 * KEPT as u64;
        for number in 1..=count {
            push(&recent, &line(number));
            if number == 4000 + KEPT as u64 {
                let kept = recent.after(0, KEPT);
                assert_eq!((kept[0].id, kept.len()), (4001, KEPT));
            }
        }
        let kept = recent.after(0, KEPT);
        assert_eq!(kept.len(), KEPT);
        for (event, number) in kept.iter().zip(count - KEPT as u64 + 1..) {
            assert_eq!(event.id, number);
            assert_eq!(event.line, line(number));
        }
        let some = recent.after(count - 5, 3);
        assert_eq!(
            some.iter().map(|one| one.id).collect::<Vec<_>>(),
            [count - 4, count - 3, count - 2]
        );
        let ring = recent.ring();
        // Lines of 750 bytes: 86 a block, and one block that is being filled.
        assert!(ring.blocks.len() <= KEPT / 80 + 2, "{}", ring.blocks.len());
        assert_eq!(
            ring.lines,
            ring.blocks
                .iter()
                .map(|block| block.ends.len())
                .sum::<usize>()
        );
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
