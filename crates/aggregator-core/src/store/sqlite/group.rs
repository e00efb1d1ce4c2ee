//! What happens inside the transaction of an append.

use std::collections::{HashMap, HashSet};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction};

use super::checksum::EventRow;
use super::index::{Chunks, Entry, Hit, Index, Key, Recent};
use super::original::{Original, Originals};
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

impl TopicRow {
    fn key<'a>(&self, event: &EventRef<'a>) -> Key<'a> {
        Key { topic_id: self.id, event_id: event.event_id(), source: self.scope.key(event.source()) }
    }

    fn count_repeat(&mut self, tail: &mut Tail, receipt: Receipt) -> Receipt {
        let conflicts = u64::from(receipt.outcome == Outcome::Conflict);
        self.duplicates += 1;
        self.conflicts += conflicts;
        tail.duplicates += 1;
        tail.conflicts += conflicts;
        receipt
    }
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
    /// What was stored so far.
    added: &'k mut Recent,
    index: &'k Index,
    now: Timestamp,
    transaction: &'c Transaction<'c>,
    chunks: Chunks<'c>,
    originals: Originals<'c>,
    insert_event: CachedStatement<'c>,
}

impl<'c, 'k> Group<'c, 'k> {
    /// `added` is where the entries of what is stored go.
    pub(super) fn new(
        transaction: &'c Transaction<'c>,
        known: &'k mut Known,
        index: &'k Index,
        added: &'k mut Recent,
        now: Timestamp,
    ) -> rusqlite::Result<Self> {
        added.clear();
        Ok(Self {
            known,
            added,
            index,
            now,
            transaction,
            chunks: Chunks::new(transaction)?,
            originals: Originals::new(transaction)?,
            insert_event: transaction.prepare_cached(
                "INSERT INTO events (offset, topic_id, seq, event_id, timestamp, source, payload,
                                     sequence, content_type, attributes, processed_at, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?,
        })
    }

    /// The receipts of `events`, whose topics there is room for.
    pub(super) fn append(mut self, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, Failure> {
        // Topic by topic (stable, so the order within each stays): neighbours in the file are
        // neighbours in a topic, and a topic is resolved once.
        let mut order: Vec<usize> = (0..events.len()).collect();
        order.sort_by_key(|&index| events[index].topic());
        let mut topics = Vec::new();
        let mut keys = Vec::with_capacity(events.len());
        for run in order.chunk_by(|&a, &b| events[a].topic() == events[b].topic()) {
            let topic = self.topic(&events[run[0]])?;
            keys.extend(run.iter().map(|&index| topic.key(&events[index])));
            topics.push((topic, run.len()));
        }
        let fingerprints: Vec<u64> = keys.iter().map(|&key| self.index.fingerprint(key)).collect();
        let hits = self.index.probe(&fingerprints);
        let mut hits = hits.as_slice();

        let mut receipts = vec![None; events.len()];
        let mut position = 0;
        for (mut topic, count) in topics {
            let name = events[order[position]].topic();
            for position in position..position + count {
                let (of_event, after) = hits.split_at(hits.partition_point(|hit| hit.position <= position));
                hits = after;
                let (key, event) = (keys[position], &events[order[position]]);
                let receipt = match self.repeat(key, fingerprints[position], of_event, event)? {
                    Some(receipt) => topic.count_repeat(&mut self.known.tail, receipt),
                    None => self.store(&mut topic, fingerprints[position], event)?,
                };
                receipts[order[position]] = Some(receipt);
            }
            self.update_topic(name, topic)?;
            position += count;
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

    fn store(
        &mut self,
        topic: &mut TopicRow,
        fingerprint: u64,
        event: &EventRef<'_>,
    ) -> rusqlite::Result<Receipt> {
        topic.last_seq += 1;
        self.known.tail.last_offset += 1;
        self.known.tail.stored += 1;
        let row = EventRow {
            offset: self.known.tail.last_offset,
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
        self.added.insert(Entry { fingerprint, offset: row.offset });
        Ok(Receipt { outcome: Outcome::Stored, seq: Some(topic.last_seq), processed_at: self.now })
    }

    /// The receipt of an event whose identity is stored already.
    fn repeat(
        &mut self,
        key: Key<'_>,
        fingerprint: u64,
        hits: &[Hit],
        event: &EventRef<'_>,
    ) -> rusqlite::Result<Option<Receipt>> {
        let receipt = |same: bool, seq, processed_at| Receipt {
            outcome: if same { Outcome::Duplicate } else { Outcome::Conflict },
            seq,
            processed_at: Timestamp::from_micros(processed_at),
        };
        let mut compare = |offset| {
            self.originals.find(key, offset, |original| match original {
                Original::Event(first) => {
                    receipt(first.payload == event.payload(), Some(first.seq), first.processed_at)
                }
                Original::Stub(first) => {
                    // An identity that was imported alone has no digest, and any payload repeats it.
                    let same = first.digest.is_none_or(|kept| kept == digest(event.payload()));
                    receipt(same, first.seq, first.processed_at)
                }
            })
        };
        for offset in self.added.offsets(fingerprint) {
            if let Some(receipt) = compare(offset)? {
                return Ok(Some(receipt));
            }
        }
        for hit in hits {
            for offset in self.chunks.offsets(hit.place, fingerprint)? {
                if let Some(receipt) = compare(offset)? {
                    return Ok(Some(receipt));
                }
            }
        }
        Ok(None)
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
