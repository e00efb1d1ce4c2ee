//! The transaction of an append: looks each identity up, stores the new events, and makes the receipts.

use rusqlite::Transaction;

use super::Changing;
use super::by_topic::{ByTopic, TopicBatch};
use super::insert::Inserts;
use super::lookup_hint::LookupHint;
use super::recent_events::{NewEvent, RecentEvents};
use crate::event::{equals_digest, equals_payload};
use crate::store::sqlite::catalog::{Catalog, PartitionState, TopicRow};
use crate::store::sqlite::fault::TransactionError;
use crate::store::sqlite::index::{Candidate, ChunkReader, Index, IndexEntry, Memtable, Probe};
use crate::store::sqlite::journal::Journal;
use crate::store::sqlite::row::Key;
use crate::store::sqlite::row::checksum::EventRow;
use crate::store::sqlite::row::stored_identity::{StoredIdentities, StoredIdentity};
use crate::store::{Outcome, Receipt};
use crate::{EventRef, Timestamp};

impl TopicRow {
    fn key<'a>(&self, event: &EventRef<'a>) -> Key<'a> {
        Key { topic_id: self.id, event_id: event.event_id(), source: self.scope.key(event.source()) }
    }

    fn count_repeat(&mut self, partition: &mut PartitionState, receipt: Receipt) -> Receipt {
        let conflicts = u64::from(receipt.outcome == Outcome::Conflict);
        self.duplicates += 1;
        self.conflicts += conflicts;
        partition.duplicates += 1;
        partition.conflicts += conflicts;
        receipt
    }
}

/// The most recent events that are prefetched together before they are compared.
const MAX_PREFETCHED: usize = 64;

/// The candidates of all events, sorted by position.
struct CandidateQueue<'a> {
    rest: &'a [Candidate],
    /// How many candidates of `rest` are prefetched.
    prefetched: usize,
}

impl<'a> CandidateQueue<'a> {
    /// Takes the candidates of the next event, which is at `position`. Prefetches the recent events that they lead to, and
    /// those of the following candidates.
    fn take(&mut self, position: usize, recent_events: &RecentEvents) -> &'a [Candidate] {
        let count = self.rest.iter().take_while(|candidate| candidate.position == position).count();
        if count > self.prefetched {
            self.prefetched = self.rest.len().min(MAX_PREFETCHED);
            let rows = self.rest[..self.prefetched].iter().filter_map(|candidate| candidate.location.row());
            recent_events.prefetch(rows);
        }
        self.prefetched = self.prefetched.saturating_sub(count);
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        taken
    }
}

/// One append inside its transaction.
pub(crate) struct AppendTx<'c, 'k, 'e> {
    catalog: &'k mut Catalog,
    journal: &'k mut Journal,
    /// Gets the index entries of the events that are stored.
    added: &'k mut Memtable,
    /// The events stored so far; the first one has `first_offset`.
    stored: Vec<NewEvent<'e>>,
    first_offset: u64,
    index: &'k Index,
    recent_events: &'k RecentEvents,
    now: Timestamp,
    transaction: &'c Transaction<'c>,
    chunks: ChunkReader<'c>,
    stored_identities: StoredIdentities<'c>,
    inserts: Inserts<'c, 'e>,
}

impl<'c, 'k, 'e> AppendTx<'c, 'k, 'e> {
    pub(crate) fn new(
        transaction: &'c Transaction<'c>,
        Changing { catalog, journal, index, recent_events, added }: Changing<'k>,
        now: Timestamp,
    ) -> rusqlite::Result<Self> {
        added.clear();
        let first_offset = catalog.partition.last_offset + 1;
        Ok(Self {
            catalog,
            journal,
            added,
            stored: Vec::new(),
            first_offset,
            index,
            recent_events,
            now,
            transaction,
            chunks: ChunkReader::new(transaction)?,
            stored_identities: StoredIdentities::new(transaction)?,
            inserts: Inserts::new(transaction)?,
        })
    }

    /// Returns the receipts of `events`, and those events that were stored, in the order of their offsets. The caller has
    /// checked that there is room for their topics.
    pub(crate) fn append(
        mut self,
        events: &[EventRef<'e>],
        ByTopic { topics: batches, order, .. }: ByTopic<'e>,
    ) -> Result<(Vec<Receipt>, Vec<NewEvent<'e>>), TransactionError> {
        self.stored.reserve(events.len());
        let mut topics = Vec::with_capacity(batches.len());
        let mut keys = Vec::with_capacity(events.len());
        let mut probes = Vec::with_capacity(events.len());
        for TopicBatch { name, scope, count } in batches {
            let topic = self.catalog.topic(self.transaction, name, scope)?;
            for &index in &order[keys.len()..keys.len() + count] {
                let event = &events[index];
                let key = topic.key(event);
                probes.push(match LookupHint::of(event, self.index.owner()) {
                    Some(hint) => Probe::from(hint),
                    None => self.index.fingerprint(key).into(),
                });
                keys.push(key);
            }
            topics.push((name, topic, count));
        }
        let candidates = self.index.probe(&probes);
        let mut candidates = CandidateQueue { rest: &candidates, prefetched: 0 };

        let mut receipts = vec![None; events.len()];
        let mut position = 0;
        for (name, mut topic, count) in topics {
            let before = topic;
            for position in position..position + count {
                let of_event = candidates.take(position, self.recent_events);
                let (key, event) = (keys[position], &events[order[position]]);
                let fingerprint = probes[position].fingerprint;
                let receipt = match self.repeat(key, fingerprint, of_event, event.payload())? {
                    Some(receipt) => topic.count_repeat(&mut self.catalog.partition, receipt),
                    None => self.store(&mut topic, key, fingerprint, event)?,
                };
                receipts[order[position]] = Some(receipt);
            }
            let last_offset = self.catalog.partition.last_offset;
            self.journal.append(self.transaction, (name, &mut topic), &before, last_offset)?;
            self.catalog.put(topic);
            position += count;
        }
        self.inserts.flush()?;
        self.catalog.partition.last_processed_at = self.now.as_micros();
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
        self.catalog.partition.last_offset += 1;
        self.catalog.partition.stored += 1;
        let (offset, seq) = (self.catalog.partition.last_offset, topic.last_seq);
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
            released: false,
        })?;
        self.added.insert(IndexEntry { fingerprint, offset });
        self.stored.push(NewEvent { key, payload: event.payload(), seq });
        Ok(Receipt { outcome: Outcome::Stored, seq: Some(seq), processed_at: self.now })
    }

    /// The receipt of an event if its identity is stored already.
    fn repeat(
        &mut self,
        key: Key<'_>,
        fingerprint: u64,
        candidates: &[Candidate],
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
                let same = equals_payload(first.payload, payload);
                return Ok(Some(receipt(same, Some(first.seq), self.now)));
            }
        }
        let to_receipt = |stored: StoredIdentity<'_>| match stored {
            StoredIdentity::Event(first) => {
                let processed_at = Timestamp::from_micros(first.processed_at);
                receipt(equals_payload(first.payload, payload), Some(first.seq), processed_at)
            }
            StoredIdentity::Stub(first) => {
                // An identity that was imported alone has no digest, and any payload repeats it.
                let same = first.digest.is_none_or(|kept| equals_digest(kept, payload));
                receipt(same, first.seq, Timestamp::from_micros(first.processed_at))
            }
        };
        for candidate in candidates {
            for offset in self.chunks.offsets(self.index, candidate.location, fingerprint)? {
                if let Some(recent) = self.recent_events.get(offset) {
                    if recent.has_identity(key) {
                        let processed_at = Timestamp::from_micros(recent.processed_at);
                        return Ok(Some(receipt(
                            recent.has_payload(payload),
                            Some(recent.seq),
                            processed_at,
                        )));
                    }
                    continue;
                }
                if let Some(receipt) = self.stored_identities.find(key, offset, to_receipt)? {
                    return Ok(Some(receipt));
                }
            }
        }
        Ok(None)
    }
}
