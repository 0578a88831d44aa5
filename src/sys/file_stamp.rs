//! Whether a file has changed, without reading it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// What a file looked like: time, length, and inode, because tools replace files by renaming. A file that is not there
/// has a stamp as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp(Option<(SystemTime, u64, u64)>);

// === impl FileStamp ===

impl FileStamp {
    /// Blocks as long as the file system does.
    pub fn of(file: &Path) -> Self {
        let look = || {
            let metadata = fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        };
        Self(look())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_a_rename_and_an_end_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        let absent = FileStamp::of(&file);
        fs::write(&file, "one").unwrap();
        let one = FileStamp::of(&file);
        assert_ne!(one, absent);
        assert_eq!(FileStamp::of(&file), one);
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &file).unwrap();
        assert_ne!(FileStamp::of(&file), one);
        fs::remove_file(&file).unwrap();
        assert_eq!(FileStamp::of(&file), absent);
    }
}
