//! Counts the identities that are old enough to be forgotten.

use rusqlite::Connection;

use super::bytes::topic_row;
use super::{Memory, with_memory};
use crate::store::sqlite::catalog::PartitionState;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::journal::Views;
use crate::store::sqlite::write::forget::Oldest;
use crate::{StoreError, Timestamp, Topic};

/// How many of the topic's identities were stored before `before`. It counts up to `most`.
pub(crate) fn forgettable(
    connection: &mut Connection,
    memory: &Memory,
    topic: &Topic,
    before: Timestamp,
    most: u64,
) -> Result<u64, StoreError> {
    let doing = "counting old identities";
    let count = |snapshot: &Connection| {
        let partition = PartitionState::read(snapshot)?;
        let Some(row) = topic_row(snapshot, topic)? else { return Ok(Some(0)) };
        let views = Views::of(snapshot, &memory.tails, &partition);
        let Some(view) = views.view(topic.as_str(), row)? else { return Ok(None) };
        let first_event = view.first_offset(snapshot)?;
        let end = first_event.unwrap_or(u64::MAX).min(partition.last_offset);
        Oldest { topic_id: view.row.id, before: before.as_micros(), end, most }.count(snapshot).map(Some)
    };
    with_memory(connection, doing, |snapshot| count(snapshot).map_err(|error| store_error(doing, error)))
}
