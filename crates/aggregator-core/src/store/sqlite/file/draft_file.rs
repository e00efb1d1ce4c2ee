//! A new file that is written under another name, and gets its own once it is complete.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};
use rustix::io::Errno;

use super::claim::refuse_orphaned_log;
use super::connector::Connector;
use super::files::{OWNER_ONLY, beside, discard, draft, sync_directory, unusable};
use super::wal_mark;
use crate::StoreError;
use crate::store::sqlite::fault::store_error;

/// A file that gets its name once it is complete. Dropping it before removes it.
pub(crate) struct Draft {
    file: File,
    pub(super) path: PathBuf,
    pub(super) to: PathBuf,
    complete: bool,
}

impl Draft {
    /// For a new file at `to`. Removes the drafts of processes that have died over it.
    pub(super) fn create(to: &Path) -> Result<Self, StoreError> {
        let given = to;
        let to = std::path::absolute(to).map_err(|error| unusable(to, error))?;
        if fs::symlink_metadata(&to).is_ok() {
            let reason = format!("{} exists: name a new file", given.display());
            return Err(StoreError::invalid("path", reason));
        }
        // It would be taken for the log of the new file.
        refuse_orphaned_log(&to)?;
        Self::create_beside(&to)
    }

    /// For a file that is to take the place of the one at `path`.
    pub(super) fn create_beside(path: &Path) -> Result<Self, StoreError> {
        let to = path.to_owned();
        remove_dead_drafts(&to).map_err(|error| unusable(&to, error))?;
        let path = draft(&to, "copy");
        let failed = |error| unusable(&to, error);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(OWNER_ONLY).open(&path);
        let draft = Self { file: file.map_err(failed)?, path, to: to.clone(), complete: false };
        // Says that this process lives.
        draft.file.try_lock().map_err(|error| failed(error.into()))?;
        Ok(draft)
    }

    /// Puts the complete file in the place of the one that it was created beside, with the owner and the permissions of
    /// that one.
    pub(super) fn replace(mut self) -> Result<(), StoreError> {
        let replace = || {
            let (old, new) = (fs::metadata(&self.to)?, self.file.metadata()?);
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                fchown(&self.file, Some(old.uid()), Some(old.gid()))?;
            }
            self.file.set_permissions(old.permissions())?;
            self.file.sync_all()?;
            fs::rename(&self.path, &self.to)
        };
        replace().map_err(|error| self.failed(error))?;
        self.complete = true;
        self.sync_directory()
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives up the lock that says that this process lives. On network file systems it would keep SQLite out.
    pub(super) fn let_go(&self) {
        let _ = self.file.unlock();
    }

    /// A connection to the draft. It has the file for itself, so it needs no `-shm`.
    pub(super) fn connect(&self, connector: &Connector) -> rusqlite::Result<Connection> {
        self.let_go();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = connector.open(&self.path, flags)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "synchronous", "EXTRA")?;
        Ok(connection)
    }

    /// Moves everything into the file itself and closes it.
    pub(super) fn close(&self, connection: Connection) -> Result<(), StoreError> {
        let failed = |error| store_error(&format!("completing the copy {}", self.to.display()), error);
        // Its own copy at the end SQLite makes without saying whether it could.
        wal_mark::copy_all(&connection, "TRUNCATE").map_err(failed)?;
        connection.close().map_err(|(_, error)| failed(error))?;
        let log = fs::metadata(beside(&self.path, "-wal")).map_or(0, |log| log.len());
        if log == 0 {
            let _ = fs::remove_file(beside(&self.path, "-wal"));
            return Ok(());
        }
        Err(StoreError::unavailable(format!("{}: a part of the copy is still in its log", self.to.display())))
    }

    pub(super) fn failed(&self, error: io::Error) -> StoreError {
        unusable(&self.to, error)
    }

    /// Takes the room for so many bytes, so that a copy that does not fit ends before it begins.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), StoreError> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes.max(1)) {
            // Where the file system cannot do that, the copy finds out by itself.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(match self.failed(error.into()) {
                StoreError::NoSpace { reason, source } => {
                    StoreError::NoSpace { reason: format!("a copy needs {bytes} bytes: {reason}"), source }
                }
                other => other,
            }),
        }
    }

    /// Gives the complete file its name.
    pub(super) fn take_name(mut self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(|error| self.failed(error))?;
        rename_to_new(&self.path, &self.to).map_err(|error| self.failed(error))?;
        self.complete = true;
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<(), StoreError> {
        let directory = self.to.parent().unwrap_or(Path::new("/"));
        sync_directory(directory).map_err(|error| unusable(directory, error))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.complete {
            discard(&self.path);
        }
    }
}

/// Renames a file. Replaces nothing that has come to the new name meanwhile, where the file system can do that.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

/// Removes the drafts of a copy with this name whose processes have ended.
fn remove_dead_drafts(to: &Path) -> io::Result<()> {
    let prefix = format!(".{}.", to.file_name().unwrap_or_default().to_string_lossy());
    for entry in fs::read_dir(to.parent().unwrap_or(Path::new("/")))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let id = name.and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".copy"));
        let is_draft = id.is_some_and(|id| id.parse::<ulid::Ulid>().is_ok());
        // One that cannot be looked at is no reason not to make another one.
        let is_file = || fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
        let is_dead = || OpenOptions::new().write(true).open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if is_draft && is_file() && is_dead() {
            discard(&path);
        }
    }
    Ok(())
}
