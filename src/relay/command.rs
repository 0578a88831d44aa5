//! What others may ask of a live connection, and the channel on which they ask.
//!
//! Any thread may send; the task that carries the connection is woken, and checks once more on its own thread
//! before it acts.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
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
    /// What the relay is asked to do once, each a bit of [`Asked`].
    asked: AtomicU8,
    /// The upstream leg's options have been asked for.
    has_options: AtomicBool,
    /// When a check of delivery was last asked for, in micros.
    last_check: AtomicU64,
    slot: Mutex<CommandSlot>,
}

#[derive(Debug, Default)]
struct CommandSlot {
    command: Option<ConnectionCommand>,
    waker: Option<Waker>,
}

/// What a relay is asked to do once, when it is next polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked(u8);

// === impl Asked ===

impl Asked {
    /// See whether sent bytes are acknowledged.
    const CHECK: u8 = 1;
    /// See whether urgent data stands in the way.
    const LOOK: u8 = 2;
    /// Set the options of the upstream leg.
    const OPTIONS: u8 = 4;
    /// Ask the peer of the upstream leg for a sign of life.
    const LIFE: u8 = 8;

    pub(super) fn check_delivery(self) -> bool {
        self.0 & Self::CHECK != 0
    }

    pub(super) fn look(self) -> bool {
        self.0 & Self::LOOK != 0
    }

    pub(super) fn set_options(self) -> bool {
        self.0 & Self::OPTIONS != 0
    }

    pub(super) fn sign_of_life(self) -> bool {
        self.0 & Self::LIFE != 0
    }
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
        self.ask(Asked::CHECK);
    }

    /// Asks the relay to go on where urgent data may have stopped it.
    pub fn look(&self) {
        self.ask(Asked::LOOK);
    }

    /// Asks the relay, once for each upstream that the connection reaches, for the options of the upstream leg: by the
    /// time when they can matter, most connections are over.
    pub fn set_options(&self) {
        if !self.has_options.swap(true, Relaxed) {
            self.ask(Asked::OPTIONS);
        }
    }

    /// Has the upstream's kernel asked whether it still knows this connection: one that gives no sign of life is over
    /// within 2 s. [`CommandChannel::restore_options`] ends that.
    pub fn ask_for_life(&self) {
        self.ask(Asked::LIFE);
    }

    pub fn restore_options(&self) {
        self.ask(Asked::OPTIONS);
    }

    /// Whether they have been asked for.
    pub fn has_options(&self) -> bool {
        self.has_options.load(Relaxed)
    }

    /// Another upstream is reached: its socket has no options yet. Called while the connection is shown as connected to
    /// none, so that they are not asked for meanwhile.
    pub fn begin_upstream(&self) {
        self.has_options.store(false, Relaxed);
    }

    fn ask(&self, what: u8) {
        self.asked.fetch_or(what, Relaxed);
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

    /// Whether a command stands.
    pub fn is_set(&self) -> bool {
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

    /// `None` in nearly every poll, which then costs one load.
    pub(super) fn take_asked(&self) -> Option<Asked> {
        (self.asked.load(Relaxed) != 0).then(|| Asked(self.asked.swap(0, Relaxed)))
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
