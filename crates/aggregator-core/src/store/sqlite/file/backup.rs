//! Backup: copies a store while it is in use.

use std::fs;
use std::path::Path;

use rusqlite::OpenFlags;

use super::connector::Connector;
use super::files::{create_empty, discard, draft, sync_directory, unusable};
use super::wal_mark;
use crate::StoreError;
use crate::store::StoreId;
use crate::store::sqlite::fault::store_error;

/// Copies the store, as of one commit, to `to`. The copy gets that name only once it is complete.
pub(crate) fn backup(connector: &Connector, from: &Path, to: &Path) -> Result<(), StoreError> {
    if to.exists() {
        let reason = format!("{} exists: name a new file", to.display());
        return Err(StoreError::invalid("path", reason));
    }
    let to = std::path::absolute(to).map_err(|error| unusable(to, error))?;
    // A crash leaves this file behind, but nothing else ever uses its name.
    let new = draft(&to, "copy");
    let Some(new_text) = new.to_str() else {
        return Err(StoreError::invalid("path", format!("{} is not UTF-8", to.display())));
    };
    create_empty(&new).map_err(|error| unusable(&to, error))?;
    let copied = copy(connector, from, new_text);
    let copied = copied.map_err(|error| store_error(&format!("backing up to {}", to.display()), error));
    let renamed = copied.and_then(|()| fs::rename(&new, &to).map_err(|error| unusable(&to, error)));
    if renamed.is_err() {
        discard(&new);
    }
    renamed?;
    let directory = to.parent().unwrap_or(Path::new("/"));
    sync_directory(directory).map_err(|error| unusable(directory, error))
}

fn copy(connector: &Connector, from: &Path, to: &str) -> rusqlite::Result<()> {
    // On a connection of its own, because it takes long, and because connections of the readers' pool refuse `VACUUM INTO`
    // as a write.
    let original =
        connector.open(from, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    original.execute("VACUUM INTO ?1", [to])?;
    // From now on, offsets of the copy can mean other events than in the original. So the copy gets a store id of its own.
    let mut copy = connector.open(to, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    copy.pragma_update(None, "synchronous", "EXTRA")?;
    let transaction = copy.transaction()?;
    transaction.execute(
        "INSERT INTO ancestors (store_id, until_offset)
         SELECT (SELECT value FROM meta WHERE name = 'store_id'), last_offset FROM partitions",
        [],
    )?;
    let id = StoreId::new().to_string();
    wal_mark::remove(&transaction)?;
    transaction.execute("UPDATE meta SET value = ?1 WHERE name = 'store_id'", [id])?;
    transaction.commit()?;
    copy.close().map_err(|(_, error)| error)?;
    // `VACUUM INTO` does not sync what it writes.
    let synced = fs::File::open(to).and_then(|copy| copy.sync_all());
    synced.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
