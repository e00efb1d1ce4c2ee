//! The claim to a store's files: a lock that keeps other processes away, and the removal of files that a failed opening
//! created.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::files::{FileId, OWNER_ONLY, beside, sync_directory, unusable};
use super::mount::refuse_mounted_file;
use crate::StoreError;

/// How many times a lock may turn out to be on a file that its holder has just removed.
const LOCK_TRIES: u32 = 100;

/// Held as long as a store is open. Unless [`Self::keep`] was called, dropping it removes the files that the opening
/// created.
pub(crate) struct Claim {
    path: PathBuf,
    /// Before the lock, so that the files are removed while nobody else can open the store.
    created: CreatedFiles,
    /// On a file of its own, because closing any handle of the database file would drop SQLite's locks on it.
    lock: FileLock,
}

/// A locked file. Dropping it unlocks the file before closing it: if another thread is starting a program, that program
/// holds a copy of the handle for a moment, and with it the lock.
struct FileLock(File);

impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// The files that the opening created. Dropping this removes them unless they are kept.
#[derive(Default)]
struct CreatedFiles {
    /// The outermost directory first.
    directories: Vec<PathBuf>,
    lock: Option<PathBuf>,
    store: Option<PathBuf>,
    /// Whether all files stay.
    kept: bool,
}

impl Claim {
    /// Claims the store at `path`, which need not exist. Creates its directory if necessary.
    pub(crate) fn new(path: &Path) -> Result<Self, StoreError> {
        let mut created = CreatedFiles::default();
        let path = resolve(path, &mut created.directories)?;
        Self::lock(path, created)
    }

    /// Claims the store at `path`. If it does not exist, this creates nothing and fails.
    pub(crate) fn of_existing(path: &Path) -> Result<Self, StoreError> {
        let absolute = std::path::absolute(path).map_err(|error| unusable(path, error))?;
        match fs::canonicalize(&absolute) {
            Ok(path) => Self::lock(path, CreatedFiles::default()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                refuse_orphaned_log(&absolute)?;
                let reason = format!("{} does not exist: name the file of a store", path.display());
                Err(StoreError::invalid("store", reason))
            }
            Err(error) => Err(unusable(path, error)),
        }
    }

    /// Takes the lock before the store's file is touched.
    fn lock(path: PathBuf, mut created: CreatedFiles) -> Result<Self, StoreError> {
        refuse_mounted_file(&path)?;
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
            // The lock's holder may have removed the file between our `open` and our lock. Then the next process creates
            // and locks a new file, and both of us would believe that we are alone.
            let ours = FileId::of(&lock).map_err(|error| unusable(&lock_path, error))?;
            if FileId::at(&lock_path).is_ok_and(|found| found == ours) {
                created.lock = new.then_some(lock_path);
                return Ok(Self { path, created, lock: FileLock(lock) });
            }
        }
        Err(StoreError::unavailable(format!(
            "{} disappears as soon as it is locked: other processes open and close the store all the time",
            lock_path.display()
        )))
    }

    /// The store's file, absolute and without links, so that two names of one file lead to one lock.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the lock file existed before: an earlier process had a store here, or tried to create one.
    pub(crate) fn found_lock(&self) -> bool {
        self.created.lock.is_none()
    }

    pub(crate) fn lock_file(&self) -> &File {
        &self.lock.0
    }

    /// Records that the opening has created the store's file.
    pub(crate) fn store_created(&mut self) {
        self.created.store = Some(self.path.clone());
    }

    /// Keeps the created files, because the opening has succeeded.
    pub(crate) fn keep(&mut self) {
        self.created.kept = true;
    }
}

impl Drop for Claim {
    /// Also removes the lock file of an earlier process that could not create the store: it locks nothing.
    fn drop(&mut self) {
        if self.created.lock.is_none() && matches!(fs::exists(&self.path), Ok(false)) {
            self.created.lock = Some(beside(&self.path, "-lock"));
        }
    }
}

impl Drop for CreatedFiles {
    /// Ignores errors: the caller has to learn why the opening failed.
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

/// The lock file, and whether it is new. `None` if the file existed and was removed just now.
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

/// The absolute path without links. Creates its directory if necessary, and adds each new directory to `created`.
fn resolve(path: &Path, created: &mut Vec<PathBuf>) -> Result<PathBuf, StoreError> {
    let failed = |error| unusable(path, error);
    let absolute = std::path::absolute(path).map_err(failed)?;
    if let Ok(resolved) = fs::canonicalize(&absolute) {
        return Ok(resolved);
    }
    let (Some(directory), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(StoreError::invalid("store", format!("{} is not the path of a file", path.display())));
    };
    make_directories(directory, created).map_err(failed)?;
    Ok(fs::canonicalize(directory).map_err(failed)?.join(name))
}

/// Creates the directory and its parents, and syncs their directories. SQLite syncs only the directory of its files, so
/// without this a power loss could take a directory entry, and acknowledged events with it.
fn make_directories(directory: &Path, created: &mut Vec<PathBuf>) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let Some(parent) = directory.parent() else { return Ok(()) };
    make_directories(parent, created)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => created.push(directory.to_owned()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    sync_directory(parent)
}

/// A log without its file may hold acknowledged events, so no store is created over it.
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

    /// Each holder removes the lock file when it drops the claim, as a failed opening does.
    #[test]
    fn one_at_a_time_has_the_claim_although_its_lock_is_removed_again_and_again() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut claims = 0;
                    while claims < 2_000 {
                        let claim = match Claim::new(&path) {
                            Ok(claim) => claim,
                            Err(error) => {
                                let reason = error.to_string();
                                let known =
                                    ["is open in another process", "disappears as soon as it is locked"];
                                assert!(known.iter().any(|known| reason.contains(known)), "{reason}");
                                std::thread::yield_now();
                                continue;
                            }
                        };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two have the claim");
                        claims += 1;
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
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

    #[test]
    fn a_lock_without_a_store_is_removed_and_the_lock_of_a_store_stays() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let lock = beside(&path, "-lock");
        File::create(&lock).unwrap();
        drop(Claim::new(&path).unwrap());
        assert!(!lock.exists());
        for file in [&path, &lock] {
            File::create(file).unwrap();
        }
        drop(Claim::new(&path).unwrap());
        assert!(lock.exists() && path.exists());
    }

    #[test]
    fn an_opening_that_fails_removes_the_store_that_it_has_made() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let mut claim = Claim::new(&path).unwrap();
        for suffix in ["", "-wal", "-shm"] {
            File::create(beside(&path, suffix)).unwrap();
        }
        claim.store_created();
        drop(claim);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn stores_in_one_new_directory_can_be_claimed_at_once() {
        let directory = TempDir::new().unwrap();
        let start = std::sync::Barrier::new(4);
        for round in 0..200 {
            let deep = directory.path().join(format!("{round}/deep"));
            std::thread::scope(|scope| {
                let claim = |n: u32| {
                    let path = deep.join(format!("{n}.db"));
                    let start = &start;
                    move || {
                        start.wait();
                        Claim::new(&path).map_err(|error| error.to_string())
                    }
                };
                let threads = [0, 1, 2, 3].map(|n| scope.spawn(claim(n)));
                let claims = threads.map(|thread| thread.join().unwrap());
                assert!(claims.iter().all(Result::is_ok), "{:?}", claims.map(Result::err));
            });
        }
    }

    /// What failed is told, and not that something is missing or was removed.
    #[test]
    fn a_path_that_cannot_be_used_is_told_with_the_reason_of_the_system() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        fs::create_dir(beside(&path, "-lock")).unwrap();
        let locked = Claim::new(&path).err().unwrap().to_string();
        assert!(locked.contains("-lock cannot be used: Is a directory"), "{locked}");
        let long = directory.path().join("x".repeat(300));
        for claim in [Claim::new(&long), Claim::of_existing(&long)] {
            let error = claim.err().unwrap().to_string();
            assert!(error.contains("cannot be used: File name too long"), "{error}");
        }
        let below_a_file = directory.path().join("file/deep/events.db");
        File::create(directory.path().join("file")).unwrap();
        let error = Claim::new(&below_a_file).err().unwrap().to_string();
        assert!(error.contains("cannot be used: Not a directory"), "{error}");
    }

    /// In this directory of the system nobody can make a file.
    #[test]
    fn a_lock_or_a_directory_that_cannot_be_made_is_told_with_the_reason_of_the_system() {
        for path in ["/sys/events.db", "/sys/deep/events.db"] {
            let error = Claim::new(Path::new(path)).err().unwrap().to_string();
            let reasons = ["Permission denied", "Operation not permitted", "Read-only file system"];
            let told = reasons.iter().any(|reason| error.contains(&format!("cannot be used: {reason}")));
            assert!(told, "{error}");
        }
    }
}
