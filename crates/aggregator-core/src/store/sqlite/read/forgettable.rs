//! Counts the identities that are old enough to be forgotten.

use rusqlite::Connection;

use super::bytes::topic_row;
use crate::store::sqlite::catalog::PartitionState;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::write::forget::Oldest;
use crate::{StoreError, Topic};

/// `oldest` is given the topic's id and the partition's last offset.
pub(crate) fn forgettable(
    connection: &mut Connection,
    topic: &Topic,
    oldest: impl FnOnce(i64, u64) -> Oldest,
) -> Result<u64, StoreError> {
    let count = || {
        let snapshot = connection.transaction()?;
        let Some(row) = topic_row(&snapshot, topic)? else { return Ok(0) };
        let last_offset = PartitionState::read(&snapshot)?.last_offset;
        oldest(row.id, last_offset).count(&snapshot)
    };
    count().map_err(|error| store_error("counting old identities", error))
}
