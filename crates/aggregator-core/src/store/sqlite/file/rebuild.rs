//! Empties the dedup index of a store that nobody has open. Opening the store then builds the index again.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::connector::Connector;
use super::create::write_schema;
use super::draft_file::Draft;
use super::open::connect_alone;
use super::wal_mark;
use crate::fail_point::FailPoint;
use crate::store::sqlite::catalog::{Catalog, PartitionState};
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::options::SqliteOptions;
use crate::store::sqlite::{index, journal, schema};
use crate::{StoreError, Timestamp};

/// All tables except those of the index. The last four are not in every file.
const NOT_INDEX: [&str; 11] = [
    "meta",
    "ancestors",
    "partitions",
    "topics",
    "events",
    "spans",
    "stubs",
    "records",
    "forgotten",
    "gaps",
    "journal",
];

pub(crate) fn empty_index(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
) -> Result<(), StoreError> {
    let (claim, mut connection) = connect_alone(path, options, connector, schema::SAME_EVENTS_SINCE)?;
    let failed = |error| store_error(&format!("emptying the dedup index of {}", path.display()), error);
    // First of all: an index that is gone and cannot be built again would be worse than a damaged index.
    index::check_rows(&connection).map_err(failed)?;
    wal_mark::ensure(&mut connection, (options.clock)()).map_err(failed)?;
    make_empty(claim.path(), connection, connector)
}

/// Empties the index of the store at `path`, to which this is the only connection, writes today's format, and closes it.
pub(super) fn make_empty(
    path: &Path,
    mut connection: Connection,
    connector: &Connector,
) -> Result<(), StoreError> {
    let failed = |error| store_error(&format!("emptying the dedup index of {}", path.display()), error);
    let done = reset(&mut connection).map_err(failed);
    if done.is_ok() {
        FailPoint::UpgradeCommitted.reach();
    }
    let closed = wal_mark::close_in_order(&connection).map_err(failed)?;
    match done {
        Err(StoreError::Corrupt { .. }) => {
            if !closed {
                // The new file would take the old file's log for its own.
                let reason = format!("another program has {} open: close it", path.display());
                return Err(StoreError::unavailable(reason));
            }
            drop(connection);
            copy_without_index(path, connector)
        }
        done => done,
    }
}

fn reset(connection: &mut Connection) -> rusqlite::Result<()> {
    wal_mark::keep_wal(connection)?;
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    index::reset(&transaction)?;
    schema::add_journal(&transaction)?;
    rebuild_journal(&mut transaction)?;
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    wal_mark::write(&transaction, Timestamp::now())?;
    transaction.commit()
}

/// Makes anew what is sorted by topic, if it contradicts itself. Where that cannot be done, because the topics themselves are
/// damaged, it stays as it is: the store can be read then, and not written.
fn rebuild_journal(transaction: &mut Transaction<'_>) -> rusqlite::Result<()> {
    let is_sound = |connection: &Connection| Catalog::load(connection, &Arc::default()).is_ok();
    if is_sound(transaction) {
        return Ok(());
    }
    let savepoint = transaction.savepoint()?;
    match journal::rebuild(&savepoint) {
        Ok(()) if is_sound(&savepoint) => savepoint.commit(),
        Ok(()) => savepoint.finish(),
        Err(error) if error.sqlite_error_code().is_none() => savepoint.finish(),
        Err(error) => Err(error),
    }
}

/// For a file whose index tables SQLite cannot even drop: copies all other tables into a new file, which replaces the old
/// one.
fn copy_without_index(path: &Path, connector: &Connector) -> Result<(), StoreError> {
    let draft = Draft::create_beside(path)?;
    let copied = write_schema(&draft.path, connector).and_then(|()| fill(&draft.path, path, connector));
    copied.map_err(|error| {
        store_error(&format!("copying {} without its dedup index", path.display()), error)
    })?;
    draft.replace()
}

fn fill(new: &Path, old: &Path, connector: &Connector) -> rusqlite::Result<()> {
    let mut connection =
        connector.open(new, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.pragma_update(None, "synchronous", "EXTRA")?;
    connection.execute("ATTACH ?1 AS old", [old.to_str().unwrap_or_default()])?;
    let transaction = connection.transaction()?;
    let is_there = |table: &str| -> rusqlite::Result<bool> {
        let count = "SELECT count(*) FROM old.sqlite_schema WHERE type = 'table' AND name = ?1";
        transaction.query_row(count, [table], |row| row.get(0))
    };
    for table in NOT_INDEX {
        if table == "records" && !is_there(table)? {
            // The first write makes it, or refuses to, if the state in `meta` says that there were records.
            transaction.execute_batch("DROP TABLE main.records")?;
            continue;
        }
        if ["forgotten", "gaps", "journal"].contains(&table) && !is_there(table)? {
            continue;
        }
        if table == "partitions" && !is_there("journal")? {
            let partition = PartitionState::read_without_journal(&transaction, "old.partitions")?;
            partition.with_journal().write(&transaction)?;
            continue;
        }
        transaction.execute_batch(&format!(
            "DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM old.{table};"
        ))?;
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}
