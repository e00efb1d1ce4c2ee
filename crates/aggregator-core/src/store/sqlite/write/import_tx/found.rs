//! The stored rows that imported ones are compared with.

use crate::Timestamp;
use crate::event::{Details, Kept, StoredRow};
use crate::store::sqlite::row::Key;
use crate::store::sqlite::row::stored_identity::StoredIdentity;
use crate::store::transfer::Found;

/// A row that this import has added.
pub(super) struct ImportedRow<'r> {
    pub(super) key: Key<'r>,
    pub(super) row: &'r StoredRow,
    pub(super) processed_at: Timestamp,
    pub(super) released: bool,
}

/// A stored row that an imported one is compared with.
pub(super) struct FoundRow {
    pub(super) offset: u64,
    pub(super) found: Found,
    pub(super) released: bool,
}

impl FoundRow {
    /// Whether it is the row that `row` is compared with, whatever other rows there are.
    pub(super) fn is_for(&self, row: &StoredRow) -> bool {
        row.is_at(self.found.seq, self.released)
    }
}

impl ImportedRow<'_> {
    pub(super) fn compare(&self, row: &StoredRow, offset: u64) -> FoundRow {
        let same = match &self.row.kept {
            Kept::Event(event) => row.is_event(event.details(self.row.source())),
            Kept::Stub { digest, .. } => row.is_stub(Some(*digest)),
            Kept::Identity => true,
            Kept::Forgotten { .. } => false,
        };
        let found = Found { seq: self.row.seq(), processed_at: self.processed_at, same };
        FoundRow { offset, found, released: self.released }
    }
}

pub(super) fn compare(row: &StoredRow, offset: u64, stored: &StoredIdentity<'_>) -> FoundRow {
    let found = match stored {
        StoredIdentity::Event(there) => {
            let same = row.is_event(Details {
                source: there.source,
                timestamp: there.timestamp,
                payload: there.payload,
                sequence: there.sequence,
                content_type: there.content_type,
                attributes: there.attributes,
            });
            let processed_at = Timestamp::from_micros(there.processed_at);
            Found { seq: Some(there.seq), processed_at, same }
        }
        StoredIdentity::Stub(there) => {
            let processed_at = Timestamp::from_micros(there.processed_at);
            Found { seq: there.seq, processed_at, same: row.is_stub(there.digest) }
        }
    };
    FoundRow { offset, found, released: stored.is_released() }
}
