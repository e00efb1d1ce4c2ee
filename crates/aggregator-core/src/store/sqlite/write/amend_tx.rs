//! The transactions of erasing and releasing.

use rusqlite::{Connection, Result};

use crate::event::{DEFAULT_SOURCE, ERASED_PAYLOAD, digest};
use crate::store::sqlite::catalog::Catalog;
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::index::{self, Index};
use crate::store::sqlite::read::seen_in;
use crate::store::sqlite::row::Key;
use crate::store::sqlite::row::checksum::{EventRow, StubRow};
use crate::store::sqlite::row::stored_identity::{StoredIdentities, StoredIdentity};
use crate::store::{Erased, Seen};
use crate::{Identity, Source};

/// One erasure or release inside its transaction.
pub(crate) struct AmendTx<'c, 'k> {
    connection: &'c Connection,
    catalog: &'k Catalog,
    index: &'k Index,
    stored_identities: StoredIdentities<'c>,
}

impl<'c, 'k> AmendTx<'c, 'k> {
    pub(crate) fn new(connection: &'c Connection, catalog: &'k Catalog, index: &'k Index) -> Result<Self> {
        let stored_identities = StoredIdentities::new(connection)?;
        Ok(Self { connection, catalog, index, stored_identities })
    }

    /// Removes the payloads of all rows that have the identity, or had it before it was released.
    pub(crate) fn erase(&mut self, id: &Identity) -> Result<Erased> {
        let Some(key) = self.key(id) else { return Ok(Erased::default()) };
        let mut seqs = Vec::new();
        for offset in self.candidates(key)? {
            let Some(row) = self.stored_identities.find_released(key, offset, |row| erased(&row))? else {
                continue;
            };
            seqs.extend(row.seq);
            write(self.connection, offset, &row.left)?;
        }
        seqs.sort_unstable();
        Ok(Erased::new(seqs))
    }

    /// Takes the identity from the row that has it, and returns what was known of that row.
    pub(crate) fn release(&mut self, id: &Identity) -> Result<Option<Seen>> {
        let Some(key) = self.key(id) else { return Ok(None) };
        for offset in self.candidates(key)? {
            if let Some(seen) = self.stored_identities.find(key, offset, seen_in)? {
                release(self.connection, offset)?;
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }

    /// `None` if there is no such topic.
    fn key<'i>(&self, id: &'i Identity) -> Option<Key<'i>> {
        let topic = self.catalog.topics.get(id.topic.as_str())?;
        let source = id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str);
        Some(Key { topic_id: topic.id, event_id: id.event_id.as_str(), source: topic.scope.key(source) })
    }

    /// The offsets of the rows that may have the identity.
    fn candidates(&self, key: Key<'_>) -> Result<Vec<u64>> {
        let last_offset = self.catalog.partition.last_offset;
        let found = index::find(self.connection, self.index, &[key], last_offset)?;
        let found = found
            .ok_or_else(|| Corruption::error("the dedup index is not that of the last commit".into()))?;
        let mut offsets = found.concat();
        offsets.sort_unstable();
        offsets.dedup();
        Ok(offsets)
    }
}

/// What an erased row is to be.
struct ErasedRow {
    seq: Option<u64>,
    left: Left,
}

/// What erasing leaves of a row, with the row's checksum.
enum Left {
    Event(i64),
    Stub(i64),
    /// There was nothing to erase.
    Same,
}

fn erased(row: &StoredIdentity<'_>) -> ErasedRow {
    match *row {
        StoredIdentity::Event(ref event) => {
            let left = EventRow { payload: ERASED_PAYLOAD, content_type: None, attributes: None, ..*event };
            ErasedRow { seq: Some(event.seq), left: Left::Event(left.checksum()) }
        }
        StoredIdentity::Stub(StubRow { seq, digest: None, .. }) => ErasedRow { seq, left: Left::Same },
        StoredIdentity::Stub(ref stub) => {
            let left = StubRow { digest: Some(digest(ERASED_PAYLOAD)), ..*stub };
            ErasedRow { seq: stub.seq, left: Left::Stub(left.checksum()) }
        }
    }
}

fn write(connection: &Connection, offset: u64, left: &Left) -> Result<()> {
    let written = match *left {
        Left::Event(checksum) => connection
            .prepare_cached(
                "UPDATE events SET payload = ?2, content_type = NULL, attributes = NULL, checksum = ?3
                 WHERE offset = ?1",
            )?
            .execute((offset, ERASED_PAYLOAD, checksum))?,
        Left::Stub(checksum) => connection
            .prepare_cached("UPDATE stubs SET digest = ?2, checksum = ?3 WHERE offset = ?1")?
            .execute((offset, digest(ERASED_PAYLOAD), checksum))?,
        Left::Same => 1,
    };
    one_row(written, offset)
}

/// Marks the row at `offset`, which is not released yet, as released.
pub(crate) fn release(connection: &Connection, offset: u64) -> Result<()> {
    let inverted = |table| {
        let sql = format!("UPDATE {table} SET checksum = ~checksum WHERE offset = ?1");
        connection.prepare_cached(&sql)?.execute([offset])
    };
    one_row(inverted("events")? + inverted("stubs")?, offset)
}

fn one_row(rows: usize, offset: u64) -> Result<()> {
    if rows == 1 {
        Ok(())
    } else {
        Err(Corruption::error(format!("there is not one row at offset {offset}")))
    }
}
