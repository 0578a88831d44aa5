//! What others may ask of a live connection, and the channel on which they ask.
//!
//! Any thread may send; the task that carries the connection is woken, and checks once more on its own thread
//! before it acts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::Moment;
use crate::events::Reason;

/// What is asked of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionCommand {
    /// End it at rest, with a FIN to the client first.
    ///
    /// Where framing knows the connection to be busy, the command stands until `until`, so that the connection is
    /// closed right behind the answer under way. Otherwise it is dropped when the connection is not at rest.
    CloseAtRest {
        reason: Reason,
        /// Silence that makes a connection at rest where there is no framing.
        quiet: Duration,
        until: Moment,
    },
    /// Reset both sides now.
    Cut(Reason),
}

/// Carries commands to one connection. It holds one: a later one replaces an earlier one, but nothing replaces a cut.
#[derive(Debug, Default)]
pub struct CommandChannel {
    /// Set while there is a command, so that the relay looks without a lock.
    is_set: AtomicBool,
    /// Set while somebody else is to carry the connection in place of the relay.
    diverted: AtomicBool,
    /// Set while somebody wants to know whether sent bytes are acknowledged.
    check_delivery: AtomicBool,
    /// When that was last asked, in micros.
    last_check: AtomicU64,
    /// Set while the relay has to see whether urgent data stands in the way.
    look: AtomicBool,
    slot: Mutex<CommandSlot>,
}

#[derive(Debug, Default)]
struct CommandSlot {
    command: Option<ConnectionCommand>,
    waker: Option<Waker>,
}

// === impl CommandChannel ===

impl CommandChannel {
    /// Sends a command and wakes the connection.
    pub fn send(&self, command: ConnectionCommand) {
        {
            let mut slot = self.lock();
            if !matches!(slot.command, Some(ConnectionCommand::Cut(_))) {
                slot.command = Some(command);
            }
            self.is_set.store(true, Relaxed);
        }
        self.wake();
    }

    /// Polls the relay again. It is woken outside of the lock, which it takes itself.
    fn wake(&self) {
        let waker = self.lock().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Asks the relay to look at what the kernel knows of unacknowledged bytes, unless that was asked less than `every`
    /// ago.
    pub fn check_delivery(&self, now: Moment, every: Duration) {
        let last = Duration::from_micros(self.last_check.load(Relaxed));
        if now.since(Moment::at(last)) < every {
            return;
        }
        self.last_check.store(now.as_micros(), Relaxed);
        self.check_delivery.store(true, Relaxed);
        self.wake();
    }

    /// Asks the relay to go on where urgent data may have stopped it.
    pub fn look(&self) {
        self.look.store(true, Relaxed);
        self.wake();
    }

    /// Whether something else than the relay is to carry this connection; the relay hands it over when it is told.
    pub fn set_diverted(&self, diverted: bool) {
        if self.diverted.swap(diverted, Relaxed) == diverted || !diverted {
            return;
        }
        self.wake();
    }

    pub(super) fn is_diverted(&self) -> bool {
        self.diverted.load(Relaxed)
    }

    /// Waits for a command and takes it: for what happens to a connection before it is relayed.
    pub async fn receive(&self) -> ConnectionCommand {
        std::future::poll_fn(|cx| {
            self.register_waker(cx);
            self.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Relaxed)
    }

    pub(super) fn peek(&self) -> Option<ConnectionCommand> {
        self.is_set().then(|| self.lock().command).flatten()
    }

    pub(super) fn take(&self) -> Option<ConnectionCommand> {
        if !self.is_set() {
            return None;
        }
        let mut slot = self.lock();
        self.is_set.store(false, Relaxed);
        slot.command.take()
    }

    /// Takes back a command that came to nothing, unless another has replaced it.
    pub(super) fn drop_command(&self, command: ConnectionCommand) {
        let mut slot = self.lock();
        if slot.command == Some(command) {
            self.is_set.store(false, Relaxed);
            slot.command = None;
        }
    }

    pub(super) fn takes_check(&self) -> bool {
        self.check_delivery.load(Relaxed) && self.check_delivery.swap(false, Relaxed)
    }

    pub(super) fn takes_look(&self) -> bool {
        self.look.load(Relaxed) && self.look.swap(false, Relaxed)
    }

    pub(super) fn register_waker(&self, cx: &Context<'_>) {
        let mut slot = self.lock();
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, CommandSlot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_wakes_and_a_cut_stands() {
        let commands = CommandChannel::default();
        let (command, ()) = tokio::join!(commands.receive(), async {
            tokio::task::yield_now().await;
            commands.send(ConnectionCommand::Cut(Reason::Killed));
            commands.send(ConnectionCommand::CloseAtRest {
                reason: Reason::MaxAge,
                quiet: Duration::ZERO,
                until: Moment::default(),
            });
        });
        assert_eq!(command, ConnectionCommand::Cut(Reason::Killed));
        assert_eq!(commands.take(), None);
    }
}
