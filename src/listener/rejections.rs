//! Connections above a limit that are being closed in order.
//!
//! A client that is rejected gets a FIN, and its socket is kept for a moment so that what it still sends does not turn
//! the FIN into a reset. The sockets that may be kept so are limited; above the limit the oldest is closed at once, so
//! that no client waits for its rejection.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

#[derive(Debug)]
pub(super) struct Rejections {
    limit: usize,
    /// The oldest first.
    lingering: Mutex<VecDeque<oneshot::Sender<()>>>,
}

// === impl Rejections ===

impl Rejections {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            lingering: Mutex::default(),
        }
    }

    /// Counts one more. The receiver resolves when its socket has to be closed at once; dropping it says that it is.
    pub(super) fn enter(&self) -> oneshot::Receiver<()> {
        let (close_now, receiver) = oneshot::channel();
        let mut lingering = self
            .lingering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lingering.retain(|sender| !sender.is_closed());
        while lingering.len() >= self.limit {
            lingering.pop_front();
        }
        lingering.push_back(close_now);
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way() {
        let rejections = Rejections::new(2);
        let mut one = rejections.enter();
        let mut two = rejections.enter();
        let may_linger = |receiver: &mut oneshot::Receiver<()>| {
            receiver.try_recv() == Err(oneshot::error::TryRecvError::Empty)
        };
        assert!(may_linger(&mut one) && may_linger(&mut two));
        let mut three = rejections.enter();
        assert!(!may_linger(&mut one));
        assert!(may_linger(&mut two) && may_linger(&mut three));
        drop(two);
        let mut four = rejections.enter();
        assert!(may_linger(&mut three) && may_linger(&mut four));
    }
}
