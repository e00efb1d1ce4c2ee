//! The claim to a store's files: a lock that keeps others away, and the duty to clear away what a failed opening made.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::files::{Identity, OWNER_ONLY, beside, sync_directory, unusable};
use crate::StoreError;

/// How often a lock may turn out to be on a file that its holder has just removed.
const LOCK_TRIES: u32 = 100;

/// Held as long as a store is open. Unless it is [kept](Self::keep), whatever the opening made goes with it.
pub(crate) struct Claim {
    path: PathBuf,
    /// Before the lock, so that it is cleared away while nobody else can have opened the store.
    made: Made,
    /// On a file of its own, since closing any handle of the database file would drop the locks SQLite has on it.
    lock: Held,
}

/// A file with the lock on it. It is given back and not only closed: a program that is being started on another thread
/// holds a copy of the handle for a moment, and with it the lock.
struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// What was not there before.
#[derive(Default)]
struct Made {
    /// From the outermost to the innermost.
    directories: Vec<PathBuf>,
    lock: Option<PathBuf>,
    store: Option<PathBuf>,
    /// Whether all of it stays.
    kept: bool,
}

impl Claim {
    /// Claims the store at `path`, which may not be there yet; its directory is made if need be.
    pub(crate) fn new(path: &Path) -> Result<Self, StoreError> {
        let mut made = Made::default();
        let path = resolve(path, &mut made.directories)?;
        Self::lock(path, made)
    }

    /// Claims the store at `path`; makes nothing if there is none.
    pub(crate) fn of_existing(path: &Path) -> Result<Self, StoreError> {
        let absolute = std::path::absolute(path).map_err(|error| unusable(path, error))?;
        match fs::canonicalize(&absolute) {
            Ok(path) => Self::lock(path, Made::default()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                refuse_orphaned_log(&absolute)?;
                let reason = format!("{} does not exist: name the file of a store", path.display());
                Err(StoreError::invalid("store", reason))
            }
            Err(error) => Err(unusable(path, error)),
        }
    }

    /// Takes the lock before the store's file is touched.
    fn lock(path: PathBuf, mut made: Made) -> Result<Self, StoreError> {
        let lock_path = beside(&path, "-lock");
        for _ in 0..LOCK_TRIES {
            let opened = open_lock(&lock_path).map_err(|error| unusable(&lock_path, error))?;
            let Some((lock, new)) = opened else { continue };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::unavailable(format!(
                        "{} is open in another process, or a second time in this one",
                        path.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(unusable(&lock_path, error)),
            }
            // Its holder may have removed it between our `open` and our lock: then the next process makes a new file
            // and locks that one, and both of us would believe that we are alone.
            let ours = Identity::of(&lock).map_err(|error| unusable(&lock_path, error))?;
            if Identity::at(&lock_path).is_ok_and(|found| found == ours) {
                made.lock = new.then_some(lock_path);
                return Ok(Self { path, made, lock: Held(lock) });
            }
        }
        Err(StoreError::unavailable(format!(
            "{} disappears as soon as it is locked: other processes open and close the store all the time",
            lock_path.display()
        )))
    }

    /// The file, absolute and without links: two names of one file meet at one lock.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the lock was there before: an earlier process had a store here, or tried to make one.
    pub(crate) fn found_lock(&self) -> bool {
        self.made.lock.is_none()
    }

    pub(crate) fn lock_file(&self) -> &File {
        &self.lock.0
    }

    /// The store's file was not there before, and is now.
    pub(crate) fn made_store(&mut self) {
        self.made.store = Some(self.path.clone());
    }

    /// The opening succeeded: what it made stays.
    pub(crate) fn keep(&mut self) {
        self.made.kept = true;
    }
}

impl Drop for Claim {
    /// An earlier process that could not make the store may have left its lock, which locks nothing.
    fn drop(&mut self) {
        if self.made.lock.is_none() && matches!(fs::exists(&self.path), Ok(false)) {
            self.made.lock = Some(beside(&self.path, "-lock"));
        }
    }
}

impl Drop for Made {
    /// What cannot be removed is not what the caller has to know first.
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Some(store) = &self.store {
            for suffix in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(beside(store, suffix));
            }
        }
        if let Some(lock) = &self.lock {
            let _ = fs::remove_file(lock);
        }
        for directory in self.directories.iter().rev() {
            // Only if it is empty.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// The lock's file, and whether it is new; nothing, if it was there and was removed just now.
fn open_lock(path: &Path) -> io::Result<Option<(File, bool)>> {
    match OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path) {
        Ok(new) => return Ok(Some((new, true))),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    match OpenOptions::new().write(true).open(path) {
        Ok(existing) => Ok(Some((existing, false))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The absolute path without links; its directory is made if need be, and what was made is noted.
fn resolve(path: &Path, made: &mut Vec<PathBuf>) -> Result<PathBuf, StoreError> {
    let failed = |error| unusable(path, error);
    let absolute = std::path::absolute(path).map_err(failed)?;
    if let Ok(resolved) = fs::canonicalize(&absolute) {
        return Ok(resolved);
    }
    let (Some(directory), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(StoreError::invalid("store", format!("{} is not the path of a file", path.display())));
    };
    make_directories(directory, made).map_err(failed)?;
    Ok(fs::canonicalize(directory).map_err(failed)?.join(name))
}

/// Makes the directory and its parents. SQLite syncs the directory of its files but not the ones above,
/// so an acknowledged event could go with a directory entry.
fn make_directories(directory: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let Some(parent) = directory.parent() else { return Ok(()) };
    make_directories(parent, made)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => made.push(directory.to_owned()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    sync_directory(parent)
}

/// A log without its file may hold acknowledged events: no store is made over it.
pub(crate) fn refuse_orphaned_log(path: &Path) -> Result<(), StoreError> {
    let wal = beside(path, "-wal");
    if fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0) {
        return Err(StoreError::corrupt(format!(
            "{} is missing, but its write-ahead log {} is there and may hold acknowledged events: \
             put the file back, or move the log away to start anew",
            path.display(),
            wal.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tempfile::TempDir;

    use super::*;

    /// Each holder removes the lock's file when it lets go, as a failed opening does.
    #[test]
    fn one_at_a_time_has_the_claim_although_its_lock_is_removed_again_and_again() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let (inside, claims) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..3_000 {
                        let Ok(claim) = Claim::new(&path) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two have the claim");
                        claims.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
        assert!(claims.load(Ordering::SeqCst) > 100);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_claim_that_is_not_granted_leaves_the_lock_of_its_holder() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("deep/events.db");
        let holder = Claim::new(&path).unwrap();
        assert!(Claim::new(&path).is_err());
        assert!(beside(holder.path(), "-lock").exists());
        drop(holder);
        assert!(!directory.path().join("deep").exists());
    }
}
