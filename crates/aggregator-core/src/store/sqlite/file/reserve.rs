//! Room on the disk that is kept for purges, in a file that holds nothing.
//!
//! A purge writes before it frees anything: its transaction goes into the log, and the log can be begun anew only once all of
//! it is copied into the main file, which may have to grow for that. On a disk without a free byte neither is
//! possible. So a file beside the store keeps as much room as the log usually needs. Once a purge finds no room, the
//! file is cut, and the purge takes its room.
//!
//! From then on, appends are taken only while the main file has as many free pages: for these neither it nor its log has to
//! grow. Purges free pages. As soon as the file system has room again, the file takes its part.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::files::{OWNER_ONLY, beside};
use crate::store::sqlite::options::SqliteOptions;

/// The log has at most about so many times its usual length when the disk becomes full.
const LOGS: u64 = 4;

/// On a small disk, the usual length of the log is this part of it, so that the reserve is a sixteenth.
const LOGS_PER_DISK: u64 = 64;

/// The least usual length of the log, in bytes.
const MIN_LOG_BYTES: u64 = 256 << 10;

/// For so long after it was released, the room is the purge's.
const RELEASED_FOR: Duration = Duration::from_secs(1);

pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    is_whole: AtomicBool,
    released: Mutex<Option<Instant>>,
}

impl Reserve {
    /// For the store at `path`, if the options ask for one. If not, one that is there goes.
    pub(crate) fn of(path: &Path, options: &SqliteOptions) -> Option<Self> {
        let reserve = Self {
            path: beside(path, "-reserve"),
            bytes: u64::from(options.checkpoint_bytes) * LOGS,
            is_whole: AtomicBool::new(false),
            released: Mutex::new(None),
        };
        if options.keep_room_for_purges {
            let _ = reserve.fill();
            return Some(reserve);
        }
        let _ = fs::remove_file(&reserve.path);
        None
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    /// As [`Self::fill`], once whoever it was released for has had the time to use the room.
    pub(crate) fn fill_again(&self) -> io::Result<()> {
        let released = *self.released.lock().unwrap_or_else(PoisonError::into_inner);
        match released.filter(|released| released.elapsed() < RELEASED_FOR) {
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
            None => self.fill(),
        }
    }

    /// Takes the room, if there is so much.
    fn fill(&self) -> io::Result<()> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(OWNER_ONLY).open(&self.path)?;
        if let Err(error) = take_room(&file, self.bytes) {
            // A part of it would be missing elsewhere and be of no use here.
            self.cut();
            return Err(error);
        }
        self.is_whole.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the room back to the disk.
    pub(crate) fn release(&self) {
        *self.released.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.cut();
    }

    fn cut(&self) {
        self.is_whole.store(false, Ordering::Relaxed);
        // Cut and not removed: a name may need room, too, when it is made again.
        let _ = OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(0));
    }
}

fn take_room(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() != bytes {
        file.set_len(0)?;
    }
    Ok(fallocate(file, FallocateFlags::empty(), 0, bytes)?)
}

/// The options, with a log that is short enough for the disk that the file at `path` is on.
pub(crate) fn fitting(path: &Path, mut options: SqliteOptions) -> SqliteOptions {
    // The directory may not be there yet.
    let existing = path.ancestors().skip(1).find(|directory| directory.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    if options.keep_room_for_purges
        && let Ok(disk) = statvfs(existing)
    {
        let log_bytes = (disk.f_blocks.saturating_mul(disk.f_frsize) / LOGS_PER_DISK).max(MIN_LOG_BYTES);
        options.checkpoint_bytes = options.checkpoint_bytes.min(u32::try_from(log_bytes).unwrap_or(u32::MAX));
    }
    options
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_reserve_takes_room_gives_it_back_and_goes_when_nobody_asks_for_it() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let options = |keep_room_for_purges| SqliteOptions {
            keep_room_for_purges,
            checkpoint_bytes: 64 << 10,
            ..SqliteOptions::default()
        };
        let of_file = || fs::metadata(beside(&path, "-reserve")).unwrap();
        let reserve = Reserve::of(&path, &options(true)).unwrap();
        assert!(reserve.is_whole() && reserve.bytes() == 256 << 10);
        assert!(of_file().blocks() * 512 >= reserve.bytes() && of_file().mode() & 0o777 == 0o600);
        reserve.release();
        assert!(!reserve.is_whole() && of_file().blocks() == 0);
        assert!(reserve.fill_again().is_err(), "it was released for somebody");
        reserve.fill().unwrap();
        assert!(reserve.is_whole() && of_file().len() == reserve.bytes());
        assert!(Reserve::of(&path, &options(false)).is_none());
        assert!(!beside(&path, "-reserve").exists());
    }
}
