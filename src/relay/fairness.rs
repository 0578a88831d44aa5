//! Fairness between the connections of one thread: who is small, and how a long turn gives way.

use std::cell::Cell;
use std::future::Future;
use std::task::Context;

thread_local! {
    static SMALL: Cell<u16> = const { Cell::new(0) };
}

/// Counts one poll of a small connection.
pub(super) fn record_small_poll() {
    SMALL.set(small_polls().wrapping_add(1));
}

/// Polls of small connections on this thread so far: where the count has changed, one of them waits behind the caller.
pub(super) fn small_polls() -> u16 {
    SMALL.get()
}

/// Ends a turn, to go on after the runtime's next look at its sockets. Not a plain wake: while a task is ready, the
/// runtime looks at sockets at every 61st poll only, and all other connections would wait for it.
pub(super) fn yield_to_others(cx: &mut Context<'_>) {
    let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
}
