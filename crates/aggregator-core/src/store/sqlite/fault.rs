//! From SQLite's errors to what the caller has to do about them.

use std::io::{self, ErrorKind};

use rusqlite::{Error, ErrorCode, Result, ffi};

use super::row::checksum::Corruption;
use crate::{Deadline, Fault, StoreError};

/// The store's word for `error`, met while `doing` something. To be asked right after the call that failed, on its
/// thread: see [`shortage`].
pub(super) fn store_error(doing: &str, error: Error) -> StoreError {
    if let Error::FromSqlConversionFailure(_, _, cause) = &error
        && let Some(corruption) = cause.downcast_ref::<Corruption>()
    {
        return StoreError::corrupt(corruption.to_string());
    }
    if let Some(shortage) = shortage(&error) {
        return StoreError::NoSpace {
            reason: format!("{doing}: {error} ({shortage})"),
            source: Some(Box::new(error)),
        };
    }
    let reason = format!("{doing}: {error}");
    match &error {
        Error::SqliteFailure(failure, _) => match failure.code {
            // Nothing else interrupts a statement.
            ErrorCode::OperationInterrupted => Deadline::missed(doing),
            ErrorCode::DiskFull => StoreError::NoSpace { reason, source: Some(Box::new(error)) },
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation => {
                StoreError::Corrupt { what: reason, source: Some(Box::new(error)) }
            }
            _ => StoreError::Unavailable { reason, source: Some(Box::new(error)) },
        },
        // Values that cannot have been written by this program.
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::QueryReturnedNoRows
        | Error::Utf8Error(..) => StoreError::Corrupt { what: reason, source: Some(Box::new(error)) },
        _ => StoreError::Unavailable { reason, source: Some(Box::new(error)) },
    }
}

/// For the work between statements: once the deadline has passed, fails as a statement does then.
pub(super) fn check_deadline() -> Result<()> {
    match Deadline::current() {
        Some(deadline) if deadline.has_passed() => {
            Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None))
        }
        _ => Ok(()),
    }
}

/// The same for an error of what writes. After one that leaves it unknown what is on disk, nothing more may be written.
pub(super) fn write_error(doing: &str, error: Error) -> StoreError {
    if is_io_failure(&error) {
        return StoreError::Poisoned { reason: format!("{doing}: {error}") };
    }
    store_error(doing, error)
}

/// Whether `error` leaves it unknown what is on disk. Linux may drop the pages of a failed fsync and
/// report success the next time, so nothing may be acknowledged after one.
fn is_io_failure(error: &Error) -> bool {
    let Error::SqliteFailure(failure, _) = error else { return false };
    // What is in the shared memory (`-shm`) is made anew from the log, and never synced.
    let harmless = is_of_shared_memory(failure) || shortage(error).is_some();
    failure.code == ErrorCode::SystemIoFailure && !harmless
}

/// Whether the shared memory could not be had for lack of room. Without it not even a reader gets to the file.
pub(super) fn lacks_shared_memory(error: &Error) -> bool {
    // Where the file itself cannot be created, the error does not say which file it was.
    let may_be = |failure: &ffi::Error| is_of_shared_memory(failure) || failure.code == ErrorCode::CannotOpen;
    matches!(error, Error::SqliteFailure(failure, _) if may_be(failure)) && shortage(error).is_some()
}

fn is_of_shared_memory(failure: &ffi::Error) -> bool {
    const OF_SHARED_MEMORY: [i32; 4] = [
        ffi::SQLITE_IOERR_SHMOPEN,
        ffi::SQLITE_IOERR_SHMSIZE,
        ffi::SQLITE_IOERR_SHMMAP,
        ffi::SQLITE_IOERR_SHMLOCK,
    ];
    OF_SHARED_MEMORY.contains(&failure.extended_code)
}

/// Whether the disk is full.
pub(super) fn is_full(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || shortage(error).is_some()
}

/// What the system said, if a file could not be made or grow: no room, a quota, or a limit on its size. SQLite itself
/// tells only a full disk (`SQLITE_FULL`), and only where it writes the database or its log.
///
/// The system's error is the last one of this thread, since what succeeds leaves it as it is. A sync that failed is never
/// taken for this: whatever the reason, it is unknown what reached the disk.
fn shortage(error: &Error) -> Option<io::Error> {
    let Error::SqliteFailure(failure, _) = error else { return None };
    let grows = matches!(failure.extended_code, ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_TRUNCATE)
        || failure.code == ErrorCode::CannotOpen
        || is_of_shared_memory(failure);
    Some(io::Error::last_os_error()).filter(|system| grows && is_shortage(system))
}

/// Whether `error` says that there is no room.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// What went wrong inside a transaction.
pub(crate) enum TransactionError {
    Sqlite(Error),
    Store(StoreError),
    /// The events themselves are refused, and nothing was changed.
    Refused(Vec<Fault>),
}

impl From<Error> for TransactionError {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    fn failure(code: i32) -> Error {
        Error::SqliteFailure(ffi::Error::new(code), None)
    }

    /// Leaves ENOSPC behind as the system's last error.
    fn fill_up() {
        assert!(File::options().write(true).open("/dev/full").unwrap().write_all(b"x").is_err());
    }

    /// Leaves another one.
    fn look_for_nothing() {
        assert!(File::open("/nowhere/at/all").is_err());
    }

    #[test]
    fn a_failed_sync_is_fatal_whatever_the_reason() {
        for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC] {
            for before in [fill_up, look_for_nothing] {
                before();
                assert!(matches!(write_error("", failure(code)), StoreError::Poisoned { .. }), "{code}");
            }
        }
    }

    #[test]
    fn what_cannot_grow_is_no_space_and_what_fails_otherwise_is_fatal() {
        for code in [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_TRUNCATE] {
            fill_up();
            assert!(matches!(write_error("", failure(code)), StoreError::NoSpace { .. }), "{code}");
            look_for_nothing();
            assert!(matches!(write_error("", failure(code)), StoreError::Poisoned { .. }), "{code}");
        }
    }

    #[test]
    fn what_befalls_the_shared_memory_is_never_fatal() {
        for code in [
            ffi::SQLITE_IOERR_SHMOPEN,
            ffi::SQLITE_IOERR_SHMSIZE,
            ffi::SQLITE_IOERR_SHMMAP,
            ffi::SQLITE_IOERR_SHMLOCK,
        ] {
            fill_up();
            assert!(lacks_shared_memory(&failure(code)));
            assert!(matches!(write_error("", failure(code)), StoreError::NoSpace { .. }), "{code}");
            look_for_nothing();
            assert!(!lacks_shared_memory(&failure(code)));
            assert!(matches!(write_error("", failure(code)), StoreError::Unavailable { .. }), "{code}");
        }
    }
}
