//! What all relays of one instance share: the pipe budget, the memory in leftovers, and counts.
//!
//! The relay knows neither metrics nor logs; the supervisor exports these.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::activity::Activity;
use crate::sys::pipe::{NoPipe, PipeBudget, PipeLimits};

use super::thread_buffer;
use super::urgent::UrgentNews;

/// Leftovers in all above which reads shrink, so that 2,000 clients that never read cost at most 16 KiB each.
const LEFTOVER_CAP: usize = 8 << 20;

/// What one read takes then.
const SMALL_READ: usize = 8 << 10;

/// Shared by all relays of one instance.
#[derive(Debug)]
pub struct RelayShared {
    /// Wakes the supervisor: a byte has moved, or a connection has begun or ended.
    pub activity: Activity,
    /// Some socket has urgent data.
    pub urgent: UrgentNews,
    pub(super) pipes: Arc<PipeBudget>,
    leftover: AtomicUsize,
    fallbacks: [AtomicU64; NoPipe::ALL.len()],
    stalls: AtomicU64,
    reset_gave_up: AtomicU64,
    stall: Mutex<Option<String>>,
}

// === impl RelayShared ===

impl RelayShared {
    /// With bounds on pipes.
    pub fn new(limits: PipeLimits) -> Self {
        Self {
            activity: Activity::default(),
            urgent: UrgentNews::default(),
            pipes: Arc::new(PipeBudget::new(limits)),
            leftover: AtomicUsize::new(0),
            fallbacks: Default::default(),
            stalls: AtomicU64::new(0),
            reset_gave_up: AtomicU64::new(0),
            stall: Mutex::default(),
        }
    }

    /// Pipes that connections hold now.
    pub fn pipes_in_use(&self) -> usize {
        self.pipes.in_use()
    }

    /// Pipes that exist, pooled ones included.
    pub fn pipes_existing(&self) -> usize {
        self.pipes.existing()
    }

    /// Memory in leftovers.
    pub fn leftover_bytes(&self) -> usize {
        self.leftover.load(Relaxed)
    }

    /// How often splice was wanted and memory was used, by reason.
    pub fn fallbacks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NoPipe::ALL
            .into_iter()
            .map(|why| (why.as_str(), self.fallbacks[why.index()].load(Relaxed)))
    }

    /// Directions that stood still for no reason: bugs of ours.
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Relaxed)
    }

    /// Resets that were passed on before everything acknowledged was delivered, because `reset_deadline` had passed.
    pub fn reset_gave_up(&self) -> u64 {
        self.reset_gave_up.load(Relaxed)
    }

    /// The picture of the first stall since the last call, for the log.
    pub fn take_stall(&self) -> Option<String> {
        self.stall
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(super) fn fell_back(&self, why: NoPipe) {
        self.fallbacks[why.index()].fetch_add(1, Relaxed);
    }

    pub(super) fn stalled(&self, picture: impl FnOnce() -> String) {
        self.stalls.fetch_add(1, Relaxed);
        self.stall
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(picture);
    }

    pub(super) fn gave_up(&self) {
        self.reset_gave_up.fetch_add(1, Relaxed);
    }

    /// What one read may take now.
    pub(super) fn read_size(&self) -> usize {
        if self.leftover_bytes() > LEFTOVER_CAP {
            SMALL_READ
        } else {
            thread_buffer::SIZE
        }
    }

    pub(super) fn leftover_grew(&self, bytes: usize) {
        self.leftover.fetch_add(bytes, Relaxed);
    }

    pub(super) fn leftover_shrank(&self, bytes: usize) {
        self.leftover.fetch_sub(bytes, Relaxed);
    }
}

impl Default for RelayShared {
    fn default() -> Self {
        Self::new(PipeLimits::of_this_machine())
    }
}
