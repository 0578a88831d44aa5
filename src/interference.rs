//! What is disturbed on purpose inside this process: connects, lookups and the clock that tells of a suspend.
//!
//! One per instance, set by a drill and consulted where connects and lookups begin, so that everything behind them
//! (dials, probes, spares, health) meets the disturbance as it would meet a real one. Nothing outside the process is
//! touched. While nothing is disturbed a look costs one relaxed load; the relay never looks.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;

/// The disturbances of one instance. Cheap to clone; the clones share one state.
#[derive(Clone, Debug)]
pub struct Interference {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Whether connects or lookups are disturbed.
    is_active: AtomicBool,
    state: watch::Sender<Disturbance>,
}

/// What is disturbed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// What happens to connects to the addresses below.
    pub connects: Option<ConnectFault>,
    /// As they stand in `Address::socket`.
    pub addresses: Arc<BTreeSet<SocketAddr>>,
    pub lookups: Option<LookupFault>,
    /// The clock that runs on while the machine sleeps is ahead by this.
    pub slept: Duration,
}

/// What happens to a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFault {
    /// As if nothing listened there.
    Refused,
    /// As if packets were lost: it waits until the disturbance is over.
    Silent,
    /// It begins that much later.
    Late(Duration),
}

/// What happens to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupFault {
    /// The servers cannot answer.
    Fails,
    /// They answer without an address.
    Empty,
}

/// A connect that is to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

// === impl Interference ===

impl Default for Interference {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                is_active: AtomicBool::new(false),
                state: watch::Sender::new(Disturbance::default()),
            }),
        }
    }
}

impl Interference {
    /// Puts this in the place of what was disturbed before; the default ends it.
    pub fn set(&self, disturbance: Disturbance) {
        let is_active = disturbance.connects.is_some() || disturbance.lookups.is_some();
        self.inner.state.send_if_modified(|state| {
            let is_new = *state != disturbance;
            *state = disturbance;
            is_new
        });
        self.inner.is_active.store(is_active, Relaxed);
    }

    /// What happens to a connect to this address now.
    pub fn on_connect(&self, to: SocketAddr) -> Option<ConnectFault> {
        if !self.inner.is_active.load(Relaxed) {
            return None;
        }
        let state = self.inner.state.borrow();
        state.connects.filter(|_| state.addresses.contains(&to))
    }

    /// Resolves when a connect to this address may begin.
    pub async fn may_connect(&self, to: SocketAddr) -> Result<(), Refused> {
        let mut changes = self.inner.state.subscribe();
        loop {
            changes.mark_unchanged();
            match self.on_connect(to) {
                None => return Ok(()),
                Some(ConnectFault::Refused) => return Err(Refused),
                Some(ConnectFault::Late(by)) => {
                    tokio::time::sleep(by).await;
                    return Ok(());
                }
                // The sender lives as long as we do.
                Some(ConnectFault::Silent) => drop(changes.changed().await),
            }
        }
    }

    /// What happens to a lookup now.
    pub fn on_lookup(&self) -> Option<LookupFault> {
        if !self.inner.is_active.load(Relaxed) {
            return None;
        }
        self.inner.state.borrow().lookups
    }

    /// By how much the clock that runs on during a suspend is ahead.
    pub fn slept(&self) -> Duration {
        self.inner.state.borrow().slept
    }

    /// Resolves when that has changed.
    pub async fn sleep_changed(&self, from: Duration) {
        let mut changes = self.inner.state.subscribe();
        // The sender lives as long as we do.
        let _ = changes.wait_for(|state| state.slept != from).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1))
    }

    fn connects(fault: ConnectFault) -> Disturbance {
        Disturbance {
            connects: Some(fault),
            addresses: Arc::new(BTreeSet::from([at(1)])),
            ..Disturbance::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_named_addresses_are_disturbed() {
        let interference = Interference::default();
        assert_eq!(interference.may_connect(at(1)).await, Ok(()));
        interference.set(connects(ConnectFault::Refused));
        assert_eq!(interference.may_connect(at(1)).await, Err(Refused));
        assert_eq!(interference.may_connect(at(2)).await, Ok(()));
        assert_eq!(interference.on_lookup(), None);
        let late = Duration::from_millis(300);
        interference.set(connects(ConnectFault::Late(late)));
        let began = tokio::time::Instant::now();
        assert_eq!(interference.may_connect(at(1)).await, Ok(()));
        assert_eq!(began.elapsed(), late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connect_goes_on_when_the_silence_ends() {
        let interference = Interference::default();
        interference.set(connects(ConnectFault::Silent));
        let other = interference.clone();
        let waiting = tokio::spawn(async move { other.may_connect(at(1)).await });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!waiting.is_finished());
        interference.set(Disturbance::default());
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }
}
