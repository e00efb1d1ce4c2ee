//! Backup: copies a store while it is in use.
//!
//! A copy by one long read would keep SQLite from starting its log again, and the log would grow by all that is appended
//! meanwhile. So the copy is made as a running machine is moved to another host: first the whole file, then the pages
//! that have changed meanwhile, then those that have changed meanwhile, and so on, until few are left. These are taken
//! between two commits, and the copy is as of the first of them. No read of it lasts longer than a slice.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};
use rustix::io::Errno;

use super::adopt::give_new_id;
use super::changed_pages::TakenPages;
use super::connector::Connector;
use super::files::{OWNER_ONLY, beside, draft, sync_directory, unusable};
use super::wal_mark;
use crate::StoreError;
use crate::store::BackupProgress;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::read;
use crate::store::sqlite::schema::PAGE_BYTES;

/// So many bytes of the file are copied before the next pause.
const STEP_BYTES: usize = 1 << 20;

/// So many changed pages are taken at a time, while no append runs: half a MiB.
const SLICE_PAGES: usize = 64;

/// After so many bytes, the copy is synced: what the system has gathered to write would make the appends' syncs wait.
const SYNC_BYTES: u64 = 16 << 20;

/// The longest pause after a step.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// The store that is copied.
pub(crate) struct Original<'a> {
    /// The main file. It was opened with the store, because closing any other handle would drop SQLite's locks.
    pub(crate) main: &'a File,
    pub(crate) pages: u32,
    /// Takes up to so many changed pages, between two commits.
    pub(crate) take: &'a dyn Fn(usize, &mut TakenPages) -> Result<(), StoreError>,
}

type OnProgress<'a> = &'a mut dyn FnMut(BackupProgress) -> ControlFlow<()>;

/// Copies the store, as of one commit, to `to`. The copy gets that name only once it is complete and was checked.
pub(crate) fn backup(
    original: &Original<'_>,
    to: &Path,
    connector: &Connector,
    on_progress: OnProgress<'_>,
) -> Result<(), StoreError> {
    let draft = Draft::create(to)?;
    let mut copy = Copy { draft: &draft, unsynced: 0, on_progress };
    draft.reserve(u64::from(original.pages) * u64::from(PAGE_BYTES))?;
    copy.copy_file(original)?;
    copy.copy_changed_pages(original)?;
    copy.report(BackupProgress::Checking)?;
    finish(&draft, connector)?;
    draft.take_name()
}

/// A file that gets its name once it is complete. Dropping it before removes it.
pub(super) struct Draft {
    file: File,
    pub(super) path: PathBuf,
    to: PathBuf,
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

    /// Puts the complete file in the place of `old`, with its permissions.
    pub(super) fn replace(mut self, old: &Path) -> Result<(), StoreError> {
        let permissions = fs::metadata(old).map(|old| old.permissions());
        let replaced = permissions
            .and_then(|permissions| self.file.set_permissions(permissions))
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.path, old));
        replaced.map_err(|error| self.failed(error))?;
        self.complete = true;
        Ok(())
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn failed(&self, error: io::Error) -> StoreError {
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

/// Removes a draft and what SQLite keeps beside it. Errors are ignored: the caller has to learn why the draft failed.
fn discard(draft: &Path) {
    for suffix in ["-wal", "-shm", "-journal", "-lock", ""] {
        let _ = fs::remove_file(beside(draft, suffix));
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
        if is_draft && File::open(&path)?.try_lock().is_ok() {
            discard(&path);
        }
    }
    Ok(())
}

struct Copy<'a> {
    draft: &'a Draft,
    /// How many bytes were written since the last sync.
    unsynced: u64,
    on_progress: OnProgress<'a>,
}

impl Copy<'_> {
    /// Copies the main file as it is. Whatever changes meanwhile is copied once more afterwards.
    fn copy_file(&mut self, original: &Original<'_>) -> Result<(), StoreError> {
        let length = u64::from(original.pages) * u64::from(PAGE_BYTES);
        let mut buffer = vec![0; STEP_BYTES];
        let mut at = 0;
        while at < length {
            let begun = Instant::now();
            let wanted = usize::try_from(length - at).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
            let read = original.main.read_at(&mut buffer[..wanted], at);
            let read = read.map_err(|error| self.draft.failed(error))?;
            if read == 0 {
                // The rest of the file is in the log so far.
                break;
            }
            self.write(&buffer[..read], at)?;
            at += read as u64;
            self.report(BackupProgress::Copying { bytes: at, total: length })?;
            self.pause(begun);
        }
        Ok(())
    }

    /// Copies what has changed until nothing is left to copy.
    fn copy_changed_pages(&mut self, original: &Original<'_>) -> Result<(), StoreError> {
        let mut taken = TakenPages::default();
        let mut limit = SLICE_PAGES;
        (original.take)(0, &mut taken)?;
        // In one pass, as many pages are copied as there were to copy when it began.
        let (mut pass, mut copied) = (taken.left, 0);
        loop {
            let begun = Instant::now();
            (original.take)(limit, &mut taken)?;
            let content = taken.bytes.chunks_exact(PAGE_BYTES as usize);
            for (&page, content) in taken.numbers.iter().zip(content) {
                self.write(content, u64::from(page - 1) * u64::from(PAGE_BYTES))?;
            }
            let total = u64::from(taken.total) * u64::from(PAGE_BYTES);
            if taken.left == 0 {
                return self.draft.file.set_len(total).map_err(|error| self.draft.failed(error));
            }
            let missing = taken.left * u64::from(PAGE_BYTES);
            self.report(BackupProgress::Copying { bytes: total.saturating_sub(missing), total })?;
            copied += taken.numbers.len() as u64;
            if copied >= pass {
                // Appends change pages about as fast as they are copied.
                if taken.left > pass / 2 {
                    limit *= 2;
                }
                (pass, copied) = (taken.left, 0);
            }
            self.pause(begun);
        }
    }

    fn write(&mut self, bytes: &[u8], at: u64) -> Result<(), StoreError> {
        let file = &self.draft.file;
        let written = file.write_all_at(bytes, at).and_then(|()| {
            self.unsynced += bytes.len() as u64;
            if self.unsynced < SYNC_BYTES {
                return Ok(());
            }
            self.unsynced = 0;
            file.sync_data()
        });
        written.map_err(|error| self.draft.failed(error))
    }

    fn report(&mut self, progress: BackupProgress) -> Result<(), StoreError> {
        match (self.on_progress)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StoreError::unavailable("the copy was given up by its caller")),
        }
    }

    /// Leaves the disk and the processor to the appends for as long as the step has taken.
    fn pause(&self, begun: Instant) {
        std::thread::sleep(begun.elapsed().min(MAX_PAUSE));
    }
}

/// Makes a store of the copied pages, and checks it.
fn finish(draft: &Draft, connector: &Connector) -> Result<(), StoreError> {
    let failed = |error| store_error(&format!("checking the copy {}", draft.to.display()), error);
    let mut connection = open_alone(&draft.path, connector).map_err(failed)?;
    let write = |connection: &mut Connection| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        give_new_id(&transaction)?;
        wal_mark::remove(&transaction)?;
        transaction.commit()
    };
    write(&mut connection).map_err(failed)?;
    check(&mut connection, &draft.to, connector)?;
    connection.close().map_err(|(_, error)| failed(error))
}

/// A connection to a draft. It has the file for itself, so it needs no `-shm`.
pub(super) fn open_alone(path: &Path, connector: &Connector) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connector.open(path, flags)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "synchronous", "EXTRA")?;
    Ok(connection)
}

/// Reads all of a copy and checks it against itself.
pub(super) fn check(connection: &mut Connection, to: &Path, connector: &Connector) -> Result<(), StoreError> {
    let report = read::verify(connection, connector.fingerprint_bits())?;
    match report.faults.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => {
            let (to, more) = (to.display(), rest.len());
            let what =
                format!("the copy {to} is not sound, and was not kept: {first} (and {more} other faults)");
            Err(StoreError::corrupt(what))
        }
    }
}
