//! A folder for temporary files that only this user can read.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Such a folder, removed when it is dropped.
#[derive(Debug)]
pub struct PrivateFolder(PathBuf);

// === impl PrivateFolder ===

impl PrivateFolder {
    /// Makes one in the system's folder for temporary files, named after its `purpose`.
    ///
    /// # Errors
    ///
    /// The folder for temporary files cannot be written; the message names the path.
    pub fn new(purpose: &str) -> io::Result<Self> {
        let process = std::process::id();
        let name = format!("entryway-{purpose}-{process}-{:x}", fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // What is left in the folder for temporary files is removed by the system.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
