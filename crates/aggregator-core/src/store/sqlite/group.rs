//! What happens inside the transaction of an append.

use std::collections::{HashMap, HashSet};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction};

use super::checksum::{Corruption, EVENT_COLUMNS, EventRow, STUB_COLUMNS, StubRow};
use super::index::{Insert, Key, Lookup};
use crate::event::{digest, slot};
use crate::store::memory::too_many_topics;
use crate::store::{Outcome, Receipt};
use crate::{EventRef, Fault, Scope, StoreError, Timestamp};

/// A copy of what every append needs of the file.
pub(super) struct Known {
    pub(super) tail: Tail,
    /// Filled as topics are met; bounded by `max_topics`.
    pub(super) topics: HashMap<Box<str>, TopicRow>,
}

pub(super) struct Tail {
    pub(super) last_offset: u64,
    pub(super) last_processed_at: i64,
    topics: u64,
    stored: u64,
    duplicates: u64,
    conflicts: u64,
}

#[derive(Clone, Copy)]
pub(super) struct TopicRow {
    pub(super) id: i64,
    pub(super) scope: Scope,
    last_seq: u64,
    pub(super) purged_seq: u64,
    duplicates: u64,
    conflicts: u64,
}

/// What went wrong inside a transaction.
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    Store(StoreError),
    /// The events themselves are refused, and nothing was changed.
    Refused(Vec<Fault>),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

pub(super) fn read_tail(connection: &Connection) -> rusqlite::Result<Tail> {
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

pub(super) fn read_topic(connection: &Connection, name: &str) -> rusqlite::Result<Option<TopicRow>> {
    let mut select = connection.prepare_cached(
        "SELECT topic_id, scope, last_seq, duplicates, conflicts, purged_seq FROM topics WHERE name = ?1",
    )?;
    let row = select.query_row([name], |row| {
        Ok(TopicRow {
            id: row.get(0)?,
            scope: super::reader::scope(row, 1)?,
            last_seq: row.get(2)?,
            duplicates: row.get(3)?,
            conflicts: row.get(4)?,
            purged_seq: row.get(5)?,
        })
    });
    row.optional()
}

/// The row itself decides, not the index that led to it.
fn check_identity(key: Key<'_>, topic_id: i64, event_id: &str, offset: u64) -> rusqlite::Result<()> {
    if (key.topic_id, key.event_id) == (topic_id, event_id) {
        return Ok(());
    }
    Err(Corruption::error(format!("the dedup index points to offset {offset}, which holds another identity")))
}

/// Refuses the events whose topics would be too many. Topics that are met for the first time since the
/// start are remembered on the way.
pub(super) fn check_topics(
    connection: &Connection,
    known: &mut Known,
    events: &[EventRef<'_>],
    max_topics: u64,
) -> Result<(), Failure> {
    let mut new = HashSet::new();
    let mut faults = Vec::new();
    for (index, event) in events.iter().enumerate() {
        if known.topics.contains_key(event.topic()) || new.contains(event.topic()) {
            continue;
        }
        if let Some(topic) = read_topic(connection, event.topic())? {
            known.topics.insert(event.topic().into(), topic);
        } else if known.tail.topics + (new.len() as u64) < max_topics {
            new.insert(event.topic());
        } else {
            faults.push(Fault { index: Some(index), error: too_many_topics(max_topics) });
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Failure::Refused(faults)) }
}

/// One append: its statements and what it has to know, inside one transaction.
pub(super) struct Group<'c, 'k> {
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
    pub(super) fn new(
        transaction: &'c Transaction<'c>,
        known: &'k mut Known,
        now: Timestamp,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            known,
            now,
            transaction,
            lookup: Lookup::new(transaction)?,
            insert: Insert::new(transaction)?,
            insert_event: transaction.prepare_cached(
                "INSERT INTO events (offset, topic_id, seq, event_id, timestamp, source, payload,
                                     sequence, content_type, attributes, processed_at, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?,
            original_event: transaction
                .prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM events e WHERE e.offset = ?1"))?,
            original_stub: transaction
                .prepare_cached(&format!("SELECT {STUB_COLUMNS} FROM stubs s WHERE s.offset = ?1"))?,
        })
    }

    /// The receipts of `events`, whose topics there is room for.
    pub(super) fn append(mut self, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, Failure> {
        // Topic by topic (stable, so the order within each stays): neighbours in the file are
        // neighbours in a topic, and a topic is resolved once.
        let mut order: Vec<usize> = (0..events.len()).collect();
        order.sort_by_key(|&index| events[index].topic());
        let mut receipts = vec![None; events.len()];
        for run in order.chunk_by(|&a, &b| events[a].topic() == events[b].topic()) {
            let mut topic = self.topic(&events[run[0]])?;
            for &index in run {
                receipts[index] = Some(self.append_event(&mut topic, &events[index])?);
            }
            self.update_topic(events[run[0]].topic(), topic)?;
        }
        self.update_tail()?;
        Ok(receipts.into_iter().map(|receipt| receipt.expect("every event is in one run")).collect())
    }

    /// The event's topic, created if it is the first of it.
    fn topic(&mut self, event: &EventRef<'_>) -> rusqlite::Result<TopicRow> {
        if let Some(topic) = self.known.topics.get(event.topic()) {
            return Ok(*topic);
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
        Ok(TopicRow { id, scope: event.scope(), last_seq: 0, duplicates: 0, conflicts: 0, purged_seq: 0 })
    }

    fn append_event(&mut self, topic: &mut TopicRow, event: &EventRef<'_>) -> Result<Receipt, Failure> {
        let key =
            Key { topic_id: topic.id, event_id: event.event_id(), source: topic.scope.key(event.source()) };
        if let Some(offset) = self.lookup.find(key)? {
            let receipt = self.repeat(key, offset, event)?;
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
        let row = EventRow {
            offset,
            topic_id: topic.id,
            seq: topic.last_seq,
            event_id: event.event_id(),
            timestamp: event.timestamp(),
            source: event.source(),
            payload: event.payload(),
            sequence: event.sequence(),
            content_type: event.content_type(),
            attributes: event.attributes(),
            processed_at: self.now.as_micros(),
        };
        self.insert_event.execute((
            row.offset,
            row.topic_id,
            row.seq,
            row.event_id,
            row.timestamp,
            row.source,
            row.payload,
            row.sequence,
            row.content_type,
            row.attributes,
            row.processed_at,
            row.checksum(),
        ))?;
        self.insert.insert(key, offset)?;
        Ok(Receipt { outcome: Outcome::Stored, seq: Some(topic.last_seq), processed_at: self.now })
    }

    /// The receipt of an event whose identity is that of the row at `offset`.
    fn repeat(&mut self, key: Key<'_>, offset: u64, event: &EventRef<'_>) -> Result<Receipt, Failure> {
        let receipt = |same: bool, seq, processed_at| Receipt {
            outcome: if same { Outcome::Duplicate } else { Outcome::Conflict },
            seq,
            processed_at: Timestamp::from_micros(processed_at),
        };
        let original = self.original_event.query_row([offset], |row| {
            let first = EventRow::read(row)?;
            check_identity(key, first.topic_id, first.event_id, offset)?;
            Ok(receipt(first.payload == event.payload(), Some(first.seq), first.processed_at))
        });
        if let Some(receipt) = original.optional()? {
            return Ok(receipt);
        }
        let stub = self.original_stub.query_row([offset], |row| {
            let first = StubRow::read(row)?;
            check_identity(key, first.topic_id, first.event_id, offset)?;
            // An identity that was imported alone has no digest, and any payload repeats it.
            let same = first.digest.is_none_or(|kept| kept == digest(event.payload()));
            Ok(receipt(same, first.seq, first.processed_at))
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
