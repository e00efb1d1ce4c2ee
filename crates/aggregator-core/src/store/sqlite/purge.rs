//! Turning events into stubs.

use rusqlite::{Connection, TransactionBehavior};

use super::checksum::{EVENT_COLUMNS, EventRow, StubRow};
use super::group::{Failure, read_topic};
use crate::event::digest;

/// The most events of one transaction, so that appends get their turn.
const SLICE: u64 = 1_000;

/// Turns a slice of the topic's oldest events into stubs; how many it were.
pub(super) fn purge_slice(
    connection: &mut Connection,
    topic: &str,
    through_seq: u64,
) -> Result<u64, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Some(topic) = read_topic(&transaction, topic)? else { return Ok(0) };
    // Seqs are dense, so the bound says how many rows there are to find, and nothing looks beyond them.
    let count = through_seq.saturating_sub(topic.purged_seq).min(SLICE);
    if count == 0 {
        return Ok(0);
    }
    let purged = {
        let mut oldest = transaction.prepare_cached(&format!(
            "SELECT {EVENT_COLUMNS} FROM events e WHERE e.topic_id = ?1 ORDER BY e.offset LIMIT ?2"
        ))?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO stubs (offset, topic_id, seq, event_id, source, digest, processed_at, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let mut delete = transaction.prepare_cached("DELETE FROM events WHERE offset = ?1")?;
        let mut update = transaction
            .prepare_cached("UPDATE topics SET purged_seq = ?2, purged_offset = ?3 WHERE topic_id = ?1")?;
        let mut purged: Vec<(u64, u64)> = Vec::new();
        let mut rows = oldest.query((topic.id, count))?;
        while let Some(row) = rows.next()? {
            let event = EventRow::read(row)?;
            let stub = StubRow {
                offset: event.offset,
                topic_id: event.topic_id,
                seq: Some(event.seq),
                event_id: event.event_id,
                source: topic.scope.key(event.source),
                digest: Some(digest(event.payload)),
                processed_at: event.processed_at,
            };
            insert.execute((
                stub.offset,
                stub.topic_id,
                stub.seq,
                stub.event_id,
                stub.source,
                stub.digest,
                stub.processed_at,
                stub.checksum(),
            ))?;
            purged.push((event.offset, event.seq));
        }
        for (offset, _) in &purged {
            delete.execute([offset])?;
        }
        if let Some((offset, seq)) = purged.last() {
            update.execute((topic.id, seq, offset))?;
        }
        purged.len() as u64
    };
    transaction.commit()?;
    Ok(purged)
}
