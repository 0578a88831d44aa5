//! The copy buffer of a worker thread, 256 KiB shared by all its connections.
//!
//! Taken for a single turn and put back when dropped; no await lies between. Taken out rather than borrowed, so that
//! a stream that relays inside a relay gets a buffer of its own instead of a panic.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// At least as large as what one receive finds on a busy socket.
pub(super) const SIZE: usize = 256 * 1024;

thread_local! {
    static BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The buffer, while a turn uses it.
#[derive(Debug)]
pub(super) struct ThreadBuffer(Box<[u8]>);

// === impl ThreadBuffer ===

impl ThreadBuffer {
    pub(super) fn take() -> Self {
        Self(
            BUFFER
                .take()
                .unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()),
        )
    }
}

impl Deref for ThreadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for ThreadBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for ThreadBuffer {
    fn drop(&mut self) {
        BUFFER.set(Some(std::mem::take(&mut self.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_buffer_comes_back_and_a_second_is_no_panic() {
        let first = ThreadBuffer::take();
        let address = first.as_ptr();
        let second = ThreadBuffer::take();
        assert_ne!(second.as_ptr(), address);
        drop(second);
        drop(first);
        assert_eq!(ThreadBuffer::take().as_ptr(), address);
    }
}
