//! What happens inside the transaction of an append.

use std::collections::HashSet;

use rusqlite::Transaction;

use super::by_topic::{ByTopic, Part};
use super::checksum::EventRow;
use super::index::{Chunks, Entry, Hit, Index, Key, Recent, Sought};
use super::insert::Inserts;
use super::known::{Known, Tail, TopicRow};
use super::latest::Latest;
use super::original::{Original, Originals};
use crate::event::{Ahead, digest};
use crate::store::memory::too_many_topics;
use crate::store::{Outcome, Receipt};
use crate::{EventRef, Fault, StoreError, Timestamp};

impl From<Ahead> for Sought {
    fn from(ahead: Ahead) -> Self {
        Self { fingerprint: ahead.fingerprint, absent_through: ahead.absent_through }
    }
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

/// Refuses the items whose topics would be too many.
pub(super) fn check_topics<'t>(
    known: &Known,
    topics: impl Iterator<Item = &'t str>,
    max_topics: u64,
) -> Result<(), Failure> {
    let mut new = HashSet::new();
    let mut faults = Vec::new();
    for (index, topic) in topics.enumerate() {
        if known.topics.contains_key(topic) || new.contains(topic) {
            continue;
        }
        if known.tail.topics + (new.len() as u64) < max_topics {
            new.insert(topic);
        } else {
            faults.push(Fault { index: Some(index), error: too_many_topics(max_topics) });
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Failure::Refused(faults)) }
}

/// How many of the newest rows are fetched together, to be compared.
const TOGETHER: usize = 64;

/// An event of the append at hand.
#[derive(Clone, Copy)]
pub(super) struct Stored<'e> {
    pub(super) key: Key<'e>,
    pub(super) payload: &'e str,
    pub(super) seq: u64,
}

/// One append: its statements and what it has to know, inside one transaction.
pub(super) struct Group<'c, 'k, 'e> {
    known: &'k mut Known,
    /// Where the entries of what is stored go.
    added: &'k mut Recent,
    /// What was stored so far, from the first offset on that was free.
    stored: Vec<Stored<'e>>,
    first_offset: u64,
    index: &'k Index,
    latest: &'k Latest,
    now: Timestamp,
    transaction: &'c Transaction<'c>,
    chunks: Chunks<'c>,
    originals: Originals<'c>,
    inserts: Inserts<'c, 'e>,
}

impl<'c, 'k, 'e> Group<'c, 'k, 'e> {
    pub(super) fn new(
        transaction: &'c Transaction<'c>,
        known: &'k mut Known,
        index: &'k Index,
        latest: &'k Latest,
        added: &'k mut Recent,
        now: Timestamp,
    ) -> rusqlite::Result<Self> {
        added.clear();
        let first_offset = known.tail.last_offset + 1;
        Ok(Self {
            known,
            added,
            stored: Vec::new(),
            first_offset,
            index,
            latest,
            now,
            transaction,
            chunks: Chunks::new(transaction)?,
            originals: Originals::new(transaction)?,
            inserts: Inserts::new(transaction)?,
        })
    }

    /// The receipts of `events`, whose topics there is room for, and what was stored of them, in the order of
    /// its offsets.
    pub(super) fn append(
        mut self,
        events: &[EventRef<'e>],
        ByTopic { topics: parts, order, .. }: ByTopic<'e>,
    ) -> Result<(Vec<Receipt>, Vec<Stored<'e>>), Failure> {
        self.stored.reserve(events.len());
        let mut topics = Vec::with_capacity(parts.len());
        let mut keys = Vec::with_capacity(events.len());
        let mut sought = Vec::with_capacity(events.len());
        for Part { name, scope, count } in parts {
            let topic = self.known.topic(self.transaction, name, scope)?;
            for &index in &order[keys.len()..keys.len() + count] {
                let event = &events[index];
                let key = topic.key(event);
                sought.push(match event.ahead(self.index.number()) {
                    Some(ahead) => Sought::from(ahead),
                    None => self.index.fingerprint(key).into(),
                });
                keys.push(key);
            }
            topics.push((name, topic, count));
        }
        let hits = self.index.probe(&sought);
        let mut hits = hits.as_slice();

        let mut receipts = vec![None; events.len()];
        let mut position = 0;
        let mut fetched = 0;
        for (name, mut topic, count) in topics {
            let before = self.known.tail.last_offset;
            for position in position..position + count {
                let of_event = hits.iter().take_while(|hit| hit.position == position).count();
                if of_event > fetched {
                    fetched = hits.len().min(TOGETHER);
                    self.latest.fetch(hits[..fetched].iter().filter_map(|hit| hit.place.row()));
                }
                fetched = fetched.saturating_sub(of_event);
                let (of_event, after) = hits.split_at(of_event);
                hits = after;
                let (key, event) = (keys[position], &events[order[position]]);
                let fingerprint = sought[position].fingerprint;
                let receipt = match self.repeat(key, fingerprint, of_event, event.payload())? {
                    Some(receipt) => topic.count_repeat(&mut self.known.tail, receipt),
                    None => self.store(&mut topic, key, fingerprint, event)?,
                };
                receipts[order[position]] = Some(receipt);
            }
            if self.known.tail.last_offset > before {
                topic.extend(self.transaction, before + 1, self.known.tail.last_offset)?;
            }
            topic.update(self.transaction, name)?;
            match self.known.topics.get_mut(name) {
                Some(known) => *known = topic,
                None => drop(self.known.topics.insert(name.into(), topic)),
            }
            position += count;
        }
        self.inserts.flush()?;
        self.known.tail.last_processed_at = self.now.as_micros();
        self.known.tail.write(self.transaction)?;
        let receipts = receipts.into_iter().map(|receipt| receipt.expect("every event is in one topic"));
        Ok((receipts.collect(), self.stored))
    }

    fn store(
        &mut self,
        topic: &mut TopicRow,
        key: Key<'e>,
        fingerprint: u64,
        event: &EventRef<'e>,
    ) -> rusqlite::Result<Receipt> {
        topic.last_seq += 1;
        self.known.tail.last_offset += 1;
        self.known.tail.stored += 1;
        let (offset, seq) = (self.known.tail.last_offset, topic.last_seq);
        self.inserts.push(EventRow {
            offset,
            topic_id: topic.id,
            seq,
            event_id: event.event_id(),
            timestamp: event.timestamp(),
            source: event.source(),
            payload: event.payload(),
            sequence: event.sequence(),
            content_type: event.content_type(),
            attributes: event.attributes(),
            processed_at: self.now.as_micros(),
        })?;
        self.added.insert(Entry { fingerprint, offset });
        self.stored.push(Stored { key, payload: event.payload(), seq });
        Ok(Receipt { outcome: Outcome::Stored, seq: Some(seq), processed_at: self.now })
    }

    /// The receipt of an event whose identity is stored already.
    fn repeat(
        &mut self,
        key: Key<'_>,
        fingerprint: u64,
        hits: &[Hit],
        payload: &str,
    ) -> rusqlite::Result<Option<Receipt>> {
        let receipt = |same: bool, seq, processed_at| Receipt {
            outcome: if same { Outcome::Duplicate } else { Outcome::Conflict },
            seq,
            processed_at,
        };
        for offset in self.added.offsets(fingerprint) {
            let at = usize::try_from(offset - self.first_offset).expect("it is one of the batch at hand");
            let first = self.stored[at];
            if first.key == key {
                return Ok(Some(receipt(first.payload == payload, Some(first.seq), self.now)));
            }
        }
        let tell = |original: Original<'_>| match original {
            Original::Event(first) => {
                let processed_at = Timestamp::from_micros(first.processed_at);
                receipt(first.payload == payload, Some(first.seq), processed_at)
            }
            Original::Stub(first) => {
                // An identity that was imported alone has no digest, and any payload repeats it.
                let same = first.digest.is_none_or(|kept| kept == digest(payload));
                receipt(same, first.seq, Timestamp::from_micros(first.processed_at))
            }
        };
        for hit in hits {
            for offset in self.chunks.offsets(self.index, hit.place, fingerprint)? {
                if let Some(latest) = self.latest.get(offset) {
                    if latest.is(key) {
                        let processed_at = Timestamp::from_micros(latest.processed_at);
                        return Ok(Some(receipt(
                            latest.has_payload(payload),
                            Some(latest.seq),
                            processed_at,
                        )));
                    }
                    continue;
                }
                if let Some(receipt) = self.originals.find(key, offset, tell)? {
                    return Ok(Some(receipt));
                }
            }
        }
        Ok(None)
    }
}
