//! The file a client map is in: read with a bound, as text.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// It is too long to be a client map.
    #[error("{0}: longer than {1} bytes, which is no client map")]
    TooLong(PathBuf, usize),
    /// It is not text.
    #[error("{0}: not UTF-8 text")]
    NotText(PathBuf),
}

/// Reads at most `largest` bytes of text.
pub(super) fn load(path: &Path, largest: usize) -> Result<String, LoadError> {
    let read = |error| LoadError::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    let limit = u64::try_from(largest).unwrap_or(u64::MAX).saturating_add(1);
    let file = File::open(path).map_err(read)?;
    file.take(limit).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() > largest {
        return Err(LoadError::TooLong(path.to_owned(), largest));
    }
    String::from_utf8(bytes).map_err(|_| LoadError::NotText(path.to_owned()))
}
