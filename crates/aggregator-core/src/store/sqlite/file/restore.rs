//! Makes a store of a backup, or of any whole copy of a store's file.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::adopt::adopt;
use super::backup::{Draft, check};
use super::claim::{Claim, refuse_orphaned_log};
use super::connector::Connector;
use super::files::{OWNER_ONLY, beside, unusable};
use super::open::connect_alone;
use crate::StoreError;
use crate::store::sqlite::options::SqliteOptions;
use crate::store::sqlite::schema;
use crate::store::{BackupProgress, StoreId};

const STEP_BYTES: usize = 1 << 20;

/// Copies the store at `from`, with its log if there is one, to `to`, where nothing may be. Checks the copy, and gives it
/// an id of its own.
pub(crate) fn restore(
    from: &Path,
    to: &Path,
    options: &SqliteOptions,
    connector: &Connector,
    on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
) -> Result<StoreId, StoreError> {
    // While a process has the file open, a copy of it is neither one thing nor the other.
    let _claim = if beside(from, "-lock").exists() { Some(Claim::of_existing(from)?) } else { None };
    let to = &std::path::absolute(to).map_err(|error| unusable(to, error))?;
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(|error| unusable(parent, error))?;
    }
    let draft = Draft::create(to)?;
    refuse_orphaned_log(to)?;
    copy_bytes(from, draft.file(), on_progress).map_err(|error| unusable(from, error))?;
    let log = beside(from, "-wal");
    if log.exists() {
        let copy =
            File::options().write(true).create_new(true).mode(OWNER_ONLY).open(beside(&draft.path, "-wal"));
        let copied = copy.and_then(|copy| copy_bytes(&log, &copy, &mut |_| ControlFlow::Continue(())));
        copied.map_err(|error| unusable(&log, error))?;
    }
    if on_progress(BackupProgress::Checking).is_break() {
        return Err(StoreError::unavailable("restoring was given up by its caller"));
    }
    let (claim, mut connection) = connect_alone(&draft.path, options, connector, schema::VERSION)?;
    check(&mut connection, from, connector)?;
    drop((connection, claim));
    let id = adopt(&draft.path, options, connector)?;
    draft.take_name()?;
    Ok(id)
}

pub(super) fn copy_bytes(
    from: &Path,
    to: &File,
    on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut from = File::open(from)?;
    let total = from.metadata()?.len();
    let mut buffer = vec![0; STEP_BYTES];
    let mut bytes = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return to.sync_all();
        }
        to.write_all_at(&buffer[..read], bytes)?;
        bytes += read as u64;
        if on_progress(BackupProgress::Copying { bytes, total }).is_break() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "restoring was given up by its caller"));
        }
    }
}
