//! Whether there is room on the disk.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::files::beside;
use crate::StoreError;
use crate::store::sqlite::fault::is_shortage;

/// So much has to fit for the disk to count as one that has room again.
const ROOM_BYTES: usize = 1 << 20;

/// How often that is tried at most.
const EVERY: Duration = Duration::from_secs(1);

/// Knows whether appends fail for lack of room: from the last one and, once it failed so, from trying, since nobody may
/// append any more to a store that is said to be full.
pub(crate) struct Room {
    /// Beside the store, empty, and nobody else's.
    lock_file: PathBuf,
    is_short: AtomicBool,
    short: Mutex<Option<Shortage>>,
}

struct Shortage {
    reason: String,
    since: Instant,
}

impl Room {
    /// Of the disk with the store at `path`, which is open.
    pub(crate) fn of(path: &Path) -> Self {
        let room = Self {
            lock_file: beside(path, "-lock"),
            is_short: AtomicBool::new(false),
            short: Mutex::new(None),
        };
        if let Err(error) = room.try_out() {
            room.set(Some(error));
        }
        room
    }

    /// Learns from what became of an append.
    pub(crate) fn note<T>(&self, appended: &Result<T, StoreError>) {
        match appended {
            Err(StoreError::NoSpace { reason, .. }) => self.set(Some(reason.clone())),
            Ok(_) if self.is_short.load(Ordering::Relaxed) => self.set(None),
            _ => {}
        }
    }

    /// [`StoreError::NoSpace`] as long as an append would meet it, as far as that is known.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if !self.is_short.load(Ordering::Relaxed) {
            return Ok(());
        }
        let since = self.lock().as_ref().map(|short| short.since);
        if since.is_some_and(|since| since.elapsed() >= EVERY) {
            self.set(self.try_out().err());
        }
        match &*self.lock() {
            Some(Shortage { reason, .. }) => {
                Err(StoreError::NoSpace { reason: reason.clone(), source: None })
            }
            None => Ok(()),
        }
    }

    /// Makes the lock file longer for a moment.
    fn try_out(&self) -> Result<(), String> {
        let grow = || -> io::Result<()> {
            let mut file = OpenOptions::new().append(true).open(&self.lock_file)?;
            let length = file.metadata()?.len();
            let grown = file.write_all(&vec![0; ROOM_BYTES]);
            file.set_len(length)?;
            grown
        };
        match grow() {
            Err(error) if is_shortage(&error) => {
                let place = self.lock_file.parent().unwrap_or(Path::new("/"));
                Err(format!("there is no room for {ROOM_BYTES} bytes in {}: {error}", place.display()))
            }
            // Of anything else the next append tells.
            _ => Ok(()),
        }
    }

    fn set(&self, reason: Option<String>) {
        let mut short = self.lock();
        self.is_short.store(reason.is_some(), Ordering::Relaxed);
        *short = reason.map(|reason| Shortage { reason, since: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Shortage>> {
        // Whoever holds it replaces a value, and does not panic half-way.
        self.short.lock().unwrap_or_else(PoisonError::into_inner)
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
        let room = Room::of(&path);
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
}
