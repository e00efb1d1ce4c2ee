//! The store's files: which they are, and whether they are still there under their names.
//!
//! A file that is deleted, renamed or replaced while it is open can be written and synced like before. Whoever opens
//! the store next finds none of that. So before an append is acknowledged, each name is looked up and compared with the
//! file that is open.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::StoreError;
use crate::store::sqlite::fault::is_shortage;

/// New files are neither read nor written by others. SQLite gives its log the mode of the main file.
pub(crate) const OWNER_ONLY: u32 = 0o600;

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|metadata| Self::from(&metadata))
    }

    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The files of an open store, and why nothing more may be acknowledged, once that is so.
pub(crate) struct Files {
    watched: [Watched; 3],
    failure: OnceLock<String>,
}

struct Watched {
    role: Role,
    path: PathBuf,
    identity: Identity,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    Log,
    Lock,
}

impl Files {
    /// Watches the files of the store that was opened as `given` and lies at `path`. Its log is open.
    pub(crate) fn watch(given: &Path, path: &Path, main: &File, lock: &File) -> Result<Self, StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| unusable(&path, error)
        };
        // As it was given: where a link in it leads to another place, the next start goes there.
        let given = std::path::absolute(given).map_err(failed(given))?;
        let (log, lock_path) = (beside(path, "-wal"), beside(path, "-lock"));
        let main = Identity::of(main).map_err(failed(&given))?;
        let lock = Identity::of(lock).map_err(failed(&lock_path))?;
        let log_identity = Identity::at(&log).map_err(failed(&log))?;
        let watched = [
            Watched { role: Role::Main, path: given, identity: main },
            Watched { role: Role::Log, path: log, identity: log_identity },
            Watched { role: Role::Lock, path: lock_path, identity: lock },
        ];
        Ok(Self { watched, failure: OnceLock::new() })
    }

    /// Whether nothing has failed, and each file is still the one under its name.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.check_failure()?;
        self.check_names()
    }

    /// Whether each file is still the one under its name. Once one is not, nothing makes it good.
    pub(crate) fn check_names(&self) -> Result<(), StoreError> {
        for file in &self.watched {
            match Identity::at(&file.path) {
                Ok(found) if found == file.identity => {}
                found => return Err(self.fail(self.what_became_of(file, found))),
            }
        }
        Ok(())
    }

    /// Whether something failed before.
    pub(crate) fn check_failure(&self) -> Result<(), StoreError> {
        match self.failure.get() {
            Some(reason) => Err(StoreError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// From now on nothing is acknowledged. The first reason stays.
    pub(crate) fn fail(&self, reason: String) -> StoreError {
        let reason = self.failure.get_or_init(|| reason).clone();
        StoreError::Poisoned { reason }
    }

    fn what_became_of(&self, file: &Watched, found: io::Result<Identity>) -> String {
        let path = file.path.display();
        let happened = match found {
            Ok(_) => format!("{path} is another file than the one that is open: it was replaced"),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                format!("{path} was deleted or renamed while it was open")
            }
            Err(error) => format!("{path} cannot be looked up any more ({error})"),
        };
        if file.role == Role::Lock {
            return format!(
                "{happened}. Without it a second process can open the store: stop this one, see that no other has \
                 the store open, and start again"
            );
        }
        format!("{happened}. {}", self.rescue())
    }

    /// Where the files can still be read as long as this process lives.
    fn rescue(&self) -> String {
        let pid = std::process::id();
        let place = |role| {
            let file = self.watched.iter().find(|file| file.role == role);
            let number = file.and_then(|file| descriptor(file.identity));
            number.map_or_else(|| format!("/proc/{pid}/fd"), |number| format!("/proc/{pid}/fd/{number}"))
        };
        format!(
            "What was acknowledged before is in the files that are open: before this process ends, copy {} to a new \
             name, and {} to the same name with -wal behind it; a start with that name goes on from there",
            place(Role::Main),
            place(Role::Log)
        )
    }
}

/// The number under which this process has the file open. Nothing is opened to find out: closing it again would drop
/// SQLite's locks.
fn descriptor(identity: Identity) -> Option<String> {
    let open = fs::read_dir("/proc/self/fd").ok()?;
    let found =
        open.flatten().find(|entry| Identity::at(&entry.path()).is_ok_and(|found| found == identity))?;
    found.file_name().into_string().ok()
}

pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A name beside `path` that nobody else has.
pub(crate) fn draft(path: &Path, kind: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.{kind}", ulid::Ulid::generate()))
}

/// Makes an empty file, which SQLite takes for a new database.
pub(crate) fn create_empty(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path).map(drop)
}

/// Removes a draft that came to nothing. That it cannot be removed is not what the caller has to know first.
pub(crate) fn discard(draft: &Path) {
    for suffix in ["", "-journal"] {
        let _ = fs::remove_file(beside(draft, suffix));
    }
}

pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(crate) fn unusable(path: &Path, error: io::Error) -> StoreError {
    let reason = format!("{} cannot be used: {error}", path.display());
    if is_shortage(&error) {
        return StoreError::NoSpace { reason, source: Some(Box::new(error)) };
    }
    StoreError::Unavailable { reason, source: Some(Box::new(error)) }
}
