//! Checks the first bytes of a store's file before SQLite opens it.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use super::claim::Claim;
use super::files::{beside, unusable};
use crate::StoreError;
use crate::store::sqlite::schema;

/// Refuses a file that is no store. This comes before SQLite opens the file, because SQLite takes an empty file for an
/// empty database and deletes the log beside it.
pub(crate) fn check_header(claim: &Claim) -> Result<(), StoreError> {
    let path = claim.path();
    const MAGIC: &[u8] = b"SQLite format 3\0";
    const APPLICATION_ID_AT: usize = 68;
    let mut header = Vec::with_capacity(100);
    let file = File::open(path).map_err(|error| unusable(path, error))?;
    file.take(100).read_to_end(&mut header).map_err(|error| unusable(path, error))?;
    if header.is_empty() {
        return Err(refuse_empty(path));
    }
    let ours = header.len() == 100
        && header.starts_with(MAGIC)
        && header[APPLICATION_ID_AT..APPLICATION_ID_AT + 4] == schema::APPLICATION_ID.to_be_bytes();
    // A power loss during a checkpoint can leave the first page torn. Then the log has the whole page, and SQLite reads
    // it there; `connect` checks the application id.
    if ours || (!header.starts_with(MAGIC) && has_wal(path)) {
        return Ok(());
    }
    if !header.starts_with(MAGIC) && claim.found_lock() {
        return Err(refuse_torn(path));
    }
    let kind = if header.starts_with(MAGIC) {
        "an SQLite database of another program"
    } else {
        "not an SQLite database"
    };
    Err(StoreError::invalid("store", format!("{} is {kind}: name another file", path.display())))
}

/// The file is a store with a torn first page: only a store has a lock file. Its log is gone, because `has_wal` did not
/// find it.
fn refuse_torn(path: &Path) -> StoreError {
    let (file, log) = (path.display(), beside(path, "-wal"));
    StoreError::corrupt(format!(
        "{file} does not begin as a store does, and its write-ahead log {log} is missing or empty. If the power failed \
         while the log was copied into the file, the log is the only place that has all of it: put the log back beside \
         the file, or restore a copy. If {file} was never a store, name another file",
        log = log.display()
    ))
}

/// A new store gets its name only once it is complete. So an empty file never was a store, or something else has emptied
/// it.
fn refuse_empty(path: &Path) -> StoreError {
    let (file, log) = (path.display(), beside(path, "-wal"));
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        return StoreError::corrupt(format!(
            "{file} is empty, but its write-ahead log {} is there and may hold acknowledged events: restore the file, \
             or move both away to start anew",
            log.display()
        ));
    }
    StoreError::invalid(
        "store",
        format!(
            "{file} is empty, and so none of our files: name another one, or remove it to start a new store there (if \
             it was a store, restore a copy)"
        ),
    )
}

/// Whether there is a log beside the file whose page size is ours (<https://sqlite.org/walformat.html>).
fn has_wal(path: &Path) -> bool {
    let mut header = [0; 12];
    let read = File::open(beside(path, "-wal")).and_then(|mut wal| wal.read_exact(&mut header));
    read.is_ok()
        && header.starts_with(&[0x37, 0x7f, 0x06])
        && header[8..12] == schema::PAGE_BYTES.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn an_empty_file_beside_a_log_is_damage_and_beside_an_empty_log_it_is_not() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let log = beside(&path, "-wal");
        assert!(matches!(refuse_empty(&path), StoreError::Invalid(_)));
        fs::write(&log, "").unwrap();
        assert!(matches!(refuse_empty(&path), StoreError::Invalid(_)));
        fs::write(&log, "x").unwrap();
        assert!(matches!(refuse_empty(&path), StoreError::Corrupt { .. }));
    }

    #[test]
    fn a_log_is_ours_by_its_first_bytes_and_its_page_size() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let mut header = [0x37, 0x7f, 0x06, 0x82, 0, 0, 0, 0, 0, 0, 0, 0];
        header[8..].copy_from_slice(&schema::PAGE_BYTES.to_be_bytes());
        let with = |header: &[u8]| {
            fs::write(beside(&path, "-wal"), header).unwrap();
            has_wal(&path)
        };
        assert!(!has_wal(&path) && with(&header));
        assert!(!with(&header[..11]), "it ends early");
        for at in [0, 1, 2, 8, 9, 10, 11] {
            let mut damaged = header;
            damaged[at] ^= 1;
            assert!(!with(&damaged), "byte {at}");
        }
    }
}
