//! Gives a copy of a store an id of its own.
//!
//! From the instant of the copy on, an offset can mean another event in the copy than in the original. A cursor says of
//! which store it is. So the copy gets a new id, and remembers up to which offset it is the same as the original.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::connector::Connector;
use super::open::connect_alone;
use super::wal_mark;
use crate::StoreError;
use crate::store::StoreId;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::options::SqliteOptions;
use crate::store::sqlite::schema;

/// Gives the store of `connection` a new id, with the old one as an ancestor. Returns the new one.
pub(crate) fn give_new_id(connection: &Connection) -> rusqlite::Result<StoreId> {
    connection.execute(
        "INSERT INTO ancestors (store_id, until_offset)
         SELECT (SELECT value FROM meta WHERE name = 'store_id'), last_offset FROM partitions",
        [],
    )?;
    let id = StoreId::new();
    connection.execute("UPDATE meta SET value = ?1 WHERE name = 'store_id'", [id.to_string()])?;
    Ok(id)
}

/// Does that to the store at `path`, which nobody has open.
pub(crate) fn adopt(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
) -> Result<StoreId, StoreError> {
    let (claim, mut connection) = connect_alone(path, options, connector, schema::VERSION)?;
    let failed = |error| store_error(&format!("giving {} an id of its own", claim.path().display()), error);
    wal_mark::ensure(&mut connection, (options.clock)()).map_err(failed)?;
    let write = |connection: &mut Connection| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let id = give_new_id(&transaction)?;
        transaction.commit()?;
        Ok(id)
    };
    let id = write(&mut connection).map_err(failed)?;
    // Where the log cannot be copied, it stays, and the next opening copies it.
    wal_mark::close_in_order(&connection).map_err(failed)?;
    Ok(id)
}
