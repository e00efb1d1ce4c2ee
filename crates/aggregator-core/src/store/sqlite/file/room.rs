//! Knows whether there is room on the disk for appends.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::files::beside;
use super::reserve::Reserve;
use crate::StoreError;
use crate::store::sqlite::fault::is_out_of_space;

/// The disk has room again once so many bytes fit.
const MIN_ROOM_BYTES: usize = 1 << 20;

/// The least time between two tries.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Whether appends fail for lack of room. The last append tells. After one has failed, this tries by itself, because
/// clients may send no more appends to a store that says it is full.
pub(crate) struct Room {
    /// The store's lock file: beside the store, empty, and used by nobody else.
    lock_file: PathBuf,
    is_full: AtomicBool,
    out_of_space: Mutex<Option<OutOfSpace>>,
    /// Where purges have room of their own.
    reserve: Option<Reserve>,
    /// Of the main file, as of the last purge or append that looked.
    free_bytes: AtomicU64,
}

struct OutOfSpace {
    reason: String,
    since: Instant,
}

impl Room {
    /// For the disk of the open store at `path`.
    pub(crate) fn of(path: &Path, reserve: Option<Reserve>) -> Self {
        let room = Self {
            lock_file: beside(path, "-lock"),
            is_full: AtomicBool::new(false),
            out_of_space: Mutex::new(None),
            reserve,
            free_bytes: AtomicU64::new(0),
        };
        if let Err(error) = room.try_to_grow() {
            room.set(Some(error));
        }
        room
    }

    /// Learns from the result of an append.
    pub(crate) fn note<T>(&self, appended: &Result<T, StoreError>) {
        match appended {
            Err(StoreError::NoSpace { reason, .. }) => self.set(Some(reason.clone())),
            Ok(_) if self.is_full.load(Ordering::Relaxed) => self.set(None),
            _ => {}
        }
    }

    /// [`StoreError::NoSpace`] as long as an append would fail with it, as far as that is known.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if let Some(reserve) = self.reserve.as_ref().filter(|reserve| !reserve.is_whole())
            && reserve.fill_again().is_ok()
        {
            self.set(None);
        }
        if !self.is_full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let since = self.lock().as_ref().map(|out_of_space| out_of_space.since);
        if since.is_some_and(|since| since.elapsed() >= RETRY_INTERVAL) {
            self.set(self.try_to_grow().err());
        }
        match &*self.lock() {
            Some(OutOfSpace { reason, .. }) => {
                Err(StoreError::NoSpace { reason: reason.clone(), source: None })
            }
            None => Ok(()),
        }
    }

    /// Refuses an append while the reserve is in use and too few pages are free to do without it.
    pub(crate) fn admit(&self, free_bytes: impl FnOnce() -> u64) -> Result<(), StoreError> {
        let Some(reserve) = self.reserve.as_ref().filter(|reserve| !reserve.is_whole()) else {
            return Ok(());
        };
        self.free_bytes.store(free_bytes(), Ordering::Relaxed);
        if self.has_free_pages(reserve) {
            return Ok(());
        }
        let reason = self.in_use(reserve);
        self.set(Some(reason.clone()));
        Err(StoreError::NoSpace { reason, source: None })
    }

    /// Whether a write that found no room may be tried again: once all of the log is copied, it can be written from its start.
    /// For a purge, the reserve is given up.
    pub(crate) fn can_try_again(&self, purges: bool) -> bool {
        let Some(reserve) = &self.reserve else { return false };
        if purges {
            reserve.release();
        }
        purges || self.has_free_pages(reserve)
    }

    /// Learns how many bytes in free pages there are after a purge.
    pub(crate) fn purged(&self, free_bytes: impl FnOnce() -> u64) {
        if self.reserve.as_ref().is_some_and(|reserve| !reserve.is_whole()) {
            self.free_bytes.store(free_bytes(), Ordering::Relaxed);
        }
    }

    /// What is kept for purges.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.reserve.as_ref().map_or(0, Reserve::bytes)
    }

    fn has_free_pages(&self, reserve: &Reserve) -> bool {
        self.free_bytes.load(Ordering::Relaxed) >= reserve.bytes()
    }

    fn in_use(&self, reserve: &Reserve) -> String {
        let free = self.free_bytes.load(Ordering::Relaxed);
        format!(
            "the room of {} bytes that is kept for purges is in use, and {free} bytes of the store are free",
            reserve.bytes()
        )
    }

    /// Makes the lock file longer for a moment. Says why, if there is no room.
    fn try_to_grow(&self) -> Result<(), String> {
        if let Some(reserve) = self.reserve.as_ref().filter(|reserve| !reserve.is_whole()) {
            if self.has_free_pages(reserve) {
                return Ok(());
            }
            // Behind the room for an append, there has to be that of the reserve.
            return reserve.fill_again().map_err(|error| format!("{}: {error}", self.in_use(reserve)));
        }
        let grow = || -> io::Result<()> {
            let mut file = OpenOptions::new().append(true).open(&self.lock_file)?;
            let length = file.metadata()?.len();
            let grown = file.write_all(&vec![0; MIN_ROOM_BYTES]);
            let cut = file.set_len(length);
            grown.and(cut)
        };
        match grow() {
            Err(error) if is_out_of_space(&error) => {
                let place = self.lock_file.parent().unwrap_or(Path::new("/"));
                Err(format!("there is no room for {MIN_ROOM_BYTES} bytes in {}: {error}", place.display()))
            }
            // The next append reports any other error.
            _ => Ok(()),
        }
    }

    fn set(&self, reason: Option<String>) {
        let mut out_of_space = self.lock();
        self.is_full.store(reason.is_some(), Ordering::Relaxed);
        *out_of_space = reason.map(|reason| OutOfSpace { reason, since: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, Option<OutOfSpace>> {
        // Its holders only replace the value, so it is whole even after a panic.
        self.out_of_space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use tempfile::TempDir;

    use super::*;

    fn full<T>() -> Result<T, StoreError> {
        Err(StoreError::NoSpace { reason: "as planned".into(), source: None })
    }

    #[test]
    fn an_append_says_whether_there_is_room_and_where_there_are_none_it_is_tried() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let lock = directory.path().join("events.db-lock");
        File::create(&lock).unwrap().write_all(b"kept").unwrap();
        let room = Room::of(&path, None);
        assert!(room.check().is_ok());
        room.note(&full::<()>());
        assert!(matches!(room.check(), Err(StoreError::NoSpace { reason, .. }) if reason == "as planned"));
        room.note(&Ok(()));
        assert!(room.check().is_ok());
        room.note(&full::<()>());
        // Any other error says nothing about room.
        room.note::<()>(&Err(StoreError::unavailable("busy")));
        while room.check().is_err() {}
        assert_eq!(std::fs::read(&lock).unwrap(), b"kept");
    }

    #[test]
    fn a_try_that_fails_says_there_is_no_room_only_if_that_is_why() {
        // A write to this device fails as it does on a full disk.
        let on = |lock: &str| Room {
            lock_file: lock.into(),
            is_full: AtomicBool::new(false),
            out_of_space: Mutex::new(None),
            reserve: None,
            free_bytes: AtomicU64::new(0),
        };
        let reason = on("/dev/full").try_to_grow().unwrap_err();
        assert!(reason.contains("no room for 1048576 bytes in /dev"), "{reason}");
        assert_eq!(on("/dev/null/no-directory").try_to_grow(), Ok(()));
    }
}
