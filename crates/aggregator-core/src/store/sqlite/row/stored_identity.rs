//! The row that holds an identity: an event, or the stub of a purged event.

use std::sync::LazyLock;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result, Row};

use super::Key;
use super::checksum::{EVENT_COLUMNS, EventRow, STUB_COLUMNS, StubRow};
use super::gap::Gap;
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
    connection: &'c Connection,
}

/// The event at the offset ?1.
pub(crate) static EVENT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset = ?1"));
static STUB: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {STUB_COLUMNS} FROM stubs s WHERE s.offset = ?1"));

impl<'c> StoredIdentities<'c> {
    pub(crate) fn new(connection: &'c Connection) -> Result<Self> {
        Ok(Self {
            event: connection.prepare_cached(&EVENT)?,
            stub: connection.prepare_cached(&STUB)?,
            connection,
        })
    }

    /// As [`Self::find_released`], but a row whose identity was released does not hold it any more.
    pub(crate) fn find<T>(
        &mut self,
        key: Key<'_>,
        offset: u64,
        read_found: impl Fn(StoredIdentity<'_>) -> T,
    ) -> Result<Option<T>> {
        let found = self.find_released(key, offset, |row| (!row.is_released()).then(|| read_found(row)))?;
        Ok(found.flatten())
    }

    /// Calls `read_found` with the row at `offset`, if that row holds the identity, or held it before it was released. The
    /// row itself decides, not the index that led to it, because identities can share a fingerprint.
    pub(crate) fn find_released<T>(
        &mut self,
        key: Key<'_>,
        offset: u64,
        read_found: impl Fn(StoredIdentity<'_>) -> T,
    ) -> Result<Option<T>> {
        match self.at(offset, |row| row.has(key).then(|| read_found(row)))? {
            Some(found) => Ok(found),
            None if self.is_forgotten(offset)? => Ok(None),
            None => Err(Corruption::error(format!(
                "the dedup index points to offset {offset}, where there is nothing"
            ))),
        }
    }

    /// Whether the row at `offset`, which is not there, was forgotten.
    pub(crate) fn is_forgotten(&self, offset: u64) -> Result<bool> {
        Gap::is_at(self.connection, offset)
    }

    /// What `read_found` makes of the row at `offset`, if there is one.
    pub(crate) fn at<T>(
        &mut self,
        offset: u64,
        read_found: impl Fn(StoredIdentity<'_>) -> T,
    ) -> Result<Option<T>> {
        let event = |row: &Row<'_>| Ok(read_found(StoredIdentity::Event(EventRow::read(row)?)));
        let found = self.event.query_row([offset], event).optional()?;
        if found.is_some() {
            return Ok(found);
        }
        let stub = |row: &Row<'_>| Ok(read_found(StoredIdentity::Stub(StubRow::read(row)?)));
        self.stub.query_row([offset], stub).optional()
    }
}

impl StoredIdentity<'_> {
    pub(crate) fn is_released(&self) -> bool {
        match self {
            Self::Event(event) => event.released,
            Self::Stub(stub) => stub.released,
        }
    }

    fn has(&self, key: Key<'_>) -> bool {
        match self {
            Self::Event(event) => {
                (event.topic_id, event.event_id) == (key.topic_id, key.event_id)
                    && (key.source.is_empty() || event.source == key.source)
            }
            Self::Stub(stub) => {
                (stub.topic_id, stub.event_id, stub.source) == (key.topic_id, key.event_id, key.source)
            }
        }
    }
}
