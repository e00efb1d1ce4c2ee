//! The contents of a memory store, and how they change while the store is locked.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::records::RecordTable;
use super::too_many_topics;
use crate::cursor::{Anchor, Position};
use crate::event::{DEFAULT_SOURCE, equals_digest, equals_payload};
use crate::query::{Order, Query, StoredEvent};
use crate::store::page::{Ends, Scan, Scanner};
use crate::store::{Outcome, Receipt};
use crate::{
    Deadline, EventRef, Fault, Identity, Partition, Partitions, Scope, Source, StoreError, Timestamp, Topic,
};

#[derive(Default)]
pub(super) struct State {
    pub(super) partitions: Vec<Rows>,
    pub(super) topics: BTreeMap<Topic, TopicState>,
    pub(super) records: RecordTable,
}

#[derive(Default)]
pub(super) struct Rows {
    /// The row at offset `n` is `rows[n - 1]`.
    pub(super) rows: Vec<Row>,
    /// Where the row is whose identity it is.
    pub(super) seen: HashMap<Key, usize>,
    /// Where the rows are whose identity it was before it was released.
    pub(super) released: HashMap<Key, Vec<usize>>,
    pub(super) last_processed_at: Option<Timestamp>,
}

/// An identity: topic, event id, and the source where the topic's scope asks for it.
pub(super) type Key = (String, String, String);

pub(super) struct Row {
    /// Fields that are no longer known are empty. The seq of an identity that was imported alone is 0.
    pub(super) event: StoredEvent,
    pub(super) left: Left,
    pub(super) released: bool,
}

/// What is left of a row's payload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Payload,
    /// It was purged.
    Digest([u8; 16]),
    /// It was never known.
    Nothing,
    /// The whole row was forgotten. Its topic, seq, time and offset stay.
    Forgotten,
}

impl Row {
    pub(super) fn has_payload(&self, payload: &str) -> bool {
        match &self.left {
            Left::Payload => equals_payload(&self.event.payload, payload),
            Left::Digest(kept) => equals_digest(*kept, payload),
            Left::Nothing => true,
            Left::Forgotten => false,
        }
    }

    pub(super) fn anchor(&self) -> Anchor {
        let event = &self.event;
        Anchor::new(event.partition, event.offset, &event.topic, self.seq(), &event.event_id)
    }

    pub(super) fn seq(&self) -> Option<u64> {
        (self.left != Left::Nothing).then_some(self.event.seq)
    }
}

#[derive(Clone, Copy)]
pub(super) struct TopicState {
    pub(super) scope: Scope,
    pub(super) last_seq: u64,
    pub(super) purged_seq: u64,
    pub(super) purged_offset: u64,
    /// The last row that was forgotten.
    pub(super) forgotten: Option<Forgotten>,
    pub(super) duplicates: u64,
    pub(super) conflicts: u64,
    /// That of the oldest event that still has its payload.
    pub(super) first_processed_at: Option<Timestamp>,
    pub(super) last_processed_at: Option<Timestamp>,
}

/// The mark that stands for the forgotten rows of a topic.
#[derive(Clone, Copy)]
pub(super) struct Forgotten {
    pub(super) offset: u64,
    /// The seq of the last forgotten event, and its time.
    pub(super) seq: u64,
    pub(super) processed_at: Timestamp,
}

impl TopicState {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scope,
            last_seq: 0,
            purged_seq: 0,
            purged_offset: 0,
            forgotten: None,
            duplicates: 0,
            conflicts: 0,
            first_processed_at: None,
            last_processed_at: None,
        }
    }

    /// Notes when an event or a stub of the topic was stored, which is its newest one.
    pub(super) fn stored_at(&mut self, processed_at: Timestamp, left: Left) {
        self.last_processed_at = Some(processed_at);
        if left == Left::Payload {
            self.first_processed_at.get_or_insert(processed_at);
        }
    }
}

impl State {
    /// Refuses the items whose new topics would be more than `max_topics`.
    pub(super) fn check_topics<'t>(
        &self,
        topics: impl Iterator<Item = &'t str>,
        max_topics: u64,
    ) -> Result<(), StoreError> {
        let mut new = HashSet::new();
        let room = usize::try_from(max_topics).unwrap_or(usize::MAX).saturating_sub(self.topics.len());
        let mut faults = Vec::new();
        for (index, topic) in topics.enumerate() {
            let known = new.contains(topic)
                || self.topics.contains_key(
                    &Topic::new(topic)
                        .map_err(|error| StoreError::Invalid(vec![Fault { index: Some(index), error }]))?,
                );
            if known {
                continue;
            }
            if new.len() < room {
                new.insert(topic);
            } else {
                faults.push(Fault { index: Some(index), error: too_many_topics(max_topics) });
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(StoreError::Invalid(faults)) }
    }

    /// Appends an event. Its time is `clock`, or that of the partition's last append if that is later.
    pub(super) fn append(&mut self, partition: Partition, clock: Timestamp, event: &EventRef<'_>) -> Receipt {
        let rows = &mut self.partitions[usize::from(partition.0)];
        let now = rows.last_processed_at.map_or(clock, |last| last.max(clock));
        rows.last_processed_at = Some(now);
        let name = Topic::new(event.topic()).expect("an event's topic was checked");
        let topic = self.topics.entry(name).or_insert_with(|| TopicState::new(event.scope()));
        let key = (
            event.topic().to_owned(),
            event.event_id().to_owned(),
            topic.scope.key(event.source()).to_owned(),
        );
        match rows.seen.entry(key) {
            Entry::Occupied(seen) => {
                let first = &rows.rows[*seen.get()];
                topic.duplicates += 1;
                let outcome = if first.has_payload(event.payload()) {
                    Outcome::Duplicate
                } else {
                    topic.conflicts += 1;
                    Outcome::Conflict
                };
                Receipt { outcome, seq: first.seq(), processed_at: first.event.processed_at }
            }
            Entry::Vacant(unseen) => {
                topic.last_seq += 1;
                topic.stored_at(now, Left::Payload);
                unseen.insert(rows.rows.len());
                let event = StoredEvent {
                    topic: event.topic().to_owned(),
                    event_id: event.event_id().to_owned(),
                    timestamp: event.timestamp().to_owned(),
                    source: event.source().to_owned(),
                    payload: event.payload().to_owned(),
                    sequence: event.sequence(),
                    content_type: event.content_type().map(str::to_owned),
                    attributes: event.attributes().map(str::to_owned),
                    seq: topic.last_seq,
                    processed_at: now,
                    partition,
                    offset: rows.rows.len() as u64 + 1,
                };
                let receipt = Receipt { outcome: Outcome::Stored, seq: Some(event.seq), processed_at: now };
                rows.rows.push(Row { event, left: Left::Payload, released: false });
                receipt
            }
        }
    }

    pub(super) fn ends(&self, partitions: Partitions, query: &Query, position: Position) -> Ends {
        let purged = self.topics.iter().filter(|(topic, _)| {
            query.topics.matches(topic.as_str()) && partitions.of(topic.as_str()) == position.partition
        });
        let purged_offset = purged.map(|(_, topic)| topic.purged_offset).max().unwrap_or(0);
        let rows = &self.partitions[usize::from(position.partition.0)].rows;
        let last_offset = rows.len() as u64;
        let at = position.anchor_offset(last_offset).and_then(|offset| usize::try_from(offset).ok());
        let anchor = at.map(|at| &rows[at - 1]).filter(|row| row.left != Left::Forgotten).map(Row::anchor);
        let newest = rows.last().map_or(Anchor::NONE, Row::anchor);
        Ends { purged_offset, newest, anchor: anchor.map(|anchor| anchor.fingerprint) }
    }

    pub(super) fn scan(&self, query: &Query, from: Position) -> Result<Scan, StoreError> {
        // The scanner does not count rows of other topics, and there can be any number of them.
        const CHECK_EVERY: usize = 1_000;
        let rows = &self.partitions[usize::from(from.partition.0)].rows;
        let mut scanner = Scanner::new(query, from);
        // An offset beyond what there is cannot be read yet; it is not an error.
        let at = usize::try_from(from.offset).unwrap_or(usize::MAX);
        let range: Box<dyn Iterator<Item = &Row>> = match query.order {
            Order::Ascending => Box::new(rows[at.min(rows.len())..].iter()),
            Order::Descending => Box::new(rows[..at.saturating_sub(1).min(rows.len())].iter().rev()),
        };
        for (looked_at, row) in range.enumerate() {
            if looked_at.is_multiple_of(CHECK_EVERY) {
                Deadline::check("reading events")?;
            }
            let event = &row.event;
            if row.left != Left::Payload || !query.topics.matches(&event.topic) {
                continue;
            }
            if scanner.is_full() || scanner.is_past(event.processed_at) {
                break;
            }
            if query.begins_behind(event.processed_at) {
                continue;
            }
            let passes = query.admits(&event.event_id, &event.source, event.processed_at);
            scanner.looked_at(row.anchor(), passes.then(|| event.clone()));
        }
        Ok(scanner.finish())
    }

    pub(super) fn find(&self, partitions: Partitions, id: &Identity) -> Option<&Row> {
        let (partition, key) = self.key(partitions, id)?;
        let rows = &self.partitions[usize::from(partition.0)];
        rows.seen.get(&key).map(|&at| &rows.rows[at])
    }

    /// The identity as its topic's scope has it, and its partition. `None` if there is no such topic.
    pub(super) fn key(&self, partitions: Partitions, id: &Identity) -> Option<(Partition, Key)> {
        let topic = self.topics.get(&id.topic)?;
        let source = id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str);
        let key = (
            id.topic.as_str().to_owned(),
            id.event_id.as_str().to_owned(),
            topic.scope.key(source).to_owned(),
        );
        Some((partitions.of(id.topic.as_str()), key))
    }
}
