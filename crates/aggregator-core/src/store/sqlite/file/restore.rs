//! Makes a store of a backup, or of any whole copy of a store's file.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rusqlite::Connection;

use super::adopt::adopt;
use super::backup::check;
use super::claim::Claim;
use super::connector::Connector;
use super::draft_file::Draft;
use super::files::{OWNER_ONLY, beside, unusable};
use super::open::connect_alone;
use super::wal_mark;
use crate::StoreError;
use crate::store::sqlite::fault::store_error;
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
    let given = from;
    let from = &fs::canonicalize(from).map_err(|error| unusable(from, error))?;
    // While a process has the file open, a copy of it is neither one thing nor the other.
    let _claim = if beside(from, "-lock").exists() { Some(Claim::of_existing(from)?) } else { None };
    // Nobody else makes a store there meanwhile. Makes the directory, which goes again if nothing comes into it.
    let mut place = Claim::new(to)?;
    let draft = Draft::create(place.path())?;
    draft.reserve(fs::metadata(from).map_err(|error| unusable(given, error))?.len())?;
    copy_bytes(from, draft.file(), on_progress).map_err(|error| unusable(given, error))?;
    let log = beside(from, "-wal");
    if log.exists() {
        let copy =
            File::options().write(true).create_new(true).mode(OWNER_ONLY).open(beside(&draft.path, "-wal"));
        let copied = copy.and_then(|copy| copy_bytes(&log, &copy, &mut |_| ControlFlow::Continue(())));
        copied.map_err(|error| unusable(&log, error))?;
    }
    draft.let_go();
    // The draft is always a copy of its files: what it was made of is judged.
    let accepting = SqliteOptions { accept_copied_files: true, accept_lost_log: true, ..options.clone() };
    let (claim, mut connection) = connect_alone(&draft.path, &accepting, connector, schema::VERSION)?;
    judge(&connection, from, options)?;
    check(&mut connection, from, connector, on_progress)?;
    drop((connection, claim));
    let id = adopt(&draft.path, &accepting, connector)?;
    draft.take_name()?;
    place.keep();
    Ok(id)
}

/// Refuses the files at `from`, of which the connection has a copy, as an opening would.
fn judge(connection: &Connection, from: &Path, options: &SqliteOptions) -> Result<(), StoreError> {
    let mark = wal_mark::read(connection);
    let mark = mark.map_err(|error| store_error(&format!("opening {}", from.display()), error))?;
    match mark {
        Some(mark) if !wal_mark::has_wal(from) && !options.accept_lost_log => {
            Err(wal_mark::refusal(from, &mark.since, None))
        }
        Some(mark)
            if wal_mark::has_wal(from) && !options.accept_copied_files && mark.is_of_other_files(from) =>
        {
            Err(wal_mark::refusal_of_copies(from))
        }
        _ => Ok(()),
    }
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
