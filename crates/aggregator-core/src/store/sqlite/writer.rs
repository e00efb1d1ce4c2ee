//! The one writer of the file.

use std::collections::HashMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Transaction, TransactionBehavior};

use super::SqliteOptions;
use super::fault::{is_io_failure, store_error};
use super::index::{Insert, Key, Lookup};
use super::schema::PAGE_BYTES;
use crate::event::{digest, slot};
use crate::store::memory::too_many_topics;
use crate::store::{Outcome, Receipt};
use crate::{EventRef, Fault, Scope, StoreError, Timestamp};

pub(super) struct Writer {
    connection: Connection,
    options: SqliteOptions,
    /// What the file says, as of the last commit; `None` where that has to be read first.
    known: Option<Known>,
    /// Why no further write is taken.
    poisoned: Option<String>,
    /// While readers pin the log, the length in pages at which to wait for them next.
    restart_at_pages: u64,
}

/// A copy of what every append needs of the file.
#[derive(Default)]
struct Known {
    tail: Tail,
    /// Filled as topics are met; bounded by `max_topics`.
    topics: HashMap<Box<str>, TopicRow>,
}

#[derive(Clone, Copy, Default)]
struct Tail {
    last_offset: u64,
    last_processed_at: i64,
    topics: u64,
    stored: u64,
    duplicates: u64,
    conflicts: u64,
}

#[derive(Clone, Copy)]
struct TopicRow {
    id: i64,
    scope: Scope,
    last_seq: u64,
    duplicates: u64,
    conflicts: u64,
}

/// What went wrong inside a transaction: SQLite, or the events themselves.
enum Failure {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Writer {
    pub(super) fn new(connection: Connection, options: SqliteOptions) -> Self {
        Self { connection, options, known: None, poisoned: None, restart_at_pages: 0 }
    }

    /// The receipts and the last offset.
    pub(super) fn append(&mut self, events: &[EventRef<'_>]) -> Result<(Vec<Receipt>, u64), StoreError> {
        self.check_poison()?;
        if events.is_empty() {
            return Ok((Vec::new(), 0));
        }
        let result = self.try_append(events);
        let appended = result.map_err(|failure| self.fail("appending", failure))?;
        // The commit stands; what goes wrong from here on is the next append's to report.
        if let Err(error) = self.checkpoint() {
            self.fail("checkpointing", Failure::Sqlite(error));
        }
        Ok(appended)
    }

    fn try_append(&mut self, events: &[EventRef<'_>]) -> Result<(Vec<Receipt>, u64), Failure> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Taken out, and put back only after the commit: any failure leaves `None`, to be read anew.
        let mut known = match self.known.take() {
            Some(known) => known,
            None => Known { tail: read_tail(&transaction)?, topics: HashMap::new() },
        };
        let now = (self.options.clock)().as_micros().max(known.tail.last_processed_at);
        let mut group = Group::new(&transaction, &mut known, Timestamp::from_micros(now))?;
        let receipts = group.append(events, self.options.max_topics)?;
        drop(group);
        transaction.commit()?;
        let last_offset = known.tail.last_offset;
        self.known = Some(known);
        Ok((receipts, last_offset))
    }

    /// Turns up to a thousand of the topic's oldest events into stubs; how many it were.
    pub(super) fn purge_slice(&mut self, topic: &str, through_seq: u64) -> Result<u64, StoreError> {
        self.check_poison()?;
        let result = self.try_purge_slice(topic, through_seq);
        result.map_err(|failure| self.fail("purging", failure))
    }

    fn try_purge_slice(&mut self, topic: &str, through_seq: u64) -> Result<u64, Failure> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some(topic) = read_topic(&transaction, topic)? else { return Ok(0) };
        let purged = {
            let mut oldest = transaction.prepare_cached(
                "SELECT offset, seq, payload, event_id, source, processed_at FROM events
                 WHERE topic_id = ?1 AND seq <= ?2 ORDER BY offset LIMIT 1000",
            )?;
            let mut stub = transaction.prepare_cached(
                "INSERT INTO stubs (offset, topic_id, seq, event_id, source, digest, processed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            let mut delete = transaction.prepare_cached("DELETE FROM events WHERE offset = ?1")?;
            let mut update = transaction.prepare_cached(
                "UPDATE topics SET purged_seq = ?2, purged_offset = ?3 WHERE topic_id = ?1",
            )?;
            let mut rows = Vec::new();
            let mut found = oldest.query((topic.id, i64::try_from(through_seq).unwrap_or(i64::MAX)))?;
            while let Some(row) = found.next()? {
                let (offset, seq): (u64, u64) = (row.get(0)?, row.get(1)?);
                let digest = digest(text(row, 2)?);
                stub.execute((
                    offset,
                    topic.id,
                    seq,
                    text(row, 3)?,
                    topic.scope.key(text(row, 4)?),
                    digest,
                    row.get::<_, i64>(5)?,
                ))?;
                rows.push((offset, seq));
            }
            for (offset, _) in &rows {
                delete.execute([offset])?;
            }
            if let Some((offset, seq)) = rows.last() {
                update.execute((topic.id, seq, offset))?;
            }
            rows.len() as u64
        };
        transaction.commit()?;
        Ok(purged)
    }

    fn check_poison(&self) -> Result<(), StoreError> {
        match &self.poisoned {
            Some(reason) => Err(StoreError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// What the caller is told of a failure; remembers it if nothing can be trusted after it.
    fn fail(&mut self, doing: &str, failure: Failure) -> StoreError {
        self.known = None;
        let error = match failure {
            Failure::Store(error) => error,
            Failure::Sqlite(error) if is_io_failure(&error) => {
                StoreError::Poisoned { reason: format!("{doing}: {error}") }
            }
            Failure::Sqlite(error) => store_error(doing, error),
        };
        if error.is_fatal() {
            self.poisoned = Some(error.to_string());
        }
        error
    }

    /// Copies the log back into the file once enough has gathered. On this connection only: two
    /// overlapping checkpoints are what SQLite's worst bug in this place needed.
    fn checkpoint(&mut self) -> rusqlite::Result<()> {
        /// The log is written over from its start once it is copied and no reader is in it. Readers
        /// that overlap without end keep that from happening: from this many times the usual length
        /// on they are waited for, up to the busy timeout.
        const PINNED: u64 = 16;
        let step = u64::from(self.options.checkpoint_bytes / PAGE_BYTES).max(1);
        let (log, copied) = self.wal_checkpoint("NOOP")?;
        if log.saturating_sub(copied) >= step {
            self.wal_checkpoint("PASSIVE")?;
        }
        if log < PINNED * step {
            self.restart_at_pages = 0;
        } else if log >= self.restart_at_pages {
            // The longer the log, the rarer the wait: it costs commits their time.
            self.restart_at_pages = log + step.max(log / 4);
            self.wal_checkpoint("RESTART")?;
        }
        Ok(())
    }

    /// Pages in the log, and how many of them are in the file, too.
    fn wal_checkpoint(&self, mode: &str) -> rusqlite::Result<(u64, u64)> {
        let mut checkpoint = self.connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
        checkpoint.query_row([], |row| {
            let pages = |i| row.get::<_, i64>(i).map(|pages| u64::try_from(pages).unwrap_or(0));
            Ok((pages(1)?, pages(2)?))
        })
    }
}

fn read_tail(connection: &Connection) -> rusqlite::Result<Tail> {
    connection.query_row(
        "SELECT last_offset, last_processed_at, topics, stored, duplicates, conflicts
         FROM partitions WHERE partition = 0",
        [],
        |row| {
            Ok(Tail {
                last_offset: row.get(0)?,
                last_processed_at: row.get(1)?,
                topics: row.get(2)?,
                stored: row.get(3)?,
                duplicates: row.get(4)?,
                conflicts: row.get(5)?,
            })
        },
    )
}

fn read_topic(connection: &Connection, name: &str) -> rusqlite::Result<Option<TopicRow>> {
    let mut select = connection.prepare_cached(
        "SELECT topic_id, scope, last_seq, duplicates, conflicts FROM topics WHERE name = ?1",
    )?;
    let row = select.query_row([name], |row| {
        Ok(TopicRow {
            id: row.get(0)?,
            scope: super::reader::scope(row, 1)?,
            last_seq: row.get(2)?,
            duplicates: row.get(3)?,
            conflicts: row.get(4)?,
        })
    });
    row.optional()
}

/// A text column, borrowed.
fn text<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<&'r str> {
    row.get_ref(column)?.as_str().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// One append: its statements and what it has to know, inside one transaction.
struct Group<'c, 'k> {
    known: &'k mut Known,
    now: Timestamp,
    transaction: &'c Transaction<'c>,
    lookup: Lookup<'c>,
    insert: Insert<'c>,
    insert_event: CachedStatement<'c>,
    original_event: CachedStatement<'c>,
    original_stub: CachedStatement<'c>,
}

impl<'c, 'k> Group<'c, 'k> {
    fn new(transaction: &'c Transaction<'c>, known: &'k mut Known, now: Timestamp) -> rusqlite::Result<Self> {
        Ok(Self {
            known,
            now,
            transaction,
            lookup: Lookup::new(transaction)?,
            insert: Insert::new(transaction)?,
            insert_event: transaction.prepare_cached(
                "INSERT INTO events (offset, topic_id, seq, event_id, timestamp, source, payload,
                                     sequence, content_type, attributes, processed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?,
            original_event: transaction
                .prepare_cached("SELECT seq, processed_at, payload FROM events WHERE offset = ?1")?,
            original_stub: transaction
                .prepare_cached("SELECT seq, processed_at, digest FROM stubs WHERE offset = ?1")?,
        })
    }

    fn append(&mut self, events: &[EventRef<'_>], max_topics: u64) -> Result<Vec<Receipt>, Failure> {
        // Topic by topic (stable, so the order within each stays): neighbours in the file are
        // neighbours in a topic, and a topic is resolved once.
        let mut order: Vec<usize> = (0..events.len()).collect();
        order.sort_by_key(|&index| events[index].topic());
        let mut receipts = vec![None; events.len()];
        let mut faults = Vec::new();
        for run in order.chunk_by(|&a, &b| events[a].topic() == events[b].topic()) {
            let Some(mut topic) = self.topic(&events[run[0]], max_topics)? else {
                let fault = |&index| Fault { index: Some(index), error: too_many_topics(max_topics) };
                faults.extend(run.iter().map(fault));
                continue;
            };
            if !faults.is_empty() {
                continue;
            }
            for &index in run {
                receipts[index] = Some(self.append_event(&mut topic, &events[index])?);
            }
            self.update_topic(events[run[0]].topic(), topic)?;
        }
        if !faults.is_empty() {
            faults.sort_by_key(|fault| fault.index);
            return Err(Failure::Store(StoreError::Invalid(faults)));
        }
        self.update_tail()?;
        Ok(receipts.into_iter().map(|receipt| receipt.expect("every event is in one run")).collect())
    }

    /// The event's topic, created if there is room for it.
    fn topic(&mut self, event: &EventRef<'_>, max_topics: u64) -> rusqlite::Result<Option<TopicRow>> {
        if let Some(topic) = self.known.topics.get(event.topic()) {
            return Ok(Some(*topic));
        }
        if let Some(topic) = read_topic(self.transaction, event.topic())? {
            return Ok(Some(topic));
        }
        if self.known.tail.topics >= max_topics {
            return Ok(None);
        }
        self.known.tail.topics += 1;
        let mut insert = self.transaction.prepare_cached(
            "INSERT INTO topics (name, slot, scope, last_seq, purged_seq, purged_offset, duplicates, conflicts)
             VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0)",
        )?;
        let scope = match event.scope() {
            Scope::Topic => 0,
            Scope::Source => 1,
        };
        let id = insert.insert((event.topic(), slot(event.topic()), scope))?;
        Ok(Some(TopicRow { id, scope: event.scope(), last_seq: 0, duplicates: 0, conflicts: 0 }))
    }

    fn append_event(&mut self, topic: &mut TopicRow, event: &EventRef<'_>) -> Result<Receipt, Failure> {
        let key =
            Key { topic_id: topic.id, event_id: event.event_id(), source: topic.scope.key(event.source()) };
        if let Some(offset) = self.lookup.find(key)? {
            let receipt = self.repeat(offset, event)?;
            topic.duplicates += 1;
            topic.conflicts += u64::from(receipt.outcome == Outcome::Conflict);
            self.known.tail.duplicates += 1;
            self.known.tail.conflicts += u64::from(receipt.outcome == Outcome::Conflict);
            return Ok(receipt);
        }
        topic.last_seq += 1;
        self.known.tail.last_offset += 1;
        self.known.tail.stored += 1;
        let offset = self.known.tail.last_offset;
        self.insert_event.execute((
            offset,
            topic.id,
            topic.last_seq,
            event.event_id(),
            event.timestamp(),
            event.source(),
            event.payload(),
            event.sequence(),
            event.content_type(),
            event.attributes(),
            self.now.as_micros(),
        ))?;
        self.insert.insert(key, offset)?;
        Ok(Receipt { outcome: Outcome::Stored, seq: Some(topic.last_seq), processed_at: self.now })
    }

    /// The receipt of an event whose identity is that of the row at `offset`.
    fn repeat(&mut self, offset: u64, event: &EventRef<'_>) -> Result<Receipt, Failure> {
        let receipt = |row: &Row<'_>, same: bool| {
            Ok(Receipt {
                outcome: if same { Outcome::Duplicate } else { Outcome::Conflict },
                seq: row.get(0)?,
                processed_at: Timestamp::from_micros(row.get(1)?),
            })
        };
        let original =
            self.original_event.query_row([offset], |row| receipt(row, text(row, 2)? == event.payload()));
        if let Some(receipt) = original.optional()? {
            return Ok(receipt);
        }
        let stub = self.original_stub.query_row([offset], |row| {
            // An identity that was imported alone has no digest, and any payload repeats it.
            let kept: Option<[u8; 16]> = row.get(2)?;
            receipt(row, kept.is_none_or(|kept| kept == digest(event.payload())))
        });
        stub.optional()?.ok_or_else(|| {
            Failure::Store(StoreError::corrupt(format!(
                "the dedup index points to offset {offset}, where there is nothing"
            )))
        })
    }

    fn update_topic(&mut self, name: &str, topic: TopicRow) -> rusqlite::Result<()> {
        let mut update = self.transaction.prepare_cached(
            "UPDATE topics SET last_seq = ?2, duplicates = ?3, conflicts = ?4 WHERE topic_id = ?1",
        )?;
        update.execute((topic.id, topic.last_seq, topic.duplicates, topic.conflicts))?;
        self.known.topics.insert(name.into(), topic);
        Ok(())
    }

    fn update_tail(&mut self) -> rusqlite::Result<()> {
        let tail = &mut self.known.tail;
        tail.last_processed_at = self.now.as_micros();
        let mut update = self.transaction.prepare_cached(
            "UPDATE partitions SET last_offset = ?1, last_processed_at = ?2, topics = ?3, stored = ?4,
                    duplicates = ?5, conflicts = ?6
             WHERE partition = 0",
        )?;
        update.execute((
            tail.last_offset,
            tail.last_processed_at,
            tail.topics,
            tail.stored,
            tail.duplicates,
            tail.conflicts,
        ))?;
        Ok(())
    }
}
