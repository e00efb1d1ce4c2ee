//! How connections to the file are made; the one place where a test can put something else below them.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags};

use super::claim::Claim;
use crate::store::sqlite::background::HelperObserver;
use crate::store::sqlite::index::FINGERPRINT_BITS;
use crate::store::sqlite::options::SqliteOptions;
use crate::store::sqlite::test_hooks::Hooks;
use crate::{Deadline, StoreError};

/// How many steps SQLite does for a reader between two looks at the deadline: some 5 µs of work, and a look takes
/// 0.03.
const READ_STEPS: i32 = 200;

/// Makes connections as the options say.
#[derive(Clone)]
pub(crate) struct Connector {
    #[cfg_attr(not(feature = "test-util"), expect(dead_code, reason = "it holds nothing then"))]
    hooks: Hooks,
    /// Whether the index of the log is in the memory of this process and not in the file `-shm`: of this connector and
    /// all its clones.
    private_index: Arc<AtomicBool>,
}

impl Connector {
    pub(crate) fn new(options: &SqliteOptions) -> Self {
        Self { hooks: options.test_hooks.clone(), private_index: Arc::default() }
    }

    /// From now on connections do without the file `-shm`, because there is no room for it. Other processes cannot read
    /// the store then. No connection may be open.
    pub(crate) fn do_without_shared_memory(&self) {
        self.private_index.store(true, Ordering::Relaxed);
    }

    /// The VFS of all connections; `None` if it is the system's own.
    fn vfs(&self) -> Option<String> {
        let private = self.private_index.load(Ordering::Relaxed);
        #[cfg(feature = "test-util")]
        if let Some(vfs) = &self.hooks.0.vfs {
            return Some(if private { format!("{vfs}-excl") } else { vfs.clone() });
        }
        // <https://sqlite.org/vfs.html#standard_unix_vfses>
        private.then(|| "unix-excl".to_owned())
    }

    pub(crate) fn open(&self, path: impl AsRef<Path>, flags: OpenFlags) -> rusqlite::Result<Connection> {
        match self.vfs() {
            Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs.as_str()),
            None => Connection::open_with_flags(path, flags),
        }
    }

    /// Claims the store at `path`, which may not be there yet.
    pub(crate) fn claim(&self, path: &Path) -> Result<Claim, StoreError> {
        let claim = Claim::new(path);
        #[cfg(feature = "test-util")]
        if self.hooks.0.dies_when_opening_fails {
            return claim.map(|mut claim| {
                claim.keep();
                claim
            });
        }
        claim
    }

    /// Makes the connections of a pool.
    pub(crate) fn manager(&self, path: &Path, flags: OpenFlags) -> SqliteConnectionManager {
        if let Some(vfs) = self.vfs() {
            // The manager cannot be told a VFS, but a URI can name one.
            let escaped =
                path.display().to_string().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            return SqliteConnectionManager::file(format!("file:{escaped}?vfs={vfs}"))
                .with_flags(flags | OpenFlags::SQLITE_OPEN_URI);
        }
        SqliteConnectionManager::file(path).with_flags(flags)
    }

    /// Makes the next statements of `reader` end at the deadline, even in the middle of one. Without a deadline, removes
    /// that of an earlier read.
    ///
    /// It is a progress handler and not a thread that interrupts: that could come too late, and hit the next read
    /// of the same connection.
    pub(crate) fn set_deadline(
        &self,
        reader: &Connection,
        deadline: Option<Deadline>,
    ) -> rusqlite::Result<()> {
        #[cfg(feature = "test-util")]
        let on_read_steps = self.hooks.0.on_read_steps.clone();
        let is_over = move || {
            #[cfg(feature = "test-util")]
            on_read_steps.iter().for_each(|on_read_steps| on_read_steps());
            deadline.is_some_and(Deadline::has_passed)
        };
        reader.progress_handler(READ_STEPS, Some(is_over))
    }

    /// The `PRAGMA synchronous` of the writer, and how it reads back.
    pub(crate) fn synchronous(&self) -> (&'static str, u32) {
        #[cfg(feature = "test-util")]
        if self.hooks.0.synchronous_normal {
            return ("NORMAL", 1);
        }
        ("FULL", 2)
    }

    /// See [`TestHooks`].
    pub(crate) fn in_step(&self) -> bool {
        #[cfg(feature = "test-util")]
        return self.hooks.0.in_step;
        #[cfg(not(feature = "test-util"))]
        false
    }

    /// How the threads beside the writer are watched.
    pub(crate) fn helper_observer(&self) -> HelperObserver {
        HelperObserver {
            #[cfg(feature = "test-util")]
            on_step: self.hooks.0.on_helper.clone(),
        }
    }

    /// How many bits of a fingerprint are used.
    pub(crate) fn fingerprint_bits(&self) -> u32 {
        #[cfg(feature = "test-util")]
        if self.hooks.0.fingerprint_bits != 0 {
            return self.hooks.0.fingerprint_bits;
        }
        FINGERPRINT_BITS
    }

    /// Writes every byte of the file at `path` over itself, and syncs it. A file that is not there is fine.
    ///
    /// After a failed fsync Linux may keep the pages and call them clean: they are read, they are not on
    /// the disk, and the next fsync succeeds without writing them. Only a page that is written again is
    /// sure to go there.
    pub(crate) fn write_anew(&self, path: &Path) -> io::Result<()> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let length = file.read_at(&mut buffer, at)?;
            if length == 0 {
                break;
            }
            file.write_all_at(&buffer[..length], at)?;
            at += length as u64;
        }
        file.sync_all()?;
        #[cfg(feature = "test-util")]
        if let Some(on_sync) = &self.hooks.0.on_sync {
            on_sync(path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_file_that_is_written_anew_is_the_same_and_was_written() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db-wal");
        let bytes: Vec<_> = (0..(5_u32 << 18)).flat_map(u32::to_le_bytes).collect();
        fs::write(&path, &bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let connector = Connector::new(&SqliteOptions::default());
        connector.write_anew(&path).unwrap();
        assert!(fs::read(&path).unwrap() == bytes);
        assert!(fs::metadata(&path).unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH);
        connector.write_anew(&directory.path().join("missing")).unwrap();
        assert!(connector.write_anew(directory.path()).is_err(), "a directory cannot be written");
    }
}
