//! Creates the file of a store.

use std::fs;
use std::path::Path;

use super::claim::refuse_orphaned_log;
use super::connector::Connector;
use super::files::{create_empty, discard, draft, sync_directory, unusable};
use super::open::WRITER_FLAGS;
use super::wal_mark;
use crate::event::SLOTS;
use crate::store::StoreId;
use crate::store::sqlite::catalog::PartitionState;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::row::record::RecordTotals;
use crate::store::sqlite::{index, journal, schema};
use crate::{StoreError, Timestamp};

/// Creates the store under another name first, so that a crash leaves no incomplete file under its name. So if a file of
/// that name is empty or cut short, something else has damaged it.
pub(super) fn create(path: &Path, connector: &Connector) -> Result<(), StoreError> {
    refuse_orphaned_log(path)?;
    remove_drafts(path).map_err(|error| unusable(path, error))?;
    let new = draft(path, "new");
    create_empty(&new).map_err(|error| unusable(path, error))?;
    let written = write_schema(&new, connector)
        .map_err(|error| store_error(&format!("creating {}", path.display()), error));
    let renamed = written.and_then(|()| fs::rename(&new, path).map_err(|error| unusable(path, error)));
    if renamed.is_err() {
        discard(&new);
    }
    renamed?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    sync_directory(directory).map_err(|error| unusable(directory, error))
}

/// Removes the drafts that earlier attempts to create this store left. Their processes have ended, because we hold the lock.
fn remove_drafts(path: &Path) -> std::io::Result<()> {
    let prefix = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        let entry = entry?;
        let name = entry.file_name();
        let of_draft = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        let id =
            of_draft.and_then(|rest| rest.strip_suffix(".new").or_else(|| rest.strip_suffix(".new-journal")));
        if id.is_some_and(|id| id.parse::<ulid::Ulid>().is_ok()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes an empty store into the empty file at `path`.
pub(crate) fn write_schema(path: &Path, connector: &Connector) -> rusqlite::Result<()> {
    let mut connection = connector.open(path, WRITER_FLAGS)?;
    connection.pragma_update(None, "page_size", schema::PAGE_BYTES)?;
    connection.pragma_update(None, "synchronous", "EXTRA")?;
    let transaction = connection.transaction()?;
    transaction.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    transaction.execute_batch(schema::CREATE)?;
    transaction.execute_batch(journal::CREATE)?;
    RecordTotals::create_table(&transaction)?;
    transaction.execute_batch(schema::CREATE_FORGOTTEN)?;
    index::reset(&transaction)?;
    let mut meta = transaction.prepare("INSERT INTO meta (name, value) VALUES (?1, ?2)")?;
    meta.execute(("store_id", StoreId::new().to_string()))?;
    meta.execute(("partitions", "1"))?;
    meta.execute(("slots", SLOTS.to_string()))?;
    meta.execute(("hash", schema::HASH_VERSION))?;
    meta.execute(("created_at", Timestamp::now().to_string()))?;
    meta.execute(("created_by", concat!("aggregator-core ", env!("CARGO_PKG_VERSION"))))?;
    meta.execute((wal_mark::META_NAME, wal_mark::none()))?;
    drop(meta);
    PartitionState::create(&transaction)?;
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}
