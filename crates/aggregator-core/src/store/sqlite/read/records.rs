//! Reading records.

use rusqlite::Connection;

use crate::StoreError;
use crate::store::Record;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::row::record::{self, RecordTotals, Start, find};
use crate::store::sqlite::schema;

pub(crate) fn get(
    connection: &mut Connection,
    doing: &str,
    kind: &str,
    name: &str,
) -> Result<Option<Record>, StoreError> {
    of_table(connection, doing, |snapshot| find(snapshot, kind, name))
}

pub(crate) fn list(
    connection: &mut Connection,
    doing: &str,
    kind: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Record>, StoreError> {
    let from = match after {
        Some(after) if after >= prefix => Start::After(after),
        _ => Start::At(prefix),
    };
    of_table(connection, doing, |snapshot| record::list(snapshot, kind, from, prefix, limit))
}

/// Reads from one state of the table; nothing from a file that never had it.
fn of_table<T: Default>(
    connection: &mut Connection,
    doing: &str,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let failed = |error| store_error(doing, error);
    let snapshot = connection.transaction().map_err(failed)?;
    let error = match read(&snapshot) {
        Ok(done) => return Ok(done),
        Err(error) => failed(error),
    };
    if schema::has_records(&snapshot).map_err(failed)? {
        return Err(error);
    }
    if RecordTotals::lacks_table(&snapshot).map_err(failed)? {
        return Ok(T::default());
    }
    Err(failed(RecordTotals::lost_table()))
}
