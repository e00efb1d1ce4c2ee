//! Counts the identities that are old enough to be forgotten.

use rusqlite::Connection;

use crate::store::sqlite::catalog::{PartitionState, TopicRow};
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::write::forget::Oldest;
use crate::{StoreError, Timestamp, Topic};

/// How many of the topic's identities were stored before `before`. It counts up to `most`.
pub(crate) fn forgettable(
    connection: &mut Connection,
    topic: &Topic,
    before: Timestamp,
    most: u64,
) -> Result<u64, StoreError> {
    let mut count = || {
        let snapshot = connection.transaction()?;
        let Some(row) = TopicRow::named(&snapshot, topic)? else { return Ok(0) };
        let last_offset = PartitionState::read(&snapshot)?.last_offset;
        Oldest { topic_id: row.id, before: before.as_micros(), last_offset, most }.count(&snapshot)
    };
    count().map_err(|error| store_error("counting old identities", error))
}
