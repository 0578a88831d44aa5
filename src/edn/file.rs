//! Reads the file that a client map is in, with a bound on its size.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::sandbox;

/// Why a file could not be read as text.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0}: is a {1}, not a regular file")]
    NotAFile(PathBuf, &'static str),
    #[error("{0}: longer than {1} bytes, which is no client map")]
    TooLong(PathBuf, usize),
    #[error("{0}: not UTF-8 text")]
    NotText(PathBuf),
}

/// Reads at most `max_bytes` of text.
pub(super) fn load(path: &Path, max_bytes: usize) -> Result<String, LoadError> {
    let read = |error| LoadError::Read(path.to_owned(), error);
    // Checked before opening: opening a FIFO waits for a writer, perhaps for ever.
    let kind = std::fs::metadata(path).map_err(read)?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "directory"
        } else {
            "pipe, socket or device"
        };
        return Err(LoadError::NotAFile(path.to_owned(), what));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(max_bytes)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let file = sandbox::open(path).map_err(read)?;
    file.take(limit).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() > max_bytes {
        return Err(LoadError::TooLong(path.to_owned(), max_bytes));
    }
    String::from_utf8(bytes).map_err(|_| LoadError::NotText(path.to_owned()))
}
