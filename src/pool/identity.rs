//! Which system an address answers as, and which system this upstream is pinned to (contract 7.11).

use std::fmt;
use std::sync::Arc;

/// The `:s3-auth-path` an address answered with: equal ids, the same Datomic system.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(Arc<str>);

// === impl SystemId ===

impl SystemId {
    /// Wraps the value as it was read.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// The value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
