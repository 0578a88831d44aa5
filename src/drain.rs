//! Coordinated shutdown: a [`DrainTrigger`] fires once, every [`DrainWatcher`] sees it, and whoever still has work to
//! finish holds a [`DrainBlocker`].
//!
//! The owner of the trigger fires it and then waits in [`DrainTrigger::finished`] until the last blocker has been
//! dropped. Watchers do not hold up the end, so a part that only needs to know may keep one for as long as it likes.

use tokio::sync::{mpsc, watch};

/// The sending side. Dropping it counts as firing.
#[derive(Debug)]
pub struct DrainTrigger {
    fired: watch::Sender<bool>,
    /// Upgraded by watchers to make blockers; dropped when waiting for them begins.
    blockers: Option<mpsc::Sender<()>>,
    gone: mpsc::Receiver<()>,
}

/// The receiving side.
#[derive(Clone, Debug)]
pub struct DrainWatcher {
    fired: watch::Receiver<bool>,
    blocker: mpsc::WeakSender<()>,
}

/// Holds up [`DrainTrigger::finished`] until dropped.
#[derive(Clone, Debug)]
pub struct DrainBlocker {
    _hold: Option<mpsc::Sender<()>>,
}

/// A trigger and its first watcher.
pub fn channel() -> (DrainTrigger, DrainWatcher) {
    let (fired, seen) = watch::channel(false);
    let (hold, gone) = mpsc::channel(1);
    let watcher = DrainWatcher {
        fired: seen,
        blocker: hold.downgrade(),
    };
    let trigger = DrainTrigger {
        fired,
        blockers: Some(hold),
        gone,
    };
    (trigger, watcher)
}

// === impl DrainTrigger ===

impl DrainTrigger {
    /// Fires; later calls have no effect.
    pub fn fire(&self) {
        self.fired.send_replace(true);
    }

    pub fn has_fired(&self) -> bool {
        *self.fired.borrow()
    }

    /// Waits until the last [`DrainBlocker`] is dropped. Does not fire.
    pub async fn finished(&mut self) {
        self.blockers = None;
        while self.gone.recv().await.is_some() {}
    }
}

// === impl DrainWatcher ===

impl DrainWatcher {
    pub fn has_fired(&self) -> bool {
        *self.fired.borrow() || self.fired.has_changed().is_err()
    }

    /// Resolves once the trigger has fired.
    pub async fn fired(&mut self) {
        let _ = self.fired.wait_for(|fired| *fired).await;
    }

    pub fn blocker(&self) -> DrainBlocker {
        DrainBlocker {
            _hold: self.blocker.upgrade(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blocker_holds_up_the_end() {
        let (mut trigger, mut watcher) = channel();
        let blocker = watcher.blocker();
        trigger.fire();
        watcher.fired().await;
        let ended = tokio::spawn(async move { trigger.finished().await });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        drop(blocker);
        ended.await.unwrap();
    }
}
