//! Brings a store of an older format, which nobody has open, up to today's.
//!
//! Nothing of an event changes between the formats that this knows. Formats 3 and 4 lack the journal, which begins empty;
//! in format 2 the dedup index is made anew, too. The steps, each of which can be cut off:
//!
//! 1. From format 2, all rows are read and checked. A store whose index cannot be built again stays as it is.
//! 2. The log is copied into the file, as in an orderly close. From then on the file alone is the store.
//! 3. The file is copied beside it. The copy gets its name once it is complete and synced.
//! 4. One commit adds the journal and writes the new format. From format 2, it empties the index.
//! 5. Opening the store builds the index, if it is empty, in many commits that can be resumed.
//!
//! Between 3 and 4 no byte of the file changes, not even its mark: that is written in the commit of 4, which holds no event, so
//! a log that is lost then takes nothing with it. So a repeated upgrade finds that the copy is that of the very file, and uses it. A store that was
//! written to since then is another one, and the copy is not overwritten.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, TransactionBehavior};

use super::connector::Connector;
use super::draft_file::Draft;
use super::files::{FileId, beside, unusable};
use super::open::{connect_alone, connect_claimed};
use super::rebuild::make_empty;
use super::restore::copy_bytes;
use super::wal_mark;
use crate::fail_point::FailPoint;
use crate::store::sqlite::catalog::Catalog;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::options::SqliteOptions;
use crate::store::sqlite::{index, schema};
use crate::store::{BackupProgress, Upgraded};
use crate::{StoreError, Timestamp};

/// So much of two files is compared at a time.
const COMPARED_BYTES: usize = 1 << 20;

/// Writes today's format into the store at `path`; from format 2, with an empty index. Copies the store first: to `backup`, or to its own
/// name with `.format-N` behind it. Returns `None` if the store has today's format.
pub(crate) fn upgrade(
    path: &Path,
    backup: Option<&Path>,
    options: &SqliteOptions,
    connector: &Connector,
    on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
) -> Result<Option<Upgraded>, StoreError> {
    let (claim, connection) = connect_alone(path, options, connector, schema::SAME_EVENTS_SINCE)?;
    let path = claim.path();
    let failed = |error| store_error(&format!("upgrading {}", path.display()), error);
    let from: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if from >= schema::VERSION {
        return Ok(None);
    }
    let same_index = from >= schema::SAME_INDEX_SINCE;
    if !same_index {
        index::check_rows(&connection).map_err(failed)?;
    }
    close(connection, path)?;
    let backup = backup.map_or_else(|| beside(path, &format!(".format-{from}")), Path::to_owned);
    copy_once(path, &backup, on_progress)?;
    FailPoint::UpgradeCopied.reach();
    let connection = connect_claimed(&claim, options, connector, schema::SAME_EVENTS_SINCE)?;
    if same_index {
        let mut connection = connection;
        add_journal(&mut connection).map_err(failed)?;
        FailPoint::UpgradeCommitted.reach();
        close(connection, path)?;
    } else {
        make_empty(path, connection, connector)?;
    }
    FailPoint::UpgradeEmptied.reach();
    Ok(Some(Upgraded { from, to: schema::VERSION, backup }))
}

fn add_journal(connection: &mut Connection) -> rusqlite::Result<()> {
    wal_mark::keep_wal(connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::add_journal(&transaction)?;
    // A store whose counters contradict its topics stays as it is.
    Catalog::load(&transaction, &Arc::default())?;
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    // With the mark, whoever goes on with an upgrade that was cut off here knows the log.
    wal_mark::write(&transaction, Timestamp::now())?;
    transaction.commit()
}

/// After this, the file alone is the store.
fn close(connection: Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| store_error(&format!("closing {}", path.display()), error);
    let all = wal_mark::close_in_order(&connection).map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    if all && !beside(path, "-wal").exists() {
        return Ok(());
    }
    Err(StoreError::unavailable(format!("another program has {} open: close it", path.display())))
}

/// Copies the file at `path`, whose connections are closed, to `to`. If `to` exists, it has to be such a copy.
fn copy_once(
    path: &Path,
    to: &Path,
    on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    if fs::symlink_metadata(to).is_ok() {
        let copied = is_copy(path, to).map_err(|error| unusable(to, error))?;
        return if copied { Ok(()) } else { Err(taken(to)) };
    }
    let draft = Draft::create(to)?;
    draft.reserve(fs::metadata(path).map_err(|error| unusable(path, error))?.len())?;
    copy_bytes(path, draft.file(), on_progress).map_err(|error| unusable(to, error))?;
    FailPoint::UpgradeCopying.reach();
    draft.take_name()
}

fn taken(to: &Path) -> StoreError {
    let to: PathBuf = std::path::absolute(to).unwrap_or_else(|_| to.to_owned());
    let reason =
        format!("{} exists, and is no copy of the store as it is now: name a new file", to.display());
    StoreError::invalid("backup", reason)
}

/// Whether `copy` is another file with the same bytes.
fn is_copy(path: &Path, copy: &Path) -> io::Result<bool> {
    let (mut original, mut copy) = (File::open(path)?, File::open(copy)?);
    let lengths = (original.metadata()?.len(), copy.metadata()?.len());
    if lengths.0 != lengths.1 || FileId::of(&original)? == FileId::of(&copy)? {
        return Ok(false);
    }
    let [mut left, mut right] = [vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]];
    loop {
        let read = original.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        copy.read_exact(&mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}
