//! How things end and when they are ready: drain ([`Trigger`], [`Watch`], [`Blocker`]) and readiness ([`Startup`]).
//!
//! A [`Trigger`] fires once. Everybody holding a [`Watch`] sees it; everybody holding a [`Blocker`] holds up
//! [`Trigger::finished`]. Start-up tasks register with [`Startup`] and drop their guard when they are done.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

/// Says stop, once.
#[derive(Debug)]
pub struct Trigger {
    fired: watch::Sender<bool>,
    /// Closed when the last blocker is gone. Our own sender is dropped when we start to wait.
    blockers: Option<mpsc::Sender<()>>,
    gone: mpsc::Receiver<()>,
}

/// Sees the stop.
#[derive(Clone, Debug)]
pub struct Watch {
    fired: watch::Receiver<bool>,
    blocker: mpsc::WeakSender<()>,
}

/// Holds up [`Trigger::finished`] until dropped.
#[derive(Clone, Debug)]
pub struct Blocker {
    _hold: Option<mpsc::Sender<()>>,
}

/// A trigger and its first watch.
pub fn trigger() -> (Trigger, Watch) {
    let (fired, seen) = watch::channel(false);
    let (hold, gone) = mpsc::channel(1);
    let watch = Watch {
        fired: seen,
        blocker: hold.downgrade(),
    };
    (
        Trigger {
            fired,
            blockers: Some(hold),
            gone,
        },
        watch,
    )
}

/// Start-up tasks that are not done yet; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Startup {
    pending: Arc<Mutex<Vec<&'static str>>>,
}

/// Dropped when its start-up task is done.
#[derive(Debug)]
pub struct Pending {
    name: &'static str,
    startup: Startup,
}

// === impl Trigger ===

impl Trigger {
    /// Fires; a second time does nothing.
    pub fn fire(&self) {
        self.fired.send_replace(true);
    }

    /// Whether it has fired.
    pub fn has_fired(&self) -> bool {
        *self.fired.borrow()
    }

    /// Waits until the last [`Blocker`] is dropped. Does not fire.
    pub async fn finished(&mut self) {
        self.blockers = None;
        while self.gone.recv().await.is_some() {}
    }
}

// === impl Watch ===

impl Watch {
    /// Whether the trigger has fired (or is gone).
    pub fn has_fired(&self) -> bool {
        *self.fired.borrow() || self.fired.has_changed().is_err()
    }

    /// Resolves when the trigger fires (or is gone).
    pub async fn fired(&mut self) {
        let _ = self.fired.wait_for(|fired| *fired).await;
    }

    /// Something that must end before the trigger's owner goes on.
    pub fn blocker(&self) -> Blocker {
        Blocker {
            _hold: self.blocker.upgrade(),
        }
    }
}

// === impl Startup ===

impl Startup {
    /// Registers a start-up task; the process is not started before the guard is dropped.
    pub fn register(&self, name: &'static str) -> Pending {
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(name);
        Pending {
            name,
            startup: self.clone(),
        }
    }

    /// The tasks that are not done; empty when started.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = self
            .startup
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = pending.iter().position(|name| *name == self.name) {
            pending.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blocker_holds_up_the_end() {
        let (mut trigger, mut watch) = trigger();
        let blocker = watch.blocker();
        trigger.fire();
        watch.fired().await;
        let ended = tokio::spawn(async move { trigger.finished().await });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        drop(blocker);
        ended.await.unwrap();
    }

    #[test]
    fn startup_is_done_when_all_guards_are_gone() {
        let startup = Startup::default();
        let listeners = startup.register("listeners");
        assert_eq!(startup.pending(), ["listeners"]);
        drop(listeners);
        assert!(startup.pending().is_empty());
    }
}
