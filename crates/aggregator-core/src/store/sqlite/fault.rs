//! Turns SQLite's errors into the store's errors, which say what the caller has to do.

use std::fmt;
use std::io::{self, ErrorKind};

use rusqlite::types::Type;
use rusqlite::{Error, ErrorCode, Result, ffi};

use crate::{Deadline, Fault, StoreError};

/// The store's error for an SQLite error that occurred while `doing` something. To be called right after the call that
/// failed, on the same thread: see [`out_of_space`].
pub(super) fn store_error(doing: &str, error: Error) -> StoreError {
    if let Error::FromSqlConversionFailure(_, _, cause) = &error
        && let Some(corruption) = cause.downcast_ref::<Corruption>()
    {
        return StoreError::corrupt(corruption.to_string());
    }
    if let Some(out_of_space) = out_of_space(&error) {
        return StoreError::NoSpace {
            reason: format!("{doing}: {error} ({out_of_space})"),
            source: Some(Box::new(error)),
        };
    }
    let reason = format!("{doing}: {error}");
    match &error {
        Error::SqliteFailure(failure, _) => match failure.code {
            // Only the deadline interrupts a statement.
            ErrorCode::OperationInterrupted => Deadline::missed(doing),
            ErrorCode::DiskFull => StoreError::NoSpace { reason, source: Some(Box::new(error)) },
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation => {
                StoreError::Corrupt { what: reason, source: Some(Box::new(error)) }
            }
            _ => StoreError::Unavailable { reason, source: Some(Box::new(error)) },
        },
        // Values that this program never writes.
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::QueryReturnedNoRows
        | Error::Utf8Error(..) => StoreError::Corrupt { what: reason, source: Some(Box::new(error)) },
        _ => StoreError::Unavailable { reason, source: Some(Box::new(error)) },
    }
}

/// For the work between statements: fails once the deadline has passed, with the error that a statement would give.
pub(super) fn check_deadline() -> Result<()> {
    match Deadline::current() {
        Some(deadline) if deadline.has_passed() => {
            Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None))
        }
        _ => Ok(()),
    }
}

/// As [`store_error`], for an error of a write. If the error leaves it unknown what is on the disk, the store is poisoned:
/// nothing more may be written.
pub(super) fn write_error(doing: &str, error: Error) -> StoreError {
    if is_io_failure(&error) {
        return StoreError::Poisoned { reason: format!("{doing}: {error}") };
    }
    store_error(doing, error)
}

/// Whether `error` leaves it unknown what is on the disk. After a failed fsync, Linux may drop the pages and report success
/// the next time, so nothing may be acknowledged any more.
fn is_io_failure(error: &Error) -> bool {
    let Error::SqliteFailure(failure, _) = error else { return false };
    // The shared memory (`-shm`) is made from the log at each start, and it is never synced.
    let harmless = is_of_shared_memory(failure) || out_of_space(error).is_some();
    failure.code == ErrorCode::SystemIoFailure && !harmless
}

/// Whether there was no room for the shared memory. Without shared memory, even a reader cannot use the file.
pub(super) fn lacks_shared_memory(error: &Error) -> bool {
    // If a file cannot be created, SQLite's error does not say which file.
    let may_be = |failure: &ffi::Error| is_of_shared_memory(failure) || failure.code == ErrorCode::CannotOpen;
    matches!(error, Error::SqliteFailure(failure, _) if may_be(failure)) && out_of_space(error).is_some()
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
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || out_of_space(error).is_some()
}

/// The system's error, if a file could not be made or could not grow: no room, a quota, or a limit on its size. SQLite
/// itself reports only a full disk (`SQLITE_FULL`), and only if it was writing the database or the log.
///
/// The system's error is the last one of this thread, because calls that succeed do not change it. A failed sync is
/// never counted as this: whatever its reason, it is unknown what reached the disk.
fn out_of_space(error: &Error) -> Option<io::Error> {
    let Error::SqliteFailure(failure, _) = error else { return None };
    let grows = matches!(failure.extended_code, ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_TRUNCATE)
        || failure.code == ErrorCode::CannotOpen
        || is_of_shared_memory(failure);
    Some(io::Error::last_os_error()).filter(|os_error| grows && is_out_of_space(os_error))
}

/// Whether `error` says that there is no room.
pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Says that two parts of the file contradict each other.
#[derive(Debug)]
pub(crate) struct Corruption(String);

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Corruption {}

impl Corruption {
    /// The contradiction as an SQLite error, for functions that return those.
    pub(crate) fn error(what: String) -> Error {
        Error::FromSqlConversionFailure(0, Type::Null, Box::new(Self(what)))
    }
}

/// Why a transaction of the writer failed.
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
    use std::time::Duration;

    use super::*;

    fn failure(code: i32) -> Error {
        Error::SqliteFailure(ffi::Error::new(code), None)
    }

    /// Makes ENOSPC the system's last error.
    fn fill_up() {
        assert!(File::options().write(true).open("/dev/full").unwrap().write_all(b"x").is_err());
    }

    /// Makes ENOENT the system's last error.
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

    #[test]
    fn a_full_disk_is_told_from_every_other_failure() {
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_CANTOPEN] {
            fill_up();
            assert!(is_full(&failure(code)), "{code}");
            assert!(matches!(store_error("", failure(code)), StoreError::NoSpace { .. }), "{code}");
        }
        look_for_nothing();
        assert!(matches!(store_error("", failure(ffi::SQLITE_FULL)), StoreError::NoSpace { .. }));
        assert!(!is_full(&failure(ffi::SQLITE_IOERR_WRITE)) && !is_full(&failure(ffi::SQLITE_CANTOPEN)));
        fill_up();
        assert!(!is_full(&failure(ffi::SQLITE_BUSY)), "the system's error is of an earlier call");
    }

    #[test]
    fn a_file_that_cannot_be_made_for_want_of_room_may_be_the_shared_memory() {
        fill_up();
        assert!(lacks_shared_memory(&failure(ffi::SQLITE_CANTOPEN)));
        assert!(!lacks_shared_memory(&failure(ffi::SQLITE_IOERR_WRITE)), "the log or the file itself");
        look_for_nothing();
        assert!(!lacks_shared_memory(&failure(ffi::SQLITE_CANTOPEN)));
    }

    #[test]
    fn work_between_statements_ends_at_the_deadline_with_the_error_of_a_statement() {
        assert!(check_deadline().is_ok(), "nobody waits");
        let check_after = |time| Deadline::after(time).scope(check_deadline);
        assert!(check_after(Duration::from_secs(60)).is_ok());
        let error = check_after(Duration::ZERO).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::OperationInterrupted));
    }
}
