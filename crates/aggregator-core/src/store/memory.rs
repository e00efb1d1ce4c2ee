//! The reference backend: everything in memory, nothing clever.

mod transfer;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cursor::Position;
use crate::event::{DEFAULT_SOURCE, digest, slot};
use crate::query::{Order, Page, Query, StoredEvent};
use crate::store::page::{Ends, Scan, Scanner, check_positions, merge};
use crate::store::{
    AttemptId, CommitCallback, DEFAULT_MAX_TOPICS, DedupStore, Durability, Import, Imported, Outcome,
    Receipt, RowLimit, Seen, StoreId, StoreInfo, StoreStats, TopicInfo, VerifyReport, announce,
    check_partition,
};
use crate::time::{Clock, system_clock};
use crate::{
    EventRef, Fault, Identity, InvalidField, Partition, Partitions, Record, Scope, Source, StoreError,
    Timestamp, Topic,
};

/// A volatile store: for tests, as the oracle the durable ones are held against, and for measuring
/// what durability costs. It grows with everything it ever stored.
pub struct MemoryStore {
    info: StoreInfo,
    clock: Clock,
    max_topics: u64,
    state: Mutex<State>,
    callbacks: Mutex<Vec<CommitCallback>>,
}

#[derive(Default)]
struct State {
    partitions: Vec<Rows>,
    topics: BTreeMap<Topic, TopicState>,
}

#[derive(Default)]
struct Rows {
    /// The row at offset `n` is `rows[n - 1]`.
    rows: Vec<Row>,
    seen: HashMap<Key, usize>,
    last_processed_at: Option<Timestamp>,
}

/// An identity: topic, event id, and the source where the topic's scope asks for it.
type Key = (String, String, String);

struct Row {
    /// What is not known of it any more is empty; so is the seq of an identity that was imported alone, 0.
    event: StoredEvent,
    left: Left,
}

/// What is left of a row's payload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Payload,
    /// It was purged.
    Digest([u8; 16]),
    /// It was never known.
    Nothing,
}

impl Row {
    fn has_payload(&self, payload: &str) -> bool {
        match &self.left {
            Left::Payload => self.event.payload == payload,
            Left::Digest(kept) => *kept == digest(payload),
            Left::Nothing => true,
        }
    }

    fn seq(&self) -> Option<u64> {
        (self.left != Left::Nothing).then_some(self.event.seq)
    }
}

#[derive(Clone, Copy)]
struct TopicState {
    scope: Scope,
    last_seq: u64,
    purged_seq: u64,
    purged_offset: u64,
    duplicates: u64,
    conflicts: u64,
}

impl TopicState {
    fn new(scope: Scope) -> Self {
        Self { scope, last_seq: 0, purged_seq: 0, purged_offset: 0, duplicates: 0, conflicts: 0 }
    }
}

impl MemoryStore {
    /// An empty store with this many partitions.
    pub fn new(partitions: Partitions) -> Self {
        let state = State {
            partitions: partitions.iter().map(|_| Rows::default()).collect(),
            topics: BTreeMap::new(),
        };
        Self {
            info: StoreInfo {
                kind: "memory",
                id: StoreId::new(),
                durability: Durability::Volatile,
                partitions,
                ancestors: Vec::new(),
            },
            clock: system_clock(),
            max_topics: DEFAULT_MAX_TOPICS,
            state: Mutex::new(state),
            callbacks: Mutex::default(),
        }
    }

    /// With another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// With another bound on the number of topics.
    #[must_use]
    pub fn with_max_topics(mut self, max_topics: u64) -> Self {
        self.max_topics = max_topics;
        self
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        self.state
            .lock()
            .map_err(|_| StoreError::Poisoned { reason: "a thread panicked inside the memory store".into() })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Partitions::ONE)
    }
}

impl State {
    /// Refuses the items whose topics would be too many.
    fn check_topics<'t>(
        &self,
        topics: impl Iterator<Item = &'t str>,
        max_topics: u64,
    ) -> Result<(), StoreError> {
        let mut new = std::collections::HashSet::new();
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

    fn append(&mut self, partition: Partition, now: Timestamp, event: &EventRef<'_>) -> Receipt {
        let rows = &mut self.partitions[usize::from(partition.0)];
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
                rows.rows.push(Row { event, left: Left::Payload });
                receipt
            }
        }
    }

    fn scan(&self, query: &Query, from: Position) -> Scan {
        let rows = &self.partitions[usize::from(from.partition.0)].rows;
        let mut scanner = Scanner::new(query, from);
        // An offset beyond what there is cannot be read yet; it is not an error.
        let at = usize::try_from(from.offset).unwrap_or(usize::MAX);
        let range: Box<dyn Iterator<Item = &Row>> = match query.order {
            Order::Ascending => Box::new(rows[at.min(rows.len())..].iter()),
            Order::Descending => Box::new(rows[..at.saturating_sub(1).min(rows.len())].iter().rev()),
        };
        for row in range {
            let event = &row.event;
            if row.left != Left::Payload || !query.topics.matches(&event.topic) {
                continue;
            }
            if scanner.is_full() || scanner.is_past(event.processed_at) {
                break;
            }
            let passes = query.admits(&event.event_id, &event.source, event.processed_at);
            scanner.looked_at(event.offset, passes.then(|| event.clone()));
        }
        scanner.finish()
    }

    fn find(&self, partitions: Partitions, id: &Identity) -> Option<&Row> {
        let topic = self.topics.get(&id.topic)?;
        let rows = &self.partitions[usize::from(partitions.of(id.topic.as_str()).0)];
        let source = id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str);
        let key = (
            id.topic.as_str().to_owned(),
            id.event_id.as_str().to_owned(),
            topic.scope.key(source).to_owned(),
        );
        rows.seen.get(&key).map(|&at| &rows.rows[at])
    }
}

/// The fault of an event that would bring one topic too many.
pub fn too_many_topics(max_topics: u64) -> InvalidField {
    InvalidField::new(
        "topic",
        format!(
            "would be a new one, and the store has its {max_topics} topics: use one of these or raise max_topics"
        ),
    )
}

impl DedupStore for MemoryStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }

    fn append(
        &self,
        partition: Partition,
        _attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        check_partition(self.info.partitions, partition, events.iter().map(EventRef::topic))?;
        let (receipts, last_offset) = {
            let mut state = self.state()?;
            state.check_topics(events.iter().map(EventRef::topic), self.max_topics)?;
            let rows = &mut state.partitions[usize::from(partition.0)];
            let now = rows.last_processed_at.unwrap_or(Timestamp::MIN).max((self.clock)());
            rows.last_processed_at = Some(now);
            let receipts: Vec<_> = events.iter().map(|event| state.append(partition, now, event)).collect();
            (receipts, state.partitions[usize::from(partition.0)].rows.len() as u64)
        };
        if receipts.iter().any(|receipt| receipt.outcome == Outcome::Stored) {
            announce(&self.callbacks, partition, last_offset);
        }
        Ok(receipts)
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        let mut positions = query.positions(&self.info)?;
        let state = self.state()?;
        check_positions(query, &self.info, &mut positions, |partition| {
            let purged = state.topics.iter().filter(|(topic, _)| {
                query.topics.matches(topic.as_str()) && self.info.partitions.of(topic.as_str()) == partition
            });
            let purged_offset = purged.map(|(_, topic)| topic.purged_offset).max().unwrap_or(0);
            let last_offset = state.partitions[usize::from(partition.0)].rows.len() as u64;
            Ok(Ends { purged_offset, last_offset })
        })?;
        let scans = positions.into_iter().map(|from| state.scan(query, from)).collect();
        Ok(merge(query, &self.info, scans))
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        let state = self.state()?;
        let seen = |row: &Row| Seen {
            seq: row.seq(),
            processed_at: row.event.processed_at,
            purged: row.left != Left::Payload,
        };
        Ok(ids.iter().map(|id| state.find(self.info.partitions, id).map(seen)).collect())
    }

    fn topics(&self, after: Option<&Topic>, limit: usize) -> Result<Vec<TopicInfo>, StoreError> {
        let state = self.state()?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let topics = state.topics.range::<Topic, _>((from, Bound::Unbounded)).take(limit);
        Ok(topics
            .map(|(name, topic)| TopicInfo {
                topic: name.clone(),
                scope: topic.scope,
                slot: slot(name.as_str()),
                last_seq: topic.last_seq,
                purged_seq: topic.purged_seq,
                duplicates: topic.duplicates,
                conflicts: topic.conflicts,
            })
            .collect())
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        let state = self.state()?;
        let mut stats = StoreStats { topics: state.topics.len() as u64, ..StoreStats::default() };
        for topic in state.topics.values() {
            stats.stored += topic.last_seq;
            stats.duplicates += topic.duplicates;
            stats.conflicts += topic.conflicts;
        }
        let row_bytes = |row: &Row| (size_of::<Row>() + row.event.payload.len()) as u64;
        stats.bytes = state.partitions.iter().flat_map(|rows| &rows.rows).map(row_bytes).sum();
        Ok(stats)
    }

    fn on_commit(&self, callback: CommitCallback) {
        self.callbacks.lock().unwrap_or_else(PoisonError::into_inner).push(callback);
    }

    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        let mut guard = self.state()?;
        let State { partitions, topics } = &mut *guard;
        let Some(state) = topics.get_mut(topic) else { return Ok(0) };
        let rows = &mut partitions[usize::from(self.info.partitions.of(topic.as_str()).0)].rows;
        let before = state.purged_seq;
        for row in rows.iter_mut().filter(|row| row.event.topic == topic.as_str()) {
            if (state.purged_seq + 1..=through_seq).contains(&row.event.seq) {
                row.left = Left::Digest(digest(&std::mem::take(&mut row.event.payload)));
                (state.purged_seq, state.purged_offset) = (row.event.seq, row.event.offset);
            }
        }
        Ok(state.purged_seq - before)
    }

    fn verify(&self) -> Result<VerifyReport, StoreError> {
        let state = self.state()?;
        let mut report = VerifyReport::default();
        for (name, topic) in &state.topics {
            let rows = &state.partitions[usize::from(self.info.partitions.of(name.as_str()).0)].rows;
            let seqs = rows.iter().filter(|row| row.event.topic == name.as_str()).filter_map(Row::seq);
            if !seqs.eq(1..=topic.last_seq) {
                report.faults.push(format!("the seqs of topic {name} are not dense"));
            }
        }
        for rows in &state.partitions {
            if rows.seen.len() != rows.rows.len() {
                report.faults.push(format!("{} identities for {} events", rows.seen.len(), rows.rows.len()));
            }
            let stubs = rows.rows.iter().filter(|row| row.left != Left::Payload).count() as u64;
            report.stubs += stubs;
            report.events += rows.rows.len() as u64 - stubs;
        }
        Ok(report)
    }

    fn rows(
        &self,
        partition: Partition,
        after: u64,
        limit: RowLimit,
    ) -> Result<Vec<(u64, Record)>, StoreError> {
        check_partition(self.info.partitions, partition, std::iter::empty())?;
        Ok(self.state()?.rows(partition, after, limit))
    }

    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError> {
        check_partition(self.info.partitions, partition, import.topic_names())?;
        let (imported, last_offset) = {
            let mut state = self.state()?;
            state.check_topics(import.topic_names(), self.max_topics)?;
            let imported = state.import(partition, import)?;
            (imported, state.partitions[usize::from(partition.0)].rows.len() as u64)
        };
        if imported.added > 0 {
            announce(&self.callbacks, partition, last_offset);
        }
        Ok(imported)
    }

    fn backup(&self, _path: &Path) -> Result<(), StoreError> {
        Err(StoreError::Unsupported { kind: self.info.kind, operation: "be backed up" })
    }
}
