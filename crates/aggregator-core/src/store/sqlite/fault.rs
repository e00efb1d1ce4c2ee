//! From SQLite's errors to what the caller has to do about them.

use rusqlite::{Error, ErrorCode, Result, ffi};

use super::checksum::Corruption;
use crate::{Deadline, StoreError};

/// The store's word for `error`, met while `doing` something.
pub(super) fn store_error(doing: &str, error: Error) -> StoreError {
    if let Error::FromSqlConversionFailure(_, _, cause) = &error
        && let Some(corruption) = cause.downcast_ref::<Corruption>()
    {
        return StoreError::corrupt(corruption.to_string());
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

/// Whether `error` leaves it unknown what is on disk. Linux may drop the pages of a failed fsync and
/// report success the next time, so nothing may be acknowledged after one.
pub(super) fn is_io_failure(error: &Error) -> bool {
    matches!(error, Error::SqliteFailure(failure, _) if failure.code == ErrorCode::SystemIoFailure)
}
