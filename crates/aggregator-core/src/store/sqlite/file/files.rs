//! Checks that the store's files are still there under their names.
//!
//! A file that is deleted, renamed or replaced while it is open can be written and synced as before, but the next start
//! does not find what was written. So before an append is acknowledged, each name is looked up and compared with the
//! open file.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::StoreError;
use crate::store::sqlite::fault::is_out_of_space;

/// The mode of new files: only their owner reads and writes them. SQLite gives its log the mode of the main file.
pub(crate) const OWNER_ONLY: u32 = 0o600;

/// Identifies a file, whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|metadata| Self::from(&metadata))
    }

    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The files of an open store. If nothing more may be acknowledged, it also says why.
pub(crate) struct Files {
    watched: [WatchedFile; 3],
    failure: OnceLock<String>,
}

struct WatchedFile {
    role: FileRole,
    path: PathBuf,
    file_id: FileId,
    /// How long it was when it was looked at last.
    bytes: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FileRole {
    Main,
    Log,
    Lock,
}

impl Files {
    /// Watches the files of the store that was opened by the name `given` and lies at `path`. Its log has to be open.
    pub(crate) fn watch(given: &Path, path: &Path, main: &File, lock: &File) -> Result<Self, StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| unusable(&path, error)
        };
        // The name as it was given: if a link in it is changed, the next start follows the new link.
        let given = std::path::absolute(given).map_err(failed(given))?;
        let (log, lock_path) = (beside(path, "-wal"), beside(path, "-lock"));
        let main = FileId::of(main).map_err(failed(&given))?;
        let lock = FileId::of(lock).map_err(failed(&lock_path))?;
        let log_id = FileId::at(&log).map_err(failed(&log))?;
        let watch = |role, path, file_id| WatchedFile { role, path, file_id, bytes: AtomicU64::new(0) };
        let watched = [
            watch(FileRole::Main, given, main),
            watch(FileRole::Log, log, log_id),
            watch(FileRole::Lock, lock_path, lock),
        ];
        Ok(Self { watched, failure: OnceLock::new() })
    }

    /// Fails if something has failed before, or if a name no longer leads to the open file.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.check_failure()?;
        self.check_names()
    }

    /// Fails if a name no longer leads to the open file, and then always: nothing repairs that.
    pub(crate) fn check_names(&self) -> Result<(), StoreError> {
        for file in &self.watched {
            match fs::metadata(&file.path) {
                Ok(found) if FileId::from(&found) == file.file_id => {
                    file.bytes.store(found.len(), Ordering::Relaxed);
                }
                found => {
                    let found = found.map(|found| FileId::from(&found));
                    return Err(self.fail(self.describe_loss(file, found)));
                }
            }
        }
        Ok(())
    }

    /// The bytes of the main file and of the log as of the last check, which comes with each commit.
    pub(crate) fn sizes(&self) -> [u64; 2] {
        let [main, log, _] = &self.watched;
        [main, log].map(|file| file.bytes.load(Ordering::Relaxed))
    }

    /// Fails if something has failed before.
    pub(crate) fn check_failure(&self) -> Result<(), StoreError> {
        match self.failure.get() {
            Some(reason) => Err(StoreError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// From now on nothing is acknowledged. Only the first reason is kept.
    pub(crate) fn fail(&self, reason: String) -> StoreError {
        let reason = self.failure.get_or_init(|| reason).clone();
        StoreError::Poisoned { reason }
    }

    fn describe_loss(&self, file: &WatchedFile, found: io::Result<FileId>) -> String {
        let path = file.path.display();
        let happened = match found {
            Ok(_) => format!("{path} is another file than the one that is open: it was replaced"),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                format!("{path} was deleted or renamed while it was open")
            }
            Err(error) => format!("{path} cannot be looked up any more ({error})"),
        };
        if file.role == FileRole::Lock {
            return format!(
                "{happened}. Without it a second process can open the store: stop this one, see that no other has \
                 the store open, and start again"
            );
        }
        format!("{happened}. {}", self.rescue_advice())
    }

    /// Says where the files can still be read while this process lives.
    fn rescue_advice(&self) -> String {
        let pid = std::process::id();
        let place = |role| {
            let file = self.watched.iter().find(|file| file.role == role);
            let number = file.and_then(|file| descriptor(file.file_id));
            number.map_or_else(|| format!("/proc/{pid}/fd"), |number| format!("/proc/{pid}/fd/{number}"))
        };
        format!(
            "What was acknowledged before is in the files that are open: before this process ends, copy {} to a new \
             name, and {} to the same name with -wal behind it; after aggregator-server check --accept-copied-files, a start with that name goes on from \
             there",
            place(FileRole::Main),
            place(FileRole::Log)
        )
    }
}

/// The number of the descriptor by which this process has the file open. This opens no file, because closing it again
/// would drop SQLite's locks.
fn descriptor(file_id: FileId) -> Option<String> {
    let open = fs::read_dir("/proc/self/fd").ok()?;
    let found = open.flatten().find(|entry| FileId::at(&entry.path()).is_ok_and(|found| found == file_id))?;
    found.file_name().into_string().ok()
}

pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A new, unique name beside `path`, for a file that is not complete yet.
pub(crate) fn draft(path: &Path, kind: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.{kind}", ulid::Ulid::generate()))
}

/// Creates an empty file, which SQLite takes for a new database.
pub(crate) fn create_empty(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path).map(drop)
}

/// Removes a draft that could not be completed, and what is beside it. Ignores errors: the caller has to learn why the
/// draft failed.
pub(crate) fn discard(draft: &Path) {
    // The file itself is the last one, because by its name others find what a crash has left.
    for suffix in ["-wal", "-shm", "-journal", "-lock", ""] {
        let _ = fs::remove_file(beside(draft, suffix));
    }
}

pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(crate) fn unusable(path: &Path, error: io::Error) -> StoreError {
    let reason = format!("{} cannot be used: {error}", path.display());
    if is_out_of_space(&error) {
        return StoreError::NoSpace { reason, source: Some(Box::new(error)) };
    }
    StoreError::Unavailable { reason, source: Some(Box::new(error)) }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_discarded_draft_leaves_nothing() {
        let directory = TempDir::new().unwrap();
        let draft = draft(&directory.path().join("events.db"), "new");
        create_empty(&draft).unwrap();
        create_empty(&beside(&draft, "-journal")).unwrap();
        discard(&draft);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        discard(&draft);
    }

    #[test]
    fn what_has_become_of_a_file_is_told() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        for suffix in ["", "-wal", "-lock"] {
            create_empty(&beside(&path, suffix)).unwrap();
        }
        let (main, lock) = (File::open(&path).unwrap(), File::open(beside(&path, "-lock")).unwrap());
        let told_after = |change: &dyn Fn()| {
            let files = Files::watch(&path, &path, &main, &lock).unwrap();
            change();
            files.check().unwrap_err().to_string()
        };
        let link_to_itself = || std::os::unix::fs::symlink(&path, &path).unwrap();
        let moved = directory.path().join("moved");
        let told = told_after(&|| fs::rename(&path, &moved).unwrap());
        assert!(told.contains("events.db was deleted or renamed"), "{told}");
        let told = told_after(&|| create_empty(&path).unwrap());
        assert!(told.contains("events.db is another file"), "{told}");
        fs::remove_file(&path).unwrap();
        let told = told_after(&link_to_itself);
        assert!(told.contains("events.db cannot be looked up any more"), "{told}");
    }

    #[test]
    fn a_directory_that_cannot_be_synced_is_an_error() {
        let directory = TempDir::new().unwrap();
        assert!(sync_directory(directory.path()).is_ok());
        assert!(sync_directory(&directory.path().join("missing")).is_err());
    }
}
