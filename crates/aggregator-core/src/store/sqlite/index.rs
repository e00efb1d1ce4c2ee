//! The seam of the dedup index: "which row holds this identity?"
//!
//! This one is a plain B-tree over the identities themselves. It is exact by construction, and slow
//! once it has outgrown the page cache. Whatever replaces it keeps these two types.

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result};

pub(super) const CREATE: &str = "
CREATE TABLE dedup_index (
    topic_id INTEGER NOT NULL,
    event_id TEXT    NOT NULL,
    source   TEXT    NOT NULL, -- '' where the topic's scope leaves the source out
    offset   INTEGER NOT NULL,
    PRIMARY KEY (topic_id, event_id, source)
) STRICT, WITHOUT ROWID;
";

/// An identity with its topic resolved.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) topic_id: i64,
    pub(super) event_id: &'a str,
    /// Empty where the topic's scope leaves the source out.
    pub(super) source: &'a str,
}

/// Asks the index, inside whatever transaction its connection has open.
pub(super) struct Lookup<'c> {
    find: CachedStatement<'c>,
    find_any_source: CachedStatement<'c>,
}

impl<'c> Lookup<'c> {
    pub(super) fn new(connection: &'c Connection) -> Result<Self> {
        Ok(Self {
            find: connection.prepare_cached(
                "SELECT offset FROM dedup_index WHERE topic_id = ?1 AND event_id = ?2 AND source = ?3",
            )?,
            find_any_source: connection.prepare_cached(
                "SELECT offset FROM dedup_index WHERE topic_id = ?1 AND event_id = ?2 ORDER BY offset",
            )?,
        })
    }

    /// The offset of the event or stub with this identity.
    pub(super) fn find(&mut self, key: Key<'_>) -> Result<Option<u64>> {
        self.find.query_row((key.topic_id, key.event_id, key.source), |row| row.get(0)).optional()
    }

    /// The offsets of the events and stubs with this id, whatever their source; ascending.
    pub(super) fn find_any_source(&mut self, topic_id: i64, event_id: &str) -> Result<Vec<u64>> {
        self.find_any_source.query_map((topic_id, event_id), |row| row.get(0))?.collect()
    }
}

/// Adds to the index, inside the writer's transaction.
pub(super) struct Insert<'c>(CachedStatement<'c>);

impl<'c> Insert<'c> {
    pub(super) fn new(connection: &'c Connection) -> Result<Self> {
        connection
            .prepare_cached(
                "INSERT INTO dedup_index (topic_id, event_id, source, offset) VALUES (?1, ?2, ?3, ?4)",
            )
            .map(Self)
    }

    pub(super) fn insert(&mut self, key: Key<'_>, offset: u64) -> Result<()> {
        self.0.execute((key.topic_id, key.event_id, key.source, offset)).map(drop)
    }
}
