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

    /// Removes the payloads of all rows that have one of the identities, or had it before it was released.
    pub(crate) fn erase(&mut self, ids: &[Identity]) -> Result<Vec<Erased>> {
        self.each(ids, |tx, key, candidates| {
            let mut seqs = Vec::new();
            for offset in candidates {
                let found = tx.stored_identities.find_released(key, offset, |row| erased(&row))?;
                let Some(row) = found else { continue };
                seqs.extend(row.seq);
                write(tx.connection, offset, &row.left)?;
            }
            seqs.sort_unstable();
            Ok(Erased::new(seqs))
        })
    }

    /// Takes the identities from the rows that have them, and returns what was known of these rows.
    pub(crate) fn release(&mut self, ids: &[Identity]) -> Result<Vec<Option<Seen>>> {
        self.each(ids, |tx, key, candidates| {
            for offset in candidates {
                if let Some(seen) = tx.stored_identities.find(key, offset, seen_in)? {
                    release(tx.connection, offset)?;
                    return Ok(Some(seen));
                }
            }
            Ok(None)
        })
    }

    /// Calls `act` with each identity and the offsets of the rows that may have it, ascending. An identity of a topic that does
    /// not exist has nothing.
    fn each<T: Default>(
        &mut self,
        ids: &[Identity],
        mut act: impl FnMut(&mut Self, Key<'_>, Vec<u64>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let keys: Vec<_> = ids.iter().map(|id| self.key(id)).collect();
        let known: Vec<_> = keys.iter().flatten().copied().collect();
        let last_offset = self.catalog.partition.last_offset;
        let candidates = index::find(self.connection, self.index, &known, last_offset)?;
        let mut candidates = candidates
            .ok_or_else(|| Corruption::error("the dedup index is not that of the last commit".into()))?
            .into_iter();
        let mut of_key = |key: Option<Key<'_>>| {
            let Some(key) = key else { return Ok(T::default()) };
            let mut offsets = candidates.next().unwrap_or_default();
            offsets.sort_unstable();
            offsets.dedup();
            act(self, key, offsets)
        };
        keys.into_iter().map(&mut of_key).collect()
    }

    /// `None` if there is no such topic.
    fn key<'i>(&self, id: &'i Identity) -> Option<Key<'i>> {
        let topic = self.catalog.get(id.topic.as_str())?;
        let source = id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str);
        Some(Key { topic_id: topic.id, event_id: id.event_id.as_str(), source: topic.scope.key(source) })
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
