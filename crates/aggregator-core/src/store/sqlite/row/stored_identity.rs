//! The row that holds an identity: an event, or the stub of a purged event.

use std::sync::LazyLock;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result};

use super::Key;
use super::checksum::{EVENT_COLUMNS, EventRow, STUB_COLUMNS, StubRow};
use crate::store::sqlite::fault::Corruption;

/// The row that holds an identity.
pub(crate) enum StoredIdentity<'a> {
    Event(EventRow<'a>),
    Stub(StubRow<'a>),
}

/// Reads rows by their offsets, inside the transaction that its connection has open.
pub(crate) struct StoredIdentities<'c> {
    event: CachedStatement<'c>,
    stub: CachedStatement<'c>,
}

/// The event at the offset ?1.
pub(crate) static EVENT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset = ?1"));
static STUB: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {STUB_COLUMNS} FROM stubs s WHERE s.offset = ?1"));

impl<'c> StoredIdentities<'c> {
    pub(crate) fn new(connection: &'c Connection) -> Result<Self> {
        Ok(Self { event: connection.prepare_cached(&EVENT)?, stub: connection.prepare_cached(&STUB)? })
    }

    /// Calls `read_found` with the row at `offset`, if that row holds the identity. The row itself decides, not the index
    /// that led to it, because identities can share a fingerprint.
    pub(crate) fn find<T>(
        &mut self,
        key: Key<'_>,
        offset: u64,
        read_found: impl Fn(StoredIdentity<'_>) -> T,
    ) -> Result<Option<T>> {
        let found = self.event.query_row([offset], |row| {
            let first = EventRow::read(row)?;
            let same = (first.topic_id, first.event_id) == (key.topic_id, key.event_id)
                && (key.source.is_empty() || first.source == key.source);
            Ok(same.then(|| read_found(StoredIdentity::Event(first))))
        });
        if let Some(found) = found.optional()? {
            return Ok(found);
        }
        let found = self.stub.query_row([offset], |row| {
            let first = StubRow::read(row)?;
            let same =
                (first.topic_id, first.event_id, first.source) == (key.topic_id, key.event_id, key.source);
            Ok(same.then(|| read_found(StoredIdentity::Stub(first))))
        });
        found.optional()?.ok_or_else(|| {
            Corruption::error(format!("the dedup index points to offset {offset}, where there is nothing"))
        })
    }
}
