//! Whether a file is another one than before.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Tells a file from the one that was there before: device, inode, size, and when its content and its inode changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp([i128; 5]);

impl FileStamp {
    /// Of the file that is there now, behind all symbolic links; `None` if there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Some(Self([
            file.dev().into(),
            file.ino().into(),
            file.size().into(),
            nanoseconds(file.mtime(), file.mtime_nsec()),
            nanoseconds(file.ctime(), file.ctime_nsec()),
        ]))
    }
}
