//! Forgetting: removes the oldest stubs of a topic.

use std::ops::ControlFlow::{self, Break, Continue};

use rusqlite::{Connection, TransactionBehavior};

use crate::store::sqlite::catalog::{Catalog, TopicRow};
use crate::store::sqlite::fault::{Corruption, TransactionError, check_deadline};
use crate::store::sqlite::journal::Journal;
use crate::store::sqlite::row::checksum::{STUB_COLUMNS, StubRow};
use crate::store::sqlite::row::forgotten::Forgotten;
use crate::store::sqlite::row::gap::Gap;

/// The most identities of one transaction, so that appends get their turn between two transactions.
pub(crate) const MAX_FORGOTTEN: u64 = 1_000;

/// Which stubs are to be forgotten.
#[derive(Clone, Copy)]
pub(crate) struct Oldest {
    pub(crate) topic_id: i64,
    /// Only what was stored before this time, in microseconds.
    pub(crate) before: i64,
    /// Only what has a smaller offset: the newest row stays, because new cursors stand at it.
    pub(crate) last_offset: u64,
    pub(crate) most: u64,
}

impl Oldest {
    /// Hands `take` the stubs in the order of their offsets, until it breaks.
    pub(crate) fn for_each(
        self,
        connection: &Connection,
        mut take: impl FnMut(StubRow<'_>) -> ControlFlow<()>,
    ) -> rusqlite::Result<()> {
        let mut select = connection.prepare_cached(&format!(
            "SELECT {STUB_COLUMNS} FROM stubs s INDEXED BY stubs_topic
             WHERE s.topic_id = ?1 AND s.offset < ?2 ORDER BY s.offset LIMIT ?3"
        ))?;
        // It ends at the first event that has its payload. Where the table has none, the topic has none before its last stub: what
        // writes stubs folds the topic first.
        let first_event: Option<u64> = connection
            .prepare_cached("SELECT min(first_offset) FROM spans WHERE topic_id = ?1")?
            .query_row([self.topic_id], |row| row.get(0))?;
        let end = first_event.map_or(self.last_offset, |first| first.min(self.last_offset));
        let most = i64::try_from(self.most).unwrap_or(i64::MAX);
        let mut rows = select.query((self.topic_id, end, most))?;
        while let Some(row) = rows.next()? {
            check_deadline()?;
            let stub = StubRow::read(row)?;
            if stub.processed_at >= self.before || take(stub).is_break() {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn count(self, connection: &Connection) -> rusqlite::Result<u64> {
        let mut count = 0;
        self.for_each(connection, |_| {
            count += 1;
            Continue(())
        })?;
        Ok(count)
    }
}

/// Removes up to `most` of the topic's oldest stubs that were stored before `before`, and returns their number.
pub(crate) fn forget_slice(
    connection: &mut Connection,
    catalog: &mut Option<Catalog>,
    journal: &mut Journal,
    name: &str,
    before: i64,
    most: u64,
) -> Result<u64, TransactionError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let catalog = journal.catalog(catalog, &transaction)?;
    let Some(topic) = catalog.get(name) else { return Ok(0) };
    let last_offset = catalog.partition.last_offset;
    let oldest = Oldest { topic_id: topic.id, before, last_offset, most };
    let forgotten = forget(&transaction, topic, oldest)?;
    if forgotten > 0 {
        transaction.commit()?;
    }
    Ok(forgotten)
}

fn forget(connection: &Connection, topic: &TopicRow, oldest: Oldest) -> rusqlite::Result<u64> {
    let before = Forgotten::of(connection, topic.id)?;
    let mut mark =
        before.unwrap_or(Forgotten { topic_id: topic.id, offset: 0, seq: 0, processed_at: i64::MIN });
    let mut offsets = Vec::new();
    let mut wrong = None;
    oldest.for_each(connection, |stub| {
        if let Some(seq) = stub.seq {
            if seq != mark.seq + 1 {
                wrong =
                    Some(format!("the stub at offset {} is not the one after seq {}", stub.offset, mark.seq));
                return Break(());
            }
            (mark.seq, mark.processed_at) = (seq, stub.processed_at);
        } else if mark.seq == 0 {
            mark.processed_at = stub.processed_at;
        }
        // A mark that was imported may stand behind identities that were there before it.
        mark.offset = mark.offset.max(stub.offset);
        offsets.push(stub.offset);
        Continue(())
    })?;
    if let Some(wrong) = wrong {
        return Err(Corruption::error(wrong));
    }
    if offsets.is_empty() {
        return Ok(0);
    }
    mark.write(connection)?;
    let mut delete = connection.prepare_cached("DELETE FROM stubs WHERE offset = ?1")?;
    for offset in &offsets {
        delete.execute([offset])?;
    }
    for run in offsets.chunk_by(|a, b| a + 1 == *b) {
        Gap { first: run[0], last: run[run.len() - 1] }.add(connection)?;
    }
    Ok(offsets.len() as u64)
}
