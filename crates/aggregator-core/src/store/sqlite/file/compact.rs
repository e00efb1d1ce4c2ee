//! Writes the file of a store that nobody has open anew, without free pages and half-empty ones.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::Connection;

use super::backup::check;
use super::connector::Connector;
use super::draft_file::Draft;
use super::files::unusable;
use super::open::connect_alone;
use super::wal_mark;
use crate::StoreError;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::options::SqliteOptions;
use crate::store::sqlite::schema;

/// How many bytes the file had, and how many it has now.
pub(crate) fn compact(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
) -> Result<(u64, u64), StoreError> {
    let (claim, connection) = connect_alone(path, options, connector, schema::VERSION)?;
    let path = claim.path();
    let failed = |error| store_error(&format!("compacting {}", path.display()), error);
    let length =
        |path: &Path| fs::metadata(path).map(|file| file.len()).map_err(|error| unusable(path, error));
    let closed = wal_mark::close_in_order(&connection).map_err(failed)?;
    if !closed {
        // The new file would take the old file's log for its own.
        let reason = format!("another program has {} open: close it", path.display());
        return Err(StoreError::unavailable(reason));
    }
    let before = length(path)?;
    if path.to_str().is_none() {
        return Err(StoreError::invalid("store", format!("{} is not UTF-8", path.display())));
    }
    let draft = Draft::create_beside(path)?;
    copy(&connection, &draft.path).map_err(failed)?;
    drop(connection);
    let mut copied = draft.connect(connector).map_err(failed)?;
    check(&mut copied, path, connector, &mut |_| ControlFlow::Continue(()))?;
    draft.close(copied)?;
    let after = length(&draft.path)?;
    draft.replace()?;
    Ok((before, after))
}

fn copy(connection: &Connection, to: &Path) -> rusqlite::Result<()> {
    // SQLite takes an empty file for a new database.
    connection.execute("VACUUM INTO ?1", [to.to_str().unwrap_or_default()]).map(drop)
}
