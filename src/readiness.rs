//! Start-up progress: parts that must be running before the instance counts as started register with [`Readiness`]
//! and drop their [`BlockReady`] when they are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The parts that are not running yet. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<Vec<&'static str>>>,
}

/// Keeps the instance from counting as started until dropped.
#[derive(Debug)]
pub struct BlockReady {
    name: &'static str,
    readiness: Readiness,
}

// === impl Readiness ===

impl Readiness {
    pub fn register(&self, name: &'static str) -> BlockReady {
        self.lock().push(name);
        BlockReady {
            name,
            readiness: self.clone(),
        }
    }

    /// The parts that are still missing; empty once started.
    pub fn pending(&self) -> Vec<&'static str> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<&'static str>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        let mut pending = self.readiness.lock();
        if let Some(index) = pending.iter().position(|name| *name == self.name) {
            pending.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn started_once_every_block_is_gone() {
        let readiness = Readiness::default();
        let listeners = readiness.register("listeners");
        assert_eq!(readiness.pending(), ["listeners"]);
        drop(listeners);
        assert!(readiness.pending().is_empty());
    }
}
