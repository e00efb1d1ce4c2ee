//! Where a time begins.

use rusqlite::{Connection, OptionalExtension, Result};

use super::signed;
use crate::Timestamp;
use crate::query::{Order, Query};
use crate::store::sqlite::catalog::PartitionState;
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow};

/// Where a scan from `from` on can begin, because all rows before that are outside the query's time: by a binary search,
/// for `processed_at` never goes back.
pub(super) fn start(
    connection: &Connection,
    query: &Query,
    from: u64,
    partition: &PartitionState,
) -> Result<u64> {
    let last_offset = partition.last_offset;
    match (query.order, query.since, query.until) {
        (Order::Ascending, Some(since), _) => last_before(connection, since, from, last_offset),
        (Order::Descending, _, Some(until)) => {
            let last = last_before(connection, until, 0, last_offset.min(from.saturating_sub(1)))?;
            Ok(from.min(last + 1))
        }
        _ => Ok(from),
    }
}

/// An offset from `low` to `high` that no event from `low` to it was stored at `time` or later, and no event behind it
/// earlier.
fn last_before(connection: &Connection, time: Timestamp, mut low: u64, mut high: u64) -> Result<u64> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset > ?1 ORDER BY e.offset LIMIT 1"
    ))?;
    // Events only: an identity that was imported alone may have any time.
    let mut event_behind = |offset: u64| {
        let found = select.query_row([signed(offset)], |row| {
            let event = EventRow::read(row)?;
            Ok((event.offset, Timestamp::from_micros(event.processed_at)))
        });
        found.optional()
    };
    // Most pages go on behind another one, where the time has begun.
    let mut middle = low;
    while low < high {
        match event_behind(middle)? {
            Some((offset, stored_at)) if stored_at < time => low = offset.min(high),
            _ => high = middle,
        }
        middle = low + (high - low) / 2;
    }
    Ok(low)
}
