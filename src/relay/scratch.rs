//! A turn at this thread: its buffer, one of 256 KiB for all connections of a data thread; who else had a turn; and how
//! one ends.
//!
//! Taken for a single turn and put back when dropped; no await lies between. Taken out rather than borrowed, so a
//! stream that relays inside a relay gets a buffer of its own instead of a panic.

use std::cell::Cell;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::task::Context;

/// Its size: at least as large as what one receive finds on a busy socket.
pub(super) const SIZE: usize = 256 * 1024;

thread_local! {
    static BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static SMALL: Cell<u64> = const { Cell::new(0) };
}

/// The buffer, while a turn uses it.
#[derive(Debug)]
pub(super) struct Scratch(Box<[u8]>);

/// Counts a turn of somebody who moves little.
pub(super) fn note_small() {
    SMALL.set(small_turns() + 1);
}

/// Turns of those who move little, so far: where it has grown, somebody waits who need not wait long.
pub(super) fn small_turns() -> u64 {
    SMALL.get()
}

/// Ends a turn at the thread, to go on after the runtime's next look at its sockets. Not a plain wake: while a task is
/// ready that look comes every 61st time only, and everybody else would wait for it.
pub(super) fn yield_to_others(cx: &mut Context<'_>) {
    let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
}

// === impl Scratch ===

impl Scratch {
    pub(super) fn take() -> Self {
        Self(
            BUFFER
                .take()
                .unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()),
        )
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        BUFFER.set(Some(std::mem::take(&mut self.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_buffer_comes_back_and_a_second_is_no_panic() {
        let first = Scratch::take();
        let place = first.as_ptr();
        let second = Scratch::take();
        assert_ne!(second.as_ptr(), place);
        drop(second);
        drop(first);
        assert_eq!(Scratch::take().as_ptr(), place);
    }
}
