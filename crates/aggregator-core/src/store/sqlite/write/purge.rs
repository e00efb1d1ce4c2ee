//! Purging: turns the oldest events of a topic into stubs.

use rusqlite::{Connection, TransactionBehavior};

use super::insert::StubInserts;
use crate::event::digest;
use crate::store::sqlite::catalog::{Catalog, TopicRow};
use crate::store::sqlite::fault::{Corruption, TransactionError};
use crate::store::sqlite::journal::Journal;
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow, StubRow};

/// The most events of one transaction, so that appends get their turn between two transactions.
pub(crate) const MAX_PURGED: u64 = 1_000;

/// Turns up to `most` of the topic's oldest events into stubs, and returns their number.
pub(crate) fn purge_slice(
    connection: &mut Connection,
    catalog: &mut Option<Catalog>,
    journal: &mut Journal,
    name: &str,
    through_seq: u64,
    most: u64,
) -> Result<u64, TransactionError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let catalog = journal.catalog(catalog, &transaction)?;
    let Some(&topic) = catalog.get(name) else { return Ok(0) };
    // Seqs are dense, so the number of rows is known before they are read.
    let count = through_seq.min(topic.last_seq).saturating_sub(topic.purged_seq).min(most);
    if count == 0 {
        return Ok(0);
    }
    journal.begin_without_folding(catalog);
    let mut next = topic;
    journal.fold(&transaction, &mut next)?;
    let purged = purge(&transaction, &topic, count)?;
    (next.purged_offset, next.purged_seq) = purged;
    shorten_spans(&transaction, &mut next)?;
    next.update(&transaction, name)?;
    journal.note_written(&next);
    catalog.put(next);
    journal.write(&transaction, catalog)?;
    transaction.commit()?;
    journal.committed(catalog);
    Ok(count)
}

/// Turns the topic's `count` oldest events into stubs, and returns the offset and seq of the last one.
fn purge(connection: &Connection, topic: &TopicRow, count: u64) -> rusqlite::Result<(u64, u64)> {
    let mut oldest = connection.prepare_cached(&format!(
        "SELECT {EVENT_COLUMNS} FROM spans s CROSS JOIN events e
             ON e.offset >= s.first_offset AND e.offset <= s.last_offset
         WHERE s.topic_id = ?1 ORDER BY s.first_offset, e.offset LIMIT ?2"
    ))?;
    let mut insert = StubInserts::new(connection)?;
    let mut delete = connection.prepare_cached("DELETE FROM events WHERE offset = ?1")?;
    let mut purged = Vec::new();
    let mut last_seq = topic.purged_seq;
    let mut rows = oldest.query((topic.id, count))?;
    while let Some(row) = rows.next()? {
        let event = EventRow::read(row)?;
        if (event.topic_id, event.seq) != (topic.id, last_seq + 1) {
            let what = format!("the event at offset {} is not the one after seq {last_seq}", event.offset);
            return Err(Corruption::error(what));
        }
        last_seq = event.seq;
        insert.write(&StubRow {
            offset: event.offset,
            topic_id: event.topic_id,
            seq: Some(event.seq),
            event_id: event.event_id,
            source: topic.scope.key(event.source),
            digest: Some(digest(event.payload)),
            processed_at: event.processed_at,
            released: event.released,
        })?;
        purged.push(event.offset);
    }
    drop(rows);
    for offset in &purged {
        delete.execute([offset])?;
    }
    match purged.last() {
        Some(&last_offset) if purged.len() as u64 == count => Ok((last_offset, last_seq)),
        _ => Err(Corruption::error(format!("events are missing after seq {last_seq}"))),
    }
}

/// Removes the purged offsets from the topic's spans.
fn shorten_spans(connection: &Connection, topic: &mut TopicRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM spans WHERE topic_id = ?1 AND first_offset <= ?2 AND last_offset <= ?2")?
        .execute((topic.id, topic.purged_offset))?;
    connection
        .prepare_cached("UPDATE spans SET first_offset = ?2 + 1 WHERE topic_id = ?1 AND first_offset <= ?2")?
        .execute((topic.id, topic.purged_offset))?;
    if topic.purged_offset == topic.last_offset {
        topic.last_span = 0;
    } else {
        topic.last_span = topic.last_span.max(topic.purged_offset + 1);
    }
    Ok(())
}
