//! Turning events into stubs.

use rusqlite::{Connection, TransactionBehavior};

use super::group::{Failure, read_topic, text};
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
        let mut oldest = transaction.prepare_cached(
            "SELECT offset, seq, payload, event_id, source, processed_at FROM events
             WHERE topic_id = ?1 ORDER BY offset LIMIT ?2",
        )?;
        let mut stub = transaction.prepare_cached(
            "INSERT INTO stubs (offset, topic_id, seq, event_id, source, digest, processed_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let mut delete = transaction.prepare_cached("DELETE FROM events WHERE offset = ?1")?;
        let mut update = transaction
            .prepare_cached("UPDATE topics SET purged_seq = ?2, purged_offset = ?3 WHERE topic_id = ?1")?;
        let mut purged: Vec<(u64, u64)> = Vec::new();
        let mut rows = oldest.query((topic.id, count))?;
        while let Some(row) = rows.next()? {
            let (offset, seq) = (row.get(0)?, row.get(1)?);
            let digest = digest(text(row, 2)?);
            let source = topic.scope.key(text(row, 4)?);
            let processed_at: i64 = row.get(5)?;
            stub.execute((offset, topic.id, seq, text(row, 3)?, source, digest, processed_at))?;
            purged.push((offset, seq));
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
