//! Checks the journal of the topics by itself.

use rusqlite::Connection;

use crate::StoreError;
use crate::store::VerifyReport;
use crate::store::sqlite::catalog::PartitionState;
use crate::store::sqlite::fault::{Corruption, store_error};
use crate::store::sqlite::journal::{self, Replayed};

/// Every row of the journal is what was written, and there are no others. Returns what it says beyond the tables.
pub(super) fn check_journal(
    connection: &Connection,
    report: &mut VerifyReport,
) -> rusqlite::Result<Replayed> {
    let mut fault = |error| match store_error("verifying", error) {
        StoreError::Corrupt { what, .. } => report.faults.push(what),
        other => report.faults.push(other.to_string()),
    };
    let partition = match PartitionState::read(connection) {
        Ok(partition) => partition,
        Err(error) => {
            fault(error);
            return Ok(Replayed::default());
        }
    };
    let older: u64 = connection.query_row(
        "SELECT count(*) FROM journal WHERE id < ?1",
        [partition.journal_first],
        |row| row.get(0),
    )?;
    if older > 0 {
        fault(Corruption::error(format!("the journal has {older} rows that are not its own")));
    }
    Ok(journal::replay(connection, &partition).unwrap_or_else(|error| {
        fault(error);
        Replayed::default()
    }))
}
